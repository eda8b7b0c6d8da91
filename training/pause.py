"""The loop's brake: a file that holds it wherever it looks, and who put it there, in the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.audit import append, audit_of
from core.policy import Change
from core.settings import Settings
from core.store import Store
from core.tables import audit
from core.transactions import lock

SUBJECT = "loop"
"""What the audit calls it."""

LoopState = Literal["running", "paused"]


def pause_file(settings: Settings) -> Path:
    """While this file exists no run begins, and none goes a step further.

    A canary is looked at all the same, and taken back where it does harm.
    """
    return settings.state / "training-paused"


async def note_pause(store: Store, after: LoopState, *, moved: bool, who: str, now: float) -> None:
    """Have the audit say that `who` stopped the loop, or let it go on.

    `moved` is whether the file changed. Where it did not, and the audit says the same already,
    nothing was decided; where only the audit lags, somebody ended before the row was written.
    """

    def work(connection: Connection) -> None:
        # Two operators who say the same at the same moment have said it once.
        lock(connection, SUBJECT)
        if not moved and _last(connection) == after:
            return
        before: LoopState = "running" if after == "paused" else "paused"
        append(connection, who=who, subject=SUBJECT, before=before, after=after, at=now)

    await store.run(work)


async def pauses(store: Store) -> list[Change]:
    """Who stopped the loop and who let it go on, the first one first."""
    rows = await audit_of(store, SUBJECT)
    return [Change(row.at, row.who, SUBJECT, row.before, row.after) for row in rows]


def _last(connection: Connection) -> str:
    query = sa.select(audit.c.after).where(audit.c.subject == SUBJECT)
    found: str | None = connection.execute(query.order_by(audit.c.id.desc()).limit(1)).scalar()
    return found or "running"
