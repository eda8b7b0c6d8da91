"""All transactions of a database, one after the other on one thread.

SQLite has one writer, and each commit waits for the disk. So what has queued up in the meantime
shares the next commit: under load many answers cost one sync.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

T = TypeVar("T")

_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[Connection], Any]
    result: Future[Any]


class Transactions:
    """Runs work on a database; `thread` has one worker, and nobody else uses the engine."""

    def __init__(self, engine: sa.Engine, thread: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._thread = thread
        self._waiting: deque[_Job] = deque()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, after the commit; what it raises, after the rollback.

        `work` does nothing but talk to the database: where others of the same transaction fail, it
        is rolled back and done again.
        """
        job = _Job(work, Future())
        self._waiting.append(job)
        self._thread.submit(self._work_off)
        result: T = await asyncio.wrap_future(job.result)
        return result

    def _work_off(self) -> None:
        """Do all that waits by now; whoever was cancelled before is left out."""
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
        if jobs := [job for job in taken if job.result.set_running_or_notify_cancel()]:
            self._commit(jobs)

    def _commit(self, jobs: Sequence[_Job]) -> None:
        """Do the jobs in one transaction, or each in its own when that fails."""
        try:
            with self._engine.begin() as connection:
                results = [job.work(connection) for job in jobs]
        # Whatever it is, it is an answer to the one who asked, not to this thread.
        except Exception as exc:  # noqa: BLE001
            if len(jobs) == 1:
                jobs[0].result.set_exception(exc)
                return
            for job in jobs:
                self._commit([job])
        else:
            for job, result in zip(jobs, results, strict=True):
                job.result.set_result(result)
