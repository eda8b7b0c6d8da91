"""An answer that begins while its message is still being committed; nothing of it is shown yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from bots.way import Way
from core.messages import Event


class HeadStart:
    """Makes the first event at once, and the others when they are asked for.

    `stop` is what ends this answer where it is, `way` the trace that it leaves.
    """

    def __init__(self, events: AsyncGenerator[Event, None], stop: asyncio.Event, way: Way) -> None:
        self.stop = stop
        self.way = way
        self._events = events
        self._first = asyncio.ensure_future(anext(events))

    async def events(self) -> AsyncGenerator[Event, None]:
        """The answer from its beginning; raises what making it raises."""
        async with aclosing(self._events):
            yield await self._first
            async for event in self._events:
                yield event

    async def end(self) -> None:
        """Give the answer up, where it has not come to its end."""
        self._first.cancel()
        # Whatever went wrong with it is of no interest any more.
        with suppress(asyncio.CancelledError, Exception):
            await self._first
        await self._events.aclose()
        self.way.end()
