"""What people read when a message could not be taken or answered."""

from __future__ import annotations

import pytest

from bots.apology import apology
from core.errors import Busy, ImageRejected, MessageRejected, SolemateError, StoreError
from core.wording import say


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Busy("Too many.", retry_after_seconds=2.2), say("busy", "en", seconds=3)),
        (
            MessageRejected("Long.", code="text_long"),
            say("text_long", "en", length=500, limit=400),
        ),
        (MessageRejected("Many.", code="photo_many"), say("photo_many", "en", limit=4)),
        (ImageRejected("HEIC.", code="photo_heic"), say("photo_heic", "en")),
        (ImageRejected("New.", code="no_sentence_yet"), say("failed", "en")),
        (StoreError("Full."), say("not_saved", "en")),
        (SolemateError("Odd."), say("failed", "en")),
        (None, say("failed", "en")),
    ],
)
def test_every_error_has_a_sentence(error: SolemateError | None, sentence: str) -> None:
    assert apology(error, "en", length=500, max_characters=400) == sentence
