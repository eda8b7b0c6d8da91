"""A message's way as spans: the whole, its wait in the inbox, and its turn in a lane."""

from __future__ import annotations

from core.messages import UserMessage
from core.tracing import Span, Tracing


class Way:
    """Begins when the message came in; whatever ends it ends all its spans."""

    def __init__(
        self, tracing: Tracing, message: UserMessage, received_at: float | None = None
    ) -> None:
        """`received_at` where that was before now."""
        self._whole = tracing.begin(
            "message",
            since=received_at,
            platform=message.platform.value,
            message=message.id,
            photos=message.photo_count,
        )
        self._inbox = self._whole.child("inbox", since=received_at)
        self._lane: Span | None = None

    @property
    def lane(self) -> Span:
        """Its turn in the lane, which begins when it is first asked for."""
        if self._lane is None:
            self._lane = self._whole.child("lane")
        return self._lane

    def left_inbox(self) -> None:
        """It waits no longer: it is leased, or committed by whoever answers it at once."""
        self._inbox.end()

    def end(self, failure: str = "") -> None:
        """It has been answered, or given up."""
        self._inbox.end()
        if self._lane is not None:
            self._lane.end(failure)
        self._whole.end(failure)
