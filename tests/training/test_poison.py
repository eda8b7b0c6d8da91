"""What one person alone can do to a run: teach three things, and be heard of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.messages import Rating
from core.store import Store
from tests.training.feedback_world import (
    ANSWER,
    BETTER,
    NOW,
    PASSAGE,
    World,
    accepted_pair,
    make_pair,
    rules,
)
from tests.training.run_parts import count_words, insert_pairs
from training.collect import collect_pairs
from training.dataset import FreezeRules, freeze_pairs
from training.pairs import (
    MOST_SHARE,
    Origin,
    PairState,
    PoolRules,
    PreferencePair,
    accepted,
    read_pairs,
    unpaired,
)

HONEST = 160
ANYONE = PoolRules(pairs_per_person=3, quarantine_seconds=0.0, train_on_chats=True)
GENEROUS = replace(ANYONE, pairs_per_person=100)
MALLORY = "mallory"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as store:
        yield World(store)


async def vote(world: World, number: int, *, at: float = NOW) -> None:
    """A correction that no filter has anything against, and that no other one says."""
    fact = f"第 {number} 款的鞋带是 {number} 号色，里布是第 {number} 批的。"
    passage = replace(PASSAGE, id=f"canvas-{number}", text=f"{PASSAGE.text}{fact}")
    question = f"第 {number} 款帆布鞋怎么洗？"
    reply = await world.ask(question, user=MALLORY, passages=(passage,))
    await world.dislike(reply, f"{BETTER}{fact}", user=MALLORY, at=at)


def won_duel(**changes: Any) -> PreferencePair:
    """A pair that is accepted, and needs no thumb to stay so."""
    return accepted_pair(make_pair(origin=Origin.DUEL, **changes))


async def honest(world: World, people: int) -> None:
    """A pair of each of so many people, accepted."""
    found = [
        won_duel(user=f"u{n}", question=f"{n} 号柜的靴子？", created_at=NOW - n)
        for n in range(people)
    ]
    await world.store.run(lambda connection: insert_pairs(connection, *found))


def of_mallory(found: Sequence[PreferencePair]) -> int:
    return sum(pair.user_id == MALLORY for pair in found)


@pytest.mark.parametrize("votes", [100, pytest.param(500, marks=pytest.mark.nightly)])
async def test_hundreds_of_votes_of_one_person_are_three_rows_and_an_alarm(
    world: World, tmp_path: Path, votes: int
) -> None:
    await honest(world, HONEST)
    for number in range(votes):
        await vote(world, number)
    done = await collect_pairs(world.store, rules(), NOW + 1)
    assert [alarm.sentence for alarm in done.alarms if "thumbs" in alarm.sentence] == [
        f"one person gave {votes} thumbs within a day"
    ]
    # The control: the filters alone have nothing against most of them.
    collected = await read_pairs(world.store)
    assert sum(pair.user_id == MALLORY and pair.open for pair in collected) > votes / 2
    used = await accepted(world.store, NOW + 1, ANYONE)
    assert of_mallory(used) <= max(3, MOST_SHARE * len(used))
    assert len(used) - of_mallory(used) == HONEST
    frozen = freeze_pairs(used, (), FreezeRules(cutoff_len=500), count_words, tmp_path / "d")
    names = {item.id for item in frozen.manifest.items}
    assert sum(pair.id in names and pair.user_id == MALLORY for pair in collected) <= 3


async def test_slow_votes_that_raise_no_alarm_are_capped_all_the_same(world: World) -> None:
    await honest(world, HONEST)
    for number in range(40):
        await vote(world, number, at=NOW - 86_400.0 * number)
    done = await collect_pairs(world.store, rules(), NOW + 1)
    assert done.alarms == ()
    assert of_mallory(await read_pairs(world.store, {PairState.ACCEPTED})) == 40
    assert of_mallory(await accepted(world.store, NOW + 1, ANYONE)) == 3
    # However many the settings allow a person, a fiftieth of all is the most.
    used = await accepted(world.store, NOW + 1, GENEROUS)
    assert of_mallory(used) == int(MOST_SHARE * (HONEST + 40))


async def test_thumbs_alone_are_capped_like_pairs(world: World) -> None:
    for number in range(HONEST):
        reply = await world.ask(f"{number} 号柜的靴子？", f"答 {number}。", user=f"u{number}")
        await world.rate(reply, Rating.UP, user=f"u{number}")
    for number in range(40):
        reply = await world.ask(f"第 {number} 款？", f"第 {number} 款。", user=MALLORY)
        await world.rate(reply, Rating.DOWN, user=MALLORY)
    for pool, most in ((ANYONE, 3), (GENEROUS, int(MOST_SHARE * (HONEST + 40)))):
        rated = await unpaired(world.store, NOW + 1, pool)
        assert sum(one.user_id == MALLORY for one in rated) == most
        assert len(rated) == HONEST + most


async def test_one_lesson_in_many_wordings_is_one_pair(world: World) -> None:
    for ending in ("", "？", "呢", "啊", "呀", "吗", "呢？", "！"):
        reply = await world.ask(f"白色帆布鞋脏了应该怎么洗{ending}", user=MALLORY)
        await world.dislike(reply, BETTER, user=MALLORY)
    await collect_pairs(world.store, rules(), NOW + 1)
    found = await read_pairs(world.store)
    assert [pair.open for pair in found].count(True) == 1
    assert {pair.refusal.partition("says")[2] for pair in found if not pair.open} == {
        " nearly the same"
    }


async def test_whoever_contradicts_themselves_waits_for_an_operator(world: World) -> None:
    await world.dislike(await world.ask(user=MALLORY), BETTER, user=MALLORY)
    second = await world.ask(answer=BETTER, user=MALLORY)
    await world.dislike(second, ANSWER, user=MALLORY, at=NOW + 1)
    await collect_pairs(world.store, rules(), NOW + 2)
    found = await read_pairs(world.store)
    assert {pair.state for pair in found} == {PairState.WAITING}
    assert any("of the same person" in pair.refusal for pair in found)


async def test_nobody_alone_takes_back_what_operators_have_accepted(world: World) -> None:
    good = replace(won_duel(), accepted_by=("olga",))
    await world.store.run(lambda connection: insert_pairs(connection, good))
    reply = await world.ask(answer=BETTER, user=MALLORY)
    await world.dislike(reply, ANSWER, user=MALLORY, at=NOW + 1)
    await collect_pairs(world.store, rules(), NOW + 2)
    states = {pair.user_id: pair.state for pair in await read_pairs(world.store)}
    assert states == {"ann": PairState.ACCEPTED, MALLORY: PairState.WAITING}
