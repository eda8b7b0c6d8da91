"""What one replica is asked about an answer that another one is making."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from bots.web.desk import Desk
from core.errors import SolemateError
from core.messages import Done, Event, Platform, UserMessage
from core.privacy import erase
from core.tables import inbox, turns
from tests.bots.desks import ANSWER, open_desk
from tests.fakes import HeldChatModel

FIRST, SECOND = (
    UserMessage(name, Platform.API, "c", "ann", "How do I wash canvas shoes?")
    for name in ("m1", "m2")
)


@dataclass
class Replicas:
    """Two desks on one database; `answers` is what the one that is answering says of the first."""

    answering: Desk
    other: Desk
    answers: asyncio.Task[list[Event]]

    async def reply(self) -> str:
        """What the first message is answered with."""
        (*_, done) = await self.answers
        assert isinstance(done, Done)
        return done.reply.text

    async def rows(self, table: sa.Table) -> int:
        query = sa.select(sa.func.count()).select_from(table)
        return await self.other.store.run(lambda connection: connection.scalar(query) or 0)


@pytest.fixture
async def replicas(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replicas]:
    """Two, while one of them makes an answer that goes on when it is stopped; a message waits."""
    for pace in ("bots.lanes.HEED_SECONDS", "bots.feeds.ELSEWHERE_SECONDS"):
        monkeypatch.setattr(pace, 0.01)
    model = HeldChatModel([ANSWER])
    async with (
        open_desk(tmp_path, model, database=postgres_url) as answering,
        open_desk(tmp_path, model, database=postgres_url) as other,
        answering.lanes.running(),
        asyncio.timeout(60),
    ):
        unwanted = answering.inbox.unwanted

        async def noticed(letters: Collection[int]) -> set[int]:
            if found := await unwanted(letters):
                model.gate.set()
            return found

        monkeypatch.setattr(answering.inbox, "unwanted", noticed)
        events = await answering.ask(FIRST)
        await model.waiting.wait()
        await answering.lanes.submit(SECOND)
        answers = asyncio.create_task(_all(events))
        yield Replicas(answering, other, answers)
        await other.inbox.call_off("c")


async def _all(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def test_an_answer_is_stopped_from_another_replica(replicas: Replicas) -> None:
    assert await replicas.other.lanes.stop("c", "m1")
    assert (await replicas.reply()).endswith("(stopped)")
    # It is over when what was shown of it is committed, a moment after its end was shown.
    for _ in range(1000):
        if not await replicas.other.lanes.stop("c", "m1"):
            return
        await asyncio.sleep(0.01)
    pytest.fail("An answer that is over can still be stopped.")


async def test_a_session_deleted_on_another_replica_while_it_is_answered_stays_deleted(
    replicas: Replicas,
) -> None:
    assert await replicas.other.forget("c")
    assert replicas.answers.done()
    assert [await replicas.rows(table) for table in (turns, inbox)] == [0, 0]


async def test_the_answer_to_somebody_who_is_forgotten_on_another_replica_ends_and_is_not_kept(
    replicas: Replicas,
) -> None:
    await erase(replicas.other.store, "ann")
    # Whichever is seen first: its end, or that there will be none.
    with suppress(SolemateError):
        await replicas.answers
    assert [await replicas.rows(table) for table in (turns, inbox)] == [0, 0]


@dataclass
class Slow:
    """A platform that has whoever shows an answer wait until it is told to let it through."""

    shown: list[str] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        await _all(events)
        self.begun.set()
        await self.goes_on.wait()
        self.shown.append(message.id)

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        raise AssertionError(message.id)


async def test_what_a_platform_keeps_waiting_for_longer_than_a_lease_is_answered_once(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.HEED_SECONDS", 0.01)
    slow, quick = Slow(), Slow()
    quick.goes_on.set()
    async with (
        open_desk(tmp_path, bots={Platform.API: slow}, database=postgres_url) as answering,
        open_desk(tmp_path, bots={Platform.API: quick}, database=postgres_url) as other,
        asyncio.timeout(60),
    ):
        expired = asyncio.Event()
        renew = answering.inbox.renew
        answering.inbox.lease_seconds = 0.0

        async def renewed(letters: Collection[int]) -> None:
            # The lease has run out; from now on it lasts, as long as it is renewed.
            answering.inbox.lease_seconds = 60.0
            await renew(letters)
            expired.set()

        monkeypatch.setattr(answering.inbox, "renew", renewed)
        async with answering.lanes.running():
            await answering.lanes.submit(FIRST)
            await slow.begun.wait()
            await expired.wait()
            assert await other.inbox.lease() is None
            slow.goes_on.set()
        assert (slow.shown, quick.shown) == (["m1"], [])
