"""Tells whoever corrected an answer, once, that the model has learned it.

What is learned is read from the run of the adapter that answers. That a person was told is
committed before they are: a crash in between leaves them untold, and nobody is told twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.corrections import Fate, learned, shortened
from core.messages import Language, Platform
from core.routes import last_route
from core.store import Store
from core.tables import feedback_events, notices, pairs, people, routes, turns
from core.transactions import lock
from core.wording import say

log = structlog.get_logger()

STAYS_SECONDS = 600.0
"""How long an adapter has been live before anybody is told: a rollback may follow at once."""
_MOST_LESSONS = 3
_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question, and the answer to it that a person taught."""

    question: str
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What a person is told at once: everything of theirs that was learned since the last time."""

    user_id: str
    adapter: str
    language: Language
    lessons: tuple[Lesson, ...]

    @property
    def words(self) -> str:
        """The notice as plain text."""
        lines = [_words(one, self.language) for one in self.lessons[:_MOST_LESSONS]]
        if more := len(self.lessons) - len(lines):
            lines.append(say("taught_more", self.language, count=more))
        return "\n".join([say("taught_me", self.language), *lines])


class Notices:
    """Who is to be told, and that they were."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def people(self, platform: Platform) -> list[str]:
        """Everybody on a platform who is to be told something now."""
        named = pairs.c.user_id.startswith(f"{platform}:", autoescape=True)
        rows = await self._store.run(lambda connection: self._due(connection, named))
        return list(dict.fromkeys(row.user_id for row in rows))

    async def take(self, user_id: str) -> Notice | None:
        """What to tell this person now, committed as told; None for nothing."""

        def work(connection: Connection) -> Notice | None:
            # The same lock as an erasure's; and of two replicas one tells.
            lock(connection, user_id)
            rows = self._due(connection, pairs.c.user_id == user_id)
            if not rows:
                return None
            now, route = self._clock(), last_route(connection)
            assert route is not None, "something is learned"
            told = {"user_id": user_id, "adapter": route.live, "created_at": now, "told_at": now}
            marks = [told | {"pair_id": row.id} for row in rows]
            connection.execute(sa.insert(notices), marks)
            wanted = sa.select(people.c.language).where(people.c.user_id == user_id)
            language = connection.execute(wanted).scalar() or rows[-1].language
            lessons = tuple(Lesson(row.question, row.chosen) for row in rows)
            return Notice(user_id, route.live, language, lessons)

        notice = await self._store.run(work)
        if notice is not None:
            log.info("told", adapter=notice.adapter, lessons=len(notice.lessons))
        return notice

    def _due(self, connection: Connection, whose: sa.ColumnElement[bool]) -> Sequence[Any]:
        """The pairs that the adapter in use has learned and their people were not told of."""
        route = last_route(connection)
        if route is None or self._clock() - _live_since(connection) < STAYS_SECONDS:
            return []
        corrected = sa.exists().where(
            feedback_events.c.reply_id == pairs.c.reply_id,
            feedback_events.c.user_id == pairs.c.user_id,
            feedback_events.c.correction != "",
        )
        told = sa.exists().where(
            notices.c.user_id == pairs.c.user_id, notices.c.pair_id == pairs.c.id
        )
        silent = sa.exists().where(people.c.user_id == pairs.c.user_id, people.c.tell.is_(False))
        query = (
            sa.select(pairs.c.id, pairs.c.user_id, pairs.c.chosen, turns.c.question)
            .add_columns(turns.c.language)
            .join(turns, turns.c.reply_id == pairs.c.reply_id)
            .where(whose, pairs.c.id.in_(learned()), pairs.c.state == Fate.ACCEPTED)
            .where(corrected, ~told, ~silent)
            .order_by(pairs.c.created_at, pairs.c.id)
        )
        return connection.execute(query).all()


def _live_since(connection: Connection) -> float:
    """Since when who is live now has been so without a break."""
    live = sa.select(routes.c.live).order_by(routes.c.id.desc()).limit(1).scalar_subquery()
    other = sa.select(sa.func.max(routes.c.id)).where(routes.c.live != live).scalar_subquery()
    since = sa.select(sa.func.min(routes.c.routed_at)).where(
        routes.c.id > sa.func.coalesce(other, 0)
    )
    return float(connection.execute(since).scalar_one())


def _words(lesson: Lesson, language: Language) -> str:
    question = shortened(lesson.question, _MOST_CHARACTERS)
    return say("taught", language, question=question, text=shortened(lesson.text, _MOST_CHARACTERS))
