"""Rewards are LLaMA-Factory's own, measured against the model that the adapter was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from core.errors import TrainingFailed
from training.llamafactory import known_models, recipe
from training.pretrain import Shape, new_model
from training.rewards import Candidate, measure_rewards, reward_keys
from training.rows import PairRow
from training.tokenizer import load_tokenizer, make_tokenizer, save_tokenizer

PAIRS = [
    PairRow(
        system="你是鞋类专家。",
        prompt=f"{number} 号鞋防水吗？",
        chosen="嗨，不防水哦～",
        rejected="您好，不防水。",
        entry="boot",
        lang="zh",
    )
    for number in range(3)
]


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    """A model that was never trained, and an adapter that changes it a little."""
    folder = tmp_path / "model"
    save_tokenizer(make_tokenizer(["一字拖是拖鞋。"]), folder)
    shape = Shape(layers=5, width=64, heads=4, inner=64)
    new_model(load_tokenizer(folder), shape, seed=1).save_pretrained(folder)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=4, target_modules="all-linear")
    )
    torch.manual_seed(1)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    return Candidate(folder, tmp_path / "adapter")


async def test_the_adapter_is_measured_beside_its_own_model(
    candidate: Candidate, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    found = await measure_rewards(PAIRS, candidate, folder)
    assert found.pairs == 3
    assert 0 <= found.reward_accuracy <= 1
    assert found.reward_margin == pytest.approx(
        found.reward_chosen - found.reward_rejected, abs=1e-3
    )
    # Rewards of 0 would mean that the reference was the adapter itself.
    assert found.reward_chosen != 0
    assert (folder / "train.log").read_text("utf-8")


@pytest.mark.parametrize("model", known_models())
def test_a_measurement_trains_nothing_and_names_its_reference(model: str, tmp_path: Path) -> None:
    keys = reward_keys(Candidate(Path("merged"), Path("adapter"), model), tmp_path)
    assert (keys["do_train"], keys["do_eval"], keys["stage"]) == (False, True, "dpo")
    assert keys["ref_model"] == keys["model_name_or_path"] == "merged"
    assert keys["pref_beta"] == recipe("dpo", {}, model=model)["pref_beta"]
    assert "deepspeed" not in keys


async def test_a_measurement_that_fails_names_its_log(tmp_path: Path) -> None:
    nowhere = Candidate(tmp_path / "nowhere", tmp_path / "nowhere", python="/bin/false")
    with pytest.raises(TrainingFailed, match=r"train\.log"):
        await measure_rewards(PAIRS, nowhere, tmp_path / "run")


async def test_what_an_earlier_measurement_found_is_not_taken_for_this_ones(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "eval_results.json").write_text('{"eval_rewards/accuracies": 1.0}', "utf-8")
    silent = Candidate(tmp_path / "nowhere", tmp_path / "nowhere", python="/bin/true")
    with pytest.raises(TrainingFailed, match="no rewards"):
        await measure_rewards(PAIRS, silent, folder)
