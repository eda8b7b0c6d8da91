"""Whether people wait longer for their answers while a training runs on the same processors.

The training is a real one, started as the loop starts it; a second one does not stand back, and
shows what that is worth.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from bench.channels import solemate
from bench.crowd import Crowd, crowd
from bench.delivery import MIX
from bench.expert import Expert
from bench.figures import Figure, Goal, percentile
from bench.loopback import in_child
from bench.model_server import embedded_server
from bench.training_run import frozen, some_pairs
from training.launchers import PID, LocalLauncher, number_in
from training.llamafactory import run_llamafactory
from training.progress import TrainingProgress
from training.train import plan_training

PART = "beside a training"
_MOST = 1.1
_RATE = 1.0
_AT_A_TIME = 8
_PATIENCE_SECONDS = 60.0
_PAIRS = 64
# It is stopped when the answers are there.
_ENDLESS_STEPS = 1_000_000


async def measure(expert: Expert) -> list[Figure]:
    """How much longer the slowest twentieth waits; nothing where no training is measured."""
    if not expert.effort.training_steps:
        return []
    nice = expert.settings.training.nice
    async with (
        embedded_server(expert) as model_url,
        crowd() as people,
        in_child(partial(solemate, replace(expert), people.platforms, model_url)) as address,
    ):
        await _seconds(people, address, expert.some_questions(expert.effort.warm_up))
        without, beside = await _in_turns(expert, people, address, nice)
        without_too, greedy = await _in_turns(expert, people, address, 0)
    ratio, control = _more(beside, without), _more(greedy, without_too)
    return [
        Figure(PART, "an answer, p95, without a training", 1000 * _slow(without), "ms"),
        Figure(PART, "an answer, p95, with one", 1000 * _slow(beside), "ms"),
        Figure(PART, "with / without", ratio, "×", Goal(_MOST)),
        Figure(PART, "with one that does not stand back / without", control, "×"),
    ]


async def _in_turns(
    expert: Expert, people: Crowd, address: str, niceness: int
) -> tuple[list[float], list[float]]:
    """The seconds that people wait while a training is held and while it goes on.

    It is held and let go on every few questions, and each is asked in both, so that what else
    changes on the machine weighs on both alike.
    """
    turns = 2 * expert.effort.few
    questions = expert.some_questions(turns * _AT_A_TIME)
    held: list[float] = []
    going_on: list[float] = []
    async with _training(expert, niceness) as leader:
        for turn in range(turns):
            asked = questions[turn::turns]
            os.killpg(leader, signal.SIGSTOP)
            try:
                held += await _seconds(people, address, asked)
            finally:
                os.killpg(leader, signal.SIGCONT)
            going_on += await _seconds(people, address, asked)
    return held, going_on


async def _seconds(people: Crowd, address: str, questions: Sequence[str]) -> list[float]:
    """How long people on all channels wait for the answers, one asking every second."""
    asking = people.people(questions, MIX)
    outcome = await people.ask(asking, address, rate=_RATE, patience_seconds=_PATIENCE_SECONDS)
    assert not outcome.lost, f"{outcome.lost} of {len(questions)} were not answered"
    return outcome.seconds


def _more(beside: Sequence[float], without: Sequence[float]) -> float:
    return _slow(beside) / _slow(without)


def _slow(seconds: Sequence[float]) -> float:
    return percentile(seconds, 0.95)


@asynccontextmanager
async def _training(expert: Expert, niceness: int) -> AsyncIterator[int]:
    """A training that is at its steps while this is open; its process group."""
    folder = expert.folder / f"beside-{niceness}"
    data = await asyncio.to_thread(frozen, expert, some_pairs(_PAIRS), folder / "datasets")
    plan = plan_training(
        "dpo",
        folder,
        datetime.now(UTC),
        model=str(expert.model),
        frozen=data.folder,
        folder=folder / "run",
    )
    begun = asyncio.Event()

    def hear(progress: TrainingProgress) -> None:
        if progress.steps:
            begun.set()

    keys = {**plan.keys, "max_steps": _ENDLESS_STEPS}
    running = asyncio.create_task(
        run_llamafactory(
            plan.command,
            keys,
            plan.folder,
            hear,
            program=plan.program,
            launcher=LocalLauncher(niceness),
        )
    )
    try:
        at_work = asyncio.create_task(begun.wait())
        await asyncio.wait({running, at_work}, return_when=asyncio.FIRST_COMPLETED)
        at_work.cancel()
        if running.done():
            await running
        leader = number_in(plan.folder / PID)
        assert leader is not None
        yield leader
        assert not running.done(), "the training was over before the answers were"
    finally:
        running.cancel()
        await asyncio.wait({running})
