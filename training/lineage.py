"""Where a pair comes from and what was made of it: verdict → pair → run → adapter."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.audit import AuditRow, audit_of
from core.store import Store
from core.tables import adapters, feedback_events, run_pairs, runs
from training.pairs import PreferencePair, subject_of


@dataclass(frozen=True, slots=True)
class Said:
    """One of the person's verdicts on the reply, by its moment and thumb."""

    rating: str
    reason: str | None
    corrected: bool
    at: float


@dataclass(frozen=True, slots=True)
class UsedIn:
    """A run that held the pair, to train on or to measure with, and the adapter it made."""

    run_id: str
    state: str
    split: str
    adapter: str
    adapter_state: str
    flagged: bool


@dataclass(frozen=True, slots=True)
class Lineage:
    """All that is known of a pair's way."""

    pair: PreferencePair
    said: tuple[Said, ...]
    decisions: tuple[AuditRow, ...]
    runs: tuple[UsedIn, ...]


async def lineage_of(store: Store, pair: PreferencePair) -> Lineage:
    """The verdicts behind a pair, the decisions about it, the runs and adapters it went into."""
    said, used = await store.run(
        lambda connection: (_said(connection, pair), _used(connection, pair))
    )
    return Lineage(pair, said, tuple(await audit_of(store, subject_of(pair.id))), used)


def _said(connection: Connection, pair: PreferencePair) -> tuple[Said, ...]:
    query = (
        sa.select(feedback_events)
        .where(
            feedback_events.c.reply_id == pair.reply_id,
            feedback_events.c.user_id == pair.user_id,
        )
        .order_by(feedback_events.c.id)
    )
    return tuple(
        Said(row.rating, row.reason, bool(row.correction), row.created_at)
        for row in connection.execute(query)
    )


def _used(connection: Connection, pair: PreferencePair) -> tuple[UsedIn, ...]:
    query = (
        sa.select(
            runs.c.id,
            runs.c.state,
            run_pairs.c.split,
            runs.c.adapter,
            adapters.c.state.label("adapter_state"),
            adapters.c.flagged_at,
        )
        .join(run_pairs, run_pairs.c.run_id == runs.c.id)
        .outerjoin(adapters, adapters.c.name == runs.c.adapter)
        .where(run_pairs.c.pair_id == pair.id)
        .order_by(runs.c.created_at)
    )
    return tuple(
        UsedIn(
            row.id,
            row.state,
            row.split,
            row.adapter,
            row.adapter_state or "",
            row.flagged_at is not None,
        )
        for row in connection.execute(query)
    )
