"""The buttons under an answer: what each says and what a press of it means."""

from __future__ import annotations

from dataclasses import dataclass

from core.messages import Rating, Reason, Reply

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


THUMBS = {Rating.UP: "👍", Rating.DOWN: "👎"}


def to_data(press: Thumb | Why) -> str:
    """What a button carries: the rating or the reason, and the reply's id.

    Telegram's hold 64 bytes; the longest of these takes 48.
    """
    what = press.rating if isinstance(press, Thumb) else press.reason or SKIP
    return f"{what}:{press.reply_id}"


def from_data(data: str) -> Thumb | Why | None:
    """What a press means; None for a button that is none of these."""
    what, colon, reply_id = data.partition(":")
    if not colon:
        return None
    if what in set(Rating):
        return Thumb(Rating(what), reply_id)
    if what in set(Reason):
        return Why(Reason(what), reply_id)
    return Why(None, reply_id) if what == SKIP else None


def reasons_for(reply: Reply) -> list[Reason]:
    """The reasons worth asking about: a photo cannot be wrong where none was read."""
    return [reason for reason in Reason if reply.tags or reason is not Reason.WRONG_PHOTO]
