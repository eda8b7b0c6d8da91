"""Errands: what has to be done soon, and nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger()

PARTING_SECONDS = 5.0


class Errands:
    """Runs them; what fails is logged and stops nothing."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run errands while the block runs; at its end they have a few seconds left."""
        try:
            yield
        finally:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=PARTING_SECONDS)
            for task in self._tasks:
                task.cancel()
            await self.finished()

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        """Start one."""
        task = asyncio.create_task(self._logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finished(self) -> None:
        """Wait until none is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _logged(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        # The outermost handler: nobody waits who could be told.
        except Exception:
            log.exception("errand_failed")
