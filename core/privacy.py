"""People's data: who they are called here, all that is kept about one of them, and its erasure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.audit import append
from core.database import upsert
from core.errors import ConfigError, NotFound
from core.messages import Platform
from core.sealing import seal, unseal
from core.store import Store
from core.tables import (
    adapters,
    conversations,
    duels,
    feedback_events,
    inbox,
    notices,
    pairs,
    people,
    photos,
    posts,
    reactions,
    run_pairs,
    starts,
    tombstones,
    turns,
)
from core.transactions import lock

_HEX_DIGITS = 32
_PSEUDONYM = re.compile(rf"[0-9a-f]{{{_HEX_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Names people by a keyed hash: without `key` nobody can tell whose name a platform's id is.

    Another key makes everybody a stranger, also to their own tombstone.
    """

    key: bytes

    def of(self, platform: Platform, own_id: str) -> str:
        """The person's name in the store, `PLATFORM:HASH`."""
        digest = hmac.new(self.key, f"{platform}:{own_id}".encode(), hashlib.sha256).hexdigest()
        return f"{platform}:{digest[:_HEX_DIGITS]}"

    def seal(self, number: int) -> str:
        """A person's number where it has to be read again, so that only whoever has the key can."""
        return seal(self.key, number)

    def unseal(self, text: str) -> int:
        """The number that was sealed."""
        return unseal(self.key, text)

    def named(self, key: str) -> str:
        """The person that an operator means by `key`; `ConfigError` where it cannot be one.

        Either as a platform knows them (`telegram:123`, `slack:T1:U1`) or as the store does.
        """
        platform, _, own_id = key.strip().partition(":")
        if platform not in set(Platform) or (not own_id and platform != Platform.TERMINAL):
            raise ConfigError(
                f"{key!r} names nobody. Write telegram:NUMBER, slack:TEAM:USER, web:ID, or the "
                "person as `pairs show` and `adapters show` name them."
            )
        match Platform(platform):
            case Platform.TELEGRAM if own_id.isdecimal() and len(own_id) < _HEX_DIGITS:
                return self.of(Platform.TELEGRAM, own_id)
            case Platform.SLACK if not _PSEUDONYM.fullmatch(own_id):
                return self.of(Platform.SLACK, own_id.rpartition(":")[2])
        return key.strip()


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure deleted; `adapters` is how many were trained on it, and are flagged."""

    turns: int
    ratings: int
    photos: int
    pairs: int
    adapters: int


async def erase(
    store: Store,
    user_id: str,
    *,
    now: float | None = None,
    who: str = "the person",
    wipe: bool = True,
) -> Erased:
    """Delete all that is kept about a person, and leave a tombstone against repeats of it.

    In a conversation with others theirs stays, without the prompts that held the person's words:
    such a turn is never trained on. What is being answered meanwhile has to end first. `who` asked
    for it, as the audit has it. Without `wipe` the words stay readable in SQLite's files until the
    next one who wipes.
    """
    at = time.time() if now is None else now

    def work(connection: Connection) -> tuple[Erased, list[str]]:
        done = _erase(connection, user_id, at)
        _note(connection, user_id, "erased", who=who, at=at, detail=asdict(done[0]))
        return done

    erased, conversation_ids = await store.run(work)
    await store.forget_rounds(conversation_ids)
    if wipe:
        await store.wipe(rewrite=True)
    return erased


async def erased_at(store: Store, user_id: str) -> float:
    """When the person was last erased (Unix seconds), 0 for never: what is older came again."""
    query = sa.select(tombstones.c.erased_at).where(tombstones.c.user_id == user_id)
    moment: float | None = await store.run(lambda connection: connection.execute(query).scalar())
    return moment or 0.0


async def check_known(store: Store, user_id: str) -> None:
    """Raise `NotFound` where nothing is kept about a person, and nobody of that name was erased."""
    kept = await export(store, user_id)
    if any(value for name, value in kept.items() if name != "person"):
        return
    if not await erased_at(store, user_id):
        raise NotFound(
            f"Nothing is kept about {user_id!r}. Is the key right, and are these the settings "
            "(--config, --profile) of the solemate that the person talked to?"
        )


async def export(store: Store, user_id: str) -> dict[str, Any]:
    """All that is kept about a person, for JSON; nothing that others wrote."""
    return await store.run(lambda connection: _export(connection, user_id))


async def note_export(store: Store, user_id: str, *, who: str) -> None:
    """Have the audit say that somebody was handed what is kept about a person."""
    at = time.time()
    await store.run(lambda connection: _note(connection, user_id, "exported", who=who, at=at))


def lock_words(connection: Connection) -> None:
    """Let nobody be erased until this transaction ends: for whoever looks, and then writes words.

    What somebody read before an erasure, and still holds in memory, is not to be written after it.
    """
    lock(connection, "words")


def audit_subject(user_id: str) -> str:
    """What the audit calls a person: it outlives an erasure, and so cannot be their name."""
    return f"person:{hashlib.sha256(user_id.encode()).hexdigest()[:_HEX_DIGITS]}"


def _note(
    connection: Connection,
    user_id: str,
    what: str,
    *,
    who: str,
    at: float,
    detail: Mapping[str, Any] | None = None,
) -> None:
    subject = audit_subject(user_id)
    append(connection, who=who, subject=subject, before="", after=what, at=at, detail=detail)


def _erase(connection: Connection, user_id: str, at: float) -> tuple[Erased, list[str]]:
    """What was deleted, and the conversations that the person was in."""
    # What is being answered is stored before this, and goes, or after it, and is not stored.
    lock(connection, user_id)
    lock_words(connection)
    tombstone = {"user_id": user_id, "erased_at": at}
    upsert(connection, tombstones, tombstone, key=("user_id",), update=("erased_at",))
    shared_since = _conversations_of(connection, user_id)
    flagged, pairs_deleted = _erase_pairs(connection, user_id, at, shared_since)
    photos_deleted = _erase_beside_turns(connection, photos, user_id)
    _erase_beside_turns(connection, posts, user_id)
    ratings = _delete(connection, feedback_events, feedback_events.c.user_id == user_id)
    for table in (notices, people, reactions):
        _delete(connection, table, table.c.user_id == user_id)
    _delete(connection, inbox, _is_message_of(user_id))
    turns_deleted = _delete(connection, turns, turns.c.user_id == user_id)
    for conversation_id, since in shared_since.items():
        _leave(connection, conversation_id, since)
    erased = Erased(turns_deleted, ratings, photos_deleted, pairs_deleted, flagged)
    return erased, list(shared_since)


def _conversations_of(connection: Connection, user_id: str) -> dict[str, float]:
    """The conversations with words of this person, and since when they are in it."""
    asked = (
        sa.select(turns.c.conversation_id, sa.func.min(turns.c.asked_at))
        .where(turns.c.user_id == user_id)
        .group_by(turns.c.conversation_id)
    )
    waiting = sa.select(inbox.c.conversation_id, inbox.c.received_at).where(_is_message_of(user_id))
    owned = sa.select(conversations.c.id, conversations.c.created_at).where(
        conversations.c.user_id == user_id
    )
    found: dict[str, float] = {}
    for query in (owned, waiting, asked):
        found |= {row[0]: row[1] for row in connection.execute(query)}
    return found


def _is_message_of(user_id: str) -> sa.ColumnElement[bool]:
    writer: sa.ColumnElement[str] = inbox.c.message["user_id"].as_string()
    return writer == user_id


def _erase_pairs(
    connection: Connection, user_id: str, at: float, shared_since: dict[str, float]
) -> tuple[int, int]:
    """Delete pairs and duels with words of the person; how many adapters and pairs there were."""
    mine = sa.select(turns.c.reply_id).where(turns.c.user_id == user_id)
    later = [
        sa.select(turns.c.reply_id).where(
            turns.c.conversation_id == conversation_id, turns.c.asked_at >= since
        )
        for conversation_id, since in shared_since.items()
    ]
    for answered in (mine, *later):
        _delete(connection, duels, duels.c.reply_id.in_(answered))
    _delete(connection, duels, duels.c.user_id == user_id)
    rated = sa.select(feedback_events.c.reply_id).where(feedback_events.c.user_id == user_id)
    # KTO trains on single answers: its runs hold replies, and no pairs.
    flagged = sum(_flag(connection, replies, at) for replies in (mine, rated, *later))
    deleted = 0
    concerned = [pairs.c.user_id == user_id, *(pairs.c.reply_id.in_(query) for query in later)]
    for which in concerned:
        flagged += _flag(connection, sa.select(pairs.c.id).where(which), at)
        deleted += _delete(connection, pairs, which)
    return flagged, deleted


def _flag(connection: Connection, items: sa.Select[tuple[str]], at: float) -> int:
    """Mark the adapters that were trained on any of these pairs or replies; how many there were."""
    runs_with = sa.select(run_pairs.c.run_id).where(run_pairs.c.pair_id.in_(items))
    flag = (
        sa.update(adapters)
        .where(adapters.c.run_id.in_(runs_with), adapters.c.flagged_at.is_(None))
        .values(flagged_at=at)
    )
    return connection.execute(flag).rowcount


def _erase_beside_turns(connection: Connection, table: sa.Table, user_id: str) -> int:
    """Delete the rows of `table` that belong to messages of the person."""
    theirs = sa.exists().where(
        turns.c.conversation_id == table.c.conversation_id,
        turns.c.message_id == table.c.message_id,
        turns.c.user_id == user_id,
    )
    return _delete(connection, table, theirs)


def _leave(connection: Connection, conversation_id: str, since: float) -> None:
    """Delete a conversation that nobody is left in; else scrub what the others' prompts quote."""
    of_it = turns.c.conversation_id == conversation_id
    query = sa.select(turns).where(of_it).order_by(turns.c.asked_at).limit(1)
    first = connection.execute(query).one_or_none()
    if first is not None:
        scrubbed = {"prompt": [], "query": turns.c.question, "complete": False}
        connection.execute(
            sa.update(turns).where(of_it, turns.c.asked_at >= since).values(scrubbed)
        )
        named = {"user_id": first.user_id, "title": first.question.strip()[:80]}
        connection.execute(
            sa.update(conversations).where(conversations.c.id == conversation_id).values(named)
        )
        return
    unanswered = sa.select(inbox.c.id).where(
        inbox.c.conversation_id == conversation_id, inbox.c.state != "done"
    )
    if connection.execute(unanswered).first() is not None:
        return
    for table in (photos, posts, inbox):
        _delete(connection, table, table.c.conversation_id == conversation_id)
    _delete(connection, conversations, conversations.c.id == conversation_id)
    # A conversation that was started anew is named after its place: PLACE:NUMBER.
    place = conversation_id.rpartition(":")[0]
    others = conversations.c.id.startswith(f"{place}:", autoescape=True)
    _delete(connection, starts, sa.and_(starts.c.place == place, ~sa.exists().where(others)))


def _delete(connection: Connection, table: sa.Table, which: sa.ColumnElement[bool]) -> int:
    return connection.execute(sa.delete(table).where(which)).rowcount


def _export(connection: Connection, user_id: str) -> dict[str, Any]:
    chosen = _rows(connection, people, user_id, ("language", "tell", "duels"))
    return {
        "person": user_id,
        "choices": chosen[0] if chosen else {},
        "turns": _exported_turns(connection, user_id),
        "waiting": [
            {"text": message["text"], "photos": message["images"]}
            for message in connection.execute(
                sa.select(inbox.c.message).where(_is_message_of(user_id)).order_by(inbox.c.id)
            ).scalars()
        ],
        "ratings": _rows(
            connection,
            feedback_events,
            user_id,
            ("reply_id", "rating", "reason", "comment", "correction", "created_at"),
        ),
        "reactions": _rows(connection, reactions, user_id, ("reply_id", "rating", "at")),
        "pairs": _rows(
            connection, pairs, user_id, ("id", "origin", "state", "created_at", "decided_at")
        ),
        "duels": _rows(
            connection, duels, user_id, ("id", "text", "winner", "created_at", "decided_at")
        ),
        "notices": _rows(connection, notices, user_id, ("pair_id", "adapter", "told_at")),
    }


def _exported_turns(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    query = sa.select(turns).where(turns.c.user_id == user_id).order_by(turns.c.asked_at)
    return [
        {
            "reply_id": row.reply_id,
            "conversation": row.conversation_id,
            "asked_at": row.asked_at,
            "question": row.question,
            "answer": row.text,
            "adapter": row.adapter,
            "photos": _exported_photos(connection, row.conversation_id, row.message_id),
        }
        for row in connection.execute(query).all()
    ]


def _exported_photos(connection: Connection, conversation_id: str, message_id: str) -> list[str]:
    """The photos of a message, as base64."""
    query = (
        sa.select(photos.c.jpeg)
        .where(photos.c.conversation_id == conversation_id, photos.c.message_id == message_id)
        .order_by(photos.c.position)
    )
    return [base64.b64encode(jpeg).decode("ascii") for jpeg in connection.execute(query).scalars()]


def _rows(
    connection: Connection, table: sa.Table, user_id: str, columns: tuple[str, ...]
) -> list[dict[str, Any]]:
    query = sa.select(*(table.c[name] for name in columns)).where(table.c.user_id == user_id)
    return [dict(row) for row in connection.execute(query).mappings()]
