"""All that a person does on a platform, one thing after the other, in each language."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa

from bots.web.desk import Desk
from core.messages import Feedback, Language, Rating, Reason, Winner, Wishes
from core.tables import duels, feedback_events, photos, posts, turns
from core.wording import say
from tests.bots import slack_world, telegram_world
from tests.bots.desks import ALWAYS
from tests.bots.slack_fake import ANN as SLACK_ANN
from tests.bots.slack_fake import FakeSlack
from tests.bots.slack_fake import Shown as SlackShown
from tests.bots.telegram_fake import ANN as TELEGRAM_ANN
from tests.bots.telegram_fake import FakeTelegram
from tests.bots.telegram_fake import Shown as TelegramShown
from tests.fakes import FakeChatModel


@dataclass(frozen=True)
class Words:
    """What a person and the model say."""

    language: Language
    question: str
    answer: str
    other: str
    follow_up: str
    colour: str
    correction: str


ENGLISH = Words(
    language="en",
    question="How do I wash canvas shoes?",
    answer="Wash canvas shoes by hand in lukewarm water.",
    other="By hand, with mild soap; then let them dry in the shade.",
    follow_up="Is this pair canvas, and how do I wash it?",
    colour="white",
    correction="Brush them first, then wash them by hand.",
)
CHINESE = Words(
    language="zh",
    question="帆布鞋怎么洗？",
    answer="帆布鞋用温水手洗就好。",
    other="用温水和中性皂手洗，再放在阴凉处晾干。",
    follow_up="这双帆布鞋怎么洗？",
    colour="白色",
    correction="先刷掉灰，再用手洗。",
)


@pytest.fixture(params=[ENGLISH, CHINESE], ids=lambda words: words.language)
def words(request: pytest.FixtureRequest) -> Words:
    found: Words = request.param
    return found


@pytest.fixture
def model(words: Words) -> FakeChatModel:
    return FakeChatModel([words.answer, words.other, words.answer])


async def picked(desk: Desk) -> list[str]:
    """Who won the duels."""
    query = sa.select(duels.c.winner)
    return list(await desk.store.run(lambda connection: connection.execute(query).scalars().all()))


async def kept_of(desk: Desk, user_id: str) -> dict[str, int]:
    """How many rows there are about a person, or stand for what was shown to them."""
    counts = {
        table.name: sa.select(sa.func.count()).select_from(table).where(condition)
        for table, condition in (
            (turns, turns.c.user_id == user_id),
            (feedback_events, feedback_events.c.user_id == user_id),
            (duels, duels.c.user_id == user_id),
            (photos, sa.true()),
            (posts, sa.true()),
        )
    }
    return await desk.store.run(
        lambda connection: {
            name: connection.execute(query).scalar_one() for name, query in counts.items()
        }
    )


# --- Telegram ---


Message = TypeVar("Message", TelegramShown, SlackShown)


def saying(shown: Sequence[Message], what: str) -> list[Message]:
    """The messages that say something, or have a button that carries it; the newest comes last."""
    return [
        one for one in shown if what in one.text or any(data.startswith(what) for data in one.data)
    ]


@asynccontextmanager
async def on_telegram(
    folder: Path, model: FakeChatModel
) -> AsyncIterator[tuple[FakeTelegram, telegram_world.World]]:
    async with (
        FakeTelegram().serving() as fake,
        telegram_world.opened(folder, fake, model, duels=ALWAYS) as world,
        telegram_world.running(world),
    ):
        yield fake, world


async def telegram_shows(fake: FakeTelegram, what: str) -> TelegramShown:
    await fake.until(lambda: bool(saying(fake.shown, what)))
    return saying(fake.shown, what)[-1]


async def test_somebody_uses_all_of_telegram(
    tmp_path: Path, words: Words, model: FakeChatModel
) -> None:
    language = words.language
    async with on_telegram(tmp_path, model) as (fake, world):
        # They come, and choose their language.
        await fake.says("/start")
        await telegram_shows(fake, say("greeting", "en"))
        await fake.says("/language")
        choice = await telegram_shows(fake, "language:")
        await fake.presses(f"language:{language}", choice)
        await telegram_shows(fake, say("language_chosen", language))
        await fake.says("/help")
        await telegram_shows(fake, say("chat_commands", language, photos=4).split("\n")[0])

        # They ask, and compare two answers.
        await fake.says(words.question)
        answer = await fake.answered()
        assert answer.text.startswith(words.answer)
        reply = telegram_world.reply_id(answer.data)
        duel = await telegram_shows(fake, "a:")
        assert duel.text.startswith(say("duel_question", language))
        side = "a" if f"A\n{words.other}" in duel.text else "b"
        await fake.presses(f"{side}:{telegram_world.reply_id(duel.data)}", duel)
        await fake.until(lambda: len(duel.data) == 1)
        assert await picked(world.desk) == [Winner.SECOND]

        # They say what was wrong with it, and what would have been right.
        await fake.presses(f"down:{reply}", answer)
        await telegram_shows(fake, f"wrong_facts:{reply}")
        await fake.presses(f"wrong_facts:{reply}", answer)
        asking = await telegram_shows(fake, say("ask_correction", language))
        assert asking.asks(TELEGRAM_ANN)
        await world.telegram.errands.finished()
        await fake.replies(asking, words.correction)
        await telegram_shows(fake, say("correction_thanks", language))
        assert await world.verdict(reply) == Feedback(
            reply,
            telegram_world.person(),
            Rating.DOWN,
            Reason.WRONG_FACTS,
            correction=words.correction,
        )

        # They send a photo, and go on about it.
        await fake.sends_photo(telegram_world.jpeg())
        seen = await fake.answered(2)
        assert say("photo_question", language) in seen.text
        assert words.colour in seen.text
        await fake.says(words.follow_up)
        await fake.answered(3)
        assert words.colour in model.asked[-1].prompt[-1].content

        # They look at what they taught, and at what is kept, and want to compare no more.
        await fake.says("/stats")
        taught = await telegram_shows(fake, words.correction)
        assert taught.text.startswith(say("home_corrections", language))
        await fake.says("/privacy")
        await telegram_shows(fake, say("privacy_trains", language))
        await fake.says("/settings")
        switches = await telegram_shows(fake, "wish:duels:off")
        await fake.presses("wish:duels:off", switches)
        await fake.until(lambda: "wish:duels:on" in switches.data)
        person = telegram_world.person()
        assert await world.desk.store.wishes_of(person) == Wishes(duels=False)

        # They begin anew, and in the end have all of it forgotten.
        await fake.says("/new")
        await telegram_shows(fake, say("new_started", language))
        await fake.says(words.question)
        await fake.answered(4)
        assert all((await kept_of(world.desk, person)).values())
        await fake.says("/forget")
        sure = await telegram_shows(fake, f"forget:yes:{TELEGRAM_ANN}")
        await fake.presses(f"forget:yes:{TELEGRAM_ANN}", sure)
        await telegram_shows(fake, say("forgotten", language))
        assert not any((await kept_of(world.desk, person)).values())
        assert await world.desk.inbox.waiting() == (0, 0.0)


# --- Slack ---


@asynccontextmanager
async def in_slack(
    folder: Path, model: FakeChatModel
) -> AsyncIterator[tuple[FakeSlack, slack_world.World]]:
    async with (
        FakeSlack().serving() as fake,
        slack_world.solemate(folder, fake, model, duels=ALWAYS) as world,
    ):
        yield fake, world


async def slack_shows(fake: FakeSlack, what: str) -> SlackShown:
    await fake.until(lambda: bool(saying(fake.shown, what)))
    return saying(fake.shown, what)[-1]


async def home_shows(fake: FakeSlack, what: str) -> None:
    await fake.until(lambda: what in str(fake.homes.get(SLACK_ANN)))


async def test_somebody_uses_all_of_slack(
    tmp_path: Path, words: Words, model: FakeChatModel
) -> None:
    language = words.language
    async with in_slack(tmp_path, model) as (fake, world):
        # They open the app, and choose their language.
        await fake.opens_home()
        await home_shows(fake, say("home_title", "en"))
        action = {"type": "static_select", "action_id": "language"}
        await fake.acts(action | {"selected_option": {"value": language}})
        await home_shows(fake, say("home_title", language))

        # They ask, and compare two answers.
        asked = await fake.says(words.question)
        answer = await fake.answered()
        assert answer.text.startswith(words.answer)
        reply = slack_world.reply_id(answer.data)
        duel = await slack_shows(fake, "a:")
        assert duel.text == say("duel_question", language)
        texts = [block["text"] for block in duel.blocks if block["type"] == "markdown"]
        side = "ab"[[text.startswith(words.other) for text in texts].index(True)]
        await fake.presses(f"{side}:{slack_world.reply_id(duel.data)}", duel)
        await fake.until(lambda: not duel.data)
        assert await picked(world.desk) == [Winner.SECOND]

        # They say what was wrong with it, and what would have been right.
        await fake.presses(f"down:{reply}", answer)
        await fake.until(lambda: len(fake.views) == 1)
        assert fake.views[0]["title"]["text"] == say("why_down", language)
        await fake.sends_form(fake.views[0], reason="wrong_facts", correction=words.correction)
        await slack_shows(fake, say("correction_thanks", language))
        assert await world.verdict(reply) == Feedback(
            reply,
            slack_world.person(),
            Rating.DOWN,
            Reason.WRONG_FACTS,
            correction=words.correction,
        )

        # They send a photo into the thread, and go on about it.
        thread = asked["ts"]
        await fake.says(subtype="file_share", files=[fake.file(slack_world.jpeg())], thread=thread)
        seen = await fake.answered(2)
        assert say("photo_question", language) in seen.text
        assert words.colour in seen.text
        await fake.says(words.follow_up, thread=thread)
        await fake.answered(3)
        assert words.colour in model.asked[-1].prompt[-1].content

        # They ask in a channel, where a colleague looks on.
        asked = await fake.mentions(words.question)
        public = await fake.answered(4)
        assert (public.thread, public.only_for) == (asked["ts"], "")

        # They look at what they taught, and at what is kept, and want to compare no more.
        await fake.opens_home()
        await home_shows(fake, words.correction)
        await home_shows(fake, say("privacy_trains", language))
        switches = {"type": "checkboxes", "action_id": "wishes"}
        await fake.acts(switches | {"selected_options": [{"value": "tell"}]})
        await fake.all_acknowledged()
        person = slack_world.person()
        assert await world.desk.store.wishes_of(person) == Wishes(duels=False)

        # In the end they have all of it forgotten.
        assert all((await kept_of(world.desk, person)).values())
        await fake.acts({"type": "button", "action_id": "forget"})
        await home_shows(fake, say("home_forgotten", language))
        assert not any((await kept_of(world.desk, person)).values())
        assert await world.desk.inbox.waiting() == (0, 0.0)
