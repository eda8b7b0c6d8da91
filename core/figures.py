"""What an operator wants to know in one look: who asks, how it is answered, and what waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.messages import Outcome, Rating
from core.store import Store
from core.tables import feedback_events, inbox, turns


@dataclass(frozen=True, slots=True)
class Period:
    """What happened since a moment; of several thumbs of a person on an answer the last counts."""

    people: int
    answers: Mapping[Outcome, int]
    ratings: Mapping[Rating, int]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Messages without an answer, and those that were put aside after three failures."""

    waiting: int
    dead: int


async def count_since(store: Store, moment: float) -> Period:
    """Count what happened at or after `moment` (Unix seconds)."""
    return await store.run(lambda connection: _count(connection, moment))


async def count_waiting(store: Store) -> Waiting:
    """Count the messages that have no answer."""
    query = sa.select(inbox.c.state, sa.func.count()).group_by(inbox.c.state)
    rows = await store.run(lambda connection: connection.execute(query).all())
    by_state = {row[0]: row[1] for row in rows}
    return Waiting(by_state.get("new", 0) + by_state.get("leased", 0), by_state.get("dead", 0))


def _count(connection: Connection, moment: float) -> Period:
    recent = turns.c.asked_at >= moment
    people = sa.select(sa.func.count(turns.c.user_id.distinct())).where(recent)
    answers = sa.select(turns.c.outcome, sa.func.count()).where(recent).group_by(turns.c.outcome)
    last = sa.select(sa.func.max(feedback_events.c.id)).group_by(
        feedback_events.c.reply_id, feedback_events.c.user_id
    )
    ratings = (
        sa.select(feedback_events.c.rating, sa.func.count())
        .where(feedback_events.c.id.in_(last), feedback_events.c.created_at >= moment)
        .group_by(feedback_events.c.rating)
    )
    by_outcome = {row[0]: row[1] for row in connection.execute(answers)}
    by_rating = {row[0]: row[1] for row in connection.execute(ratings)}
    return Period(
        connection.execute(people).scalar_one(),
        {outcome: by_outcome.get(outcome, 0) for outcome in Outcome},
        {rating: by_rating.get(rating, 0) for rating in Rating},
    )
