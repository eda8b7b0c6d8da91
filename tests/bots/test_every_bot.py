"""What every bot must do, written once: a platform takes part by implementing `BotUnderTest`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import sqlalchemy as sa

from bots.allowance import Allowance
from bots.web.api import ApiOptions, create_api
from bots.web.desk import Desk
from core.messages import ChatMessage, Feedback, Rating, Side, Winner
from core.model import ChatModel, Piece, Sampling
from core.retrieval import Query, Retrieved
from core.settings import Duels as DuelSettings
from core.tables import duels, feedback_events, turns
from core.wording import say
from tests.bots import slack_fake, slack_world, telegram_fake, telegram_world
from tests.bots.desks import ALWAYS, ANSWER, NO_DUELS, OTHER, PLENTY, open_desk
from tests.fakes import FakeChatModel, HeldChatModel

QUESTION = "How do I wash canvas shoes?"
ANN, BEN = "ann", "ben"


@dataclass
class Answer:
    """An answer as a person sees it: whose reply it is, and how the platform would find it."""

    reply_id: str
    text: str
    handle: Any


@dataclass
class Compared:
    """Two answers as a person is asked to compare them, and how the platform would find them."""

    duel_id: str
    a: str
    b: str
    handle: Any


class BotUnderTest(Protocol):
    """A platform and its people; it outlives the solemate that answers there."""

    def running(
        self,
        folder: Path,
        model: ChatModel | None = None,
        *,
        allowance: Allowance = PLENTY,
        duels: DuelSettings = NO_DUELS,
    ) -> AbstractAsyncContextManager[Desk]:
        """A solemate that answers on the platform."""
        ...

    async def say(self, text: str, *, by: str = ANN) -> Any:
        """A person sends a message; what the platform can hand over again."""
        ...

    async def repeat(self, said: Any) -> None:
        """The platform hands the message over again, and has it taken."""
        ...

    async def answers(self, count: int = 1) -> Sequence[Answer]:
        """Wait for this many rateable answers; all of them, oldest first."""
        ...

    async def press(self, answer: Answer, rating: Rating) -> None:
        """The person presses a thumb under an answer, and sees that it was taken."""
        ...

    async def compared(self, answer: Answer) -> Compared:
        """Wait until somebody is asked to compare this answer with another."""
        ...

    async def pick(self, compared: Compared, side: Side) -> None:
        """The person picks one, and sees that it was taken."""
        ...

    def texts(self, by: str = ANN) -> Sequence[str]:
        """What the bot's messages to a person say now."""
        ...

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so on the platform."""
        ...


class TelegramUnderTest:
    """Telegram's Bot API on this machine."""

    people = {ANN: telegram_fake.ANN, BEN: telegram_fake.BEN}

    def __init__(self, fake: telegram_fake.FakeTelegram) -> None:
        self._fake = fake

    @asynccontextmanager
    async def running(
        self,
        folder: Path,
        model: ChatModel | None = None,
        *,
        allowance: Allowance = PLENTY,
        duels: DuelSettings = NO_DUELS,
    ) -> AsyncIterator[Desk]:
        async with (
            telegram_world.opened(
                folder, self._fake, model, allowance=allowance, duels=duels
            ) as world,
            telegram_world.running(world),
        ):
            yield world.desk

    async def say(self, text: str, *, by: str = ANN) -> Any:
        return await self._fake.says(text, user=self.people[by], chat=self.people[by])

    async def repeat(self, said: Any) -> None:
        await self._fake.update(message=said)
        await self._fake.until(lambda: not self._fake.waiting)

    async def answers(self, count: int = 1) -> Sequence[Answer]:
        await self._fake.answered(count)
        rated = [one for one in self._fake.shown if any(d.startswith("up:") for d in one.data)]
        return [Answer(telegram_world.reply_id(one.data), one.text, one) for one in rated]

    async def press(self, answer: Answer, rating: Rating) -> None:
        before = len(self._fake.called("answerCallbackQuery"))
        await self._fake.presses(f"{rating}:{answer.reply_id}", answer.handle)
        await self._fake.until(lambda: len(self._fake.called("answerCallbackQuery")) > before)

    async def compared(self, answer: Answer) -> Compared:
        def asked() -> list[telegram_fake.Shown]:
            return [one for one in self._fake.shown if any(d.startswith("a:") for d in one.data)]

        await self._fake.until(lambda: bool(asked()))
        shown = asked()[-1]
        a, b = shown.text.split("\n\n")[1:3]
        return Compared(telegram_world.reply_id(shown.data), a[2:], b[2:], shown)

    async def pick(self, compared: Compared, side: Side) -> None:
        await self._fake.presses(f"{side}:{compared.duel_id}", compared.handle)
        await self._fake.until(lambda: compared.handle.data == [f"{side}:{compared.duel_id}"])

    def texts(self, by: str = ANN) -> Sequence[str]:
        return self._fake.texts(self.people[by])

    async def until(self, true: Callable[[], bool]) -> None:
        await self._fake.until(true)


class SlackUnderTest:
    """Slack's Web API and Socket Mode on this machine."""

    people = {ANN: slack_fake.ANN, BEN: slack_fake.BEN}

    def __init__(self, fake: slack_fake.FakeSlack) -> None:
        self._fake = fake

    @asynccontextmanager
    async def running(
        self,
        folder: Path,
        model: ChatModel | None = None,
        *,
        allowance: Allowance = PLENTY,
        duels: DuelSettings = NO_DUELS,
    ) -> AsyncIterator[Desk]:
        async with slack_world.solemate(
            folder, self._fake, model, allowance=allowance, duels=duels
        ) as world:
            yield world.desk

    async def say(self, text: str, *, by: str = ANN) -> Any:
        user = self.people[by]
        # One thread for each, so that its messages are one conversation.
        thread = f"1700000000.{user}"
        body = self._fake.message(text, user=user, channel=f"D{user}", thread=thread)
        await self._fake.acknowledged(await self._fake.send(body))
        return body

    async def repeat(self, said: Any) -> None:
        await self._fake.acknowledged(await self._fake.send(said, retry=1))

    async def answers(self, count: int = 1) -> Sequence[Answer]:
        await self._fake.answered(count)
        rated = [one for one in self._fake.shown if any(d.startswith("up:") for d in one.data)]
        return [Answer(slack_world.reply_id(one.data), one.text, one) for one in rated]

    async def press(self, answer: Answer, rating: Rating) -> None:
        await self._fake.presses(f"{rating}:{answer.reply_id}", answer.handle)
        await self._fake.all_acknowledged()

    async def compared(self, answer: Answer) -> Compared:
        def asked() -> list[slack_fake.Shown]:
            return [one for one in self._fake.shown if any(d.startswith("a:") for d in one.data)]

        await self._fake.until(lambda: bool(asked()))
        shown = asked()[-1]
        texts = [block["text"] for block in shown.blocks if block["type"] == "markdown"]
        a, b = (text.partition("\n\n")[0] for text in texts)
        return Compared(slack_world.reply_id(shown.data), a, b, shown)

    async def pick(self, compared: Compared, side: Side) -> None:
        await self._fake.presses(f"{side}:{compared.duel_id}", compared.handle)
        await self._fake.until(lambda: not compared.handle.data)

    def texts(self, by: str = ANN) -> Sequence[str]:
        return self._fake.texts(f"D{self.people[by]}")

    async def until(self, true: Callable[[], bool]) -> None:
        await self._fake.until(true)


@dataclass
class _Asked:
    """A message that a browser sent, and what it shows under it."""

    by: str
    body: dict[str, str]
    number: int
    text: str = ""
    reply_id: str = ""


@dataclass
class WebUnderTest:
    """Browsers that talk to the HTTP API, and ask again for what a lost connection took."""

    _asked: list[_Asked] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _http: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def running(
        self,
        folder: Path,
        model: ChatModel | None = None,
        *,
        allowance: Allowance = PLENTY,
        duels: DuelSettings = NO_DUELS,
    ) -> AsyncIterator[Desk]:
        options = ApiOptions("solemate", 200, "http://127.0.0.1:8080")
        async with open_desk(folder, model, allowance=allowance, duels=duels) as desk:
            app = create_api(desk, parts={}, options=options)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1:8080", timeout=60
            ) as self._http:
                for asked in self._asked:
                    if not asked.text:
                        self._ask(asked)
                async with desk.lanes.running():
                    yield desk
                for task in self._tasks:
                    task.cancel()

    async def say(self, text: str, *, by: str = ANN) -> Any:
        number = len(self._asked)
        body = {"message": text, "session_id": by, "message_id": f"m{number}"}
        asked = _Asked(by, body, number)
        self._asked.append(asked)
        self._ask(asked)
        return asked

    async def repeat(self, said: Any) -> None:
        await self._post(said)

    async def answers(self, count: int = 1) -> Sequence[Answer]:
        def rateable() -> list[_Asked]:
            return [asked for asked in self._asked if asked.reply_id]

        await self.until(lambda: len(rateable()) >= count)
        return [Answer(one.reply_id, one.text, one) for one in rateable()]

    async def press(self, answer: Answer, rating: Rating) -> None:
        assert self._http is not None
        body = {
            "session_id": answer.handle.by,
            "message_id": answer.reply_id,
            "feedback": f"thumbs_{rating}",
        }
        assert (await self._http.post("/feedback", json=body)).status_code == 200

    async def compared(self, answer: Answer) -> Compared:
        assert self._http is not None
        body = {"session_id": answer.handle.by, "message_id": answer.reply_id}
        found = (await self._http.post("/duel", json=body)).json()["duel"]
        texts = found["a"]["message"], found["b"]["message"]
        return Compared(found["duel_id"], *texts, answer.handle)

    async def pick(self, compared: Compared, side: Side) -> None:
        assert self._http is not None
        body = {"session_id": compared.handle.by, "duel_id": compared.duel_id, "better": side}
        assert (await self._http.post("/duel/pick", json=body)).status_code == 200

    def texts(self, by: str = ANN) -> Sequence[str]:
        return [asked.text for asked in self._asked if asked.by == by and asked.text]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(true)

    def _ask(self, asked: _Asked) -> None:
        task = asyncio.create_task(self._post(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, asked: _Asked) -> None:
        assert self._http is not None
        found = (await self._http.post("/chat", json=asked.body)).json()
        async with self._changed:
            asked.text = found["error"]["message"] if "error" in found else found["message"]
            asked.reply_id = found.get("message_id", "")
            self._changed.notify_all()


@pytest.fixture(params=["web", "telegram", "slack"])
async def bot(request: pytest.FixtureRequest) -> AsyncIterator[BotUnderTest]:
    match request.param:
        case "telegram":
            async with telegram_fake.FakeTelegram().serving() as telegram:
                yield TelegramUnderTest(telegram)
        case "slack":
            async with slack_fake.FakeSlack().serving() as slack:
                yield SlackUnderTest(slack)
        case _:
            yield WebUnderTest()


@dataclass
class CrowdedModel(FakeChatModel):
    """Waits with every answer for `gate`; `full` is set when `expected` are waiting."""

    expected: int = 2
    under_way: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    full: asyncio.Event = field(default_factory=asyncio.Event)

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        self.under_way += 1
        if self.under_way == self.expected:
            self.full.set()
        await self.gate.wait()
        async for piece in super().stream(prompt, adapter, sampling):
            yield piece


async def winners(desk: Desk) -> list[tuple[str, str | None]]:
    """Everybody who was asked to compare, and what they picked."""
    query = sa.select(duels.c.user_id, duels.c.winner).order_by(duels.c.created_at)
    rows = await desk.store.run(lambda connection: connection.execute(query).all())
    return [(row.user_id, row.winner) for row in rows]


async def verdicts(desk: Desk) -> list[str]:
    """All verdicts that were stored, in order."""
    query = sa.select(feedback_events.c.rating).order_by(feedback_events.c.id)
    rows = await desk.store.run(lambda connection: connection.execute(query).scalars().all())
    return list(rows)


async def questions(desk: Desk) -> list[str]:
    """All questions that were answered, in the order of their answers."""
    query = sa.select(turns.c.question).order_by(turns.c.asked_at)
    rows = await desk.store.run(lambda connection: connection.execute(query).scalars().all())
    return list(rows)


async def test_a_question_is_answered_once_with_the_models_words(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    async with bot.running(tmp_path):
        await bot.say(QUESTION)
        [answer] = await bot.answers()
        assert answer.text.startswith(ANSWER)
    assert len(bot.texts()) == 1


async def test_an_answer_takes_both_thumbs_and_the_last_one_counts(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    async with bot.running(tmp_path) as desk:
        await bot.say(QUESTION)
        [answer] = await bot.answers()
        await bot.press(answer, Rating.UP)
        await bot.press(answer, Rating.DOWN)
        assert await verdicts(desk) == [Rating.UP, Rating.DOWN]


async def test_a_thumb_pressed_twice_is_stored_once(tmp_path: Path, bot: BotUnderTest) -> None:
    async with bot.running(tmp_path) as desk:
        await bot.say(QUESTION)
        [answer] = await bot.answers()
        for _ in range(2):
            await bot.press(answer, Rating.UP)
        assert await verdicts(desk) == [Rating.UP]


async def test_a_message_that_is_handed_over_again_is_answered_once(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    async with bot.running(tmp_path) as desk:
        said = await bot.say(QUESTION)
        await bot.answers()
        await bot.repeat(said)
        await bot.say("white canvas?", by=BEN)
        await bot.answers(2)
        assert await questions(desk) == [QUESTION, "white canvas?"]
    assert len(bot.texts()) == 1


async def test_conversations_are_side_by_side_and_messages_of_one_in_order(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    model = CrowdedModel([ANSWER])
    async with bot.running(tmp_path, model) as desk:
        await bot.say("canvas one?")
        await bot.say("canvas of Ben?", by=BEN)
        await model.full.wait()
        await bot.say("canvas two?")
        await bot.say("canvas three?")
        assert model.under_way == 2
        model.gate.set()
        await bot.answers(4)
        asked = [one for one in await questions(desk) if one != "canvas of Ben?"]
    assert asked == ["canvas one?", "canvas two?", "canvas three?"]


async def test_a_question_that_cannot_be_answered_gets_one_apology(
    tmp_path: Path, bot: BotUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    async def broken(query: Query) -> Retrieved:
        tries.append(query)
        raise RuntimeError("the index is broken")

    async with bot.running(tmp_path) as desk:
        monkeypatch.setattr(desk.engine, "_search", broken)
        await bot.say(QUESTION)
        await bot.until(lambda: list(bot.texts()) == [say("failed", "en")])
        await bot.say("hello", by=BEN)
        await bot.answers()
    assert len(tries) == 3
    assert list(bot.texts()) == [say("failed", "en")]


async def test_whoever_sends_too_much_gets_one_friendly_line_and_costs_nothing(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    model = FakeChatModel([ANSWER])
    allowance = Allowance(messages_per_minute=1, photos_per_minute=1, messages_per_day=10)
    async with bot.running(tmp_path, model, allowance=allowance):
        await bot.say(QUESTION)
        await bot.answers()
        await bot.say("canvas again?")
        await bot.until(lambda: len(bot.texts()) == 2)
    assert "busy" in bot.texts()[1]
    assert len(model.asked) == 1


async def test_a_message_that_is_handed_over_again_costs_nothing(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    allowance = Allowance(messages_per_minute=2, photos_per_minute=1, messages_per_day=10)
    async with bot.running(tmp_path, allowance=allowance):
        said = await bot.say(QUESTION)
        await bot.answers()
        for _ in range(3):
            await bot.repeat(said)
        await bot.say("canvas again?")
        await bot.answers(2)
    assert list(bot.texts()) == [answer.text for answer in await bot.answers(2)]


async def test_after_a_restart_the_answer_stands_where_it_was_promised(
    tmp_path: Path, bot: BotUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.DRAIN_SECONDS", 0.01)
    model = HeldChatModel()
    async with bot.running(tmp_path, model):
        await bot.say(QUESTION)
        await model.waiting.wait()
    async with bot.running(tmp_path) as desk:
        [answer] = await bot.answers()
        assert await questions(desk) == [QUESTION]
    assert answer.text.startswith(ANSWER)
    assert len(bot.texts()) == 1


async def test_the_asker_and_whoever_presses_are_the_same_person(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    query = sa.select(turns.c.user_id, feedback_events.c.user_id).join(
        feedback_events, feedback_events.c.reply_id == turns.c.reply_id
    )
    async with bot.running(tmp_path) as desk:
        await bot.say(QUESTION)
        [answer] = await bot.answers()
        await bot.press(answer, Rating.UP)
        [(asker, rater)] = await desk.store.run(lambda connection: connection.execute(query).all())
        verdict = await desk.store.verdict(answer.reply_id, rater)
    assert asker == rater
    assert verdict == Feedback(answer.reply_id, rater, Rating.UP)


async def test_two_answers_are_compared_and_the_asker_picks_the_better_one(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    model = FakeChatModel([ANSWER, OTHER])
    async with bot.running(tmp_path, model, duels=ALWAYS) as desk:
        await bot.say(QUESTION)
        [answer] = await bot.answers()
        compared = await bot.compared(answer)
        assert {compared.a, compared.b} == {ANSWER, OTHER}
        await bot.pick(compared, Side.A if compared.a == OTHER else Side.B)
        [(user, winner)] = await winners(desk)
        assert winner == Winner.SECOND
        assert (await desk.store.turn(answer.reply_id)).user_id == user


async def test_somebody_who_was_asked_to_compare_is_not_asked_again_that_day(
    tmp_path: Path, bot: BotUnderTest
) -> None:
    model = FakeChatModel([ANSWER, OTHER, ANSWER])
    async with bot.running(tmp_path, model, duels=ALWAYS) as desk:
        await bot.say(QUESTION)
        [answer] = await bot.answers()
        await bot.pick(await bot.compared(answer), Side.SAME)
        await bot.say("And white canvas?")
        await bot.answers(2)
        await bot.say("canvas?", by=BEN)
        await bot.answers(3)
        assert [winner for _, winner in await winners(desk)][0] == Winner.NEITHER
        asked = [user for user, _ in await winners(desk)]
        assert len(asked) == len(set(asked))
