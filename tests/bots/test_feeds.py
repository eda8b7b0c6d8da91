"""Feeds: an answer can be watched by many, from its beginning, before, during and after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from bots.feeds import Feed, Feeds
from core.errors import ImageRejected, SolemateError
from core.messages import (
    Delta,
    Done,
    Event,
    Outcome,
    Platform,
    Queued,
    Replaced,
    Reply,
    UserMessage,
)

DONE = Done(Reply("r1", "c", "Hello there.", Outcome.ANSWERED, "en"))
ANSWER = (Delta("Hello "), Delta("there."), DONE)
MESSAGE = UserMessage("m1", Platform.API, "c", "api:c", "hi")


async def made(events: Sequence[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


async def seen_by_a_watcher(feed: Feed) -> list[Event]:
    return [event async for event in feed.follow()]


async def test_a_watcher_sees_events_as_they_come() -> None:
    feed = Feed()
    events = feed.follow()
    for event in ANSWER:
        await feed.add(event)
        assert await anext(events) == event
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_a_late_watcher_sees_the_answer_from_its_beginning() -> None:
    feed = Feed()
    for event in ANSWER:
        await feed.add(event)
    assert await seen_by_a_watcher(feed) == list(ANSWER)


async def test_many_watchers_see_the_same() -> None:
    feed = Feed()
    async with asyncio.TaskGroup() as tasks:
        watchers = [tasks.create_task(seen_by_a_watcher(feed)) for _ in range(5)]
        for event in ANSWER:
            await feed.add(event)
    assert [watcher.result() for watcher in watchers] == [list(ANSWER)] * 5


async def test_a_watcher_that_leaves_does_not_stop_the_others() -> None:
    feed = Feed()
    leaving = asyncio.create_task(anext(feed.follow()))
    staying = asyncio.create_task(seen_by_a_watcher(feed))
    await asyncio.sleep(0)
    leaving.cancel()
    for event in ANSWER:
        await feed.add(event)
    assert await staying == list(ANSWER)


async def test_a_failed_answer_raises_for_every_watcher() -> None:
    feed = Feed()
    await feed.add(Delta("Hel"))
    await feed.fail(ImageRejected("no", code="photo_broken"))
    for _ in range(2):
        with pytest.raises(ImageRejected):
            await seen_by_a_watcher(feed)


async def test_a_second_attempt_throws_away_what_the_first_one_showed() -> None:
    feeds = Feeds()
    feed = feeds.open("c", "m1")
    await feed.add(Delta("Half an ans"))
    await feeds.show(MESSAGE, made(ANSWER))
    assert await seen_by_a_watcher(feed) == [Delta("Half an ans"), Replaced(""), *ANSWER]


async def test_a_number_in_the_queue_stands_until_the_answer_begins() -> None:
    feeds = Feeds()
    feed = feeds.open("c", "m1")
    await feed.queue(4)
    await feeds.show(MESSAGE, made(ANSWER))
    assert await seen_by_a_watcher(feed) == [Queued(4), Replaced(""), *ANSWER]


async def test_an_answer_that_has_begun_has_no_number_in_the_queue() -> None:
    feed = Feed()
    for event in ANSWER:
        await feed.add(event)
        await feed.queue(4)
    assert await seen_by_a_watcher(feed) == list(ANSWER)


async def test_an_apology_ends_the_feed_without_the_cause() -> None:
    feeds = Feeds()
    await feeds.apologise(MESSAGE, None)
    feed = feeds.find("c", "m1")
    assert feed is not None
    with pytest.raises(SolemateError):
        await seen_by_a_watcher(feed)


async def test_feeds_are_told_apart_by_conversation() -> None:
    feeds = Feeds()
    await feeds.show(MESSAGE, made(ANSWER))
    assert feeds.find("other", "m1") is None


async def test_a_finished_answer_is_kept_for_a_while_and_then_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feeds = Feeds()
    await feeds.show(MESSAGE, made(ANSWER))
    assert feeds.find("c", "m1") is not None
    monkeypatch.setattr("bots.feeds.KEEP_SECONDS", 0.0)
    later = UserMessage("m2", Platform.API, "c", "api:c", "hi")
    await feeds.show(later, made(ANSWER))
    forgotten = asyncio.Event()
    asyncio.get_running_loop().call_later(0.0, forgotten.set)
    await forgotten.wait()
    assert feeds.find("c", "m2") is None
