"""What people said we should have answered, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from core.messages import Language
from core.store import Store
from core.tables import adapters, feedback_events, pairs, routes, run_pairs, turns
from core.wording import say

MOST_SHOWN = 300


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
    learned_of_it = learned().subquery()
    query = (
        sa.select(
            turns.c.question,
            feedback_events.c.correction,
            sa.func.max(pairs.c.state).label("state"),
            sa.func.count(learned_of_it.c.pair_id).label("live"),
        )
        .join(turns, turns.c.reply_id == feedback_events.c.reply_id)
        .outerjoin(pairs, pair_of_it)
        .outerjoin(learned_of_it, learned_of_it.c.pair_id == pairs.c.id)
        .where(feedback_events.c.id.in_(last), feedback_events.c.correction != "")
        .group_by(feedback_events.c.id, turns.c.question, feedback_events.c.correction)
        .order_by(feedback_events.c.id.desc())
        .limit(limit)
    )
    rows = await store.run(lambda connection: connection.execute(query).all())
    return [Correction(row.question, row.correction, _fate(row.state, row.live)) for row in rows]


def correction_words(one: Correction, language: Language) -> str:
    """A correction and its fate, for its person."""
    fate = say(f"correction_{one.fate}", language)
    question, text = shortened(one.question), shortened(one.text)
    return say("home_correction", language, question=question, correction=text, fate=fate)


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """The text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}…"


def learned() -> sa.Select[tuple[str]]:
    """The pairs that the adapter in use was trained on; a rollback unlearns them."""
    live = sa.select(routes.c.live).order_by(routes.c.id.desc()).limit(1).scalar_subquery()
    return (
        sa.select(run_pairs.c.pair_id)
        .join(adapters, adapters.c.run_id == run_pairs.c.run_id)
        .where(adapters.c.name == live, run_pairs.c.split == "train")
    )


def _fate(state: str | None, live: int) -> Fate:
    if live:
        return Fate.LIVE
    return Fate(state) if state in (Fate.ACCEPTED, Fate.REFUSED) else Fate.NOTED
