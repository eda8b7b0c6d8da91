"""Whatever a model is made to say, nothing that Slack hears makes it do anything."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bots.slack.text import escaped, rendered
from core.messages import Delta, Done, Event, Outcome, Platform, Reply, Source, UserMessage
from tests.bots.injections import INJECTIONS, INJECTIONS_EVERYWHERE
from tests.bots.slack_fake import ANN, TEAM, FakeSlack
from tests.bots.slack_world import opened, person
from tests.bots.test_slack_parts import ALIVE

NIGHTLY = (pytest.mark.nightly, pytest.mark.timeout(1800))
PAYLOADS = pytest.mark.parametrize(
    "payloads",
    [
        pytest.param(INJECTIONS, id="some"),
        pytest.param(INJECTIONS_EVERYWHERE, id="all", marks=NIGHTLY),
    ],
)
_TEXTS = ("text", "markdown_text")
NO_LINK = "]((link left out))"


@pytest.fixture
async def fake() -> AsyncIterator[FakeSlack]:
    async with FakeSlack().serving() as server:
        yield server


def heard(values: dict[str, Any]) -> list[str]:
    """All that a call says, wherever it stands."""
    found = [str(values[name]) for name in _TEXTS if values.get(name)]
    blocks = [block for block in values.get("blocks") or [] if block["type"] == "markdown"]
    return found + [block["text"] for block in blocks]


@PAYLOADS
async def test_nothing_that_slack_hears_is_alive_or_unfurls(
    tmp_path: Path, fake: FakeSlack, payloads: list[str]
) -> None:
    dice = random.Random(7)
    async with opened(tmp_path, fake) as world:
        for number, text in enumerate(payloads):
            ts = f"{1_790_000_000 + number}.000000"
            room = f"slack:{TEAM}:D{ANN}:{ts}"
            asked = UserMessage(ts, Platform.SLACK, room, person(), "canvas?")
            reply = Reply(f"{number:032}", room, text, Outcome.ANSWERED, "en")

            async def growing(text: str = text, reply: Reply = reply) -> AsyncIterator[Event]:
                start = 0
                while start < len(text):
                    end = start + dice.randint(1, 9)
                    yield Delta(text[start:end])
                    start = end
                yield Done(reply)

            await world.slack.answers.show(asked, growing())
    said = [text for call in fake.calls for text in heard(call.values)]
    assert len(said) >= len(payloads)
    # In code a link is none, and its address is gone there as well.
    assert [text for text in said if ALIVE.search(text.replace(NO_LINK, ""))] == []
    posted = fake.called("chat.postMessage")
    assert {(one["unfurl_links"], one["unfurl_media"]) for one in posted} <= {(False, False)}


@PAYLOADS
def test_a_source_by_any_name_is_dead(payloads: list[str]) -> None:
    for text in payloads:
        if "://" in text or "www." in text or ".com" in text:
            # What stands in a passage that was used may be shown.
            continue
        source = Source("1", text, "Wash it.", text)
        reply = Reply("r", "c", "Wash it.", Outcome.ANSWERED, "en", sources=(source,))
        lines = "\n".join(rendered(reply)).splitlines()
        # The sources stand in a quote.
        assert [line for line in lines if ALIVE.search(line.removeprefix(">"))] == []
        assert ALIVE.search(escaped(text)) is None


def test_the_payloads_would_do_something() -> None:
    """The control: unescaped, what is looked for is found."""
    assert len(INJECTIONS_EVERYWHERE) >= 300
    alive = [text for text in INJECTIONS if ALIVE.search(text)]
    assert len(alive) >= 20
    reply = Reply("r", "c", "<!channel>", Outcome.ANSWERED, "en")
    assert ALIVE.search(replace(reply).text)
