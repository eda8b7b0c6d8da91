"""A judge picks a new answer only where it is clearly better than the disliked one."""

from __future__ import annotations

import pytest

from core.messages import Turn
from core.model import Piece
from core.second_answers import TEMPERATURE, SecondAnswers
from core.store import Store
from tests.fakes import FakeChatModel
from tests.training.feedback_world import ANSWER, BETTER, World
from training.judge import ModelJudge, RuleJudge, SecondTry
from training.verdicts import Verdict, read_verdicts

DISLIKED = "您好，洗好后塞纸，放在阴凉处晾干，不要暴晒。"


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


async def disliked(world: World, answer: str = DISLIKED) -> tuple[Turn, Verdict]:
    reply = await world.ask(answer=answer)
    await world.dislike(reply)
    (verdict,) = await read_verdicts(world.store)
    return world.turns[reply], verdict


async def test_rules_pick_the_answer_that_speaks_of_what_was_asked(world: World) -> None:
    turn, verdict = await disliked(world)
    assert await RuleJudge().best(turn, verdict, [DISLIKED + "好。", ANSWER]) == ANSWER


async def test_rules_pick_nothing_that_is_no_better(world: World) -> None:
    turn, verdict = await disliked(world, ANSWER)
    assert await RuleJudge().best(turn, verdict, [DISLIKED]) is None


async def test_a_model_has_to_pick_the_same_answer_in_both_orders(world: World) -> None:
    turn, verdict = await disliked(world)
    model = FakeChatModel(["2", "答案是 1 号", "1", "1"])
    judge = ModelJudge(model, "judge")
    assert await judge.best(turn, verdict, [BETTER, ANSWER]) == ANSWER
    assert await judge.best(turn, verdict, [BETTER, ANSWER]) is None
    assert {asked.adapter for asked in model.asked} == {"judge"}


@pytest.mark.parametrize("said", ["0", "none of them", "7", ""])
async def test_a_model_that_picks_none_leaves_none(world: World, said: str) -> None:
    turn, verdict = await disliked(world)
    assert await ModelJudge(FakeChatModel([said]), "judge").best(turn, verdict, [BETTER]) is None


async def test_answers_are_sampled_warm_and_each_with_its_own_seed(world: World) -> None:
    turn, verdict = await disliked(world)
    model = FakeChatModel([ANSWER])
    assert (
        await SecondTry(SecondAnswers(model, 0.3), RuleJudge(), 3).answer(turn, verdict) == ANSWER
    )
    assert [asked.sampling.seed for asked in model.asked] == [0, 1, 2]
    assert {asked.sampling.temperature for asked in model.asked} == {TEMPERATURE}
    assert {asked.prompt for asked in model.asked} == {turn.prompt}


@pytest.mark.parametrize(
    "answer",
    [
        [Piece("帆布鞋用软刷", "length")],
        "您好，帆布鞋用 60 度热水和 Zoomex 清洁剂刷洗。",
        "资料里没有提到这个问题。",
        DISLIKED,
    ],
)
async def test_an_answer_that_is_cut_invented_or_the_same_is_never_judged(
    world: World, answer: str | list[Piece]
) -> None:
    turn, verdict = await disliked(world)
    second = SecondTry(SecondAnswers(FakeChatModel([answer]), 0.3), RuleJudge(), 1)
    assert await second.answer(turn, verdict) is None
