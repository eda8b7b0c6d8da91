"""Presence: what a gone replica was answering is freed, and nothing of one that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa

from core.inbox import Inbox
from core.messages import Platform, UserMessage
from core.presence import GONE_SECONDS, Presence
from core.store import Store
from tests.clock import Clock


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    async with Store(postgres_url) as opened:
        yield opened


@asynccontextmanager
async def there(store: Store, presence: Presence) -> AsyncIterator[None]:
    """The replica is there; gone afterwards, for the database too, which hears of it last."""
    task = asyncio.create_task(presence.run())
    await presence.shown.wait()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        async with asyncio.timeout(60):
            while await store.run(_locks):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def _locks(connection: sa.Connection) -> int:
    query = sa.text(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE locktype = 'advisory' AND datname = current_database()"
    )
    return connection.execute(query).scalar_one()


async def test_what_a_gone_replica_was_answering_is_freed_after_a_while(
    store: Store, postgres_url: str
) -> None:
    clock = Clock()
    one, two = (Inbox(store, owner=name, depth=3) for name in ("one", "two"))
    message = UserMessage("m1", Platform.WEB, "c1", "ann", "Canvas?")
    looking = Presence(store, postgres_url, "two", clock=clock)
    async with there(store, Presence(store, postgres_url, "one")):
        assert (await one.take(message)).letter is not None
        for _ in range(3):
            assert await looking.look() == 0
            clock.now += GONE_SECONDS
    assert await looking.look() == 0
    clock.now += GONE_SECONDS
    assert await looking.look() == 1
    letter = await two.lease()
    assert letter is not None
    assert (letter.message, letter.attempts) == (message, 2)


async def test_a_replica_that_comes_back_in_time_keeps_its_leases(
    store: Store, postgres_url: str
) -> None:
    clock = Clock()
    inbox = Inbox(store, owner="one", depth=3)
    looking = Presence(store, postgres_url, "two", clock=clock)
    await inbox.take(UserMessage("m1", Platform.WEB, "c1", "ann", "Canvas?"))
    assert await looking.look() == 0
    clock.now += GONE_SECONDS
    async with there(store, Presence(store, postgres_url, "one")):
        assert await looking.look() == 0
    clock.now += GONE_SECONDS - 1
    assert await looking.look() == 0
