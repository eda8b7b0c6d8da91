"""A trace goes from inbox to model server, knows ids and no texts, and is off by default."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from bots.web.desk import Desk
from core.errors import ModelUnavailable
from core.messages import Done, Platform, UserMessage
from core.model import ChatModel
from core.openai_model import OpenAIChatModel
from core.opening import open_tracing
from core.otlp import OtlpTracing
from core.settings import load_settings
from core.tracing import UNTRACED, Tracing
from tests.bots.desks import ANSWER, CANVAS, open_desk
from tests.collector import Collector, collecting
from tests.fakes import FakeChatModel
from training.servers.embedded import ServerOptions, running

ROOT = Path(__file__).parents[1]
EXPERT = ROOT / "data" / "embedded" / "expert"
QUESTION = "How do I wash canvas sneakers?"
STEPS = {
    "message": "",
    "inbox": "message",
    "lane": "message",
    "retrieval": "lane",
    "model": "lane",
    "store": "lane",
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as opened:
        yield opened


async def asked(folder: Path, tracing: Tracing, model: ChatModel) -> Done:
    """Ask one question through inbox and lane; how it was answered."""
    message = UserMessage("m-1", Platform.WEB, "c-1", "w:someone", QUESTION)
    async with open_desk(folder, model, tracing=tracing) as desk, desk.lanes.running():
        await desk.lanes.submit(message)
        return await answer_of(desk)


async def answer_of(desk: Desk) -> Done:
    async with aclosing(desk.feeds.open("c-1", "m-1").follow()) as events:
        async for event in events:
            if isinstance(event, Done):
                return event
    raise AssertionError("no answer came")


async def test_one_trace_goes_from_the_inbox_to_the_model_server(
    tmp_path: Path, collector: Collector
) -> None:
    ours = OtlpTracing(collector.address, "solemate")
    theirs = OtlpTracing(collector.address, "solemate-model")
    options = ServerOptions(EXPERT, "solemate", "127.0.0.1", 0, tracing=theirs)
    async with (
        running(options) as address,
        OpenAIChatModel(
            address,
            "",
            base_model="solemate",
            first_token_seconds=60.0,
            deadline_seconds=60.0,
        ) as model,
    ):
        done = await asked(tmp_path, ours, model)
    for tracing in (ours, theirs):
        tracing.close()
    assert collector.parents() == {**STEPS, "generate": "model"}
    assert len({span.trace for span in collector.spans}) == 1
    generated = collector.named("generate")
    assert generated.service == "solemate-model"
    assert generated.facts["solemate.model"] == "solemate"
    assert generated.facts["solemate.answer_tokens"]
    lane = collector.named("lane")
    assert (lane.service, lane.facts["solemate.reply"]) == ("solemate", done.reply.id)
    assert collector.named("message").facts["solemate.message"] == "m-1"
    said = b"".join(collector.bodies)
    for text in (QUESTION, done.reply.text, CANVAS.title, CANVAS.text, "w:someone"):
        assert text.encode() not in said


async def test_a_model_that_fails_is_a_failed_step_of_the_trace(
    tmp_path: Path, collector: Collector
) -> None:
    tracing = OtlpTracing(collector.address, "solemate")
    await asked(tmp_path, tracing, FakeChatModel([ModelUnavailable("away")]))
    tracing.close()
    assert collector.parents() == STEPS
    assert collector.named("model").failure == "ModelUnavailable"
    assert collector.named("lane").failure == ""
    assert collector.named("lane").facts["solemate.outcome"] == "quoted"


async def test_a_message_that_waited_shows_for_how_long(
    tmp_path: Path, collector: Collector
) -> None:
    tracing = OtlpTracing(collector.address, "solemate")
    message = UserMessage("m-1", Platform.WEB, "c-1", "w:someone", QUESTION)
    async with open_desk(tmp_path, tracing=tracing) as desk:
        # It came before the lanes ran, as one does that a crash left behind.
        await desk.inbox.put(message)
        before = time.time()
        async with desk.lanes.running():
            await answer_of(desk)
    tracing.close()
    assert collector.parents() == STEPS
    assert 0 < collector.named("inbox").seconds <= time.time() - before + 60
    assert collector.named("message").seconds >= collector.named("lane").seconds


async def test_only_the_share_that_is_wanted_is_sent(tmp_path: Path, collector: Collector) -> None:
    tracing = OtlpTracing(collector.address, "solemate", share=0.0)
    await asked(tmp_path, tracing, FakeChatModel([ANSWER]))
    tracing.close()
    assert collector.spans == []


async def test_a_collector_that_is_away_costs_no_answer(tmp_path: Path) -> None:
    with collecting() as gone:
        pass
    tracing = OtlpTracing(gone.address, "solemate")
    done = await asked(tmp_path, tracing, FakeChatModel([ANSWER]))
    tracing.close()
    assert done.reply.text == ANSWER


def test_tracing_is_off_unless_a_collector_is_named() -> None:
    with open_tracing(load_settings(environment={}), "solemate") as tracing:
        assert (
            tracing.begin("message", header="00-" + "1" * 32 + "-" + "2" * 16 + "-01") is UNTRACED
        )
        assert UNTRACED.header == ""


def test_a_collector_of_the_settings_gets_the_spans(collector: Collector) -> None:
    settings = load_settings(environment={"SOLEMATE__TRACING__ENDPOINT": collector.address})
    with open_tracing(settings, "solemate") as tracing:
        tracing.begin("message").end()
    assert collector.named("message").service == "solemate"


def test_nothing_of_opentelemetry_is_imported_while_it_is_off() -> None:
    program = (
        "import sys, solemate, bots.lanes, core.engine\n"
        "from core.opening import open_tracing\n"
        "from core.settings import load_settings\n"
        "with open_tracing(load_settings(environment={}), 'x') as tracing:\n"
        "    tracing.begin('message').child('lane').end()\n"
        "print([name for name in ('core.otlp', 'opentelemetry.sdk') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "[]"
