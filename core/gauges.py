"""What the store holds now, in counts, for whoever looks every few seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.messages import Winner
from core.store import Store
from core.tables import conversations, duels, feedback_events, inbox, pairs, runs, turns

# What a duel's winner says of who wrote the reply, and of who wrote the answer beside it.
_RESULTS: Mapping[Winner, tuple[str, str]] = {
    Winner.FIRST: ("won", "lost"),
    Winner.SECOND: ("lost", "won"),
    Winner.NEITHER: ("drawn", "drawn"),
}


@dataclass(frozen=True, slots=True)
class Gauges:
    """Counts of the moment; `verdicts` by adapter and rating, `pairs` and `runs` by state.

    `people`, `verdicts` and duels are those since a moment: whoever's conversation went on (a group
    counts as whoever began it), and the last thumb of each person on each answer. `duels` are by
    whether the person has picked; `duel_results` says by adapter how often its answer won, lost or
    was no better beside another adapter's.
    """

    dead: int
    people: int
    verdicts: Mapping[tuple[str, str], int]
    pairs: Mapping[str, int]
    runs: Mapping[str, int]
    duels: Mapping[str, int] = field(default_factory=dict)
    duel_results: Mapping[tuple[str, str], int] = field(default_factory=dict)


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
        duels=_duels(connection, since),
        duel_results=_duel_results(connection, since),
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


def _duels(connection: Connection, since: float) -> dict[str, int]:
    counts = sa.select(sa.func.count(), sa.func.count(duels.c.winner))
    shown, picked = connection.execute(counts.where(duels.c.created_at >= since)).one()
    return {"answered": picked, "unanswered": shown - picked}


def _duel_results(connection: Connection, since: float) -> dict[tuple[str, str], int]:
    query = (
        sa.select(turns.c.adapter.label("first"), duels.c.adapter.label("second"), duels.c.winner)
        .add_columns(sa.func.count().label("number"))
        .join(turns, turns.c.reply_id == duels.c.reply_id)
        .where(duels.c.created_at >= since, duels.c.winner.is_not(None))
        .where(turns.c.adapter != duels.c.adapter)
        .group_by(turns.c.adapter, duels.c.adapter, duels.c.winner)
    )
    found: Counter[tuple[str, str]] = Counter()
    for row in connection.execute(query):
        first, second = _RESULTS[Winner(row.winner)]
        for adapter, result in ((row.first, first), (row.second, second)):
            # What has not happened is 0, and can be counted with.
            found.update({(adapter, one): 0 for one in ("won", "lost", "drawn")})
            found[adapter, result] += row.number
    return dict(found)


def _by_state(connection: Connection, table: sa.Table) -> dict[str, int]:
    query = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
    return {row[0]: row[1] for row in connection.execute(query)}
