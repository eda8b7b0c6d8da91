"""Who answers whom, beside a model server in memory that loads, refuses and forgets adapters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
from safetensors.numpy import save_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from core import registry as registry_module
from core.calibration import DEFAULT
from core.engine import Engine, Options
from core.errors import AdapterRejected, ConfigError
from core.index import Index, Recipe
from core.knowledge import Chunk
from core.messages import Adapter, Done, Outcome, Platform, Reply, UserMessage
from core.model import OpenAIChatModel, Sampling
from core.photos import PhotoLimits
from core.prompt import Budget, estimate_tokens
from core.registry import RETRY_SECONDS, Registry, check_adapter, live_adapter
from core.retrieval import RetrievalOptions, Retriever, Snapshot
from core.settings import at_root, load_settings
from core.store import Store
from core.terms import Analyzer
from tests.fakes import FakeVision

SLIDES = "一字拖适合泳池边穿，不适合跑步。"
RANK, WIDTH, HEIGHT = 4, 16, 8


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
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
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


def weights(rank: int = RANK) -> dict[str, np.ndarray]:
    name = "base_model.model.layers.0.proj"
    return {
        f"{name}.lora_A.weight": np.zeros((rank, WIDTH), np.float32),
        f"{name}.lora_B.weight": np.zeros((HEIGHT, rank), np.float32),
    }


def write_base(folder: Path, value: float = 0.0) -> Path:
    folder.mkdir()
    layer = {"layers.0.proj.weight": np.full((HEIGHT, WIDTH), value, np.float32)}
    save_file(layer, folder / "model.safetensors")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    """A folder with a good adapter, beside the base model it was trained on."""
    base = write_base(tmp_path / "base")
    folder = tmp_path / "spoken"
    folder.mkdir()
    save_file(weights(), folder / "adapter_model.safetensors")
    edit_config(folder, peft_type="LORA", r=RANK, base_model_name_or_path=str(base))
    return Adapter("spoken", folder, str(base))


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | changes))


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


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path}/solemate.db") as opened:
        yield opened


def expert_of(store: Store, model: OpenAIChatModel, registry: Registry) -> Expert:
    chunk = Chunk("slides", "一字拖", SLIDES, "written for this project", "types", "zh")
    calibration = replace(DEFAULT, answer_from=0.0, clarify_from=0.0)
    index = Index.of(Recipe(Analyzer()), [chunk])
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
            ),
        )
    )


async def test_a_forgotten_adapter_costs_no_question_and_is_soon_back(
    server: FakeModelServer, model: OpenAIChatModel, adapter: Adapter, store: Store
) -> None:
    registry = Registry(model, "solemate", adapter)
    expert = expert_of(store, model, registry)
    async with registry.reconciling(), asyncio.timeout(10):
        assert (await expert.say("一字拖适合什么时候穿？")).adapter == "spoken"
        server.changed.clear()
        server.loaded.clear()
        forgotten = await expert.say("一字拖适合什么时候穿？")
        assert (forgotten.outcome, forgotten.adapter) == (Outcome.ANSWERED, "solemate")
        await server.changed.wait()
        await registry.reconcile()
        assert (await expert.say("一字拖适合什么时候穿？")).adapter == "spoken"


def spoil(name: str) -> Callable[[Path], None]:
    """A damage that adds this file."""
    return lambda folder: (folder / name).write_bytes(b"") and None


def of_another_rank(folder: Path) -> None:
    edit_config(folder, r=RANK * 2)


def of_other_shape(folder: Path) -> None:
    wide = {name: np.pad(one, ((0, 0), (0, 3))) for name, one in weights().items()}
    save_file(wide, folder / "adapter_model.safetensors")


def for_a_strange_layer(folder: Path) -> None:
    strange = {name.replace("proj", "gate"): one for name, one in weights().items()}
    save_file(strange, folder / "adapter_model.safetensors")


def with_a_whole_layer(folder: Path) -> None:
    whole = {"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}
    save_file(weights() | whole, folder / "adapter_model.safetensors")


def of_another_base(folder: Path) -> None:
    other = write_base(folder.parent / "other", value=1.0)
    edit_config(folder, base_model_name_or_path=str(other))


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "There is no adapter in"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "its JSON"),
        (lambda folder: edit_config(folder, peft_type="IA3"), "peft_type"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot be read"),
        (lambda folder: save_file({}, folder / "adapter_model.safetensors"), "no weights"),
        (spoil("adapter_model.bin"), "a pickle that could run code"),
        (spoil("training_args.PKL"), "a pickle that could run code"),
        (truncated, "cannot be read as safetensors"),
        (of_another_rank, r"is \(4, 16\) where \(8, 16\) belongs"),
        (of_other_shape, "does not fit its base model"),
        (for_a_strange_layer, "has no layer"),
        (with_a_whole_layer, "no plain LoRA"),
        (of_another_base, "whose weights differ"),
    ],
)
def test_a_bad_adapter_is_rejected_with_the_reason(
    adapter: Adapter, damage: Callable[[Path], object], words: str
) -> None:
    check_adapter(adapter)
    assert adapter.path is not None
    damage(adapter.path)
    with pytest.raises(AdapterRejected, match=words):
        check_adapter(adapter)


@pytest.mark.parametrize("named", ["copy", None, "/home/someone/who/trained/it"])
def test_the_base_may_lie_elsewhere_when_its_weights_fit(
    adapter: Adapter, tmp_path: Path, named: str | None
) -> None:
    assert adapter.path is not None
    write_base(tmp_path / "copy")
    name = str(tmp_path / "copy") if named == "copy" else named
    edit_config(adapter.path, base_model_name_or_path=name)
    check_adapter(adapter)


def test_a_base_that_is_not_on_this_disk_is_judged_by_the_ranks_alone(adapter: Adapter) -> None:
    far = Adapter(adapter.name, adapter.path, "served-elsewhere")
    check_adapter(far)
    assert far.path is not None
    of_another_rank(far.path)
    with pytest.raises(AdapterRejected, match="does not fit"):
        check_adapter(far)


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
