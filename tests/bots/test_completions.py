"""The expert as an OpenAI model, asked with the real `openai` package."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import sqlalchemy as sa
from openai.types.chat import ChatCompletionMessageParam
from PIL import Image

from bots.allowance import Allowance
from bots.web.api import ApiOptions, create_api
from bots.web.desk import Desk
from core.errors import ModelUnavailable
from core.model import Piece
from core.tables import turns
from core.wording import say
from tests.bots.desks import ANSWER, CANVAS, PLENTY, open_desk, running_desk
from tests.fakes import FakeChatModel

OPTIONS = ApiOptions("solemate", 200, "http://127.0.0.1:8080")
QUESTION: ChatCompletionMessageParam = {"role": "user", "content": "How to wash canvas shoes?"}


@asynccontextmanager
async def openai_client(desk: Desk) -> AsyncIterator[openai.AsyncOpenAI]:
    app = create_api(desk, parts={}, options=OPTIONS)
    async with (
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http,
        openai.AsyncOpenAI(
            base_url="http://127.0.0.1:8080/v1", api_key="any", http_client=http, max_retries=0
        ) as client,
    ):
        yield client


@asynccontextmanager
async def expert(
    folder: Path, model: FakeChatModel | None = None, allowance: Allowance = PLENTY
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with running_desk(folder, model, allowance=allowance) as desk, openai_client(desk) as one:
        yield one


def photo_part(size: tuple[int, int] = (32, 32), colour: str = "white") -> Any:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def with_photo(text: str, colour: str = "white") -> ChatCompletionMessageParam:
    photo = photo_part(colour=colour)
    return {"role": "user", "content": [{"type": "text", "text": text}, photo]}


async def test_an_answer_has_the_shape_of_openais(tmp_path: Path) -> None:
    async with expert(tmp_path) as client:
        answer = await client.chat.completions.create(model="solemate", messages=[QUESTION])
    [choice] = answer.choices
    assert answer.object == "chat.completion"
    assert answer.model == "solemate"
    assert choice.message.content == ANSWER
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 22
    assert answer.usage.prompt_tokens > 50
    assert answer.usage.total_tokens == 22 + answer.usage.prompt_tokens


async def test_a_stream_has_the_shape_of_openais(tmp_path: Path) -> None:
    async with expert(tmp_path) as client:
        stream = await client.chat.completions.create(
            model="solemate",
            messages=[QUESTION],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    *text, ending, usage = chunks
    assert text[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in text) == ANSWER
    assert ending.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 22
    assert len({chunk.id for chunk in chunks}) == 1


async def test_usage_is_streamed_only_on_request(tmp_path: Path) -> None:
    async with expert(tmp_path) as client:
        stream = await client.chat.completions.create(
            model="solemate", messages=[QUESTION], stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_a_quote_in_mid_stream_takes_back_what_came_before(tmp_path: Path) -> None:
    broken = FakeChatModel([[Piece("Wash canvas "), ModelUnavailable("gone")]])
    async with expert(tmp_path, broken) as client:
        stream = await client.chat.completions.create(
            model="solemate", messages=[QUESTION], stream=True
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    first, second, rest = text.split("\n\n", 2)
    assert first.strip() == "Wash canvas"
    assert second == say("withdrawn", "en")
    assert CANVAS.text in rest
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_quote_that_follows_nothing_takes_nothing_back(tmp_path: Path) -> None:
    away = FakeChatModel([[ModelUnavailable("gone")]])
    async with expert(tmp_path, away) as client:
        stream = await client.chat.completions.create(
            model="solemate", messages=[QUESTION], stream=True
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert CANVAS.text in text
    assert say("withdrawn", "en") not in text


async def test_a_cut_answer_says_length(tmp_path: Path) -> None:
    cut = FakeChatModel([[Piece("Wash canvas shoes ", "length")]])
    async with expert(tmp_path, cut) as client:
        answer = await client.chat.completions.create(
            model="solemate", messages=[QUESTION], max_completion_tokens=4
        )
    assert answer.choices[0].finish_reason == "length"
    assert cut.asked[0].sampling.max_tokens == 4


async def test_a_photo_as_a_data_url_is_seen(tmp_path: Path) -> None:
    model = FakeChatModel([ANSWER])
    async with expert(tmp_path, model) as client:
        await client.chat.completions.create(
            model="solemate", messages=[with_photo("How to wash these canvas shoes?")]
        )
    assert "Photo: white 90%" in model.asked[0].prompt[-1].content


async def test_a_follow_up_is_about_the_photo_before(tmp_path: Path) -> None:
    model = FakeChatModel([ANSWER])
    messages: list[ChatCompletionMessageParam] = [
        with_photo("How to wash these canvas shoes?"),
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "And can they go in the dryer?"},
    ]
    async with expert(tmp_path, model) as client:
        await client.chat.completions.create(model="solemate", messages=messages)
    assert "Photo: white 90%" in model.asked[0].prompt[-1].content


@pytest.mark.parametrize(
    ("message", "searched"),
    [
        (with_photo("Are these canvas too?", "red"), "Are these canvas too?"),
        (with_photo("Are these canvas too?"), "How do I wash canvas? Are these canvas too?"),
        (
            {"role": "user", "content": "Are these canvas too?"},
            "How do I wash canvas? Are these canvas too?",
        ),
    ],
    ids=["another photo", "the same photo", "no photo"],
)
async def test_a_new_photo_leaves_the_topic_of_the_history_behind(
    tmp_path: Path, message: ChatCompletionMessageParam, searched: str
) -> None:
    messages: list[ChatCompletionMessageParam] = [
        with_photo("How do I wash canvas?"),
        {"role": "assistant", "content": ANSWER},
        message,
    ]
    async with open_desk(tmp_path) as desk, openai_client(desk) as client:
        answer = await client.chat.completions.create(model="solemate", messages=messages)
        queries = await desk.store.run(
            lambda connection: connection.execute(sa.select(turns.c.query)).scalars().all()
        )
    assert answer.choices[0].message.content
    assert queries == [searched]


async def test_the_history_is_the_messages_sent_along(tmp_path: Path) -> None:
    model = FakeChatModel([ANSWER])
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "What is canvas?"},
        {"role": "assistant", "content": "A cotton cloth."},
        {"role": "user", "content": "And how do I wash canvas?"},
    ]
    async with expert(tmp_path, model) as client:
        await client.chat.completions.create(model="solemate", messages=messages)
        await client.chat.completions.create(model="solemate", messages=[QUESTION])
    said = [message.content for message in model.asked[0].prompt]
    assert said[1:3] == ["What is canvas?", "A cotton cloth."]
    assert not any("pirate" in text for text in said)
    assert len(model.asked[1].prompt) == 2


async def test_a_very_long_history_is_answered_at_once(tmp_path: Path) -> None:
    rounds: list[ChatCompletionMessageParam] = [
        QUESTION if number % 2 == 0 else {"role": "assistant", "content": "Gently."}
        for number in range(2_000)
    ]
    model = FakeChatModel([ANSWER])
    async with expert(tmp_path, model) as client:
        await client.chat.completions.create(model="solemate", messages=[*rounds, QUESTION])
    assert len(model.asked[0].prompt) < 50


async def test_keys_that_clients_always_send_are_taken(tmp_path: Path) -> None:
    async with expert(tmp_path) as client:
        answer = await client.chat.completions.create(
            model="solemate",
            messages=[QUESTION],
            n=1,
            top_p=0.9,
            seed=1,
            stop=["Observation:"],
            presence_penalty=0,
            frequency_penalty=0,
            user="someone@example.com",
            temperature=0.2,
        )
        followed = await client.chat.completions.create(
            model="solemate",
            messages=[
                QUESTION,
                answer.choices[0].message.model_dump(),  # type: ignore[list-item]
                {"role": "user", "content": "and canvas boots?"},
            ],
        )
    assert followed.choices[0].message.content


async def test_another_model_is_not_found(tmp_path: Path) -> None:
    async with expert(tmp_path) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-9", messages=[QUESTION])
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"
    assert "'gpt-9'" in caught.value.message
    assert "solemate" in caught.value.message


async def test_the_expert_is_the_only_model(tmp_path: Path) -> None:
    async with expert(tmp_path) as client:
        models = [model async for model in client.models.list()]
        assert (await client.models.retrieve("solemate")).id == "solemate"
    assert [model.id for model in models] == ["solemate"]


async def test_photos_are_never_fetched(tmp_path: Path) -> None:
    part: Any = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/shoe.jpg"}}
    async with expert(tmp_path) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model="solemate", messages=[{"role": "user", "content": [part]}]
            )
    assert caught.value.code == "photo_address"


@pytest.mark.parametrize(
    ("request_body", "status", "code", "param"),
    [
        ({"messages": []}, 422, "invalid_field", "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "text_empty", None),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, 400, "no_question", None),
        ({"messages": [QUESTION], "n": 2}, 422, "invalid_field", "n"),
        ({"messages": [QUESTION], "tools": []}, 422, "unknown_field", "tools"),
        ({"messages": [QUESTION], "temperature": 9}, 422, "invalid_field", "temperature"),
        (
            {"messages": [{"role": "user", "content": [photo_part((4, 400))]}]},
            422,
            "photo_shape",
            None,
        ),
        (
            {"messages": [{"role": "user", "content": [photo_part()] * 5}]},
            413,
            "photo_many",
            None,
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_have_the_shape_of_openais(
    tmp_path: Path,
    request_body: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
    stream: bool,
) -> None:
    body = {"model": "solemate", "stream": stream, **request_body}
    async with expert(tmp_path) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.post("/chat/completions", cast_to=object, body=body)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("get", "/chat/completions", 405, "POST"),
        ("post", "/models", 405, "GET"),
        ("post", "/embeddings", 404, None),
        ("get", "/", 404, None),
    ],
)
async def test_what_is_not_there_is_refused_in_the_shape_of_openais(
    tmp_path: Path, method: str, path: str, status: int, allowed: str | None
) -> None:
    async with expert(tmp_path) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await getattr(client, method)(path, cast_to=object)
    assert caught.value.status_code == status
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == ("wrong_method" if allowed else "no_route")
    assert caught.value.response.headers.get("allow") == allowed


async def test_too_many_calls_are_told_when_to_come_back(tmp_path: Path) -> None:
    allowance = Allowance(messages_per_minute=1, photos_per_minute=1, messages_per_day=9)
    async with expert(tmp_path, allowance=allowance) as client:
        await client.chat.completions.create(model="solemate", messages=[QUESTION])
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="solemate", messages=[QUESTION])
        await client.chat.completions.create(
            model="solemate", messages=[QUESTION], user="somebody else"
        )
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.type == "rate_limit_exceeded"


async def test_an_error_in_mid_stream_is_raised_by_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_desk(tmp_path) as desk, openai_client(desk) as client:

        async def fail(*_: object) -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(desk.store, "add_turn", fail)
        stream = await client.chat.completions.create(
            model="solemate", messages=[QUESTION], stream=True
        )
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert "secret" not in caught.value.message


async def test_calls_are_counted_with_the_answers_of_the_api(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, openai_client(desk) as client:
        await client.chat.completions.create(model="solemate", messages=[QUESTION])
        figures = desk.lanes.metrics.render().decode()
    assert 'solemate_answers_total{outcome="answered",platform="api"} 1.0' in figures


async def test_the_name_of_a_callers_user_is_not_stored(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, openai_client(desk) as client:
        await client.chat.completions.create(
            model="solemate", messages=[QUESTION], user="someone@example.com"
        )
        assert b"someone" not in (tmp_path / "solemate.db-wal").read_bytes()
