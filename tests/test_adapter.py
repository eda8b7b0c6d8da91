"""A LoRA adapter of the shipped expert, served by the embedded server and asked for by name."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from contextlib import aclosing
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from core.errors import ModelMissing
from core.expert import open_model
from core.messages import Adapter, ChatMessage
from core.model import Sampling
from core.openai_model import OpenAIChatModel
from core.registry import Registry
from core.settings import Settings, load_settings
from training.opening import embedded_server
from training.servers.embedded import ServerOptions, running

EXPERT = Path(__file__).parent.parent / "data" / "embedded" / "expert"
PROMPT = (ChatMessage("user", "拖鞋？"),)


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """A LoRA adapter of random weights, with which the expert says something else."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("adapter") / "spoken"
    network = AutoModelForCausalLM.from_pretrained(EXPERT, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(network, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return Adapter("spoken", folder, str(EXPERT))


def path(adapter: Adapter) -> Path:
    assert adapter.path is not None
    return adapter.path


def client_of(url: str) -> OpenAIChatModel:
    return OpenAIChatModel(
        url, "", base_model="solemate", first_token_seconds=60, deadline_seconds=120
    )


async def answer(model: OpenAIChatModel, name: str) -> str:
    sampling = Sampling(max_tokens=8, temperature=0.0)
    async with aclosing(model.stream(PROMPT, name, sampling)) as pieces:
        return "".join([piece.text async for piece in pieces])


async def test_the_embedded_server_answers_with_the_adapter_that_the_registry_chose(
    spoken: Adapter,
) -> None:
    options = ServerOptions(EXPERT, "solemate", "127.0.0.1", 0)
    async with running(options) as url, client_of(url) as model:
        registry = Registry(model, "solemate", spoken)
        plain = await answer(model, await registry.choose("anna"))
        await registry.reconcile()
        assert await registry.choose("anna") == "spoken"
        assert await answer(model, "spoken") != plain
        assert await answer(model, "solemate") == plain


async def test_an_adapter_that_the_embedded_server_forgot_is_loaded_again(
    spoken: Adapter,
) -> None:
    options = ServerOptions(EXPERT, "solemate", "127.0.0.1", 0, adapters={"spoken": path(spoken)})
    async with running(options) as url, client_of(url) as model:
        registry = Registry(model, "solemate", spoken)
        await registry.reconcile()
        before = await answer(model, await registry.choose("anna"))
        await model.unload_adapter("spoken")
        with pytest.raises(ModelMissing):
            await answer(model, await registry.choose("anna"))
        registry.report_missing("spoken")
        assert await registry.choose("anna") == "solemate"
        await registry.reconcile()
        assert await registry.choose("anna") == "spoken"
        assert await answer(model, "spoken") == before


def settings_with(folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that a child process reads as well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes = {
        "DATABASE__FOLDER": str(state),
        "LOGGING__FILE": "",
        "MODEL__BASE_URL": f"http://127.0.0.1:{port}/v1",
        "MODEL__ADAPTER_PATH": str(folder),
    }
    for name, value in changes.items():
        monkeypatch.setenv(f"SOLEMATE__{name}", value)
    return load_settings(environment=os.environ)


async def test_a_model_server_that_was_killed_comes_back_with_its_adapter(
    spoken: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(path(spoken), tmp_path, monkeypatch)
    async with open_model(settings, embedded_server) as model:
        assert await model.models() == ["solemate", "solemate-spoken"]
        os.kill(child_that_serves(settings.model.base_url), signal.SIGKILL)
        await until_healthy(model, wanted=False)
        await until_healthy(model)
        assert await model.models() == ["solemate", "solemate-spoken"]


async def test_the_model_server_starts_without_an_adapter_that_holds_no_numbers(
    spoken: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(shutil.copytree(path(spoken), tmp_path / "broken"))
    tensors = load_file(broken / "adapter_model.safetensors")
    save_file(
        {name: one * float("nan") for name, one in tensors.items()},
        broken / "adapter_model.safetensors",
    )
    settings = settings_with(broken, tmp_path, monkeypatch)
    async with open_model(settings, embedded_server) as model:
        assert await model.models() == ["solemate"]
    said = (tmp_path / "model-server.log").read_text("utf-8")
    assert "adapter_left_out" in said
    assert "no numbers" in said


def child_that_serves(url: str) -> int:
    """The process id of our `solemate serve` for this address."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes().split(b"\0")
            variables = (status.parent / "environ").read_bytes()
        except OSError:
            continue
        if b"serve" in command and url.encode() in variables:
            return int(status.parent.name)
    pytest.fail(f"No model server serves at {url}.")


async def until_healthy(model: OpenAIChatModel, wanted: bool = True) -> None:
    async with asyncio.timeout(120):
        while await model.healthy() is not wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
