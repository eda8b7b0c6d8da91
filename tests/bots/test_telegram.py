"""Telegram: nothing lost, nothing twice, answers shown as they grow, thumbs and corrections."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from telegram import Update

from bots.allowance import Allowance
from bots.notices import Telling
from bots.telegram.people import Guests
from bots.telegram.updates import Updates
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
    Winner,
    Wishes,
)
from core.notices import Notices
from core.privacy import erase
from core.tables import duels, feedback_events, inbox, posts, turns
from core.wording import say
from tests.bots.desks import ALWAYS, ANSWER, OTHER, teach
from tests.bots.injections import INJECTIONS
from tests.bots.telegram_fake import (
    ANN,
    BEN,
    BOT_ID,
    CONFLICT,
    GROUP,
    USERNAME,
    FakeTelegram,
    Refusal,
    Shown,
    flood,
)
from tests.bots.telegram_world import (
    CONVERSATION,
    FAST,
    World,
    jpeg,
    opened,
    person,
    reply_id,
    running,
    solemate,
)
from tests.fakes import FakeChatModel, HeldChatModel

# The library announces on every flood error that a figure of it will have another type one day.
pytestmark = pytest.mark.filterwarnings("ignore::telegram.warnings.PTBDeprecationWarning")

QUESTION = "How do I wash canvas shoes?"
ASKED_FOR = say("ask_correction", "en")
ASKED = UserMessage("7", Platform.TELEGRAM, CONVERSATION, person(), QUESTION)


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().serving() as server:
        yield server


async def once(event: Event) -> AsyncIterator[Event]:
    yield event


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


@pytest.mark.parametrize("takes_drafts", [True, False])
async def test_the_text_grows_before_it_is_whole(
    tmp_path: Path, fake: FakeTelegram, takes_drafts: bool
) -> None:
    fake.takes_drafts = takes_drafts
    gate = asyncio.Event()

    async def slowly() -> AsyncIterator[Event]:
        yield Delta("Wash **canvas** shoes")
        await gate.wait()
        yield Done(Reply("r" * 32, CONVERSATION, ANSWER, Outcome.ANSWERED, "en"))

    def growing() -> list[str]:
        return fake.drafts[ANN][1:] if takes_drafts else fake.texts()

    text = "Wash canvas shoes" if takes_drafts else "Wash canvas shoes …"
    async with opened(tmp_path, fake) as world:
        showing = asyncio.create_task(world.telegram.answers.show(ASKED, slowly()))
        await fake.until(lambda: growing() == [text])
        gate.set()
        await showing
    assert fake.texts() == [ANSWER]


async def test_drafts_of_one_message_have_one_number(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        asked = await fake.says(QUESTION)
        await fake.answered()
    numbers = {call["draft_id"] for call in fake.called("sendMessageDraft")}
    assert numbers == {asked["message_id"]}


async def test_where_calls_are_scarce_a_drafted_answer_is_sent_in_one(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with opened(tmp_path, fake, rates=replace(FAST, chat=(3, 3600))) as world, running(world):
        for count in (1, 2):
            await fake.says(QUESTION)
            await fake.answered(count)
    assert len(fake.called("editMessageText")) == 1


async def test_a_draft_is_shown_again_before_it_fades(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.telegram.show.DRAFT_SECONDS", 0.01)
    model = HeldChatModel([ANSWER])
    async with solemate(tmp_path, fake, model):
        await fake.says(QUESTION)
        await fake.until(lambda: fake.drafts[ANN] == [say("searching", "en")] * 3)
        model.gate.set()
        await fake.answered()


async def test_where_calls_are_scarce_drafts_leave_room_for_answers(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.DRAIN_SECONDS", 0.01)
    model = HeldChatModel([ANSWER])
    rates = replace(FAST, overall=(4, 3600))
    async with opened(tmp_path, fake, model, rates=rates) as world, running(world):
        for number in range(100, 104):
            await fake.says(QUESTION, user=number, chat=number)
        await fake.until(lambda: len(fake.called("sendMessageDraft")) == 3)
        model.gate.set()
        await fake.answered()
    assert len(fake.called("sendMessageDraft")) == 3


async def test_a_chat_without_drafts_is_asked_once(tmp_path: Path, fake: FakeTelegram) -> None:
    fake.takes_drafts = False
    async with solemate(tmp_path, fake):
        for count in (1, 2):
            await fake.says(QUESTION)
            shown = await fake.answered(count)
    assert shown.earlier[0] == say("searching", "en")
    assert len(fake.called("sendMessageDraft")) == 1


async def test_in_a_group_the_placeholder_is_edited(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        await fake.says(f"@{USERNAME} canvas?", chat=GROUP)
        shown = await fake.answered()
    assert shown.earlier[0] == say("searching", "en")
    assert fake.called("sendMessageDraft") == []


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


@pytest.mark.parametrize("takes_entities", [True, False])
async def test_whatever_the_model_says_arrives_and_links_to_nothing(
    tmp_path: Path, fake: FakeTelegram, takes_entities: bool
) -> None:
    fake.takes_entities = takes_entities
    async with opened(tmp_path, fake) as world:
        for number, text in enumerate(INJECTIONS):
            reply = Reply("r" * 32, CONVERSATION, text, Outcome.ANSWERED, "en")
            asked = replace(ASKED, id=str(1000 + number))
            await world.telegram.answers.show(asked, once(Done(reply)))
    # Refused once for its styles, an answer goes out plain, in one more call.
    said = fake.called("editMessageText")
    styled = sum(bool(one.get("entities")) for one in said)
    assert styled > 0
    refused = 0 if takes_entities else styled
    assert len(fake.shown) == len(fake.called("sendMessage")) == len(INJECTIONS)
    assert len(said) == len(INJECTIONS) + refused
    kinds = {entity["type"] for one in said for entity in one["entities"]}
    assert kinds <= {"bold", "italic", "code", "pre"}


async def test_a_deleted_placeholder_is_replaced(tmp_path: Path, fake: FakeTelegram) -> None:
    fake.takes_drafts = False
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


async def test_what_is_answered_while_telegram_is_away_is_shown_when_it_is_back(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    fake.refuse("sendMessage", *[None] * 40)
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
        assert len(await world.rows(turns.c.reply_id)) == 1
    assert len(fake.shown) == 1
    assert say("failed", "en") not in fake.shown[0].earlier


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
        assert await world.desk.store.chosen_language(person()) == "zh"
    assert fake.texts()[1] == say("greeting", "zh")


# --- nothing lost, nothing twice ---


async def test_a_message_is_confirmed_only_after_its_commit(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = asyncio.Event()

    async def commit_then_hang(updates: Sequence[Update]) -> None:
        await receive(updates)
        committed.set()
        await asyncio.Event().wait()

    await fake.says(QUESTION)
    async with opened(tmp_path, fake) as world:
        receive = world.polling._intake.receive
        monkeypatch.setattr(world.polling._intake, "receive", commit_then_hang)
        async with running(world, answering=False):
            await committed.wait()
        assert "new" in {row.state for row in await world.rows(inbox.c.state)}
    assert fake.confirmed == 0
    async with solemate(tmp_path, fake):
        await fake.answered()
        await fake.until(lambda: fake.confirmed > 0)
    assert len(fake.shown) == 1


async def test_a_message_that_could_not_be_committed_comes_again(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        submit, failures = world.desk.lanes.submit, [StoreError("full"), StoreError("still full")]

        async def full_disk(message: UserMessage, **more: Any) -> bool:
            if failures:
                raise failures.pop()
            return await submit(message, **more)

        monkeypatch.setattr(world.desk.lanes, "submit", full_disk)
        async with running(world):
            await fake.says(QUESTION)
            await fake.answered()
    assert failures == []


async def test_nothing_overtakes_a_message_that_could_not_be_committed(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        submit, failures = world.desk.lanes.submit, [StoreError("full")]

        async def full_disk(message: UserMessage, **more: Any) -> bool:
            if failures:
                raise failures.pop()
            return await submit(message, **more)

        monkeypatch.setattr(world.desk.lanes, "submit", full_disk)
        for number in range(3):
            await fake.says(f"canvas {number}?")
        async with running(world):
            await fake.answered(3)
        asked = [row.question for row in await world.rows(turns.c.question)]
    assert asked == [f"canvas {number}?" for number in range(3)]


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
    fake.takes_drafts = False
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
    fake.refuse("getUpdates", *[CONFLICT] * 1000)
    async with opened(tmp_path, fake) as world:
        assert world.polling.status.problem
        async with running(world):
            await fake.until(lambda: len(fake.called("getUpdates")) >= 2)
            assert "Another program" in world.polling.status.problem
            fake.relent("getUpdates")
            await fake.says(QUESTION)
            await fake.answered()
            assert world.polling.status.problem == ""


async def test_a_webhook_that_somebody_sets_is_removed(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake):
        await fake.until(lambda: bool(fake.called("getUpdates")))
        fake.webhook = "https://elsewhere.example/"
        await fake.until(lambda: fake.webhook == "")
        await fake.says(QUESTION)
        await fake.answered()
    assert len(fake.called("setMyCommands")) == 2


async def test_polling_rests_while_more_waits_than_can_be_answered(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.BACKLOG_SECONDS", 0.0)
    model, resting = HeldChatModel([ANSWER]), asyncio.Event()
    async with opened(tmp_path, fake, model, width=1) as world:
        behind = world.desk.lanes.behind

        async def watched(*message: UserMessage) -> int:
            number = await behind(*message)
            if number:
                resting.set()
            return number

        monkeypatch.setattr(world.desk.lanes, "behind", watched)
        async with running(world):
            await fake.says(QUESTION)
            await model.waiting.wait()
            await fake.says(QUESTION, user=BEN, chat=BEN)
            await resting.wait()
            polls = len(fake.called("getUpdates"))
            await fake.says(QUESTION, user=13, chat=13)
            resting.clear()
            await resting.wait()
            assert "wait at Telegram" in world.polling.status.complaint
            assert len(fake.called("getUpdates")) == polls
            model.gate.set()
            await fake.answered(3)
            # It looks again after a while.
            while world.polling.status.resting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_long_queue_of_one_chat_is_answered_whole(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    people = range(100, 107)
    for user in people:
        await fake.says(f"@{USERNAME} canvas {user}?", user=user, chat=GROUP)
    model = HeldChatModel([ANSWER])
    async with opened(tmp_path, fake, model, depth=2) as world, running(world):
        in_line = [say("in_line", "en", number=number) for number in range(3, 8)]
        await fake.until(lambda: set(in_line) <= set(fake.texts(GROUP)))
        model.gate.set()
        await fake.answered(len(people))
        asked = [row.question for row in await world.rows(turns.c.question)]
    assert asked == [f"canvas {user}?" for user in people]
    assert len(fake.shown) == len(people)


async def test_what_one_chat_has_no_room_for_waits_at_telegram(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.inbox.ROOM", 2)
    for number in range(5):
        await fake.says(f"canvas {number}?")
    model = HeldChatModel([ANSWER])
    allowance = Allowance(messages_per_minute=5, photos_per_minute=1, messages_per_day=5)
    async with (
        opened(tmp_path, fake, model, allowance=allowance, depth=1) as world,
        running(world),
    ):
        await fake.until(lambda: len(fake.called("getUpdates")) > 3)
        assert "wait at Telegram" in world.polling.status.complaint
        assert len(fake.waiting) == 5
        model.gate.set()
        await fake.answered(5)
        asked = [row.question for row in await world.rows(turns.c.question)]
    assert asked == [f"canvas {number}?" for number in range(5)]


async def test_what_waited_while_we_were_away_is_not_too_much_at_once(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    allowance = Allowance(messages_per_minute=1, photos_per_minute=1, messages_per_day=10)
    an_hour_ago = int(time.time()) - 3600
    for number in range(4):
        await fake.says(f"canvas {number}?", date=an_hour_ago)
    async with opened(tmp_path, fake, allowance=allowance) as world, running(world):
        await fake.answered(4)
    assert len(fake.shown) == 4


async def test_a_command_that_comes_again_is_carried_out_once(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says("/help")
        [again] = fake.waiting
        await fake.until(lambda: not fake.waiting)
        fake.waiting.append(again)
        await fake.says(QUESTION)
        await fake.answered()
        await world.telegram.errands.finished()
    assert len(fake.shown) == 2


async def test_chats_do_not_wait_for_each_other(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    async with opened(tmp_path, fake) as world:
        chosen = world.desk.store.chosen_language

        async def slow_for_ann(user_id: str) -> object:
            if user_id == person():
                await gate.wait()
            return await chosen(user_id)

        monkeypatch.setattr(world.desk.store, "chosen_language", slow_for_ann)
        await fake.says(QUESTION)
        await fake.says(QUESTION, user=BEN, chat=BEN)
        async with running(world):
            shown = await fake.answered()
            assert shown.chat_id == BEN
            gate.set()
            await fake.answered(2)


async def test_a_lost_connection_is_made_anew(tmp_path: Path, fake: FakeTelegram) -> None:
    fake.refuse("getMe", None)
    fake.refuse("getUpdates", None, None)
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        await fake.answered()


async def test_a_stalled_poll_is_noticed_reported_and_given_up_for_another(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.telegram.polling.STALL_SECONDS", 0.01)
    fake.stall(2)
    with capture_logs() as logged:
        async with solemate(tmp_path, fake) as world:
            await fake.says(QUESTION)
            await fake.answered()
            assert world.polling.status.complaint == ""
    problems = [one["problem"] for one in logged if one["event"] == "telegram_failed"]
    assert len(problems) == 2
    assert all("did not answer in time" in problem for problem in problems)


async def test_answers_go_on_when_all_connections_broke(tmp_path: Path, fake: FakeTelegram) -> None:
    model = HeldChatModel([ANSWER])
    async with solemate(tmp_path, fake, model):
        for number in range(8):
            await fake.says(QUESTION, user=100 + number, chat=100 + number)
        await model.waiting.wait()
        fake.cut_lines()
        model.gate.set()
        await fake.answered(8)
        fake.cut_lines()
        await fake.says(QUESTION)
        await fake.answered(9)
    assert len(fake.shown) == 9


async def test_a_refused_token_ends_nothing(tmp_path: Path, fake: FakeTelegram) -> None:
    async with opened(tmp_path, fake, token=f"{BOT_ID}:wrong") as world, running(world):
        await fake.until(lambda: len(fake.called("getMe")) >= 2)
        assert "TELEGRAM_BOT_TOKEN" in world.polling.status.problem


async def test_what_is_no_token_is_said_at_once(tmp_path: Path, fake: FakeTelegram) -> None:
    with pytest.raises(ConfigError, match="TELEGRAM_BOT_TOKEN"):
        async with opened(tmp_path, fake, token="secret"):
            pass


class Poison:
    """Makes questions with this text end in an error so many times."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
        self.tries = 0
        check = world.desk.engine.check

        def broken(message: UserMessage) -> None:
            if message.text.endswith("poison"):
                self.tries += 1
                if self.tries <= times:
                    raise RuntimeError("cannot")
            check(message)

        monkeypatch.setattr(world.desk.engine, "check", broken)
        monkeypatch.setattr("bots.telegram.intake.FIRST_PAUSE_SECONDS", 0.01)
        monkeypatch.setattr("bots.lanes.POLL_SECONDS", 0.01)


async def test_an_update_nobody_can_digest_is_put_aside_with_one_apology(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        poison = Poison(world, monkeypatch, times=100)
        update = await fake.says("poison")
        await fake.says(QUESTION, user=BEN, chat=BEN)
        async with running(world):
            await fake.answered()
            await fake.until(lambda: fake.texts() == [say("failed", "en")])
            await fake.update(message=update)
            await fake.until(lambda: not fake.waiting)
        rows = await world.rows(inbox.c.state, inbox.c.problem)
    assert poison.tries == 6
    assert [tuple(row) for row in rows if row.state == "dead"] == [("dead", "RuntimeError")]
    assert fake.texts() == [say("failed", "en")]


async def test_an_update_that_goes_wrong_in_passing_is_taken(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        Poison(world, monkeypatch, times=2)
        await fake.says("canvas, no poison")
        async with running(world):
            await fake.answered()
    assert len(fake.shown) == 1


async def test_nothing_is_kept_of_a_failing_update_whose_sender_was_forgotten(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.telegram.intake.FIRST_PAUSE_SECONDS", 0.01)
    async with opened(tmp_path, fake) as world:

        async def broken(*_: object) -> None:
            raise RuntimeError("cannot")

        monkeypatch.setattr(Updates, "_on_messages", broken)
        await erase(world.desk.store, person())
        await fake.says("a secret", date=int(time.time()) - 60)
        async with running(world):
            await fake.until(lambda: not fake.waiting)
        [row] = await world.rows(inbox.c.message, inbox.c.state, inbox.c.apology_due)
    assert tuple(row) == ({}, "dead", None)


async def test_in_a_group_nobody_hears_of_an_update_that_was_not_for_us(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.telegram.intake.FIRST_PAUSE_SECONDS", 0.01)
    async with opened(tmp_path, fake) as world:
        calls = 0

        async def broken(*_: object) -> None:
            nonlocal calls
            calls += 1
            raise RuntimeError("cannot")

        monkeypatch.setattr(Updates, "_on_messages", broken)
        monkeypatch.setattr(Updates, "_on_press", broken)
        await fake.says("lunch?", chat=GROUP)
        shown = Shown(GROUP, 5, "an answer")
        await fake.presses("up:r", shown)
        async with running(world):
            await fake.until(lambda: not fake.waiting)
            await fake.until(lambda: bool(fake.called("answerCallbackQuery")))
        rows = await world.rows(inbox.c.message_id, inbox.c.state, inbox.c.apology_due)
    assert calls == 6
    assert [(row.state, row.apology_due) for row in rows] == [("dead", None)] * 2
    assert fake.called("answerCallbackQuery")[0]["text"] == say("failed", "en")
    assert fake.shown == []


async def test_an_update_nobody_can_read_holds_up_no_other(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    unreadable = fake.message("A secret.")
    del unreadable["date"]
    with capture_logs() as logged:
        async with opened(tmp_path, fake) as world:
            await fake.says("canvas?", user=BEN, chat=BEN)
            await fake.update(message=unreadable)
            await fake.says(QUESTION)
            async with running(world):
                await fake.answered(2)
                await fake.until(lambda: not fake.waiting)
    # Once is enough: it does not come again.
    [line] = [one for one in logged if one["event"] == "update_unreadable"]
    assert line["update"] == fake.sent[1]["update_id"]
    assert "secret" not in str(logged)


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


async def test_edited_messages_and_forwarded_commands_do_nothing(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    model = FakeChatModel([ANSWER])
    origin = {"type": "user", "date": 1_790_000_000, "sender_user": fake.person(BEN)}
    async with solemate(tmp_path, fake, model) as world:
        asked = await fake.says("canvas?")
        await fake.answered()
        await fake.update(edited_message={**asked, "text": "white canvas?", "edit_date": 1})
        for command in ("/forget", "/new", "/help"):
            await fake.says(command, forward_origin=origin)
        await fake.says("grey canvas?", forward_origin=origin)
        await fake.answered(2)
        rows = await world.rows(turns.c.question)
    assert [row.question for row in rows] == ["canvas?", "grey canvas?"]
    assert len(model.asked) == len(fake.shown) == 2


async def test_strangers_votes_do_not_count(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake, guests=Guests(users=frozenset({ANN}))) as world:
        await fake.says(f"@{USERNAME} canvas?", chat=GROUP)
        shown = await fake.answered()
        await fake.presses(shown.data[0], shown, user=99)
        await fake.reacts("👎", shown, user=99)
        await fake.until(lambda: len(fake.called("answerCallbackQuery")) == 1)
        await fake.says(f"@{USERNAME} canvas?", chat=GROUP)
        await fake.answered(2)
        assert await world.rows(feedback_events.c.user_id) == []


@pytest.mark.parametrize("people", [20, pytest.param(500, marks=pytest.mark.nightly)])
async def test_a_slow_model_holds_up_no_confirmation(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch, people: int
) -> None:
    # Polling is not to pause, however long it takes to hand all of them over.
    monkeypatch.setattr("bots.lanes.BACKLOG_SECONDS", 3600.0)
    fake.patience_seconds = 250
    model = HeldChatModel([ANSWER])
    async with solemate(tmp_path, fake, model):
        for number in range(people):
            await fake.says(QUESTION, user=100 + number, chat=100 + number)
        await fake.until(lambda: not fake.waiting)
        assert model.asked == []
        model.gate.set()
        await fake.answered(people)
    assert Counter(one.chat_id for one in fake.shown) == Counter(range(100, 100 + people))


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


async def test_a_photo_that_is_sent_as_a_file_is_read(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.sends_file(jpeg(), caption=QUESTION)
        await fake.answered()
        await fake.sends_file(b"%PDF-1.7", "application/pdf")
        await fake.until(lambda: say("text_or_photo", "en") in fake.texts())
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


async def test_a_late_photo_joins_its_album_while_it_waits(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with opened(tmp_path, fake, album_seconds=0) as world:
        async with running(world, answering=False):
            await fake.sends_photo(jpeg(), caption=QUESTION, media_group_id="77")
            await fake.until(lambda: not fake.waiting)
            late = await fake.sends_photo(jpeg(50), media_group_id="77")
            await fake.update(message=late)
            await fake.until(lambda: not fake.waiting)
        async with world.desk.lanes.running():
            await fake.answered()
        [row] = await world.rows(turns.c.conversation_id, turns.c.message_id, turns.c.question)
        photos = await world.desk.store.photos_of(row.conversation_id, row.message_id)
    assert row.question == QUESTION
    assert len(photos) == 2


async def test_a_photo_that_comes_after_the_answer_is_a_follow_up(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with opened(tmp_path, fake, album_seconds=0) as world:
        async with running(world):
            first = await fake.sends_photo(jpeg(), caption=QUESTION, media_group_id="77")
            await fake.answered()
            late = await fake.sends_photo(jpeg(50), media_group_id="77")
            shown = await fake.answered(2)
            for again in (first, late):
                await fake.update(message=again)
            await fake.until(lambda: not fake.waiting)
        rows = await world.rows(turns.c.conversation_id, turns.c.message_id)
        counts = [len(await world.desk.store.photos_of(*row)) for row in rows]
        assert await world.desk.inbox.waiting() == (0, 0.0)
    assert say("photo_question", "en") in shown.text
    assert counts == [1, 1]
    assert len({row.conversation_id for row in rows}) == 1


async def test_in_a_group_the_rest_of_an_album_needs_no_mention(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with opened(tmp_path, fake, album_seconds=0) as world:
        async with running(world, answering=False):
            caption = f"@{USERNAME} canvas?"
            await fake.sends_photo(jpeg(), caption=caption, chat=GROUP, media_group_id="77")
            await fake.until(lambda: not fake.waiting)
            await fake.sends_photo(jpeg(50), chat=GROUP, media_group_id="77")
            await fake.sends_photo(jpeg(60), chat=GROUP, media_group_id="78")
            await fake.until(lambda: not fake.waiting)
        async with world.desk.lanes.running():
            await fake.answered()
        [row] = await world.rows(turns.c.conversation_id, turns.c.message_id)
        assert len(await world.desk.store.photos_of(*row)) == 2


async def test_an_album_over_the_limit_is_one_line(tmp_path: Path, fake: FakeTelegram) -> None:
    allowance = Allowance(messages_per_minute=10, photos_per_minute=1, messages_per_day=10)
    async with opened(tmp_path, fake, allowance=allowance) as world:
        async with running(world, answering=False):
            for number in range(3):
                await fake.sends_photo(jpeg(40 + number), media_group_id="77")
            await fake.until(lambda: not fake.waiting)
        await world.telegram.errands.finished()
    assert len(fake.texts()) == 1


async def test_whoever_asks_too_much_is_told_once(tmp_path: Path, fake: FakeTelegram) -> None:
    allowance = Allowance(messages_per_minute=2, photos_per_minute=1, messages_per_day=10)
    async with opened(tmp_path, fake, allowance=allowance) as world, running(world):
        for _ in range(6):
            await fake.says(QUESTION)
        await fake.answered(2)
        await fake.until(lambda: not fake.waiting)
        await world.telegram.errands.finished()
        assert len(await world.rows(turns.c.reply_id)) == 2
    assert len(fake.shown) == 3


async def test_a_photo_is_fetched_again_after_a_lost_connection(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    fake.refuse("getFile", None)
    async with solemate(tmp_path, fake):
        await fake.sends_photo(jpeg())
        await fake.answered()


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

        async def failing_rate(feedback: Feedback, **more: Any) -> bool:
            tries.append(len(fake.called("answerCallbackQuery")))
            if len(tries) < 3:
                raise StoreError("full")
            return await rate(feedback, **more)

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
        assert asking.asks(ANN)
        assert asking.reply_to == shown.message_id
        await world.telegram.errands.finished()
        await fake.replies(asking, "Brush them, never soak them.")
        await fake.until(lambda: say("correction_thanks", "en") in fake.texts())
        verdict = await world.verdict(reply)
        assert len(await world.rows(turns.c.reply_id)) == 1
    assert verdict == Feedback(
        reply,
        person(),
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
    assert verdict == Feedback(reply, person(), Rating.DOWN)
    assert len(fake.shown) == 1


async def test_only_whoever_gave_the_thumb_down_says_why(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(f"@{USERNAME} canvas?", chat=GROUP)
        shown = await fake.answered()
        reply = reply_id(shown.data)
        await fake.presses(f"up:{reply}", shown, user=BEN)
        await fake.presses(f"down:{reply}", shown)
        await fake.until(lambda: f"skip:{reply}" in shown.data)
        for user in (BEN, 99):
            for what in ("skip", "tone"):
                await fake.presses(f"{what}:{reply}", shown, user=user)
        await fake.until(lambda: len(fake.called("answerCallbackQuery")) == 6)
        # The reasons are still there for whom they are meant for.
        await fake.presses(f"tone:{reply}", shown)
        await fake.until(lambda: len(shown.data) == 2)
        anns = await world.verdict(reply)
        assert await world.verdict(reply, BEN) == Feedback(reply, person(BEN), Rating.UP)
        assert await world.verdict(reply, 99) is None
    notices = [one["text"] for one in fake.called("answerCallbackQuery")]
    assert notices.count(say("not_your_thumb", "en")) == 4
    assert anns == Feedback(reply, person(), Rating.DOWN, Reason.TONE)


async def test_in_a_group_only_whoever_gave_the_thumb_down_corrects(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(f"@{USERNAME} canvas?", chat=GROUP)
        shown = await fake.answered()
        reply = reply_id(shown.data)
        await fake.presses(f"up:{reply}", shown, user=BEN)
        await fake.presses(f"down:{reply}", shown)
        await fake.until(lambda: f"tone:{reply}" in shown.data)
        await fake.presses(f"tone:{reply}", shown)
        asked_for = say("ask_correction_of", "en", name=f"P{ANN}")
        await fake.until(lambda: asked_for in fake.texts(GROUP))
        await world.telegram.errands.finished()
        asking = fake.shown[-1]
        assert [asking.asks(user) for user in (ANN, BEN)] == [True, False]
        await fake.replies(asking, "I liked it.", chat=GROUP, user=BEN)
        await fake.until(lambda: say("not_your_thumb", "en") in fake.texts(GROUP))
        await fake.replies(asking, "Brush them.", chat=GROUP)
        await fake.until(lambda: say("correction_thanks", "en") in fake.texts(GROUP))
        bens, anns = await world.verdict(reply, BEN), await world.verdict(reply)
    assert bens == Feedback(reply, person(BEN), Rating.UP)
    assert anns == Feedback(reply, person(), Rating.DOWN, Reason.TONE, correction="Brush them.")


async def test_skipping_makes_no_thumb_of_an_emoji(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        reply = reply_id(shown.data)
        await fake.reacts("👎", shown)
        await fake.until(lambda: f"skip:{reply}" in shown.data)
        await fake.presses(f"skip:{reply}", shown)
        await fake.until(lambda: shown.labels == ["👍", "👎 ✓"])
        await fake.reacts("", shown, before="👎")
        await fake.until(lambda: shown.labels == ["👍", "👎"])
        assert await world.verdict(reply) is None


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


async def test_an_emoji_taken_off_takes_its_thumb_back(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.reacts("👍", shown)
        await fake.until(lambda: shown.labels == ["👍 ✓", "👎"])
        await fake.reacts("👎", shown, before="👍")
        await fake.until(lambda: shown.labels[:2] == ["👍", "👎 ✓"])
        await fake.reacts("", shown, before="👎")
        await fake.until(lambda: shown.labels == ["👍", "👎"])
        assert await world.verdict(reply_id(shown.data)) is None


async def test_an_emoji_taken_off_leaves_words_that_were_given(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        reply = reply_id(shown.data)
        await fake.reacts("👎", shown)
        await fake.until(lambda: f"tone:{reply}" in shown.data)
        await fake.presses(f"tone:{reply}", shown)
        await fake.until(lambda: shown.labels == ["👍", "👎 ✓"])
        await fake.reacts("", shown, before="👎")
        await fake.until(lambda: not fake.waiting)
        await world.telegram.errands.finished()
        verdict = await world.verdict(reply)
    assert verdict is not None
    assert verdict.reason is Reason.TONE


async def test_an_emoji_taken_off_leaves_the_thumb_that_was_pressed_since(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        reply = reply_id(shown.data)
        await fake.reacts("👍", shown)
        await fake.until(lambda: shown.labels == ["👍 ✓", "👎"])
        await fake.presses(shown.data[1], shown)
        await fake.presses(shown.data[0], shown)
        await fake.reacts("", shown, before="👍")
        await fake.until(lambda: not fake.waiting)
        await world.telegram.errands.finished()
        assert await world.verdict(reply) == Feedback(reply, person(), Rating.UP)
    assert shown.labels == ["👍 ✓", "👎"]


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
    assert "scope" not in english
    assert [one["command"] for one in english["commands"]] == [
        "start",
        "help",
        "new",
        "language",
        "settings",
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


async def test_settings_switch_what_a_person_is_asked(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says("/settings")
        await fake.until(lambda: any("wish:duels:off" in one.data for one in fake.shown))
        [shown] = fake.shown
        await fake.presses("wish:duels:off", shown)
        await fake.until(lambda: "wish:duels:on" in shown.data)
        assert not (await world.desk.store.wishes_of(person())).duels
        await fake.presses("wish:duels:on", shown)
        await fake.until(lambda: "wish:duels:off" in shown.data)
        assert await world.desk.store.wishes_of(person()) == Wishes()
        await fake.presses("wish:duels:perhaps", shown)
        await fake.says("/settings", chat=GROUP)
        await fake.until(lambda: fake.texts(GROUP) == [say("settings_private", "en")])


async def test_in_a_group_only_whoever_asked_can_pick_the_better_answer(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    model = FakeChatModel([ANSWER, OTHER])
    async with opened(tmp_path, fake, model, duels=ALWAYS) as world, running(world):
        asked = await fake.says(f"@{USERNAME} {QUESTION}", chat=GROUP)
        await fake.until(lambda: any(d.startswith("a:") for one in fake.shown for d in one.data))
        shown = fake.shown[-1]
        assert (shown.chat_id, shown.reply_to) == (GROUP, asked["message_id"])
        # There others could press what switches it off.
        assert [data.partition(":")[0] for data in shown.data] == ["a", "b", "same"]
        await fake.presses(shown.data[0], shown, user=BEN)
        await fake.until(lambda: len(fake.called("answerCallbackQuery")) == 1)
        assert await world.rows(duels.c.winner) == [(None,)]
        await fake.presses(shown.data[0], shown)
        await fake.until(lambda: len(shown.data) == 1)
        [row] = await world.rows(duels.c.user_id, duels.c.winner)
    assert row.user_id == person()
    assert row.winner in (Winner.FIRST, Winner.SECOND)
    notices = [one["text"] for one in fake.called("answerCallbackQuery")]
    assert notices == [say("duel_of_another", "en"), say("duel_thanks", "en")]


async def test_a_duel_is_switched_off_where_it_stands(tmp_path: Path, fake: FakeTelegram) -> None:
    model = FakeChatModel([ANSWER, OTHER])
    async with opened(tmp_path, fake, model, duels=ALWAYS) as world, running(world):
        await fake.says(QUESTION)
        await fake.until(lambda: any("duels:off" in one.data for one in fake.shown))
        shown = fake.shown[-1]
        await fake.presses("duels:off", shown)
        await fake.until(lambda: not shown.data)
        assert not (await world.desk.store.wishes_of(person())).duels


async def test_whoever_taught_something_is_told_once_in_private(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(f"@{USERNAME} {QUESTION}", chat=GROUP)
        answer = await fake.answered()
        reply = reply_id(answer.data)
        store, notices = world.desk.store, Notices(world.desk.store)
        await teach(store, reply, person(), "Brush them.")
        telling = Telling(notices, store, {})
        # Nobody in the group is to read it, and there is no other chat yet.
        await telling.tell_all(Platform.TELEGRAM, world.telegram.teller)
        await fake.says(QUESTION)
        await fake.answered(2)
        for _ in range(2):
            await telling.tell_all(Platform.TELEGRAM, world.telegram.teller)
        told = [one for one in fake.shown if say("taught_me", "en") in one.text]
        assert [one.chat_id for one in told] == [ANN]
        assert "Brush them." in told[0].text
        await fake.says("/stats")
        learned = say("correction_live", "en")
        await fake.until(lambda: any(learned in text for text in fake.texts()))


async def test_whoever_cannot_be_told_does_not_keep_others_from_it(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        answer = await fake.answered()
        store, notices = world.desk.store, Notices(world.desk.store)
        await teach(store, reply_id(answer.data), person(), "Brush them.")
        fake.refuse("sendMessage", Refusal(403, "Forbidden: bot was blocked by the user"))
        await Telling(notices, store, {}).tell_all(Platform.TELEGRAM, world.telegram.teller)
        assert await notices.people(Platform.TELEGRAM) == []


async def forgotten(world: World, user: int = ANN) -> None:
    """The person has everything forgotten, and is told so."""
    fake = world.fake
    await fake.says("/forget", user=user, chat=user)
    await fake.until(lambda: say("forget_confirm", "en") in fake.texts(user))
    asked = next(one for one in fake.shown if f"forget:yes:{user}" in one.data)
    await fake.presses(asked.data[0], asked, user=user)
    await fake.until(lambda: say("forgotten", "en") in fake.texts(user))


async def test_forgetting_deletes_what_is_known_after_a_question(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.says(QUESTION, user=BEN, chat=BEN)
        await fake.answered(2)
        await forgotten(world)
        rows = await world.rows(turns.c.user_id)
    assert [row.user_id for row in rows] == [person(BEN)]


async def test_in_a_group_others_keep_what_they_said(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(f"@{USERNAME} canvas, says Ann?", chat=GROUP)
        anns = await fake.answered()
        await fake.says(f"@{USERNAME} canvas, says Ben?", chat=GROUP, user=BEN)
        bens = await fake.answered(2)
        for shown in (anns, bens):
            for user in (ANN, BEN):
                await fake.presses(shown.data[1], shown, user=user)
        await fake.until(lambda: len(fake.called("answerCallbackQuery")) == 4)
        await forgotten(world)
        assert [row.question for row in await world.rows(turns.c.question)] == ["canvas, says Ben?"]
        rated = await world.rows(feedback_events.c.user_id, feedback_events.c.reply_id)
        assert rated == [(person(BEN), reply_id(bens.data))]


async def test_nobody_else_can_press_what_deletes(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(f"@{USERNAME} canvas?", chat=GROUP, user=BEN)
        await fake.answered()
        await fake.says("/forget", chat=GROUP)
        await fake.until(lambda: say("forget_confirm", "en") in fake.texts(GROUP))
        await fake.presses(fake.shown[-1].data[0], fake.shown[-1], user=BEN)
        await fake.until(lambda: bool(fake.called("answerCallbackQuery")))
        assert len(await world.rows(turns.c.reply_id)) == 1
    assert fake.called("answerCallbackQuery")[0]["text"] == say("not_your_button", "en")


async def test_what_was_forgotten_does_not_come_back(tmp_path: Path, fake: FakeTelegram) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        [old] = fake.sent
        await forgotten(world)
        # The same update again, then the message in a new one, as old as it is, and its verdict.
        fake.waiting.append(old)
        message = old["message"] | {"date": old["message"]["date"] - 60}
        await fake.update(message=message)
        await fake.reacts("👍", shown, date=message["date"])
        await fake.presses(shown.data[0], shown)
        await fake.until(lambda: not fake.waiting)
        await world.telegram.errands.finished()
        assert await world.rows(turns.c.reply_id) == []
        assert await world.rows(feedback_events.c.reply_id) == []
        assert await world.desk.inbox.waiting() == (0, 0.0)
        await fake.says(QUESTION)
        await fake.answered(2)


async def test_what_is_being_answered_is_forgotten_too(tmp_path: Path, fake: FakeTelegram) -> None:
    model = HeldChatModel([ANSWER])
    async with solemate(tmp_path, fake, model) as world:
        await fake.says(QUESTION)
        await model.waiting.wait()
        await forgotten(world)
        model.gate.set()
        await world.telegram.errands.finished()
        assert await world.rows(turns.c.reply_id) == []
        assert await world.rows(posts.c.post_id) == []
        assert await world.desk.inbox.waiting() == (0, 0.0)


async def test_operators_see_figures(tmp_path: Path, fake: FakeTelegram) -> None:
    guests = Guests(operators=frozenset({BEN}))
    async with solemate(tmp_path, fake, guests=guests) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.presses(shown.data[1], shown)
        await fake.says("/stats", user=BEN, chat=BEN)
        await fake.until(lambda: bool(fake.texts(BEN)))
        [figures] = fake.texts(BEN)
        await world.telegram.errands.finished()
    assert "People: 1, answers: 1" in figures
    assert "👍 0  👎 1" in figures
    assert "solemate-live" in figures


async def test_figures_stand_in_the_menu_of_operators_alone_once_they_begin_to_talk(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    guests = Guests(operators=frozenset({BEN}))
    languages = (None, "zh")
    async with solemate(tmp_path, fake, guests=guests) as world:
        await fake.says("/start")
        await fake.until(lambda: bool(fake.texts()))
        await world.telegram.errands.finished()
        assert list(fake.menus) == [(None, language) for language in languages]
        await fake.says("/start", user=BEN, chat=BEN)
        await fake.until(lambda: len(fake.menus) == 4)
    async with solemate(tmp_path / "again", fake, guests=guests) as world:
        menus = dict(fake.menus)
        fake.menus.clear()
        await fake.until(lambda: len(fake.menus) == 4)
        assert fake.menus == menus
    for language in languages:
        assert menus[BEN, language] == [*menus[None, language], "stats"]
        assert "stats" not in menus[None, language]


@pytest.mark.parametrize("chat", [ANN, GROUP])
async def test_nobody_else_sees_figures(tmp_path: Path, fake: FakeTelegram, chat: int) -> None:
    """An operator neither, where others read."""
    guests = Guests(operators=frozenset({BEN}))
    user = ANN if chat == ANN else BEN
    async with solemate(tmp_path, fake, guests=guests):
        await fake.says(f"/stats@{USERNAME}", user=user, chat=chat)
        await fake.says("/help", user=user, chat=chat)
        await fake.until(lambda: bool(fake.texts(chat)))
        await fake.until(lambda: not fake.waiting)
    assert not any("People" in text for text in fake.texts(chat))
