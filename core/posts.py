"""What we posted on the platforms: which message a post belongs to, and what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.database import upsert
from core.store import Store
from core.tables import posts, turns
from core.transactions import now_of

PostKind = Literal["answer", "correction", "opening"]


@dataclass(frozen=True, slots=True)
class Post:
    """Something we posted on a platform about a message: its answer, or a request to correct it.

    `place` is the platform's chat or channel, `id` the post's id there; `position` counts the
    posts of one answer from 0. An `opening`, named after the message, says that the post in this
    position is about to be made: it may stand there though we never learned where.
    """

    place: str
    id: str
    kind: PostKind = "answer"
    position: int = 0


class Posts:
    """Where each message's answer is shown, so that a restart changes it there."""

    def __init__(self, store: Store, *, clock: Callable[[], float] | None = None) -> None:
        """Without a `clock` the database's is gone by."""
        self._store = store
        self._clock = clock

    async def add(self, conversation_id: str, message_id: str, post: Post) -> None:
        """Commit where a message's answer is shown, so that a restart changes it there."""
        row = {
            "place": post.place,
            "post_id": post.id,
            "kind": post.kind,
            "conversation_id": conversation_id,
            "message_id": message_id,
            "position": post.position,
        }

        def work(connection: Connection) -> None:
            row["posted_at"] = now_of(connection) if self._clock is None else self._clock()
            upsert(connection, posts, row, key=("place", "post_id"))

        await self._store.run(work)

    async def forget(self, conversation_id: str, message_id: str) -> None:
        """Delete where a message's answer is shown."""
        statement = sa.delete(posts).where(
            posts.c.conversation_id == conversation_id, posts.c.message_id == message_id
        )
        await self._store.run(lambda connection: connection.execute(statement))

    async def of(
        self, conversation_id: str, message_id: str, kind: PostKind = "answer"
    ) -> list[Post]:
        """The posts about a message, in order; of two in one position the later."""
        query = (
            sa.select(posts)
            .where(
                posts.c.conversation_id == conversation_id,
                posts.c.message_id == message_id,
                posts.c.kind == kind,
            )
            .order_by(posts.c.position, posts.c.posted_at)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        found = {row.position: Post(row.place, row.post_id, row.kind, row.position) for row in rows}
        return list(found.values())

    async def knows(self, place: str, post_id: str) -> bool:
        """Whether it was committed that we posted this, whatever it shows."""
        query = sa.select(posts.c.kind).where(posts.c.place == place, posts.c.post_id == post_id)
        row = await self._store.run(lambda connection: connection.execute(query).first())
        return row is not None

    async def reply_of(self, place: str, post_id: str, kind: PostKind) -> str | None:
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
