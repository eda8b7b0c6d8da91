"""A build makes what is missing, and only that."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.build import BuildPlan, build_models
from training.llamafactory import TrainingProgress, Value
from training.pretrain import PretrainPlan, Shape

DATA = Path(__file__).parents[2] / "data"


@dataclass
class FakeTrainer:
    """Leaves what LLaMA-Factory would leave: "merging" is copying the base."""

    asked: list[str] = field(default_factory=list)

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
        return folder / "log"


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    data = tmp_path / "data"
    (data / "eval").mkdir(parents=True)
    for name in ("knowledge_base.json", "questions.jsonl", "eval/held_out_entries.json"):
        shutil.copy(DATA / name, data / name)
    return BuildPlan(
        data=data,
        work=tmp_path / "work",
        shape=Shape(layers=5, width=64, heads=4, inner=64),
        pretraining=PretrainPlan(tokens=3_000, batch_tokens=2_000),
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


async def test_changed_settings_make_only_the_later_steps_anew(plan: BuildPlan) -> None:
    await build_models(plan, _nobody, FakeTrainer())
    before = load_file(plan.base / "model.safetensors")
    second = FakeTrainer()
    await build_models(replace(plan, sft_changes={"lora_rank": 8}), _nobody, second)
    after = load_file(plan.base / "model.safetensors")
    assert second.asked == ["train", "export"]
    assert all(bool((after[key] == before[key]).all()) for key in before)


async def test_llamafactory_itself_trains_and_merges_what_the_build_serves(plan: BuildPlan) -> None:
    small = replace(plan, sft_changes={"max_steps": 2, "per_device_train_batch_size": 2})
    served = await build_models(small, _nobody)
    merged, base = (load_file(folder / "model.safetensors") for folder in (served, small.base))
    assert set(merged) == set(base)
    assert any(not merged[name].equal(base[name]) for name in merged)
    assert AutoModelForCausalLM.from_pretrained(served).num_parameters() > 0
