"""A canary widens, is promoted or comes back; looking at it often changes nothing of that."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, median

import pytest
import sqlalchemy as sa

from core.errors import AdapterRejected
from core.messages import Feedback, Rating, Winner
from core.routes import Route, draws_canary
from core.settings import Canary as Rules
from core.settings import load_settings
from core.store import Store
from core.tables import adapters, audit, routes, runs
from tests.training.canary_world import DAY, START, World, thumbs
from training.canary import (
    DUEL_ALPHA,
    ERASED,
    Answered,
    Canary,
    Decision,
    Evidence,
    Step,
    decide,
    rating_test,
    read_evidence,
)
from training.runs import Runs
from training.sprt import Standing, duel_evidence

RULES = load_settings(environment={}).training.canary
HOUR = 3600.0
# What is known of a live adapter that seven in ten people like.
LIVE = Evidence(live_liked=280, live_rated=400)


def with_rules(**changes: object) -> Rules:
    return RULES.model_copy(update=changes)


@pytest.fixture
async def world(store: Store, tmp_path: Path) -> World:
    return await World.made(store, tmp_path)


def evidence(**changes: object) -> Evidence:
    later = {"stage_seconds": 25 * HOUR, "total_seconds": 25 * HOUR, "rated_in_stage": 30}
    return replace(LIVE, **(later | changes))  # type: ignore[arg-type]


def failing(failed: Sequence[bool]) -> list[Answered]:
    """An answer a minute, of which these failed."""
    return [Answered(60.0 * number, one) for number, one in enumerate(failed)]


def taking(seconds: Sequence[float]) -> list[Answered]:
    """An answer a minute that took so long."""
    return [Answered(60.0 * number, seconds=one) for number, one in enumerate(seconds)]


LIKED = [False, False, False, True] * 10
DISLIKED = [True, False] * 30


@pytest.mark.parametrize(
    ("found", "share", "step"),
    [
        (evidence(), 0.05, Step.WAIT),
        (evidence(disliked=LIKED), 0.05, Step.WIDEN),
        (evidence(disliked=LIKED, stage_seconds=23 * HOUR), 0.05, Step.WAIT),
        (evidence(disliked=LIKED, rated_in_stage=19), 0.05, Step.WAIT),
        (evidence(disliked=DISLIKED), 0.05, Step.ROLL_BACK),
        (evidence(disliked=LIKED), 0.5, Step.WAIT),
        (evidence(disliked=LIKED, won=40, lost=10), 0.5, Step.PROMOTE),
        (evidence(disliked=LIKED, won=10, lost=40), 0.5, Step.WAIT),
        (evidence(disliked=LIKED, won=40, lost=10), 0.2, Step.WIDEN),
        (evidence(disliked=LIKED, total_seconds=200 * HOUR), 0.05, Step.PROMOTE),
        (evidence(total_seconds=200 * HOUR), 0.05, Step.ROLL_BACK),
        (evidence(answers=failing([True] * 5)), 0.05, Step.ROLL_BACK),
        (evidence(answers=failing([True] + [False] * 50)), 0.05, Step.WAIT),
    ],
)
def test_what_is_known_decides_the_next_step(found: Evidence, share: float, step: Step) -> None:
    assert decide(found, share, RULES).step is step


def test_only_proof_promotes_where_the_settings_want_it() -> None:
    strict = with_rules(undecided="keep")
    late = evidence(disliked=LIKED, total_seconds=200 * HOUR)
    assert decide(late, 0.5, strict) == Decision(Step.ROLL_BACK, "nothing proved in time")


def test_failures_that_the_live_adapter_has_too_are_not_the_canarys() -> None:
    bad_hour = [True, False] * 20
    both = evidence(answers=failing(bad_hour), live_answers=failing(bad_hour * 5))
    assert decide(both, 0.05, RULES).step is Step.WAIT
    alone = evidence(answers=failing(bad_hour), live_answers=failing([False] * 200))
    assert decide(alone, 0.05, RULES) == Decision(Step.ROLL_BACK, "fails")


def test_an_adapter_that_takes_half_again_as_long_comes_back() -> None:
    rng = random.Random(7)

    def seconds(number: int, slower: float) -> list[float]:
        return [slower * rng.lognormvariate(0.0, 0.5) for _ in range(number)]

    def steps(slower: float) -> list[Step]:
        looks = [
            evidence(answers=taking(seconds(150, slower)), live_answers=taking(seconds(400, 1.0)))
            for _ in range(100)
        ]
        return [decide(look, 0.2, RULES).step for look in looks]

    assert steps(1.5).count(Step.ROLL_BACK) >= 95
    assert steps(1.0).count(Step.ROLL_BACK) <= 5


def first_harm(disliked: list[bool], live: Evidence) -> int | None:
    """After how many ratings somebody who looks after each one would roll back."""
    test = rating_test(live, RULES)
    if test.look(disliked) is not Standing.HARMFUL:
        return None
    # Harm that was seen stays seen, so that the first look that sees it can be searched for.
    looks = range(1, len(disliked) + 1)
    return 1 + bisect_left(
        looks, True, key=lambda number: test.look(disliked[:number]) is Standing.HARMFUL
    )


def rated(share_liked: float, number: int, rng: random.Random) -> list[bool]:
    return [rng.random() >= share_liked for _ in range(number)]


def known_live(rng: random.Random, share_liked: float = 0.7, number: int = 400) -> Evidence:
    """What is known of a live adapter by chance, when so many like it."""
    liked = sum(rng.random() < share_liked for _ in range(number))
    return Evidence(live_liked=liked, live_rated=number)


def promotes_wrongly(rng: random.Random) -> bool:
    """Whether duels of equals prove, at any look, that one is better."""
    won = 0
    for count in range(1, 151):
        won += rng.random() < 0.5
        if duel_evidence(won, count - won) >= 1 / DUEL_ALPHA:
            return True
    return False


def test_without_a_difference_one_canary_in_twenty_at_most_is_judged_wrongly() -> None:
    rng = random.Random(20)
    wrong = sum(
        first_harm(rated(0.7, 150, rng), known_live(rng)) is not None or promotes_wrongly(rng)
        for _ in range(1000)
    )
    assert wrong <= 50


@pytest.mark.parametrize("live_ratings", [20, 60, 400])
@pytest.mark.parametrize("liked", [0.3, 0.4, 0.7])
@pytest.mark.parametrize("canaries", [150, pytest.param(1000, marks=pytest.mark.nightly)])
def test_however_few_like_the_live_adapter_or_are_known_to_its_equal_rarely_comes_back(
    liked: float, live_ratings: int, canaries: int
) -> None:
    rng = random.Random(25)
    looks = [
        rating_test(known_live(rng, liked, live_ratings), RULES).look(rated(liked, 150, rng))
        for _ in range(canaries)
    ]
    # It has looked after every rating: harm that was seen stays seen.
    assert looks.count(Standing.HARMFUL) <= 0.05 * canaries


def test_a_drop_from_seventy_to_fifty_percent_is_caught_within_forty_ratings() -> None:
    rng = random.Random(21)
    found = [first_harm(rated(0.5, 150, rng), known_live(rng)) for _ in range(300)]
    caught = [number for number in found if number is not None]
    assert len(caught) >= 0.85 * len(found)
    assert median(number or 1000 for number in found) <= 40


def first_harm_beside(rng: random.Random, share: float, liked: float) -> int | None:
    """After how many of its ratings a canary is rolled back, where nothing was known of the live
    adapter before: it is rated by all the others meanwhile, and liked by seven in ten.
    """
    disliked: list[bool] = []
    live = Evidence()
    while len(disliked) < 120:
        disliked += rated(liked, 5, rng)
        others = round(len(disliked) * (1 - share) / share) - live.live_rated
        live = replace(
            live,
            live_rated=live.live_rated + others,
            live_liked=live.live_liked + others - sum(rated(0.7, others, rng)),
        )
        if rating_test(live, RULES).look(disliked) is Standing.HARMFUL:
            return len(disliked)
    return None


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("canaries", [60, pytest.param(1000, marks=pytest.mark.nightly)])
def test_a_drop_is_seen_also_where_the_live_adapter_is_only_rated_meanwhile(
    share: float, canaries: int
) -> None:
    rng = random.Random(26)
    found = [first_harm_beside(rng, share, 0.5) for _ in range(canaries)]
    assert sum(number is not None for number in found) >= 0.8 * canaries
    equal = [first_harm_beside(rng, share, 0.7) for _ in range(canaries)]
    assert sum(number is not None for number in equal) <= 0.1 * canaries


def test_thumbs_alone_tell_no_harm_where_nobody_has_rated_the_live_adapter() -> None:
    """The weakness of a test that knows nothing to compare with; failures and slowness are seen."""
    rng = random.Random(27)
    found = [first_harm(rated(0.5, 150, rng), known_live(rng, 0.7, 5)) for _ in range(20)]
    assert found.count(None) >= 18


def stands(disliked: list[bool], live: Evidence) -> tuple[bool, bool]:
    """Whether whoever looks after every rating ever sees harm, or ever sees that there is none."""
    test = rating_test(live, RULES)
    looks = [test.look(disliked[:number]) for number in range(5, len(disliked) + 1, 5)]
    return Standing.HARMFUL in looks, Standing.CLEARED in looks


@pytest.mark.parametrize("better", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("canaries", [100, pytest.param(1000, marks=pytest.mark.nightly)])
def test_what_is_liked_as_much_or_more_is_cleared_within_two_hundred_ratings(
    better: float, canaries: int
) -> None:
    rng = random.Random(22)
    found = [stands(rated(0.7 + better, 200, rng), known_live(rng)) for _ in range(canaries)]
    assert sum(harmful for harmful, _ in found) <= 0.05 * canaries
    assert sum(cleared for _, cleared in found) >= 0.85 * canaries


def test_thumbs_alone_promote_nothing_however_many_go_up() -> None:
    liked = evidence(disliked=rated(0.9, 200, random.Random(23)))
    assert decide(liked, max(RULES.shares), RULES).step is Step.WAIT


@pytest.mark.parametrize("end", ["promoted", "rolled back"])
def test_nobody_is_sent_to_and_fro(end: str) -> None:
    tried = [Route("old", canary="new", share=share) for share in RULES.shares]
    last = tried[-1].promoting("new") if end == "promoted" else tried[-1].back()
    way = [Route("old"), *tried, last]
    for number in range(2000):
        asked = ["new" if draws_canary(b"key", one, f"p{number}") else one.live for one in way]
        turns = sum(before != after for before, after in pairwise(asked))
        assert turns <= (1 if end == "promoted" else 2)
        assert asked[-1] == ("new" if end == "promoted" else "old")


def test_the_control_a_canary_drawn_anew_for_every_answer_sends_people_to_and_fro() -> None:
    rng = random.Random(24)
    asked = [rng.random() < share for share in RULES.shares for _ in range(20)]
    assert sum(before != after for before, after in pairwise(asked)) > 2


def test_the_control_a_z_test_that_is_peeked_at_is_wrong_far_more_often() -> None:
    rng = random.Random(20)
    surely = NormalDist().inv_cdf(0.975)

    def wrong() -> bool:
        liked = [0, 0]
        for count in range(1, 401):
            liked[0] += rng.random() < 0.7
            liked[1] += rng.random() < 0.7
            if count % 10:
                continue
            both = sum(liked) / (2 * count)
            error = (2 * both * (1 - both) / count) ** 0.5
            if error and abs(liked[0] - liked[1]) / count / error > surely:
                return True
        return False

    assert sum(wrong() for _ in range(300)) > 0.05 * 300


@pytest.fixture
def canary(world: World) -> Canary:
    return Canary(world.store, world.registry, RULES)


async def look(canary: Canary, now: float) -> Decision:
    found = await canary.advance(now=now)
    assert found is not None
    return found.decision


async def count(store: Store, table: sa.Table) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    return int(await store.run(lambda connection: connection.execute(query).scalar_one()))


async def test_without_a_canary_there_is_nothing_to_look_at(canary: Canary) -> None:
    assert await canary.advance(now=START) is None


async def test_a_canary_goes_from_share_to_share_and_goes_live(
    world: World, canary: Canary
) -> None:
    await world.rated("old", START - DAY, *thumbs(35, 15))
    await canary.start("new", who="test", now=START)
    now, shares = START, []
    for _ in range(3):
        now += 25 * HOUR
        shares.append((await world.registry.route()).share)
        await world.rated("new", now, *thumbs(20, 4))
        await world.duelled(now, "old", "new", *[Winner.SECOND] * 5)
        await look(canary, now + 60)
    assert shares == [0.05, 0.2, 0.5]
    assert await world.registry.route() == Route("new", "old", routed_at=now + 60)
    assert await count(world.store, routes) == await count(world.store, audit) == 4


async def test_disliked_answers_bring_it_back(world: World, canary: Canary) -> None:
    await world.rated("old", START - DAY, *thumbs(35, 15))
    await canary.start("new", who="test", now=START)
    await world.rated("new", START + 60, *thumbs(5, 20))
    assert await look(canary, START + 120) == Decision(Step.ROLL_BACK, "disliked")
    assert (await world.registry.route()).names == ("old",)
    assert (await world.registry.get("new")).state == "rolled_back"
    assert await canary.advance(now=START + 180) is None


async def test_answers_that_fail_bring_it_back_at_once(world: World, canary: Canary) -> None:
    await canary.start("new", who="test", now=START)
    for number in range(5):
        await world.answer("new", START + number, failure="AnswerIncomplete")
    assert await look(canary, START + 6) == Decision(Step.ROLL_BACK, "fails")


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("trouble", ["nothing works for a while", "a busy hour"])
async def test_a_bad_hour_of_everybody_is_not_the_canarys(
    world: World, canary: Canary, trouble: str, share: float
) -> None:
    await canary.start("new", who="test", now=START)
    failure = "ModelUnavailable" if trouble == "nothing works for a while" else ""
    at, each = START, round(1 / share)
    for number in range(80):
        at += 60
        bad = 15 <= number < 45
        for place in range(each):
            await world.answer(
                "old" if place else "new",
                at + place,
                failure=failure if bad else "",
                seconds=1.6 if bad else 1.0,
            )
        if number % 8 == 0:
            assert (await look(canary, at + 30)).step is Step.WAIT


async def test_a_canary_that_fails_where_the_live_adapter_does_not_comes_back(
    world: World, canary: Canary
) -> None:
    await canary.start("new", who="test", now=START)
    for number in range(60):
        await world.answer("new", START + number, failure="" if number % 4 else "TimeOut")
        await world.answer("old", START + number)
    assert await look(canary, START + 60) == Decision(Step.ROLL_BACK, "fails")


async def test_of_a_crowd_of_live_answers_a_part_is_read(
    world: World, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.canary._MOST_LIVE", 10)
    await canary.start("new", who="test", now=START)
    for number in range(41):
        await world.answer("old", START + number)
    await world.answer("new", START + 20)
    found = await canary.advance(now=START + 60)
    assert found is not None
    assert [one.at - START for one in found.evidence.live_answers] == [4, 9, 14, 19, 24, 29, 34, 39]


async def test_somebody_who_rates_all_day_is_one_person(world: World, canary: Canary) -> None:
    await canary.start("new", who="test", now=START)
    await world.rated("new", START + 60, *thumbs(0, 100), person="angry")
    found = await canary.advance(now=START + 120)
    assert found is not None
    assert found.decision.step is Step.WAIT
    assert found.evidence.disliked == [True]
    await world.rated("new", START + DAY, *thumbs(0, 5), person="angry")
    again = await canary.advance(now=START + DAY + 60)
    assert again is not None
    assert again.evidence.disliked == [True, True]


async def test_an_answer_without_a_thumb_says_nothing(world: World, canary: Canary) -> None:
    await canary.start("new", who="test", now=START)
    for number in range(50):
        await world.answer("new", START + number)
    assert (await look(canary, START + 100)).step is Step.WAIT


async def test_only_what_came_since_it_began_counts_for_a_canary(
    world: World, canary: Canary
) -> None:
    await world.rated("new", START - DAY, *thumbs(0, 50))
    await canary.start("new", who="test", now=START)
    assert (await look(canary, START + 60)).step is Step.WAIT
    await world.registry.roll_back(who="test", now=START + 120)
    await canary.start("newer", who="test", now=START + 180)
    await world.registry.roll_back(who="test", now=START + 240)
    await canary.start("new", who="test", now=START + 300)
    found = await canary.advance(now=START + 360)
    assert found is not None
    assert found.evidence.total_seconds == 60


async def test_a_duel_counts_whoever_stood_first_and_others_duels_do_not(
    world: World, canary: Canary
) -> None:
    await canary.start("new", who="test", now=START)
    await world.duelled(START + 1, "new", "old", Winner.FIRST, Winner.SECOND, Winner.NEITHER)
    await world.duelled(START + 1, "old", "new", Winner.SECOND)
    await world.duelled(START + 1, "old", "old", Winner.SECOND)
    found = await canary.advance(now=START + 60)
    assert found is not None
    assert (found.evidence.won, found.evidence.lost) == (2, 1)


async def test_a_duel_belongs_to_the_day_on_which_it_was_drawn(
    world: World, canary: Canary
) -> None:
    await world.duelled(START - 60, "new", "old", Winner.FIRST, decided_at=START + 60)
    await canary.start("new", who="test", now=START)
    late = START + 9 * DAY
    for day in range(3):
        # All are decided late: three of one day are one, three of three days are three.
        at = START + 60 + day * DAY
        await world.duelled(at, "old", "new", Winner.SECOND, person="ann", decided_at=late)
        soon, then = START + 90 + day, START + day * DAY
        await world.duelled(soon, "old", "new", Winner.FIRST, person="ben", decided_at=then)
    found = await canary.advance(now=START + 3 * DAY)
    assert found is not None
    assert (found.evidence.won, found.evidence.lost) == (3, 1)


async def test_the_last_thumb_counts_whatever_came_before(world: World, canary: Canary) -> None:
    await canary.start("new", who="test", now=START)
    rng = random.Random(3)
    last: dict[str, Rating] = {}
    replies = {name: await world.answer("new", START + 1, person=name) for name in "abcdefgh"}
    for moment in range(300):
        name = rng.choice("abcdefgh")
        last[name] = rng.choice([Rating.UP, Rating.DOWN])
        await world.store.add_feedback(
            Feedback(replies[name], name, last[name]), now=START + 2 + moment
        )
    route = await world.registry.route()

    async def read() -> Evidence:
        return await world.store.run(
            lambda connection: read_evidence(connection, route, START + HOUR)
        )

    found = await read()
    assert sum(found.disliked) == list(last.values()).count(Rating.DOWN)
    assert len(found.disliked) == len(last)
    assert await read() == found


async def test_two_who_look_at_the_same_time_widen_it_once(world: World, canary: Canary) -> None:
    await world.rated("old", START - DAY, *thumbs(35, 15))
    await canary.start("new", who="test", now=START)
    await world.rated("new", START + 60, *thumbs(22, 3))
    other = Canary(world.store, world.registry, RULES)
    now = START + 25 * HOUR
    assert (await look(canary, now)).step is Step.WIDEN
    assert (await look(other, now)).step is Step.WAIT
    assert (await world.registry.route()).share == 0.2


async def test_without_shares_everybody_gets_it_at_once(world: World) -> None:
    canary = Canary(world.store, world.registry, with_rules(shares=[]))
    assert (await canary.start("new", who="test", now=START)).live == "new"
    assert (await canary.start("new", who="test", now=START + 1)).live == "new"
    assert await count(world.store, routes) == 1


async def test_a_start_that_is_repeated_leaves_the_share_as_it_is(
    world: World, canary: Canary
) -> None:
    await canary.start("new", who="test", now=START)
    await world.registry.try_out("new", 0.5, who="test", now=START + 1)
    assert (await canary.start("new", who="test", now=START + 2)).share == 0.5


async def test_a_flagged_adapter_never_becomes_a_canary(world: World, canary: Canary) -> None:
    flag = sa.update(adapters).where(adapters.c.name == "new").values(flagged_at=START)
    await world.store.run(lambda connection: connection.execute(flag))
    with pytest.raises(AdapterRejected, match="erased since"):
        await canary.start("new", who="test", now=START)


async def test_a_canary_whose_people_were_erased_meanwhile_comes_back(
    world: World, canary: Canary
) -> None:
    await canary.start("new", who="test", now=START)
    await world.rated("new", START + 60, *thumbs(30, 3))
    flag = sa.update(adapters).where(adapters.c.name == "new").values(flagged_at=START + 100)
    await world.store.run(lambda connection: connection.execute(flag))
    assert await look(canary, START + 25 * HOUR) == Decision(Step.ROLL_BACK, ERASED)
    assert (await world.registry.route()).names == ("old",)
    assert await canary.advance(now=START + 26 * HOUR) is None


async def test_while_the_loop_is_paused_a_canary_comes_back_for_harm_and_for_nothing_else(
    world: World, canary: Canary
) -> None:
    await world.rated("old", START - DAY, *thumbs(35, 15))
    await canary.start("new", who="test", now=START)
    await world.rated("new", START + 60, *thumbs(22, 3))
    for hours in (25, 200):
        found = await canary.advance(now=START + hours * HOUR, paused=True)
        assert found is not None
        assert found.decision == Decision(Step.WAIT, "paused")
    await world.rated("new", START + 2 * DAY, *thumbs(0, 40))
    found = await canary.advance(now=START + 200 * HOUR, paused=True)
    assert found is not None
    assert found.decision == Decision(Step.ROLL_BACK, "disliked")


@pytest.mark.parametrize("state", ["canary", "rejected"])
async def test_a_canary_is_abandoned_where_its_run_has_ended_without_it(
    world: World, canary: Canary, tmp_path: Path, state: str
) -> None:
    found = Runs(world.store, tmp_path)
    run = await found.begin("dpo", "embedded", who="test", now=START)
    made_by = sa.update(adapters).where(adapters.c.name == "new").values(run_id=run.id)
    in_state = sa.update(runs).values(state=state)
    await world.store.run(
        lambda connection: [connection.execute(one) for one in (made_by, in_state)]
    )
    assert await canary.end_abandoned(now=START) is None
    await canary.start("new", who="test", now=START)
    after = await canary.end_abandoned(now=START + 60)
    assert (after is None) == (state == "canary")
    assert (await world.registry.route()).canary == ("new" if state == "canary" else "")


async def test_nothing_that_people_wrote_is_in_the_audit(world: World, canary: Canary) -> None:
    await canary.start("new", who="test", now=START)
    await world.rated("new", START + 60, *thumbs(0, 30))
    await look(canary, START + 120)
    rows = await world.store.run(lambda connection: connection.execute(sa.select(audit)).all())
    said = " ".join(str(row) for row in rows)
    assert len(rows) == 2
    assert "An answer" not in said
    assert "person-" not in said
