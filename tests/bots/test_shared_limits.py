"""Limits of several replicas: counted together in Redis, and by each alone while it is away."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bots.allowance import Allowance, Limits
from core.errors import Busy
from core.redis_link import RedisLink
from tests.conftest import RedisServer

ALLOWANCE = Allowance(messages_per_minute=3, photos_per_minute=1, messages_per_day=100)


@pytest.fixture
async def replicas(redis_server: RedisServer) -> AsyncIterator[list[Limits]]:
    async with RedisLink(redis_server.url) as one, RedisLink(redis_server.url) as two:
        yield [Limits(ALLOWANCE, link) for link in (one, two)]


async def test_a_person_is_counted_wherever_their_messages_come_in(replicas: list[Limits]) -> None:
    first, second = replicas
    for limits in (first, second, first):
        await limits.count("ann", photos=0)
    with pytest.raises(Busy, match="at most 3 per 60 seconds") as caught:
        await second.count("ann", photos=0)
    assert 1 <= caught.value.retry_after_seconds <= 60
    await second.count("bob", photos=0)


async def test_without_redis_each_replica_counts_alone(
    replicas: list[Limits], redis_server: RedisServer
) -> None:
    redis_server.stop()
    for limits in replicas:
        for _ in range(3):
            await limits.count("ann", photos=0)
        with pytest.raises(Busy):
            await limits.count("ann", photos=0)


async def test_counters_hold_no_texts_and_end(
    replicas: list[Limits], redis_server: RedisServer
) -> None:
    await replicas[0].count("ann", photos=1)
    with redis_server.client() as redis:
        keys = redis.keys("*")
        assert all(key.startswith("solemate:1:limits") for key in keys)
        assert sorted(0 < redis.ttl(key) <= 86400 for key in keys) == [True] * 3
