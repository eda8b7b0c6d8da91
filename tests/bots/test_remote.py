"""The terminal's way to a running solemate, against the real API in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from bots.remote import RemoteExpert
from bots.terminal import to_user_message
from bots.web.api import ApiOptions, create_api
from core.errors import ModelUnavailable, SolemateError
from core.messages import Delta, Done, Event, Feedback, Outcome, Rating
from core.model import ChatModel
from tests.bots.desks import ANSWER, running_desk
from tests.fakes import FakeChatModel

OPTIONS = ApiOptions(model_name="solemate", max_tokens=200, public_url="http://shoes.test")


@asynccontextmanager
async def remote(folder: Path, model: ChatModel | None = None) -> AsyncIterator[RemoteExpert]:
    async with running_desk(folder, model) as desk:
        transport = httpx.ASGITransport(create_api(desk, parts={}, options=OPTIONS))
        async with RemoteExpert("http://shoes.test", transport=transport) as expert:
            yield expert


async def told(expert: RemoteExpert, text: str) -> list[Event]:
    return [event async for event in expert.answer(to_user_message(text))]


async def test_an_answer_comes_in_pieces_and_ends_with_its_reply(tmp_path: Path) -> None:
    async with remote(tmp_path) as expert:
        events = await told(expert, "How do I wash canvas shoes?")
    last = events[-1]
    assert isinstance(last, Done)
    assert last.reply.text == ANSWER
    assert last.reply.outcome is Outcome.ANSWERED
    assert [source.id for source in last.reply.sources] == ["canvas"]
    assert "".join(event.text for event in events if isinstance(event, Delta)) == ANSWER


async def test_bytes_that_are_no_text_harm_nobody(tmp_path: Path) -> None:
    async with remote(tmp_path) as expert:
        last = (await told(expert, "canvas \udcff?"))[-1]
    assert isinstance(last, Done)
    assert last.reply.text == ANSWER


async def test_an_answer_can_be_rated(tmp_path: Path) -> None:
    async with running_desk(tmp_path) as desk:
        transport = httpx.ASGITransport(create_api(desk, parts={}, options=OPTIONS))
        async with RemoteExpert("http://shoes.test", transport=transport) as expert:
            last = (await told(expert, "How do I wash canvas shoes?"))[-1]
            assert isinstance(last, Done)
            await expert.rate(Feedback(last.reply.id, "terminal", Rating.DOWN, correction="Cold."))
        turn = await desk.store.turn(last.reply.id)
        verdict = await desk.store.verdict(last.reply.id, turn.user_id)
    assert verdict is not None
    assert (verdict.rating, verdict.correction) == (Rating.DOWN, "Cold.")


async def test_the_servers_sentence_reaches_the_person(tmp_path: Path) -> None:
    async with remote(tmp_path) as expert:
        with pytest.raises(SolemateError, match="too long"):
            await told(expert, "shoe " * 1000)


async def test_a_failing_model_is_quoted_there_as_here(tmp_path: Path) -> None:
    async with remote(tmp_path, FakeChatModel([ModelUnavailable("Gone.")])) as expert:
        last = (await told(expert, "How do I wash canvas shoes?"))[-1]
    assert isinstance(last, Done)
    assert last.reply.outcome is Outcome.QUOTED
    assert not last.reply.complete


async def test_nobody_at_the_address_is_one_sentence() -> None:
    async with RemoteExpert("http://127.0.0.1:9") as expert:
        with pytest.raises(SolemateError, match="does not answer"):
            await told(expert, "Hello?")
