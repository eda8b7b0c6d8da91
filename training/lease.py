"""The right to do something alone: whoever holds a lease writes, and a former holder cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.database import upsert
from core.errors import SolemateError
from core.store import Store
from core.tables import leases
from core.transactions import now_of

log = structlog.get_logger()


class LeaseLost(Exception):
    """Somebody else holds the lease by now: nothing was written."""


class Lease:
    """A lease on `name`, held by `owner` until it is not renewed for `seconds`.

    A holder may be stopped by its machine, wake up later and know nothing of it. So every write
    that needs the lease calls `check` in its own transaction.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        owner: str,
        *,
        seconds: float = 30.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Without a `clock` the database's is gone by: another machine's may be a minute off."""
        self._store = store
        self._name = name
        self._owner = owner
        self._clock = clock
        self.seconds = seconds

    async def take(self) -> bool:
        """Take the lease, or renew it; whether it is ours now."""

        def work(connection: Connection) -> bool:
            now = self._now(connection)
            row = {"name": self._name, "owner": self._owner, "until": now + self.seconds}
            free = sa.or_(
                leases.c.owner == self._owner,
                leases.c.until <= now,
                # Taken by a clock that went wrong since: nobody renews so far ahead.
                leases.c.until > now + 2 * self.seconds,
            )
            renew = sa.update(leases).where(leases.c.name == self._name, free).values(row)
            return bool(connection.execute(renew).rowcount) or upsert(
                connection, leases, row, key=("name",)
            )

        return await self._store.run(work)

    @asynccontextmanager
    async def renewed(self) -> AsyncGenerator[None, None]:
        """Take or renew the lease in the background while this is open; then it is released."""
        keeper = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self.release()

    async def release(self) -> None:
        """Let somebody else have it at once; nothing where it is not ours."""
        ours = sa.delete(leases).where(leases.c.name == self._name, leases.c.owner == self._owner)
        await self._store.run(lambda connection: connection.execute(ours))

    def check(self, connection: Connection) -> None:
        """Raise `LeaseLost` unless the lease is ours in this very transaction."""
        query = sa.select(leases.c.owner, leases.c.until).where(leases.c.name == self._name)
        if connection.dialect.name == "postgresql":
            # Nobody takes it between this look and the commit.
            query = query.with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None or row.owner != self._owner or row.until <= self._now(connection):
            raise LeaseLost(f"{self._owner} no longer holds the lease on {self._name}.")

    async def _keep(self) -> None:
        """Renew the lease; whoever needs it asks for it in its own transaction."""
        while True:
            await asyncio.sleep(self.seconds / 3)
            try:
                await self.take()
            except SolemateError as exc:
                log.warning("lease_not_renewed", problem=str(exc))

    def _now(self, connection: Connection) -> float:
        return now_of(connection) if self._clock is None else self._clock()
