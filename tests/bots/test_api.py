"""The HTTP API: asking, streaming, resuming, rating, refusing, and how all is."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from bots.allowance import Allowance
from bots.web.api import ApiOptions, create_api
from bots.web.desk import Desk
from bots.web.health import Condition, HealthCheck, PartHealth
from core.errors import ModelUnavailable, StoreError
from core.messages import Platform, Rating, UserMessage
from core.model import Piece
from core.notices import Notices
from core.wording import say
from tests.bots.desks import ANSWER, CANVAS, PLENTY, open_desk, running_desk, teach
from tests.fakes import FakeChatModel, HeldChatModel

OPTIONS = ApiOptions(
    model_name="solemate",
    max_tokens=200,
    public_url="http://127.0.0.1:8080",
    allowed_origins=("https://shop.example",),
)
QUESTION = {"message": "How do I wash canvas shoes?"}


def photo(size: tuple[int, int] = (32, 32)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, "white").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080", headers=headers
    )


def api_of(desk: Desk, parts: Mapping[str, HealthCheck] | None = None) -> FastAPI:
    return create_api(desk, parts=parts or {}, options=OPTIONS)


@asynccontextmanager
async def api(
    folder: Path, model: FakeChatModel | None = None, *, allowance: Allowance = PLENTY
) -> AsyncIterator[tuple[httpx.AsyncClient, Desk]]:
    async with (
        running_desk(folder, model, allowance=allowance) as desk,
        client_of(api_of(desk)) as http,
    ):
        yield http, desk


def events_of(response: httpx.Response) -> list[Any]:
    """The events of a stream; the last is `[DONE]`."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return response.status_code, body["error"]["code"], body["error"]["message"]


# --- asking ---


async def test_a_question_gets_an_answer_with_its_sources(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        response = await http.post("/chat", json=QUESTION)
    assert response.status_code == 200
    answer = response.json()
    assert answer["message"] == ANSWER
    assert answer["sources"] == [
        {"id": "canvas", "title": CANVAS.title, "text": CANVAS.text, "source": CANVAS.source}
    ]
    assert answer["outcome"] == "answered"
    assert answer["adapter"] == "solemate"
    assert answer["language"] == "en"
    assert answer["complete"] is True
    assert set(answer["timings"]) == {
        "vision",
        "retrieval",
        "first_token",
        "model",
        "total",
        "own",
    }


async def test_a_session_is_told_once_what_it_taught(tmp_path: Path) -> None:
    async with api(tmp_path) as (_, desk):
        telling = replace(desk, notices=Notices(desk.store))
        async with client_of(api_of(telling)) as http:
            answer = (await http.post("/chat", json=QUESTION)).json()
            session = {"session_id": answer["session_id"]}
            assert (await http.post("/notice", json=session)).json() == {"notice": None}
            owner = f"api:{answer['session_id']}"
            await teach(desk.store, answer["message_id"], owner, "Brush them.")
            stranger = {"session_id": "somebody-else"}
            assert (await http.post("/notice", json=stranger)).json() == {"notice": None}
            told = (await http.post("/notice", json=session)).json()["notice"]
            again = (await http.post("/notice", json=session)).json()
    assert told["lessons"] == [{"question": QUESTION["message"], "text": "Brush them."}]
    assert (told["language"], again) == ("en", {"notice": None})
    assert told["message"].startswith(say("taught_me", "en"))


async def test_where_people_are_not_told_a_session_is_not_either(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, desk):
        answer = (await http.post("/chat", json=QUESTION)).json()
        session = answer["session_id"]
        await teach(desk.store, answer["message_id"], f"api:{session}", "Brush them.")
        response = await http.post("/notice", json={"session_id": session})
    assert response.json() == {"notice": None}


async def test_a_session_goes_on_where_it_was(tmp_path: Path) -> None:
    model = FakeChatModel([ANSWER])
    async with api(tmp_path, model) as (http, _):
        first = (await http.post("/chat", json=QUESTION)).json()
        session = first["session_id"]
        await http.post("/chat", json={"message": "canvas in winter?", "session_id": session})
    said = [message.content for message in model.asked[-1].prompt]
    assert QUESTION["message"] in said
    assert ANSWER in said


async def test_a_vague_question_gets_suggestions(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        answer = (await http.post("/chat", json={"message": "shoes?"})).json()
    assert answer["outcome"] == "clarify"
    assert answer["suggestions"] == ["Washing canvas shoes", "Suede"]


async def test_a_photo_comes_back_as_tags(tmp_path: Path) -> None:
    body = {**QUESTION, "image": photo()}
    async with api(tmp_path) as (http, _):
        answer = (await http.post("/chat", json=body)).json()
        as_url = {**QUESTION, "image": f"data:image/png;base64,{photo()}"}
        again = (await http.post("/chat", json=as_url)).json()
    tag = {"name": "白色", "phrase": "white", "group": "colour", "score": 0.9, "sure": True}
    assert answer["tags"] == again["tags"] == [tag]


async def test_a_photo_without_words_is_described_in_the_accepted_language(
    tmp_path: Path,
) -> None:
    body = {"message": "", "image": photo()}
    async with api(tmp_path) as (http, _):
        english = await http.post("/chat", json=body, headers={"accept-language": "fr, en-GB"})
        chinese = await http.post("/chat", json=body, headers={"accept-language": "zh-CN,en"})
    assert "In the photo I see" in english.json()["message"]
    assert "照片里我看到" in chinese.json()["message"]


async def test_the_same_message_id_is_answered_once(tmp_path: Path) -> None:
    model = FakeChatModel([ANSWER])
    body = {**QUESTION, "session_id": "s", "message_id": "click"}
    async with api(tmp_path, model) as (http, _):
        first = http.post("/chat", json=body)
        second = http.post("/chat", json=body)
        replies = [response.json() for response in await asyncio.gather(first, second)]
    assert replies[0]["message_id"] == replies[1]["message_id"]
    assert len(model.asked) == 1


async def test_callers_may_ask_for_shorter_but_not_for_longer_answers(tmp_path: Path) -> None:
    model = FakeChatModel([ANSWER])
    async with api(tmp_path, model) as (http, _):
        await http.post("/chat", json={**QUESTION, "max_tokens": 50, "temperature": 0.5})
        await http.post("/chat", json={**QUESTION, "max_tokens": 5000})
    assert [asked.sampling.max_tokens for asked in model.asked] == [50, 200]
    assert model.asked[0].sampling.temperature == 0.5


async def test_without_a_model_the_passage_is_quoted(tmp_path: Path) -> None:
    async with api(tmp_path, FakeChatModel([ModelUnavailable("gone")])) as (http, _):
        answer = (await http.post("/chat", json=QUESTION)).json()
    assert answer["outcome"] == "quoted"
    assert CANVAS.text in answer["message"]


@pytest.mark.parametrize("text", ["\x00\x07\x1b[2J", "👟👟👟", "‮canvas‬ שלום canvas", "¿?!"])
async def test_strange_texts_get_an_answer(tmp_path: Path, text: str) -> None:
    async with api(tmp_path) as (http, _):
        response = await http.post("/chat", json={"message": text})
    assert response.status_code == 200
    assert response.json()["message"]


# --- streaming ---


async def test_a_stream_carries_pieces_then_the_whole_result(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        events = events_of(await http.post("/chat/stream", json={**QUESTION, "image": photo()}))
    start, *middle, last = events
    assert start["resume"].startswith(f"/chat/stream/{last['session_id']}/")
    assert [event["progress"] for event in middle if "progress" in event] == ["seen", "found"]
    assert middle[0]["tags"][0]["name"] == "白色"
    assert "".join(event.get("content", "") for event in middle) == ANSWER
    assert last["message"] == ANSWER
    assert last["message_id"]


async def test_text_that_is_thrown_away_is_replaced(tmp_path: Path) -> None:
    broken = FakeChatModel([[Piece("Wash canvas "), ModelUnavailable("gone")]])
    async with api(tmp_path, broken) as (http, _):
        *events, last = events_of(await http.post("/chat/stream", json=QUESTION))
    [replaced] = [event["replace"] for event in events if "replace" in event]
    assert replaced == last["message"]
    assert last["outcome"] == "quoted"


async def test_a_dropped_stream_can_be_read_again_from_its_beginning(tmp_path: Path) -> None:
    model = HeldChatModel([ANSWER])
    body = {**QUESTION, "session_id": "s", "message_id": "m"}
    async with api(tmp_path, model) as (http, _):
        lost = asyncio.create_task(http.post("/chat/stream", json=body))
        await model.waiting.wait()
        lost.cancel()
        again = asyncio.create_task(http.get("/chat/stream/s/m"))
        model.gate.set()
        events = events_of(await again)
    assert "".join(event.get("content", "") for event in events) == ANSWER
    assert events[-1]["session_id"] == "s"
    assert len(model.asked) == 1


async def test_an_old_answer_can_be_read_again_after_a_restart(tmp_path: Path) -> None:
    body = {**QUESTION, "session_id": "s", "message_id": "m"}
    async with api(tmp_path) as (http, _):
        first = (await http.post("/chat", json=body)).json()
    async with api(tmp_path) as (http, _):
        events = events_of(await http.get("/chat/stream/s/m"))
    assert {"content": ANSWER} in events
    assert events[-1]["message_id"] == first["message_id"]


async def test_a_stream_nobody_asked_for_is_not_found(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        assert error_of(await http.get("/chat/stream/s/m"))[:2] == (404, "not_found")


async def test_a_message_that_fails_ends_the_stream_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(tmp_path) as (http, desk):

        async def fail(*_: object) -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(desk.store, "add_turn", fail)
        response = await http.post("/chat/stream", json=QUESTION)
        answer = await http.post("/chat", json=QUESTION)
    assert events_of(response)[-1]["error"]["code"] == "failed"
    assert error_of(answer)[:2] == (500, "failed")
    assert "secret detail" not in response.text + answer.text


async def test_a_reader_that_leaves_does_not_stop_its_answer(tmp_path: Path) -> None:
    model = HeldChatModel([ANSWER])
    async with running_desk(tmp_path, model) as desk:
        reading = asyncio.create_task(leave_while(api_of(desk), "/chat/stream", QUESTION, model))
        await reading
        model.gate.set()
        await model.left.wait()
        assert len(model.asked) == 1


async def test_a_stateless_caller_that_leaves_frees_the_model(tmp_path: Path) -> None:
    model = HeldChatModel([ANSWER])
    body = {
        "model": "solemate",
        "stream": True,
        "messages": [{"role": "user", "content": QUESTION["message"]}],
    }
    async with running_desk(tmp_path, model) as desk:
        await leave_while(api_of(desk), "/v1/chat/completions", body, model)
        await model.left.wait()
        assert model.asked == []


async def leave_while(app: FastAPI, path: str, body: dict[str, Any], model: HeldChatModel) -> None:
    """Send a request, and hang up once the model has been asked."""
    received = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if received:
            return received.pop()
        await model.waiting.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1:8080")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    await app(scope, receive, send)


# --- rating, looking back, deleting ---


async def test_a_thumb_is_committed_and_the_last_one_counts(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, desk):
        answer = (await http.post("/chat", json=QUESTION)).json()
        own = {"session_id": answer["session_id"], "message_id": answer["message_id"]}
        await http.post("/feedback", json={**own, "feedback": "thumbs_up"})
        down = {"feedback": "thumbs_down", "reason": "wrong_facts", "correction": "Use a brush."}
        response = await http.post("/feedback", json={**own, **down})
        verdict = await desk.store.verdict(answer["message_id"], f"api:{answer['session_id']}")
    assert response.json()["status"] == "success"
    assert verdict is not None
    assert verdict.rating is Rating.DOWN
    assert verdict.correction == "Use a brush."


async def test_a_session_cannot_rate_or_read_anothers_reply(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        answer = (await http.post("/chat", json=QUESTION)).json()
        foreign = {"session_id": "other", "message_id": answer["message_id"]}
        rated = await http.post("/feedback", json={**foreign, "feedback": "thumbs_up"})
        read = await http.get("/session/other")
    assert error_of(rated)[:2] == (404, "not_found")
    assert error_of(read)[:2] == (404, "not_found")


async def test_a_session_cannot_be_the_page_of_somebody(tmp_path: Path) -> None:
    page = UserMessage("m", Platform.WEB, "page", "w:someone", "canvas?")
    async with api(tmp_path) as (http, desk):
        async for _ in await desk.ask(page):
            pass
        assert (await http.get("/session/page")).status_code == 404
        assert (await http.get("/chat/stream/page/m")).status_code == 404
        await http.delete("/session/page")
        assert len(await desk.conversation("page")) == 1


async def test_a_session_shows_its_answers_in_order(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        await http.post("/chat", json={**QUESTION, "session_id": "s"})
        await http.post("/chat", json={"message": "canvas again?", "session_id": "s"})
        session = (await http.get("/session/s")).json()
    assert [turn["question"] for turn in session["turns"]] == [
        QUESTION["message"],
        "canvas again?",
    ]
    assert session["turns"][0]["message"] == ANSWER
    assert session["waiting"] == []


async def test_a_deleted_session_is_gone(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        await http.post("/chat", json={**QUESTION, "session_id": "s"})
        assert (await http.delete("/session/s")).json()["status"] == "success"
        assert (await http.get("/session/s")).status_code == 404
        assert (await http.delete("/session/s")).status_code == 200


async def test_a_session_deleted_while_it_is_answered_stays_deleted(tmp_path: Path) -> None:
    model = HeldChatModel([ANSWER])
    async with api(tmp_path, model) as (http, _):
        asking = asyncio.create_task(http.post("/chat", json={**QUESTION, "session_id": "s"}))
        await model.waiting.wait()
        deleting = asyncio.create_task(http.delete("/session/s"))
        model.gate.set()
        assert (await deleting).status_code == 200
        await asking
        assert (await http.get("/session/s")).status_code == 404


# --- refusing ---


@pytest.mark.parametrize(
    ("body", "status", "code", "word"),
    [
        ({"message": " "}, 400, "text_empty", "empty"),
        ({"message": "shoe" * 25_000}, 413, "text_long", "100000"),
        ({"message": "Hi", "image": "not base64!"}, 400, "photo_broken", "photo"),
        ({"message": "Hi", "image": "PGh0bWw+"}, 415, "photo_format", "JPEG"),
        ({"message": "Hi", "image": photo((4, 400))}, 422, "photo_shape", "narrow"),
        ({"message": "Hi", "image": photo()[:60]}, 422, "photo_broken", "damaged"),
        (
            {"message": "Hi", "max_tokens": 0},
            422,
            "invalid_field",
            "'max_tokens' must be at least 1",
        ),
        (
            {"message": "Hi", "temperature": 3},
            422,
            "invalid_field",
            "'temperature' must be at most 2",
        ),
        (
            {"message": "Hi", "session_id": "../x"},
            422,
            "invalid_field",
            "'session_id' must be 1 to 60 letters",
        ),
        ({"message": 5}, 422, "invalid_field", "'message' must be text"),
        ({"message": "Hi", "mesage": "x"}, 422, "unknown_field", "'mesage'"),
        ({}, 422, "missing_field", "'message' is missing"),
        ([], 422, "body_object", "JSON object"),
    ],
)
async def test_what_cannot_be_taken_is_refused_in_one_sentence(
    tmp_path: Path, body: Any, status: int, code: str, word: str
) -> None:
    async with api(tmp_path) as (http, _):
        answer = error_of(await http.post("/chat", json=body))
    assert answer[:2] == (status, code)
    assert word in answer[2]
    assert "\n" not in answer[2]


async def test_a_huge_text_is_refused_without_being_read_through(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _), asyncio.timeout(10):
        answer = error_of(await http.post("/chat", json={"message": "鞋" * 300_000}))
        unknown = error_of(await http.post("/chat", json={"message": "Hi", "x" * 100_000: 1}))
    assert answer[:2] == (413, "text_long")
    assert "300000" in answer[2]
    assert len(unknown[2]) < 200


async def test_errors_speak_the_language_of_the_text(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        by_text = await http.post("/chat", json={"message": "帆布鞋", "image": "PGh0bWw+"})
        by_header = await http.post(
            "/chat", json={"message": ""}, headers={"accept-language": "zh-TW"}
        )
    assert "格式" in error_of(by_text)[2]
    assert "空" in error_of(by_header)[2]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"message": "\xff"}', b"[" * 100_000])
async def test_a_body_that_is_no_json_is_refused(tmp_path: Path, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    async with api(tmp_path) as (http, _):
        answer = error_of(await http.post("/chat", content=body, headers=headers))
    assert answer[:2] == (400, "body_json")


async def test_another_content_type_is_refused(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        answer = error_of(await http.post("/chat", data={"message": "Hi"}))
    assert answer[:2] == (415, "body_type")


async def test_a_body_that_is_too_large_is_refused_while_it_is_read(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000_000:
            sent += 100_000
            yield b" " * 100_000

    headers = {"content-type": "application/json"}
    async with api(tmp_path) as (http, _):
        answer = error_of(await http.post("/chat", content=endless(), headers=headers))
        announced = await http.post("/chat", content=b" " * 2_000_000, headers=headers)
    assert answer[:2] == (413, "body_large")
    assert sent < 5_000_000
    assert error_of(announced)[:2] == (413, "body_large")


@pytest.mark.parametrize("announced", [{}, {"content-length": "2500000"}], ids=["chunked", "told"])
@pytest.mark.parametrize(
    ("kind", "status"), [("application/json", 413), ("application/octet-stream", 415)]
)
async def test_a_body_that_is_somewhat_too_large_is_taken_in_before_it_is_refused(
    tmp_path: Path, announced: dict[str, str], kind: str, status: int
) -> None:
    sent = 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(25):
            sent += 100_000
            yield b" " * 100_000

    async with api(tmp_path) as (http, _):
        response = await http.post(
            "/chat", content=large(), headers={"content-type": kind, **announced}
        )
    assert response.status_code == status
    assert sent == 2_500_000


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/chat", "POST"),
        ("PROPFIND", "/chat", "POST"),
        ("PUT", "/feedback", "POST"),
        ("POST", "/session/s", "DELETE, GET"),
        ("DELETE", "/health", "GET"),
        ("POST", "/metrics", "GET"),
        ("POST", "/chat/stream/s/m", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    tmp_path: Path, method: str, path: str, allowed: str
) -> None:
    async with api(tmp_path) as (http, _):
        response = await http.request(method, path)
    assert error_of(response)[:2] == (405, "wrong_method")
    assert response.headers["allow"] == allowed
    assert allowed in error_of(response)[2]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/chat/nothing"),
        ("POST", "/chat/"),
        ("GET", "/session"),
        ("DELETE", "/session/s/turns"),
        ("GET", "/health/store"),
        ("GET", "/metrics/"),
        ("POST", "/feedback/x"),
    ],
)
async def test_an_unknown_path_of_the_api_is_refused_in_its_own_shape(
    tmp_path: Path, method: str, path: str
) -> None:
    async with api(tmp_path) as (http, _):
        response = await http.request(method, path, headers={"accept-language": "zh"})
        others = await http.get("/chatty")
        figures = await http.get("/metrics")
    assert error_of(response)[:2] == (404, "no_route")
    assert "没有这个地址" in error_of(response)[2]
    assert "allow" not in response.headers
    assert "error" not in others.json()
    assert 'solemate_http_requests_total{route="none",status="404"} 1.0' in figures.text


async def test_too_many_messages_are_told_when_to_come_back(tmp_path: Path) -> None:
    allowance = Allowance(messages_per_minute=1, photos_per_minute=1, messages_per_day=9)
    body = {**QUESTION, "session_id": "s"}
    async with api(tmp_path, allowance=allowance) as (http, _):
        await http.post("/chat", json=body)
        response = await http.post("/chat", json=body)
    assert error_of(response)[:2] == (429, "busy")
    assert 1 <= int(response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_callers_without_a_session_are_known_by_their_address(
    tmp_path: Path, path: str
) -> None:
    allowance = Allowance(messages_per_minute=2, photos_per_minute=1, messages_per_day=9)
    async with api(tmp_path, allowance=allowance) as (http, desk):
        app = api_of(desk)
        asked = [
            # What a header says about the address is not believed.
            await http.post(path, json=QUESTION, headers={"x-forwarded-for": f"10.0.0.{number}"})
            for number in range(3)
        ]
        named = await http.post(path, json={**QUESTION, "session_id": "s"})
        elsewhere = httpx.ASGITransport(app, client=("203.0.113.9", 1))
        async with httpx.AsyncClient(transport=elsewhere, base_url="http://127.0.0.1:8080") as far:
            other = await far.post(path, json=QUESTION)
    assert [response.status_code for response in asked] == [200, 200, 429]
    assert (named.status_code, other.status_code) == (200, 200)


async def test_a_full_conversation_is_told_to_wait(tmp_path: Path) -> None:
    async with open_desk(tmp_path, depth=1) as desk, client_of(api_of(desk)) as http:
        await desk.inbox.put(UserMessage("m0", Platform.API, "api:s", "api:s", "canvas?"))
        response = await http.post("/chat", json={**QUESTION, "session_id": "s"})
    assert error_of(response)[:2] == (429, "busy")


async def test_nothing_is_acknowledged_when_it_cannot_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(tmp_path) as (http, desk):
        answer = (await http.post("/chat", json=QUESTION)).json()
        own = {"session_id": answer["session_id"], "message_id": answer["message_id"]}

        async def fail(*_: object) -> None:
            raise StoreError("disk full at /secret/place")

        monkeypatch.setattr(desk.store, "run", fail)
        asked = await http.post("/chat", json=QUESTION)
        rated = await http.post("/feedback", json={**own, "feedback": "thumbs_up"})
    for response in (asked, rated):
        assert error_of(response)[:2] == (503, "not_saved")
        assert "secret" not in response.text


async def test_a_mistake_of_ours_shows_no_detail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(tmp_path) as (http, desk):

        async def fail(*_: object) -> None:
            raise KeyError("secret detail")

        monkeypatch.setattr(desk.store, "history", fail)
        response = await http.get("/session/s")
    assert error_of(response)[:2] == (500, "failed")
    assert "secret" not in response.text


async def test_pages_of_other_sites_may_not_call(tmp_path: Path) -> None:
    foreign = {"origin": "https://evil.example"}
    async with api(tmp_path) as (http, _):
        asked = await http.post("/chat", json=QUESTION, headers=foreign)
        deleted = await http.delete("/session/s", headers=foreign)
        null = await http.post("/chat", json=QUESTION, headers={"origin": "null"})
    for response in (asked, deleted, null):
        assert error_of(response)[:2] == (403, "origin")
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8080", "http://localhost:8080", "https://shop.example"]
)
async def test_our_own_and_allowed_pages_may_call(tmp_path: Path, origin: str) -> None:
    async with api(tmp_path) as (http, _):
        response = await http.post("/chat", json=QUESTION, headers={"origin": origin})
    assert response.status_code == 200


async def test_browsers_are_told_which_sites_are_allowed(tmp_path: Path) -> None:
    asks = {"access-control-request-method": "POST"}
    async with api(tmp_path) as (http, _):
        allowed = await http.options("/chat", headers={"origin": "https://shop.example", **asks})
        foreign = await http.options("/chat", headers={"origin": "https://evil.example", **asks})
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in foreign.headers


# --- how all is ---


async def well() -> PartHealth:
    return PartHealth()


async def without_model() -> PartHealth:
    return PartHealth(Condition.DEGRADED, "Answers are quoted.")


async def broken() -> PartHealth:
    raise StoreError("the index is at /secret/place")


@pytest.mark.parametrize(
    ("index", "model", "status", "whole"),
    [
        (well, well, 200, "ok"),
        (well, without_model, 200, "degraded"),
        (broken, well, 503, "down"),
    ],
)
async def test_health_names_each_part(
    tmp_path: Path, index: HealthCheck, model: HealthCheck, status: int, whole: str
) -> None:
    async with running_desk(tmp_path) as desk:
        parts = {"index": index, "vision": well, "model": model}
        async with client_of(api_of(desk, parts)) as http:
            response = await http.get("/health")
    body = response.json()
    assert (response.status_code, body["status"]) == (status, whole)
    assert list(body["parts"]) == ["store", "index", "vision", "model", "inbox"]
    assert body["parts"]["inbox"] == {"status": "ok", "waiting": 0, "oldest_seconds": 0.0}
    assert "secret" not in response.text


async def test_health_is_down_while_nothing_can_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(tmp_path) as (http, desk):

        async def full() -> None:
            raise StoreError("no room at /secret/place")

        monkeypatch.setattr(desk.store, "check_writing", full)
        ill = await http.get("/health")
        monkeypatch.undo()
        well = await http.get("/health")
    assert (ill.status_code, ill.json()["status"]) == (503, "down")
    assert ill.json()["parts"]["store"]["status"] == "down"
    assert "Nothing can be saved" in ill.json()["parts"]["store"]["detail"]
    assert "secret" not in ill.text
    assert (well.status_code, well.json()["status"]) == (200, "ok")


async def test_metrics_count_answers_thumbs_and_requests(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        answer = (await http.post("/chat", json={**QUESTION, "image": photo()})).json()
        own = {"session_id": answer["session_id"], "message_id": answer["message_id"]}
        await http.post("/feedback", json={**own, "feedback": "thumbs_down"})
        await http.post("/chat", json={})
        response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    for line in (
        'solemate_answers_total{outcome="answered",platform="api"} 1.0',
        'solemate_answer_seconds_count{step="vision"} 1.0',
        'solemate_answer_seconds_count{step="model"} 1.0',
        'solemate_ratings_total{rating="down"} 1.0',
        'solemate_http_requests_total{route="/chat",status="422"} 1.0',
        "solemate_inbox_messages 0.0",
    ):
        assert line in response.text


async def test_metrics_are_shown_even_when_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(tmp_path) as (http, desk):

        async def fail(*_: object) -> None:
            raise StoreError("away")

        monkeypatch.setattr(desk.store, "run", fail)
        response = await http.get("/metrics")
    assert "solemate_inbox_messages NaN" in response.text


async def test_no_page_of_the_api_loads_anything_from_elsewhere(tmp_path: Path) -> None:
    async with api(tmp_path) as (http, _):
        assert (await http.get("/docs")).status_code == 404
        assert (await http.get("/redoc")).status_code == 404
        assert (await http.get("/openapi.json")).status_code == 200
