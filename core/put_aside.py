"""What was put aside, for the operator: which messages and events, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from core.messages import Platform
from core.store import Store
from core.tables import inbox


@dataclass(frozen=True, slots=True)
class PutAside:
    """A message that got no answer, or an event that could not be taken, put aside `at` a moment.

    Its apology is `owed` while it has not been said; nobody is told of an event. Both moments are
    Unix seconds.
    """

    platform: Platform
    conversation_id: str
    message_id: str
    received_at: float
    at: float
    problem: str
    apology: Literal["owed", "said", "none"]
    text: str


async def list_put_aside(store: Store, *, limit: int) -> list[PutAside]:
    """The last ones, the latest first."""
    at = sa.func.coalesce(inbox.c.leased_until, inbox.c.received_at)
    query = (
        sa.select(inbox, at.label("at"))
        .where(inbox.c.state == "dead")
        .order_by(at.desc(), inbox.c.id.desc())
        .limit(limit)
    )
    rows = await store.run(lambda connection: connection.execute(query).all())
    return [_read(row) for row in rows]


def _read(row: sa.Row[Any]) -> PutAside:
    # Of what cannot be read any more nobody knows what it was.
    message = row.message if isinstance(row.message, dict) else {}
    told: Literal["said", "none"] = "said" if message else "none"
    return PutAside(
        platform=Platform(row.platform),
        conversation_id=row.conversation_id,
        message_id=row.message_id,
        received_at=row.received_at,
        at=row.at,
        problem=row.problem or "",
        apology="owed" if row.apology_due is not None else told,
        text=str(message.get("text", "")),
    )
