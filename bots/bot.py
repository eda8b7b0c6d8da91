"""What every platform implements: show an answer while it is made, or say that it failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.routing import BaseRoute

from core.errors import SolemateError
from core.messages import Event, Turn, UserMessage


@dataclass(frozen=True, slots=True)
class Question:
    """A message as the engine gets it; `history` replaces what the store knows."""

    message: UserMessage
    history: Sequence[Turn] | None = None


# What a platform fetches only when a message's turn comes: its photos, or the thread it stands in.
Prepare = Callable[[UserMessage], Awaitable[Question]]


class Bot(Protocol):
    """One platform's way of showing answers; it translates and does not think."""

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        """Show the answer to `message` as its events come; errors of `events` pass through.

        Raises `PlatformAway` where the platform could not be reached: the same is shown later.
        """
        ...

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        """Say once that `message` gets no answer; `error` is what we can explain, if anything.

        Raises `PlatformAway` like `show`.
        """
        ...


class Status(Protocol):
    """How the connection to a platform is, for the operator."""

    @property
    def complaint(self) -> str:
        """What the operator should know, "" while all is well."""
        ...

    @property
    def quiet_seconds(self) -> float:
        """How long ago the platform was last heard from; 0 before the first time."""
        ...


class Intake(Protocol):
    """What takes a platform's messages in while it runs."""

    @property
    def status(self) -> Status:
        """How it goes."""
        ...

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """What the web server opens for the platform to call; none where we do the calling."""
        ...

    async def run(self) -> None:
        """Take messages in for ever; what goes wrong is noted in `status` and tried again."""
        ...
