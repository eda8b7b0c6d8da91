"""Several model servers answer as one: the least busy that has the adapter, none without it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from core.errors import AdapterRejected, ModelMissing, ModelUnavailable, NotFound
from core.messages import Adapter, ChatMessage
from core.model import Sampling
from core.openai_model import OpenAIChatModel
from core.registry import Registry
from core.replicas import REFUSED_SECONDS, Replicas
from tests.clock import Clock
from tests.core.lora_folders import write_adapter, write_base

PROMPT = (ChatMessage("user", "拖鞋可以跑步吗？"),)
SAMPLING = Sampling(max_tokens=32, temperature=0.0)


@dataclass
class Server:
    """A model server that says its own name, and can be away, broken, slow or forgetful."""

    name: str
    up: bool = True
    broken: bool = False
    refuses: bool = False
    held: bool = False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    loaded: dict[str, str] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
                Route("/health", self.models),
            ]
        )

    async def models(self, _: Request) -> Response:
        return JSONResponse({"data": [{"id": name} for name in ("solemate", *self.loaded)]})

    async def load(self, request: Request) -> Response:
        asked = await request.json()
        if self.refuses:
            return error(500, "LoRA rank 32 is greater than max_lora_rank 16.")
        self.loaded[asked["lora_name"]] = asked["lora_path"]
        return PlainTextResponse("Success")

    async def unload(self, request: Request) -> Response:
        if self.loaded.pop((await request.json())["lora_name"], None) is None:
            return error(404, "The lora adapter cannot be found.")
        return PlainTextResponse("Success")

    async def chat(self, request: Request) -> Response:
        model = (await request.json())["model"]
        self.asked.append(model)
        if self.broken:
            return error(400, "Broken.")
        if model != "solemate" and model not in self.loaded:
            self.missed.append(model)
            return error(404, f"The model `{model}` does not exist.")
        return StreamingResponse(self.words(model), media_type="text/event-stream")

    async def words(self, model: str) -> AsyncIterator[str]:
        if self.held:
            self.writing.set()
            await self.go_on.wait()
        for delta, reason in (({"content": self.name}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            yield f"data: {json.dumps({'model': model, 'choices': [choice]})}\n\n"


def error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status)


class Wire(httpx2.AsyncBaseTransport):
    """The way to a server; nobody listens while it is down."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._asgi = httpx2.ASGITransport(server.app())

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not self._server.up:
            raise httpx2.ConnectError("Connection refused", request=request)
        return await self._asgi.handle_async_request(request)


@pytest.fixture
def servers() -> list[Server]:
    return [Server("one"), Server("two")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def replicas(servers: list[Server], clock: Clock) -> AsyncIterator[Replicas]:
    clients = {
        f"http://{one.name}/v1": OpenAIChatModel(
            f"http://{one.name}/v1",
            "key",
            base_model="solemate",
            first_token_seconds=30,
            deadline_seconds=60,
            http_client=httpx2.AsyncClient(transport=Wire(one)),
        )
        for one in servers
    }
    async with Replicas(clients, "solemate", clock) as opened:
        yield opened


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    return write_adapter(tmp_path / "spoken", write_base(tmp_path / "base"))


async def answer(replicas: Replicas, name: str = "") -> str:
    async with aclosing(replicas.stream(PROMPT, name, SAMPLING)) as pieces:
        return "".join([piece.text async for piece in pieces])


async def test_servers_that_are_as_busy_take_turns(replicas: Replicas) -> None:
    said = Counter([await answer(replicas) for _ in range(10)])
    assert said == {"one": 5, "two": 5}


async def test_the_least_busy_server_is_asked(servers: list[Server], replicas: Replicas) -> None:
    # The transport gives an answer only when it is whole, so that a held one stays being written.
    servers[0].held = True
    held = asyncio.create_task(answer(replicas))
    async with asyncio.timeout(20):
        await servers[0].writing.wait()
    assert [await answer(replicas) for _ in range(6)] == ["two"] * 6
    servers[0].go_on.set()
    assert await held == "one"


async def test_a_server_that_lacks_the_adapter_is_not_asked_for_it(
    servers: list[Server], replicas: Replicas
) -> None:
    servers[1].loaded["spoken"] = "/somewhere"
    found = await replicas.survey()
    assert "spoken" in found.anywhere
    assert "spoken" not in found.everywhere
    assert [await answer(replicas, "spoken") for _ in range(6)] == ["two"] * 6
    assert servers[0].asked == []


async def test_the_registry_loads_the_adapter_where_it_lacks(
    servers: list[Server], replicas: Replicas, adapter: Adapter
) -> None:
    registry = Registry(replicas, "solemate", adapter)
    await registry.reconcile()
    assert all(one.loaded == {"spoken": str(adapter.path)} for one in servers)
    servers[0].loaded.clear()
    await registry.reconcile()
    assert servers[0].loaded == {"spoken": str(adapter.path)}
    assert await registry.choose("anna") == "spoken"


async def test_no_question_fails_when_one_server_forgets(
    servers: list[Server], replicas: Replicas, adapter: Adapter
) -> None:
    registry = Registry(replicas, "solemate", adapter)
    await registry.reconcile()
    servers[0].loaded.clear()
    said = [await answer(replicas, await registry.choose("anna")) for _ in range(10)]
    assert said == ["two"] * 10
    assert len(servers[0].missed) <= 1


async def test_an_adapter_that_nobody_has_is_missing(replicas: Replicas) -> None:
    await replicas.survey()
    with pytest.raises(ModelMissing):
        await answer(replicas, "spoken")


async def test_a_server_that_is_away_costs_no_question(
    servers: list[Server], replicas: Replicas
) -> None:
    servers[0].up = False
    with capture_logs() as lines:
        assert [await answer(replicas) for _ in range(10)] == ["two"] * 10
    assert "http://one/v1" in [line.get("replica") for line in lines]
    assert await replicas.health() == {"http://one/v1": False, "http://two/v1": True}
    assert await replicas.healthy()


async def test_a_server_that_comes_back_is_asked_again(
    servers: list[Server], replicas: Replicas
) -> None:
    servers[0].up = False
    await replicas.survey()
    servers[0].up = True
    await replicas.survey()
    assert {await answer(replicas) for _ in range(4)} == {"one", "two"}


async def test_what_a_server_refuses_is_not_asked_of_another(
    servers: list[Server], replicas: Replicas
) -> None:
    for one in servers:
        one.broken = True
    with pytest.raises(ModelUnavailable):
        await answer(replicas)
    assert sum(len(one.asked) for one in servers) == 1


async def test_without_any_server_there_is_no_answer(
    servers: list[Server], replicas: Replicas
) -> None:
    for one in servers:
        one.up = False
    with pytest.raises(ModelUnavailable):
        await answer(replicas)
    with pytest.raises(ModelUnavailable):
        await replicas.models()
    assert not await replicas.healthy()


async def test_one_server_that_refuses_an_adapter_does_not_keep_it_from_people(
    servers: list[Server], replicas: Replicas, adapter: Adapter, clock: Clock
) -> None:
    servers[0].refuses = True
    registry = Registry(replicas, "solemate", adapter)
    with capture_logs() as lines:
        for _ in range(3):
            await registry.reconcile()
    refusals = [line for line in lines if line["event"] == "adapter_not_on_replica"]
    assert [line["replica"] for line in refusals] == ["http://one/v1"]
    assert await registry.choose("anna") == "spoken"
    assert await answer(replicas, "spoken") == "two"
    lacking = {("http://one/v1", "spoken"): False, ("http://two/v1", "spoken"): True}
    assert registry.loaded_on == lacking
    servers[0].refuses = False
    clock.now = REFUSED_SECONDS
    await registry.reconcile()
    assert "spoken" in servers[0].loaded
    assert all(registry.loaded_on.values())


async def test_an_adapter_that_is_just_being_loaded_is_not_called_missing(
    replicas: Replicas, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(replicas, "solemate", adapter)
    seen = []
    load = replicas.load_adapter

    async def watched(name: str, path: Path) -> None:
        seen.append(registry.loaded_on)
        await load(name, path)

    monkeypatch.setattr(replicas, "load_adapter", watched)
    await registry.reconcile()
    assert seen == [{}]
    assert set(registry.loaded_on.values()) == {True}


async def test_an_adapter_that_every_server_refuses_is_rejected(
    servers: list[Server], replicas: Replicas, tmp_path: Path
) -> None:
    for one in servers:
        one.refuses = True
    await replicas.survey()
    with pytest.raises(AdapterRejected, match="rank 32"):
        await replicas.load_adapter("spoken", tmp_path)


async def test_an_adapter_is_forgotten_everywhere(
    servers: list[Server], replicas: Replicas, tmp_path: Path
) -> None:
    await replicas.survey()
    await replicas.load_adapter("spoken", tmp_path)
    servers[0].loaded.clear()
    await replicas.unload_adapter("spoken")
    assert [one.loaded for one in servers] == [{}, {}]
    with pytest.raises(NotFound):
        await replicas.unload_adapter("spoken")
