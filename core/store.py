"""The store: conversations, turns, photos and feedback, in SQLite or PostgreSQL.

Everything goes through SQLAlchemy Core, in dialect-neutral statements but for the upserts that
SQLite and PostgreSQL spell alike. SQLite has one writer: all statements of a `Store` run one
after the other on one thread, and a lock file keeps a second process out. On PostgreSQL many
transactions run at once, in this process and in others: what looks before it writes takes a `lock`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa
import structlog
from filelock import FileLock, Timeout
from sqlalchemy.engine import Connection, make_url

from core.database import CONNECTIONS, migrate, not_opened, open_database, upsert
from core.errors import NotFound, StoreError
from core.messages import (
    ChatMessage,
    Feedback,
    ImageTag,
    Language,
    Outcome,
    Passage,
    Platform,
    Rating,
    Reason,
    Reply,
    Source,
    Timings,
    Turn,
    Wish,
    Wishes,
)
from core.rounds import Rounds
from core.tables import (
    conversations,
    duels,
    feedback_events,
    inbox,
    pairs,
    people,
    photos,
    posts,
    reactions,
    starts,
    tombstones,
    turns,
)
from core.transactions import ParallelTransactions, Transactions, lock
from core.wiping import wipe

log = structlog.get_logger()
# PostgreSQL takes no NUL, and half of a surrogate pair has no UTF-8 form.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
T = TypeVar("T")

# How long it stays known that writing works, or that it does not. The small write that finds out
# may fit on a disk that has just had no room for a message, so a failure counts for a while, too.
KNOWN_SECONDS = 10.0
# How long after each other what was deleted is wiped out, while something is in the way.
_WIPE_AGAIN_SECONDS = (0.5, 1.0, 2.0)


class Store:
    """The database, opened; use it as `async with Store(url) as store`."""

    def __init__(
        self,
        url: str,
        *,
        exclusive: bool = True,
        rounds: Rounds | None = None,
        before_upgrade: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`exclusive` takes the lock that keeps a second writer away from a SQLite file.

        `rounds` remembers the last turns of conversations beside the database. Older tables are
        upgraded after `before_upgrade`; without it they are refused.
        """
        self._url = make_url(url)
        self._exclusive = exclusive
        self._rounds = rounds
        self._before_upgrade = before_upgrade
        self._clock = clock
        self._known: _Known | None = None
        self._exit = AsyncExitStack()
        self._transactions: Transactions | ParallelTransactions

    @property
    def exclusive(self) -> bool:
        """Whether no other process can be using this database."""
        return self._exclusive and self._url.get_backend_name() == "sqlite"

    async def __aenter__(self) -> Self:
        one_writer = self._url.get_backend_name() == "sqlite"
        threads = ThreadPoolExecutor(1 if one_writer else CONNECTIONS, "store")
        try:
            engine = await asyncio.get_running_loop().run_in_executor(threads, self._open)
        except BaseException:
            threads.shutdown()
            await self._exit.aclose()
            raise
        # They end first: a connection that came back to a pool which is gone would never be closed.
        self._exit.enter_context(threads)
        kind = Transactions if one_writer else ParallelTransactions
        self._transactions = kind(engine, threads)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit.aclose()

    def _open(self) -> sa.Engine:
        """Take the lock, connect, and see that the tables are of our version."""
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            file = Path(self._url.database)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                if self._exclusive:
                    self._lock(file)
            except OSError as exc:
                raise StoreError(
                    f"The folder {str(file.parent)!r} cannot be used ({exc.strerror}): make room, "
                    "fix its rights, or name another with SOLEMATE__DATABASE__URL."
                ) from exc
        engine = open_database(self._url)
        self._exit.callback(engine.dispose)
        try:
            migrate(engine, self._before_upgrade)
        except sa.exc.DatabaseError as exc:
            raise not_opened(self._url, exc) from exc
        return engine

    def _lock(self, file: Path) -> None:
        # Taken on the store's thread, released on the event loop's.
        lock = FileLock(f"{file}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(
                f"Another solemate is already using {str(file)!r}. Stop it, or give this one "
                "another database with SOLEMATE__DATABASE__URL."
            ) from None
        self._exit.callback(lock.release)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction on a thread of the store; its result after the commit.

        `work` may be done again after a rollback, so it only talks to the database.
        """
        try:
            return await self._transactions.run(work)
        # A query that breaks the tables' rules is our own mistake, and loud.
        except (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError):
            raise
        except sa.exc.DBAPIError as exc:
            problem = (
                f"The database cannot be used: {exc.orig}. Check that its server runs, or that "
                "the disk has room and the file is writable; nothing was acknowledged."
            )
            self._known = _Known(self._clock(), problem)
            raise StoreError(problem) from exc

    async def wipe(self, *, rewrite: bool = False) -> None:
        """Leave nothing of what was deleted readable in SQLite's file and its log.

        `rewrite` also takes what a page keeps of rows that once moved. What is in the way for
        seconds is logged: the log is emptied again every hour.
        """
        if not isinstance(self._transactions, Transactions):
            return
        work = partial(wipe, rewrite=rewrite)
        for seconds in _WIPE_AGAIN_SECONDS:
            if await self._transactions.between(work):
                return
            await asyncio.sleep(seconds)
        if not await self._transactions.between(work):
            log.warning(
                "deleted_words_in_log", advice="somebody reads the database; tried again every hour"
            )

    async def check_writing(self) -> None:
        """Raise `StoreError` when nothing can be written, or could not be a moment ago.

        A small write finds out, at most every `KNOWN_SECONDS`: to be asked as often as one likes.
        """
        if self._known is None or self._clock() - self._known.at >= KNOWN_SECONDS:
            await self.run(_write_and_delete)
            self._known = _Known(self._clock())
        if self._known.problem:
            raise StoreError(self._known.problem)

    async def add_turn(self, turn: Turn, photo_files: Sequence[bytes] = ()) -> None:
        """Store a turn, its conversation and its photos (safe JPEGs, never the bytes received).

        Nothing is stored about a person who was erased since the question was asked.
        """

        row = _turn_to_row(turn)

        def work(connection: Connection) -> bool:
            lock(connection, turn.user_id)
            erased_at = connection.execute(_ERASED, {"user": turn.user_id}).scalar()
            if (erased_at or 0.0) >= turn.asked_at:
                return False
            reply = turn.reply
            now = turn.asked_at
            conversation = {
                "id": reply.conversation_id,
                "platform": turn.platform,
                "user_id": turn.user_id,
                "title": _storable(turn.question.strip()[:80]),
                "created_at": now,
                "updated_at": now,
            }
            upsert(connection, conversations, conversation, key=("id",), update=("updated_at",))
            upsert(connection, turns, row, key=("reply_id",))
            for position, jpeg in enumerate(photo_files):
                photo = {
                    "conversation_id": reply.conversation_id,
                    "message_id": turn.message_id,
                    "position": position,
                    "jpeg": jpeg,
                    "created_at": now,
                }
                upsert(connection, photos, photo, key=("conversation_id", "message_id", "position"))
            return True

        if await self.run(work) and self._rounds is not None:
            await self._rounds.add(turn.reply.conversation_id, row)

    async def turn(self, reply_id: str) -> Turn:
        """The turn with this reply; `NotFound` when there is none."""
        query = sa.select(turns).where(turns.c.reply_id == reply_id)
        row = await self.run(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"There is no reply {reply_id!r}.")
        return _row_to_turn(row)

    async def turns_of(self, reply_ids: Sequence[str]) -> dict[str, Turn]:
        """The turns with these replies, by reply; one that is gone by now is left out."""
        query = sa.select(turns).where(turns.c.reply_id.in_(reply_ids))
        rows = await self.run(lambda connection: connection.execute(query).all())
        return {row.reply_id: _row_to_turn(row) for row in rows}

    async def answered(self, platform: Platform, conversation: str, message: str) -> Turn | None:
        """The turn that answered this message, if it was answered already."""
        query = sa.select(turns).where(
            turns.c.platform == platform,
            turns.c.conversation_id == conversation,
            turns.c.message_id == message,
        )
        row = await self.run(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _row_to_turn(row)

    async def history(
        self, conversation_id: str, *, rounds: int, since: float = 0.0
    ) -> tuple[Turn, ...]:
        """The last `rounds` turns asked at or after `since` (Unix seconds), oldest first."""

        async def read(rounds: int, since: float) -> Sequence[Mapping[str, Any]]:
            which = {"conversation": conversation_id, "since": since, "rounds": rounds}
            rows = await self.run(lambda connection: connection.execute(_HISTORY, which).all())
            return [dict(row._mapping) for row in reversed(rows)]

        async def moments(rounds: int, since: float) -> Sequence[float]:
            which = {"conversation": conversation_id, "since": since, "rounds": rounds}
            query = self.run(lambda connection: connection.scalars(_MOMENTS, which).all())
            return (await query)[::-1]

        if self._rounds is None:
            found = await read(rounds, since)
        else:
            found = await self._rounds.recall(
                conversation_id, rounds=rounds, since=since, read=read, moments=moments
            )
        return tuple(_row_to_turn(SimpleNamespace(**row)) for row in found)

    async def forget_rounds(self, conversation_ids: Iterable[str]) -> None:
        """Have nothing remembered of these conversations beside the database."""
        if self._rounds is not None:
            await self._rounds.forget(conversation_ids)

    async def conversations_of(self, user_id: str, *, limit: int = 50) -> list[tuple[str, str]]:
        """(id, title) of a person's conversations, the latest first."""
        query = (
            sa.select(conversations.c.id, conversations.c.title)
            .where(conversations.c.user_id == user_id)
            .order_by(conversations.c.updated_at.desc())
            .limit(limit)
        )
        rows = await self.run(lambda connection: connection.execute(query).all())
        return [(row.id, row.title) for row in rows]

    async def owner_of(self, conversation_id: str) -> str | None:
        """Whose conversation this is; None while it has no turn."""
        query = sa.select(conversations.c.user_id).where(conversations.c.id == conversation_id)
        return await self.run(lambda connection: connection.execute(query).scalar())

    async def photos_of(self, conversation_id: str, message_id: str) -> list[bytes]:
        """The JPEGs that came with a message, in order."""
        query = (
            sa.select(photos.c.jpeg)
            .where(photos.c.conversation_id == conversation_id, photos.c.message_id == message_id)
            .order_by(photos.c.position)
        )
        rows = await self.run(lambda connection: connection.execute(query).scalars().all())
        return list(rows)

    async def delete_conversation(self, conversation_id: str) -> bool:
        """Delete a conversation with all that came from it; whether there was one."""

        def work(connection: Connection) -> bool:
            connection.execute(sa.delete(photos).where(photos.c.conversation_id == conversation_id))
            connection.execute(sa.delete(inbox).where(inbox.c.conversation_id == conversation_id))
            connection.execute(sa.delete(posts).where(posts.c.conversation_id == conversation_id))
            connection.execute(sa.delete(pairs).where(pairs.c.conversation_id == conversation_id))
            replies = sa.select(turns.c.reply_id).where(turns.c.conversation_id == conversation_id)
            connection.execute(sa.delete(duels).where(duels.c.reply_id.in_(replies)))
            statement = sa.delete(conversations).where(conversations.c.id == conversation_id)
            return bool(connection.execute(statement).rowcount)

        found = await self.run(work)
        await self.wipe()
        await self.forget_rounds([conversation_id])
        return found

    async def add_feedback(
        self, feedback: Feedback, *, now: float | None = None, reacted_at: float | None = None
    ) -> bool:
        """Commit a verdict; `NotFound` when there is no such reply.

        An emoji that was put on at `reacted_at`, by the platform's clock, and taken off since is
        none: then nothing is committed, and the answer is false.

        A verdict without reason, comment and correction keeps those given before with the same
        rating, so that a thumb pressed again does not take a correction back. A thumb pressed
        after the emoji that says the same is kept beside it: it stays when the emoji goes.
        """
        at = time.time() if now is None else now

        def work(connection: Connection) -> bool:
            lock(connection, f"verdict:{feedback.reply_id}:{feedback.user_id}")
            if not _is_stored(connection, feedback.reply_id):
                raise NotFound(f"There is no reply {feedback.reply_id!r}.")
            if reacted_at is not None and not _is_news(connection, feedback, reacted_at):
                return False
            last = connection.execute(_latest(feedback.reply_id, feedback.user_id)).one_or_none()
            same = last is not None and last.rating == feedback.rating
            row = {
                "reply_id": feedback.reply_id,
                "user_id": feedback.user_id,
                "rating": feedback.rating,
                "reason": feedback.reason or (last.reason if last and same else None),
                "comment": _storable(feedback.comment) or (last.comment if last and same else ""),
                "correction": _storable(feedback.correction)
                or (last.correction if last and same else ""),
                "created_at": at,
                "by_reaction": feedback.by_reaction,
            }
            pressed_too = last is not None and last.by_reaction and not feedback.by_reaction
            differs = last is None or any(getattr(last, key) != row[key] for key in _VERDICT)
            if differs or pressed_too:
                connection.execute(sa.insert(feedback_events).values(row))
            return True

        return await self.run(work)

    async def withdraw(self, thumb: Feedback, reacted_at: float) -> bool:
        """Forget the thumb that an emoji gave, because it was taken off; whether there was one.

        It was taken off at `reacted_at`, by the platform's clock, and may have been put on again
        since. What the person said otherwise, before or since, stays and counts.
        """
        statement = sa.delete(feedback_events).where(
            feedback_events.c.reply_id == thumb.reply_id,
            feedback_events.c.user_id == thumb.user_id,
            feedback_events.c.rating == thumb.rating,
            feedback_events.c.by_reaction,
        )

        def work(connection: Connection) -> bool:
            lock(connection, f"verdict:{thumb.reply_id}:{thumb.user_id}")
            if not _is_stored(connection, thumb.reply_id):
                return False
            if not _is_news(connection, thumb, reacted_at):
                return False
            return bool(connection.execute(statement).rowcount)

        return await self.run(work)

    async def verdict(self, reply_id: str, user_id: str) -> Feedback | None:
        """The verdict of this person that counts: the last one."""
        query = _latest(reply_id, user_id)
        row = await self.run(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return None
        return Feedback(
            reply_id=row.reply_id,
            user_id=row.user_id,
            rating=Rating(row.rating),
            reason=Reason(row.reason) if row.reason else None,
            comment=row.comment,
            correction=row.correction,
            by_reaction=row.by_reaction,
        )

    async def chosen_language(self, user_id: str) -> Language | None:
        """The language this person chose; None when the text decides."""
        query = sa.select(people.c.language).where(people.c.user_id == user_id)
        language: Language | None = await self.run(
            lambda connection: connection.execute(query).scalar()
        )
        return language

    async def choose_language(self, user_id: str, language: Language | None) -> None:
        """Commit a person's choice of language; None lets the text decide again."""
        row = {"user_id": user_id, "language": language}

        def work(connection: Connection) -> None:
            upsert(connection, people, row, key=("user_id",), update=("language",))

        await self.run(work)

    async def wishes_of(self, user_id: str) -> Wishes:
        """What this person wants to be bothered with; everything, unless they said otherwise."""
        query = sa.select(people.c.duels, people.c.tell).where(people.c.user_id == user_id)
        row = await self.run(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return Wishes()
        return Wishes(row.duels is not False, row.tell is not False)

    async def wish(self, user_id: str, which: Wish, *, on: bool) -> None:
        """Commit that a person wants one of these, or not."""
        row = {"user_id": user_id, which.value: on}

        def work(connection: Connection) -> None:
            upsert(connection, people, row, key=("user_id",), update=(which.value,))

        await self.run(work)

    async def start_anew(self, place: str, number: int) -> None:
        """Commit that a new conversation starts in this place with its message `number`."""
        row = {"place": place, "number": number}
        await self.run(lambda connection: upsert(connection, starts, row, key=("place", "number")))

    async def last_start(self, place: str, number: int) -> int:
        """The number of the message that started the conversation `number` belongs to, or 0."""
        query = sa.select(sa.func.max(starts.c.number)).where(
            starts.c.place == place, starts.c.number < number
        )
        return await self.run(lambda connection: connection.execute(query).scalar()) or 0

    async def forget_older_than(self, moment: float) -> int:
        """Delete what was untouched since `moment` (Unix seconds); how many conversations.

        Messages that were put aside go too: they hold a person's text and photos. What was
        answered is only a key by now, which makes a repeat harmless for as long as the inbox says.
        """
        texts = sa.and_(inbox.c.received_at < moment, inbox.c.state != "done")

        def work(connection: Connection) -> int:
            old = sa.select(conversations.c.id).where(conversations.c.updated_at < moment)
            connection.execute(sa.delete(photos).where(photos.c.conversation_id.in_(old)))
            connection.execute(sa.delete(pairs).where(pairs.c.conversation_id.in_(old)))
            replies = sa.select(turns.c.reply_id).where(turns.c.conversation_id.in_(old))
            connection.execute(sa.delete(duels).where(duels.c.reply_id.in_(replies)))
            connection.execute(sa.delete(inbox).where(texts))
            connection.execute(sa.delete(posts).where(posts.c.posted_at < moment))
            statement = sa.delete(conversations).where(conversations.c.updated_at < moment)
            return connection.execute(statement).rowcount

        return await self.run(work)


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """Whether writing worked at this moment; `problem` is "" where it did."""

    at: float
    problem: str = ""


def _write_and_delete(connection: Connection) -> None:
    """Write a row and delete it again: what nobody sees takes room on the disk all the same."""
    name = uuid.uuid4().hex
    row = {
        "id": name,
        "platform": "",
        "user_id": "",
        "title": "",
        "created_at": 0.0,
        "updated_at": 0.0,
    }
    connection.execute(sa.insert(conversations).values(row))
    connection.execute(sa.delete(conversations).where(conversations.c.id == name))


# What every answer needs is built once: building a statement costs many times what running it does.
_ERASED = sa.select(tombstones.c.erased_at).where(tombstones.c.user_id == sa.bindparam("user"))
_HISTORY = (
    sa.select(turns)
    .where(
        turns.c.conversation_id == sa.bindparam("conversation"),
        turns.c.asked_at >= sa.bindparam("since"),
    )
    .order_by(turns.c.asked_at.desc())
    .limit(sa.bindparam("rounds", type_=sa.Integer))
)
# An index holds both columns: no turn is read.
_MOMENTS = _HISTORY.with_only_columns(turns.c.asked_at)
_VERDICT = ("rating", "reason", "comment", "correction")


def _is_stored(connection: Connection, reply_id: str) -> bool:
    known = sa.select(turns.c.reply_id).where(turns.c.reply_id == reply_id)
    return connection.execute(known).first() is not None


def _is_news(connection: Connection, thumb: Feedback, at: float) -> bool:
    """Note that a thumb's emoji was put on or taken off; false where it was again since.

    Platforms hand over the one and the other as they come: the later one may come first.
    """
    row = {"reply_id": thumb.reply_id, "user_id": thumb.user_id, "rating": thumb.rating}
    known = sa.select(reactions.c.at).filter_by(**row)
    last = connection.execute(known).scalar()
    if last is not None and last > at:
        return False
    return upsert(connection, reactions, row | {"at": at}, key=tuple(row), update=("at",))


def _latest(reply_id: str, user_id: str) -> sa.Select[Any]:
    return (
        sa.select(feedback_events)
        .where(feedback_events.c.reply_id == reply_id, feedback_events.c.user_id == user_id)
        .order_by(feedback_events.c.id.desc())
        .limit(1)
    )


def _storable(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text)


def _turn_to_row(turn: Turn) -> dict[str, Any]:
    reply = turn.reply
    return {
        "reply_id": reply.id,
        "conversation_id": reply.conversation_id,
        "message_id": turn.message_id,
        "user_id": turn.user_id,
        "platform": turn.platform,
        "question": _storable(turn.question),
        "query": _storable(turn.query),
        "prompt": [dataclasses.asdict(message) for message in turn.prompt],
        "passages": [dataclasses.asdict(p) | {"digest": p.digest} for p in turn.passages],
        "tags": [dataclasses.asdict(tag) for tag in reply.tags],
        "text": _storable(reply.text),
        "outcome": reply.outcome,
        "language": reply.language,
        "sources": [dataclasses.asdict(source) for source in reply.sources],
        "suggestions": list(reply.suggestions),
        "adapter": reply.adapter,
        "sampling": turn.sampling,
        "complete": reply.complete,
        "timings": dataclasses.asdict(reply.timings),
        "asked_at": turn.asked_at,
        "asked": turn.asked,
        "failure": turn.failure,
    }


def _row_to_turn(row: Any) -> Turn:
    language: Language = row.language
    reply = Reply(
        id=row.reply_id,
        conversation_id=row.conversation_id,
        text=row.text,
        outcome=Outcome(row.outcome),
        language=language,
        sources=tuple(Source(**source) for source in row.sources),
        tags=tuple(ImageTag(**tag) for tag in row.tags),
        suggestions=tuple(row.suggestions),
        adapter=row.adapter,
        complete=row.complete,
        timings=Timings(**row.timings),
    )
    return Turn(
        reply=reply,
        message_id=row.message_id,
        user_id=row.user_id,
        platform=Platform(row.platform),
        question=row.question,
        query=row.query,
        prompt=tuple(ChatMessage(**message) for message in row.prompt),
        passages=tuple(
            Passage(**{key: value for key, value in passage.items() if key != "digest"})
            for passage in row.passages
        ),
        sampling=row.sampling,
        asked_at=row.asked_at,
        asked=row.adapter if row.asked is None else row.asked,
        failure=row.failure or "",
    )
