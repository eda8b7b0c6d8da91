"""PostgreSQL is killed while verdicts are committed: what was acknowledged is there, and once.

The control shows that such a kill loses what a server acknowledges before it is on the disk.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa

from core.errors import StoreError
from core.messages import Feedback, Rating
from core.store import Store
from core.tables import feedback_events
from tests.cluster import Cluster, running_cluster
from tests.core.test_store import make_turn

WRITERS = 8
# Acknowledges at once, and writes down seconds later.
CARELESS = ("synchronous_commit = off", "wal_writer_delay = 10s")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture
def careless() -> Iterator[Cluster]:
    with running_cluster(*CARELESS) as found:
        yield found


async def commit(store: Store, number: int) -> None:
    """Commit a verdict, as often as it takes to be told that it is there."""
    while True:
        try:
            await store.add_feedback(Feedback("r1", f"person-{number}", Rating.DOWN))
        except StoreError:
            await asyncio.sleep(0.05)
        else:
            return


async def torture(cluster: Cluster, *, events: int, kills: int) -> None:
    """Kill a backend or the postmaster by turns while eight commit at the same time."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    moments = random.Random(seed).sample(range(WRITERS, events - WRITERS), kills)
    faults = {
        moment: cluster.kill_postmaster if number % 2 else cluster.kill_backend
        for number, moment in enumerate(sorted(moments))
    }
    acknowledged: list[int] = []

    async def write(store: Store, numbers: range) -> None:
        for number in numbers:
            await commit(store, number)
            acknowledged.append(number)
            if fault := faults.get(len(acknowledged)):
                await survived(fault)

    async def survived(fault: Callable[[], None]) -> None:
        # A server that is still recovering from the last one takes nobody in.
        while True:
            try:
                return await asyncio.to_thread(fault)
            except (psycopg.OperationalError, ValueError):
                await asyncio.sleep(0.1)

    async with Store(cluster.url) as store:
        await store.add_turn(make_turn())
        async with asyncio.TaskGroup() as tasks:
            for first in range(WRITERS):
                tasks.create_task(write(store, range(first, events, WRITERS)))
    assert sorted(acknowledged) == list(range(events))
    assert await stored(cluster) == Counter(f"person-{number}" for number in range(events))


async def stored(cluster: Cluster) -> Counter[str]:
    """Who has a verdict in the database, and how many."""
    async with Store(cluster.url) as store:
        query = sa.select(feedback_events.c.user_id)
        return Counter(
            await store.run(lambda connection: connection.execute(query).scalars().all())
        )


async def test_killed_backends_and_a_killed_server_lose_and_repeat_nothing(
    cluster: Cluster,
) -> None:
    await torture(cluster, events=300, kills=4)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
async def test_fifty_kills_of_postgresql_lose_and_repeat_nothing(cluster: Cluster) -> None:
    await torture(cluster, events=10_000, kills=50)


async def test_a_server_that_acknowledges_too_early_is_told_not_to(careless: Cluster) -> None:
    await torture(careless, events=100, kills=2)


def test_the_same_kill_loses_what_such_a_server_acknowledges_to_others(careless: Cluster) -> None:
    with psycopg.connect(careless.address, autocommit=True) as connection:
        connection.execute("CREATE TABLE told (number integer)")
        connection.execute("CHECKPOINT")
        for number in range(50):
            connection.execute("INSERT INTO told VALUES (%s)", (number,))
        careless.kill_postmaster()
    with psycopg.connect(careless.address) as connection:
        rows = connection.execute("SELECT number FROM told").fetchall()
    assert len(rows) < 50
