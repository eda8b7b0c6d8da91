"""Transactions of a database: one after the other on SQLite, side by side on PostgreSQL.

SQLite has one writer, and each commit waits for the disk. So what has queued up in the meantime
shares the next commit: under load many answers cost one sync. PostgreSQL does that by itself for
all who write at the same time.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

T = TypeVar("T")

_AT_ONCE = 64
# How often work is done again that got in another's way.
_TRIES = 5
# https://www.postgresql.org/docs/current/errcodes-appendix.html: serialization failure, deadlock.
_IN_THE_WAY = ("40001", "40P01")
_BROKEN_RULE = "23"


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

    async def between(self, work: Callable[[sa.Engine], T]) -> T:
        """What `work` does with the engine while no transaction of ours is under way."""
        return await asyncio.wrap_future(self._thread.submit(work, self._engine))

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


class ParallelTransactions:
    """Runs work on PostgreSQL, as many transactions at once as `threads` has workers."""

    def __init__(self, engine: sa.Engine, threads: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._threads = threads

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, after the commit; what it raises, after the rollback.

        `work` does nothing but talk to the database: where another transaction gets in its way, it
        is rolled back and done again.
        """
        running = self._threads.submit(self._commit, work)
        return await asyncio.wrap_future(running)

    def _commit(self, work: Callable[[Connection], T]) -> T:
        for _ in range(_TRIES - 1):
            try:
                return self._once(work)
            except sa.exc.DBAPIError as exc:
                if not _may_go_better(exc):
                    raise
        return self._once(work)

    def _once(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)


def lock(connection: Connection, what: str) -> None:
    """Let no other transaction that locks the same be under way until this one ends."""
    # SQLite's transactions hold its one lock from their beginning.
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK, {"number": lock_number(what)})


def lock_number(what: str) -> int:
    """The number that PostgreSQL's advisory locks know this by."""
    digest = hashlib.blake2b(what.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number", type_=sa.BigInteger)))


def now_of(connection: Connection) -> float:
    """Unix seconds by the clock that all who share the database go by: those of the moment.

    PostgreSQL's own, for two machines never agree; SQLite is on this one.
    """
    if connection.dialect.name == "postgresql":
        return float(connection.execute(_NOW).scalar_one())
    return time.time()


_NOW = sa.select(sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double))


def _may_go_better(exc: sa.exc.DBAPIError) -> bool:
    """Whether the work failed because another's was done between two of its statements.

    A rule of the tables that seems broken is such a case, too: the work looked before it wrote.
    """
    code = getattr(exc.orig, "sqlstate", None) or ""
    return code in _IN_THE_WAY or code.startswith(_BROKEN_RULE)
