"""One answer in its thread: a stream while it can be one, edited messages where it cannot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import structlog
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from bots.courier import Courier
from bots.slack.blocks import Block, markdown
from bots.slack.calls import code_of, read_error
from bots.slack.place import Place
from bots.slack.text import escaped
from core.messages import UserMessage
from core.posts import Post, Posts

log = structlog.get_logger()
T = TypeVar("T")

GROWING = " …"
_MOST_STRAYS = 50
# What our messages carry says for which question they were posted, as which of its messages.
_MARK = "solemate_answer"
# Failures of one showing that the next, or the end, makes good.
PASSING = (SlackClientError, aiohttp.ClientError, TimeoutError)
_BAD_BLOCKS = {"invalid_blocks", "invalid_blocks_format", "invalid_arguments", "unsupported_block"}
_GONE = {"message_not_found", "cant_update_message", "edit_window_closed"}
_STREAMING = {"streaming_state_conflict", "message_in_streaming_state"}


@dataclass(frozen=True, slots=True)
class Line:
    """How screens reach Slack and the store."""

    client: AsyncWebClient
    posts: Posts
    courier: Courier
    clock: Callable[[], float]


@dataclass(slots=True)
class _Stream:
    """An open stream: since when, and what was appended to it."""

    post: Post
    opened_at: float
    shown: str = ""


class Screen:
    """The posts that show one answer; those from before a restart are edited."""

    def __init__(
        self,
        line: Line,
        message: UserMessage,
        place: Place,
        user: str | None,
        posts: Sequence[Post],
        openings: Sequence[Post],
        rotate_seconds: float,
    ) -> None:
        """`openings` are the posts that were about to be made."""
        self._line = line
        self._message = message
        self._place = place
        self._user = user
        self._posts = list(posts)
        # Positions of messages that may stand there though nothing says where.
        self._begun = {one.position for one in openings} - {one.position for one in posts}
        self._rotate_seconds = rotate_seconds
        self._stream: _Stream | None = None
        self._said = ""
        self._astray = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the answer is shown."""
        return not self._posts

    async def reclaim(self) -> None:
        """Find what was posted or begun for the answer, and of which no note is left.

        A crash, or a Slack that answers with an error after it has posted, keeps us from learning
        where it stands. A message says itself what it is. A stream cannot: but Slack ends one for
        nobody but who began it, and nothing that is none.
        """
        if not self._begun:
            return
        streams = []
        for said in await self._strays():
            mark = said.get("metadata") or {}
            if mark.get("event_type") != _MARK:
                streams.append(str(said["ts"]))
            elif mark["event_payload"].get("message") == self._message.id:
                await self._remember(str(said["ts"]), int(mark["event_payload"]["position"]))
        for ts in streams:
            if not self._begun:
                break
            with suppress(*PASSING):
                await self._stop(_Stream(Post(self._place.room, ts), 0.0), "", ())
                await self._remember(ts, min(self._begun))
        self._begun.clear()

    async def _strays(self) -> list[dict[str, Any]]:
        """What bots posted in the thread since the question, and we have no note of."""

        async def call() -> list[dict[str, Any]]:
            answer = await self._line.client.conversations_replies(
                channel=self._place.channel,
                ts=self._place.thread,
                oldest=self._message.id,
                include_all_metadata=True,
                limit=_MOST_STRAYS,
            )
            return list(answer.get("messages") or ())

        try:
            said = await self._line.courier.deliver("conversations.replies", call, repeatable=True)
        except SlackApiError as exc:
            if read_error(exc) is not None:
                raise
            log.info("thread_not_read", message=self._message.id, problem=code_of(exc))
            return []
        by_bots = [one for one in said if one.get("bot_id") and one["ts"] > self._message.id]
        knows = self._line.posts.knows
        return [one for one in by_bots if not await knows(self._place.room, str(one["ts"]))]

    async def begin(self, doing: Sequence[str]) -> None:
        """Show at once that we are at work: as a status, or in a placeholder."""

        async def call() -> object:
            return await self._line.client.assistant_threads_setStatus(
                channel_id=self._place.channel,
                thread_ts=self._place.thread,
                status=doing[0],
                loading_messages=list(doing),
            )

        try:
            await self._line.courier.offer("assistant.threads.setStatus", call)
        except SlackApiError as exc:
            log.info("no_status", problem=code_of(exc))
            await self.hold_place(escaped(doing[0]))
        except PASSING as exc:
            log.info("no_status", problem=type(exc).__name__)

    async def hold_place(self, words: str) -> None:
        """Post what will become the answer."""
        await self._post(words, ((),))

    async def grow(self, text: str) -> None:
        """Show more of the answer if Slack lets us now; never raises for what Slack says."""
        try:
            if self._posts and self._stream is None and not self._said:
                await self._edit(text)
            else:
                await self._append(text)
        except PASSING as exc:
            # Something may have arrived twice or not at all: the end writes it all anew.
            self._astray = True
            log.info("growth_not_shown", message=self._message.id, error=type(exc).__name__)

    async def finish(self, pieces: Sequence[str], under: Sequence[Sequence[Block]]) -> None:
        """Show the whole answer, and under its end the first of these blocks that Slack takes."""
        under = (*under, ())
        await self.reclaim()
        if self._stream is None or not await self._stop_with(pieces, under):
            await self._write_anew(pieces, under)

    # --- a stream ---

    async def _append(self, text: str) -> None:
        shown = self._said + (self._stream.shown if self._stream else "")
        if self._astray or not text.startswith(shown):
            self._astray = True
            return
        more = text[len(shown) :]
        if not more.strip():
            return
        if self._stream is not None and self._is_old(self._stream):
            await self._rotate(self._stream)
        if self._stream is None:
            await self._open(more)
            return
        stream = self._stream

        async def call() -> object:
            return await self._line.client.chat_appendStream(
                channel=self._place.channel, ts=stream.post.id, markdown_text=more
            )

        if await self._line.courier.offer("chat.appendStream", call) is not None:
            stream.shown += more

    async def _open(self, more: str) -> None:
        """Start a stream; where there are none, a message that grows by edits."""
        if self._user is None and not self._place.is_direct:
            # A stream in a channel needs somebody it is for.
            await self._grow_by_edits(more, "the person is not known after a restart")
            return

        position = len(self._posts)
        await self._note_opening(position)

        async def call() -> str:
            answer = await self._line.client.chat_startStream(
                channel=self._place.channel,
                thread_ts=self._place.thread,
                recipient_team_id=self._place.team,
                recipient_user_id=self._user,
                markdown_text=more.lstrip() if self._said else more,
            )
            return str(answer["ts"])

        try:
            ts = await self._line.courier.offer("chat.startStream", call)
        except SlackApiError as exc:
            if read_error(exc) is not None:
                raise
            self._begun.discard(position)
            await self._grow_by_edits(more, code_of(exc))
            return
        if ts is None:
            self._begun.discard(position)
            return
        post = await self._remember(ts, position)
        self._stream = _Stream(post, self._line.clock(), more)

    async def _grow_by_edits(self, text: str, why: str) -> None:
        log.info("no_stream", problem=why)
        if not self._posts:
            await self.hold_place(text + GROWING)
        self._astray = True

    def _is_old(self, stream: _Stream) -> bool:
        return self._line.clock() - stream.opened_at > self._rotate_seconds

    async def _rotate(self, stream: _Stream) -> None:
        """End a stream before Slack does; the next one goes on where it ends."""
        await self._stop(stream, "", ())
        self._said += stream.shown
        self._stream = None

    async def _stop_with(self, pieces: Sequence[str], under: Sequence[Sequence[Block]]) -> bool:
        """End the stream with the rest of the answer; false when it has to be written anew."""
        assert self._stream is not None
        stream, first = self._stream, pieces[0]
        said = self._said + stream.shown
        if self._astray or not first.startswith(said):
            return False
        rest = first[len(said) :]
        try:
            await self._first_taken(
                under if len(pieces) == 1 else ((),), lambda one: self._stop(stream, rest, one)
            )
        except PASSING as exc:
            log.info("stream_not_ended", message=self._message.id, error=type(exc).__name__)
            return False
        for number, piece in enumerate(pieces[1:], 2):
            await self._post(piece, under if number == len(pieces) else ((),))
        return True

    async def _stop(self, stream: _Stream, rest: str, blocks: Sequence[Block]) -> object:
        async def call() -> object:
            return await self._line.client.chat_stopStream(
                channel=self._place.channel,
                ts=stream.post.id,
                markdown_text=rest or None,
                blocks=list(blocks) or None,
            )

        return await self._line.courier.deliver("chat.stopStream", call, repeatable=False)

    # --- messages ---

    async def _edit(self, text: str) -> None:
        """Show more in a message that was posted."""
        if not text:
            return
        post = self._posts[0]

        async def call() -> object:
            return await self._line.client.chat_update(
                channel=self._place.channel,
                ts=post.id,
                text=text,
                blocks=[markdown(text + GROWING)],
            )

        await self._line.courier.offer("chat.update", call)

    async def _write_anew(self, pieces: Sequence[str], under: Sequence[Sequence[Block]]) -> None:
        """Put each piece into its message; messages too many go."""
        if self._stream is not None:
            with suppress(*PASSING):
                await self._stop(self._stream, "", ())
        posts = list(self._posts)
        for position, piece in enumerate(pieces):
            choices = under if position == len(pieces) - 1 else ((),)
            if position >= len(posts) or not await self._update(posts[position], piece, choices):
                await self._post(piece, choices, position)
        for post in posts[len(pieces) :]:
            await self._delete(post)

    async def _update(self, post: Post, piece: str, under: Sequence[Sequence[Block]]) -> bool:
        """Change a message; false when it is gone."""

        async def call(blocks: Sequence[Block]) -> object:
            return await self._line.courier.deliver(
                "chat.update",
                lambda: self._line.client.chat_update(
                    channel=self._place.channel,
                    ts=post.id,
                    text=piece,
                    blocks=[markdown(piece), *blocks],
                ),
                repeatable=True,
            )

        try:
            await self._first_taken(under, call)
        except SlackApiError as exc:
            if code_of(exc) in _GONE:
                log.info("post_gone", post=post.id, problem=code_of(exc))
                return False
            if code_of(exc) not in _STREAMING:
                raise
            # A stream from before a restart, or one whose end went astray, is still open.
            await self._stop(_Stream(post, 0.0), "", ())
            await self._first_taken(under, call)
        return True

    async def _post(
        self, piece: str, under: Sequence[Sequence[Block]], position: int | None = None
    ) -> None:
        """Post a message, and commit where it is."""
        at = len(self._posts) if position is None else position
        await self._note_opening(at)
        mark = {
            "event_type": _MARK,
            "event_payload": {"message": self._message.id, "position": at},
        }

        async def call(blocks: Sequence[Block]) -> str:
            answer = await self._line.courier.deliver(
                self._place.channel,
                lambda: self._line.client.chat_postMessage(
                    channel=self._place.channel,
                    thread_ts=self._place.thread,
                    text=piece,
                    blocks=[markdown(piece), *blocks],
                    metadata=mark,
                    unfurl_links=False,
                    unfurl_media=False,
                ),
                repeatable=False,
            )
            return str(answer["ts"])

        await self._remember(await self._first_taken(under, call), at)

    async def _delete(self, post: Post) -> None:
        try:
            await self._line.client.chat_delete(channel=self._place.channel, ts=post.id)
        except PASSING as exc:
            log.info("post_not_deleted", post=post.id, error=type(exc).__name__)

    async def _note_opening(self, position: int) -> None:
        """Commit that something is about to be posted: where it stands is known only afterwards."""
        name = f"{self._message.id}+{position}" if position else self._message.id
        self._begun.add(position)
        await self._commit(Post(self._place.room, name, "opening", position))

    async def _remember(self, ts: str, position: int) -> Post:
        post = Post(self._place.room, ts, "answer", position)
        await self._commit(post)
        self._begun.discard(position)
        self._posts[position : position + 1] = [post]
        return post

    async def _commit(self, post: Post) -> None:
        await self._line.posts.add(self._message.conversation_id, self._message.id, post)

    async def _first_taken(
        self, choices: Sequence[Sequence[Block]], call: Callable[[Sequence[Block]], Awaitable[T]]
    ) -> T:
        """The call with the first of the choices whose blocks Slack knows."""
        *most, last = choices
        for blocks in most:
            try:
                return await call(blocks)
            except SlackApiError as exc:
                if code_of(exc) not in _BAD_BLOCKS:
                    raise
                log.warning("blocks_refused", problem=code_of(exc))
        return await call(last)
