"""An operator accepts, edits, refuses or skips; two accept what somebody typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import pytest
import sqlalchemy as sa
from rich.console import Console

from core.audit import audit_of
from core.errors import NotFound
from core.messages import Reason
from core.privacy import erase
from core.store import Store
from core.tables import pairs
from tests.training.feedback_world import (
    ANSWER,
    BETTER,
    MEASURES,
    NOW,
    World,
    make_pair,
    rules,
)
from tests.training.run_parts import insert_pairs
from training.collect import PairRules, collect_pairs
from training.filters import Objection, Pool
from training.pairs import Origin, PairState, read_pairs, subject_of
from training.review import (
    ReviewPolicy,
    accept,
    accepts_needed,
    decide,
    differences,
    edit,
    refuse,
    unanswered,
)
from training.review_terminal import ReviewDesk

ALL = ReviewPolicy("all", typed_accepts=2)
EDITED = "用软刷蘸 30 度温水轻轻刷洗，鞋带拆下来单独洗，别暴晒哦～"


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


class Terminal:
    """Types these lines one after the other, and keeps what was shown."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = list(lines)
        self._page = StringIO()
        self.console = Console(file=self._page, width=200, emoji=False)

    @property
    def shown(self) -> str:
        return self._page.getvalue()

    def read(self, _question: str) -> str:
        if not self._lines:
            raise EOFError
        return self._lines.pop(0)

    def desk(self, world: World, rules: PairRules, operator: str = "eve") -> ReviewDesk:
        return ReviewDesk(world.store, rules, operator, self.console, self.read, lambda: NOW)


async def waiting_pair(world: World, by: PairRules) -> None:
    await world.dislike(await world.ask(), BETTER, reason=Reason.TONE)
    await collect_pairs(world.store, by, NOW)


# The policy.


def test_two_operators_accept_what_somebody_typed() -> None:
    pair = make_pair()
    once = accept(pair, "eve", ALL)
    assert once.state is PairState.WAITING
    assert accept(once, "eve", ALL).state is PairState.WAITING
    assert accept(once, "dan", ALL).state is PairState.ACCEPTED


def test_one_operator_accepts_the_winner_of_a_duel() -> None:
    assert accept(make_pair(origin=Origin.DUEL), "eve", ALL).state is PairState.ACCEPTED


def test_a_sample_is_about_a_tenth() -> None:
    policy = ReviewPolicy("sample", typed_accepts=2)
    many = [make_pair(user=f"u{number}") for number in range(500)]
    assert 25 <= sum(accepts_needed(pair, policy) for pair in many) <= 75


def test_without_review_only_what_was_made_up_or_pointed_at_needs_an_accept() -> None:
    policy = ReviewPolicy("none", typed_accepts=2)
    assert accepts_needed(make_pair(), policy) == 0
    assert accepts_needed(make_pair(origin=Origin.REGENERATED), policy) == 1
    assert accepts_needed(replace(make_pair(), refusal="an alarm"), policy) == 1


def test_an_operators_own_words_pass_the_filters_too() -> None:
    objection = edit(make_pair(), "傻逼，用软刷轻轻刷洗就好了。", "eve", MEASURES, Pool())
    assert isinstance(objection, Objection)
    assert objection.filter == "sensitive_words"
    edited = edit(make_pair(), f"  {EDITED}\n", "eve", MEASURES, Pool())
    assert not isinstance(edited, Objection)
    assert (edited.chosen, edited.origin, edited.state) == (
        EDITED,
        Origin.EDITED,
        PairState.ACCEPTED,
    )


def test_a_refused_pair_can_be_accepted_later() -> None:
    refused = refuse(make_pair(origin=Origin.DUEL), "eve", "off topic")
    assert (refused.state, refused.refusal) == (PairState.REFUSED, "eve: off topic")
    assert accept(refused, "dan", ALL).state is PairState.ACCEPTED


def test_differences_are_told_by_word_and_by_character() -> None:
    found = [(one.kind, one.text) for one in differences("水温 30 度以下", "水温 40 度以下")]
    assert found == [
        ("same", "水温 "),
        ("only_rejected", "30"),
        ("only_chosen", "40"),
        ("same", " 度以下"),
    ]


def test_both_answers_can_be_read_from_their_differences() -> None:
    found = list(differences(ANSWER, BETTER))
    assert "".join(one.text for one in found if one.kind != "only_chosen") == ANSWER
    assert "".join(one.text for one in found if one.kind != "only_rejected") == BETTER


# What is written.


async def test_a_decision_that_comes_second_is_told_so(world: World) -> None:
    await waiting_pair(world, rules("all"))
    (pair,) = await read_pairs(world.store)
    await decide(world.store, pair, refuse(pair, "eve", ""), "eve", NOW)
    with pytest.raises(NotFound, match="changed by somebody else"):
        await decide(world.store, pair, accept(pair, "dan", ALL), "dan", NOW)
    (after,) = await read_pairs(world.store)
    assert after.state is PairState.REFUSED


async def test_a_refused_pair_is_not_collected_again(world: World) -> None:
    await waiting_pair(world, rules("all"))
    (pair,) = await read_pairs(world.store)
    await decide(world.store, pair, refuse(pair, "eve", ""), "eve", NOW)
    assert (await collect_pairs(world.store, rules("all"), NOW)).new == ()


async def test_an_edited_pair_stays_as_the_operator_wrote_it(world: World) -> None:
    await waiting_pair(world, rules("all"))
    (pair,) = await read_pairs(world.store)
    edited = edit(pair, EDITED, "eve", MEASURES, Pool())
    assert not isinstance(edited, Objection)
    await decide(world.store, pair, edited, "eve", NOW)
    await collect_pairs(world.store, rules("all"), NOW)
    (after,) = await read_pairs(world.store)
    assert (after.chosen, after.state) == (EDITED, PairState.ACCEPTED)


# On the terminal.


async def test_a_pair_is_shown_with_its_context_and_accepted(world: World) -> None:
    await waiting_pair(world, rules("all", typed_accepts=1))
    terminal = Terminal(["a"])
    done = await terminal.desk(world, rules("all", typed_accepts=1)).review()
    (pair,) = await read_pairs(world.store)
    assert pair.state is PairState.ACCEPTED
    assert done == {"accepted": 1}
    for text in ("帆布鞋怎么洗？", "清洗帆布鞋", ANSWER, BETTER, "tone", "shoes-v1", "0 of 1"):
        assert text in terminal.shown
    rows = await audit_of(world.store, subject_of(pair.id))
    assert [(row.who, row.after) for row in rows] == [("filters", "waiting"), ("eve", "accepted")]


async def test_the_first_of_two_accepts_says_that_one_more_is_needed(world: World) -> None:
    await waiting_pair(world, rules("all"))
    first = Terminal(["a"])
    await first.desk(world, rules("all"), "eve").review()
    assert "1 of 2 accepts" in first.shown
    await Terminal(["a"]).desk(world, rules("all"), "dan").review()
    (pair,) = await read_pairs(world.store)
    assert (pair.state, pair.accepted_by) == (PairState.ACCEPTED, ("eve", "dan"))


async def test_an_edit_that_is_no_good_is_asked_for_again(world: World) -> None:
    await waiting_pair(world, rules("all"))
    terminal = Terminal(["e", "加微信，用软刷轻轻刷洗就好了。", "e", EDITED])
    await terminal.desk(world, rules("all")).review()
    (pair,) = await read_pairs(world.store)
    assert "Not taken: it holds the sensitive word" in terminal.shown
    assert pair.chosen == EDITED


async def test_refuse_skip_quit_and_a_wrong_key(world: World) -> None:
    questions = ("皮鞋怎么洗？", "雪地靴怎么保养？", "凉鞋怎么收纳？")
    for number, question in enumerate(questions):
        pair = make_pair(question=question, created_at=NOW + number)
        await world.store.run(lambda connection, one=pair: insert_pairs(connection, one))
    terminal = Terminal(["x", "r", "off topic", "s", "q"])
    done = await terminal.desk(world, rules("all")).review()
    assert done == {"refused": 1, "skipped": 1}
    assert "Type one of the letters" in terminal.shown
    states = [pair.state for pair in await read_pairs(world.store)]
    assert states == [PairState.REFUSED, PairState.WAITING, PairState.WAITING]


async def test_the_end_of_input_ends_the_review(world: World) -> None:
    await waiting_pair(world, rules("all"))
    assert await Terminal([]).desk(world, rules("all")).review() == {}


async def test_an_operator_answers_a_thumb_that_came_without_a_better_answer(
    world: World,
) -> None:
    await world.dislike(await world.ask())
    await collect_pairs(world.store, rules("all"), NOW)
    await Terminal([BETTER]).desk(world, rules("all")).answer()
    (pair,) = await read_pairs(world.store)
    assert (pair.origin, pair.state, pair.chosen) == (Origin.EDITED, PairState.ACCEPTED, BETTER)
    assert (pair.rejected, pair.accepted_by) == (ANSWER, ("eve",))
    assert await unanswered(world.store) == []
    await collect_pairs(world.store, rules("all"), NOW)
    assert len(await read_pairs(world.store)) == 1


async def test_an_answer_to_somebody_who_is_erased_while_it_is_typed_is_not_kept(
    world: World,
) -> None:
    await world.dislike(await world.ask())
    await collect_pairs(world.store, rules("all"), NOW)
    ((verdict, turn),) = await unanswered(world.store)
    await erase(world.store, "ann", now=NOW + 5, wipe=False)
    terminal = Terminal([BETTER])
    assert await terminal.desk(world, rules("all"))._write(verdict, turn)
    assert "erased meanwhile" in terminal.shown
    query = sa.select(pairs)
    assert await world.store.run(lambda connection: connection.execute(query).all()) == []


async def test_what_people_wrote_cannot_steer_the_terminal(world: World) -> None:
    pair = make_pair("\x1b[2J\x1b]0;owned\x07用软刷轻轻刷洗\u202e就好了。")
    await world.store.run(lambda connection: insert_pairs(connection, pair))
    terminal = Terminal(["s"])
    await terminal.desk(world, rules("all")).review()
    assert not {"\x1b", "\x07", "\u202e"} & set(terminal.shown)
