"""What every platform implements: show an answer while it is made, or say that it failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from core.errors import SolemateError
from core.messages import Event, UserMessage


class Bot(Protocol):
    """One platform's way of showing answers; it translates and does not think."""

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        """Show the answer to `message` as its events come; errors of `events` pass through."""
        ...

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        """Say once that `message` gets no answer; `error` is what we can explain, if anything."""
        ...
