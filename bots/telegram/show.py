"""Answers on Telegram: a sign of life at once, the text while it grows, at last the whole.

A private chat shows the growing text as a draft of the message to come. Elsewhere, and where
Telegram takes no draft, a placeholder is sent and edited; a restart goes on in the same one.

What is sent is sent again when no answer came, and may have arrived all the same: so what is sent
is a placeholder, whose number is committed, and only an edit puts the answer there. It is left out
where calls are scarce.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import structlog
from telegram import Bot, InlineKeyboardMarkup, Message, MessageEntity, ReplyParameters
from telegram.constants import MessageLimit
from telegram.error import BadRequest, Forbidden, InvalidToken, NetworkError, TelegramError

from bots.courier import Courier, reaching
from bots.duels import Asking
from bots.growing import watch
from bots.markup import Styled, split, styled, utf16_length, with_sources
from bots.telegram.calls import Drafts, read_error
from bots.telegram.entities import entities_of, styled_or_plain
from bots.telegram.keyboards import thumbs
from bots.telegram.place import Names, Place, number_of
from bots.telegram.talk import NO_PREVIEW
from core.errors import SolemateError
from core.language import language_of
from core.messages import Event, Language, Reply, UserMessage
from core.posts import Post, Posts
from core.wording import apology, say

log = structlog.get_logger()
T = TypeVar("T")

LIMIT = MessageLimit.MAX_TEXT_LENGTH
GROWING = " …"
TO_COME = Styled("…")
# A draft is gone after 30 seconds without a change.
DRAFT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two edits of a growing answer; Telegram allows groups 20 a minute."""

    draft_seconds: float = 0.5
    private_seconds: float = 1.0
    group_seconds: float = 3.0
    # Long texts run into flood control sooner: at this length the pause has doubled.
    doubled_at: int = 1000

    def after_edit(self, place: Place, length: int) -> float:
        """The pause after an edit that showed this many UTF-16 units."""
        base = self.group_seconds if place.is_group else self.private_seconds
        return base * (1 + length / self.doubled_at)

    def after_draft(self, length: int) -> float:
        """The pause after a draft of this many UTF-16 units."""
        return self.draft_seconds * (1 + length / self.doubled_at)


@dataclass(frozen=True, slots=True)
class _Canvas:
    """Where a growing text is drawn, and the pause after so many UTF-16 units of it.

    `words` stand there first. What is drawn fades after a while, or with None never.
    """

    words: Styled
    draw: Callable[[Styled], Awaitable[object]]
    pause_seconds: Callable[[int], float]
    fades_seconds: float | None = None


class Answers:
    """Telegram's `Bot`: shows answers, and edits after a restart what it showed before."""

    def __init__(
        self,
        bot: Bot,
        posts: Posts,
        courier: Courier,
        asking: Asking,
        names: Names,
        *,
        pace: Pace | None = None,
    ) -> None:
        self._bot = bot
        self._posts = posts
        self._courier = courier
        self._asking = asking
        self._names = names
        self._pace = pace or Pace()
        self._showing: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._without_drafts: set[int] = set()

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        """Show the answer as it grows, in the posts that a crash may have left."""
        try:
            with reaching(read_error):
                async with self._alone(message):
                    await self._show(message, events)
        except Forbidden:
            # The person blocked the bot or it was put out of the group: nobody is there to see.
            log.info("nobody_there", message=message.id)

    async def announce(self, message: UserMessage, number: int) -> None:
        """Say that the message has to wait as the `number`th; its answer will stand there."""
        async with self._alone(message):
            if not await self._posts.of(message.conversation_id, message.id):
                words = say("in_line", _language(message), number=number)
                await self._send(message, 0, Styled(words), None)

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        """Say it in the placeholder where there is one."""
        words = apology(error or SolemateError("The message failed."), _language(message))
        with reaching(read_error):
            async with self._alone(message):
                posts = await self._posts.of(message.conversation_id, message.id)
                await self._put(message, posts, 0, Styled(words), None)

    async def over(self, message: UserMessage) -> None:
        """Wait until nothing is being shown for the message any more."""
        async with self._alone(message):
            pass

    @asynccontextmanager
    async def _alone(self, message: UserMessage) -> AsyncIterator[None]:
        """Let nothing else be shown for the message meanwhile, or it would have two posts."""
        key = (message.conversation_id, message.id)
        lock = self._showing.setdefault(key, asyncio.Lock())
        async with lock:
            yield

    async def _show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        posts = await self._posts.of(message.conversation_id, message.id)
        canvas, posts = await self._begin(message, posts)
        reply = await self._draw_while_growing(canvas, events)
        await self._finish(message, posts, reply)
        self._asking.after_answer(message, reply)

    async def _begin(self, message: UserMessage, posts: list[Post]) -> tuple[_Canvas, list[Post]]:
        """Show that something is being done; where, and the posts that are there now."""
        place = self._names.where(message.conversation_id)
        words = Styled(
            say("reading_photo" if message.photo_count else "searching", _language(message))
        )
        if not posts and await self._begin_draft(message, place, words):
            return self._draft(message, place, words), posts
        if not posts:
            posts = [await self._send(message, 0, words, None)]
        return self._edited(place, posts[0], words), posts

    async def _begin_draft(self, message: UserMessage, place: Place, words: Styled) -> bool:
        """Draw the words as a draft; whether Telegram takes drafts here."""
        if place.is_group or place.chat_id in self._without_drafts:
            return False
        call = partial(self._send_draft, message, place, words)
        try:
            # Drafts and answers share one rate: where it is used up, an answer must not wait.
            await self._courier.offer(Drafts(place.chat_id), call)
        # A server that does not know the method says "not found", as it does of wrong tokens.
        except (BadRequest, InvalidToken) as exc:
            log.info("draft_refused", problem=type(exc).__name__)
            self._without_drafts.add(place.chat_id)
            return False
        except NetworkError as exc:
            log.info("draft_lost", problem=type(exc).__name__)
        return True

    def _draft(self, message: UserMessage, place: Place, words: Styled) -> _Canvas:
        async def draw(piece: Styled) -> object:
            call = partial(self._send_draft, message, place, piece)
            return await self._courier.offer(Drafts(place.chat_id), call)

        return _Canvas(words, draw, self._pace.after_draft, DRAFT_SECONDS)

    def _edited(self, place: Place, post: Post, words: Styled) -> _Canvas:
        async def draw(piece: Styled) -> object:
            whole = piece + Styled(GROWING)
            call = partial(self._edit, place, post, whole.text, entities_of(whole), None)
            return await self._courier.offer(place.chat_id, call)

        return _Canvas(words, draw, partial(self._pace.after_edit, place))

    async def _send_draft(self, message: UserMessage, place: Place, piece: Styled) -> object:
        return await self._bot.send_message_draft(
            place.chat_id,
            _draft_id(message),
            piece.text,
            message_thread_id=place.thread_id or None,
            entities=entities_of(piece),
        )

    async def _draw_while_growing(self, canvas: _Canvas, events: AsyncIterator[Event]) -> Reply:
        drawn = canvas.words

        async def show(text: str) -> None:
            nonlocal drawn
            pieces = split(styled(text), LIMIT - len(GROWING))
            piece = pieces[0] if pieces else canvas.words
            if piece == drawn and canvas.fades_seconds is None:
                return
            drawn = piece
            try:
                await canvas.draw(piece)
            except TelegramError as exc:
                log.info("growth_not_shown", error=type(exc).__name__)

        def pause_seconds(_text: str) -> float:
            return canvas.pause_seconds(utf16_length(drawn.text))

        return await watch(events, show, pause_seconds, fades_seconds=canvas.fades_seconds)

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
        post = posts[position] if position < len(posts) else await self._hold(message, position)
        if post is None or not await self._fill(post, message, piece, keyboard):
            await self._send(message, position, piece, keyboard)

    async def _hold(self, message: UserMessage, position: int) -> Post | None:
        """A new post that a piece can be put into; None where calls are scarce."""
        if not self._courier.has_room(self._names.where(message.conversation_id).chat_id):
            return None
        return await self._send(message, position, TO_COME, None)

    async def _fill(
        self,
        post: Post,
        message: UserMessage,
        piece: Styled,
        keyboard: InlineKeyboardMarkup | None,
    ) -> bool:
        """Put a piece into its post; false where that is no longer there."""
        place = self._names.where(message.conversation_id)

        async def edit(entities: Sequence[MessageEntity]) -> object:
            return await self._edit(place, post, piece.text, entities, keyboard)

        try:
            await self._styled_or_plain(place, piece, edit)
        except BadRequest as exc:
            if "not modified" in exc.message.lower():
                return True
            log.info("post_gone", post=post.id, problem=exc.message)
            return False
        return True

    async def _send(
        self,
        message: UserMessage,
        position: int,
        piece: Styled,
        keyboard: InlineKeyboardMarkup | None,
    ) -> Post:
        """Send a piece and commit where it is; in groups the first replies to the question."""
        place = self._names.where(message.conversation_id)
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

        sent = await self._styled_or_plain(place, piece, send)
        post = Post(self._names.chat(place), str(sent.message_id), "answer", position)
        await self._posts.add(message.conversation_id, message.id, post)
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
    ) -> T:
        """Call with the piece's entities, or without them.

        A call that may have arrived is made again: a placeholder that stays, or an
        answer that comes twice, is better than none.
        """

        async def deliver(entities: Sequence[MessageEntity]) -> T:
            return await self._courier.deliver(
                place.chat_id, lambda: call(entities), repeatable=True
            )

        return await styled_or_plain(entities_of(piece), deliver)


def _draft_id(message: UserMessage) -> int:
    """The same number for the same message; Telegram animates from one text to the next."""
    return number_of(message) or zlib.crc32(message.id.encode()) >> 1 or 1


def _language(message: UserMessage) -> Language:
    return message.language or language_of(message.text) or "en"
