"""Slack: nothing lost, nothing twice, answers streamed into threads, thumbs and corrections."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bots.allowance import Allowance
from bots.notices import Telling
from bots.slack.people import Guests
from bots.slack.probe import examine_slack
from bots.slack.show import Pace
from core.doctor import Health
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
    Replaced,
    Reply,
    UserMessage,
    Winner,
    Wishes,
)
from core.notices import Notices
from core.posts import Post
from core.privacy import erase
from core.store import Store
from core.tables import duels, feedback_events, inbox, turns
from core.wording import say
from tests.bots.desks import ALWAYS, ANSWER, OTHER, teach
from tests.bots.slack_fake import (
    ANN,
    BEN,
    BOT_TOKEN,
    BOT_USER,
    GENERAL,
    TEAM,
    FakeSlack,
    Refusal,
    Shown,
    too_fast,
)
from tests.bots.slack_world import (
    access_to,
    jpeg,
    opened,
    person,
    reply_id,
    running,
    solemate,
)
from tests.fakes import FakeChatModel, HeldChatModel

QUESTION = "How do I wash canvas shoes?"
ROOM = f"slack:{TEAM}:D{ANN}"
ASKED = UserMessage(
    "1790000000.000000",
    Platform.SLACK,
    f"{ROOM}:1790000000.000000",
    person(),
    QUESTION,
)
REPLY = Reply("r" * 32, ASKED.conversation_id, ANSWER, Outcome.ANSWERED, "en")


@pytest.fixture
async def fake() -> AsyncIterator[FakeSlack]:
    async with FakeSlack().serving() as server:
        yield server


async def once(*events: Event) -> AsyncIterator[Event]:
    for event in events:
        yield event


# --- questions and answers ---


async def test_a_direct_message_is_answered_in_its_thread(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        event = await fake.says(QUESTION)
        shown = await fake.answered()
    assert len(fake.shown) == 1
    assert shown.thread == event["ts"]
    assert shown.text.startswith(f"{ANSWER}\n\n> Sources (1)")
    assert [data.partition(":")[0] for data in shown.data] == ["up", "down"]


async def test_a_status_is_shown_at_once_with_rotating_messages(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake):
        event = await fake.says(QUESTION)
        await fake.answered()
    [status] = fake.called("assistant.threads.setStatus")
    assert status["thread_ts"] == event["ts"]
    assert status["status"] == say("searching", "en")
    assert len(status["loading_messages"]) == 2


async def test_without_statuses_there_is_a_placeholder(tmp_path: Path, fake: FakeSlack) -> None:
    fake.statuses_known = False
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        shown = await fake.answered()
    assert len(fake.shown) == 1
    assert shown.earlier[0] == say("searching", "en")
    assert shown.text.startswith(ANSWER)


async def test_the_text_is_streamed_before_it_is_whole(tmp_path: Path, fake: FakeSlack) -> None:
    gate = asyncio.Event()

    async def slowly() -> AsyncIterator[Event]:
        yield Delta("Wash canvas ")
        await gate.wait()
        yield Delta("shoes by hand in lukewarm water.")
        yield Done(REPLY)

    async with opened(tmp_path, fake) as world:
        showing = asyncio.create_task(world.slack.answers.show(ASKED, slowly()))
        await fake.until(lambda: fake.texts() == ["Wash canvas"])
        gate.set()
        await showing
    [shown] = fake.shown
    assert (shown.streamed, shown.streaming) == (True, False)
    assert shown.text == ANSWER
    assert fake.called("chat.update") == []


async def test_what_replaces_the_text_replaces_the_message(tmp_path: Path, fake: FakeSlack) -> None:
    quoted = Reply("r" * 32, ASKED.conversation_id, "“Word for word.”", Outcome.QUOTED, "en")
    async with opened(tmp_path, fake) as world:
        streamed = asyncio.Event()

        async def events() -> AsyncIterator[Event]:
            yield Delta("Wash canvas ")
            await streamed.wait()
            yield Replaced(quoted.text)
            yield Done(quoted)

        showing = asyncio.create_task(world.slack.answers.show(ASKED, events()))
        await fake.until(lambda: fake.texts() == ["Wash canvas"])
        streamed.set()
        await showing
    [shown] = fake.shown
    assert (shown.text, shown.streaming) == ("“Word for word.”", False)


async def test_a_stream_is_ended_and_followed_by_another_before_slack_ends_it(
    tmp_path: Path, fake: FakeSlack
) -> None:
    steps = [asyncio.Event(), asyncio.Event()]

    async def events() -> AsyncIterator[Event]:
        yield Delta("Wash canvas ")
        await steps[0].wait()
        yield Delta("shoes by ")
        await steps[1].wait()
        yield Done(REPLY)

    async with opened(tmp_path, fake, pace=Pace(append_seconds=0, rotate_seconds=-1)) as world:
        showing = asyncio.create_task(world.slack.answers.show(ASKED, events()))
        await fake.until(lambda: fake.texts() == ["Wash canvas"])
        steps[0].set()
        await fake.until(lambda: fake.texts() == ["Wash canvas", "shoes by"])
        steps[1].set()
        await showing
    assert fake.texts() == ["Wash canvas", "shoes by hand in lukewarm water."]
    assert [bool(shown.blocks) for shown in fake.shown] == [False, True]
    assert not any(shown.streaming for shown in fake.shown)


async def test_a_stream_that_slack_closed_is_finished_by_an_edit(
    tmp_path: Path, fake: FakeSlack
) -> None:
    gate = asyncio.Event()

    async def events() -> AsyncIterator[Event]:
        yield Delta("Wash canvas ")
        await gate.wait()
        yield Done(REPLY)

    async with opened(tmp_path, fake) as world:
        showing = asyncio.create_task(world.slack.answers.show(ASKED, events()))
        await fake.until(lambda: fake.texts() == ["Wash canvas"])
        fake.close_stream(fake.shown[0])
        gate.set()
        await showing
    [shown] = fake.shown
    assert shown.text == ANSWER
    assert len(shown.data) == 2


async def test_without_streams_a_message_grows_by_edits(tmp_path: Path, fake: FakeSlack) -> None:
    fake.streams_known = False
    gate = asyncio.Event()

    async def events() -> AsyncIterator[Event]:
        yield Delta("Wash canvas ")
        await gate.wait()
        yield Done(REPLY)

    async with opened(tmp_path, fake) as world:
        showing = asyncio.create_task(world.slack.answers.show(ASKED, events()))
        await fake.until(lambda: fake.texts() == ["Wash canvas …"])
        gate.set()
        await showing
    assert fake.texts() == [ANSWER]
    assert len(fake.called("chat.postMessage")) == 1


async def test_where_feedback_buttons_are_unknown_ordinary_ones_stand(
    tmp_path: Path, fake: FakeSlack
) -> None:
    fake.feedback_buttons_known = False
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        shown = await fake.answered()
    assert [button["type"] for button in shown.buttons] == ["button", "button"]
    assert [data.partition(":")[0] for data in shown.data] == ["up", "down"]


async def test_a_long_answer_comes_whole_in_several_messages(
    tmp_path: Path, fake: FakeSlack
) -> None:
    paragraph = " ".join([ANSWER] * 40)
    reply = replace(REPLY, text="\n\n".join([paragraph] * 3))
    async with opened(tmp_path, fake) as world:
        await world.slack.answers.show(ASKED, once(Done(reply)))
    assert fake.texts() == [paragraph] * 3
    assert [len(shown.data) for shown in fake.shown] == [0, 0, 2]


async def test_an_answer_shown_again_changes_the_same_messages(
    tmp_path: Path, fake: FakeSlack
) -> None:
    paragraph = " ".join([ANSWER] * 40)
    reply = replace(REPLY, text="\n\n".join([paragraph] * 3))
    async with opened(tmp_path, fake) as world:
        for _ in range(2):
            await world.slack.answers.show(ASKED, once(Done(reply)))
    assert len(fake.called("chat.postMessage")) == 3


async def test_being_told_to_wait_loses_nothing(tmp_path: Path, fake: FakeSlack) -> None:
    fake.refuse("chat.startStream", too_fast(5))
    fake.refuse("chat.postMessage", too_fast(7), too_fast(9))
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
    assert len(fake.shown) == 1
    assert [seconds for seconds in world.clock.slept if seconds >= 7][:2] == [7, 9]


@pytest.mark.parametrize("fault", [Refusal("service_unavailable", 503), None])
async def test_what_is_answered_while_slack_is_away_is_shown_when_it_is_back(
    tmp_path: Path, fake: FakeSlack, fault: Refusal | None
) -> None:
    for method in ("chat.startStream", "chat.postMessage"):
        fake.refuse(method, *[fault] * 12)
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
        assert len(await world.rows(turns.c.reply_id)) == 1
    assert len(fake.shown) == 1


async def test_no_preview_is_ever_asked_for(tmp_path: Path, fake: FakeSlack) -> None:
    fake.statuses_known = False
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        await fake.answered()
    [sent] = fake.called("chat.postMessage")
    assert (sent["unfurl_links"], sent["unfurl_media"]) == (False, False)


async def test_whoever_put_us_out_of_a_channel_is_not_tried_again(
    tmp_path: Path, fake: FakeSlack
) -> None:
    fake.refuse("assistant.threads.setStatus", Refusal("channel_not_found"))
    fake.refuse("chat.postMessage", Refusal("channel_not_found"))
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.until(lambda: bool(fake.called("chat.postMessage")))
        await fake.says(QUESTION, user=BEN, channel=f"D{BEN}")
        await fake.answered()
        states = [row.state for row in await world.rows(inbox.c.state)]
    assert "dead" not in states


# --- channels and threads ---


async def test_a_mention_is_answered_once_in_its_thread(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        event = await fake.mentions("canvas?")
        shown = await fake.answered()
        await fake.mentions("white canvas?")
        await fake.answered(2)
        rows = await world.rows(turns.c.question)
    assert sorted(row.question for row in rows) == ["canvas?", "white canvas?"]
    assert shown.thread == event["ts"]
    assert len(fake.shown) == 2


async def test_a_channel_is_not_answered_without_a_mention(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION, channel=GENERAL)
        await fake.says("edited", channel=GENERAL, subtype="message_changed")
        await fake.mentions("canvas?")
        await fake.answered()
        assert [row.question for row in await world.rows(turns.c.question)] == ["canvas?"]


async def test_in_a_thread_that_asked_us_the_asker_needs_no_mention(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        root = (await fake.mentions("canvas?"))["ts"]
        await fake.answered()
        await fake.says("canvas again?", channel=GENERAL, user=BEN, thread=root)
        await fake.says(f"<@{BEN}> canvas, you know?", channel=GENERAL, thread=root)
        await fake.says("and white canvas?", channel=GENERAL, thread=root)
        await fake.answered(2)
        rows = await world.rows(turns.c.question, turns.c.conversation_id)
    assert [row.question for row in rows] == ["canvas?", "and white canvas?"]
    assert len({row.conversation_id for row in rows}) == 1


async def test_mentioned_in_the_middle_of_a_thread_it_has_read_the_thread(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        root = (await fake.says("My canvas shoes are dirty", channel=GENERAL, user=BEN))["ts"]
        await fake.mentions("how do I wash them?", thread=root)
        await fake.answered()
        [row] = await world.rows(turns.c.question, turns.c.query)
    assert row.question == "how do I wash them?"
    assert "canvas" in row.query


@pytest.mark.parametrize("most_at_once", [1000, 15])
async def test_mentioned_deep_in_a_thread_it_has_read_what_was_said_last(
    tmp_path: Path, fake: FakeSlack, most_at_once: int
) -> None:
    fake.most_at_once = most_at_once
    async with solemate(tmp_path, fake) as world:
        root = (await fake.says("Look at this.", channel=GENERAL, user=BEN))["ts"]
        for number in range(80):
            fake.message(f"Really? {number}", channel=GENERAL, user=BEN, thread=root)
        fake.message("My canvas shoes are dirty", channel=GENERAL, user=BEN, thread=root)
        asked = fake.message(f"<@{BOT_USER}> how do I wash them?", channel=GENERAL, thread=root)
        # What is said after the question, but before it is read, does not belong to it.
        fake.message("My suede boots are dirty", channel=GENERAL, user=BEN, thread=root)
        await fake.send(asked)
        await fake.answered()
        [row] = await world.rows(turns.c.query)
    assert "canvas" in row.query
    assert "suede" not in row.query


async def test_of_a_thread_without_end_no_more_is_read_than_a_bound(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.slack.reading.MOST_PAGES", 3)
    fake.most_at_once = 2
    async with solemate(tmp_path, fake):
        root = (await fake.says("Look at this.", channel=GENERAL, user=BEN))["ts"]
        for number in range(20):
            fake.message(f"Really? {number}", channel=GENERAL, user=BEN, thread=root)
        await fake.mentions(QUESTION, thread=root)
        await fake.answered()
    assert len([one for one in fake.called("conversations.replies") if "latest" in one]) == 3


async def test_the_photo_of_the_thread_belongs_to_the_question(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        photo = fake.file(jpeg())
        root = (
            await fake.says("Look!", channel=GENERAL, user=BEN, subtype="file_share", files=[photo])
        )["ts"]
        await fake.mentions("canvas, is it?", thread=root)
        await fake.answered()
        [row] = await world.rows(turns.c.conversation_id, turns.c.message_id)
        assert len(await world.desk.store.photos_of(row.conversation_id, row.message_id)) == 1


async def test_a_thread_that_may_not_be_read_is_answered_all_the_same(
    tmp_path: Path, fake: FakeSlack
) -> None:
    fake.refuse("conversations.replies", Refusal("missing_scope"))
    async with solemate(tmp_path, fake):
        root = (await fake.says("Dirty shoes", channel=GENERAL, user=BEN))["ts"]
        await fake.mentions("canvas?", thread=root)
        await fake.answered()


async def test_a_direct_message_that_points_back_goes_on_with_the_thread_before(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
        await fake.says("and how do I dry them?")
        await fake.answered(2)
        rows = await world.rows(turns.c.query)
    assert "canvas" in rows[1].query


async def test_strangers_get_one_polite_line_and_no_answer(tmp_path: Path, fake: FakeSlack) -> None:
    model = FakeChatModel([ANSWER])
    guests = Guests(teams=frozenset({TEAM}), channels=frozenset({"C2"}), operators=frozenset({BEN}))
    async with solemate(tmp_path, fake, model, guests=guests):
        for _ in range(2):
            await fake.says(QUESTION, user="UFOREIGN", channel="DFOREIGN", team="T9")
        await fake.mentions("canvas?")
        await fake.mentions("canvas?", user=BEN)
        await fake.answered()
        await fake.says(QUESTION)
        await fake.answered(2)
        await fake.until(lambda: fake.texts("DFOREIGN") != [])
        await fake.until(lambda: any(one.only_for == ANN for one in fake.shown))
    assert fake.texts("DFOREIGN") == [say("stranger", "en")]
    assert len(model.asked) == 2


async def test_edited_and_deleted_messages_do_nothing(tmp_path: Path, fake: FakeSlack) -> None:
    model = FakeChatModel([ANSWER])
    async with solemate(tmp_path, fake, model):
        await fake.says("canvas?")
        await fake.answered()
        for subtype in ("message_changed", "message_deleted", "message_replied"):
            await fake.says("white canvas?", subtype=subtype)
        await fake.says("grey canvas?")
        await fake.answered(2)
        await fake.all_acknowledged()
    assert len(model.asked) == len(fake.shown) == 2


async def test_strangers_votes_do_not_count(tmp_path: Path, fake: FakeSlack) -> None:
    guests = Guests(channels=frozenset({"C2"}), operators=frozenset({BEN}))
    async with solemate(tmp_path, fake, guests=guests) as world:
        await fake.mentions("canvas?", user=BEN)
        shown = await fake.answered()
        await fake.presses(shown.data[0], shown)
        await fake.reacts("thumbsdown", shown)
        await fake.all_acknowledged()
        assert await world.rows(feedback_events.c.user_id) == []
        await fake.reacts("thumbsdown", shown, user=BEN)
        await fake.all_acknowledged()
        assert len(await world.rows(feedback_events.c.user_id)) == 1


@pytest.mark.parametrize("posts", [20, pytest.param(500, marks=pytest.mark.nightly)])
async def test_a_slow_model_holds_up_no_acknowledgement(
    tmp_path: Path, fake: FakeSlack, posts: int
) -> None:
    fake.patience_seconds = 250
    model = HeldChatModel([ANSWER])
    async with solemate(tmp_path, fake, model):
        for _ in range(posts):
            await fake.says(QUESTION)
        await fake.all_acknowledged()
        assert model.asked == []
        model.gate.set()
        await fake.answered(posts)
        await fake.all_acknowledged()
    assert len(fake.shown) == posts


async def test_over_the_limit_there_is_one_friendly_line(tmp_path: Path, fake: FakeSlack) -> None:
    allowance = Allowance(messages_per_minute=1, photos_per_minute=1, messages_per_day=10)
    async with solemate(tmp_path, fake, allowance=allowance):
        await fake.says(QUESTION)
        await fake.answered()
        for _ in range(3):
            await fake.acknowledged(await fake.send(fake.message(QUESTION)))
        await fake.until(lambda: len(fake.shown) == 2)
    assert "busy" in fake.texts()[1]


async def test_a_long_queue_of_one_thread_is_answered_whole(
    tmp_path: Path, fake: FakeSlack
) -> None:
    model = HeldChatModel([ANSWER])
    async with solemate(tmp_path, fake, model, depth=2) as world:
        root = (await fake.mentions("canvas 0?"))["ts"]
        for number in range(1, 6):
            await fake.all_acknowledged()
            await fake.mentions(f"canvas {number}?", thread=root)
        await fake.until(lambda: say("in_line", "en", number=6) in fake.texts(GENERAL))
        model.gate.set()
        await fake.answered(6)
        asked = [row.question for row in await world.rows(turns.c.question)]
    assert asked == [f"canvas {number}?" for number in range(6)]
    assert len(fake.texts(GENERAL)) == 6


async def test_the_answer_is_in_the_chosen_language(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        await fake.opens_home()
        await fake.until(lambda: ANN in fake.homes)
        choice = {"type": "static_select", "action_id": "language"}
        await fake.acts(choice | {"selected_option": {"value": "zh"}})
        await fake.until(lambda: say("home_title", "zh") in str(fake.homes[ANN]))
        await fake.says("hello")
        shown = await fake.answered()
    assert shown.text == say("greeting", "zh")


# --- nothing lost, nothing twice ---


async def test_an_event_is_acknowledged_only_after_its_commit(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        put, acks = world.desk.inbox.put, []

        async def late_put(message: UserMessage) -> bool:
            fresh = await put(message)
            acks.append(list(fake.acks))
            return fresh

        monkeypatch.setattr(world.desk.inbox, "put", late_put)
        async with running(world, answering=False):
            envelope = await fake.send(fake.message(QUESTION))
            await fake.acknowledged(envelope)
    assert acks == [[]]


async def test_what_could_not_be_committed_comes_again(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        submit, failures = world.desk.lanes.submit, [StoreError("full")]

        async def full_disk(message: UserMessage, **more: Any) -> bool:
            if failures:
                raise failures.pop()
            return await submit(message, **more)

        monkeypatch.setattr(world.desk.lanes, "submit", full_disk)
        async with running(world):
            await fake.send_until_acknowledged(fake.message(QUESTION))
            await fake.answered()
    assert failures == []


async def test_a_redelivery_is_answered_once(tmp_path: Path, fake: FakeSlack) -> None:
    body = fake.message(QUESTION)
    async with solemate(tmp_path, fake) as world:
        for retry in range(3):
            await fake.acknowledged(await fake.send(body, retry=retry))
        await fake.says("canvas?", user=BEN, channel=f"D{BEN}")
        await fake.answered(2)
        assert len(await world.rows(turns.c.reply_id)) == 2
    assert len(fake.shown) == 2


async def test_a_redelivery_that_comes_alone_is_answered(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        for number in range(100):
            user = f"U{number}"
            await fake.send(fake.message(QUESTION, user=user, channel=f"D{user}"), retry=1)
        await fake.answered(100)
        await fake.all_acknowledged()
    assert Counter(one.channel for one in fake.shown) == Counter(f"DU{n}" for n in range(100))


@pytest.mark.parametrize("posts", [20, pytest.param(500, marks=pytest.mark.nightly)])
async def test_both_events_of_a_mention_are_one_question_whichever_comes_first(
    tmp_path: Path, fake: FakeSlack, posts: int
) -> None:
    fake.patience_seconds = 250
    async with solemate(tmp_path, fake):
        for number in range(posts):
            await fake.mentions("canvas?", user=f"U{number}", mention_first=number % 2 == 0)
        await fake.answered(posts)
        await fake.all_acknowledged()
    threads = Counter(one.thread for one in fake.shown)
    assert (len(threads), threads.total()) == (posts, posts)


async def test_a_refused_message_that_comes_again_is_refused_once(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.mentions("x" * 4001)
        told = say("text_long", "en", length=4001, limit=4000)
        await fake.until(lambda: told in fake.texts(GENERAL))
        await world.slack.errands.finished()
    assert fake.texts(GENERAL) == [told]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "made_up", "user": ANN},
        {"type": "channel_rename", "channel": {"id": GENERAL}},
        {"type": "message", "subtype": "message_deleted", "channel": GENERAL, "ts": "1.1"},
        {"type": "message", "user": BOT_USER, "channel": f"D{ANN}", "text": "me", "ts": "1.2"},
        {"type": "reaction_added", "user": ANN, "reaction": "+1", "item": {"type": "file"}},
        {"type": "app_home_opened", "user": ANN, "channel": f"D{ANN}", "tab": "messages"},
    ],
)
async def test_every_event_is_acknowledged(
    tmp_path: Path, fake: FakeSlack, event: dict[str, Any]
) -> None:
    async with solemate(tmp_path, fake):
        await fake.acknowledged(await fake.send(fake.body(event)))
    assert fake.shown == []


async def test_fifty_unknown_kinds_of_events_are_acknowledged(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake):
        for number in range(50):
            await fake.send(fake.body({"type": f"made_up_{number}", "user": ANN}))
        await fake.all_acknowledged()
    assert len(set(fake.acks)) == 50
    assert fake.shown == []


async def test_after_a_restart_the_open_stream_becomes_the_answer(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        await world.desk.inbox.put(ASKED)
        add, noted = world.slack.posts.add, asyncio.Event()

        async def noting(conversation_id: str, message_id: str, post: Post) -> None:
            await add(conversation_id, message_id, post)
            if post.kind == "answer":
                noted.set()

        async def interrupted() -> AsyncIterator[Event]:
            yield Delta("Wash canvas ")
            await asyncio.Event().wait()

        monkeypatch.setattr(world.slack.posts, "add", noting)
        showing = asyncio.create_task(world.slack.answers.show(ASKED, interrupted()))
        await noted.wait()
        showing.cancel()
        await asyncio.wait({showing})
    assert fake.shown[0].streaming
    async with solemate(tmp_path, fake):
        shown = await fake.answered()
    assert fake.shown == [shown]
    assert shown.text.startswith(ANSWER)
    assert not shown.streaming


async def test_a_stream_that_a_crash_kept_from_being_noted_becomes_the_answer(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        await world.desk.inbox.put(ASKED)
        add, begun = world.slack.posts.add, asyncio.Event()

        async def killed(conversation_id: str, message_id: str, post: Post) -> None:
            if post.kind == "answer":
                begun.set()
                await asyncio.Event().wait()
            await add(conversation_id, message_id, post)

        async def interrupted() -> AsyncIterator[Event]:
            yield Delta("Wash canvas ")
            await asyncio.Event().wait()

        monkeypatch.setattr(world.slack.posts, "add", killed)
        await world.slack.client.chat_postMessage(
            channel=f"D{ANN}", thread_ts=ASKED.id, text="Something else."
        )
        showing = asyncio.create_task(world.slack.answers.show(ASKED, interrupted()))
        await begun.wait()
        showing.cancel()
        await asyncio.wait({showing})
    other, stream = fake.shown
    assert stream.streaming
    async with solemate(tmp_path, fake):
        assert await fake.answered() is stream
    assert fake.shown == [other, stream]
    assert other.text == "Something else."
    assert stream.text.startswith(ANSWER)
    assert not stream.streaming


async def test_in_a_queue_the_place_of_the_answer_says_so(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:

        async def behind(_: UserMessage) -> int:
            return 3

        monkeypatch.setattr(world.desk.lanes, "behind", behind)
        async with running(world, answering=False):
            await fake.says(QUESTION)
            await fake.until(lambda: fake.texts() == [say("in_line", "en", number=4)])
            await world.slack.errands.finished()
        async with world.desk.lanes.running():
            shown = await fake.answered()
    assert len(fake.shown) == 1
    assert shown.text.startswith(ANSWER)


async def test_a_lost_socket_is_made_anew(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
        await fake.drop_sockets()
        await fake.says(QUESTION, user=BEN, channel=f"D{BEN}")
        await fake.answered(2)
        assert world.intake.status.problem == ""


async def test_a_socket_that_slack_refreshes_goes_on(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        await fake.answered()
        await fake.disconnect()
        await fake.until(lambda: len(fake.sockets) == 2)
        await fake.says(QUESTION, user=BEN, channel=f"D{BEN}")
        await fake.answered(2)


async def test_a_refused_token_is_told_and_ends_nothing(tmp_path: Path, fake: FakeSlack) -> None:
    fake.refuse("auth.test", Refusal("invalid_auth"), Refusal("invalid_auth"), None)
    async with opened(tmp_path, fake) as world:
        assert world.intake.status.problem
        async with running(world):
            await fake.until(lambda: len(fake.called("auth.test")) == 2)
            assert "SLACK_BOT_TOKEN" in world.intake.status.problem
            await fake.says(QUESTION)
            await fake.answered()
            assert world.intake.status.problem == ""


async def test_a_missing_secret_is_said_at_once(tmp_path: Path, fake: FakeSlack) -> None:
    with pytest.raises(ConfigError, match="SLACK_APP_TOKEN"):
        async with opened(tmp_path, fake, app_token=""):
            pass


# --- signed requests ---


async def test_a_signed_request_is_answered(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake, mode="http") as world:
        request = fake.signed(fake.message(QUESTION), time.time())
        response = await world.post(*request)
        assert response.status_code == 200
        await fake.answered()


async def test_a_replayed_request_has_one_effect(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake, mode="http") as world:
        request = fake.signed(fake.message(QUESTION), time.time())
        for _ in range(100):
            assert (await world.post(*request)).status_code == 200
        await fake.answered()
        assert len(await world.rows(turns.c.reply_id)) == 1
    assert len(fake.shown) == 1


async def test_slacks_challenge_is_returned(tmp_path: Path, fake: FakeSlack) -> None:
    challenge = {"type": "url_verification", "challenge": "c123"}
    async with opened(tmp_path, fake, mode="http") as world:
        response = await world.post(*fake.signed(challenge, time.time()))
    assert response.json() == {"challenge": "c123"}


@pytest.mark.parametrize("kind", ["shortcut", "message_action", "block_suggestion", "brand_new"])
async def test_a_signed_request_of_another_kind_is_acknowledged(
    tmp_path: Path, fake: FakeSlack, kind: str
) -> None:
    body = {"type": kind, "callback_id": "c", "action_id": "a", "block_id": "b", "value": "words"}
    body |= {"team": {"id": TEAM}, "user": {"id": ANN}, "trigger_id": "t"}
    async with solemate(tmp_path, fake, mode="http") as world:
        response = await world.post(*fake.signed(body, time.time()))
    assert response.status_code == 200


async def test_a_slash_command_is_acknowledged(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake, mode="http") as world:
        command = {"command": "/shoes", "text": "words", "team_id": TEAM, "user_id": ANN}
        response = await world.post(*fake.signed_form(command, time.time()))
    assert response.status_code == 200


async def test_slack_holding_back_events_is_noted(tmp_path: Path, fake: FakeSlack) -> None:
    body = {"type": "app_rate_limited", "team_id": TEAM, "minute_rate_limited": 1_790_000_040}
    async with solemate(tmp_path, fake, mode="http") as world:
        with capture_logs() as logged:
            response = await world.post(*fake.signed(body, time.time()))
    assert response.status_code == 200
    [line] = [one for one in logged if one["log_level"] == "warning"]
    assert (line["event"], line["minute"]) == ("events_held_back", 1_790_000_040)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Slack-Signature", "v0=" + "0" * 64),
        ("X-Slack-Signature", ""),
        ("X-Slack-Signature", "v0=é"),
        ("X-Slack-Request-Timestamp", "soon"),
        ("X-Slack-Request-Timestamp", "1e9"),
        ("X-Slack-Request-Timestamp", "-1"),
        ("X-Slack-Request-Timestamp", "9" * 400),
        ("X-Slack-Request-Timestamp", ""),
        ("X-Slack-Request-Timestamp", None),
        ("X-Slack-Signature", None),
    ],
)
async def test_a_request_with_odd_headers_is_not_slacks(
    tmp_path: Path, fake: FakeSlack, header: str, value: str | None
) -> None:
    async with opened(tmp_path, fake, mode="http") as world:
        body, headers = fake.signed(fake.message(QUESTION), time.time())
        del headers[header]
        if value is not None:
            headers[header] = value.encode()
        response = await world.post(body, headers)
        assert await world.rows(inbox.c.message_id) == []
    assert response.status_code == 401


@pytest.mark.parametrize(("age", "status"), [(299, 200), (301, 401), (-299, 200), (-301, 401)])
async def test_a_request_is_good_for_five_minutes(
    tmp_path: Path, fake: FakeSlack, age: int, status: int
) -> None:
    async with opened(tmp_path, fake, mode="http") as world:
        challenge = {"type": "url_verification", "challenge": "c123"}
        response = await world.post(*fake.signed(challenge, time.time() - age))
    assert response.status_code == status


async def test_a_body_that_is_no_text_or_too_large_is_refused(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with opened(tmp_path, fake, mode="http") as world:
        _, headers = fake.signed(fake.message(QUESTION), time.time())
        assert (await world.post(b"\xff\xfe", headers)).status_code == 401
        assert (await world.post(b"x" * 1_000_001, headers)).status_code == 413


# --- photos ---


async def test_a_photo_alone_is_asked_about_in_the_persons_language(
    tmp_path: Path, fake: FakeSlack
) -> None:
    fake.locales[ANN] = "zh-CN"
    async with solemate(tmp_path, fake):
        await fake.says(subtype="file_share", files=[fake.file(jpeg())])
        shown = await fake.answered()
    assert say("photo_question", "zh") in shown.text
    [seen] = fake.tokens_seen
    assert seen[1] == f"Bearer {BOT_TOKEN}"


async def test_the_text_beside_a_photo_is_the_question(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        files = [fake.file(jpeg()), fake.file(jpeg(50))]
        await fake.says(QUESTION, subtype="file_share", files=files)
        await fake.answered()
        [row] = await world.rows(turns.c.conversation_id, turns.c.message_id, turns.c.question)
        assert row.question == QUESTION
        assert len(await world.desk.store.photos_of(row.conversation_id, row.message_id)) == 2


async def test_a_redirect_inside_slack_is_followed_with_the_token(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake):
        photo = fake.file(jpeg())
        fake.files["grid"] = photo["url_private_download"]
        moved = photo | {"url_private_download": f"{fake.address}/grid"}
        await fake.says(QUESTION, subtype="file_share", files=[moved])
        await fake.answered()
    assert [token for _, token in fake.tokens_seen] == [f"Bearer {BOT_TOKEN}"] * 2


async def test_the_token_goes_to_no_other_host(tmp_path: Path, fake: FakeSlack) -> None:
    async with FakeSlack().serving() as evil, solemate(tmp_path, fake):
        fake.files["moved"] = f"{evil.address}/photo"
        for address in (f"{fake.address}/moved", f"{evil.address}/photo"):
            photo = fake.file(jpeg()) | {"url_private_download": address}
            await fake.says(QUESTION, subtype="file_share", files=[photo])
        told = say("photo_not_fetched", "en")
        await fake.until(lambda: fake.texts() == [told, told])
        assert evil.tokens_seen == []


async def test_a_sign_in_page_is_no_photo(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        page = fake.file(b"<!DOCTYPE html>", "text/html") | {"mimetype": "image/jpeg"}
        await fake.says(QUESTION, subtype="file_share", files=[page])
        await fake.until(lambda: fake.texts() == [say("photo_not_fetched", "en")])


async def test_a_page_that_calls_itself_a_photo_is_none(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        page = fake.file(b"<!DOCTYPE html><p>Sign in</p>")
        await fake.says(QUESTION, subtype="file_share", files=[page])
        await fake.until(lambda: fake.texts() == [say("photo_format", "en")])


async def test_redirects_end(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        fake.files["round"] = f"{fake.address}/round"
        photo = fake.file(jpeg()) | {"url_private_download": f"{fake.address}/round"}
        await fake.says(QUESTION, subtype="file_share", files=[photo])
        await fake.until(lambda: fake.texts() == [say("photo_not_fetched", "en")])
    assert len(fake.tokens_seen) == 4


async def test_a_photo_that_is_too_large_is_refused_unfetched(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake):
        photo = fake.file(jpeg()) | {"size": 200_001}
        await fake.says(QUESTION, subtype="file_share", files=[photo])
        await fake.until(lambda: fake.texts() == [say("photo_large", "en")])
    assert fake.tokens_seen == []


async def test_a_photo_that_is_larger_than_slack_said_is_refused(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake):
        photo = fake.file(b"\xff\xd8\xff" + b"x" * 300_000) | {"size": 10}
        await fake.says(QUESTION, subtype="file_share", files=[photo])
        await fake.until(lambda: fake.texts() == [say("photo_large", "en")])


async def test_what_is_no_photo_is_refused_kindly(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        await fake.says(subtype="file_share", files=[fake.file(b"ID3", "audio/mpeg")])
        await fake.until(lambda: fake.texts() == [say("text_or_photo", "en")])


# --- verdicts ---


async def test_a_thumb_up_is_stored_and_thanked_for_quietly(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.mentions("canvas?")
        shown = await fake.answered()
        await fake.presses(shown.data[0], shown)
        await fake.until(lambda: len(fake.shown) == 2)
        verdict = await world.verdict(reply_id(shown.data))
    assert verdict is not None
    assert verdict.rating is Rating.UP
    assert (fake.shown[1].only_for, fake.shown[1].text) == (ANN, say("feedback_thanks", "en"))


async def test_a_press_is_acknowledged_only_when_it_is_stored(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, fake) as world:
        rate, acks = world.desk.engine.rate, []

        async def watched_rate(feedback: Feedback, **more: Any) -> bool:
            counts = await rate(feedback, **more)
            acks.append(len(fake.acks))
            return counts

        monkeypatch.setattr(world.desk.engine, "rate", watched_rate)
        async with running(world):
            await fake.says(QUESTION)
            shown = await fake.answered()
            await fake.all_acknowledged()
            before = len(fake.acks)
            await fake.presses(shown.data[0], shown)
            await fake.all_acknowledged()
    assert acks == [before]


async def test_a_thumb_down_is_stored_before_the_form_asks_why(
    tmp_path: Path, fake: FakeSlack
) -> None:
    fake.refuse("views.open", Refusal("expired_trigger_id"))
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.presses(shown.data[1], shown)
        await fake.until(lambda: bool(fake.called("views.open")))
        verdict = await world.verdict(reply_id(shown.data))
    assert verdict == Feedback(reply_id(shown.data), ASKED.user_id, Rating.DOWN)


async def test_the_form_brings_a_reason_and_a_correction(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.presses(shown.data[1], shown)
        await fake.until(lambda: len(fake.views) == 1)
        await fake.sends_form(fake.views[0], reason="wrong_facts", correction="Brush them.")
        await fake.until(lambda: say("correction_thanks", "en") in fake.texts())
        verdict = await world.verdict(reply_id(shown.data))
    assert verdict == Feedback(
        reply_id(shown.data),
        ASKED.user_id,
        Rating.DOWN,
        Reason.WRONG_FACTS,
        correction="Brush them.",
    )


async def test_a_form_without_a_thumb_before_it_counts_for_nothing(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        form = {"type": "modal", "callback_id": "reason"}
        forged = form | {"private_metadata": reply_id(shown.data)}
        await fake.sends_form(forged, correction="Mine.", user=BEN)
        await fake.all_acknowledged()
        assert await world.verdict(reply_id(shown.data), BEN) is None


async def test_an_answer_from_elsewhere_cannot_be_rated_here(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.presses(shown.data[0], shown, user=BEN, channel=GENERAL)
        await fake.all_acknowledged()
        assert await world.verdict(reply_id(shown.data), BEN) is None


async def test_the_last_thumb_counts_and_a_replay_of_the_first_does_not(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        up = await fake.presses(shown.data[0], shown)
        await fake.presses(shown.data[1], shown)
        await fake.until(lambda: len(fake.views) == 1)
        await fake.acknowledged(await fake.send(up, "interactive"))
        verdict = await world.verdict(reply_id(shown.data))
        assert len(await world.rows(feedback_events.c.id)) == 2
    assert verdict is not None
    assert verdict.rating is Rating.DOWN


@pytest.mark.parametrize(
    ("name", "rating"),
    [("+1", Rating.UP), ("thumbsdown", Rating.DOWN), ("-1::skin-tone-3", Rating.DOWN)],
)
async def test_an_emoji_counts_like_a_thumb(
    tmp_path: Path, fake: FakeSlack, name: str, rating: Rating
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.reacts("fire", shown)
        await fake.reacts(name, shown)
        await fake.all_acknowledged()
        verdict = await world.verdict(reply_id(shown.data))
    assert verdict is not None
    assert verdict.rating is rating


async def test_an_emoji_taken_off_takes_its_thumb_back(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        reply, counted = reply_id(shown.data), []
        for name, taken_off in [("+1", False), ("-1", False), ("-1", True), ("+1", True)]:
            await fake.reacts(name, shown, taken_off=taken_off)
            await fake.all_acknowledged()
            verdict = await world.verdict(reply)
            counted.append(verdict and verdict.rating)
    assert counted == [Rating.UP, Rating.DOWN, Rating.UP, None]


async def test_an_emoji_taken_off_is_gone_though_its_coming_is_told_last(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        put_on = await fake.reacts("-1", shown, later=True)
        await fake.reacts("-1", shown, taken_off=True)
        await fake.all_acknowledged()
        await fake.send(put_on)
        await fake.all_acknowledged()
        await world.slack.errands.finished()
        assert await world.verdict(reply_id(shown.data)) is None
    assert fake.shown == [shown]


async def test_an_emoji_put_on_again_stays_though_its_going_is_told_last(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.reacts("+1", shown)
        taken_off = await fake.reacts("+1", shown, taken_off=True, later=True)
        await fake.reacts("+1", shown)
        await fake.all_acknowledged()
        await fake.send(taken_off)
        await fake.all_acknowledged()
        verdict = await world.verdict(reply_id(shown.data))
    assert verdict is not None
    assert verdict.rating is Rating.UP


async def test_an_emoji_taken_off_leaves_the_thumb_that_was_pressed_since(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        for _ in range(2):
            await fake.reacts("+1", shown)
            await fake.all_acknowledged()
            await fake.presses(shown.data[0], shown)
            await fake.all_acknowledged()
            await fake.reacts("+1", shown, taken_off=True)
            await fake.all_acknowledged()
        reply = reply_id(shown.data)
        assert await world.verdict(reply) == Feedback(reply, person(), Rating.UP)


async def test_after_an_emoji_down_a_button_opens_the_form(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        await fake.mentions("canvas?")
        shown = await fake.answered()
        await fake.reacts("-1", shown)
        await fake.until(lambda: len(fake.shown) == 2)
        asking: Shown = fake.shown[1]
        assert asking.only_for == ANN
        await fake.presses(asking.data[0], asking)
        await fake.until(lambda: len(fake.views) == 1)


async def test_the_button_that_asks_why_casts_no_thumb(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.mentions("canvas?")
        shown = await fake.answered()
        await fake.reacts("-1", shown)
        await fake.until(lambda: len(fake.shown) == 2)
        await fake.reacts("-1", shown, taken_off=True)
        await fake.all_acknowledged()
        await fake.presses(fake.shown[1].data[0], fake.shown[1])
        await fake.until(lambda: say("not_your_thumb", "en") in fake.texts(GENERAL))
        assert await world.verdict(reply_id(shown.data)) is None
    assert fake.views == []


async def test_a_form_does_not_turn_a_thumb_up_round(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.presses(shown.data[1], shown)
        await fake.until(lambda: len(fake.views) == 1)
        await fake.presses(shown.data[0], shown)
        await fake.all_acknowledged()
        await fake.sends_form(fake.views[0], reason="tone")
        await fake.until(lambda: say("not_your_thumb", "en") in fake.texts())
        reply = reply_id(shown.data)
        assert await world.verdict(reply) == Feedback(reply, person(), Rating.UP)


# --- the Home tab ---


async def test_home_shows_what_became_of_corrections(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        await fake.opens_home()
        await fake.until(lambda: say("home_no_corrections", "en") in str(fake.homes.get(ANN)))
        await fake.says(QUESTION)
        shown = await fake.answered()
        await fake.presses(shown.data[1], shown)
        await fake.until(lambda: len(fake.views) == 1)
        await fake.sends_form(fake.views[0], correction="Brush them.")
        await fake.until(lambda: say("correction_thanks", "en") in fake.texts())
        await fake.opens_home()
        await fake.until(lambda: "Brush them." in str(fake.homes[ANN]))
    assert say("correction_noted", "en") in str(fake.homes[ANN])
    assert "30 days" in str(fake.homes[ANN])


async def test_the_messages_tab_offers_questions(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake):
        await fake.opens_home(tab="messages")
        await fake.until(lambda: bool(fake.called("assistant.threads.setSuggestedPrompts")))


async def test_forgetting_deletes_all_of_one_person(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.says(QUESTION, user=BEN, channel=f"D{BEN}")
        await fake.answered(2)
        await fake.acts({"type": "button", "action_id": "forget"})
        await fake.until(lambda: say("home_forgotten", "en") in str(fake.homes.get(ANN)))
        rows = await world.rows(turns.c.user_id)
    assert [row.user_id for row in rows] == [person(BEN)]


async def test_forgetting_ends_an_answer_under_way(tmp_path: Path, fake: FakeSlack) -> None:
    model = HeldChatModel([ANSWER])
    async with solemate(tmp_path, fake, model) as world:
        await fake.says(QUESTION)
        await model.waiting.wait()
        await fake.acts({"type": "button", "action_id": "forget"})
        model.gate.set()
        await fake.until(lambda: ANN in fake.homes)
        assert await world.rows(turns.c.user_id) == []


async def test_forgetting_is_acknowledged_only_when_it_is_committed(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged: list[int] = []

    async def watched(*args: Any, **more: Any) -> object:
        done = await erase(*args, **more)
        acknowledged.append(len(fake.acks))
        return done

    monkeypatch.setattr("bots.slack.front.erase", watched)
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
        await fake.all_acknowledged()
        before = len(fake.acks)
        await fake.acts({"type": "button", "action_id": "forget"})
        await fake.all_acknowledged()
        assert await world.rows(turns.c.user_id) == []
    assert acknowledged == [before]


async def test_what_could_not_be_forgotten_is_told_and_can_be_tried_again(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [StoreError("full")]

    async def full_disk(*args: Any, **more: Any) -> object:
        if failures:
            raise failures.pop()
        return await erase(*args, **more)

    monkeypatch.setattr("bots.slack.front.erase", full_disk)
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        await fake.answered()
        await fake.all_acknowledged()
        before = len(fake.acks)
        body = await fake.acts({"type": "button", "action_id": "forget"})
        await fake.until(lambda: say("not_forgotten_now", "en") in str(fake.homes.get(ANN)))
        assert "forget" in [one["action_id"] for one in home_buttons(fake)]
        assert len(fake.acks) == before
        assert len(await world.rows(turns.c.user_id)) == 1
        # The same press again: it was not noted as taken.
        await fake.acknowledged(await fake.send(body, "interactive"))
        await fake.until(lambda: say("home_forgotten", "en") in str(fake.homes.get(ANN)))
        assert await world.rows(turns.c.user_id) == []


def home_buttons(fake: FakeSlack) -> list[dict[str, Any]]:
    blocks = fake.homes[ANN]["blocks"]
    return [one for block in blocks for one in block.get("elements", [])]


async def test_no_row_knows_a_person_by_their_slack_name(tmp_path: Path, fake: FakeSlack) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.mentions("canvas?")
        shown = await fake.answered()
        await fake.presses(shown.data[0], shown)
        await fake.until(lambda: len(fake.shown) == 2)
        store: Store = world.desk.store
        rows = [*await world.rows(turns.c.user_id), *await world.rows(feedback_events.c.user_id)]
        assert store is not None
    assert rows
    assert all(ANN not in row[0] for row in rows)


# --- the operator ---


async def test_the_doctor_knows_the_bot_and_its_workspace(fake: FakeSlack) -> None:
    found = await examine_slack(access_to(fake))
    assert (found.health, found.found) == (Health.OK, "@solemate in Shoes, by socket")


async def test_the_doctor_finds_a_refused_token_and_a_silent_slack(fake: FakeSlack) -> None:
    fake.refuse("auth.test", Refusal("invalid_auth"))
    refused = await examine_slack(access_to(fake))
    assert (refused.health, "invalid_auth" in refused.found) == (Health.ILL, True)
    nowhere = replace(access_to(fake), base_url="http://127.0.0.1:9/api/")
    assert (await examine_slack(nowhere)).health is Health.WARNING


async def test_the_doctor_names_missing_scopes(fake: FakeSlack) -> None:
    fake.scopes = "chat:write,im:history"
    found = await examine_slack(access_to(fake))
    assert (found.health, "app_mentions:read" in found.found) == (Health.ILL, True)


# --- two answers to compare ---


async def test_whoever_switches_duels_off_in_home_or_where_they_stand_is_not_asked(
    tmp_path: Path, fake: FakeSlack
) -> None:
    model = FakeChatModel([ANSWER, OTHER])
    async with solemate(tmp_path, fake, model, duels=ALWAYS) as world:
        await fake.says(QUESTION)
        await fake.until(lambda: any("duel_off" in one.data for one in fake.shown))
        shown = next(one for one in fake.shown if "duel_off" in one.data)
        await fake.presses("duel_off", shown)
        await fake.until(lambda: not shown.data)
        wishes = world.desk.store.wishes_of
        assert await wishes(person()) == Wishes(duels=False)
        await fake.opens_home()
        await fake.until(lambda: ANN in fake.homes)
        action = {"type": "checkboxes", "action_id": "wishes"}
        await fake.acts(action | {"selected_options": [{"value": "duels"}]})
        await fake.all_acknowledged()
        assert await wishes(person()) == Wishes(tell=False)


async def test_in_a_channel_the_asker_alone_sees_what_there_is_to_compare(
    tmp_path: Path, fake: FakeSlack
) -> None:
    model = FakeChatModel([ANSWER, OTHER])
    async with solemate(tmp_path, fake, model, duels=ALWAYS) as world:
        await fake.mentions(QUESTION)
        await fake.until(lambda: any("duel_off" in one.data for one in fake.shown))
        shown = next(one for one in fake.shown if "duel_off" in one.data)
        assert shown.only_for == ANN
        await fake.presses(shown.data[0], shown, user=BEN)
        await fake.presses(shown.data[0], shown)
        await fake.until(lambda: say("duel_thanks", "en") in fake.texts(GENERAL))
        [row] = await world.rows(duels.c.user_id, duels.c.winner)
    assert row.user_id == person()
    assert row.winner in (Winner.FIRST, Winner.SECOND)


async def test_whoever_taught_something_is_told_once_in_a_direct_message(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with solemate(tmp_path, fake) as world:
        await fake.says(QUESTION)
        answer = await fake.answered()
        store, notices = world.desk.store, Notices(world.desk.store)
        await teach(store, reply_id(answer.data), person(), "Brush <!channel>.")
        for _ in range(2):
            await Telling(notices, store, {}).tell_all(Platform.SLACK, world.slack.teller)
        await fake.until(lambda: any("Brush" in text for text in fake.texts()))
        [told] = [text for text in fake.texts() if say("taught_me", "en") in text]
        assert "<!channel>" not in told
        await fake.opens_home()
        learned = say("correction_live", "en")
        await fake.until(lambda: learned in str(fake.homes.get(ANN)))
