"""Answers on Telegram: a placeholder at once, edits while the text grows, at last the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from telegram import Bot, InlineKeyboardMarkup, Message, MessageEntity, ReplyParameters
from telegram.constants import MessageEntityType, MessageLimit
from telegram.error import BadRequest, Forbidden

from bots.markup import Style, Styled, split, styled, utf16_length, with_sources
from bots.telegram.courier import Courier
from bots.telegram.keyboards import thumbs
from bots.telegram.place import Place, number_of, place_from
from bots.telegram.talk import NO_PREVIEW
from core.errors import SolemateError
from core.inbox import Inbox, Post
from core.language import language_of
from core.messages import Delta, Done, Event, Language, Replaced, Reply, UserMessage
from core.wording import apology, say

log = structlog.get_logger()
T = TypeVar("T")

LIMIT = MessageLimit.MAX_TEXT_LENGTH
GROWING = " …"
_ENTITIES: dict[Style, str] = {
    "bold": MessageEntityType.BOLD,
    "italic": MessageEntityType.ITALIC,
    "code": MessageEntityType.CODE,
    "pre": MessageEntityType.PRE,
    "sources": MessageEntityType.EXPANDABLE_BLOCKQUOTE,
}


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two edits of a growing answer; Telegram allows groups 20 a minute."""

    private_seconds: float = 1.0
    group_seconds: float = 3.0
    # Long texts run into flood control sooner: at this length the pause has doubled.
    doubled_at: int = 1000

    def seconds(self, place: Place, length: int) -> float:
        """The pause after an edit that showed this many UTF-16 units."""
        base = self.group_seconds if place.is_group else self.private_seconds
        return base * (1 + length / self.doubled_at)


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


class Answers:
    """Telegram's `Bot`: shows answers, and edits after a restart what it showed before."""

    def __init__(
        self, bot: Bot, inbox: Inbox, courier: Courier, *, pace: Pace | None = None
    ) -> None:
        self._bot = bot
        self._inbox = inbox
        self._courier = courier
        self._pace = pace or Pace()
        self._showing: dict[tuple[str, str], asyncio.Event] = {}

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        """Show the answer as it grows, in the posts that a crash may have left."""
        key = (message.conversation_id, message.id)
        over = self._showing[key] = asyncio.Event()
        try:
            await self._show(message, events)
        except Forbidden:
            # The person blocked the bot or it was put out of the group: nobody is there to see.
            log.info("nobody_there", message=message.id)
        finally:
            del self._showing[key]
            over.set()

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        """Say it in the placeholder where there is one."""
        words = apology(error or SolemateError("The message failed."), _language(message))
        posts = await self._inbox.answer_posts(message.conversation_id, message.id)
        await self._put(message, posts, 0, Styled(words), None)

    async def over(self, conversation_id: str, message_id: str) -> None:
        """Wait until an answer under way is shown or has failed."""
        if event := self._showing.get((conversation_id, message_id)):
            await event.wait()

    async def _show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        place = place_from(message.conversation_id)
        posts = await self._inbox.answer_posts(message.conversation_id, message.id)
        if not posts:
            doing = "reading_photo" if message.images else "searching"
            words = Styled(say(doing, _language(message)))
            posts = [await self._send(message, 0, words, None)]
        growing = _Growing()
        reply: Reply | None = None
        async with self._edited_while_growing(place, posts[0], growing):
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
        await self._finish(message, posts, reply)

    @asynccontextmanager
    async def _edited_while_growing(
        self, place: Place, post: Post, growing: _Growing
    ) -> AsyncIterator[None]:
        """Edit the post in the block; an edit on its way arrives before the block is left.

        Cancelled on the wire it might arrive after the whole answer, and undo it.
        """
        editing = asyncio.create_task(self._edit_while_growing(place, post, growing))
        try:
            yield
            growing.end()
            await editing
        finally:
            editing.cancel()
            await asyncio.wait({editing})

    async def _edit_while_growing(self, place: Place, post: Post, growing: _Growing) -> None:
        shown = ""
        while True:
            await growing.changed.wait()
            growing.changed.clear()
            if growing.ended.is_set():
                return
            pieces = split(styled(growing.text), LIMIT - len(GROWING))
            if not pieces or pieces[0].text == shown:
                continue
            shown = pieces[0].text
            await self._offer_edit(place, post, pieces[0] + Styled(GROWING))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.seconds(place, utf16_length(shown))):
                    await growing.ended.wait()

    async def _offer_edit(self, place: Place, post: Post, piece: Styled) -> None:
        async def call() -> object:
            return await self._edit(place, post, piece.text, _entities(piece), None)

        await self._courier.offer(place.chat_id, call)

    async def _finish(self, message: UserMessage, posts: Sequence[Post], reply: Reply) -> None:
        """Show the whole reply with its sources, and the thumbs under the last piece of it."""
        whole = with_sources(styled(reply.text), reply.sources, reply.language)
        pieces = split(whole, LIMIT)
        for position, piece in enumerate(pieces):
            is_last = position == len(pieces) - 1
            keyboard = thumbs(reply.id) if is_last else None
            await self._put(message, posts, position, piece, keyboard)

    async def _put(
        self,
        message: UserMessage,
        posts: Sequence[Post],
        position: int,
        piece: Styled,
        keyboard: InlineKeyboardMarkup | None,
    ) -> None:
        """Show a piece in its post, or in a new one where there is none or it was deleted."""
        place = place_from(message.conversation_id)
        if position < len(posts):
            post = posts[position]

            async def edit(entities: Sequence[MessageEntity]) -> object:
                return await self._edit(place, post, piece.text, entities, keyboard)

            try:
                await self._styled_or_plain(place, piece, edit, repeatable=True)
                return
            except BadRequest as exc:
                if "not modified" in exc.message.lower():
                    return
                log.info("post_gone", post=post.id, problem=exc.message)
        await self._send(message, position, piece, keyboard)

    async def _send(
        self,
        message: UserMessage,
        position: int,
        piece: Styled,
        keyboard: InlineKeyboardMarkup | None,
    ) -> Post:
        """Send a piece and commit where it is; in groups the first replies to the question."""
        place = place_from(message.conversation_id)
        number = number_of(message) if place.is_group and position == 0 else None
        reply = ReplyParameters(number, allow_sending_without_reply=True) if number else None

        async def send(entities: Sequence[MessageEntity]) -> Message:
            return await self._bot.send_message(
                place.chat_id,
                piece.text,
                entities=entities,
                message_thread_id=place.thread_id or None,
                reply_markup=keyboard,
                reply_parameters=reply,
                link_preview_options=NO_PREVIEW,
            )

        sent = await self._styled_or_plain(place, piece, send, repeatable=False)
        post = Post(place.chat, str(sent.message_id), "answer", position)
        await self._inbox.add_post(message.conversation_id, message.id, post)
        return post

    async def _edit(
        self,
        place: Place,
        post: Post,
        text: str,
        entities: Sequence[MessageEntity],
        keyboard: InlineKeyboardMarkup | None,
    ) -> object:
        return await self._bot.edit_message_text(
            text,
            place.chat_id,
            int(post.id),
            entities=entities,
            reply_markup=keyboard,
            link_preview_options=NO_PREVIEW,
        )

    async def _styled_or_plain(
        self,
        place: Place,
        piece: Styled,
        call: Callable[[Sequence[MessageEntity]], Awaitable[T]],
        *,
        repeatable: bool,
    ) -> T:
        """Call with the piece's entities; without them where Telegram cannot read them."""
        entities = _entities(piece)
        try:
            return await self._courier.deliver(
                place.chat_id, lambda: call(entities), repeatable=repeatable
            )
        except BadRequest as exc:
            if not entities or "entit" not in exc.message.lower():
                raise
            log.warning("entities_refused", problem=exc.message)
        return await self._courier.deliver(place.chat_id, lambda: call(()), repeatable=repeatable)


def _entities(piece: Styled) -> Sequence[MessageEntity]:
    """The piece's spans as Telegram wants them: counted in UTF-16 units."""
    entities = [MessageEntity(_ENTITIES[s.style], s.start, s.length) for s in piece.spans]
    if not entities:
        return ()
    return MessageEntity.adjust_message_entities_to_utf_16(piece.text, entities)


def _language(message: UserMessage) -> Language:
    return message.language or language_of(message.text) or "en"
