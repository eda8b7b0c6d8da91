"""Over a backlog whoever asks over the web is told their number, and answered all the same."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from bots.feeds import Feed
from bots.web.api import ApiOptions, create_api
from core.messages import Done, Event, Platform, Queued, Replaced, UserMessage
from tests.bots.desks import ANSWER, open_desk

QUESTION = "How do I wash canvas shoes?"
OPTIONS = ApiOptions("solemate", 200, "http://127.0.0.1:8080")


def message(number: int, platform: Platform) -> UserMessage:
    return UserMessage(f"m{number}", platform, f"c{number}", f"p{number}", QUESTION)


@pytest.mark.parametrize("platform", [Platform.WEB, Platform.API])
async def test_a_message_over_a_backlog_is_told_its_number_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Platform
) -> None:
    monkeypatch.setattr("bots.lanes.BACKLOG_SECONDS", -1.0)
    async with open_desk(tmp_path) as desk:
        asked = [await desk.ask(message(number, platform)) for number in range(3)]
        async with desk.lanes.running():
            seen: list[list[Event]] = [[event async for event in events] for events in asked]
    assert [events[0] for events in seen[1:]] == [Queued(2), Queued(3)]
    assert [event for event in seen[0] if isinstance(event, Queued)] == []
    for events in seen:
        [done] = [event for event in events if isinstance(event, Done)]
        assert done.reply.text == ANSWER
    assert [events[1] for events in seen[1:]] == [Replaced("")] * 2


async def test_a_message_that_nobody_is_before_is_told_nothing(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        asked = [await desk.ask(message(number, Platform.WEB)) for number in range(3)]
        async with desk.lanes.running():
            seen = [event for events in asked async for event in events]
    assert [event for event in seen if isinstance(event, Queued)] == []


async def test_a_caller_reads_the_number_in_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.BACKLOG_SECONDS", -1.0)
    queue, queued = Feed.queue, asyncio.Event()

    async def noting(feed: Feed, number: int) -> None:
        await queue(feed, number)
        queued.set()

    monkeypatch.setattr(Feed, "queue", noting)
    async with open_desk(tmp_path) as desk:
        await desk.inbox.put(message(0, Platform.API))
        app = create_api(desk, parts={}, options=OPTIONS)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080"
        ) as http:
            asking = asyncio.create_task(http.post("/chat/stream", json={"message": QUESTION}))
            await queued.wait()
            async with desk.lanes.running():
                response = await asking
    events = [json.loads(line[6:]) for line in response.text.split("\n\n")[:-2]]
    assert events[1] == {"progress": "queued", "number": 2}
    assert events[-1]["message"] == ANSWER
