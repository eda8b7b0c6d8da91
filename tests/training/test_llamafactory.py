"""LLaMA-Factory as a child process: its failures are ours to explain."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from core.errors import ConfigError, TrainingFailed, TrainingKilled
from training.llamafactory import (
    command_line,
    forget_shared,
    recipe,
    run_llamafactory,
    write_dataset_info,
)
from training.progress import TrainingProgress


def _program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


async def test_a_child_that_fails_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"status 3: 'no such model'.*train\.log"):
        await run_llamafactory(
            "train", {}, tmp_path, program=_program("print('no such model'); raise SystemExit(3)")
        )


async def test_a_child_that_is_killed_is_told_from_one_that_fails(tmp_path: Path) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(TrainingKilled, match=r"was killed.*train\.log"):
        await run_llamafactory("train", {}, tmp_path, program=_program(kill))


async def test_the_error_is_found_before_the_banner_of_torchrun(tmp_path: Path) -> None:
    said = "[rank0]: ValueError: Undefined dataset\\nmore.ChildFailedError: \\n====="
    with pytest.raises(TrainingFailed, match=r"status 1: 'ValueError: Undefined dataset'"):
        await run_llamafactory(
            "train", {}, tmp_path, program=_program(f"print('{said}'); raise SystemExit(1)")
        )


async def test_a_run_that_stopped_early_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 5, "max_steps": 9}))
    with pytest.raises(TrainingFailed, match="step 5 of 9"):
        await run_llamafactory(
            "train", {"output_dir": str(tmp_path)}, tmp_path / "run", program=_program("")
        )


async def test_a_run_without_results_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"trainer_state\.json"):
        await run_llamafactory(
            "train", {"output_dir": str(tmp_path)}, tmp_path / "run", program=_program("")
        )


async def test_progress_is_read_from_the_childs_words(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    await run_llamafactory(
        "export", {}, tmp_path, seen.append, program=_program("print('40%| 4/10 [00:01<00:02]')")
    )
    assert seen == [TrainingProgress(4, 10, 2.0)]


async def test_only_the_trainers_own_bar_is_progress(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    said = "Loading weights: 100%|##| 47/47 [00:01<00:00]\\r 50%|#  | 1/2 [00:01<00:01]"
    await run_llamafactory(
        "export", {}, tmp_path, seen.append, program=_program(f"print('{said}')")
    )
    assert seen == [TrainingProgress(1, 2, 1.0)]


async def test_the_log_holds_what_the_child_said(tmp_path: Path) -> None:
    log = await run_llamafactory("export", {}, tmp_path, program=_program("print('merged')"))
    assert log.read_text() == "merged\n"


def test_a_recipe_takes_changes() -> None:
    assert recipe("sft", {"lora_rank": 8})["lora_rank"] == 8


def test_a_model_lays_its_own_keys_over_the_stages() -> None:
    keys = recipe("sft", {"lora_rank": 4}, model="llama3-8b")
    assert (keys["template"], keys["lora_rank"], keys["seed"]) == ("llama3", 4, 17)


def test_null_takes_a_key_of_the_stage_away() -> None:
    assert "max_samples" in recipe("sft", {})
    assert "max_samples" not in recipe("sft", {}, model="llama3-8b")


def test_a_stage_that_no_model_can_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.llamafactory.MODELS", tmp_path)
    (tmp_path / "mine.yaml").write_text("stf: {lora_rank: 8}\n")
    with pytest.raises(ConfigError, match=r"(?s)mine\.yaml.*stf"):
        recipe("sft", {}, model="mine")


@pytest.mark.parametrize(("model", "offline"), [("data/embedded/base", True), ("a/hub", False)])
def test_only_a_model_that_is_here_is_trained_offline(
    tmp_path: Path, model: str, offline: bool
) -> None:
    line = command_line("train", {"model_name_or_path": model}, tmp_path)
    assert ("HF_HUB_OFFLINE=1" in line) is offline


def test_pairs_are_told_to_llamafactory_as_a_ranking(tmp_path: Path) -> None:
    write_dataset_info(
        tmp_path, "d", "d.jsonl", ranking=True, columns=("prompt", "chosen", "rejected", "more")
    )
    told = json.loads((tmp_path / "dataset_info.json").read_text())["d"]
    assert told["ranking"] is True
    assert told["columns"] == {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}


def test_rows_are_told_to_llamafactory_with_alpacas_columns(tmp_path: Path) -> None:
    write_dataset_info(tmp_path, "d", "d.jsonl")
    told = json.loads((tmp_path / "dataset_info.json").read_text())["d"]
    assert told["columns"]["response"] == "output"
    assert told["columns"]["history"] == "history"


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        recipe("none", {})


def test_what_is_left_of_our_rows_in_the_cache_of_all_is_found_by_the_file_they_were_read_from(
    tmp_path: Path,
) -> None:
    cache, ours = tmp_path / "cache", tmp_path / "state" / "datasets"
    for name, source in (("ours", ours / "0123" / "train.jsonl"), ("others", "/mail/train.jsonl")):
        folder = cache / "json" / f"default-{name}" / "0.0.0" / "f4e8"
        folder.mkdir(parents=True)
        (folder / "json-train.arrow").write_bytes(b"words")
        note = {"download_checksums": {str(source): {"num_bytes": 5, "checksum": None}}}
        (folder / "dataset_info.json").write_text(json.dumps(note))
    (cache / "json" / "default-broken" / "0.0.0" / "f4e8").mkdir(parents=True)
    (cache / "json" / "default-broken" / "0.0.0" / "f4e8" / "dataset_info.json").write_text("{")
    assert forget_shared(cache, [ours]) == [cache / "json" / "default-ours"]
    left = sorted(folder.name for folder in (cache / "json").iterdir())
    assert left == ["default-broken", "default-others"]
    assert forget_shared(tmp_path / "none", [ours]) == []


async def test_what_a_run_keeps_of_its_rows_goes_when_it_ends(tmp_path: Path) -> None:
    keeps = (
        "import os, pathlib; place = pathlib.Path(os.environ['HF_DATASETS_CACHE']); "
        "place.mkdir(); (place / 'json-train.arrow').write_text('words'); print(place)"
    )
    log = await run_llamafactory("export", {}, tmp_path, program=_program(keeps))
    assert log.read_text().strip() == str(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
