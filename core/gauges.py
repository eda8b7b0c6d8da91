"""What the store holds now, in counts, for whoever looks every few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.store import Store
from core.tables import conversations, feedback_events, inbox, pairs, runs, turns


@dataclass(frozen=True, slots=True)
class Gauges:
    """Counts of the moment; `verdicts` by adapter and rating, `pairs` and `runs` by state.

    `people` and `verdicts` are those since a moment: whoever's conversation went on (a group counts
    as whoever began it), and the last thumb of each person on each answer.
    """

    dead: int
    people: int
    verdicts: Mapping[tuple[str, str], int]
    pairs: Mapping[str, int]
    runs: Mapping[str, int]


async def read_gauges(store: Store, since: float) -> Gauges:
    """Count; `since` is in Unix seconds."""
    return await store.run(lambda connection: _read(connection, since))


def _read(connection: Connection, since: float) -> Gauges:
    dead = sa.select(sa.func.count()).where(inbox.c.state == "dead")
    # Turns hold whole prompts: counting people there would read them all.
    people = sa.select(sa.func.count(conversations.c.user_id.distinct())).where(
        conversations.c.updated_at >= since
    )
    return Gauges(
        dead=connection.execute(dead).scalar_one(),
        people=connection.execute(people).scalar_one(),
        verdicts=_verdicts(connection, since),
        pairs=_by_state(connection, pairs),
        runs=_by_state(connection, runs),
    )


def _verdicts(connection: Connection, since: float) -> dict[tuple[str, str], int]:
    last = (
        sa.select(sa.func.max(feedback_events.c.id))
        .where(feedback_events.c.created_at >= since)
        .group_by(feedback_events.c.reply_id, feedback_events.c.user_id)
    )
    query = (
        sa.select(turns.c.adapter, feedback_events.c.rating, sa.func.count())
        .join(turns, turns.c.reply_id == feedback_events.c.reply_id)
        .where(feedback_events.c.id.in_(last))
        .group_by(turns.c.adapter, feedback_events.c.rating)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(query)}


def _by_state(connection: Connection, table: sa.Table) -> dict[str, int]:
    query = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
    return {row[0]: row[1] for row in connection.execute(query)}
