"""What a run of the loop costs beyond a bare `llamafactory-cli train` with the same recipe."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.expert import Expert
from bench.figures import Figure, Goal, median
from core.messages import ChatMessage
from core.settings import ROOT
from core.store import Store
from training.dataset import FreezeRules, Frozen, RunStage, freeze_pairs, load_anchors
from training.launchers import LocalLauncher
from training.llamafactory import write_recipe
from training.loop import ANCHORS, plan_run
from training.pairs import Origin, PairState, PreferencePair, save
from training.rows import DpoRow
from training.runs import Run, Runs, RunState
from training.steps import Limits, Release, Steps
from training.tokens import token_counter
from training.train import TrainingPlan

_PART = "training run"
_MOST = 1.05


async def measure(expert: Expert) -> list[Figure]:
    """Wall time of the same recipe on the same pairs, one after the other in turns."""
    steps = expert.effort.training_steps
    if not steps:
        return []
    bare, ours = [], []
    for turn in range(max(1, expert.effort.few // 2)):
        folder = expert.folder / f"training-{turn}"
        run_seconds, plan = await _our_run(expert, folder, steps)
        ours.append(run_seconds)
        bare.append(await _bare(plan, folder / "bare"))
    return [
        Figure(_PART, "llamafactory-cli train, bare", median(bare), "s"),
        Figure(_PART, "a run, from the pool to the gate", median(ours), "s"),
        Figure(_PART, "run / bare", median(ours) / median(bare), "×", Goal(_MOST)),
    ]


async def _our_run(expert: Expert, folder: Path, steps: int) -> tuple[float, TrainingPlan]:
    """Seconds from the beginning of a run until its gate would be asked, and what it did."""
    settings, pairs = expert.settings, some_pairs(8 * steps)
    planned: list[TrainingPlan] = []

    async def freeze(stage: RunStage, recipe: str) -> Frozen:
        return await asyncio.to_thread(frozen, expert, pairs, folder / "datasets")

    def plan(run: Run, frozen: Frozen) -> TrainingPlan:
        made = plan_run(settings, run, frozen)
        keys = {**made.keys, "model_name_or_path": str(expert.model), "max_steps": steps}
        planned.append(replace(made, keys=keys))
        return planned[-1]

    async with Store(f"sqlite:///{folder / 'runs.db'}") as store:
        now = time.time()
        await store.run(lambda connection: [save(connection, pair, now) for pair in pairs])
        runs = Runs(store, folder / "runs")
        steps_of_run = Steps(
            runs,
            LocalLauncher(),
            _nobody(),
            freeze=freeze,
            plan=plan,
            datasets=folder / "datasets",
            limits=Limits(timeout_seconds=3600.0, stall_seconds=600.0, attempts=1),
        )
        begun = time.monotonic()
        run = await runs.start("dpo", "embedded", why="bench", who="bench", seen=0, now=now)
        assert run is not None
        while run.state is not RunState.EVALUATING:
            run = await steps_of_run.advance(run)
            assert not run.ended, run.problem
        return time.monotonic() - begun, planned[-1]


async def _bare(plan: TrainingPlan, folder: Path) -> float:
    """Seconds of the same training without us."""
    keys = {**plan.keys, "output_dir": str(folder / "adapter")}
    plan = replace(plan, keys=keys, folder=folder)
    write_recipe(plan.command, keys, folder)
    begun = time.monotonic()
    with (folder / "train.log").open("wb") as words:
        child = await asyncio.create_subprocess_exec(
            *plan.command_line, stdout=words, stderr=subprocess.STDOUT, cwd=ROOT
        )
        assert await child.wait() == 0
    return time.monotonic() - begun


def some_pairs(number: int) -> list[PreferencePair]:
    """So many of the shipped pairs, as if people had made them."""
    return [_pair(place, row) for place, row in enumerate(load_anchors(ANCHORS)[:number])]


def frozen(expert: Expert, pairs: Sequence[PreferencePair], folder: Path) -> Frozen:
    """A dataset of all these pairs."""
    rules = FreezeRules(cutoff_len=expert.settings.model.context_tokens, held_out=0.0, replay=0.0)
    return freeze_pairs(pairs, (), rules, token_counter(expert.settings), folder)


def _nobody() -> Release:
    """No gate and nobody after it: the run is left where they would begin."""

    async def never(run: Run) -> None:
        raise AssertionError(run.state)

    return Release(never, never, never, never, never)  # type: ignore[arg-type]


def _pair(number: int, row: DpoRow) -> PreferencePair:
    system = [ChatMessage("system", row.system)] if row.system else []
    return PreferencePair(
        id=f"bench-{number}",
        reply_id=f"bench-{number}",
        user_id=f"person-{number}",
        conversation_id="",
        origin=Origin.IMPORTED,
        prompt=(*system, ChatMessage("user", row.prompt)),
        passages=(),
        chosen=row.chosen,
        rejected=row.rejected,
        adapter="",
        language="en",
        reason=None,
        state=PairState.ACCEPTED,
        refusal="",
        accepted_by=(),
        created_at=0.0,
    )
