"""What belongs to a message and is fetched when its turn comes: photos, and the thread so far."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import structlog
from slack_sdk.errors import SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from bots.bot import Question
from bots.slack.files import Files, photos_in
from bots.slack.people import Me, People, Person
from bots.slack.place import Place, place_from
from bots.slack.text import plain
from core.engine import MAX_PHOTOS
from core.errors import ImageRejected
from core.followup import points_back
from core.language import language_of
from core.messages import Language, Outcome, Reply, Turn, UserMessage
from core.store import Store

log = structlog.get_logger()

ROUNDS = 10
MOST_MESSAGES = 50
# Of a thread's messages so many come at once, and so often they are asked for.
PAGE = 1000
MOST_PAGES = 10


@dataclass(frozen=True, slots=True)
class Reading:
    """Completes messages."""

    client: AsyncWebClient
    store: Store
    files: Files
    people: People
    me: Me
    expire_seconds: float

    async def prepare(self, message: UserMessage) -> Question:
        """The message with its photos, and what was said before where that is not in the store.

        Raises `ImageRejected` for a photo that cannot be had.
        """
        place = place_from(message.conversation_id)
        known = await self.store.history(message.conversation_id, rounds=ROUNDS)
        history: Sequence[Turn] | None = None
        if place.thread != message.id and not place.is_direct:
            message, history = await self._in_thread(message, place, known)
        elif place.is_direct and not known:
            history = await self._goes_on(message, place)
        images = await asyncio.gather(*(self.files.fetch(one) for one in message.files))
        wordless = not any(char.isalpha() for char in message.text)
        if message.language is None and wordless and not (history or known):
            # A photo alone speaks no language, and nothing before it has shown one.
            message = replace(message, language=await self._language_of_app(message.user_id))
        return Question(replace(message, images=tuple(images), files=()), history)

    async def _in_thread(
        self, message: UserMessage, place: Place, known: Sequence[Turn]
    ) -> tuple[UserMessage, Sequence[Turn] | None]:
        """Somebody asks in the middle of a thread: what stands above belongs to the question.

        So does its last photo, where the question brings none and is the first one here.
        """
        said = await self._thread(place, message.id)
        if said is None:
            return message, None
        ours = {turn.message_id for turn in known}
        others = [one for one in said if one.get("ts") not in ours and not one.get("bot_id")]
        if not known and not message.photo_count:
            message = replace(message, files=_last_photos(others, self.files.max_bytes))
        turns = [*known, *(self._as_turn(one, message) for one in others)]
        turns = [turn for turn in turns if turn.question]
        return message, sorted(turns, key=lambda turn: turn.asked_at)[-ROUNDS:]

    async def _thread(self, place: Place, until: str) -> list[Mapping[str, Any]] | None:
        """The thread's last messages before this one; None where we may not read it.

        Nor is one without end read: Slack gives the earliest first.
        """
        said = deque[Mapping[str, Any]](maxlen=MOST_MESSAGES)
        cursor: str | None = None
        try:
            for _ in range(MOST_PAGES):
                answer = await self.client.conversations_replies(
                    channel=place.channel,
                    ts=place.thread,
                    latest=until,
                    limit=PAGE,
                    cursor=cursor,
                )
                said += [one for one in answer.get("messages") or [] if one.get("ts", "") < until]
                cursor = (answer.get("response_metadata") or {}).get("next_cursor")
                if not cursor:
                    return list(said)
        except (SlackClientError, aiohttp.ClientError, TimeoutError) as exc:
            log.warning("thread_not_read", error=type(exc).__name__, advice="channels:history")
            return None
        log.info("thread_too_long", pages=MOST_PAGES)
        return None

    async def _goes_on(self, message: UserMessage, place: Place) -> Sequence[Turn] | None:
        """The thread before this one, where a direct message without a thread points back to it."""
        if not points_back(message.text):
            return None
        since = time.time() - self.expire_seconds
        for conversation, _ in await self.store.conversations_of(message.user_id, limit=5):
            if conversation.startswith(f"{place.room}:"):
                return await self.store.history(conversation, rounds=ROUNDS, since=since) or None
        return None

    async def _language_of_app(self, user_id: str) -> Language | None:
        user = self.people.user_of(user_id)
        return await self.people.language_of_app(Person(user_id, user)) if user else None

    def _as_turn(self, said: Mapping[str, Any], message: UserMessage) -> Turn:
        """What somebody said without asking us, as a turn that has no answer."""
        text = plain(str(said.get("text") or ""), self.me.bot_user)
        reply = Reply(
            id="",
            conversation_id=message.conversation_id,
            text="",
            outcome=Outcome.REFUSED,
            language=language_of(text) or "en",
        )
        return Turn(
            reply=reply,
            message_id=str(said.get("ts")),
            user_id="",
            platform=message.platform,
            question=text,
            query=text,
            prompt=(),
            passages=(),
            sampling={},
            asked_at=float(said.get("ts") or 0),
        )


def _last_photos(said: Sequence[Mapping[str, Any]], max_bytes: int) -> tuple[str, ...]:
    for one in reversed(said):
        try:
            if found := photos_in(one, max_bytes):
                return found[:MAX_PHOTOS]
        except ImageRejected:
            continue
    return ()
