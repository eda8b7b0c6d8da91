"""A duel is asked about once, between two whole answers that differ, and its winner is learned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from core.duels import MOST_CHARACTERS, Duel, Duels
from core.errors import ModelUnavailable, NotFound
from core.messages import Outcome, Side, Winner, Wish
from core.model import Piece
from core.privacy import erase
from core.routes import Route
from core.second_answers import TEMPERATURE, SecondAnswers
from core.settings import Duels as DuelSettings
from core.store import Store
from core.tables import duels, routes
from tests.fakes import FakeChatModel, HeldChatModel
from tests.training.feedback_world import ANSWER, BETTER, DAY, NOW, PASSAGE, World, rules
from training.canary import read_evidence
from training.collect import collect_pairs
from training.pairs import Origin, pair_id

LIVE, CANARY = "shoes-v1", "shoes-v2"
ALL = DuelSettings(share=1.0, disliked_share=1.0, per_person_per_day=100)


@dataclass
class Arena:
    """People who are answered, and may be asked to compare."""

    world: World
    model: FakeChatModel = field(default_factory=lambda: FakeChatModel([BETTER]))
    route: Route = field(default_factory=lambda: Route(LIVE))
    rules: DuelSettings = ALL
    now: float = NOW

    @property
    def duels(self) -> Duels:
        return Duels(
            self.world.store,
            SecondAnswers(self.model, 0.3),
            self.rules,
            route=lambda: self.route,
            key=b"a key for tests",
            clock=lambda: self.now,
        )

    async def duel(self, **asked: str) -> Duel:
        """A duel about a new answer, which has to come about."""
        duel = await self.duels.after_answer(await self.world.ask(**asked))
        assert duel is not None
        return duel

    async def rows(self) -> Sequence[sa.Row[tuple[object, ...]]]:
        query = sa.select(duels).order_by(duels.c.created_at, duels.c.id)
        return await self.world.store.run(lambda connection: connection.execute(query).all())


@pytest.fixture
def arena(store: Store) -> Arena:
    return Arena(World(store))


async def test_both_answers_are_shown_and_each_stands_first_now_and_then(arena: Arena) -> None:
    shown = [await arena.duel() for _ in range(40)]
    assert {frozenset((one.a.text, one.b.text)) for one in shown} == {frozenset((ANSWER, BETTER))}
    # All on one side would be one in 2^39.
    assert {one.a.text for one in shown} == {ANSWER, BETTER}
    assert {source.id for one in shown for source in one.sources} == {PASSAGE.id}
    assert not any(one.a.adapter or one.b.adapter for one in shown)


async def test_the_other_answer_is_sampled_warm_from_the_prompt_that_was_served(
    arena: Arena,
) -> None:
    duel = await arena.duel()
    [asked] = arena.model.asked
    assert asked.prompt == arena.world.turns[duel.reply_id].prompt
    assert (asked.adapter, asked.sampling.temperature) == (LIVE, TEMPERATURE)


@pytest.mark.parametrize(("writer", "rival"), [(LIVE, CANARY), (CANARY, LIVE)])
async def test_live_adapter_and_canary_compete_as_they_answer_people(
    arena: Arena, writer: str, rival: str
) -> None:
    arena.route = Route(LIVE, canary=CANARY, share=0.5)
    await arena.duel(adapter=writer)
    [asked] = arena.model.asked
    # Warm against cold would compare how they are sampled.
    assert (asked.adapter, asked.sampling.temperature) == (rival, 0.0)
    assert [row.adapter for row in await arena.rows()] == [rival]


async def test_a_disliked_answer_meets_another_of_the_same_writer(arena: Arena) -> None:
    arena.route = Route(LIVE, canary=CANARY, share=0.5)
    assert await arena.duels.after_dislike(await arena.world.ask(), "ann")
    assert [asked.adapter for asked in arena.model.asked] == [LIVE]
    assert await arena.duels.after_dislike(await arena.world.ask(), "bob") is None


@pytest.mark.parametrize(
    "asked",
    [
        {"outcome": Outcome.QUOTED, "adapter": ""},
        {"outcome": Outcome.REFUSED},
        {"outcome": Outcome.CLARIFY},
        {"complete": False},
        {"adapter": ""},
    ],
    ids=str,
)
async def test_only_what_the_model_itself_wrote_is_compared(
    arena: Arena, asked: dict[str, str]
) -> None:
    assert await arena.duels.after_answer(await arena.world.ask(**asked)) is None
    assert arena.model.asked == []


@pytest.mark.parametrize(
    "other",
    [
        ANSWER,
        f"{ANSWER}！",
        "帆布鞋用 60 度热水和 Zoomex 清洁剂刷洗，再晒三天。",
        "资料里没有提到这个问题。",
        [Piece(BETTER, "length")],
        ModelUnavailable("away"),
        BETTER * (MOST_CHARACTERS // len(BETTER)),
    ],
    ids=["same", "nearly", "invented", "a refusal", "cut short", "no answer", "too long"],
)
async def test_without_another_answer_worth_showing_nobody_is_asked(
    arena: Arena, other: str | Exception | Sequence[Piece]
) -> None:
    arena.model = FakeChatModel([other])
    assert await arena.duels.after_answer(await arena.world.ask()) is None
    assert await arena.rows() == []


async def test_nobody_is_asked_twice_about_an_answer_not_even_after_a_crash(arena: Arena) -> None:
    reply = await arena.world.ask()
    assert await arena.duels.after_answer(reply)
    # What is committed was not shown, and will not be asked about again.
    assert await arena.duels.after_answer(reply) is None
    assert await arena.duels.after_dislike(reply, "ann") is None
    assert len(await arena.rows()) == 1


async def test_a_person_is_asked_so_often_a_day_and_others_are_not_counted(arena: Arena) -> None:
    arena.rules = ALL.model_copy(update={"per_person_per_day": 2})

    async def asked(user: str) -> bool:
        return await arena.duels.after_answer(await arena.world.ask(user=user)) is not None

    assert [await asked("ann") for _ in range(4)] == [True, True, False, False]
    assert await asked("bob")
    arena.now += DAY
    assert await asked("ann")


async def test_several_at_once_are_one(arena: Arena) -> None:
    reply = await arena.world.ask()
    found = await asyncio.gather(*(arena.duels.after_answer(reply) for _ in range(5)))
    assert len([one for one in found if one is not None]) == len(await arena.rows()) == 1


async def test_a_share_of_conversations_is_drawn_and_of_thumbs_down(arena: Arena) -> None:
    arena.rules = DuelSettings(share=0.25, disliked_share=0.0, per_person_per_day=100)
    replies = [await arena.world.ask(user=f"person-{number}") for number in range(80)]
    drawn = [await arena.duels.after_answer(one) is not None for one in replies]
    assert 8 <= sum(drawn) <= 32
    left = next(one for one, was in zip(replies, drawn, strict=True) if not was)
    turn = arena.world.turns[left]
    assert await arena.duels.after_dislike(left, turn.user_id) is None
    arena.rules = DuelSettings(share=0.25, disliked_share=1.0, per_person_per_day=100)
    assert await arena.duels.after_dislike(left, turn.user_id)


async def test_whoever_switched_it_off_is_not_asked(arena: Arena) -> None:
    await arena.world.store.wish("ann", Wish.DUELS, on=False)
    assert await arena.duels.after_answer(await arena.world.ask()) is None
    assert arena.model.asked == []
    await arena.world.store.wish("ann", Wish.DUELS, on=True)
    assert await arena.duels.after_answer(await arena.world.ask())


async def test_only_one_is_written_at_a_time_and_nobody_waits_for_it(arena: Arena) -> None:
    held = HeldChatModel([BETTER])
    arena.model = held
    both = arena.duels
    first = asyncio.create_task(both.after_answer(await arena.world.ask()))
    await held.waiting.wait()
    assert await both.after_answer(await arena.world.ask(user="bob")) is None
    held.gate.set()
    assert await first


@pytest.mark.parametrize("text", [ANSWER, BETTER], ids=["first", "second"])
async def test_the_winner_makes_a_pair_whichever_stood_first(arena: Arena, text: str) -> None:
    duel = await arena.duel()
    side = Side.A if duel.a.text == text else Side.B
    decided = await arena.duels.decide(duel.id, "ann", side)
    assert (decided.picked, decided.a, decided.b) == (side, duel.a, duel.b)
    [pair] = (await collect_pairs(arena.world.store, rules(), NOW + 1)).new
    other = BETTER if text == ANSWER else ANSWER
    assert (pair.origin, pair.chosen, pair.rejected) == (Origin.DUEL, text, other)
    assert pair.id == pair_id(duel.reply_id, "ann", text)
    assert pair.prompt == arena.world.turns[duel.reply_id].prompt


async def test_the_first_pick_counts_and_only_the_persons_own(arena: Arena) -> None:
    duel = await arena.duel()
    with pytest.raises(NotFound):
        await arena.duels.decide(duel.id, "bob", Side.A)
    assert (await arena.duels.decide(duel.id, "ann", Side.SAME)).picked is Side.SAME
    assert (await arena.duels.decide(duel.id, "ann", Side.A)).picked is Side.SAME
    assert [row.winner for row in await arena.rows()] == [Winner.NEITHER]
    assert (await collect_pairs(arena.world.store, rules(), NOW + 1)).new == ()
    with pytest.raises(NotFound):
        await arena.duels.decide("another", "ann", Side.A)


async def test_what_is_not_decided_waits_in_its_conversation(arena: Arena) -> None:
    first, second = await arena.duel(conversation="c"), await arena.duel(conversation="c")
    await arena.duel(conversation="another")
    await arena.duels.decide(first.id, "ann", Side.B)
    assert await arena.duels.waiting("c", "ann") == {second.reply_id: second}
    assert await arena.duels.waiting("c", "bob") == {}


async def test_the_canary_is_judged_by_what_people_pick(arena: Arena) -> None:
    arena.route = Route(LIVE, canary=CANARY, share=0.5, routed_at=NOW)
    for number, writer in enumerate((LIVE, CANARY, LIVE)):
        duel = await arena.duel(adapter=writer, user=f"person-{number}")
        # The text of the reply is the writer's.
        canary = ANSWER if writer == CANARY else BETTER
        side = Side.A if duel.a.text == canary else Side.B
        await arena.duels.decide(duel.id, f"person-{number}", side)
    begun = {"live": LIVE, "previous": "", "canary": CANARY, "share": 0.5, "routed_at": NOW}
    await arena.world.store.run(lambda one: one.execute(sa.insert(routes).values(begun)))

    def evidence(connection: sa.Connection) -> tuple[int, int]:
        found = read_evidence(connection, arena.route, NOW + 60)
        return found.won, found.lost

    assert await arena.world.store.run(evidence) == (3, 0)


async def test_duels_go_with_their_conversation_and_with_their_person(arena: Arena) -> None:
    store = arena.world.store
    await arena.duel(conversation="c")
    assert await store.delete_conversation("c")
    assert await arena.rows() == []
    await arena.duel()
    assert await store.forget_older_than(NOW + DAY) == 1
    assert await arena.rows() == []
    await arena.duel()
    await arena.duel(user="bob")
    await erase(store, "ann", now=NOW)
    assert [row.user_id for row in await arena.rows()] == ["bob"]


async def test_nothing_is_kept_of_whoever_was_erased_meanwhile(arena: Arena) -> None:
    held = HeldChatModel([BETTER])
    arena.model = held
    asking = asyncio.create_task(arena.duels.after_answer(await arena.world.ask()))
    await held.waiting.wait()
    await erase(arena.world.store, "ann", now=NOW)
    held.gate.set()
    assert await asking is None
    assert await arena.rows() == []
