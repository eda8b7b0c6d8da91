"""How the connection to Telegram goes, for the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import stamina
import structlog
from telegram.error import (
    BadRequest,
    Conflict,
    Forbidden,
    InvalidToken,
    NetworkError,
    TelegramError,
)

from core.errors import NoRoom, SolemateError

log = structlog.get_logger()

LONGEST_PAUSE_SECONDS = 60.0

# Longer than a poll, and than taking in what it brings.
QUIET_SECONDS = 120.0


class Status:
    """`problem` is a sentence for the operator, "" while all is well.

    `resting` is true while new messages are left at Telegram because too many wait.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.problem = "It has not reached Telegram yet."
        self.resting = False
        self._clock = clock
        self._touched_at: float | None = None

    def touch(self) -> None:
        """Note that Telegram was heard from, or is left alone on purpose."""
        self._touched_at = self._clock()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what goes wrong in the block."""
        try:
            yield
        except Exception as exc:
            self.problem = explain(exc)
            log.warning("telegram_failed", problem=self.problem, error=type(exc).__name__)
            raise

    @property
    def quiet_seconds(self) -> float:
        """How long ago Telegram was last heard from; 0 before the first time."""
        return 0.0 if self._touched_at is None else self._clock() - self._touched_at

    @property
    def complaint(self) -> str:
        """What the operator should know, "" while all is well."""
        if self.problem:
            return self.problem
        if self.resting:
            return "More comes than can be answered; new messages wait at Telegram meanwhile."
        if self.quiet_seconds > QUIET_SECONDS:
            return "Telegram has not been heard from for a while; the log may say why."
        return ""


def until_done(first_pause_seconds: float) -> AsyncIterator[stamina.Attempt]:
    """Attempts without end, whatever goes wrong, after pauses that grow."""
    return stamina.retry_context(
        on=Exception,
        attempts=None,
        timeout=None,
        wait_initial=first_pause_seconds,
        wait_max=LONGEST_PAUSE_SECONDS,
        wait_jitter=first_pause_seconds,
    ).__aiter__()


def explain(error: Exception) -> str:
    """What went wrong with Telegram, and what to do, without the texts that hold the token."""
    match error:
        case Conflict():
            return "Another program polls with this token: stop it, or use another bot's token."
        case InvalidToken() | Forbidden():
            return "Telegram refuses the token: check TELEGRAM_BOT_TOKEN."
        case TimeoutError():
            return "Telegram did not answer in time; the connection is opened anew."
        case BadRequest():
            return f"Telegram refuses: {error.message}."
        case NetworkError():
            return "Telegram cannot be reached; messages wait there meanwhile."
        case TelegramError():
            return "Telegram refuses to answer at the moment; the log says why."
        case NoRoom():
            return "One chat has more waiting than fits; new messages wait at Telegram meanwhile."
        case SolemateError():
            return "Nothing can be saved, so no message is taken; they wait at Telegram."
        case _:
            return f"Our own mistake ({type(error).__name__}); the log says why."
