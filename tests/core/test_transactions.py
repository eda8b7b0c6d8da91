"""Transactions: what waits together is committed together, and fails alone."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.transactions import ParallelTransactions, Transactions, lock

numbers = sa.Table("numbers", sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True))


class Watched:
    """Transactions on a new database; `commits` counts those since `hold` was let go."""

    def __init__(self, engine: sa.Engine, thread: ThreadPoolExecutor) -> None:
        self.run = Transactions(engine, thread).run
        self.commits = 0
        sa.event.listen(engine, "commit", self._count)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nothing is done before the block is left, so that all that was asked in it waits."""
        begun, gate = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def wait(_: Connection) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert gate.wait(60)

        holding = asyncio.create_task(self.run(wait))
        await begun.wait()
        try:
            yield
            await asyncio.sleep(0)
        finally:
            self.commits = -1
            gate.set()
            await holding

    async def add(self, number: int) -> int:
        def work(connection: Connection) -> int:
            connection.execute(sa.insert(numbers).values(number=number))
            return number

        return await self.run(work)

    async def all(self) -> list[int]:
        query = sa.select(numbers.c.number).order_by(numbers.c.number)
        return list(await self.run(lambda connection: connection.execute(query).scalars().all()))

    def _count(self, _: Connection) -> None:
        self.commits += 1


@pytest.fixture
async def transactions(tmp_path: Path) -> AsyncIterator[Watched]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'numbers.db'}")
    numbers.create(engine)
    with ThreadPoolExecutor(1) as thread:
        yield Watched(engine, thread)
    engine.dispose()


async def test_what_waits_together_is_committed_once(transactions: Watched) -> None:
    async with transactions.held():
        adding = [asyncio.create_task(transactions.add(number)) for number in range(9)]
    assert await asyncio.gather(*adding) == list(range(9))
    assert transactions.commits == 1
    assert await transactions.all() == list(range(9))


async def test_what_fails_fails_alone(transactions: Watched) -> None:
    await transactions.add(1)
    async with transactions.held():
        adding = [asyncio.create_task(transactions.add(number)) for number in (0, 1, 2)]
    results = await asyncio.gather(*adding, return_exceptions=True)
    assert [type(result) for result in results] == [int, sa.exc.IntegrityError, int]
    assert await transactions.all() == [0, 1, 2]


async def test_what_was_cancelled_while_it_waited_is_not_done(transactions: Watched) -> None:
    async with transactions.held():
        given_up = asyncio.create_task(transactions.add(1))
        adding = asyncio.create_task(transactions.add(2))
        await asyncio.sleep(0)
        given_up.cancel()
    await adding
    assert await transactions.all() == [2]


# PostgreSQL: side by side.


@pytest.fixture
async def parallel(postgres_url: str) -> AsyncIterator[ParallelTransactions]:
    engine = sa.create_engine(postgres_url)
    numbers.create(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(numbers).values([{"number": 1}, {"number": 2}]))
    with ThreadPoolExecutor(4) as threads:
        yield ParallelTransactions(engine, threads)
    engine.dispose()


def held(number: int) -> sa.Select[tuple[int]]:
    return sa.select(numbers.c.number).where(numbers.c.number == number).with_for_update()


async def test_a_transaction_does_not_wait_for_another(parallel: ParallelTransactions) -> None:
    gate = threading.Event()
    waiting = asyncio.create_task(parallel.run(lambda _: gate.wait(60)))
    assert await parallel.run(lambda connection: connection.scalar(held(1))) == 1
    gate.set()
    assert await waiting


async def test_of_two_that_wait_for_each_other_both_are_done(
    parallel: ParallelTransactions,
) -> None:
    met, tries = threading.Barrier(2), [0, 0]

    def work(connection: Connection, first: int) -> None:
        connection.execute(held(first))
        tries[first - 1] += 1
        if tries[first - 1] == 1:
            met.wait(60)
        connection.execute(held(3 - first))

    await asyncio.gather(
        parallel.run(lambda connection: work(connection, 1)),
        parallel.run(lambda connection: work(connection, 2)),
    )
    # Who gives way may meet the other again, and again.
    assert max(tries) >= 2


async def test_what_another_has_written_meanwhile_is_looked_at_again(
    parallel: ParallelTransactions,
) -> None:
    met, looks = threading.Barrier(2), itertools.count()

    def unless_there(connection: Connection) -> bool:
        if connection.scalar(held(9)) is not None:
            return False
        if next(looks) < 2:
            met.wait(60)
        connection.execute(sa.insert(numbers).values(number=9))
        return True

    assert sorted(await asyncio.gather(*(parallel.run(unless_there) for _ in range(2)))) == [0, 1]


async def test_what_breaks_a_rule_each_time_is_an_error(parallel: ParallelTransactions) -> None:
    def twice(connection: Connection) -> None:
        connection.execute(sa.insert(numbers).values(number=1))

    with pytest.raises(sa.exc.IntegrityError):
        await parallel.run(twice)


async def test_what_locks_the_same_goes_one_after_the_other(
    parallel: ParallelTransactions,
) -> None:
    inside = []

    def work(connection: Connection) -> None:
        lock(connection, "the same")
        inside.append(1)
        assert sum(inside) == 1
        connection.execute(sa.select(sa.func.pg_sleep(0.005)))
        inside.append(-1)

    await asyncio.gather(*(parallel.run(work) for _ in range(20)))
