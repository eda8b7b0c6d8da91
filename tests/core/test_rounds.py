"""Rounds in Redis: as the store has them, for an hour, and never what was deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from core.errors import RedisUnavailable
from core.messages import Outcome, Platform, Reply, Turn
from core.privacy import erase
from core.redis_link import PAUSE_SECONDS, RedisLink
from core.rounds import Rounds
from core.store import Store
from tests.conftest import RedisServer

SECRET = "my left foot is longer"


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def link(redis_server: RedisServer) -> AsyncIterator[RedisLink]:
    async with RedisLink(redis_server.url, clock=Watch()) as opened:
        yield opened


def rounds_of(link: RedisLink) -> Rounds:
    return Rounds(link, rounds=3, expire_seconds=3600)


@pytest.fixture
async def store(sqlite_url: str, link: RedisLink) -> AsyncIterator[Store]:
    async with Store(sqlite_url, rounds=rounds_of(link)) as opened:
        yield opened


def turn(number: int, conversation: str = "c1") -> Turn:
    reply = Reply(f"{conversation}-r{number}", conversation, "Yes.", Outcome.ANSWERED, "en")
    return Turn(
        reply=reply,
        message_id=f"m{number}",
        user_id="ann",
        platform=Platform.WEB,
        question=f"{SECRET} {number}",
        query="",
        prompt=(),
        passages=(),
        sampling={},
        asked_at=time.time() + number / 1000,
    )


async def recalled(store: Store, conversation: str = "c1", rounds: int = 3) -> list[str]:
    found = await store.history(conversation, rounds=rounds, since=time.time() - 3600)
    return [one.message_id for one in found]


async def let_redis_recall(store: Store, link: RedisLink, *turns: Turn) -> None:
    """The turns, in the store and in Redis."""
    for one in turns:
        await store.add_turn(one)
    await recalled(store)


async def blur(store: Store) -> None:
    """Change the turns behind Redis' back, so that only it knows what was asked."""
    await store.run(lambda connection: connection.exec_driver_sql("UPDATE turns SET question = ''"))


async def test_what_was_read_once_is_not_read_again(store: Store, link: RedisLink) -> None:
    first, second = turn(1), turn(2)
    await let_redis_recall(store, link, first)
    await store.add_turn(second)
    await blur(store)
    since = time.time() - 3600
    assert await store.history("c1", rounds=3, since=since) == (first, second)
    assert await recalled(store, rounds=1) == ["m2"]
    assert await store.history("c1", rounds=3, since=second.asked_at) == (second,)
    assert await recalled(store, "another") == []


async def test_only_the_last_rounds_are_kept_and_none_for_ever(
    store: Store, link: RedisLink, redis_server: RedisServer
) -> None:
    await let_redis_recall(store, link, turn(1))
    for number in range(2, 7):
        await store.add_turn(turn(number))
    with redis_server.client() as redis:
        (key,) = redis.keys("*")
        assert key == "solemate:1:rounds:{c1}"
        assert redis.llen(key) == 3
        assert 0 < redis.ttl(key) <= 3600
    assert await recalled(store) == ["m4", "m5", "m6"]


async def test_no_key_lives_without_an_end(
    store: Store, link: RedisLink, redis_server: RedisServer
) -> None:
    await recalled(store, "nothing yet")
    await let_redis_recall(store, link, turn(1))
    await link.check()
    with redis_server.client() as redis:
        keys = redis.keys("*")
        assert len(keys) >= 2
        assert [key for key in keys if redis.ttl(key) < 0] == []


async def test_prompts_are_not_kept(
    store: Store, link: RedisLink, redis_server: RedisServer
) -> None:
    await let_redis_recall(store, link, turn(1))
    with redis_server.client() as redis:
        assert '"prompt": []' in redis.lrange("solemate:1:rounds:{c1}", 0, -1)[0]


async def test_longer_and_older_histories_come_from_the_database(
    store: Store, link: RedisLink
) -> None:
    for number in range(5):
        await store.add_turn(turn(number))
    assert await recalled(store, rounds=200) == [f"m{number}" for number in range(5)]
    assert len(await store.history("c1", rounds=3)) == 3


@pytest.mark.parametrize("how", ["conversation", "person"])
async def test_what_is_deleted_is_gone_from_redis(
    store: Store, link: RedisLink, redis_server: RedisServer, how: str
) -> None:
    await let_redis_recall(store, link, turn(1))
    if how == "conversation":
        await store.delete_conversation("c1")
    else:
        await erase(store, "ann")
    with redis_server.client() as redis:
        assert redis.keys("*") == []
    assert await recalled(store) == []


async def test_what_is_deleted_while_it_is_read_is_not_written_back(
    store: Store, link: RedisLink, redis_server: RedisServer
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def read(_rounds: int, _since: float) -> list[dict[str, object]]:
        begun.set()
        await go.wait()
        return [{"asked_at": time.time(), "question": SECRET}]

    async def moments(_rounds: int, _since: float) -> list[float]:
        return []

    rounds = rounds_of(link)
    recalling = asyncio.create_task(
        rounds.recall("c1", rounds=3, since=time.time(), read=read, moments=moments)
    )
    await begun.wait()
    await rounds.forget(["c1"])
    go.set()
    await recalling
    with redis_server.client() as redis:
        assert redis.keys("*") == []


async def test_without_redis_the_database_remembers(
    store: Store, link: RedisLink, redis_server: RedisServer
) -> None:
    await let_redis_recall(store, link, turn(1))
    redis_server.stop()
    await store.add_turn(turn(2))
    assert await recalled(store) == ["m1", "m2"]
    with pytest.raises(RedisUnavailable, match="has just failed"):
        await link.check()


async def test_a_redis_that_comes_back_recalls_nothing_outdated(
    sqlite_url: str, redis_server: RedisServer
) -> None:
    watch = Watch()
    async with (
        RedisLink(redis_server.url, clock=watch) as link,
        Store(sqlite_url, rounds=rounds_of(link)) as store,
    ):
        await let_redis_recall(store, link, turn(1), turn(1, "c2"))
        await recalled(store, "c2")
        with pytest.raises(RedisUnavailable):
            async with link.asking():
                raise ConnectionError("cut for a moment; nothing is lost there")
        await store.add_turn(turn(2))
        await store.delete_conversation("c2")
        watch.now += PAUSE_SECONDS
        assert await recalled(store) == ["m1", "m2"]
        assert await recalled(store, "c2") == []


@pytest.fixture
async def replicas(postgres_url: str, link: RedisLink) -> AsyncIterator[tuple[Store, Store]]:
    """One that Redis does not answer, and one that it does, on one PostgreSQL."""
    async with (
        RedisLink("redis://127.0.0.1:1/0") as cut,
        Store(postgres_url, rounds=rounds_of(cut)) as alone,
        Store(postgres_url, rounds=rounds_of(link)) as other,
    ):
        yield alone, other


async def test_what_a_replica_could_not_tell_redis_is_known_to_the_others(
    replicas: tuple[Store, Store], link: RedisLink
) -> None:
    alone, other = replicas
    await let_redis_recall(other, link, turn(1))
    await alone.add_turn(turn(2))
    assert await recalled(other) == ["m1", "m2"]
    await other.add_turn(turn(3))
    await blur(other)
    found = await other.history("c1", rounds=3, since=time.time() - 3600)
    assert [one.question for one in found] == [f"{SECRET} {number}" for number in (1, 2, 3)]


async def test_what_a_replica_could_not_delete_from_redis_is_not_remembered_by_the_others(
    replicas: tuple[Store, Store], link: RedisLink
) -> None:
    alone, other = replicas
    bob = replace(turn(2), user_id="bob")
    await let_redis_recall(other, link, turn(1), bob, turn(3))
    await erase(alone, "bob")
    assert await recalled(other) == ["m1", "m3"]
    await alone.delete_conversation("c1")
    assert await recalled(other) == []


async def test_a_wrong_password_is_as_good_as_no_redis(
    sqlite_url: str, redis_server: RedisServer
) -> None:
    with redis_server.client() as redis:
        redis.config_set("requirepass", "sesame")
    async with RedisLink(redis_server.url, "wrong") as link:
        with pytest.raises(RedisUnavailable, match="AuthenticationError"):
            await link.check()
    async with RedisLink(redis_server.url, "sesame") as link:
        await link.check()


async def test_a_turn_of_an_erased_person_is_not_remembered(
    store: Store, link: RedisLink, redis_server: RedisServer
) -> None:
    await let_redis_recall(store, link, turn(1))
    await erase(store, "ann")
    await store.add_turn(replace(turn(2), asked_at=0.0))
    with redis_server.client() as redis:
        assert redis.keys("*") == []
