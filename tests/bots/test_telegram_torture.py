"""Kills, repeats, floods and lost connections: every question is answered, and as a rule once.

The control shows that the same kills lose questions where the library polls by itself.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bots.courier import Courier
from bots.markup import split, styled, utf16_length
from bots.telegram.front import open_telegram
from bots.telegram.polling import Polling
from bots.telegram.show import LIMIT
from core.messages import ChatMessage, Done, Event, Outcome, Platform, Reply, UserMessage
from core.model import Piece, Sampling
from core.store import Store
from core.tables import feedback_events, turns
from tests.bots.desks import ANSWER
from tests.bots.telegram_fake import ANN, GROUP, USERNAME, FakeTelegram, Json, Shown
from tests.bots.telegram_world import (
    CONVERSATION,
    PSEUDONYMS,
    RHYTHM,
    World,
    opened,
    person,
    running,
)
from tests.bots.workers import worker
from tests.fakes import FakeChatModel

pytestmark = pytest.mark.filterwarnings("ignore::telegram.warnings.PTBDeprecationWarning")

WIDTH = 4
CHATS = 6
ASKED = UserMessage("1", Platform.TELEGRAM, CONVERSATION, person(), "canvas?")
# The same again in the size of the plan, which takes minutes.
NIGHTLY = (pytest.mark.nightly, pytest.mark.timeout(3600))


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().serving() as server:
        server.patience_seconds = 1200
        yield server


async def ask(fake: FakeTelegram, count: int) -> list[Json]:
    """Questions of several people, alone with the bot and in groups by turns."""
    asked = []
    for number in range(count):
        user = ANN + number % CHATS
        where = {"chat": user} if number % 2 else {"chat": GROUP - user}
        asked.append(await fake.says(f"@{USERNAME} canvas {number}?", user=user, **where))
    return asked


def answers(fake: FakeTelegram) -> list[Shown]:
    return [shown for shown in fake.shown if any(data.startswith("up:") for data in shown.data)]


def missing(fake: FakeTelegram, asked: list[Json]) -> Counter[int]:
    """How many answers each chat still lacks; one that is shown twice stands for no other."""
    wanted = Counter(message["chat"]["id"] for message in asked)
    given = {(shown.chat_id, shown.data[0]) for shown in answers(fake)}
    return wanted - Counter(chat for chat, _ in given)


def repeated(fake: FakeTelegram, asked: list[Json]) -> int:
    """How many answers there are too many."""
    given = Counter(shown.chat_id for shown in answers(fake))
    return (given - Counter(message["chat"]["id"] for message in asked)).total()


async def kill_and_count(folder: Path, fake: FakeTelegram, questions: int, kills: int) -> None:
    """Kill the bot after some of its calls, again and again, the last time among thumbs."""
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201
    asked = await ask(fake, questions)
    pace = max(2, 3 * questions // kills)
    for _ in range(kills - 1):
        end = len(fake.calls) + 5 + dice.randrange(pace)
        async with worker("telegram", "solemate", folder, fake.address):
            await fake.until(lambda end=end: len(fake.calls) >= end or not missing(fake, asked))
    async with worker("telegram", "solemate", folder, fake.address):
        await fake.until(lambda: not missing(fake, asked))
        pressed = answers(fake)
        for shown in pressed:
            await fake.presses(shown.data[0], shown)
        await fake.until(lambda: len(fake.called("answerCallbackQuery")) >= len(pressed) // 2)
    async with worker("telegram", "solemate", folder, fake.address):
        await fake.until(lambda: not fake.waiting)
    async with Store(f"sqlite:///{folder / 'solemate.db'}") as store:
        stored = await store.run(lambda connection: connection.execute(turns.select()).all())
        votes = await store.run(
            lambda connection: connection.execute(feedback_events.select()).all()
        )
    assert len(stored) == questions
    assert {row.reply_id for row in votes} == {row.reply_id for row in stored}
    assert repeated(fake, asked) <= kills * WIDTH


@pytest.mark.parametrize(("questions", "kills"), [(24, 2), pytest.param(2000, 30, marks=NIGHTLY)])
async def test_kills_lose_no_question_and_no_vote(
    tmp_path: Path, fake: FakeTelegram, questions: int, kills: int
) -> None:
    await kill_and_count(tmp_path, fake, questions, kills)


async def test_the_same_kill_loses_questions_where_the_library_polls(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    asked = await ask(fake, 24)
    async with worker("telegram", "library", tmp_path, fake.address) as process:
        await fake.until(lambda: not fake.waiting and len(fake.shown) >= 1)
        process.kill()
    lost = missing(fake, asked).total()
    async with worker("telegram", "library", tmp_path, fake.address):
        polls = len(fake.called("getUpdates"))
        await fake.until(lambda: len(fake.called("getUpdates")) >= polls + 2)
    assert missing(fake, asked).total() == lost > 0


@pytest.mark.parametrize(("questions", "stops"), [(24, 1), pytest.param(300, 3, marks=NIGHTLY)])
async def test_a_stop_in_order_loses_nothing_and_repeats_nothing(
    tmp_path: Path, fake: FakeTelegram, questions: int, stops: int
) -> None:
    asked = await ask(fake, questions)
    for _ in range(stops):
        enough = len(answers(fake)) + 3
        async with worker("telegram", "solemate", tmp_path, fake.address) as process:
            await fake.until(lambda enough=enough: len(answers(fake)) >= enough)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    assert missing(fake, asked)
    async with worker("telegram", "solemate", tmp_path, fake.address):
        await fake.until(lambda: not missing(fake, asked))
    assert repeated(fake, asked) == 0


@pytest.mark.parametrize("starts", [1, pytest.param(40, marks=NIGHTLY)])
async def test_updates_that_come_three_times_in_any_order_count_once(
    tmp_path: Path, fake: FakeTelegram, starts: int
) -> None:
    asked, dice = list[Json](), random.Random(4)
    for _ in range(starts):
        # With all repeats no more than one poll brings: what it confirms never comes after it.
        some = await ask(fake, 25)
        repeats = [update for update in fake.waiting for _ in range(2)]
        for message in some:
            # A webhook of before and a poll of now give the same message two numbers.
            await fake.update(message=message)
        fake.waiting += repeats
        dice.shuffle(fake.waiting)
        asked += some
        await take_all(tmp_path, fake, asked)
    fake.waiting += fake.sent
    await take_all(tmp_path, fake, asked)
    assert repeated(fake, asked) == 0


async def take_all(folder: Path, fake: FakeTelegram, asked: list[Json]) -> None:
    """Start, take what Telegram has, and leave when all is answered."""
    async with opened(folder, fake) as world:
        async with running(world):
            await fake.until(lambda: not missing(fake, asked) and not fake.waiting)
        assert await world.desk.inbox.waiting() == (0, 0.0)


class Dawdling(FakeChatModel):
    """Takes another while over each answer, at most so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__([ANSWER])
        self._seconds = seconds
        self._dice = random.Random(12)

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        await asyncio.sleep(self._dice.uniform(self._seconds / 20, self._seconds))
        async for piece in super().stream(prompt, adapter, sampling):
            yield piece


@pytest.mark.parametrize(
    ("chats", "each", "seconds"), [(5, 6, 0.02), pytest.param(50, 40, 2.0, marks=NIGHTLY)]
)
async def test_in_a_chat_answers_come_in_the_order_of_the_questions(
    tmp_path: Path, fake: FakeTelegram, chats: int, each: int, seconds: float
) -> None:
    asked = [
        await fake.says(f"@{USERNAME} canvas {number}?", user=ANN + chat, chat=GROUP - chat)
        for number in range(each)
        for chat in range(chats)
    ]
    async with opened(tmp_path, fake, Dawdling(seconds), width=chats) as world, running(world):
        await fake.until(lambda: not missing(fake, asked))
    for chat in range(chats):
        replied = [shown.reply_to for shown in answers(fake) if shown.chat_id == GROUP - chat]
        wanted = [one["message_id"] for one in asked if one["chat"]["id"] == GROUP - chat]
        assert replied == wanted


async def flooded(folder: Path, fake: FakeTelegram, questions: int) -> None:
    """Answer while Telegram tells every tenth call of a chat to wait."""
    async with opened(folder, fake) as world:
        fake.flood(share=0.1, seconds=(3, 30), dice=random.Random(14), clock=world.clock)
        asked = await ask(fake, questions)
        async with running(world):
            await fake.until(lambda: not missing(fake, asked))
    assert fake.floods > 0
    assert fake.calls_inside_a_penalty == 0
    assert repeated(fake, asked) == 0


@pytest.mark.parametrize("questions", [60, pytest.param(600, marks=NIGHTLY)])
async def test_nothing_is_sent_while_a_chat_has_to_wait(
    tmp_path: Path, fake: FakeTelegram, questions: int
) -> None:
    await flooded(tmp_path, fake, questions)


@pytest.mark.parametrize("questions", [40, pytest.param(400, marks=NIGHTLY)])
@pytest.mark.parametrize("takes_drafts", [True, False])
async def test_a_connection_lost_after_sending_repeats_no_answer(
    tmp_path: Path, fake: FakeTelegram, takes_drafts: bool, questions: int
) -> None:
    fake.takes_drafts = takes_drafts
    assert await answer_over_bad_lines(tmp_path, fake, questions) == 0
    assert fake.drops > 0


async def test_a_connection_lost_after_sending_repeats_answers_that_no_place_is_held_for(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Courier, "has_room", lambda *_: False)
    assert await answer_over_bad_lines(tmp_path, fake, 40, share=0.3) > 0


async def answer_over_bad_lines(
    folder: Path, fake: FakeTelegram, questions: int, *, share: float = 0.1
) -> int:
    """Answer while a share of the calls takes effect, but nobody hears so.

    How many answers there are too many; one that is all said, but has no thumbs, is one as well.
    """
    dice = random.Random(15)
    fake.drop_answers(share=share, methods=("sendMessage", "editMessageText"), dice=dice)
    async with opened(folder, fake) as world, running(world):
        asked = await ask(fake, questions)
        await fake.until(lambda: not missing(fake, asked))
    assert repeated(fake, asked) == sum(ANSWER in one.text for one in fake.shown) - len(asked)
    return repeated(fake, asked)


# What texts are made of, so that marks meet each other, and borders meet characters, often.
_PIECES = [
    *"ab 鞋👟é\u200b\u202e*_`~[]()<>&!#|\\\n",
    *("**", "```", "```\n", "](", "https://", "- ", "\n\n"),
]


def _babble(dice: random.Random) -> str:
    return "".join(dice.choices(_PIECES, k=dice.choice((3, 30, 300, 6000)))) + "."


@pytest.mark.parametrize("texts", [40, pytest.param(5000, marks=NIGHTLY)])
async def test_any_text_arrives_whole_though_its_styles_are_refused(
    tmp_path: Path, fake: FakeTelegram, texts: int
) -> None:
    dice = random.Random(16)
    fake.takes_entities = fake.takes_drafts = False
    expected, styles = list[str](), 0
    async with opened(tmp_path, fake) as world:
        for number in range(texts):
            asked = replace(ASKED, id=str(number + 1))
            reply = Reply("r" * 32, CONVERSATION, _babble(dice), Outcome.ANSWERED, "en")
            await world.telegram.answers.show(asked, _once(Done(reply)))
            pieces = split(styled(reply.text), LIMIT)
            expected += [piece.text for piece in pieces]
            styles += sum(bool(piece.spans) for piece in pieces)
    assert [one.text for one in fake.shown] == expected
    assert max(map(utf16_length, expected)) > LIMIT * 0.9
    # One call for each piece, and one more where its styles were refused.
    assert styles > 0
    assert len(fake.called("editMessageText")) == len(expected) + styles


async def _once(event: Event) -> AsyncIterator[Event]:
    yield event


@pytest.mark.parametrize("questions", [20, pytest.param(500, marks=NIGHTLY)])
async def test_two_pollers_on_one_database_answer_each_question_once(
    tmp_path: Path, fake: FakeTelegram, questions: int
) -> None:
    async with opened(tmp_path, fake) as world, second_poller(world) as second:
        async with running(world):
            other = asyncio.create_task(second.run())
            asked = await ask(fake, questions)
            await fake.until(lambda: not missing(fake, asked) and not fake.waiting)
            await fake.until(lambda: fake.conflicts > 0)
            other.cancel()
            await asyncio.wait({other})
        assert await world.desk.inbox.waiting() == (0, 0.0)
    assert repeated(fake, asked) == 0


@asynccontextmanager
async def second_poller(world: World) -> AsyncIterator[Polling]:
    """A second connection with the same token, over the same store."""
    async with open_telegram(
        world.access,
        store=world.desk.store,
        inbox=world.desk.inbox,
        pseudonyms=PSEUDONYMS,
        max_photo_bytes=200_000,
    ) as telegram:
        yield telegram.polling(world.host, rhythm=RHYTHM)
