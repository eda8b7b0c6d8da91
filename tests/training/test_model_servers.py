"""vLLM, the embedded server and LLaMA-Factory's API, all real, asked by the one client they share.

Each serves the shipped model with its adapter. What only some of them can do is said where it is
tested: vLLM and the embedded server take adapters as they run, and answer with and without one in
one process; LLaMA-Factory's API has the adapters it was started with, under one name.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio
from safetensors.torch import load_file, save_file

from core.errors import AdapterRejected, ModelMissing, ModelUnavailable, NoHotLoad
from core.messages import Adapter, ChatMessage, Delta, Done, Outcome, Platform, UserMessage
from core.model import ChatModel, Piece, Sampling
from core.openai_model import OpenAIChatModel
from core.registry import Registry
from core.replicas import Replicas
from core.routes import Route
from core.settings import ROOT
from core.store import Store
from tests.bots.desks import open_desk, open_engine
from tests.conftest import missing
from tests.core.test_registry import keep, send
from training.servers import embedded, llamafactory_api, vllm
from training.servers.proxy import Keys

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
EXPERT = ROOT / "data" / "embedded" / "expert"
SPOKEN = ROOT / "data" / "embedded" / "adapter"
SAMPLING = Sampling(max_tokens=16, temperature=0.0)
PROMPT = (ChatMessage("user", "拖鞋可以跑步吗？"),)
HOST = "127.0.0.1"
KEYS = Keys("engine-key", "loop-key")

# Starting one of them takes minutes where the machine has other things to do.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="module")]
VLLM = pytest.param("vllm", marks=pytest.mark.vllm)
only_vllm = pytest.mark.parametrize("served", [VLLM], indirect=True)
hot = pytest.mark.parametrize("served", [VLLM, "embedded"], indirect=True)
cold = pytest.mark.parametrize("served", ["llamafactory"], indirect=True)


@dataclass(frozen=True)
class Served:
    """A server, its client with every key, and the name that it answers to from its start."""

    url: str
    model: OpenAIChatModel
    name: str


def client_of(url: str, key: str, admin_key: str) -> OpenAIChatModel:
    """A patient client, to be opened with `async with`."""
    return OpenAIChatModel(
        url,
        key,
        base_model="solemate",
        first_token_seconds=120,
        deadline_seconds=240,
        admin_key=admin_key,
    )


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[VLLM, "embedded", "llamafactory"]
)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """One server after the other, each started once."""
    log_file = tmp_path_factory.mktemp("server") / "server.log"
    name = "solemate"
    async with AsyncExitStack() as stack:
        if request.param == "vllm":
            if not PYTHON.exists():
                missing("vLLM is not installed: make venv-vllm")
            found = await vllm.find_vllm(PYTHON)
            options = vllm.VllmOptions(str(EXPERT), name, 768, 16)
            running = vllm.running(found, options, KEYS, HOST, 0, log_file)
        elif request.param == "embedded":
            running = embedded.running(embedded.ServerOptions(EXPERT, name, HOST, 0, keys=KEYS))
        else:
            name = "spoken"
            api = llamafactory_api.ApiOptions(str(EXPERT), name, "chatml", (SPOKEN,))
            running = llamafactory_api.running(api, KEYS, HOST, 0, log_file)
        url = await stack.enter_async_context(running)
        model = await stack.enter_async_context(client_of(url, KEYS.engine, KEYS.loop))
        yield Served(url, model, name)


async def pieces_of(model: ChatModel, name: str) -> list[Piece]:
    async with aclosing(model.stream(PROMPT, name, SAMPLING)) as pieces:
        return [piece async for piece in pieces]


async def words(model: ChatModel, name: str) -> str:
    return "".join(piece.text for piece in await pieces_of(model, name))


async def test_an_answer_comes_in_pieces_and_says_how_it_ended(served: Served) -> None:
    pieces = await pieces_of(served.model, served.name)
    assert len(pieces) > 2
    assert pieces[-1].finish_reason in ("stop", "length")
    assert await pieces_of(served.model, served.name) != []
    assert await words(served.model, served.name) == "".join(one.text for one in pieces)


async def test_it_lists_what_it_answers_to_and_nothing_else_is_there(served: Served) -> None:
    assert await served.model.models() == [served.name]
    assert await served.model.healthy()
    with pytest.raises(ModelMissing):
        await words(served.model, "nobody")


async def test_without_a_key_nobody_is_answered(served: Served) -> None:
    async with client_of(served.url, "wrong", "") as stranger:
        with pytest.raises(ModelUnavailable, match="401"):
            await words(stranger, served.name)
        with pytest.raises(ModelUnavailable, match="401"):
            await stranger.models()


async def test_questions_at_once_are_all_answered(served: Served) -> None:
    alone = await words(served.model, served.name)
    together = await asyncio.gather(*(words(served.model, served.name) for _ in range(4)))
    assert together == [alone] * 4


@hot
async def test_an_adapter_is_loaded_as_it_runs_and_chosen_by_each_question(served: Served) -> None:
    base = await words(served.model, "")
    with pytest.raises(ModelMissing):
        await words(served.model, "spoken-1")
    await served.model.load_adapter("spoken-1", SPOKEN)
    assert await served.model.models() == ["solemate", "spoken-1"]
    adapted, again = await asyncio.gather(words(served.model, "spoken-1"), words(served.model, ""))
    assert again == base
    assert adapted != base
    await served.model.unload_adapter("spoken-1")
    assert await served.model.models() == ["solemate"]


@hot
async def test_what_it_forgot_is_given_to_it_again(served: Served) -> None:
    registry = Registry(served.model, "solemate", Adapter("spoken-2", SPOKEN, str(EXPERT)))
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken-2"
    # What a restart does to it, in no time.
    await served.model.unload_adapter("spoken-2")
    with pytest.raises(ModelMissing):
        await words(served.model, "spoken-2")
    registry.report_missing("spoken-2")
    assert await registry.choose("anna") == "solemate"
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken-2"
    assert await words(served.model, "spoken-2")
    await served.model.unload_adapter("spoken-2")


@hot
async def test_a_broken_adapter_is_refused_and_it_goes_on(served: Served, tmp_path: Path) -> None:
    with pytest.raises(AdapterRejected):
        await served.model.load_adapter("broken", tmp_path)
    assert await words(served.model, "")


@only_vllm
async def test_the_engines_key_loads_nothing(served: Served) -> None:
    async with client_of(served.url, KEYS.engine, "") as engine:
        with pytest.raises(AdapterRejected, match="MODEL_ADMIN_KEY"):
            await engine.load_adapter("spoken-3", SPOKEN)
    async with httpx.AsyncClient(base_url=served.url.removesuffix("/v1")) as client:
        for path in ("/adapters", "/invocations", "/tokenize", "/version"):
            assert (await client.post(path, json={})).status_code == 404
    assert await served.model.models() == ["solemate"]


@cold
async def test_llamafactorys_api_has_the_adapters_of_its_start_alone(served: Served) -> None:
    with pytest.raises(NoHotLoad):
        await served.model.load_adapter("spoken-1", SPOKEN)
    with pytest.raises(ModelMissing):
        await words(served.model, "")


# --- what the loop has to see, on real servers ---


def scaled(folder: Path, share: float) -> Path:
    """The shipped adapter at a share of its strength."""
    folder.mkdir()
    shutil.copy(SPOKEN / "adapter_config.json", folder)
    weights = load_file(SPOKEN / "adapter_model.safetensors")
    legs = {name: one * share if ".lora_B." in name else one for name, one in weights.items()}
    save_file(legs, folder / "adapter_model.safetensors")
    return folder


@hot
async def test_an_adapter_without_any_effect_is_told_from_one_that_has_some(
    served: Served, tmp_path: Path
) -> None:
    await served.model.load_adapter("idle", scaled(tmp_path / "idle", 0.0))
    await served.model.load_adapter("spoken-4", SPOKEN)
    base, idle, spoken = [
        await words(served.model, name) for name in (served.name, "idle", "spoken-4")
    ]
    assert idle == base != spoken
    for name in ("idle", "spoken-4"):
        await served.model.unload_adapter(name)


@hot
async def test_the_engine_streams_through_it_and_names_who_answered(
    served: Served, tmp_path: Path
) -> None:
    await served.model.load_adapter("spoken-5", SPOKEN)
    async with open_desk(tmp_path, served.model) as desk:
        engine = open_engine(desk.store, served.model, adapter="spoken-5")
        question = UserMessage("m1", Platform.WEB, "c1", "anna", "How do I wash canvas shoes?")
        async with aclosing(engine.answer(question)) as events:
            seen = [event async for event in events]
        stored = (await desk.store.history("c1", rounds=1))[0].reply
    deltas = [event for event in seen if isinstance(event, Delta)]
    assert len(deltas) > 2
    assert isinstance(seen[-1], Done)
    assert seen[-1].reply == stored
    assert (stored.outcome, stored.adapter) == (Outcome.ANSWERED, "spoken-5")
    await served.model.unload_adapter("spoken-5")


@cold
async def test_a_second_server_takes_over_from_the_first_and_its_adapters_add_up(
    served: Served, sqlite_url: str, tmp_path: Path
) -> None:
    """Blue is served already; green has an SFT and a DPO adapter that come to the same."""
    halves = (scaled(tmp_path / "sft", 0.5), scaled(tmp_path / "dpo", 0.5))
    api = llamafactory_api.ApiOptions(str(EXPERT), "green", "chatml", halves)
    log_file = tmp_path / "green.log"
    async with AsyncExitStack() as stack:
        running = llamafactory_api.running(api, KEYS, HOST, 0, log_file)
        green = await stack.enter_async_context(running)
        clients = {url: client_of(url, KEYS.engine, KEYS.loop) for url in (served.url, green)}
        replicas = await stack.enter_async_context(Replicas(clients, "solemate"))
        store = await stack.enter_async_context(Store(sqlite_url))
        blue = Adapter(served.name, None, "solemate")
        registry = Registry(replicas, "solemate", blue, store=store, key=b"key")
        await registry.reconcile()
        assert await registry.choose("anna") == served.name
        async with aclosing(replicas.stream(PROMPT, served.name, SAMPLING)) as under_way:
            first = await anext(under_way)
            await keep(store, Adapter("green", halves[1], str(EXPERT)))
            await send(store, Route("green", served.name))
            await registry.refresh()
            await registry.reconcile()
            assert await registry.choose("anna") == "green"
            rest = [piece async for piece in under_way]
        assert rest[-1].finish_reason in ("stop", "length")
        assert await words(replicas, "green") == "".join(one.text for one in [first, *rest])


async def until_healthy(model: OpenAIChatModel, wanted: bool) -> None:
    while True:
        if await model.healthy() is wanted:
            return
        await asyncio.sleep(0.1)


@only_vllm
async def test_a_vllm_that_dies_comes_back_and_is_given_its_adapter_again(served: Served) -> None:
    registry = Registry(served.model, "solemate", Adapter("spoken-6", SPOKEN, str(EXPERT)))
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken-6"
    before = await words(served.model, "spoken-6")
    for process in psutil.Process().children(recursive=True):
        if "vllm.entrypoints" in " ".join(process.cmdline()):
            process.kill()
    await until_healthy(served.model, False)
    await until_healthy(served.model, True)
    assert await served.model.models() == ["solemate"]
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken-6"
    assert await words(served.model, "spoken-6") == before
    await served.model.unload_adapter("spoken-6")
