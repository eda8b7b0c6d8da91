"""What people said we should have answered, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from core.store import Store
from core.tables import feedback_events, notices, pairs, turns


class Fate(StrEnum):
    """What became of a correction: `LIVE` is in the adapter that answers."""

    NOTED = "noted"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Correction:
    """A better answer that a person gave to a question of theirs."""

    question: str
    text: str
    fate: Fate


async def corrections_of(store: Store, user_id: str, *, limit: int) -> list[Correction]:
    """The person's corrections that count, the latest first."""
    last = (
        sa.select(sa.func.max(feedback_events.c.id))
        .where(feedback_events.c.user_id == user_id)
        .group_by(feedback_events.c.reply_id)
    )
    pair_of_it = sa.and_(pairs.c.reply_id == feedback_events.c.reply_id, pairs.c.user_id == user_id)
    notice_of_it = sa.and_(notices.c.pair_id == pairs.c.id, notices.c.user_id == user_id)
    query = (
        sa.select(
            turns.c.question,
            feedback_events.c.correction,
            sa.func.max(pairs.c.state).label("state"),
            sa.func.count(notices.c.pair_id).label("live"),
        )
        .join(turns, turns.c.reply_id == feedback_events.c.reply_id)
        .outerjoin(pairs, pair_of_it)
        .outerjoin(notices, notice_of_it)
        .where(feedback_events.c.id.in_(last), feedback_events.c.correction != "")
        .group_by(feedback_events.c.id, turns.c.question, feedback_events.c.correction)
        .order_by(feedback_events.c.id.desc())
        .limit(limit)
    )
    rows = await store.run(lambda connection: connection.execute(query).all())
    return [Correction(row.question, row.correction, _fate(row.state, row.live)) for row in rows]


def _fate(state: str | None, live: int) -> Fate:
    if live:
        return Fate.LIVE
    return Fate(state) if state in (Fate.ACCEPTED, Fate.REFUSED) else Fate.NOTED
