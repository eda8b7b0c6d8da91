"""What one replica is asked about an answer that another one is making."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass
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
