"""What the chat page and the HTTP API share: take a message in, follow its answer, rate it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from bots.feeds import Elsewhere, Feeds
from bots.lanes import Lanes
from core.duels import Duels
from core.engine import Engine
from core.errors import NotFound, SolemateError
from core.inbox import Inbox
from core.messages import Done, Event, Feedback, Platform, Turn, UserMessage
from core.notices import Notices
from core.photos import PhotoLimits, open_photo, to_jpeg
from core.store import Store


@dataclass(frozen=True, slots=True)
class Desk:
    """The expert as the web sees it.

    Without `duels` nobody is asked to compare answers, without `notices` nobody is told what they
    taught.
    """

    store: Store
    inbox: Inbox
    engine: Engine
    lanes: Lanes
    feeds: Feeds
    photo_limits: PhotoLimits
    duels: Duels | None = None
    notices: Notices | None = None

    async def ask(
        self, message: UserMessage, *, sender: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Commit a message and return its answer's events; the same message is answered once.

        The message is checked and committed when this returns, before the first event. Raises
        `MessageRejected`, `ImageRejected` and `Busy` for what cannot be taken; `sender` is whose
        limits count, by default those of the message's person. Over a backlog the first event tells
        how many are before it.
        """
        self.engine.check(message)
        safe = [await asyncio.to_thread(self._safe, image) for image in message.images]
        behind = await self.lanes.behind(message)
        fresh = await self.lanes.submit(replace(message, images=tuple(safe)), sender=sender)
        if fresh:
            feed = self.feeds.open(message.conversation_id, message.id)
            if behind:
                await feed.queue(behind + 1)
            key = (message.platform, message.conversation_id, message.id)
            return feed.follow(self._elsewhere(*key))
        return self.follow(message.platform, message.conversation_id, message.id)

    async def follow(
        self, platform: Platform, conversation_id: str, message_id: str
    ) -> AsyncGenerator[Event, None]:
        """A message's answer from its beginning, whether under way, finished or waiting.

        `NotFound` when no such message was taken in. Whoever stops following stops nothing.
        """
        turn = await self.store.answered(platform, conversation_id, message_id)
        if turn is not None:
            yield Done(turn.reply)
            return
        feed = self.feeds.find(conversation_id, message_id)
        if feed is None:
            waiting = await self.inbox.pending(conversation_id)
            if message_id not in {message.id for message in waiting}:
                raise NotFound(f"There is no message {message_id!r} in this conversation.")
            feed = self.feeds.open(conversation_id, message_id)
        elsewhere = self._elsewhere(platform, conversation_id, message_id)
        async with aclosing(feed.follow(elsewhere)) as events:
            async for event in events:
                yield event

    def _elsewhere(
        self, platform: Platform, conversation_id: str, message_id: str
    ) -> Elsewhere | None:
        """What finds an answer of another replica; None where there is no other."""
        key = (platform, conversation_id, message_id)

        async def answer() -> Event | None:
            waits = await self.inbox.is_waiting(*key)
            turn = await self.store.answered(*key)
            if turn is None and waits:
                return None
            self.feeds.forget_later(conversation_id, message_id)
            if turn is None:
                raise SolemateError("The message could not be handled.")
            return Done(turn.reply)

        return None if self.store.exclusive else answer

    async def rate(self, feedback: Feedback) -> None:
        """Commit a verdict; `NotFound` without such a reply."""
        await self.engine.rate(feedback)
        self.lanes.metrics.rated(feedback.rating)

    async def conversation(self, conversation_id: str) -> tuple[Turn, ...]:
        """The conversation's turns, oldest first."""
        return await self.store.history(conversation_id, rounds=200)

    async def forget(self, conversation_id: str) -> bool:
        """Delete a conversation with all that belongs to it; whether there was one.

        An answer under way ends first, on whatever replica, or it would be stored afterwards.
        """
        for message in await self.inbox.call_off(conversation_id):
            await self.lanes.stop(conversation_id, message.id)
            with suppress(SolemateError):
                async for _ in self.follow(message.platform, conversation_id, message.id):
                    pass
        return await self.store.delete_conversation(conversation_id)

    def _safe(self, image: bytes) -> bytes:
        return to_jpeg(open_photo(image, self.photo_limits))
