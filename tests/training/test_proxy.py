"""What gets through the door before a model server, with which key, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from bench.loopback import served
from core.errors import ConfigError
from training.servers.proxy import MAX_BODY_BYTES, Keys, Upstream, door

ENGINE, LOOP, INNER = "engine-key", "loop-key", "inner-key"
METHODS = ("GET", "POST", "DELETE", "PUT")
# What a vLLM answers besides the door's own paths, some of it without asking for its key.
OPEN = (
    "/adapters", "/adapters/spoken", "/invocations", "/tokenize", "/detokenize", "/load", "/ping",
    "/version", "/pause", "/update_weights", "/v1/completions", "/v1/embeddings", "/v1/responses",
    "/v1/score", "/docs", "/openapi.json", "/v1/models/solemate", "//v1/load_lora_adapter",
    "/v1/load_lora_adapter/", "/v1/../adapters", "/V1/models", "/collective_rpc", "/sleep",
)  # fmt: skip


class Server:
    """Answers to every path, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()

    def app(self) -> Starlette:
        chat = Route("/v1/chat/completions", self.chat, methods=["POST"])
        return Starlette(routes=[chat, Route("/{path:path}", self.answer, methods=list(METHODS))])

    def note(self, request: Request) -> None:
        key = request.headers.get("authorization", "")
        self.asked.append((request.method, request.url.path, key))

    async def answer(self, request: Request) -> JSONResponse:
        self.note(request)
        return JSONResponse({"path": request.url.path})

    async def chat(self, request: Request) -> StreamingResponse:
        self.note(request)
        await request.body()
        return StreamingResponse(self._words(), media_type="text/event-stream")

    async def _words(self) -> AsyncIterator[str]:
        try:
            yield "data: one\n\n"
            await self.go_on.wait()
            yield "data: two\n\n"
        finally:
            self.left.set()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def at_door(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        served(server.app()) as address,
        door(Upstream(address, INNER), Keys(ENGINE, LOOP), "127.0.0.1", 0) as url,
        httpx.AsyncClient(base_url=url.removesuffix("/v1"), timeout=30) as client,
    ):
        yield client


def key(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"} if text else {}


@pytest.mark.parametrize("given", ["", ENGINE, LOOP])
async def test_what_is_not_listed_is_not_there(
    server: Server, at_door: httpx.AsyncClient, given: str
) -> None:
    for path in OPEN:
        for method in METHODS:
            answer = await at_door.request(method, path, headers=key(given))
            assert answer.status_code == 404, (method, path)
    assert server.asked == []


async def test_a_listed_path_takes_its_own_method_alone(
    server: Server, at_door: httpx.AsyncClient
) -> None:
    assert (await at_door.get("/v1/load_lora_adapter", headers=key(LOOP))).status_code == 404
    assert (await at_door.delete("/v1/models", headers=key(LOOP))).status_code == 404
    assert server.asked == []


@pytest.mark.parametrize(
    ("given", "models", "load"),
    [("", 401, 401), ("wrong", 401, 401), ("schlüssel", 401, 401), (ENGINE, 200, 403),
     (LOOP, 200, 200)],
)  # fmt: skip
async def test_questions_and_adapters_have_a_key_each(
    at_door: httpx.AsyncClient, given: str, models: int, load: int
) -> None:
    headers = {"Authorization": f"Bearer {given}".encode()} if given else {}
    assert (await at_door.get("/v1/models", headers=headers)).status_code == models
    for path in ("/health", "/metrics"):
        assert (await at_door.get(path, headers=headers)).status_code == models
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        assert (await at_door.post(path, json={}, headers=headers)).status_code == load


async def test_the_server_behind_sees_its_own_key_and_never_theirs(
    server: Server, at_door: httpx.AsyncClient
) -> None:
    await at_door.get("/v1/models", headers=key(ENGINE))
    assert server.asked == [("GET", "/v1/models", f"Bearer {INNER}")]


async def test_words_are_passed_on_as_they_come(server: Server, at_door: httpx.AsyncClient) -> None:
    async with at_door.stream("POST", "/v1/chat/completions", headers=key(ENGINE)) as answer:
        words = answer.aiter_text()
        assert await anext(words) == "data: one\n\n"
        server.go_on.set()
        assert await anext(words) == "data: two\n\n"


async def test_a_reader_who_leaves_frees_the_server(
    server: Server, at_door: httpx.AsyncClient
) -> None:
    async with at_door.stream("POST", "/v1/chat/completions", headers=key(ENGINE)) as answer:
        await anext(answer.aiter_text())
    async with asyncio.timeout(20):
        await server.left.wait()


async def test_a_huge_body_is_refused_before_it_is_passed_on(
    server: Server, at_door: httpx.AsyncClient
) -> None:
    huge = b"x" * (MAX_BODY_BYTES + 1)
    answer = await at_door.post("/v1/chat/completions", content=huge, headers=key(ENGINE))
    assert answer.status_code == 413
    assert server.asked == []


async def test_a_server_that_is_away_is_a_503() -> None:
    async with (
        door(Upstream("http://127.0.0.1:9"), Keys(), "127.0.0.1", 0) as url,
        httpx.AsyncClient() as client,
    ):
        answer = await client.get(f"{url}/models")
    assert answer.status_code == 503
    assert "does not answer" in answer.json()["error"]["message"]


async def test_without_a_loops_key_nobody_loads_an_adapter(server: Server) -> None:
    async with (
        served(server.app()) as address,
        door(Upstream(address), Keys(ENGINE), "127.0.0.1", 0) as url,
        httpx.AsyncClient() as client,
    ):
        for given in ("", ENGINE):
            answer = await client.post(f"{url}/load_lora_adapter", json={}, headers=key(given))
            assert answer.status_code == 403
    assert server.asked == []


async def test_a_server_with_one_model_answers_to_its_name_alone(server: Server) -> None:
    upstream = Upstream("", model="spoken", health="/v1/models")
    async with served(server.app()) as address:
        behind = Upstream(address, model=upstream.model, health=upstream.health)
        async with (
            door(behind, Keys(), "127.0.0.1", 0) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as client,
        ):
            server.go_on.set()
            asked = [
                (await client.post("/chat/completions", json=body)).status_code
                for body in ({"model": "spoken"}, {"model": "other"}, {}, [])
            ]
            health = await client.get(url.replace("/v1", "/health"))
            load = await client.post("/load_lora_adapter", json={})
    assert asked == [200, 404, 400, 400]
    assert health.json() == {"path": "/v1/models"}
    assert load.status_code == 403


@pytest.mark.parametrize(
    ("keys", "host", "words"),
    [(Keys(), "0.0.0.0", "MODEL_API_KEY"), (Keys("a", "a"), "127.0.0.1", "are the same")],
)
def test_keys_that_leave_a_door_open_are_named(keys: Keys, host: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        keys.check(host)
    Keys("a", "b").check(host)
