"""LLaMA-Factory as a child process: its failures are ours to explain."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from core.errors import ConfigError, TrainingFailed
from training.llamafactory import TrainingProgress, recipe, run_llamafactory


def _program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


async def test_a_child_that_fails_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"status 3: 'no such model'.*train\.log"):
        await run_llamafactory(
            "train", {}, tmp_path, program=_program("print('no such model'); raise SystemExit(3)")
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
    assert seen == [TrainingProgress(4, 10)]


async def test_the_log_holds_what_the_child_said(tmp_path: Path) -> None:
    log = await run_llamafactory("export", {}, tmp_path, program=_program("print('merged')"))
    assert log.read_text() == "merged\n"


def test_a_recipe_takes_changes() -> None:
    assert recipe("sft", {"lora_rank": 8})["lora_rank"] == 8


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        recipe("none", {})
