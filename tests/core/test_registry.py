"""Who answers whom, beside a model server in memory that loads, refuses and forgets adapters."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import httpx2
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as Endpoint
from structlog.testing import capture_logs

from core import registry as registry_module
from core.calibration import DEFAULT
from core.engine import Engine, Options
from core.errors import ConfigError, StoreError
from core.index import Index, Recipe
from core.knowledge import Chunk
from core.lora import LoraConfig
from core.messages import Adapter, Done, Outcome, Platform, Reply, UserMessage
from core.model import Sampling, Survey
from core.openai_model import OpenAIChatModel
from core.photos import PhotoLimits
from core.prompt import Budget, estimate_tokens
from core.registry import DRAIN_SECONDS, RETRY_SECONDS, Registry, live_adapter
from core.retrieval import RetrievalOptions, Retriever, Snapshot
from core.routes import Route, draws_canary
from core.settings import at_root, load_settings
from core.store import Store
from core.tables import adapters, routes
from core.terms import Analyzer
from tests.clock import Clock
from tests.core.lora_folders import write_adapter, write_base
from tests.fakes import FakeVision

SLIDES = "一字拖适合泳池边穿，不适合跑步。"


@dataclass
class FakeModelServer:
    """A model server's routes in memory, with vLLM's answers; everyone says the same sentence."""

    hot_load: bool = True
    up: bool = True
    refuses: bool = False
    loaded: dict[str, str] = field(default_factory=dict)
    offered: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        routes = [
            Endpoint("/v1/models", self.models),
            Endpoint("/v1/chat/completions", self.chat, methods=["POST"]),
            Endpoint("/v1/load_lora_adapter", self.load, methods=["POST"]),
            Endpoint("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
        ]
        return Starlette(routes=routes if self.hot_load else routes[:2])

    async def models(self, _: Request) -> Response:
        if not self.up:
            return _error(503, "Starting.")
        return JSONResponse({"data": [{"id": name} for name in ("solemate", *self.loaded)]})

    async def load(self, request: Request) -> Response:
        asked = await request.json()
        self.offered.append(asked["lora_path"])
        if self.refuses:
            return _error(500, "LoRA rank 32 is greater than max_lora_rank 16.")
        self.loaded[asked["lora_name"]] = asked["lora_path"]
        self.changed.set()
        return PlainTextResponse("Success")

    async def unload(self, request: Request) -> Response:
        self.loaded.pop((await request.json())["lora_name"])
        return PlainTextResponse("Success")

    async def chat(self, request: Request) -> Response:
        asked = (await request.json())["model"]
        if asked != "solemate" and asked not in self.loaded:
            return _error(404, f"The model `{asked}` does not exist.")
        events = [({"content": SLIDES}, None), ({}, "stop")]
        lines = [
            {"model": asked, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            for delta, reason in events
        ]
        body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines)
        return Response(body, media_type="text/event-stream")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status)


@pytest.fixture
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture
async def model(server: FakeModelServer) -> AsyncIterator[OpenAIChatModel]:
    async with OpenAIChatModel(
        "http://server/v1",
        "key",
        base_model="solemate",
        first_token_seconds=5,
        deadline_seconds=20,
        http_client=httpx2.AsyncClient(
            transport=httpx2.ASGITransport(
                lambda scope, receive, send: server.app()(scope, receive, send)
            )
        ),
    ) as client:
        yield client


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    """A folder with a good adapter, beside the base model it was trained on."""
    return write_adapter(tmp_path / "spoken", write_base(tmp_path / "base"))


async def test_without_an_adapter_the_base_model_answers_and_nobody_is_asked(
    server: FakeModelServer, model: OpenAIChatModel
) -> None:
    registry = Registry(model, "solemate", None)
    server.up = False
    await registry.reconcile()
    assert await registry.choose("anna") == "solemate"
    assert registry.complete


async def test_a_missing_adapter_is_loaded_and_answers(
    server: FakeModelServer, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = Registry(model, "solemate", adapter)
    assert await registry.choose("anna") == "solemate"
    assert not registry.complete
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken"
    assert registry.complete
    assert server.offered == [str(adapter.path)]


async def test_an_adapter_that_the_server_has_is_not_loaded_again(
    server: FakeModelServer, model: OpenAIChatModel
) -> None:
    server.loaded["spoken"] = "/elsewhere"
    registry = Registry(model, "solemate", Adapter("spoken", None, "solemate"))
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken"
    assert server.offered == []


async def test_an_adapter_without_a_folder_waits_until_the_server_has_it(
    server: FakeModelServer, model: OpenAIChatModel
) -> None:
    registry = Registry(model, "solemate", Adapter("spoken", None, "solemate"))
    await registry.reconcile()
    assert await registry.choose("anna") == "solemate"
    server.loaded["spoken"] = "/started/with/it"
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken"


async def test_a_folder_that_only_the_server_sees_is_offered_unchecked(
    server: FakeModelServer, model: OpenAIChatModel
) -> None:
    registry = Registry(model, "solemate", Adapter("spoken", Path("/far/away"), "solemate"))
    await registry.reconcile()
    assert server.loaded == {"spoken": "/far/away"}


async def test_a_server_without_hot_load_is_asked_once_and_said_once(
    server: FakeModelServer, model: OpenAIChatModel, adapter: Adapter
) -> None:
    server.hot_load = False
    now = [0.0]
    registry = Registry(model, "solemate", adapter, lambda: now[0])
    with capture_logs() as lines:
        for _ in range(3):
            await registry.reconcile()
            now[0] += 10 * RETRY_SECONDS
    said = [line for line in lines if line["event"] == "adapter_not_loaded"]
    assert len(said) == 1
    assert "takes no adapters while it runs" in said[0]["problem"]
    assert await registry.choose("anna") == "solemate"


async def test_a_refused_adapter_is_left_alone_for_a_while_and_then_offered_again(
    server: FakeModelServer, model: OpenAIChatModel, adapter: Adapter
) -> None:
    server.refuses = True
    now = [0.0]
    registry = Registry(model, "solemate", adapter, lambda: now[0])
    await registry.reconcile()
    await registry.reconcile()
    assert len(server.offered) == 1
    assert await registry.choose("anna") == "solemate"
    server.refuses = False
    now[0] = RETRY_SECONDS
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken"


async def test_a_bad_folder_is_never_offered(
    server: FakeModelServer, model: OpenAIChatModel, adapter: Adapter
) -> None:
    assert adapter.path is not None
    (adapter.path / "adapter_model.bin").write_bytes(b"")
    registry = Registry(model, "solemate", adapter)
    await registry.reconcile()
    assert server.offered == []
    assert not registry.complete


async def test_a_server_that_is_away_is_taken_to_have_what_it_had(
    server: FakeModelServer, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = Registry(model, "solemate", adapter)
    await registry.reconcile()
    server.up = False
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken"


async def test_a_report_about_another_adapter_changes_nothing(
    model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = Registry(model, "solemate", adapter)
    await registry.reconcile()
    registry.report_missing("older")
    assert await registry.choose("anna") == "spoken"


async def test_a_server_that_forgot_is_given_its_adapter_again_without_a_question(
    server: FakeModelServer,
    model: OpenAIChatModel,
    adapter: Adapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry_module, "RECONCILE_SECONDS", 0.01)
    async with Registry(model, "solemate", adapter).reconciling(), asyncio.timeout(10):
        server.changed.clear()
        server.loaded.clear()
        await server.changed.wait()
    assert server.loaded == {"spoken": str(adapter.path)}


class Mount:
    """The folder of the adapters on another machine, which can be cut off, or never answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.problem: OSError | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.looks = 0
        check = registry_module.check_adapter

        def check_there(adapter: Adapter) -> LoraConfig:
            self.looks += 1
            self.answers.wait(60)
            if self.problem is not None:
                raise self.problem
            return check(adapter)

        monkeypatch.setattr(registry_module, "check_adapter", check_there)


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    mount = Mount(monkeypatch)
    yield mount
    mount.answers.set()


CUT = OSError(errno.ENOTCONN, "Transport endpoint is not connected")


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until it is so."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("It never became so.")


async def test_an_adapter_whose_folder_is_cut_off_is_loaded_when_it_is_back(
    server: FakeModelServer,
    model: OpenAIChatModel,
    adapter: Adapter,
    mount: Mount,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry_module, "RECONCILE_SECONDS", 0.01)
    mount.problem = CUT
    registry = Registry(model, "solemate", adapter)
    with capture_logs() as lines:
        async with registry.reconciling():
            await until(lambda: mount.looks > 2)
            assert server.offered == []
            assert registry.why_missing("spoken") == "Transport endpoint is not connected"
            mount.problem = None
            await until(lambda: registry.complete)
    assert registry.why_missing("spoken") == ""
    assert [line["event"] for line in lines] == ["adapter_unreadable", "adapter_loaded"]


async def test_a_folder_that_never_answers_is_looked_at_once_and_holds_nobody_up(
    server: FakeModelServer,
    model: OpenAIChatModel,
    adapter: Adapter,
    mount: Mount,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for pace in ("RECONCILE_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(registry_module, pace, 0.01)
    mount.answers.clear()
    await keep(store, named("one", adapter))
    server.loaded["one"] = "there"
    registry = Registry(model, "solemate", adapter, store=store)
    async with registry.reconciling():
        await until(lambda: registry.why_missing("spoken") != "")
        await send(store, Route("one"))
        await until(lambda: registry.route.live == "one")
        assert await registry.choose("anna") == "one"
        await send(store, Route("spoken"))
        await until(lambda: registry.route.live == "spoken")
        assert mount.looks == 1
        mount.answers.set()
        await until(lambda: registry.complete)
    assert mount.looks == 1


async def test_an_error_that_nobody_expects_ends_one_round_and_not_those_that_follow(
    server: FakeModelServer,
    model: OpenAIChatModel,
    adapter: Adapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry_module, "RECONCILE_SECONDS", 0.01)
    survey, bad = model.survey, asyncio.Event()
    bad.set()

    async def failing() -> Survey:
        if bad.is_set():
            raise RuntimeError("Nobody thought of this.")
        return await survey()

    monkeypatch.setattr(model, "survey", failing)
    registry = Registry(model, "solemate", adapter)
    with capture_logs() as lines:
        async with registry.reconciling():
            assert "RuntimeError" in registry.problem
            bad.clear()
            await until(lambda: registry.complete and not registry.problem)
    assert "adapters_not_looked_after" in [line["event"] for line in lines]


def named(name: str, adapter: Adapter) -> Adapter:
    """Another adapter, with the same files."""
    return replace(adapter, name=name)


async def keep(store: Store, *known: Adapter) -> None:
    """Register these adapters."""

    def work(connection: Connection) -> None:
        for one in known:
            row = {"name": one.name, "path": str(one.path), "base": one.base_model}
            more = {"digest": "", "manifest": {}, "state": "ready", "created_at": 0.0}
            connection.execute(sa.insert(adapters).values(**row, **more))

    await store.run(work)


async def send(store: Store, route: Route) -> None:
    """Commit who answers, as another process would."""
    values = {**asdict(route), "routed_at": 1.0}
    await store.run(lambda connection: connection.execute(sa.insert(routes).values(values)))


async def routed(
    store: Store, model: OpenAIChatModel, adapter: Adapter, route: Route, clock: Clock | None = None
) -> Registry:
    """A registry that has followed a route between `one`, `two` and `three`."""
    await keep(store, *(named(name, adapter) for name in ("one", "two", "three")))
    await send(store, route)
    registry = Registry(model, "solemate", adapter, clock or Clock(), store=store, key=b"key")
    await registry.refresh()
    await registry.reconcile()
    return registry


async def choices(registry: Registry, people: int = 400) -> Counter[str]:
    return Counter([await registry.choose(f"person-{number}") for number in range(people)])


async def test_without_a_route_the_settings_adapter_answers(
    store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = Registry(model, "solemate", adapter, store=store)
    await registry.refresh()
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken"


async def test_a_promotion_by_another_process_is_followed(
    server: FakeModelServer, store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = Registry(model, "solemate", adapter, store=store)
    await registry.reconcile()
    await keep(store, named("one", adapter))
    await send(store, Route("one", "spoken"))
    assert await registry.refresh()
    assert await registry.choose("anna") == "spoken"
    await registry.reconcile()
    assert await registry.choose("anna") == "one"
    assert set(server.loaded) == {"spoken", "one"}


async def test_a_route_is_followed_without_a_question(
    server: FakeModelServer,
    store: Store,
    model: OpenAIChatModel,
    adapter: Adapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry_module, "ROUTE_SECONDS", 0.01)
    await keep(store, named("one", adapter))
    registry = Registry(model, "solemate", adapter, store=store)
    async with registry.reconciling(), asyncio.timeout(10):
        server.changed.clear()
        await send(store, Route("one", "spoken"))
        await server.changed.wait()
    assert "one" in server.loaded


async def test_a_canary_gets_its_share_of_people_and_keeps_them_as_it_grows(
    store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = await routed(store, model, adapter, Route("one", canary="two", share=0.05))
    people = [f"person-{number}" for number in range(2000)]
    first = {one for one in people if await registry.choose(one) == "two"}
    assert 60 <= len(first) <= 140
    assert first == {one for one in people if await registry.choose(one) == "two"}
    await send(store, Route("one", canary="two", share=0.2))
    await registry.refresh()
    wider = {one for one in people if await registry.choose(one) == "two"}
    assert first < wider
    assert 320 <= len(wider) <= 480


async def test_another_canary_and_another_key_draw_other_people(
    store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    people = [f"person-{number}" for number in range(500)]

    def drawn(key: bytes, canary: str) -> set[str]:
        route = Route("one", canary=canary, share=0.2)
        return {one for one in people if draws_canary(key, route, one)}

    assert drawn(b"key", "two") == drawn(b"key", "two")
    assert drawn(b"key", "two") != drawn(b"key", "three")
    assert drawn(b"key", "two") != drawn(b"other", "two")


async def test_people_of_a_canary_that_is_not_loaded_get_the_live_adapter(
    server: FakeModelServer, store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = await routed(store, model, adapter, Route("one", canary="two", share=0.5))
    registry.report_missing("two")
    assert await choices(registry) == {"one": 400}
    assert registry.complete


async def test_who_was_live_before_answers_while_the_live_adapter_is_away(
    store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = await routed(store, model, adapter, Route("two", "one"))
    registry.report_missing("two")
    assert await choices(registry) == {"one": 400}
    assert not registry.complete
    await registry.reconcile()
    assert await choices(registry) == {"two": 400}


async def test_live_previous_and_canary_are_all_loaded_again_after_a_restart(
    server: FakeModelServer, store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = await routed(store, model, adapter, Route("two", "one", "three", 0.5))
    server.loaded.clear()
    await registry.reconcile()
    assert set(server.loaded) == {"one", "two", "three"}


async def test_the_base_model_can_be_live(
    store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    registry = await routed(store, model, adapter, Route("", "one"))
    assert await choices(registry) == {"solemate": 400}
    assert registry.complete
    assert registry.live is None


async def test_an_adapter_that_nobody_is_sent_to_stays_loaded_until_its_answers_have_ended(
    server: FakeModelServer, store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    clock = Clock()
    registry = await routed(store, model, adapter, Route("one", canary="two", share=0.5), clock)
    await send(store, Route("one"))
    await registry.refresh()
    clock.now += DRAIN_SECONDS - 1
    await registry.reconcile()
    assert "two" in server.loaded
    clock.now += 1
    await registry.reconcile()
    assert set(server.loaded) == {"one"}


async def test_what_somebody_else_loaded_is_never_unloaded(
    server: FakeModelServer, store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    server.loaded["theirs"] = "/elsewhere"
    clock = Clock()
    registry = await routed(store, model, adapter, Route("one"), clock)
    clock.now += 2 * DRAIN_SECONDS
    await registry.reconcile()
    assert "theirs" in server.loaded


async def test_an_adapter_that_was_never_registered_is_passed_over(
    store: Store, model: OpenAIChatModel, adapter: Adapter
) -> None:
    with capture_logs() as lines:
        registry = await routed(store, model, adapter, Route("gone", "one"))
    assert await choices(registry) == {"one": 400}
    assert any("Nobody registered" in line.get("problem", "") for line in lines)


async def test_a_database_that_is_away_changes_nobodys_route(
    tmp_path: Path, model: OpenAIChatModel, adapter: Adapter
) -> None:
    class Away(Store):
        async def run(self, work: object) -> NoReturn:
            raise StoreError("away")

    registry = Registry(model, "solemate", adapter, store=Away(f"sqlite:///{tmp_path}/x.db"))
    assert not await registry.refresh()
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken"


@dataclass
class Expert:
    """An engine whose model and registry are on the fake server."""

    engine: Engine
    count: int = 0

    async def say(self, text: str) -> Reply:
        self.count += 1
        message = UserMessage(f"m{self.count}", Platform.WEB, f"c{self.count}", "anna", text)
        events = [event async for event in self.engine.answer(message)]
        assert isinstance(events[-1], Done)
        return events[-1].reply


def expert_of(store: Store, model: OpenAIChatModel, registry: Registry) -> Expert:
    chunk = Chunk("slides", "一字拖", SLIDES, "written for this project", "types", "zh")
    calibration = replace(DEFAULT, answer_from=0.0, clarify_from=0.0)
    index = Index.of(Recipe(Analyzer(), None, "cpu"), [chunk])
    return Expert(
        Engine(
            store=store,
            retriever=Retriever(
                Snapshot(index, calibration), RetrievalOptions(1, 0.5, "weighted", 0.0)
            ),
            vision=FakeVision(),
            model=model,
            choose_adapter=registry.choose,
            report_missing=registry.report_missing,
            options=Options(
                base_model="solemate",
                sampling=Sampling(max_tokens=100, temperature=0.0),
                budget=Budget(2000, estimate_tokens),
                photo_limits=PhotoLimits(max_bytes=1000, max_pixels=1000),
                max_characters=500,
                rounds=5,
                expire_seconds=3600,
                min_support=0.3,
                history_rounds=5,
                rewrite="carry",
            ),
        )
    )


async def test_a_forgotten_adapter_costs_no_question_and_is_soon_back(
    server: FakeModelServer, model: OpenAIChatModel, adapter: Adapter, store: Store
) -> None:
    registry = Registry(model, "solemate", adapter)
    expert = expert_of(store, model, registry)
    async with registry.reconciling(), asyncio.timeout(120):
        assert (await expert.say("一字拖适合什么时候穿？")).adapter == "spoken"
        for _ in range(20):
            server.changed.clear()
            server.loaded.clear()
            forgotten = await expert.say("一字拖适合什么时候穿？")
            assert (forgotten.outcome, forgotten.adapter) == (Outcome.ANSWERED, "solemate")
            await server.changed.wait()
            await registry.reconcile()
            assert (await expert.say("一字拖适合什么时候穿？")).adapter == "spoken"


def chosen(**changes: str) -> Adapter | None:
    environment = {f"SOLEMATE__MODEL__{name}": value for name, value in changes.items()}
    return live_adapter(load_settings(environment=environment).model)


def test_the_shipped_adapter_answers_by_default() -> None:
    expert = str(at_root("data/embedded/expert"))
    path = at_root("data/embedded/adapter")
    assert chosen() == Adapter("solemate-spoken", path, expert)


def test_no_name_means_no_adapter() -> None:
    assert chosen(ADAPTER="") is None


@pytest.mark.parametrize(
    ("path", "offered"),
    [("data/embedded/adapter", None), ("", None), ("/srv/shoes", Path("/srv/shoes"))],
)
def test_another_server_is_only_offered_a_folder_named_in_full(
    path: str, offered: Path | None
) -> None:
    found = chosen(EMBEDDED="false", ADAPTER_PATH=path)
    assert found == Adapter("solemate-spoken", offered, "solemate")


def test_an_adapter_needs_a_name_of_its_own() -> None:
    with pytest.raises(ConfigError, match="a name of its own"):
        chosen(ADAPTER="solemate")
