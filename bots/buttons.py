"""The buttons under an answer or a duel: what each says and what a press of it means."""

from __future__ import annotations

from dataclasses import dataclass

from core.messages import Rating, Reason, Reply, Side

SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Thumb:
    """A thumb under a reply was pressed."""

    rating: Rating
    reply_id: str


@dataclass(frozen=True, slots=True)
class Why:
    """A reason for a thumb down was pressed; None skips the question."""

    reason: Reason | None
    reply_id: str


@dataclass(frozen=True, slots=True)
class Pick:
    """One of two answers was picked, or neither."""

    side: Side
    duel_id: str


THUMBS = {Rating.UP: "👍", Rating.DOWN: "👎"}


def to_data(press: Thumb | Why | Pick) -> str:
    """What a button carries: what it says, and the id of the reply or duel that it is about.

    Telegram's hold 64 bytes; the longest of these takes 48.
    """
    match press:
        case Thumb(rating, reply_id):
            return f"{rating}:{reply_id}"
        case Why(reason, reply_id):
            return f"{reason or SKIP}:{reply_id}"
        case Pick(side, duel_id):
            return f"{side}:{duel_id}"


def from_data(data: str) -> Thumb | Why | Pick | None:
    """What a press means; None for a button that is none of these."""
    what, colon, name = data.partition(":")
    if not colon:
        return None
    if what in set(Rating):
        return Thumb(Rating(what), name)
    if what in set(Side):
        return Pick(Side(what), name)
    if what in set(Reason):
        return Why(Reason(what), name)
    return Why(None, name) if what == SKIP else None


def reasons_for(reply: Reply) -> list[Reason]:
    """The reasons worth asking about: a photo cannot be wrong where none was read."""
    return [reason for reason in Reason if reply.tags or reason is not Reason.WRONG_PHOTO]
