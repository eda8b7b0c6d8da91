"""Slack does what it is asked and answers with an error, or not at all: nothing stands twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bots.slack.show import Pace
from core.errors import PlatformAway
from core.messages import Delta, Done, Event, Outcome, Platform, Reply, UserMessage
from core.posts import Post
from tests.bots.desks import ANSWER
from tests.bots.slack_fake import ANN, TEAM, FakeSlack, Refusal
from tests.bots.slack_world import World, opened, person, solemate

QUESTION = "How do I wash canvas shoes?"
TS = "1790000000.000000"
ROOM = f"slack:{TEAM}:D{ANN}"
ASKED = UserMessage(TS, Platform.SLACK, f"{ROOM}:{TS}", person(), QUESTION)
PARAGRAPH = " ".join([ANSWER] * 40)
REPLY = Reply("r" * 32, ASKED.conversation_id, ANSWER, Outcome.ANSWERED, "en")
LONG = replace(REPLY, text="\n\n".join([PARAGRAPH] * 3))
AWAY = Refusal("service_unavailable", 503)
LOST = pytest.mark.parametrize("answer", [AWAY, Refusal("internal_error"), None])


@pytest.fixture
async def fake() -> AsyncIterator[FakeSlack]:
    async with FakeSlack().serving() as server:
        yield server


async def events(*some: Event) -> AsyncIterator[Event]:
    for event in some:
        yield event


async def shown_at_last(world: World, reply: Reply, *before: Event) -> int:
    """Show an answer as often as it takes; how often that was."""
    for tries in range(1, 5):
        try:
            await world.slack.answers.show(ASKED, events(*before, Done(reply)))
        except PlatformAway:
            continue
        return tries
    raise AssertionError("never shown")


@LOST
async def test_a_placeholder_that_slack_denies_is_found_and_becomes_the_answer(
    tmp_path: Path, fake: FakeSlack, answer: Refusal | None
) -> None:
    fake.statuses_known = False
    fake.lose("chat.postMessage", answer)
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        shown = await fake.answered()
    assert fake.shown == [shown]
    assert shown.text.startswith(ANSWER)


@LOST
async def test_a_stream_that_slack_denies_is_found_and_becomes_the_answer(
    tmp_path: Path, fake: FakeSlack, answer: Refusal | None
) -> None:
    fake.lose("chat.startStream", answer)
    async with solemate(tmp_path, fake):
        await fake.says(QUESTION)
        shown = await fake.answered()
    assert fake.shown == [shown]
    assert not shown.streaming


@LOST
@pytest.mark.parametrize("number", [0, 1, 2])
async def test_no_part_of_a_long_answer_stands_twice(
    tmp_path: Path, fake: FakeSlack, answer: Refusal | None, number: int
) -> None:
    async with opened(tmp_path, fake) as world:
        posted, post = 0, world.slack.client.chat_postMessage

        async def losing(**values: object) -> object:
            nonlocal posted
            if posted == number:
                fake.lose("chat.postMessage", answer)
            posted += 1
            return await post(**values)  # type: ignore[arg-type]

        world.slack.client.chat_postMessage = losing  # type: ignore[method-assign,assignment]
        assert await shown_at_last(world, LONG) == 2
    assert fake.texts() == [PARAGRAPH] * 3
    assert [len(one.data) for one in fake.shown] == [0, 0, 2]


async def test_a_second_stream_that_slack_denies_is_not_left_behind(
    tmp_path: Path, fake: FakeSlack
) -> None:
    """The first is ended before Slack would end it, and where the second stands is not known."""

    async def growing() -> AsyncIterator[Event]:
        yield Delta("Wash canvas ")
        await fake.until(lambda: fake.texts() == ["Wash canvas"])
        fake.lose("chat.startStream", AWAY)
        yield Delta("shoes by hand ")
        await fake.until(lambda: len(fake.called("chat.startStream")) == 2)
        yield Done(REPLY)

    pace = Pace(append_seconds=0, rotate_seconds=-1)
    async with opened(tmp_path, fake, pace=pace) as world:
        await world.slack.answers.show(ASKED, growing())
    assert fake.texts() == [ANSWER]
    assert not fake.shown[0].streaming


async def test_where_the_thread_may_not_be_read_the_answer_is_given_twice_and_not_lost(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with opened(tmp_path, fake) as world:
        fake.lose("chat.postMessage", AWAY)
        fake.refuse("conversations.replies", Refusal("missing_scope"))
        assert await shown_at_last(world, REPLY) == 2
    assert fake.texts() == [ANSWER] * 2


async def test_while_the_thread_cannot_be_read_nothing_is_posted_again(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with opened(tmp_path, fake) as world:
        fake.lose("chat.postMessage", AWAY)
        fake.refuse("conversations.replies", *[AWAY] * 5)
        assert await shown_at_last(world, REPLY) == 3
    assert fake.texts() == [ANSWER]


async def test_what_was_posted_for_another_question_is_left_alone(
    tmp_path: Path, fake: FakeSlack
) -> None:
    """A stranger's, one that says nothing, and one of ours that belongs elsewhere."""
    async with opened(tmp_path, fake) as world:
        post = world.slack.client.chat_postMessage
        for mark in (
            None,
            {"event_type": "theirs", "event_payload": {"message": TS, "position": 0}},
            {"event_type": "solemate_answer", "event_payload": {"message": "1.2", "position": 0}},
        ):
            await post(channel=f"D{ANN}", thread_ts=TS, text="Something else.", metadata=mark)
        fake.lose("chat.postMessage", AWAY)
        assert await shown_at_last(world, REPLY) == 2
    assert fake.texts() == ["Something else."] * 3 + [ANSWER]


async def test_a_message_says_what_it_is_and_nothing_of_what_was_asked(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with opened(tmp_path, fake) as world:
        await world.slack.answers.show(ASKED, events(Done(LONG)))
    assert [one.metadata["event_payload"] for one in fake.shown] == [
        {"message": TS, "position": number} for number in range(3)
    ]


async def test_nothing_is_looked_for_where_nothing_went_astray(
    tmp_path: Path, fake: FakeSlack
) -> None:
    async with opened(tmp_path, fake) as world:
        for _ in range(2):
            await world.slack.answers.show(ASKED, events(Delta("Wash "), Done(LONG)))
        assert await world.slack.posts.of(ASKED.conversation_id, TS) == [
            Post(ROOM, one.ts, position=number) for number, one in enumerate(fake.shown)
        ]
    assert fake.called("conversations.replies") == []
