"""A leader: one at a time, and another as soon as it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
import stamina

from core.leader import Leader, alone
from core.transactions import lock_number


class Candidate:
    """Somebody who would lead; `works` is set while they do."""

    def __init__(self, url: str, name: str = "polling") -> None:
        self.leader = Leader(url, name, check_seconds=0.05)
        self.works = asyncio.Event()
        self.rests = asyncio.Event()
        self.rests.set()

    async def work(self) -> None:
        self.works.set()
        self.rests.clear()
        try:
            await asyncio.Event().wait()
        finally:
            self.works.clear()
            self.rests.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.leader.run(self.work))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_one_leads_and_the_next_follows(postgres_url: str) -> None:
    first, second = Candidate(postgres_url), Candidate(postgres_url)
    async with first.running():
        await first.works.wait()
        async with second.running():
            other = Candidate(postgres_url, "something else")
            async with other.running():
                await other.works.wait()
            assert (first.leader.leads, second.leader.leads) == (True, False)
            assert not second.works.is_set()
    async with second.running():
        await second.works.wait()
        assert second.leader.leads


async def test_who_loses_the_connection_stops_and_another_begins(postgres_url: str) -> None:
    candidates = [Candidate(postgres_url), Candidate(postgres_url)]
    first, second = candidates
    async with first.running():
        await first.works.wait()
        async with second.running():
            for _ in range(3):
                leading = next(one for one in candidates if one.works.is_set())
                cut_off_the_leader(postgres_url)
                await leading.rests.wait()
                await asyncio.wait(
                    [asyncio.ensure_future(one.works.wait()) for one in candidates],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                assert sum(one.leader.leads for one in candidates) == 1


def cut_off_the_leader(url: str) -> None:
    query = """SELECT pg_terminate_backend(pid) FROM pg_locks
               WHERE locktype = 'advisory' AND granted AND database =
               (SELECT oid FROM pg_database WHERE datname = current_database())"""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(query)


async def test_an_absent_database_is_named_and_tried_again() -> None:
    leader = Leader("postgresql+psycopg://nobody@127.0.0.1:1/none", "polling", check_seconds=0.01)
    task = asyncio.create_task(leader.run(lambda: asyncio.sleep(0)))
    async for attempt in stamina.retry_context(on=AssertionError, attempts=None, timeout=60):
        with attempt:
            assert leader.problem
    assert not leader.leads
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})


async def test_what_the_work_raises_is_not_hidden(postgres_url: str) -> None:
    async def work() -> None:
        raise ValueError("our mistake")

    with pytest.raises(ValueError, match="our mistake"):
        await Leader(postgres_url, "polling").run(work)
    with pytest.raises(ValueError, match="our mistake"):
        await alone(work)


def test_names_have_numbers_that_postgresql_can_take() -> None:
    numbers = {lock_number(f"name {n}") for n in range(1000)}
    assert len(numbers) == 1000
    assert all(-(2**63) <= number < 2**63 for number in numbers)
