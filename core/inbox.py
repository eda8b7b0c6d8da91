"""The durable inbox: a message is committed here before its platform hears that it arrived.

A row is `new`, then `leased` to one owner until a moment, then `done` or `dead`; a dead one keeps
the moment when its last lease ended. A lease that runs out is taken up again, so a crash delays a
message and never loses it.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.errors import Busy
from core.messages import Platform, UserMessage
from core.store import Store, upsert
from core.tables import inbox, posts, turns

log = structlog.get_logger()

KEY = ("platform", "conversation_id", "message_id")
_UNANSWERED = inbox.c.state.in_(("new", "leased"))


@dataclass(frozen=True, slots=True)
class Letter:
    """A leased message; `attempts` counts this lease too."""

    id: int
    message: UserMessage
    attempts: int
    received_at: float


PostKind = Literal["answer", "correction"]


@dataclass(frozen=True, slots=True)
class Post:
    """Something we posted on a platform about a message: its answer, or a request to correct it.

    `place` is the platform's chat or channel, `id` the post's id there; `position` counts the
    posts of one answer from 0.
    """

    place: str
    id: str
    kind: PostKind = "answer"
    position: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was put aside at this moment (Unix seconds), with an apology."""

    message: UserMessage
    at: float


class Inbox:
    """Messages that came and are not answered yet."""

    def __init__(
        self,
        store: Store,
        *,
        owner: str,
        depth: int,
        lease_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._owner = owner
        self._depth = depth
        self._lease_seconds = lease_seconds
        self._clock = clock

    async def put(self, message: UserMessage) -> bool:
        """Commit a message; false when the same one was here before, however many wait.

        Raises `Busy` when `depth` messages of its conversation are waiting already.
        """
        row = {
            "platform": message.platform,
            "conversation_id": message.conversation_id,
            "message_id": message.id,
            "message": _to_json(message),
            "state": "new",
            "attempts": 0,
            "received_at": self._clock(),
        }

        def work(connection: Connection) -> bool:
            of_conversation = sa.and_(
                inbox.c.platform == message.platform,
                inbox.c.conversation_id == message.conversation_id,
            )
            known = sa.select(inbox.c.id).where(of_conversation, inbox.c.message_id == message.id)
            if connection.execute(known).first() is not None:
                return False
            waiting = sa.select(sa.func.count()).where(of_conversation, _UNANSWERED)
            if connection.execute(waiting).scalar_one() >= self._depth:
                raise Busy(
                    f"{self._depth} messages of this conversation are waiting; wait for their "
                    "answers.",
                    retry_after_seconds=10,
                )
            return upsert(connection, inbox, row, key=KEY)

        return await self._store.run(work)

    async def lease(self) -> Letter | None:
        """The oldest message whose conversation is not being answered, leased to us."""
        now = self._clock()
        busy = inbox.alias("busy")
        first = inbox.alias("first")
        free = sa.or_(inbox.c.state == "new", inbox.c.leased_until < now)
        query = (
            sa.select(inbox)
            .where(
                _UNANSWERED,
                free,
                ~sa.exists().where(
                    busy.c.platform == inbox.c.platform,
                    busy.c.conversation_id == inbox.c.conversation_id,
                    busy.c.state == "leased",
                    busy.c.leased_until >= now,
                ),
                ~sa.exists().where(
                    first.c.platform == inbox.c.platform,
                    first.c.conversation_id == inbox.c.conversation_id,
                    first.c.state.in_(("new", "leased")),
                    first.c.id < inbox.c.id,
                ),
            )
            .order_by(inbox.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )

        def work(connection: Connection) -> Letter | None:
            while (row := connection.execute(query).one_or_none()) is not None:
                this_row = sa.update(inbox).where(inbox.c.id == row.id)
                try:
                    message = _from_json(row.message)
                except (KeyError, TypeError, ValueError):
                    log.exception("unreadable_letter", row=row.id)
                    connection.execute(this_row.values(state="dead"))
                    continue
                connection.execute(
                    this_row.values(
                        state="leased",
                        owner=self._owner,
                        leased_until=now + self._lease_seconds,
                        attempts=row.attempts + 1,
                    )
                )
                return Letter(row.id, message, row.attempts + 1, row.received_at)
            return None

        return await self._store.run(work)

    async def take_over(self) -> int:
        """Free every lease: only for whoever knows that all other owners are gone; how many."""
        statement = (
            sa.update(inbox)
            .where(inbox.c.state == "leased")
            .values(state="new", owner=None, leased_until=None)
        )
        return await self._store.run(lambda connection: connection.execute(statement).rowcount)

    async def done(self, letter: Letter) -> None:
        """The letter is answered, whoever holds it now.

        Its row stays as the key that makes a repeat harmless, without the text and the photos.
        """
        await self._change(inbox.c.id == letter.id, state="done", message={})

    async def dead(self, letter: Letter) -> None:
        """The letter failed too often: it is put aside, and shown with its apology."""
        await self._change(self._held(letter), state="dead", leased_until=self._clock())

    async def give_back(self, letter: Letter) -> None:
        """Nobody answers the letter now; whoever comes next may, as if it had not been tried."""
        await self._change(self._held(letter), state="new", attempts=letter.attempts - 1)

    async def retry(self, letter: Letter) -> None:
        """The attempt failed: let the letter be leased again."""
        await self._change(self._held(letter), state="new")

    async def waiting(self) -> tuple[int, float]:
        """How many messages wait or are being answered, and the oldest one's age in seconds."""
        query = sa.select(sa.func.count(), sa.func.min(inbox.c.received_at)).where(_UNANSWERED)
        count, oldest = await self._store.run(lambda connection: connection.execute(query).one())
        return count, self._clock() - oldest if oldest is not None else 0.0

    async def pending(self, conversation_id: str) -> list[UserMessage]:
        """The conversation's messages that have no answer yet, in order."""
        query = (
            sa.select(inbox.c.message)
            .where(inbox.c.conversation_id == conversation_id, _UNANSWERED)
            .order_by(inbox.c.id)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return [_from_json(row) for row in rows]

    async def conversations_waiting(self, prefix: str) -> set[str]:
        """The conversations with messages that have no answer yet, whose id begins like this."""
        query = (
            sa.select(inbox.c.conversation_id)
            .where(inbox.c.conversation_id.startswith(prefix, autoescape=True), _UNANSWERED)
            .distinct()
        )
        rows = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return set(rows)

    async def dead_letters(self, conversation_id: str) -> list[DeadLetter]:
        """The conversation's messages that were put aside, in order."""
        at = sa.func.coalesce(inbox.c.leased_until, inbox.c.received_at)
        query = (
            sa.select(inbox.c.message, at.label("at"))
            .where(inbox.c.conversation_id == conversation_id, inbox.c.state == "dead")
            .order_by(inbox.c.id)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        letters = []
        for row in rows:
            # What could not be read when it was leased is no more readable now.
            with suppress(KeyError, TypeError, ValueError):
                letters.append(DeadLetter(_from_json(row.message), row.at))
        return letters

    async def forget_done(self, *, older_than_seconds: float) -> int:
        """Delete finished rows of this age; platforms do not repeat messages that old."""
        statement = sa.delete(inbox).where(
            inbox.c.state == "done", inbox.c.received_at < self._clock() - older_than_seconds
        )
        return await self._store.run(lambda connection: connection.execute(statement).rowcount)

    async def add_post(self, conversation_id: str, message_id: str, post: Post) -> None:
        """Commit where a message's answer is shown, so that a restart changes it there."""
        row = {
            "place": post.place,
            "post_id": post.id,
            "kind": post.kind,
            "conversation_id": conversation_id,
            "message_id": message_id,
            "position": post.position,
            "posted_at": self._clock(),
        }
        key = ("place", "post_id")
        await self._store.run(lambda connection: upsert(connection, posts, row, key=key))

    async def answer_posts(self, conversation_id: str, message_id: str) -> list[Post]:
        """The posts that show a message's answer, in order; of two in one position the later."""
        query = (
            sa.select(posts)
            .where(
                posts.c.conversation_id == conversation_id,
                posts.c.message_id == message_id,
                posts.c.kind == "answer",
            )
            .order_by(posts.c.position, posts.c.posted_at)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        found = {row.position: Post(row.place, row.post_id, row.kind, row.position) for row in rows}
        return list(found.values())

    async def reply_of_post(self, place: str, post_id: str, kind: PostKind) -> str | None:
        """The id of the reply that a post shows or asks about; None for any other post."""
        query = (
            sa.select(turns.c.reply_id)
            .join(
                posts,
                sa.and_(
                    posts.c.conversation_id == turns.c.conversation_id,
                    posts.c.message_id == turns.c.message_id,
                ),
            )
            .where(posts.c.place == place, posts.c.post_id == post_id, posts.c.kind == kind)
        )
        return await self._store.run(lambda connection: connection.execute(query).scalar())

    def _held(self, letter: Letter) -> sa.ColumnElement[bool]:
        """Whether this very lease is still ours: not run out and taken up by another."""
        return sa.and_(
            inbox.c.id == letter.id,
            inbox.c.state == "leased",
            inbox.c.owner == self._owner,
            inbox.c.attempts == letter.attempts,
        )

    async def _change(self, which: sa.ColumnElement[bool], **values: Any) -> None:
        """Give up the lease and set the values."""
        statement = (
            sa.update(inbox).where(which).values({"owner": None, "leased_until": None, **values})
        )
        await self._store.run(lambda connection: connection.execute(statement))


def _to_json(message: UserMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "platform": message.platform,
        "conversation_id": message.conversation_id,
        "user_id": message.user_id,
        "text": message.text,
        "images": [base64.b64encode(image).decode("ascii") for image in message.images],
        "language": message.language,
        "max_tokens": message.max_tokens,
        "temperature": message.temperature,
    }


def _from_json(row: dict[str, Any]) -> UserMessage:
    return UserMessage(
        **{
            **row,
            "platform": Platform(row["platform"]),
            "images": tuple(base64.b64decode(image) for image in row["images"]),
        }
    )
