"""Runs a command's asynchronous work, also to its end when the program is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do the work; its result.

    SIGTERM and a terminal that is closed end it as Ctrl-C does: what it has opened is closed, child
    processes with it. Then the process exits with 128 and the signal's number, as shells say it.
    """
    received: list[int] = []
    try:
        return asyncio.run(_stoppable(work, received))
    except asyncio.CancelledError:
        if not received:
            raise
        sys.exit(128 + received[0])


async def _stoppable(work: Coroutine[Any, Any, T], received: list[int]) -> T:
    """Do the work; the first signal cancels it, and is noted."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) == 1:
            loop.call_soon_threadsafe(task.cancel)

    # What is ignored, as nohup has it, stays ignored.
    ours = [one for one in _ENDINGS if signal.getsignal(one) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        return await work
    finally:
        # Whoever was told to stop ends now: being told so again must not cut that short.
        for number in () if received else ours:
            signal.signal(number, signal.SIG_DFL)
