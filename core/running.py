"""Runs a command's asynchronous work, also to its end when the program is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 1.0
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What nobody has changed: Python itself turns Ctrl-C into an exception.
_UNCHANGED = (signal.SIG_DFL, signal.default_int_handler)


def run(work: Coroutine[Any, Any, T], *, parent: int | None = None) -> T:
    """Do the work; its result. With a `parent` it ends when that process is gone.

    Ctrl-C, SIGTERM and a terminal that is closed end it: what it has opened is closed, child
    processes with it. Then the process exits with 128 and the signal's number, as shells say it.
    Ctrl-C while that goes on ends everything at once.
    """
    received: list[int] = []
    # What is ignored, as nohup has it, stays ignored.
    ours = {one: how for one in _ENDINGS if (how := signal.getsignal(one)) in _UNCHANGED}
    try:
        return asyncio.run(_stoppable(work, received, ours, parent))
    except asyncio.CancelledError:
        if not received:
            raise
        sys.exit(128 + received[0])


async def _stop_without(parent: int) -> None:
    """Tell this process to stop when its parent is gone: a killed one could not do it."""
    while os.getppid() == parent:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def end_at_once(number: int) -> NoReturn:
    """End this process and all it has started, as if it had been killed: nothing is closed."""
    for child in _children():
        with suppress(ProcessLookupError):
            leads = os.getpgid(child) == child
            (os.killpg if leads else os.kill)(child, signal.SIGKILL)
    os._exit(128 + number)


def _children() -> list[int]:
    """The processes that this one has started, where the system lists them: on Linux."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


async def _stoppable(
    work: Coroutine[Any, Any, T],
    received: list[int],
    ours: Mapping[signal.Signals, Any],
    parent: int | None,
) -> T:
    """Do the work; the first signal cancels it, and is noted."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) == 1:
            loop.call_soon_threadsafe(task.cancel)
        elif number == signal.SIGINT:
            end_at_once(number)

    for number in ours:
        signal.signal(number, stop)
    watching = None if parent is None else asyncio.create_task(_stop_without(parent))
    try:
        return await work
    finally:
        if watching is not None:
            watching.cancel()
        # Whoever was told to stop ends now: only Ctrl-C cuts that short.
        for number, usual in () if received else ours.items():
            signal.signal(number, usual)
