"""LLaMA-Factory as a child process: write the run's recipe, follow its log, fail clearly."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import yaml  # type: ignore[import-untyped]

from core.errors import ConfigError, TrainingFailed

RECIPES = Path(__file__).parent / "recipes"
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}
# Training reads local files only; without these the libraries look for news on the network.
_SETTINGS = (
    "HF_HUB_OFFLINE=1",
    "TRANSFORMERS_OFFLINE=1",
    "HF_DATASETS_OFFLINE=1",
    "OMP_WAIT_POLICY=PASSIVE",
)
_PROGRESS = re.compile(r"(\d+)/(\d+) \[")
_STOP_SECONDS = 10.0

log = structlog.get_logger()

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Optimizer steps done, of how many."""

    steps: int
    total: int


def recipe(name: str, changes: Mapping[str, Value]) -> dict[str, Value]:
    """`training/recipes/NAME.yaml` with these keys set; raises `ConfigError` for a bad file."""
    path = RECIPES / f"{name}.yaml"
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as exc:
        raise ConfigError(f"Cannot read the recipe {path}: {exc}. Restore the file.") from exc
    return {**read, **changes}


def write_dataset_info(folder: Path, dataset: str, file_name: str) -> None:
    """Tell LLaMA-Factory about `file_name`: Alpaca columns, by the name `dataset`."""
    info = {dataset: {"file_name": file_name, "columns": _COLUMNS}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")


async def run_llamafactory(
    command: str,
    keys: Mapping[str, Value],
    folder: Path,
    on_progress: Callable[[TrainingProgress], None] = lambda progress: None,
    threads: int = 2,
    program: Sequence[str] = (sys.executable, "-m", "training.llamafactory_cli"),
) -> Path:
    """Run `llamafactory-cli COMMAND` (`train` or `export`) with these keys; the path of its log.

    Recipe and log are written to `folder`. The child leads its own process group, which ends with
    us whatever happens. Raises `TrainingFailed` naming the log when it ends badly or leaves no
    finished result.
    """
    recipe_path, log_path = folder / f"{command}.yaml", folder / f"{command}.log"
    _write(recipe_path, keys)
    child = await asyncio.create_subprocess_exec(
        *("env", *_SETTINGS, f"OMP_NUM_THREADS={threads}"),
        *(*program, command, str(recipe_path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=Path(__file__).parent.parent,
        start_new_session=True,
    )
    log.info("training.started", command=command, log=str(log_path), pid=child.pid)
    try:
        await _follow(child, log_path, on_progress)
        code = await child.wait()
    finally:
        await _end_group(child)
    if code != 0:
        raise TrainingFailed(
            f"llamafactory-cli {command} ended with status {code}: {_last_words(log_path)!r}. "
            f"The whole story is in {log_path}."
        )
    if command == "train":
        _check_finished(Path(str(keys["output_dir"])), log_path)
    return log_path


def _write(path: Path, keys: Mapping[str, Value]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(keys), sort_keys=False), encoding="utf-8")


async def _follow(
    child: asyncio.subprocess.Process,
    log_path: Path,
    on_progress: Callable[[TrainingProgress], None],
) -> None:
    """Copy the child's words to the log until it falls silent; report the step counter in them."""
    assert child.stdout is not None
    with log_path.open("wb") as copy:
        while chunk := await child.stdout.read(4096):
            copy.write(chunk)
            copy.flush()
            for done, total in _PROGRESS.findall(chunk.decode(errors="replace")):
                on_progress(TrainingProgress(int(done), int(total)))


async def _end_group(child: asyncio.subprocess.Process) -> None:
    """No process of the child's group outlives us: asked first, then killed."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            break
        try:
            await asyncio.wait_for(child.wait(), _STOP_SECONDS)
        except TimeoutError:
            continue


def _check_finished(output: Path, log_path: Path) -> None:
    """A run that was stopped early also leaves files and status 0, so its steps are counted."""
    try:
        state: dict[str, Any] = json.loads((output / "trainer_state.json").read_text())
        done, planned = state["global_step"], state["max_steps"]
    except (OSError, ValueError, KeyError) as exc:
        raise TrainingFailed(
            f"The training left no readable trainer_state.json in {str(output)!r} ({exc!r}). "
            f"See {log_path}."
        ) from exc
    if done != planned:
        raise TrainingFailed(f"The training stopped at step {done} of {planned}. See {log_path}.")


def _last_words(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "no output"
