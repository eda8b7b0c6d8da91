"""Apologies that are owed for messages that were put aside, until they have been said.

A row's `apology_due` is the moment from which on it is to be said: whoever takes one moves it on,
so that a crash, or a platform that is away, delays an apology and does not lose it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.letters import from_json
from core.messages import UserMessage
from core.store import Store
from core.tables import inbox

# Later than this nobody waits for an answer any more, nor for a reason why there is none.
OWED_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Owed:
    """A message that was put aside so many seconds ago, and whose sender has not heard of it."""

    id: int
    message: UserMessage
    since_seconds: float


class Apologies:
    """Hands them out one by one; whoever gets one has `lease_seconds` to say it."""

    def __init__(
        self, store: Store, lease_seconds: float, now: Callable[[Connection], float]
    ) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._now = now

    async def next(self) -> Owed | None:
        """The next one that is due, ours to say now."""

        def work(connection: Connection) -> Owed | None:
            now = self._now(connection)
            row = connection.execute(_DUE, {"now": now}).one_or_none()
            if row is None:
                return None
            this_row = sa.update(inbox).where(inbox.c.id == row.id)
            connection.execute(this_row.values(apology_due=now + self._lease_seconds))
            return Owed(row.id, from_json(row.message), now - row.leased_until)

        return await self._store.run(work)

    async def said(self, letter: int) -> None:
        """The person has read it, or never will."""
        statement = sa.update(inbox).where(inbox.c.id == letter).values(apology_due=None)
        await self._store.run(lambda connection: connection.execute(statement))

    async def later(self, letter: int, pause_seconds: float) -> None:
        """It could not be said: let it be tried again after a pause."""
        this_row = sa.update(inbox).where(inbox.c.id == letter)

        def work(connection: Connection) -> None:
            due = self._now(connection) + pause_seconds
            connection.execute(this_row.values(apology_due=due))

        await self._store.run(work)


_NOW = sa.bindparam("now", type_=sa.Float)
_DUE = (
    sa.select(inbox.c.id, inbox.c.message, inbox.c.leased_until)
    .where(
        inbox.c.state == "dead",
        inbox.c.apology_due <= _NOW,
        inbox.c.leased_until > _NOW - OWED_SECONDS,
    )
    .order_by(inbox.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
