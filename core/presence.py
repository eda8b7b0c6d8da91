"""Who is still there of several replicas: what a gone one was answering is answered by another.

A lease runs out by itself after a minute. But nobody should wait a minute for an answer because a
machine has died, so each replica holds an advisory lock under its owner's name: PostgreSQL frees
it when the process is gone, and the others see that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.errors import StoreError
from core.leader import CHECK_SECONDS, Leader
from core.store import Store
from core.tables import inbox
from core.transactions import lock_number

log = structlog.get_logger()

# Longer than a replica needs to come back that has only lost its connection.
GONE_SECONDS = 3 * CHECK_SECONDS


class Presence:
    """Shows the others that `owner` is there, and takes up what those who are gone have left."""

    def __init__(
        self,
        store: Store,
        url: str,
        owner: str,
        *,
        check_seconds: float = CHECK_SECONDS,
        gone_seconds: float = GONE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shown = asyncio.Event()
        self._leader = Leader(url, _name(owner), check_seconds=check_seconds)
        self._store = store
        self._owner = owner
        self._check_seconds = check_seconds
        self._gone_seconds = gone_seconds
        self._clock = clock
        self._missed: dict[str, float] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be there for the others while the block runs."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.run())
            await self.shown.wait()
            yield
            task.cancel()

    async def run(self) -> None:
        """Be there, and look after the others, for ever."""
        await self._leader.run(self._watch)

    async def _watch(self) -> None:
        self.shown.set()
        while True:
            try:
                await self.look()
            except StoreError as exc:
                log.warning("presence_unknown", problem=str(exc))
            await asyncio.sleep(self._check_seconds)

    async def look(self) -> int:
        """Free the leases of owners who have been gone for a while; how many."""
        gone = await self._store.run(self._gone)
        now = self._clock()
        self._missed = {owner: self._missed.get(owner, now) for owner in gone}
        due = [owner for owner, since in self._missed.items() if now - since >= self._gone_seconds]
        if not due:
            return 0
        freed = await self._store.run(lambda connection: _free(connection, due))
        log.warning("leases_of_the_gone", owners=due, messages=freed)
        return freed

    def _gone(self, connection: Connection) -> list[str]:
        query = sa.select(inbox.c.owner).where(inbox.c.state == "leased").distinct()
        owners = connection.execute(query.where(inbox.c.owner != self._owner)).scalars().all()
        return [owner for owner in owners if _is_gone(connection, owner)]


def _is_gone(connection: Connection, owner: str) -> bool:
    lock = sa.func.pg_try_advisory_xact_lock(lock_number(f"leader:{_name(owner)}"))
    return bool(connection.scalar(sa.select(lock)))


def _free(connection: Connection, owners: Sequence[str]) -> int:
    """Have their messages answered again, but for whoever has come back meanwhile."""
    gone = [owner for owner in owners if _is_gone(connection, owner)]
    statement = (
        sa.update(inbox)
        .where(inbox.c.state == "leased", inbox.c.owner.in_(gone))
        .values(state="new", owner=None, leased_until=None)
    )
    return connection.execute(statement).rowcount


def _name(owner: str) -> str:
    return f"owner {owner}"
