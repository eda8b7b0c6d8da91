"""Where a pair comes from and what was made of it: verdict → pair → run → adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.audit import AuditRow, audit_of
from core.store import Store
from core.tables import adapters, feedback_events, pairs, run_pairs, runs, turns
from training.pairs import PreferencePair, subject_of

_CHUNK = 200


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
class Taught:
    """What a run was trained or measured on, back to the last verdict that it comes from.

    A pair; or, for KTO, a single answer, which goes by its reply's name.
    """

    pair: str
    split: str
    origin: str
    reply: str
    person: str
    verdict: str
    reason: str


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


def taught_in(connection: Connection, run_id: str) -> tuple[Taught, ...]:
    """Everything that a run was taught and is still there: what erased people said is gone."""
    reply = sa.func.coalesce(pairs.c.reply_id, turns.c.reply_id)
    newest = (
        sa.select(sa.func.max(feedback_events.c.id))
        .where(
            feedback_events.c.reply_id == reply,
            sa.or_(pairs.c.id.is_(None), feedback_events.c.user_id == pairs.c.user_id),
        )
        .correlate(pairs, turns)
        .scalar_subquery()
    )
    query = (
        sa.select(
            run_pairs.c.pair_id,
            run_pairs.c.split,
            pairs.c.origin,
            reply.label("reply"),
            sa.func.coalesce(pairs.c.user_id, feedback_events.c.user_id).label("person"),
            feedback_events.c.rating,
            feedback_events.c.reason,
        )
        .select_from(run_pairs)
        .outerjoin(pairs, pairs.c.id == run_pairs.c.pair_id)
        .outerjoin(turns, turns.c.reply_id == run_pairs.c.pair_id)
        .outerjoin(feedback_events, feedback_events.c.id == newest)
        .where(run_pairs.c.run_id == run_id, reply.is_not(None))
        .order_by(run_pairs.c.pair_id)
    )
    return tuple(
        Taught(
            row.pair_id,
            row.split,
            row.origin or "",
            row.reply,
            row.person or "",
            row.rating or "",
            row.reason or "",
        )
        for row in connection.execute(query)
    )


def runs_with_erased() -> sa.Select[str]:
    """The runs that hold what is in the store no more, as of erased people."""
    name = run_pairs.c.pair_id
    kept = sa.or_(
        sa.exists().where(pairs.c.id == name),
        # KTO learns from single answers, which are named by their replies.
        sa.exists().where(pairs.c.reply_id == name),
        sa.exists().where(
            turns.c.reply_id == name, turns.c.complete, feedback_events.c.reply_id == name
        ),
    )
    return sa.select(run_pairs.c.run_id).where(~kept).distinct()


def kept_of(connection: Connection, names: Sequence[str]) -> set[str]:
    """Those of the pairs and rated answers that the store still holds."""
    found: set[str] = set()
    for start in range(0, len(names), _CHUNK):
        some = names[start : start + _CHUNK]
        for query in (
            sa.select(pairs.c.id).where(pairs.c.id.in_(some)),
            sa.select(pairs.c.reply_id).where(pairs.c.reply_id.in_(some)),
            sa.select(turns.c.reply_id)
            .join(feedback_events, feedback_events.c.reply_id == turns.c.reply_id)
            .where(turns.c.reply_id.in_(some), turns.c.complete),
        ):
            found |= set(connection.execute(query).scalars())
    return found


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
