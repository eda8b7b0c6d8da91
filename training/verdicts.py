"""What people's thumbs say, one verdict a person and reply, and which of them training can use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from core.errors import AnswerUnsupported
from core.messages import Language, Outcome, Rating, Reason, Turn
from core.store import Store
from core.tables import feedback_events, tombstones, turns

_CHUNK = 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person thought of a reply in the end, and how that reply came about."""

    reply_id: str
    user_id: str
    rating: Rating
    reason: Reason | None
    comment: str
    correction: str
    created_at: float
    conversation_id: str
    question: str
    outcome: Outcome
    complete: bool
    failure: str
    adapter: str
    language: Language

    @property
    def by_model(self) -> bool:
        """Whether the answer is a model's own, and whole."""
        return self.outcome is Outcome.ANSWERED and self.complete and bool(self.adapter)

    @property
    def distrusted(self) -> bool:
        """Whether a passage was quoted because of what the model had begun to say."""
        return self.outcome is Outcome.QUOTED and self.failure == AnswerUnsupported.__name__

    @property
    def beyond_training(self) -> str:
        """Why no training mends this answer, "" where it may: what is to be looked at instead."""
        if self.reason is Reason.WRONG_PHOTO:
            return "the photo was misread: look at the vision model and its tags"
        if self.distrusted:
            return ""
        if self.outcome is Outcome.QUOTED:
            return "a passage was quoted, because the model was away"
        if self.outcome is Outcome.CLARIFY:
            return "it asked back, because nothing surely relevant was found"
        if self.outcome is Outcome.REFUSED:
            return "it did not know: look at the knowledge base and the retrieval"
        if not self.complete:
            return "the answer was cut short or stopped"
        if not self.adapter:
            return "no model wrote the answer"
        return ""


async def read_verdicts(store: Store) -> list[Verdict]:
    """Everybody's last verdict on each reply, oldest first; nothing of people that were erased."""
    last = sa.select(sa.func.max(feedback_events.c.id)).group_by(
        feedback_events.c.reply_id, feedback_events.c.user_id
    )
    erased = sa.exists().where(
        tombstones.c.user_id == feedback_events.c.user_id,
        tombstones.c.erased_at >= feedback_events.c.created_at,
    )
    query = (
        sa.select(
            feedback_events,
            turns.c.conversation_id,
            turns.c.question,
            turns.c.outcome,
            turns.c.complete,
            turns.c.failure,
            turns.c.adapter,
            turns.c.language,
        )
        .join(turns, turns.c.reply_id == feedback_events.c.reply_id)
        .where(feedback_events.c.id.in_(last), ~erased)
        .order_by(feedback_events.c.created_at, feedback_events.c.id)
    )
    rows = await store.run(lambda connection: connection.execute(query).all())
    return [
        Verdict(
            reply_id=row.reply_id,
            user_id=row.user_id,
            rating=Rating(row.rating),
            reason=Reason(row.reason) if row.reason else None,
            comment=row.comment,
            correction=row.correction,
            created_at=row.created_at,
            conversation_id=row.conversation_id,
            question=row.question,
            outcome=Outcome(row.outcome),
            complete=row.complete,
            failure=row.failure or "",
            adapter=row.adapter,
            language=row.language,
        )
        for row in rows
    ]


async def read_turns(store: Store, reply_ids: Iterable[str]) -> dict[str, Turn]:
    """The turns of these replies by reply, a few at a time, so that messages need not wait."""
    wanted = list(dict.fromkeys(reply_ids))
    found: dict[str, Turn] = {}
    for start in range(0, len(wanted), _CHUNK):
        found |= await store.turns_of(wanted[start : start + _CHUNK])
    return found
