"""While the model server is away the shipped knowledge is quoted, byte for byte."""

from __future__ import annotations

from pathlib import Path

from core.engine import Engine
from core.errors import ModelUnavailable
from core.messages import Done, Outcome, Platform, Reply, UserMessage
from core.opening import engine_options, open_retriever
from core.retrieval_eval import load_questions
from core.settings import load_settings
from core.store import Store
from tests.fakes import FakeChatModel, FakeVision

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "data" / "eval" / "retrieval.jsonl"
QUOTES = 200


async def test_two_hundred_quotes_are_the_passages_own_words_under_their_titles(
    tmp_path: Path,
) -> None:
    settings = load_settings(
        environment={
            "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
            "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/s.db",
        }
    )
    _, retriever = await open_retriever(settings)
    chunks = {chunk.id: chunk for chunk in retriever.snapshot.index.chunks}

    async def choose(_: str) -> str:
        return "solemate-spoken"

    async with Store(settings.database.address) as store:
        engine = Engine(
            store=store,
            retriever=retriever,
            vision=FakeVision(),
            model=FakeChatModel([ModelUnavailable("away")]),
            choose_adapter=choose,
            options=engine_options(settings),
        )
        quoted = 0
        plain = [one for one in load_questions(QUESTIONS) if one.group == "plain"]
        for question in plain:
            reply = await answer(engine, question.id, question.text)
            if reply.outcome is not Outcome.QUOTED:
                # Nothing surely relevant: it is refused or asked back, and no model is needed.
                continue
            for source in reply.sources:
                chunk = chunks[source.id]
                assert chunk.text in reply.text
                assert chunk.title in reply.text
            assert len(reply.sources) == (
                2 if "》和《" in reply.text or "” and “" in reply.text else 1
            )
            assert (reply.complete, reply.adapter) == (False, "")
            turn = await store.turn(reply.id)
            assert (turn.asked, turn.failure) == ("solemate-spoken", "ModelUnavailable")
            quoted += 1
            if quoted == QUOTES:
                return
    raise AssertionError(f"only {quoted} questions led to a quote")


async def answer(engine: Engine, number: str, text: str) -> Reply:
    message = UserMessage(number, Platform.WEB, number, "w:someone", text)
    events = [event async for event in engine.answer(message)]
    assert isinstance(events[-1], Done)
    return events[-1].reply
