"""Whoever corrected an answer is told once that it was learned, and only while it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from core.corrections import Fate, corrections_of
from core.messages import Platform, Wish
from core.notices import STAYS_SECONDS, Notices
from core.privacy import erase
from core.store import Store
from core.tables import adapters, notices, routes, run_pairs, runs
from tests.training.feedback_world import BETTER, NOW, QUESTION, World, rules
from training.collect import collect_pairs

ANN, BOB = "web:ann", "web:bob"


@dataclass
class School:
    """People who correct answers, and adapters that learn from them."""

    world: World
    now: float = NOW

    @property
    def notices(self) -> Notices:
        return Notices(self.world.store, lambda: self.now)

    async def corrected(self, user: str, text: str = BETTER, question: str = QUESTION) -> str:
        """A correction that is accepted; its pair's id."""
        await self.world.dislike(await self.world.ask(question, user=user), text, user=user)
        [pair] = (await collect_pairs(self.world.store, rules(), NOW + 1)).new
        assert pair.state == Fate.ACCEPTED
        return pair.id

    async def learned(self, adapter: str, *pairs: str, split: str = "train") -> None:
        """An adapter that was trained on these pairs goes live, and stays so."""
        run = {"id": adapter, "key": adapter, "stage": "dpo", "recipe": "r", "state": "promoted"}
        more = {"why": "", "started_by": "", "folder": "", "dataset": "", "adapter": adapter}
        run |= more | {"problem": ""}
        made = {"name": adapter, "run_id": adapter, "path": "", "base": "", "digest": ""}
        rest = {"figures": {}, "attempts": 1, "created_at": NOW, "updated_at": NOW}

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(runs).values({**run, **rest}))
            state = {"manifest": {}, "state": "live", "created_at": NOW}
            connection.execute(sa.insert(adapters).values({**made, **state}))
            for pair in pairs:
                row = {"run_id": adapter, "pair_id": pair, "split": split}
                connection.execute(sa.insert(run_pairs).values(row))

        await self.world.store.run(work)
        await self.routed(adapter)
        self.now += STAYS_SECONDS

    async def routed(self, live: str) -> None:
        row = {"live": live, "previous": "", "canary": "", "share": 0.0, "routed_at": self.now}
        await self.world.store.run(lambda one: one.execute(sa.insert(routes).values(row)))

    async def fates(self, user: str) -> list[Fate]:
        return [one.fate for one in await corrections_of(self.world.store, user, limit=9)]


@pytest.fixture
def school(store: Store) -> School:
    return School(World(store))


async def test_a_person_is_told_once_what_they_taught(school: School) -> None:
    pair = await school.corrected(ANN)
    assert await school.notices.take(ANN) is None
    await school.learned("shoes-v2", pair)
    assert await school.notices.people(Platform.WEB) == [ANN]
    assert await school.notices.people(Platform.SLACK) == []
    notice = await school.notices.take(ANN)
    assert notice is not None
    assert QUESTION in notice.words
    assert BETTER in notice.words
    assert await school.notices.take(BOB) is None
    # What is taken is told by whoever took it, or by nobody where they are killed.
    assert await school.notices.take(ANN) is None
    # The next adapter has learned it as well.
    await school.learned("shoes-v3", pair)
    assert await school.notices.people(Platform.WEB) == []


async def test_several_who_would_tell_are_one(school: School) -> None:
    await school.learned("shoes-v2", await school.corrected(ANN))
    found = await asyncio.gather(*(school.notices.take(ANN) for _ in range(6)))
    assert sum(one is not None for one in found) == 1


async def test_nobody_is_told_before_the_adapter_has_stayed(school: School) -> None:
    await school.learned("shoes-v2", await school.corrected(ANN))
    school.now -= 1
    assert await school.notices.take(ANN) is None
    await school.routed("shoes-v1")
    school.now += 10 * STAYS_SECONDS
    assert await school.notices.take(ANN) is None
    await school.routed("shoes-v2")
    school.now += STAYS_SECONDS - 1
    assert await school.notices.take(ANN) is None
    school.now += 1
    assert await school.notices.take(ANN)


async def test_what_was_only_measured_with_is_not_learned(school: School) -> None:
    await school.learned("shoes-v2", await school.corrected(ANN), split="held_out")
    assert await school.notices.take(ANN) is None
    assert await school.fates(ANN) == [Fate.ACCEPTED]


async def test_a_rollback_unsays_that_it_was_learned(school: School) -> None:
    await school.learned("shoes-v2", await school.corrected(ANN))
    assert await school.fates(ANN) == [Fate.LIVE]
    await school.routed("shoes-v1")
    assert await school.fates(ANN) == [Fate.ACCEPTED]


async def test_whoever_does_not_want_it_and_whoever_is_erased_is_not_told(school: School) -> None:
    drying = "嗨，塞好纸，放在阴凉通风处晾干就行，别暴晒哦～"
    other = await school.corrected(BOB, drying, "洗完以后放哪里晾？")
    await school.learned("shoes-v2", await school.corrected(ANN), other)
    await school.world.store.wish(ANN, Wish.TELL, on=False)
    await erase(school.world.store, BOB, now=NOW)
    assert await school.notices.people(Platform.WEB) == []
    assert await school.notices.take(ANN) is None
    assert await school.notices.take(BOB) is None
    await school.world.store.wish(ANN, Wish.TELL, on=True)
    assert await school.notices.take(ANN)
    rows = await school.world.store.run(
        lambda connection: connection.execute(sa.select(notices)).all()
    )
    assert [(row.user_id, row.told_at) for row in rows] == [(ANN, school.now)]
