"""Answers in Slack: a status at once, a stream while the text grows, thumbs under the whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bots.courier import Courier, reaching
from bots.duels import Asking
from bots.growing import watch
from bots.slack.blocks import plain_thumbs, thumbs
from bots.slack.calls import code_of, read_error
from bots.slack.people import People
from bots.slack.place import place_from
from bots.slack.screen import Line, Screen
from bots.slack.text import escaped, rendered, so_far
from core.errors import SolemateError
from core.language import language_of
from core.messages import Event, Language, UserMessage
from core.posts import Posts
from core.wording import apology, say

log = structlog.get_logger()

# The person left, or we were put out of the channel: nobody is there to see.
NOBODY = {"channel_not_found", "is_archived", "not_in_channel", "cannot_reply_to_message"}


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two appends to a stream; Slack takes about a hundred a minute in all."""

    append_seconds: float = 1.0
    # Long texts are read slowly: at this length the pause has doubled.
    doubled_at: int = 1000
    # Slack closes a stream after about five minutes.
    rotate_seconds: float = 240.0

    def seconds(self, text: str) -> float:
        """The pause after this much text was shown."""
        return self.append_seconds * (1 + len(text) / self.doubled_at)


class Answers:
    """Slack's `Bot`: shows answers, and changes after a restart what it showed before."""

    def __init__(
        self,
        client: AsyncWebClient,
        posts: Posts,
        courier: Courier,
        people: People,
        asking: Asking,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line = Line(client, posts, courier, clock)
        self._posts = posts
        self._people = people
        self._asking = asking
        self._pace = pace or Pace()
        self._showing: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        """Show the answer as it grows, in the posts that a crash may have left."""
        try:
            with reaching(read_error):
                async with self._alone(message):
                    await self._show(message, events)
        except SlackApiError as exc:
            if code_of(exc) not in NOBODY:
                raise
            log.info("nobody_there", message=message.id, problem=code_of(exc))

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        """Say it in the placeholder where there is one."""
        words = apology(error or SolemateError("The message failed."), _language(message))
        with reaching(read_error):
            async with self._alone(message):
                screen = await self._screen(message)
                await screen.finish([escaped(words)], ())

    async def announce(self, message: UserMessage, number: int) -> None:
        """Tell a person how many are before them, in what will become their answer."""
        async with self._alone(message):
            screen = await self._screen(message)
            if screen.is_empty:
                await screen.hold_place(escaped(say("in_line", _language(message), number=number)))

    async def over(self, conversation_id: str, message_id: str) -> None:
        """Wait until an answer under way is shown or has failed."""
        if (lock := self._showing.get((conversation_id, message_id))) is not None:
            async with lock:
                pass

    async def _show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        language = _language(message)
        screen = await self._screen(message)
        if screen.is_empty:
            doing = "reading_photo" if message.photo_count else "searching"
            steps = dict.fromkeys((doing, "searching", "composing"))
            words = [say(step, language) for step in steps]
            await screen.begin(words)

        async def grow(text: str) -> None:
            await screen.grow(so_far(text, language))

        reply = await watch(events, grow, self._pace.seconds)
        await screen.finish(rendered(reply), (thumbs(reply), plain_thumbs(reply)))
        self._asking.after_answer(message, reply)

    async def _screen(self, message: UserMessage) -> Screen:
        key = (message.conversation_id, message.id)
        screen = Screen(
            self._line,
            message,
            place_from(message.conversation_id),
            self._people.user_of(message.user_id),
            await self._posts.of(*key),
            await self._posts.of(*key, "opening"),
            self._pace.rotate_seconds,
        )
        await screen.reclaim()
        return screen

    @asynccontextmanager
    async def _alone(self, message: UserMessage) -> AsyncIterator[None]:
        """Let nothing else be shown for the message meanwhile, or it would have two posts."""
        key = (message.conversation_id, message.id)
        async with self._showing.setdefault(key, asyncio.Lock()):
            yield


def _language(message: UserMessage) -> Language:
    return message.language or language_of(message.text) or "en"
