"""What Telegram's errors mean for trying again, and how often it may be called."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import httpx
from aiolimiter import AsyncLimiter
from telegram.error import BadRequest, NetworkError, RetryAfter

from bots.courier import Unreachable, Wait

Rate = tuple[float, float]
# Of all failures of the library's client, these say that nothing was sent.
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Drafts:
    """The lane of a chat's drafts: they are no messages, so only the overall rate counts.

    When Telegram tells the chat to wait, that holds for both.
    """

    chat_id: int


@dataclass(frozen=True, slots=True)
class Rates:
    """How often a bot may speak, as calls in seconds, all of which may come at once.

    Telegram allows 30 messages a second, one a second in a chat, and 20 a minute in a group, and
    bears short bursts: https://core.telegram.org/bots/faq.
    """

    overall: Rate = (10, 1 / 3)
    chat: Rate = (3, 3)
    group: Rate = (10, 30)


class Limits:
    """What the calls in a lane, a chat's number or `Drafts`, have to pass."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._overall = AsyncLimiter(*rates.overall)

    def __call__(self, lane: Hashable) -> Sequence[AsyncLimiter]:
        """New limiters for the lane, the most patient first, and the one that all share."""
        if not isinstance(lane, int):
            return (self._overall,)
        chat = AsyncLimiter(*self._rates.chat)
        group = (AsyncLimiter(*self._rates.group),) if lane < 0 else ()
        return (*group, chat, self._overall)


def read_error(error: Exception) -> Wait | Unreachable | None:
    """What to do about an error of the library; None for one that would come again."""
    match error:
        case RetryAfter():
            pause = error.retry_after
            return Wait(pause.total_seconds() if isinstance(pause, timedelta) else float(pause))
        case BadRequest():
            return None
        case NetworkError():
            return Unreachable(arrived=not isinstance(error.__cause__, _NEVER_LEFT))
        case _:
            return None


def chat_of(lane: Hashable) -> Hashable:
    """The chat whose penalties a lane shares."""
    return lane.chat_id if isinstance(lane, Drafts) else lane
