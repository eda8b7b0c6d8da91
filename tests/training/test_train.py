"""A run is planned for every model in one way, and refused at once when it could not work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from accelerate.utils.deepspeed import HfDeepSpeedConfig

from core.errors import ConfigError, DataError, TrainingFailed
from training.llamafactory import Value, known_models, to_yaml
from training.pretrain import Shape, new_model
from training.tokenizer import load_tokenizer, make_tokenizer, save_tokenizer
from training.train import Stage, TrainingPlan, check_plan, plan_training, run_training

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "training" / "scripts"
STAGES: tuple[Stage, ...] = get_args(Stage)
NOW = datetime(2026, 3, 1, 12, 30, 5)
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"
PAIRS = [
    {"prompt": f"{number} 号鞋防水吗？", "chosen": "不防水。", "rejected": "很防水！"}
    for number in range(12)
]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "pairs.jsonl", PAIRS)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was never trained, with the shipped one's tokenizer and chat form."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tokenizer(make_tokenizer(["一字拖是拖鞋。"]), folder)
    shape = Shape(layers=5, width=64, heads=4, inner=64)
    new_model(load_tokenizer(folder), shape, seed=1).save_pretrained(folder)
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


def past_run(plan: TrainingPlan, *files: str, state: Mapping[str, int] | None = None) -> Path:
    """Leave what a run of this plan leaves; the folder of its result."""
    plan.output.mkdir(parents=True)
    (plan.folder / f"{plan.command}.yaml").write_text(to_yaml(plan.keys), "utf-8")
    for name in files:
        (plan.output / name).write_text("{}", "utf-8")
    if state is not None:
        (plan.output / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    return plan.output


# --- every recipe, as LLaMA-Factory reads it ---

PARSE = """
import json, sys
from training.llamafactory_cli import stand_in_for_torchaudio
stand_in_for_torchaudio()
from llamafactory.hparams import get_infer_args, get_train_args, parser
from transformers import HfArgumentParser

def complaint(how, keys):
    try:
        if how == "export":
            get_infer_args(keys)
        elif how == "train":
            get_train_args(keys)
        else:
            HfArgumentParser(parser._TRAIN_ARGS).parse_dict(keys, allow_extra_keys=False)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    return ""

print(json.dumps([complaint(*one) for one in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """What LLaMA-Factory's own parser says to each (recipe, stage), and to a misspelt key."""
    runs = tmp_path_factory.mktemp("runs")
    asked = {
        (name, stage): plan_training(stage, runs, NOW, recipe_name=name).keys
        for name in known_models()
        for stage in STAGES
    }
    asked["misspelt", "sft"] = {**asked["embedded", "sft"], "lora_rnak": 8}
    asked["misspelt", "dpo"] = {**asked["llama3-8b", "dpo"], "pref_bta": 0.1}
    asked["misspelt", "export"] = {**asked["embedded", "export"], "export_dri": "x"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE],
        input=json.dumps([_as_a_cpu_takes_it(keys) for keys in asked.values()]),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return dict(zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True))


def _as_a_cpu_takes_it(keys: Mapping[str, Value]) -> tuple[str, Mapping[str, Value | None]]:
    """How to parse these keys here, and the keys.

    Recipes for the CPU get every check that a run gets. Those for GPUs are held to the names and
    types of all keys only, since the checks behind them want bf16 in a GPU and DeepSpeed installed.
    """
    if "export_dir" in keys:
        return "export", keys
    if keys.get("use_cpu"):
        return "train", keys
    blank = {"deepspeed": None} if "deepspeed" in keys else {}
    return "keys", {**keys, **blank, "use_cpu": True}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", known_models())
def test_llamafactory_knows_every_key_of_a_recipe(
    complaints: dict[tuple[str, str], str], name: str, stage: str
) -> None:
    assert complaints[name, stage] == ""


@pytest.mark.parametrize(
    ("stage", "key"), [("sft", "lora_rnak"), ("dpo", "pref_bta"), ("export", "export_dri")]
)
def test_a_misspelt_key_would_be_noticed(
    complaints: dict[tuple[str, str], str], stage: str, key: str
) -> None:
    assert key in complaints["misspelt", stage]


@pytest.mark.parametrize(("name", "stage"), [("llama3-8b", 2), ("qwen2.5-7b", 3)])
def test_a_large_models_deepspeed_file_is_of_its_zero_stage(
    runs: Path, name: str, stage: int
) -> None:
    file = plan_training("dpo", runs, NOW, recipe_name=name).keys["deepspeed"]
    config = HfDeepSpeedConfig(str(ROOT / str(file)))
    assert config.get_value("zero_optimization.stage") == stage
    assert config.get_value("train_micro_batch_size_per_gpu") == "auto"


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("name", [name for name in known_models() if name != "embedded"])
def test_a_large_model_is_trained_on_gpus_by_one_process_each(
    runs: Path, name: str, stage: Stage
) -> None:
    plan = plan_training(stage, runs, NOW, recipe_name=name)
    assert "use_cpu" not in plan.keys
    assert "--nproc-per-node=gpu" in plan.command_line


def test_the_embedded_model_is_trained_out_of_sight_of_any_gpu(runs: Path) -> None:
    line = plan_training("dpo", runs, NOW).command_line
    assert "CUDA_VISIBLE_DEVICES=" in line
    assert "torch.distributed.run" not in line


def test_an_adapter_of_a_4_bit_model_is_merged_into_the_whole_weights(runs: Path) -> None:
    trained = plan_training("sft", runs, NOW, recipe_name="qwen2.5-7b-4bit").keys
    merged = plan_training("export", runs, NOW, recipe_name="qwen2.5-7b-4bit").keys
    assert trained["quantization_bit"] == 4
    assert "quantization_bit" not in merged


@pytest.mark.parametrize("name", known_models())
def test_dpo_trains_a_fresh_adapter(runs: Path, name: str) -> None:
    keys = plan_training("dpo", runs, NOW, recipe_name=name).keys
    assert not {"adapter_name_or_path", "ref_model", "create_new_adapter"} & set(keys)


# --- where a run starts from ---


def test_a_recipe_that_nobody_wrote_is_answered_with_the_nearest(runs: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe 'lama3-8b'; did you mean 'llama3-8b'"):
        plan_training("sft", runs, NOW, recipe_name="lama3-8b")


def test_a_runs_folder_says_its_stage_and_time(runs: Path) -> None:
    plan = plan_training("sft", runs, NOW)
    assert plan.folder == runs / "sft-20260301-123005"
    assert plan.output == plan.folder / "adapter"


def test_the_embedded_dpo_starts_from_the_served_model(runs: Path) -> None:
    keys = plan_training("dpo", runs, NOW).keys
    assert keys["model_name_or_path"] == str(ROOT / "data" / "embedded" / "expert")


def test_an_export_merges_the_last_sft_that_was_finished(runs: Path) -> None:
    def left(minute: int, **state: int) -> Path:
        plan = plan_training("sft", runs, NOW.replace(minute=minute), recipe_name="llama3-8b")
        return past_run(plan, "adapter_config.json", state=state)

    left(1, global_step=9, max_steps=9)
    last = left(2, global_step=9, max_steps=9)
    left(3, global_step=5, max_steps=9)
    other = plan_training("sft", runs, NOW.replace(minute=4), recipe_name="qwen2.5-7b")
    past_run(other, "adapter_config.json", state={"global_step": 9, "max_steps": 9})
    keys = plan_training("export", runs, NOW, recipe_name="llama3-8b").keys
    assert keys["adapter_name_or_path"] == str(last)
    assert keys["model_name_or_path"] == LLAMA


def test_a_large_models_dpo_starts_from_the_last_whole_export_of_it(runs: Path) -> None:
    def left(minute: int, name: str, *files: str) -> Path:
        plan = plan_training("export", runs, NOW.replace(minute=minute), recipe_name=name)
        return past_run(plan, *files)

    last = left(1, "llama3-8b", "config.json", "tokenizer_config.json")
    left(2, "llama3-8b", "config.json")
    left(3, "qwen2.5-7b", "config.json", "tokenizer_config.json")
    keys = plan_training("dpo", runs, NOW, recipe_name="llama3-8b").keys
    assert keys["model_name_or_path"] == str(last)


# --- what is refused before LLaMA-Factory is started ---


def test_dpo_without_a_merged_model_says_what_comes_first(runs: Path, pairs: Path) -> None:
    plan = plan_training("dpo", runs, NOW, recipe_name="llama3-8b", dataset=pairs)
    with pytest.raises(ConfigError, match=r"train export` with --recipe llama3-8b first"):
        check_plan(plan)


def test_an_export_without_an_adapter_says_what_comes_first(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"train sft --recipe llama3-8b` first"):
        check_plan(plan_training("export", runs, NOW, recipe_name="llama3-8b"))


def test_a_hub_name_is_taken_as_it_is(runs: Path, pairs: Path) -> None:
    plan = plan_training("dpo", runs, NOW, model="someone/shoes-8b.v2", dataset=pairs)
    check_plan(plan)
    assert plan.keys["model_name_or_path"] == "someone/shoes-8b.v2"


@pytest.mark.parametrize("model", ["data/nowhere", "/nowhere/model", "model"])
def test_a_folder_that_is_not_there_is_no_hub_name(runs: Path, pairs: Path, model: str) -> None:
    with pytest.raises(ConfigError, match=f"no model '{model}'"):
        check_plan(plan_training("dpo", runs, NOW, model=model, dataset=pairs))


def test_an_adapter_is_no_model_to_start_from(runs: Path, pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        (folder / name).write_text("{}")
    with pytest.raises(ConfigError, match="or it is an adapter"):
        check_plan(plan_training("dpo", runs, NOW, model=str(folder), dataset=pairs))


def test_a_missing_dataset_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset '.*nowhere\.jsonl'"):
        check_plan(plan_training("dpo", runs, NOW, dataset=tmp_path / "nowhere.jsonl"))


def test_an_empty_dataset_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        check_plan(
            plan_training("sft", runs, NOW, dataset=write_lines(tmp_path / "none.jsonl", []))
        )


def test_a_row_without_a_needed_key_is_named_with_its_line(runs: Path, tmp_path: Path) -> None:
    rows = [*PAIRS[:2], {"prompt": "鞋", "chosen": "好"}, {"prompt": "鞋"}]
    plan = plan_training("dpo", runs, NOW, dataset=write_lines(tmp_path / "broken.jsonl", rows))
    with pytest.raises(DataError, match=r"broken\.jsonl, line 3, field 'rejected': is missing"):
        check_plan(plan)


def test_a_folder_with_something_in_it_is_not_written_over(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        check_plan(plan_training("sft", runs, NOW, output=tmp_path))


# --- runs ---


async def test_the_reference_of_a_dpo_run_is_the_model_it_starts_from(
    runs: Path, pairs: Path, tiny_model: Path
) -> None:
    plan = plan_training("dpo", runs, NOW, model=str(tiny_model), dataset=pairs)
    steps: list[int] = []
    small = {"per_device_train_batch_size": 4, "logging_steps": 1}
    made = await run_training(
        replace(plan, keys={**plan.keys, **small}),
        lambda progress: steps.append(progress.steps),
        timeout_minutes=30,
    )
    history = json.loads((made / "trainer_state.json").read_text())["log_history"]
    margins = [entry["rewards/margins"] for entry in history if "rewards/margins" in entry]
    assert [entry["step"] for entry in history[:3]] == [1, 2, 3]
    assert abs(history[0]["rewards/chosen"]) < 1e-3
    assert abs(history[0]["rewards/rejected"]) < 1e-3
    assert margins[-1] != margins[0]
    assert steps[-1] == 3


async def test_a_run_that_takes_too_long_is_stopped(
    runs: Path, pairs: Path, tmp_path: Path
) -> None:
    idle = tmp_path / "python"
    idle.write_text("#!/bin/sh\nexec sleep 250\n")
    idle.chmod(0o755)
    plan = plan_training("dpo", runs, NOW, dataset=pairs, python=str(idle))
    with pytest.raises(TrainingFailed, match=r"longer than 0\.01 minutes .*train\.log"):
        await run_training(plan, timeout_minutes=0.01)


# --- the commands ---


def run_script(name: str, state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SOLEMATE")}
    return subprocess.run(
        [SCRIPTS / name, *arguments],
        cwd=state,
        env={**kept, "SOLEMATE__DATABASE__FOLDER": str(state), "SOLEMATE__LOGGING__FILE": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("script", "stage"), [("run_sft.sh", "sft"), ("run_dpo.sh", "dpo")])
def test_a_script_shows_its_run_and_starts_nothing(tmp_path: Path, script: str, stage: str) -> None:
    done = run_script(script, tmp_path, "--dry-run", "--profile", "production", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["stage"], shown["recipe"]) == (stage, "llama3-8b")
    assert shown["keys"]["template"] == "llama3"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_recipe_and_the_command_line(tmp_path: Path) -> None:
    done = run_script("run_sft.sh", tmp_path, "--dry-run")
    assert "\nlora_rank: 64\n" in done.stdout
    assert "-m training.llamafactory_cli train " in done.stdout.splitlines()[-1]


def test_a_dry_run_says_what_a_run_would_lack(tmp_path: Path) -> None:
    done = run_script("run_dpo.sh", tmp_path, "--dry-run", "--dataset", "nowhere.jsonl")
    assert done.returncode == 0
    assert "no dataset" in done.stderr


def test_a_run_that_cannot_start_is_one_clear_sentence(tmp_path: Path) -> None:
    done = run_script("run_dpo.sh", tmp_path, "--dataset", "nowhere.jsonl")
    assert done.returncode == 1
    assert "no dataset" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_api_script_starts_the_server_command(tmp_path: Path) -> None:
    assert "solemate serve" in run_script("start_api.sh", tmp_path, "--help").stdout
