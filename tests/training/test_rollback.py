"""A rollback by another process, on the real embedded server, while answers are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from core import registry as registry_module
from core.messages import Adapter
from core.openai_model import OpenAIChatModel
from core.registry import Registry
from core.settings import at_root
from core.store import Store
from tests.training.people import People
from training.adapters import Adapters, NewAdapter
from training.servers.embedded import ServerOptions, running

EXPERT = at_root("data/embedded/expert")
PROMISED_SECONDS = 10


def save_adapter(folder: Path, seed: int) -> Path:
    """An adapter of the expert with random weights: it never comes to an end of its own."""
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_pretrained(EXPERT, dtype=torch.float32)
    adapted = get_peft_model(network, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running(ServerOptions(EXPERT, "solemate", "127.0.0.1", 0)) as opened:
        yield opened


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as opened:
        yield opened


@pytest.fixture
async def adapters(store: Store, tmp_path: Path) -> Adapters:
    """Two registered adapters, the second of them live."""
    made = Adapters(store, tmp_path / "adapters")
    for number in (1, 2):
        output = await asyncio.to_thread(save_adapter, tmp_path / f"run-{number}", number)
        new = NewAdapter(f"dpo-{number}", output, str(EXPERT), "", {})
        found = await made.register(new, who="test", now=float(number))
        await made.promote(found.name, who="test", now=float(number))
    return made


async def test_a_rollback_takes_seconds_and_costs_no_answer(
    url: str,
    store: Store,
    adapters: Adapters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry_module, "ROUTE_SECONDS", 0.1)
    async with (
        OpenAIChatModel(
            url, "", base_model="solemate", first_token_seconds=60, deadline_seconds=120
        ) as model,
        Store(f"sqlite:///{tmp_path / 's.db'}", exclusive=False) as other,
    ):
        registry = Registry(model, "solemate", None, store=store, key=b"key")
        async with registry.reconciling(), asyncio.TaskGroup() as tasks:
            people, begun = People(registry, model), asyncio.Event()
            await people.ask_until("anna", "shoes-v2")
            long = tasks.create_task(people.ask("bea", tokens=150, begun=begun))
            await begun.wait()
            operator = Adapters(other, tmp_path / "adapters")
            await operator.roll_back(who="test", now=9.0)
            async with asyncio.timeout(PROMISED_SECONDS):
                await people.ask_until("anna", "shoes-v1")
        assert long.result() == "shoes-v2"
        assert set(people.answered) == {"shoes-v1", "shoes-v2"}


async def test_an_adapter_that_was_registered_is_served_from_its_place(
    url: str, store: Store, adapters: Adapters
) -> None:
    found = await adapters.get("shoes-v2")
    assert found.adapter == Adapter("shoes-v2", found.path, str(EXPERT), found.digest)
    async with OpenAIChatModel(
        url, "", base_model="solemate", first_token_seconds=60, deadline_seconds=120
    ) as model:
        registry = Registry(model, "solemate", None, store=store)
        await registry.refresh()
        await registry.reconcile()
        assert set(await model.models()) == {"solemate", "shoes-v1", "shoes-v2"}
        assert await registry.choose("anna") == "shoes-v2"
