"""An error -> the sentence that people read; the error's own words are for the log."""

from __future__ import annotations

import math

from core.engine import MAX_PHOTOS
from core.errors import Busy, ImageRejected, MessageRejected, SolemateError, StoreError
from core.messages import Language
from core.wording import SENTENCES, say


def apology(
    error: SolemateError | None, language: Language, *, length: int, max_characters: int
) -> str:
    """What to say about a message of `length` characters that could not be taken or answered."""
    match error:
        case Busy():
            return say("busy", language, seconds=math.ceil(error.retry_after_seconds))
        case MessageRejected(code="photo_many"):
            return say("photo_many", language, limit=MAX_PHOTOS)
        case MessageRejected() | ImageRejected() if error.code in SENTENCES:
            return say(error.code, language, length=length, limit=max_characters)
        case StoreError():
            return say("not_saved", language)
        case _:
            return say("failed", language)
