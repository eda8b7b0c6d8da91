"""A real vLLM behind its door: the shipped model and its adapter, driven by our own client."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from core.errors import AdapterRejected, ModelMissing
from core.messages import Adapter, ChatMessage
from core.model import OpenAIChatModel, Sampling
from core.registry import Registry
from core.settings import ROOT
from tests.conftest import missing
from training.servers.process import model_server

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
EXPERT = ROOT / "data" / "embedded" / "expert"
SPOKEN = ROOT / "data" / "embedded" / "adapter"
PROMPT = (ChatMessage("user", "拖鞋可以跑步吗？"),)
KEYS = {"MODEL_API_KEY": "engine-key", "MODEL_ADMIN_KEY": "loop-key"}

# Importing it alone takes a minute of a slow machine's time.
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="module"),
]


@dataclass(frozen=True)
class Served:
    """Where the door is, and whose words tell what vLLM does."""

    url: str
    model: OpenAIChatModel
    log: Path


@asynccontextmanager
async def client_of(url: str, admin_key: str) -> AsyncIterator[OpenAIChatModel]:
    async with OpenAIChatModel(
        url,
        KEYS["MODEL_API_KEY"],
        base_model="solemate",
        first_token_seconds=120,
        deadline_seconds=240,
        admin_key=admin_key,
    ) as model:
        yield model


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """`solemate serve --engine vllm` without an adapter, on a free port."""
    if not PYTHON.exists():
        missing("vLLM is not installed: make venv-vllm")
    folder = tmp_path_factory.mktemp("vllm")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    environment = {
        **KEYS,
        "SOLEMATE__DATABASE__FOLDER": str(folder),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{folder}/solemate.db",
        "SOLEMATE__MODEL__ADAPTER": "",
        "SOLEMATE__LOGGING__FILE": "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "solemate", "serve", "--engine", "vllm", "--port", str(port)]
    async with (
        client_of(url, KEYS["MODEL_ADMIN_KEY"]) as model,
        model_server(
            command,
            healthy=model.healthy,
            log_file=folder / "serve.log",
            start_seconds=1500,
            environment=environment,
        ),
    ):
        yield Served(url, model, folder / "vllm.log")


async def words(model: OpenAIChatModel, name: str) -> list[str]:
    sampling = Sampling(max_tokens=16, temperature=0.0)
    async with aclosing(model.stream(PROMPT, name, sampling)) as pieces:
        return [piece.text async for piece in pieces]


async def test_the_adapter_is_loaded_as_it_runs_and_chosen_by_each_question(vllm: Served) -> None:
    base = await words(vllm.model, "")
    assert len(base) > 1
    with pytest.raises(ModelMissing):
        await words(vllm.model, "spoken-1")
    await vllm.model.load_adapter("spoken-1", SPOKEN)
    assert await vllm.model.models() == ["solemate", "spoken-1"]
    adapted, again = await asyncio.gather(words(vllm.model, "spoken-1"), words(vllm.model, ""))
    assert again == base
    assert adapted != base
    await vllm.model.unload_adapter("spoken-1")
    assert await vllm.model.models() == ["solemate"]


async def test_what_it_forgot_is_given_to_it_again(vllm: Served) -> None:
    registry = Registry(vllm.model, "solemate", Adapter("spoken-2", SPOKEN, str(EXPERT)))
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken-2"
    # As a restart would have it, which takes minutes here.
    await vllm.model.unload_adapter("spoken-2")
    with pytest.raises(ModelMissing):
        await words(vllm.model, "spoken-2")
    registry.report_missing("spoken-2")
    assert await registry.choose("anna") == "solemate"
    await registry.reconcile()
    assert await registry.choose("anna") == "spoken-2"
    assert await words(vllm.model, "spoken-2")


async def test_a_broken_adapter_is_refused_and_it_goes_on(vllm: Served, tmp_path: Path) -> None:
    with pytest.raises(AdapterRejected):
        await vllm.model.load_adapter("broken", tmp_path)
    assert await words(vllm.model, "")


async def test_the_engines_key_loads_nothing(vllm: Served) -> None:
    async with client_of(vllm.url, "") as engine:
        with pytest.raises(AdapterRejected, match="MODEL_ADMIN_KEY"):
            await engine.load_adapter("spoken-3", SPOKEN)
    async with httpx.AsyncClient(base_url=vllm.url.removesuffix("/v1")) as client:
        for path in ("/adapters", "/invocations", "/tokenize", "/version"):
            assert (await client.post(path, json={})).status_code == 404
    assert "spoken-3" not in await vllm.model.models()
