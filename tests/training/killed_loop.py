"""A loop in a process that kills itself, its trainer or both, at the point that it is told.

Reads orders, one a line: what to do, who is killed, and at which point (0: nobody). Each is done by
a child, so that the slow imports are done once; then its exit status and points are printed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
from sqlalchemy.engine import Connection

from core.openai_model import OpenAIChatModel
from core.settings import load_settings
from core.store import Store
from training import loop as loop_module
from training.commands import adapters as adapter_commands
from training.gate import GateFigure, GateResult
from training.lease import Lease
from training.loop import open_loop
from training.pair_rules import open_rules
from training.progress import TrainingProgress
from training.runs import Run
from training.steps import Steps

T = TypeVar("T")
# Only what is done within counts: what else goes on comes at moments of its own.
_counting: ContextVar[bool] = ContextVar("counting", default=False)


class Points:
    """Counts the points that are passed, and kills at one of them."""

    def __init__(self, whom: str, at: int, state: Path) -> None:
        self.whom = whom
        self.at = at
        self.state = state
        self.passed = 0

    def __call__(self) -> None:
        if not _counting.get():
            return
        self.passed += 1
        (self.state / "points").write_text(str(self.passed))
        if self.passed != self.at:
            return
        if self.whom in ("trainer", "both"):
            for process in jobs_in(self.state):
                with suppress(psutil.Error):
                    process.kill()
        if self.whom in ("runner", "both"):
            os.kill(os.getpid(), signal.SIGKILL)


def jobs_in(state: Path) -> list[psutil.Process]:
    """The living processes of trainings in this folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get("SOLEMATE_JOB", "").startswith(str(state))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def pass_points(points: Points) -> None:
    """Have every transaction and every word with a model server be a point, before and after."""
    of_store = Store.run

    async def run(store: Store, work: Callable[[Connection], T], *words: Any) -> T:
        points()
        done = await of_store(store, work, *words)
        points()
        return done

    Store.run = run  # type: ignore[method-assign, assignment]
    for name in ("load_adapter", "unload_adapter", "models"):
        setattr(OpenAIChatModel, name, _between(points, getattr(OpenAIChatModel, name)))
    stream = OpenAIChatModel.stream

    async def streamed(*words: Any) -> AsyncIterator[Any]:
        points()
        async for piece in stream(*words):
            yield piece
        points()

    OpenAIChatModel.stream = streamed  # type: ignore[method-assign, assignment]


def _between(points: Points, asked: Callable[..., Any]) -> Callable[..., Any]:
    async def between(*words: Any) -> Any:
        points()
        done = await asked(*words)
        points()
        return done

    return between


async def passes(run: Run) -> GateResult:
    """A gate without a doubt."""
    return GateResult((GateFigure("test", 1.0, "= 1", True),))


async def lead(points: Points) -> None:
    """Lead the newest run to its end."""
    settings = load_settings()
    advance = Steps.advance

    async def counted(steps: Steps, run: Run) -> Run:
        _counting.set(True)
        try:
            return await advance(steps, run)
        finally:
            _counting.set(False)

    Steps.advance = counted  # type: ignore[method-assign]
    # A killed leader's lease has to run out first.
    loop_module.Lease = partial(Lease, seconds=1.0)  # type: ignore[misc, assignment]

    def hear(run: Run, progress: TrainingProgress) -> None:
        points()

    async with (
        Store(settings.database.address, exclusive=False) as store,
        open_rules(settings, regenerate=False) as rules,
    ):
        loop = open_loop(settings, store, rules, passes, on_progress=hear)
        led = asyncio.create_task(loop.schedule.run())
        while True:
            (run, *_) = await loop.runs.all()
            if run.ended:
                break
            await asyncio.sleep(0.05)
        led.cancel()
        await asyncio.gather(led, return_exceptions=True)


async def promote(points: Points, name: str) -> None:
    """What `solemate adapters promote NAME` does."""
    _counting.set(True)
    await adapter_commands._promote(load_settings(), name, "test")


def main() -> None:
    state = load_settings().state
    for order in sys.stdin:
        what, whom, at = order.split()
        child = os.fork()
        if not child:
            points = Points(whom, int(at), state)
            pass_points(points)
            asyncio.run(lead(points) if what == "lead" else promote(points, what))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        passed = (state / "points").read_text()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)} {passed}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
