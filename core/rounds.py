"""The last rounds of conversations in Redis: what the model is told again, for an hour at most.

The store has everything; this is the part of it that each question needs, where every replica
finds it. It is believed as far as the store has the same turns: a replica whose Redis was out of
reach may have added one, or deleted one, and be gone since.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from core.errors import RedisUnavailable
from core.redis_link import KEYS, RedisLink

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger()

Row = Mapping[str, Any]

# Two clocks differ by less.
_LEEWAY_SECONDS = 60.0
# Reading the database takes less; what is deleted meanwhile is not written back.
_FILLING_SECONDS = 30
_FILL = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
for row = 3, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[row]) end
return redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
_ADD = """
redis.call('DEL', KEYS[2])
if redis.call('RPUSHX', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('LTRIM', KEYS[1], -ARGV[2], -1)
return redis.call('EXPIRE', KEYS[1], ARGV[3])
"""


class Rounds:
    """The last `rounds` turns of each conversation, forgotten after `expire_seconds` of silence.

    Turns are kept as rows of the store's table, without their prompts.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        rounds: int,
        expire_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._rounds = rounds
        self._seconds = max(1, round(expire_seconds))
        self._clock = clock
        # Conversations that Redis remembers wrongly, because it was away when they changed.
        self._outdated: set[str] = set()

    async def recall(
        self,
        conversation_id: str,
        *,
        rounds: int,
        since: float,
        read: Callable[[int, float], Awaitable[Sequence[Row]]],
        moments: Callable[[int, float], Awaitable[Sequence[float]]],
    ) -> Sequence[Row]:
        """The last `rounds` turns asked at or after `since`, oldest first.

        `read` reads them from the store: for what is not kept here, and where Redis is away.
        `moments` reads only when they were asked, which is what tells whether Redis is right.
        """
        oldest = self._clock() - self._seconds - _LEEWAY_SECONDS
        if rounds > self._rounds or since < oldest:
            return await read(rounds, since)
        keys = _keys(conversation_id)
        try:
            async with self._link.asking() as redis:
                await self._settle(redis)
                texts = await redis.lrange(keys[0], 0, -1)
        except RedisUnavailable:
            return await read(rounds, since)
        found = _last([json.loads(text) for text in texts], rounds, since)
        if texts and [row["asked_at"] for row in found] == list(await moments(rounds, since)):
            return found
        return _last(await self._refill(keys, oldest, read), rounds, since)

    async def _refill(
        self,
        keys: tuple[str, str],
        oldest: float,
        read: Callable[[int, float], Awaitable[Sequence[Row]]],
    ) -> Sequence[Row]:
        """What the store has, which Redis has then, too."""
        token = uuid.uuid4().hex
        with suppress(RedisUnavailable):
            async with self._link.asking() as redis:
                await redis.set(keys[1], token, ex=_FILLING_SECONDS)
        rows = await read(self._rounds, oldest)
        with suppress(RedisUnavailable):
            await self._fill(keys, token, rows)
        return rows

    async def add(self, conversation_id: str, row: Row) -> None:
        """Remember another turn, where the conversation is remembered."""
        try:
            async with self._link.asking() as redis:
                await self._settle(redis)
                arguments = (_to_json(row), self._rounds, self._seconds)
                await redis.eval(_ADD, 2, *_keys(conversation_id), *arguments)
        except RedisUnavailable:
            self._outdated.add(conversation_id)

    async def forget(self, conversation_ids: Iterable[str]) -> None:
        """Forget these conversations, as soon as Redis answers; after an hour they are gone."""
        self._outdated |= set(conversation_ids)
        try:
            async with self._link.asking() as redis:
                await self._settle(redis)
        except RedisUnavailable:
            log.warning("not_forgotten_yet", conversations=len(self._outdated))

    async def _fill(self, keys: tuple[str, str], token: str, rows: Sequence[Row]) -> None:
        async with self._link.asking() as redis:
            texts = [_to_json(row) for row in rows]
            await redis.eval(_FILL, 2, *keys, token, self._seconds, *texts)

    async def _settle(self, redis: Redis) -> None:
        """Delete what was not told to Redis when it happened."""
        if self._outdated:
            gone = list(self._outdated)
            await redis.delete(*(key for one in gone for key in _keys(one)))
            self._outdated.difference_update(gone)


def _last(rows: Sequence[Row], rounds: int, since: float) -> Sequence[Row]:
    found = [row for row in rows if row["asked_at"] >= since]
    return found[-rounds:] if rounds else []


def _keys(conversation_id: str) -> tuple[str, str]:
    """The rounds, and who is filling them in; in a cluster both are on one server."""
    return f"{KEYS}:rounds:{{{conversation_id}}}", f"{KEYS}:filling:{{{conversation_id}}}"


def _to_json(row: Row) -> str:
    return json.dumps({**row, "prompt": []}, ensure_ascii=False)
