"""A growing answer, shown at a pace that its platform can take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from core.messages import Delta, Done, Event, Replaced, Reply


@dataclass(slots=True)
class _Growing:
    """The text so far, and who waits for more of it."""

    text: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def become(self, text: str) -> None:
        self.text = text
        self.changed.set()

    def end(self) -> None:
        self.ended.set()
        self.changed.set()


async def watch(
    events: AsyncIterator[Event],
    show: Callable[[str], Awaitable[None]],
    pause_seconds: Callable[[str], float],
    *,
    fades_seconds: float | None = None,
) -> Reply:
    """The reply that ends the events; meanwhile the text so far is shown again and again.

    After each showing there is a pause, which may depend on the text; what comes meanwhile is
    shown together, and what does not change is shown again every `fades_seconds`. A showing under
    way ends before this returns: it cannot arrive after the whole answer and undo it. Errors of
    the events pass through, `show` must not raise.
    """
    growing = _Growing()
    reply: Reply | None = None
    async with _shown_while_growing(growing, show, pause_seconds, fades_seconds):
        async for event in events:
            match event:
                case Delta(text):
                    growing.become(growing.text + text)
                case Replaced(text):
                    growing.become(text)
                case Done(whole):
                    reply = whole
                case _:
                    pass
    assert reply is not None, "an answer ends with Done"
    return reply


@asynccontextmanager
async def _shown_while_growing(
    growing: _Growing,
    show: Callable[[str], Awaitable[None]],
    pause_seconds: Callable[[str], float],
    fades_seconds: float | None,
) -> AsyncIterator[None]:
    showing = asyncio.create_task(_show_while_growing(growing, show, pause_seconds, fades_seconds))
    try:
        yield
        growing.end()
        await showing
    finally:
        showing.cancel()
        await asyncio.wait({showing})


async def _show_while_growing(
    growing: _Growing,
    show: Callable[[str], Awaitable[None]],
    pause_seconds: Callable[[str], float],
    fades_seconds: float | None,
) -> None:
    while True:
        await _set_within(growing.changed, fades_seconds)
        growing.changed.clear()
        if growing.ended.is_set():
            return
        text = growing.text
        await show(text)
        await _set_within(growing.ended, pause_seconds(text))


async def _set_within(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
