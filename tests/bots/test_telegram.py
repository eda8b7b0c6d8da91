"""Telegram: nothing lost, nothing twice, answers shown as they grow, thumbs and corrections."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from telegram import Update

from bots.bot import Bot
from bots.telegram.commands import Privacy
from bots.telegram.courier import Courier
from bots.telegram.front import Access, Telegram, open_telegram
from bots.telegram.people import Guests
from bots.telegram.polling import Polling, Rhythm
from bots.telegram.show import Pace
from bots.web.desk import Desk
from core.errors import ConfigError, StoreError
from core.messages import (
    Delta,
    Done,
    Event,
    Feedback,
    Outcome,
    Platform,
    Rating,
    Reason,
    Reply,
    UserMessage,
)
from core.model import ChatModel
from core.tables import feedback_events, inbox, turns
from core.wording import say
from tests.bots.desks import ANSWER, open_desk
from tests.bots.telegram_fake import (
    ANN,
    BEN,
    BOT_ID,
    CONFLICT,
    GROUP,
    TOKEN,
    USERNAME,
    FakeTelegram,
    Refusal,
    flood,
)
from tests.fakes import FakeChatModel, HeldChatModel

# The library announces on every flood error that a figure of it will have another type one day.
pytestmark = pytest.mark.filterwarnings("ignore::telegram.warnings.PTBDeprecationWarning")

QUESTION = "How do I wash canvas shoes?"
ASKED_FOR = say("ask_correction", "en")
CONVERSATION = f"telegram:{BOT_ID}:{ANN}:0:0"
ASKED = UserMessage("7", Platform.TELEGRAM, CONVERSATION, f"telegram:{ANN}", QUESTION)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@dataclass
class World:
    """A solemate on Telegram."""

    fake: FakeTelegram
    desk: Desk
    telegram: Telegram
    polling: Polling
    clock: Clock

    async def verdict(self, reply_id: str, user: int = ANN) -> Feedback | None:
        return await self.desk.store.verdict(reply_id, f"telegram:{user}")

    async def rows(self, *columns: sa.Column[str]) -> Sequence[sa.Row[tuple[str, ...]]]:
        query = sa.select(*columns)
        return await self.desk.store.run(lambda connection: connection.execute(query).all())


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().serving() as server:
        yield server


@asynccontextmanager
async def opened(
    folder: Path,
    fake: FakeTelegram,
    model: ChatModel | None = None,
    *,
    guests: Guests | None = None,
    token: str = TOKEN,
) -> AsyncIterator[World]:
    """Everything, before anything runs."""
    bots: dict[Platform, Bot] = {}
    clock = Clock()
    access = Access(token, f"{fake.address}/bot", f"{fake.address}/file/bot", guests or Guests())
    async with (
        open_desk(folder, model, bots=bots) as desk,
        open_telegram(
            access,
            store=desk.store,
            inbox=desk.inbox,
            courier=Courier(sleep=clock.sleep, clock=clock),
            pace=Pace(private_seconds=0, group_seconds=0),
        ) as telegram,
    ):
        bots[Platform.TELEGRAM] = telegram.answers
        polling = telegram.polling(
            desk.lanes,
            desk.engine,
            privacy=Privacy(keep_days=30, trains=True),
            max_photo_bytes=200_000,
            rhythm=Rhythm(poll_seconds=1, album_seconds=0.01, first_pause_seconds=0.01),
        )
        yield World(fake, desk, telegram, polling, clock)


@asynccontextmanager
async def running(world: World, *, answering: bool = True) -> AsyncIterator[World]:
    """Poll while the block runs, and answer unless told otherwise."""
    poll = asyncio.create_task(world.polling.run())
    try:
        if answering:
            async with world.desk.lanes.running():
                yield world
        else:
            yield world
    finally:
        poll.cancel()
        await asyncio.wait({poll})


@asynccontextmanager
async def solemate(
    folder: Path,
    fake: FakeTelegram,
    model: ChatModel | None = None,
    *,
    guests: Guests | None = None,
) -> AsyncIterator[World]:
    async with opened(folder, fake, model, guests=guests) as world, running(world):
        yield world


async def once(event: Event) -> AsyncIterator[Event]:
    yield event


def jpeg(size: int = 40) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), "white").save(out, "JPEG")
    return out.getvalue()


def reply_id(data: Sequence[str]) -> str:
    return data[0].partition(":")[2]


# --- questions and answers ---


async def test_a_question_is_answered_in_its_placeholder(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        shown = await fake.answered()
    assert len(fake.shown) == 1
    assert shown.earlier[0] == say("searching", "en")
    assert shown.text.startswith(f"{ANSWER}\n\nSources (1)")
    assert [entity["type"] for entity in shown.entities] == ["expandable_blockquote"]
    assert shown.labels == ["👍", "👎"]
    assert all(len(data.encode()) <= 64 for data in shown.data)


async def test_no_preview_is_ever_asked_for(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        await fake.answered()
    sent = fake.called("sendMessage") + fake.called("editMessageText")
    assert all(call["link_preview_options"] == {"is_disabled": True} for call in sent)


async def test_the_text_grows_before_it_is_whole(tmp_path: Path, fake: FakeTelegram) -> None:
    gate = asyncio.Event()

    async def slowly() -> AsyncIterator[Event]:
        yield Delta("Wash **canvas** shoes")
        await gate.wait()
        yield Done(Reply("r" * 32, CONVERSATION, ANSWER, Outcome.ANSWERED, "en"))

    async with opened(tmp_path, fake) as world:
        showing = asyncio.create_task(world.telegram.answers.show(ASKED, slowly()))
        await fake.until(lambda: fake.texts() == ["Wash canvas shoes …"])
        gate.set()
        await showing
    assert fake.texts() == [ANSWER]


async def test_a_long_answer_comes_whole_in_several_messages(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    paragraph = " ".join([ANSWER] * 60)
    reply = Reply("r" * 32, CONVERSATION, "\n\n".join([paragraph] * 3), Outcome.ANSWERED, "en")
    async with opened(tmp_path, fake) as world:
        await world.telegram.answers.show(ASKED, once(Done(reply)))
    assert len(fake.shown) == 3
    assert all(shown.text == paragraph for shown in fake.shown)
    assert [bool(shown.keyboard) for shown in fake.shown] == [False, False, True]


async def test_a_long_answer_shown_again_changes_the_same_messages(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    paragraph = " ".join([ANSWER] * 60)
    reply = Reply("r" * 32, CONVERSATION, "\n\n".join([paragraph] * 3), Outcome.ANSWERED, "en")
    async with opened(tmp_path, fake) as world:
        for _ in range(2):
            await world.telegram.answers.show(ASKED, once(Done(reply)))
    assert len(fake.called("sendMessage")) == 3


async def test_an_answer_whose_styles_are_refused_comes_as_plain_text(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    fake.takes_entities = False
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        shown = await fake.answered()
    assert shown.text.startswith(ANSWER)
    assert shown.entities == []


async def test_a_deleted_placeholder_is_replaced(tmp_path: Path, fake: FakeTelegram) -> None:
    model = HeldChatModel([ANSWER])
    async with solemate(tmp_path, fake, model):
        await fake.says(QUESTION)
        await model.waiting.wait()
        await fake.until(lambda: len(fake.shown) == 1)
        fake.delete(fake.shown[0])
        model.gate.set()
        await fake.answered()
    assert len(fake.called("sendMessage")) == 2


async def test_flood_control_is_waited_for_and_nothing_is_lost(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    fake.refuse("sendMessage", flood(7), flood(9))
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
    assert len(fake.shown) == 1
    assert [seconds for seconds in world.clock.slept if seconds >= 7] == [7, 9]


async def test_whoever_blocked_the_bot_is_not_tried_again(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    fake.refuse("sendMessage", Refusal(403, "Forbidden: bot was blocked by the user"))
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.says(QUESTION, user=BEN, chat=BEN)
        await fake.answered()
        assert fake.texts(ANN) == []
    assert world.polling.status.problem == ""


async def test_the_answer_is_in_the_chosen_language(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says("/language")
        await fake.until(lambda: len(fake.shown) == 1)
        await fake.presses("language:zh", fake.shown[0])
        chosen = say("language_chosen", "zh")
        await fake.until(lambda: fake.texts() == [chosen])
        await fake.says("hello")
        await fake.answered()
        assert await world.desk.store.chosen_language(f"telegram:{ANN}") == "zh"
    assert fake.texts()[1] == say("greeting", "zh")


# --- nothing lost, nothing twice ---


async def test_a_message_is_confirmed_only_after_its_commit(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = asyncio.Event()

    async def commit_then_hang(updates: Sequence[Update]) -> None:
        await take(updates)
        committed.set()
        await asyncio.Event().wait()

    await fake.says(QUESTION)
    async with opened(tmp_path, fake) as world:
        take = world.polling._take
        monkeypatch.setattr(world.polling, "_take", commit_then_hang)
        async with running(world, answering=False):
            await committed.wait()
        assert [row.state for row in await world.rows(inbox.c.state)] == ["new"]
    assert fake.confirmed == 0
    async with solemate(tmp_path, fake):
        await fake.answered()
        await fake.until(lambda: fake.confirmed > 0)
    assert len(fake.shown) == 1


async def test_a_message_that_could_not_be_committed_comes_again(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        put, failures = world.desk.inbox.put, [StoreError("full"), StoreError("still full")]

        async def full_disk(message: object) -> bool:
            if failures:
                raise failures.pop()
            return await put(message)  # type: ignore[arg-type]

        monkeypatch.setattr(world.desk.inbox, "put", full_disk)
        async with running(world):
            await fake.says(QUESTION)
            await fake.answered()
    assert failures == []


async def test_a_message_that_comes_three_times_is_answered_once(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    message = fake.message(QUESTION)
    async with solemate(tmp_path, fake) as world:
        for _ in range(3):
            await fake.update(message=message)
        await fake.says("canvas?", user=BEN, chat=BEN)
        await fake.answered(2)
        assert len(await world.rows(turns.c.reply_id)) == 2
    assert len(fake.shown) == 2


async def test_after_a_restart_the_placeholder_becomes_the_answer(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.DRAIN_SECONDS", 0.01)
    model = HeldChatModel()
    async with solemate(tmp_path, fake, model):
        await fake.says(QUESTION)
        await model.waiting.wait()
        await fake.until(lambda: len(fake.shown) == 1)
    async with solemate(tmp_path, fake):
        shown = await fake.answered()
    assert shown.text.startswith(ANSWER)
    assert len(fake.called("sendMessage")) == 1


async def test_a_second_poller_is_told_and_waited_out(tmp_path: Path, fake: FakeTelegram) -> None:
    fake.refuse("getUpdates", *[CONFLICT] * 3)
    async with opened(tmp_path, fake) as world:
        assert world.polling.status.problem
        async with running(world):
            await fake.until(lambda: len(fake.called("getUpdates")) == 2)
            assert "Another program" in world.polling.status.problem
            await fake.says(QUESTION)
            await fake.answered()
            assert world.polling.status.problem == ""


async def test_a_lost_connection_is_made_anew(tmp_path: Path, fake: FakeTelegram) -> None:
    fake.refuse("getMe", None)
    fake.refuse("getUpdates", None, None)
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        await fake.answered()


async def test_a_refused_token_ends_nothing(tmp_path: Path, fake: FakeTelegram) -> None:
    async with opened(tmp_path, fake, token=f"{BOT_ID}:wrong") as world, running(world):
        await fake.until(lambda: len(fake.called("getMe")) >= 2)
        assert "TELEGRAM_BOT_TOKEN" in world.polling.status.problem


async def test_what_is_no_token_is_said_at_once(tmp_path: Path, fake: FakeTelegram) -> None:
    with pytest.raises(ConfigError, match="TELEGRAM_BOT_TOKEN"):
        async with opened(tmp_path, fake, token="secret"):
            pass


async def test_an_update_nobody_can_digest_holds_up_no_other(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        check = world.desk.engine.check

        def broken(message: object) -> None:
            if getattr(message, "text", "") == "poison":
                raise RuntimeError("cannot")
            check(message)  # type: ignore[arg-type]

        monkeypatch.setattr(world.desk.engine, "check", broken)
        await fake.says("poison")
        await fake.says(QUESTION)
        async with running(world):
            await fake.answered()
            await fake.until(lambda: not fake.waiting)


async def test_numbers_that_start_anew_are_not_skipped(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        await fake.answered()
        # A poll came back empty, and the next one asks for everything.
        await fake.until(lambda: "offset" not in fake.called("getUpdates")[-1])
        fake.next_update = 3
        await fake.says(QUESTION)
        await fake.answered(2)


# --- groups, topics, strangers ---


async def test_in_a_group_it_is_silent_unless_addressed(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION, chat=GROUP)
        await fake.says("/weather", chat=GROUP)
        await fake.says("/help@OtherBot", chat=GROUP)
        asked = await fake.says(f"@{USERNAME} canvas?", chat=GROUP)
        shown = await fake.answered()
        assert [row.question for row in await world.rows(turns.c.question)] == ["canvas?"]
    assert len(fake.shown) == 1
    assert shown.reply_to == asked["message_id"]


async def test_in_a_group_a_reply_to_the_bot_is_a_question(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake):
        await fake.says(f"@{USERNAME} canvas?", chat=GROUP)
        shown = await fake.answered()
        await fake.replies(shown, "and white canvas?", chat=GROUP, user=BEN)
        await fake.answered(2)


async def test_topics_are_conversations_of_their_own(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        for thread in (5, 6):
            topic = {"message_thread_id": thread, "is_topic_message": True}
            await fake.says(f"@{USERNAME} canvas?", chat=GROUP, **topic)
        await fake.answered(2)
        rows = await world.rows(turns.c.conversation_id)
    assert len({row.conversation_id for row in rows}) == 2
    assert sorted(shown.thread_id or 0 for shown in fake.shown) == [5, 6]


async def test_strangers_get_one_polite_line_and_no_answer(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    model = FakeChatModel([ANSWER])
    guests = Guests(users=frozenset({ANN}), operators=frozenset({BEN}))
    async with solemate(tmp_path, fake, model, guests=guests):
        await fake.says(QUESTION, user=99, chat=99)
        await fake.says(QUESTION, user=99, chat=99)
        await fake.says(QUESTION)
        await fake.says(QUESTION, user=BEN, chat=BEN)
        await fake.answered(2)
        await fake.until(lambda: fake.texts(99) != [])
    assert fake.texts(99) == [say("stranger", "en")]
    assert len(model.asked) == 2


async def test_everyone_in_an_allowed_group_is_answered(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake, guests=Guests(chats=frozenset({GROUP}))):
        await fake.says(f"@{USERNAME} canvas?", chat=GROUP, user=99)
        await fake.answered()


# --- photos ---


async def test_a_photo_alone_is_asked_about(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        await fake.sends_photo(jpeg(), language="zh-hans")
        shown = await fake.answered()
    assert shown.earlier[0] == say("reading_photo", "zh")
    assert say("photo_question", "zh") in shown.text


async def test_a_photo_is_asked_about_in_the_conversations_language(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake):
        await fake.says("你好", language="en")
        await fake.answered()
        await fake.sends_photo(jpeg(), language="en")
        shown = await fake.answered(2)
    assert say("photo_question", "zh") in shown.text


async def test_a_caption_is_the_question(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.sends_photo(jpeg(), caption=QUESTION)
        await fake.answered()
        [row] = await world.rows(turns.c.conversation_id, turns.c.message_id, turns.c.question)
        assert row.question == QUESTION
        assert len(await world.desk.store.photos_of(row.conversation_id, row.message_id)) == 1


async def test_an_album_is_one_message(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.sends_photo(jpeg(), caption=QUESTION, media_group_id="77")
        await fake.sends_photo(jpeg(50), media_group_id="77")
        await fake.answered()
        [row] = await world.rows(turns.c.conversation_id, turns.c.message_id)
        await fake.until(lambda: not fake.waiting)
        photos = await world.desk.store.photos_of(row.conversation_id, row.message_id)
    assert len(photos) == 2
    assert len(fake.shown) == 1


async def test_a_photo_that_is_too_large_is_not_fetched(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        await fake.sends_photo(b"x" * 200_001)
        await fake.until(lambda: fake.texts() == [say("photo_large", "en")])
    assert fake.called("getFile") == []


async def test_what_is_no_photo_is_refused_kindly(tmp_path: Path, fake: FakeTelegram) -> None:
    voice = {"file_id": "v", "file_unique_id": "v", "duration": 3}
    async with solemate(tmp_path, fake):
        await fake.says(voice=voice)
        await fake.until(lambda: fake.texts() == [say("text_or_photo", "en")])


async def test_a_photo_that_cannot_be_fetched_is_asked_for_again(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    fake.refuse("getFile", Refusal(400, "Bad Request: wrong file_id"))
    async with solemate(tmp_path, fake):
        await fake.sends_photo(jpeg())
        await fake.until(lambda: fake.texts() == [say("photo_not_fetched", "en")])


async def test_a_message_that_is_too_long_is_told_so(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        await fake.says("x" * 4001)
        told = say("text_long", "en", length=4001, limit=4000)
        await fake.until(lambda: fake.texts() == [told])


# --- verdicts ---


async def test_a_thumb_up_is_stored_and_marked(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.presses(shown.data[0], shown)
        await fake.until(lambda: bool(fake.called("answerCallbackQuery")))
        verdict = await world.verdict(reply_id(shown.data))
        await fake.until(lambda: shown.labels == ["👍 ✓", "👎"])
    assert verdict is not None
    assert verdict.rating is Rating.UP


async def test_a_press_is_acknowledged_only_when_it_is_stored(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        rate, tries = world.desk.engine.rate, []

        async def failing_rate(feedback: Feedback) -> None:
            tries.append(len(fake.called("answerCallbackQuery")))
            if len(tries) < 3:
                raise StoreError("full")
            await rate(feedback)

        monkeypatch.setattr(world.desk.engine, "rate", failing_rate)
        async with running(world):
            await fake.says(QUESTION)
            shown = await fake.answered()
            await fake.presses(shown.data[0], shown)
            await fake.until(lambda: bool(fake.called("answerCallbackQuery")))
    assert tries == [0, 0, 0]


async def test_a_thumb_down_leads_to_a_correction(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        reply = reply_id(shown.data)
        await fake.presses(shown.data[1], shown)
        await fake.until(lambda: f"wrong_facts:{reply}" in shown.data)
        await fake.presses(f"wrong_facts:{reply}", shown)
        await fake.until(lambda: ASKED_FOR in fake.texts())
        asking = fake.shown[-1]
        assert asking.force_reply
        assert asking.reply_to == shown.message_id
        await world.telegram.errands.finished()
        await fake.replies(asking, "Brush them, never soak them.")
        await fake.until(lambda: say("correction_thanks", "en") in fake.texts())
        verdict = await world.verdict(reply)
        assert len(await world.rows(turns.c.reply_id)) == 1
    assert verdict == Feedback(
        reply,
        f"telegram:{ANN}",
        Rating.DOWN,
        Reason.WRONG_FACTS,
        correction="Brush them, never soak them.",
    )
    assert shown.labels == ["👍", "👎 ✓"]


async def test_the_reason_may_be_skipped(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        reply = reply_id(shown.data)
        await fake.presses(shown.data[1], shown)
        await fake.until(lambda: f"skip:{reply}" in shown.data)
        await fake.presses(f"skip:{reply}", shown)
        await fake.until(lambda: len(shown.data) == 2)
        await world.telegram.errands.finished()
        verdict = await world.verdict(reply)
    assert verdict == Feedback(reply, f"telegram:{ANN}", Rating.DOWN)
    assert len(fake.shown) == 1


async def test_an_emoji_counts_like_a_thumb(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        reply = reply_id(shown.data)
        await fake.reacts("🔥", shown)
        await fake.reacts("👎", shown)
        await fake.until(lambda: f"tone:{reply}" in shown.data)
        verdict = await world.verdict(reply)
    assert verdict is not None
    assert verdict.rating is Rating.DOWN


async def test_an_answer_from_elsewhere_cannot_be_rated_here(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.says(QUESTION, user=BEN, chat=BEN)
        bens = await fake.answered(2)
        await fake.presses(shown.data[0], bens, user=BEN)
        await fake.until(lambda: bool(fake.called("answerCallbackQuery")))
        assert await world.rows(feedback_events.c.rating) == []
    assert fake.called("answerCallbackQuery")[0]["text"] == say("not_found", "en")


# --- commands ---


async def test_commands_are_published_in_both_languages(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        await fake.until(lambda: len(fake.called("setMyCommands")) == 2)
    english, chinese = fake.called("setMyCommands")
    assert [one["command"] for one in english["commands"]] == [
        "start",
        "help",
        "new",
        "language",
        "privacy",
        "forget",
    ]
    assert chinese["language_code"] == "zh"


async def test_a_new_conversation_knows_nothing_of_the_old(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
        await fake.says("/new")
        await fake.says(QUESTION)
        await fake.answered(2)
        rows = await world.rows(turns.c.conversation_id)
    assert len({row.conversation_id for row in rows}) == 2


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/start", say("greeting", "en")),
        ("/help", "/forget"),
        ("/privacy", "30 days"),
        ("/unknown", "/forget"),
    ],
)
async def test_commands_say_what_there_is_to_know(
    tmp_path: Path, fake: FakeTelegram, command: str, words: str
) -> None:
    async with solemate(tmp_path, fake):
        await fake.says(command)
        await fake.until(lambda: any(words in text for text in fake.texts()))


async def test_forgetting_deletes_the_private_chat_after_a_question(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.says(QUESTION, user=BEN, chat=BEN)
        await fake.answered(2)
        await fake.says("/forget")
        await fake.until(lambda: say("forget_confirm", "en") in fake.texts())
        assert len(await world.rows(turns.c.reply_id)) == 2
        await fake.presses("forget:yes", fake.shown[-1])
        await fake.until(lambda: say("forgotten", "en") in fake.texts())
        rows = await world.rows(turns.c.user_id)
    assert [row.user_id for row in rows] == [f"telegram:{BEN}"]
