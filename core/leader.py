"""One process of several leads: it alone does what may be done by one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg
import structlog
from psycopg import AsyncConnection
from sqlalchemy.engine import make_url

from core.transactions import lock_number

log = structlog.get_logger()

Work = Callable[[], Awaitable[None]]
Lead = Callable[[Work], Awaitable[None]]
"""Does the work whenever it is ours to do, for ever."""

CHECK_SECONDS = 2.0
# A server that says nothing for so long is gone, and the lock with it.
_PATIENCE_SECONDS = 10.0


async def alone(work: Work) -> None:
    """Do the work at once: nobody else could be doing it."""
    await work()


class Leader:
    """The right to do what is called `name`, among all processes on a PostgreSQL database.

    It is an advisory lock on a connection of its own, so the server frees it as soon as the process
    is gone. A process that has lost its connection ends the work; for some seconds another may
    have begun it by then, so the work must bear that.
    """

    def __init__(self, url: str, name: str, *, check_seconds: float = CHECK_SECONDS) -> None:
        address = make_url(url).set(drivername="postgresql")
        self._address = address.render_as_string(hide_password=False)
        self._name = name
        self._check_seconds = check_seconds
        self.leads = False
        self.problem = ""

    async def run(self, work: Work) -> None:
        """Do the work whenever we lead; it is cancelled when we do no longer."""
        while True:
            try:
                async with await self._connect() as connection:
                    await self._win(connection)
                    await self._lead(connection, work)
            except (psycopg.Error, TimeoutError) as exc:
                self.problem = "The database does not say whose turn it is; the log says why."
                log.warning("lead_lost", what=self._name, error=type(exc).__name__)
            await asyncio.sleep(self._check_seconds)

    async def _connect(self) -> AsyncConnection[tuple[bool]]:
        return await AsyncConnection.connect(
            self._address, autocommit=True, connect_timeout=round(_PATIENCE_SECONDS)
        )

    async def _win(self, connection: AsyncConnection[tuple[bool]]) -> None:
        """Return when it is our turn."""
        query, key = "SELECT pg_try_advisory_lock(%s)", (lock_number(f"leader:{self._name}"),)
        while True:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                row = await (await connection.execute(query, key)).fetchone()
            self.problem = ""
            if row is not None and row[0]:
                return
            await asyncio.sleep(self._check_seconds)

    async def _lead(self, connection: AsyncConnection[tuple[bool]], work: Work) -> None:
        """Do the work as long as the connection that holds the lock lives."""
        log.info("leads", what=self._name)
        self.leads = True
        doing = asyncio.ensure_future(work())
        try:
            while not doing.done():
                await asyncio.wait({doing}, timeout=self._check_seconds)
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await connection.execute("SELECT 1")
            await doing
        finally:
            self.leads = False
            doing.cancel()
            with suppress(asyncio.CancelledError):
                await doing
