"""A build makes what is missing, and only that."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import TrainingFailed
from training import build
from training.build import BuildPlan, build_models
from training.embedder import EmbedderPlan
from training.llamafactory import Value
from training.material import load_material
from training.pretrain import PretrainPlan, Shape
from training.progress import TrainingProgress

pytestmark = pytest.mark.long

DATA = Path(__file__).parents[2] / "data"


@dataclass
class FakeTrainer:
    """Leaves what LLaMA-Factory would leave: "merging" is copying the base.

    `first_reward` is what its DPO logs at the first step.
    """

    asked: list[str] = field(default_factory=list)
    first_reward: float = 0.0

    async def __call__(
        self,
        command: str,
        keys: Mapping[str, Value],
        folder: Path,
        on_progress: Callable[[TrainingProgress], None] = lambda progress: None,
        threads: int = 1,
    ) -> Path:
        self.asked.append(command)
        if command == "export":
            shutil.copytree(
                str(keys["model_name_or_path"]), str(keys["export_dir"]), dirs_exist_ok=True
            )
        elif keys["stage"] == "dpo":
            self._leave_adapter(Path(str(keys["output_dir"])))
        return folder / "log"

    def _leave_adapter(self, made: Path) -> None:
        made.mkdir(parents=True, exist_ok=True)
        config = {
            "base_model_name_or_path": "/somewhere/expert",
            "target_modules": ["b", "a"],
            "lora_alpha": 32,
        }
        (made / "adapter_config.json").write_text(json.dumps(config))
        save_file({"a.lora_A.weight": torch.ones(2, 4)}, made / "adapter_model.safetensors")
        points = [{"step": 1, "loss": 0.69, "rewards/chosen": self.first_reward}, {"runtime": 2.0}]
        (made / "trainer_state.json").write_text(json.dumps({"log_history": points}))


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    data = tmp_path / "data"
    (data / "eval").mkdir(parents=True)
    for name in (
        *("knowledge_base.json", "questions.jsonl", "spoken.jsonl", "synonyms.txt"),
        *("eval/held_out_entries.json", "eval/retrieval.jsonl"),
    ):
        shutil.copy(DATA / name, data / name)
    return BuildPlan(
        data=data,
        work=tmp_path / "work",
        shape=Shape(layers=5, width=64, heads=4, inner=64),
        pretraining=PretrainPlan(tokens=3_000, batch_tokens=2_000),
        embedding=EmbedderPlan(width=8, steps=1),
        threads=1,
    )


def _nobody(step: str, done: int, total: int, note: str = "") -> None:
    """Watches nothing."""


async def test_a_build_leaves_a_model_that_loads_and_knows_its_end(plan: BuildPlan) -> None:
    folder = await build_models(plan, _nobody, FakeTrainer())
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (
        model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(folder).eos_token_id
    )


async def test_a_second_build_does_nothing(plan: BuildPlan) -> None:
    await build_models(plan, _nobody, FakeTrainer())
    second = FakeTrainer()
    await build_models(plan, _nobody, second)
    assert second.asked == []


async def test_a_build_that_is_stopped_ends_at_the_next_step(
    plan: BuildPlan,
) -> None:
    endless = replace(plan, pretraining=replace(plan.pretraining, tokens=10**9))
    under_way = threading.Event()

    def watch(step: str, done: int, total: int, note: str = "") -> None:
        if step == "base" and 0 < done < total:
            under_way.set()

    build = asyncio.create_task(build_models(endless, watch, FakeTrainer()))
    assert await asyncio.to_thread(under_way.wait, 120)
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build
    async with asyncio.timeout(60):
        await asyncio.get_running_loop().shutdown_default_executor()
    assert not any(one.name.startswith("asyncio_") for one in threading.enumerate())


async def test_changed_settings_make_only_the_later_steps_anew(plan: BuildPlan) -> None:
    await build_models(plan, _nobody, FakeTrainer())
    before = load_file(plan.base / "model.safetensors")
    second = FakeTrainer()
    await build_models(replace(plan, sft_changes={"lora_rank": 8}), _nobody, second)
    after = load_file(plan.base / "model.safetensors")
    assert second.asked == ["train", "export", "train"]
    assert all(bool((after[key] == before[key]).all()) for key in before)


async def test_words_that_only_search_uses_make_the_embedder_anew_and_nothing_else(
    plan: BuildPlan,
) -> None:
    await build_models(plan, _nobody, FakeTrainer())
    before = (plan.embedder / "model.safetensors").read_bytes()
    knowledge = plan.data / "knowledge_base.json"
    entries = json.loads(knowledge.read_text(encoding="utf-8"))
    changed = [row | {"questions": ["翻毛的那种沾了灰咋整"]} for row in entries]
    knowledge.write_text(json.dumps(changed), encoding="utf-8")
    second = FakeTrainer()
    await build_models(plan, _nobody, second)
    assert second.asked == []
    assert (plan.embedder / "model.safetensors").read_bytes() != before


async def test_the_minutes_of_a_step_that_was_stopped_count(
    plan: BuildPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look at the clock is a minute later, so that a step takes one."""
    minutes = itertools.count(0, 60)
    monkeypatch.setattr(build, "time", SimpleNamespace(monotonic=lambda: next(minutes)))

    class Breaking(FakeTrainer):
        async def __call__(self, command: str, *rest: Any, **more: Any) -> Path:
            raise TrainingFailed("No.")

    for _ in range(2):
        with pytest.raises(TrainingFailed):
            await build_models(plan, _nobody, Breaking())
    await build_models(plan, _nobody, FakeTrainer())
    told = json.loads(plan.history.read_text())["minutes"]
    assert (told["base"], told["sft"], told["export"]) == (1, 3, 1)


@pytest.mark.parametrize("file", ["shoes.jsonl", "shoes_dpo.jsonl", "eval/dpo.jsonl"])
def test_shipped_rows_are_those_that_the_code_makes(plan: BuildPlan, file: str) -> None:
    plan.work.mkdir()
    material = load_material(plan.data)
    build._rows(plan, material)
    build._pairs(plan, material)
    assert (plan.data / file).read_bytes() == (DATA / file).read_bytes()


async def test_llamafactory_itself_trains_and_merges_what_the_build_serves(plan: BuildPlan) -> None:
    two: dict[str, Value] = {"max_steps": 2, "per_device_train_batch_size": 2}
    small = replace(plan, sft_changes=two, dpo_changes=two)
    served = await build_models(small, _nobody)
    merged, base = (load_file(folder / "model.safetensors") for folder in (served, small.base))
    assert set(merged) == set(base)
    assert any(not merged[name].equal(base[name]) for name in merged)
    assert AutoModelForCausalLM.from_pretrained(served).num_parameters() > 0
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(served), small.adapter)
    assert adapter.peft_config["default"].r == 16
    history = json.loads(small.history.read_text())
    assert history["dpo"][0]["rewards/chosen"] == 0.0
    assert {"tokenizer", "base", "sft", "export", "dpo", "embedder"} <= set(history["minutes"])
    made = [folder / name for folder, name in (
        (served, "model.safetensors"), (small.adapter, "adapter_model.safetensors")
    )]  # fmt: skip
    before = [file.read_bytes() for file in made]
    state = small.work / "build.json"
    done = json.loads(state.read_text())
    state.write_text(json.dumps({step: done[step] for step in ("tokenizer", "base", "rows")}))
    await build_models(small, _nobody)
    assert [file.read_bytes() for file in made] == before


async def test_the_shipped_adapter_names_no_folder_of_the_machine_it_was_made_on(
    plan: BuildPlan,
) -> None:
    await build_models(plan, _nobody, FakeTrainer())
    config = json.loads((plan.adapter / "adapter_config.json").read_text())
    assert config == {
        "base_model_name_or_path": "expert",
        "target_modules": ["a", "b"],
        "lora_alpha": 32,
    }


async def test_an_adapter_that_did_not_start_from_the_served_model_is_refused(
    plan: BuildPlan,
) -> None:
    with pytest.raises(TrainingFailed, match="its reference is not the served model"):
        await build_models(plan, _nobody, FakeTrainer(first_reward=0.2))
    assert not plan.adapter.exists()


async def test_pairs_to_measure_with_are_about_what_no_training_pair_says(plan: BuildPlan) -> None:
    await build_models(plan, _nobody, FakeTrainer())
    taught, held = (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (plan.pairs, plan.held_out_pairs)
    )
    assert len(taught) >= 600
    assert len(held) >= 100
    assert {row["prompt"] for row in taught}.isdisjoint(row["prompt"] for row in held)
    assert {row["chosen"] for row in taught}.isdisjoint(row["chosen"] for row in held)
    assert {row["rejected"] for row in taught}.isdisjoint(row["rejected"] for row in held)
