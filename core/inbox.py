"""The durable inbox: a message is committed here before its platform hears that it arrived.

A row is `new`, then `leased` to one owner until a moment, then `done` or `dead`; a dead one keeps
the moment when its last lease ended. A lease that runs out is taken up again, so a crash delays a
message and never loses it. A new row with a moment is not leased before it: its album may grow, or
it failed and is tried again then.

Rows that are born `done` hold no message. They are the keys of what was taken in another row, such
as an album's photo, or of an event that needed none, such as a command.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.apologies import Apologies
from core.database import upsert
from core.errors import Busy, NoRoom
from core.letters import from_json, to_json
from core.messages import Platform, UserMessage
from core.store import Store
from core.tables import inbox, turns
from core.transactions import lock, now_of

log = structlog.get_logger()

# Whoever writes here still has the text, and can send it again when told to.
_CAN_ASK_AGAIN = (Platform.WEB, Platform.API, Platform.TERMINAL)
# Elsewhere so many times the depth may wait: more than one person may send in a day, so that none
# of them alone keeps a platform from handing over the messages of all.
ROOM = 50

KEY = ("platform", "conversation_id", "message_id")
_UNREADABLE = "Its row cannot be read."
_UNANSWERED = inbox.c.state.in_(("new", "leased"))


@dataclass(frozen=True, slots=True)
class Letter:
    """A leased message; `attempts` counts this lease too.

    It has failed for `failing_seconds` by now, whoever is to blame. `answered` where its answer is
    stored already: the program ended before it could say so here.
    """

    id: int
    message: UserMessage
    attempts: int
    received_at: float
    answered: bool
    failing_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a message: `fresh` unless it was here before, and its letter if leased."""

    fresh: bool
    letter: Letter | None = None


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
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Without a `clock` the database's is gone by: another replica's may be a minute off."""
        self.apologies = Apologies(store, lease_seconds, self._now)
        self._store = store
        self._owner = owner
        self.depth = depth
        self.lease_seconds = lease_seconds
        self._clock = clock

    async def put(self, message: UserMessage) -> bool:
        """Commit a message; false when the same one was here before, however many wait.

        Raises `Busy` when `depth` messages of its conversation are waiting already, and whoever
        sent it can be asked to do so again; elsewhere `NoRoom` when far more than that are.
        """
        receipt = await self._store.run(
            lambda connection: self._put(connection, message, lease=False)
        )
        return receipt.fresh

    async def take(self, message: UserMessage) -> Receipt:
        """Commit a message like `put`, and lease it to us where nothing of its conversation waits.

        Whoever calls has to answer it then.
        """
        return await self._store.run(lambda connection: self._put(connection, message, lease=True))

    def _put(self, connection: Connection, message: UserMessage, *, lease: bool) -> Receipt:
        key = _key(message)
        _lock_conversation(connection, message)
        if connection.execute(_KNOWN, key).first() is not None:
            return Receipt(fresh=False)
        alone = self._count_waiting(connection, message) == 0
        now = self._now(connection)
        row = _new_row(message, now)
        if not (lease and alone):
            return Receipt(upsert(connection, inbox, row, key=KEY))
        upsert(connection, inbox, row | self._leased(now, attempts=1), key=KEY)
        number = connection.execute(_KNOWN, key).scalar_one()
        answered = connection.execute(_ANSWERED, key).first() is not None
        return Receipt(fresh=True, letter=Letter(number, message, 1, now, answered))

    async def join(self, message: UserMessage, part: str, *, hold_seconds: float) -> bool:
        """Commit one part of a message that comes in parts; false when it was here before.

        Parts that come until `hold_seconds` after the last one are answered together. One that
        comes later is a message of its own, with those that come after it. Raises like `put`.
        """
        of_conversation = _of_conversation(message.platform, message.conversation_id)
        late = replace(message, id=f"{message.id}-{part}")
        of_message = sa.or_(
            inbox.c.message_id == message.id,
            inbox.c.message_id.startswith(f"{message.id}-", autoescape=True),
        )
        growing = (
            sa.select(inbox)
            .where(of_conversation, of_message, inbox.c.state == "new")
            .order_by(inbox.c.id.desc())
            .limit(1)
        )

        def work(connection: Connection) -> bool:
            _lock_conversation(connection, message)
            now = self._now(connection)
            key = _key_row(message.platform, message.conversation_id, part, now)
            if not upsert(connection, inbox, key, key=KEY):
                return False
            until = {"leased_until": now + hold_seconds}
            row = connection.execute(growing).one_or_none()
            if row is not None:
                values = {"message": _joined(row.message, message)} | until
                connection.execute(sa.update(inbox).where(inbox.c.id == row.id).values(values))
                return True
            self._count_waiting(connection, message)
            rows = (_new_row(one, now) | until for one in (message, late))
            return any(upsert(connection, inbox, row, key=KEY) for row in rows)

        return await self._store.run(work)

    async def knows(self, platform: Platform, conversation_id: str, message_id: str) -> bool:
        """Whether a message with this id came before, whatever has become of it."""
        query = sa.select(inbox.c.id).where(
            _of_conversation(platform, conversation_id), inbox.c.message_id == message_id
        )
        row = await self._store.run(lambda connection: connection.execute(query).first())
        return row is not None

    async def unseen(self, platform: Platform, source: str, events: Sequence[str]) -> set[str]:
        """Those of a platform's events that were not noted as seen before."""
        query = sa.select(inbox.c.message_id).where(
            _of_conversation(platform, source), inbox.c.message_id.in_(events)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return set(events) - set(rows)

    async def note_seen(self, platform: Platform, source: str, events: Sequence[str]) -> None:
        """Commit that these events have been dealt with: a repeat of them is none of our business.

        `source` is who sent them: a bot or a team, and no conversation.
        """

        def work(connection: Connection) -> None:
            now = self._now(connection)
            for event in events:
                row = _key_row(platform, source, event, now)
                upsert(connection, inbox, row, key=KEY)

        await self._store.run(work)

    async def bury(self, message: UserMessage, problem: str) -> bool:
        """Commit that a message cannot be taken in: it is put aside, and its apology is owed.

        False when the same one was here before.
        """

        def work(connection: Connection) -> bool:
            now = self._now(connection)
            row = _new_row(message, now) | _put_aside(now, problem) | {"apology_due": now}
            return upsert(connection, inbox, row, key=KEY)

        return await self._store.run(work)

    async def bury_event(self, platform: Platform, source: str, event: str, problem: str) -> None:
        """Commit that an event is put aside which is no message: a repeat is not taken either."""

        def work(connection: Connection) -> None:
            now = self._now(connection)
            row = _key_row(platform, source, event, now) | _put_aside(now, problem)
            upsert(connection, inbox, row, key=KEY)

        await self._store.run(work)

    async def lease(self) -> Letter | None:
        """The oldest message whose conversation is not being answered, leased to us."""

        def work(connection: Connection) -> Letter | None:
            now = self._now(connection)
            while (row := connection.execute(_NEXT, {"now": now}).one_or_none()) is not None:
                this_row = sa.update(inbox).where(inbox.c.id == row.id)
                try:
                    message = from_json(row.message)
                except (KeyError, TypeError, ValueError):
                    log.exception("unreadable_letter", row=row.id)
                    connection.execute(this_row.values(state="dead", problem=_UNREADABLE))
                    continue
                attempts = row.attempts + 1
                connection.execute(this_row.values(self._leased(now, attempts)))
                answered = connection.execute(_ANSWERED, _key(message)).first() is not None
                failing = 0.0 if row.failing_since is None else now - row.failing_since
                return Letter(row.id, message, attempts, row.received_at, answered, failing)
            return None

        return await self._store.run(work)

    async def renew(self, letters: Collection[int]) -> None:
        """Hold those of these letters, by id, that are leased to us for a whole lease from now."""
        ours = sa.update(inbox).where(
            inbox.c.id.in_(letters), inbox.c.state == "leased", inbox.c.owner == self._owner
        )

        def work(connection: Connection) -> None:
            until = self._now(connection) + self.lease_seconds
            connection.execute(ours.values(leased_until=until))

        await self._store.run(work)

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
        await self._change(_ROW, {"letter": letter.id}, state="done", message={})

    async def dead(self, letter: Letter, problem: str = "") -> bool:
        """The letter failed too often: it is put aside, and shown with its apology.

        Whoever says so here says the apology, too; else it is owed. False where it is not ours any
        more.
        """

        def work(connection: Connection) -> bool:
            now = self._now(connection)
            owed = {"problem": problem, "apology_due": now + self.lease_seconds}
            values = {"owner": None, "state": "dead", "leased_until": now, **owed}
            return connection.execute(_HELD_ROW, self._held(letter) | values).rowcount > 0

        return await self._store.run(work)

    async def give_back(self, letter: Letter) -> None:
        """Nobody answers the letter now; whoever comes next may, as if it had not been tried."""
        await self._change(_HELD_ROW, self._held(letter), state="new", attempts=letter.attempts - 1)

    async def retry(
        self, letter: Letter, *, pause_seconds: float = 0.0, counts: bool = True
    ) -> None:
        """The attempt failed: let the letter be leased again, after a pause.

        It `counts` as one of the letter's attempts unless something else is to blame.
        """

        def work(connection: Connection) -> None:
            now = self._now(connection)
            values = {
                "state": "new",
                "owner": None,
                "failing_since": now - letter.failing_seconds,
                "leased_until": now + pause_seconds if pause_seconds else None,
                "attempts": letter.attempts if counts else letter.attempts - 1,
            }
            connection.execute(_HELD_ROW, self._held(letter) | values)

        await self._store.run(work)

    async def backlog(self) -> tuple[int, float]:
        """How many messages have no answer, and how many seconds one has waited for a free lane.

        Those whose conversation is being answered wait for that, and not for a lane.
        """

        def work(connection: Connection) -> tuple[int, float]:
            now = self._now(connection)
            waiting, oldest = connection.execute(_BACKLOG, {"now": now}).one()
            return waiting, now - oldest if oldest is not None else 0.0

        return await self._store.run(work)

    async def ahead(self, message: UserMessage) -> int:
        """How many messages of a message's conversation have no answer yet."""
        query, key = _WAITING, _key(message)
        return await self._store.run(lambda connection: connection.execute(query, key).scalar_one())

    async def waiting(self) -> tuple[int, float]:
        """How many messages wait or are being answered, and the oldest one's age in seconds."""
        query = sa.select(sa.func.count(), sa.func.min(inbox.c.received_at)).where(_UNANSWERED)

        def work(connection: Connection) -> tuple[int, float]:
            count, oldest = connection.execute(query).one()
            return count, self._now(connection) - oldest if oldest is not None else 0.0

        return await self._store.run(work)

    async def pending(self, conversation_id: str) -> list[UserMessage]:
        """The conversation's messages that have no answer yet, in order."""
        query = (
            sa.select(inbox.c.message)
            .where(inbox.c.conversation_id == conversation_id, _UNANSWERED)
            .order_by(inbox.c.id)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return [from_json(row) for row in rows]

    async def stop(self, conversation_id: str, message_id: str) -> bool:
        """Commit that the message's answer is to end where it is; false when it has ended."""
        statement = (
            sa.update(inbox)
            .where(
                inbox.c.conversation_id == conversation_id,
                inbox.c.message_id == message_id,
                _UNANSWERED,
            )
            .values(stopped=True)
        )
        return await self._store.run(lambda connection: connection.execute(statement).rowcount > 0)

    async def call_off(self, conversation_id: str) -> list[UserMessage]:
        """Stop the conversation's answer under way, and delete what waits; the former's message."""
        here = inbox.c.conversation_id == conversation_id
        leased = sa.and_(here, inbox.c.state == "leased")

        def work(connection: Connection) -> Sequence[dict[str, Any]]:
            connection.execute(sa.delete(inbox).where(here, inbox.c.state == "new"))
            connection.execute(sa.update(inbox).where(leased).values(stopped=True))
            return connection.execute(sa.select(inbox.c.message).where(leased)).scalars().all()

        return [from_json(row) for row in await self._store.run(work)]

    async def unwanted(self, letters: Collection[int]) -> set[int]:
        """Those of these letters, by id, that were stopped or deleted since they were leased."""
        query = sa.select(inbox.c.id).where(inbox.c.id.in_(letters), ~inbox.c.stopped)
        rows = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return set(letters) - set(rows)

    async def pending_of(self, user_id: str) -> list[UserMessage]:
        """The person's messages that have no answer yet, in order."""
        writer = inbox.c.message["user_id"].as_string()
        query = (
            sa.select(inbox.c.message).where(writer == user_id, _UNANSWERED).order_by(inbox.c.id)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return [from_json(row) for row in rows]

    async def is_waiting(self, platform: Platform, conversation_id: str, message_id: str) -> bool:
        """Whether the message has no answer yet, and is to get one."""
        query = sa.select(inbox.c.id).where(
            _of_conversation(platform, conversation_id),
            inbox.c.message_id == message_id,
            _UNANSWERED,
        )
        row = await self._store.run(lambda connection: connection.execute(query).first())
        return row is not None

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
                letters.append(DeadLetter(from_json(row.message), row.at))
        return letters

    async def forget_done(self, *, older_than_seconds: float) -> int:
        """Delete finished rows of this age; platforms do not repeat messages that old."""

        def work(connection: Connection) -> int:
            old = inbox.c.received_at < self._now(connection) - older_than_seconds
            done = sa.delete(inbox).where(inbox.c.state == "done", old)
            return connection.execute(done).rowcount

        return await self._store.run(work)

    def _now(self, connection: Connection) -> float:
        return now_of(connection) if self._clock is None else self._clock()

    def _count_waiting(self, connection: Connection, message: UserMessage) -> int:
        """How many messages of its conversation wait; raises where one more is too many."""
        waiting: int = connection.execute(_WAITING, _key(message)).scalar_one()
        asks_again = message.platform in _CAN_ASK_AGAIN
        most = self.depth if asks_again else self.depth * ROOM
        if waiting < most:
            return waiting
        words = f"{most} messages of this conversation are waiting; wait for their answers."
        raise Busy(words, retry_after_seconds=10) if asks_again else NoRoom(words)

    def _leased(self, now: float, attempts: int) -> dict[str, Any]:
        until = now + self.lease_seconds
        return {
            "state": "leased",
            "owner": self._owner,
            "leased_until": until,
            "attempts": attempts,
        }

    def _held(self, letter: Letter) -> dict[str, Any]:
        """The values that tell whether this very lease is still ours."""
        return {"letter": letter.id, "holder": self._owner, "lease": letter.attempts}

    async def _change(self, rows: sa.Update, which: dict[str, Any], **values: Any) -> None:
        """Give up the lease and set the values."""
        changes = {"owner": None, "leased_until": None, **values}
        await self._store.run(lambda connection: connection.execute(rows, which | changes))


def _of_conversation(platform: Platform, conversation_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(inbox.c.platform == platform, inbox.c.conversation_id == conversation_id)


def _leasable() -> sa.ColumnElement[bool]:
    """Whether a row may be leased at the moment `now`.

    It is unanswered, the first of its conversation, and held by nobody.
    """
    now = sa.bindparam("now", type_=sa.Float)
    busy = inbox.alias("busy")
    first = inbox.alias("first")
    return sa.and_(
        _UNANSWERED,
        sa.or_(inbox.c.leased_until.is_(None), inbox.c.leased_until < now),
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


def _of_this_conversation(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.platform == sa.bindparam("platform"),
        table.c.conversation_id == sa.bindparam("conversation"),
    )


def _lock_conversation(connection: Connection, message: UserMessage) -> None:
    """Let two messages of a conversation come one after the other, whoever takes them in."""
    lock(connection, f"inbox:{message.platform}:{message.conversation_id}")


def _key(message: UserMessage) -> dict[str, Any]:
    """A message's values for the parameters of the statements below."""
    return {
        "platform": message.platform,
        "conversation": message.conversation_id,
        "message": message.id,
    }


# What every message needs is built once: building these costs many times what running them does.
_THIS_MESSAGE = inbox.c.message_id == sa.bindparam("message")
_KNOWN = sa.select(inbox.c.id).where(_of_this_conversation(inbox), _THIS_MESSAGE)
_WAITING = sa.select(sa.func.count()).where(_of_this_conversation(inbox), _UNANSWERED)
_ANSWERED = sa.select(turns.c.reply_id).where(
    _of_this_conversation(turns), turns.c.message_id == sa.bindparam("message")
)
_NEXT = (
    sa.select(inbox)
    .where(_leasable())
    .order_by(inbox.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_BACKLOG = sa.select(
    sa.select(sa.func.count()).where(_UNANSWERED).scalar_subquery(),
    sa.func.min(sa.func.coalesce(inbox.c.leased_until, inbox.c.received_at)),
).where(_leasable())
_ROW = sa.update(inbox).where(inbox.c.id == sa.bindparam("letter"))
# Not when the lease has run out and was taken up by another.
_HELD_ROW = _ROW.where(
    inbox.c.state == "leased",
    inbox.c.owner == sa.bindparam("holder"),
    inbox.c.attempts == sa.bindparam("lease"),
)


def _new_row(message: UserMessage, now: float) -> dict[str, Any]:
    key = _key_row(message.platform, message.conversation_id, message.id, now)
    return key | {"message": to_json(message), "state": "new", "leased_until": None}


def _key_row(platform: Platform, source: str, event: str, now: float) -> dict[str, Any]:
    """A row that is only a key: what it names was taken in."""
    return {
        "platform": platform,
        "conversation_id": source,
        "message_id": event,
        "message": {},
        "state": "done",
        "leased_until": None,
        "attempts": 0,
        "received_at": now,
    }


def _put_aside(now: float, problem: str) -> dict[str, Any]:
    return {"state": "dead", "leased_until": now, "problem": problem}


def _joined(row: dict[str, Any], part: UserMessage) -> dict[str, Any]:
    """A message's row with another part of it: its photos, and what is written under them."""
    more = to_json(part)
    text = "\n".join(filter(None, (row["text"], more["text"])))
    photos = {kind: [*row.get(kind, ()), *more.get(kind, ())] for kind in ("images", "files")}
    return row | photos | {"text": text}
