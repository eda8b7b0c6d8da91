"""What the gate measures, on the real embedded server: base, live adapter and candidate."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from core.lora import CONFIG
from core.messages import ChatMessage
from core.settings import Settings, at_root, load_settings
from core.store import Store
from tests.training.run_parts import count_words, pair
from training import loop, trial
from training.dataset import FreezeRules, freeze_pairs
from training.gate import GateResult
from training.runs import Run, Runs
from training.seal import put_seal
from training.strength import at_strength
from training.trial import Pair, Trials, drift_from

EXPERT = at_root("data/embedded/expert")
NIGHTLY = pytest.mark.nightly
PROMPT = (ChatMessage("user", "帆布鞋怎么洗？"),)
SAID = [(PROMPT, "您好，用软刷轻轻刷洗。")]


def save_adapter(folder: Path, strength: float, seed: int = 0) -> Path:
    """An adapter of the expert with random weights; without any strength it changes nothing."""
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_pretrained(EXPERT, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(network, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name and strength:
            torch.nn.init.normal_(weight, std=strength)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("changed"), 0.1)


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("idle"), 0.0)


def test_an_adapter_that_changes_nothing_has_not_moved(idle: Path, changed: Path) -> None:
    assert drift_from(EXPERT, idle, SAID) == pytest.approx(0.0, abs=1e-5)
    assert (drift_from(EXPERT, changed, SAID) or 0.0) > 0.01


def test_a_base_that_is_elsewhere_cannot_be_compared_with(tmp_path: Path, idle: Path) -> None:
    assert drift_from(tmp_path, idle, SAID) is None


@pytest.mark.parametrize(
    ("before", "new", "outcome"),
    [
        ("硬刷热水刷。", "软刷温水刷。", 1),
        ("软刷温水刷。", "硬刷热水刷。", -1),
        ("软刷温水刷。", "软刷温水刷。", 0),
    ],
)
def test_who_is_more_like_the_preferred_answer_wins(before: str, new: str, outcome: int) -> None:
    asked = Pair(PROMPT, chosen="软刷温水刷。", rejected="硬刷热水刷。")
    assert trial._outcome(asked, before, new) == outcome


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that a child process reads as well: short answers, and few questions."""
    for name, value in {
        "DATABASE__FOLDER": str(tmp_path / "state"),
        "LOGGING__FILE": "",
        "MODEL__MAX_TOKENS": "12",
        "TRAINING__GATE__GOLDEN_ROWS": "2",
        "RETRIEVAL__EMBEDDING_MODEL": "",
    }.items():
        monkeypatch.setenv(f"SOLEMATE__{name}", value)
    probes = tmp_path / "probes.jsonl"
    lines = at_root(trial.PROBES).read_text("utf-8").splitlines(keepends=True)
    probes.write_text("".join(lines[:2]), "utf-8")
    monkeypatch.setattr(trial, "PROBES", str(probes))
    monkeypatch.setattr(trial, "_USUAL", 1)
    monkeypatch.setattr(trial, "_TAUGHT", 2)
    monkeypatch.setattr(trial, "_HELD_OUT", 2)
    return load_settings(environment=os.environ)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as opened:
        yield opened


@pytest.fixture
async def run(store: Store, settings: Settings) -> Run:
    """A run over pairs of which some are held out."""
    frozen = freeze_pairs(
        [pair(number) for number in range(80)],
        (),
        FreezeRules(cutoff_len=500),
        count_words,
        settings.state / "datasets",
    )
    begun = await Runs(store, settings.state / "runs").start(
        "dpo", "embedded", why="test", who="test", seen=0, now=1.0
    )
    assert begun is not None
    return replace(begun, dataset=frozen.manifest.digest, attempts=1)


def trained(run: Run, adapter: Path) -> Run:
    """The run, once it has trained this adapter."""
    run.attempt.mkdir(parents=True)
    adapter.rename(run.output)
    put_seal(run.output, run=run.id, attempt=1, dataset=run.dataset, base=str(EXPERT), recipe="r")
    return run


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=NIGHTLY) for n in range(1, 20))])
@pytest.mark.parametrize(("strength", "differs"), [(0.1, True), (0.0, False)])
async def test_an_adapter_is_asked_beside_its_base_and_the_live_one(
    settings: Settings,
    store: Store,
    run: Run,
    tmp_path: Path,
    strength: float,
    differs: bool,
    seed: int,
) -> None:
    adapter = await asyncio.to_thread(save_adapter, tmp_path / "made", strength, seed)
    found = await Trials(settings, store).of(trained(run, adapter))
    compared = await found.instruments.compare()
    assert compared.asked == 4
    assert (compared.changed > 0) is differs
    assert compared.won + compared.drawn + compared.lost == 2
    assert compared.questions == 2
    assert len(compared.probes) == 2
    assert set(compared.golden) == {"live", "candidate"}
    assert compared.drift is not None
    assert (compared.drift > 0.01) is differs


async def nobody_judges(run: Run) -> GateResult:
    raise AssertionError(run)


async def test_an_adapter_is_registered_at_the_strength_at_which_it_passed(
    settings: Settings, store: Store, run: Run, tmp_path: Path
) -> None:
    adapter = await asyncio.to_thread(save_adapter, tmp_path / "made", 0.1, 0)
    (adapter / "trainer_state.json").write_text("{}")
    tried = await asyncio.to_thread(at_strength, trained(run, adapter), 1.25)
    name = await loop._release(settings, store, nobody_judges).register(tried)
    alphas = [
        json.loads((folder / CONFIG).read_bytes())["lora_alpha"]
        for folder in (run.output, settings.state / "adapters" / name)
    ]
    assert alphas[1] == 1.25 * alphas[0]
