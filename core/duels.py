"""Duels: two answers to one question side by side, and which of them the person finds better.

One is the reply that was given, the other is written for the duel: by the other of live adapter and
canary while one is tried, else by the same adapter once more. The person does not learn who wrote
which, and which stands first is drawn. A duel is committed before it is shown: whatever happens
then, nobody is asked twice.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.errors import ModelUnavailable, NotFound
from core.grounding import used_passages
from core.messages import Outcome, Reply, Side, Source, Turn, Winner
from core.model import Sampling
from core.routes import Route, is_drawn
from core.second_answers import SecondAnswers, own_text, served_sampling, warm_sampling
from core.settings import Duels as DuelSettings
from core.store import Store
from core.tables import duels, people, tombstones, turns
from core.transactions import lock

log = structlog.get_logger()

# Two answers together; any platform shows so much in one message, however it is escaped.
MOST_CHARACTERS = 2000
# A warm model may say the same once more by chance.
_TRIES = 2
_DAY = 86_400.0
_SHOWN: dict[Side, Winner] = {
    Side.A: Winner.FIRST,
    Side.B: Winner.SECOND,
    Side.SAME: Winner.NEITHER,
}
_SWAPPED = _SHOWN | {Side.A: Winner.SECOND, Side.B: Winner.FIRST}


@dataclass(frozen=True, slots=True)
class Duel:
    """Two answers as a person sees them, each with its sources; `picked` once they have chosen."""

    id: str
    reply_id: str
    user_id: str
    a: Reply
    b: Reply
    picked: Side | None = None

    @property
    def conversation_id(self) -> str:
        """Where the question was asked."""
        return self.a.conversation_id

    @property
    def sources(self) -> tuple[Source, ...]:
        """What either stands on: apart, the longer list would tell them apart."""
        return tuple(dict.fromkeys((*self.a.sources, *self.b.sources)))


class Duels:
    """Decides who is asked, has the other answer written, and keeps what people pick."""

    def __init__(
        self,
        store: Store,
        answers: SecondAnswers,
        rules: DuelSettings,
        *,
        route: Callable[[], Route],
        key: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`route` tells who answers people, `key` draws the conversations that are asked."""
        self._store = store
        self._answers = answers
        self._rules = rules
        self._route = route
        self._key = key
        self._clock = clock
        self._writing = asyncio.Lock()

    async def after_answer(self, reply_id: str) -> Duel | None:
        """A duel with this reply, committed and to be shown now; None where nobody is asked.

        Conversations are drawn anew each day, and all answers of a drawn one are asked about until
        the person has been asked often enough.
        """
        turn = await self._turn(reply_id)
        if turn is None or not self._is_drawn(turn, self._rules.share, turn.reply.conversation_id):
            return None
        if (rival := self._rival(turn)) is not None:
            # As the reply was sampled, or its manner would be compared and not its writer.
            return await self._offer(turn, rival, [served_sampling(turn)])
        return await self._offer(turn, turn.reply.adapter, _warm(turn))

    async def after_dislike(self, reply_id: str, user_id: str) -> Duel | None:
        """A duel with a reply that its asker did not like; None where nobody is asked.

        Both answers are the same adapter's: a disliked one is no fair sample of who wrote it.
        """
        turn = await self._turn(reply_id)
        if turn is None or turn.user_id != user_id:
            return None
        if not self._is_drawn(turn, self._rules.disliked_share, turn.reply.id):
            return None
        return await self._offer(turn, turn.reply.adapter, _warm(turn))

    async def waiting(self, conversation_id: str, user_id: str) -> dict[str, Duel]:
        """The person's duels in a conversation that they have not decided, by reply."""
        query = _query().where(
            turns.c.conversation_id == conversation_id,
            duels.c.user_id == user_id,
            duels.c.winner.is_(None),
        )
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        found = await self._store.turns_of([row.reply_id for row in rows])
        return {
            row.reply_id: _to_duel(row, found[row.reply_id])
            for row in rows
            if row.reply_id in found
        }

    async def decide(self, duel_id: str, user_id: str, side: Side) -> Duel:
        """Commit what a person picked; the first pick counts. `NotFound` for a duel not theirs."""
        now = self._clock()
        mine = sa.and_(duels.c.id == duel_id, duels.c.user_id == user_id)

        def work(connection: Connection) -> Any:
            lock(connection, f"duel:{duel_id}")
            row = connection.execute(_query().where(mine)).one_or_none()
            if row is None or row.winner is not None:
                return row
            winner = (_SWAPPED if row.swapped else _SHOWN)[side]
            decision = {"winner": winner, "decided_at": now}
            connection.execute(sa.update(duels).where(mine).values(decision))
            return connection.execute(_query().where(mine)).one()

        row = await self._store.run(work)
        turn = await self._turn(row.reply_id) if row is not None else None
        if row is None or turn is None:
            raise NotFound(f"There is no duel {duel_id!r} of this person.")
        log.info("duel_decided", duel=duel_id, reply=row.reply_id)
        return _to_duel(row, turn)

    async def _turn(self, reply_id: str) -> Turn | None:
        """The turn, if the model itself wrote all of its reply."""
        try:
            turn = await self._store.turn(reply_id)
        except NotFound:
            return None
        reply = turn.reply
        whole = reply.outcome is Outcome.ANSWERED and reply.complete and reply.adapter
        return turn if whole and turn.prompt else None

    def _is_drawn(self, turn: Turn, share: float, what: str) -> bool:
        day = int(turn.asked_at // _DAY)
        return is_drawn(self._key, f"duel\0{day}\0{what}", share)

    def _rival(self, turn: Turn) -> str | None:
        """Who competes with the writer of a reply: the other of live adapter and canary."""
        route = self._route()
        if not route.canary or not route.live:
            return None
        rivals = {route.live: route.canary, route.canary: route.live}
        return rivals.get(turn.reply.adapter)

    async def _offer(self, turn: Turn, adapter: str, samplings: list[Sampling]) -> Duel | None:
        """Have another answer written and commit the duel; None where one of both must not be."""
        # Whoever waits for an answer goes first: no more than one is written that nobody asked for.
        if self._writing.locked() or not await self._store.run(lambda one: self._may(one, turn)):
            return None
        async with self._writing:
            text = await self._write(turn, adapter, samplings)
        if text is None or len(text) + len(own_text(turn)) > MOST_CHARACTERS:
            return None
        row = {
            "id": uuid.uuid4().hex,
            "reply_id": turn.reply.id,
            "user_id": turn.user_id,
            "text": text,
            "adapter": adapter,
            "swapped": bool(secrets.randbits(1)),
            "created_at": self._clock(),
        }

        def work(connection: Connection) -> Any:
            # The same lock as an erasure's: nothing is kept of whoever was erased meanwhile.
            lock(connection, turn.user_id)
            if not self._may(connection, turn):
                return None
            connection.execute(sa.insert(duels).values(row))
            return connection.execute(_query().where(duels.c.id == row["id"])).one_or_none()

        made = await self._store.run(work)
        if made is None:
            return None
        log.info("duel_begun", duel=made.id, reply=made.reply_id)
        return _to_duel(made, turn)

    async def _write(self, turn: Turn, adapter: str, samplings: list[Sampling]) -> str | None:
        try:
            for sampling in samplings:
                if (text := await self._answers.sample(turn, adapter, sampling)) is not None:
                    return text
        except ModelUnavailable as exc:
            log.info("no_duel", reply=turn.reply.id, error=type(exc).__name__)
        return None

    def _may(self, connection: Connection, turn: Turn) -> bool:
        """Whether the person may be asked about this reply now."""
        user_id, since = turn.user_id, self._clock() - _DAY
        wish = sa.select(people.c.duels).where(people.c.user_id == user_id)
        if connection.execute(wish).scalar() is False:
            return False
        erased = sa.select(tombstones.c.erased_at).where(tombstones.c.user_id == user_id)
        if (connection.execute(erased).scalar() or 0.0) >= turn.asked_at:
            return False
        asked = sa.select(duels.c.reply_id).where(
            duels.c.user_id == user_id,
            sa.or_(duels.c.reply_id == turn.reply.id, duels.c.created_at > since),
        )
        replies = connection.execute(asked).scalars().all()
        return turn.reply.id not in replies and len(replies) < self._rules.per_person_per_day


def _warm(turn: Turn) -> list[Sampling]:
    return [warm_sampling(turn, seed) for seed in range(_TRIES)]


def _query() -> sa.Select[Any]:
    return sa.select(duels).join(turns, turns.c.reply_id == duels.c.reply_id)


def _to_duel(row: Any, turn: Turn) -> Duel:
    first, second = _shown(turn, own_text(turn)), _shown(turn, row.text)
    sides = {winner: side for side, winner in (_SWAPPED if row.swapped else _SHOWN).items()}
    return Duel(
        id=row.id,
        reply_id=row.reply_id,
        user_id=row.user_id,
        a=second if row.swapped else first,
        b=first if row.swapped else second,
        picked=sides[Winner(row.winner)] if row.winner else None,
    )


def _shown(turn: Turn, text: str) -> Reply:
    """One of the answers, as any answer is shown."""
    sources = tuple(Source.of(one) for one in used_passages(text, turn.passages))
    return replace(turn.reply, text=text, sources=sources, suggestions=(), adapter="")
