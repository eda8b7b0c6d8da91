"""Answers as they grow, for whoever watches: pages and API calls that come, go and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress

from core.errors import SolemateError
from core.messages import Done, Event, Queued, Replaced, UserMessage

# A finished answer stays here this long for those who lost their connection; then the store has it.
KEEP_SECONDS = 120.0
# After so long without news it is asked whether another process has answered.
ELSEWHERE_SECONDS = 1.0

Elsewhere = Callable[[], Awaitable[Event | None]]
"""The end of an answer that another process has made; raises where there will be none."""


class Feed:
    """One answer's events so far; any number of watchers follow it from its beginning."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._error: SolemateError | None = None
        self._over = False
        self._changed = asyncio.Condition()

    async def add(self, event: Event) -> None:
        """Another event; `Done` is the last."""
        async with self._changed:
            self._events.append(event)
            self._over = isinstance(event, Done)
            self._changed.notify_all()

    async def queue(self, number: int) -> None:
        """The answer has to wait as the `number`th, unless it has begun by now."""
        if not (self._events or self._over):
            await self.add(Queued(number))

    async def fail(self, error: SolemateError) -> None:
        """There will be no answer."""
        async with self._changed:
            self._error = error
            self._over = True
            self._changed.notify_all()

    async def restart(self) -> None:
        """The answer begins, perhaps not for the first time: what was shown instead of it goes."""
        if self._events:
            await self.add(Replaced(""))

    async def follow(self, elsewhere: Elsewhere | None = None) -> AsyncGenerator[Event, None]:
        """All events from the first on, then those to come; raises the error that ended it.

        `elsewhere` is asked again and again while nothing comes.
        """
        seen = 0
        while True:
            while not await self._has_more(seen, None if elsewhere is None else ELSEWHERE_SECONDS):
                assert elsewhere is not None
                await self._ask(elsewhere)
            async with self._changed:
                fresh = self._events[seen:]
                over, error = self._over, self._error
            for event in fresh:
                yield event
            seen += len(fresh)
            if over:
                if error is not None:
                    raise error
                return

    async def _has_more(self, seen: int, seconds: float | None) -> bool:
        """Wait for more than the events seen, or for the end; false when the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: len(self._events) > seen or self._over)
                return True
        return False

    async def _ask(self, elsewhere: Elsewhere) -> None:
        try:
            event = await elsewhere()
        except SolemateError as exc:
            await self.fail(exc)
            return
        if event is not None and not self._over:
            await self.add(event)


class Feeds:
    """The feeds by conversation and message; the `Bot` of the page and of the HTTP API."""

    def __init__(self) -> None:
        self._feeds: dict[tuple[str, str], Feed] = {}

    def open(self, conversation_id: str, message_id: str) -> Feed:
        """The feed of this message, made when there is none yet."""
        return self._feeds.setdefault((conversation_id, message_id), Feed())

    def find(self, conversation_id: str, message_id: str) -> Feed | None:
        """The feed of this message while it is kept."""
        return self._feeds.get((conversation_id, message_id))

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        """Add the events to the message's feed."""
        feed = self.open(message.conversation_id, message.id)
        await feed.restart()
        async for event in events:
            await feed.add(event)
        self.forget_later(message.conversation_id, message.id)

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        """End the message's feed with the error."""
        feed = self.open(message.conversation_id, message.id)
        await feed.fail(error or SolemateError("The message could not be handled."))
        self.forget_later(message.conversation_id, message.id)

    def forget_later(self, conversation_id: str, message_id: str) -> None:
        """Keep the message's feed a while longer: its answer is over."""
        key = (conversation_id, message_id)
        loop = asyncio.get_running_loop()
        loop.call_later(KEEP_SECONDS, self._feeds.pop, key, None)
