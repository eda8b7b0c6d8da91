"""Sends to Telegram as fast as it allows: a chat that is told to wait waits, the others do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import structlog
from telegram.error import BadRequest, NetworkError, RetryAfter, TelegramError, TimedOut

log = structlog.get_logger()
T = TypeVar("T")

Call = Callable[[], Awaitable[T]]
Sleep = Callable[[float], Awaitable[object]]

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5


class Courier:
    """Makes calls that belong to a chat, each again while Telegram is in the way."""

    def __init__(
        self,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._free_at: dict[int, float] = {}

    async def deliver(self, chat_id: int, call: Call[T], *, repeatable: bool) -> T:
        """The call's result, after waiting and trying again as often as it makes sense.

        Without `repeatable` a call that ended without an answer is not made again: it may have
        arrived. Raises what Telegram said last.
        """
        for attempt in range(1, ATTEMPTS):
            await self._wait(chat_id)
            try:
                return await call()
            except RetryAfter as exc:
                self._hold(chat_id, exc)
            except BadRequest:
                raise
            except NetworkError as exc:
                if isinstance(exc, TimedOut) and not repeatable:
                    raise
                log.warning("telegram_unreachable", attempt=attempt)
                await self._sleep(FIRST_PAUSE_SECONDS * 2**attempt)
        await self._wait(chat_id)
        return await call()

    async def offer(self, chat_id: int, call: Call[object]) -> None:
        """Make the call once if the chat is free; what would come too late is dropped."""
        if self._free_at.get(chat_id, 0.0) > self._clock():
            return
        try:
            await call()
        except RetryAfter as exc:
            self._hold(chat_id, exc)
        except TelegramError as exc:
            log.info("edit_dropped", chat=chat_id, error=type(exc).__name__)

    async def _wait(self, chat_id: int) -> None:
        while (left := self._free_at.get(chat_id, 0.0) - self._clock()) > 0:
            await self._sleep(left)
        self._free_at.pop(chat_id, None)

    def _hold(self, chat_id: int, error: RetryAfter) -> None:
        pause = error.retry_after
        seconds = pause.total_seconds() if isinstance(pause, timedelta) else float(pause)
        log.warning("flood_control", chat=chat_id, seconds=seconds)
        self._free_at[chat_id] = max(self._free_at.get(chat_id, 0.0), self._clock() + seconds)
