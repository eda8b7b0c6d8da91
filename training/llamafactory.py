"""LLaMA-Factory as a child process: write the run's recipe, follow its log, fail clearly."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import ConfigError, TrainingFailed, TrainingKilled
from core.settings import ROOT
from training.launchers import Job, JobState, JobStatus, Launcher, LocalLauncher
from training.progress import ProgressReader, TrainingProgress

CACHE = "cache"
"""Where a job's rows are kept beside its recipe while it runs, and nowhere else."""
KILLED = (137, 143)
"""What a shell says of a command that was ended by SIGKILL or SIGTERM.

By whoever needed the memory or the machine, and not by anything in the run itself.
"""

RECIPES = Path(__file__).parent / "recipes"
MODELS = RECIPES / "models"
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}
_PAIR_COLUMNS = {name: name for name in ("prompt", "chosen", "rejected", "system", "history")}
# With a model in a folder everything is local; else the libraries look for news on the network.
_OFFLINE = ("HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "HF_DATASETS_OFFLINE=1")
# One process a GPU. LLaMA-Factory would start torchrun itself, but by a name that only an activated
# environment has, and past our stand-in for torchaudio.
_A_PROCESS_A_GPU = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=gpu")
_ERROR = re.compile(r"^(?:\[rank\d+\]: )?([\w.]*(?:Error|Exception): \S.*)$", re.MULTILINE)

Value = str | int | float | bool


class _ModelChanges(BaseModel):
    """What a model changes in the stages' recipes; null takes a key away."""

    model_config = ConfigDict(extra="forbid", strict=True)

    all: dict[str, Value | None] = {}
    sft: dict[str, Value | None] = {}
    dpo: dict[str, Value | None] = {}
    kto: dict[str, Value | None] = {}
    export: dict[str, Value | None] = {}


def recipe(name: str, changes: Mapping[str, Value], *, model: str = "embedded") -> dict[str, Value]:
    """`training/recipes/NAME.yaml` for this model, with these keys set.

    Later layers win: the stage's file, the model's `all`, its part for the stage, `changes`.
    Raises `ConfigError` for a bad file, and for a model without one, with the nearest that has one.
    """
    keys = _read_yaml(RECIPES / f"{name}.yaml")
    theirs = _model_changes(model)
    merged = {**keys, **theirs.all, **getattr(theirs, name), **changes}
    return {key: value for key, value in merged.items() if value is not None}


def known_models() -> list[str]:
    """The models that recipes are written for."""
    return sorted(path.stem for path in MODELS.glob("*.yaml"))


def write_dataset_info(
    folder: Path,
    dataset: str,
    file_name: str,
    *,
    ranking: bool = False,
    columns: Collection[str] | None = None,
) -> None:
    """Tell LLaMA-Factory about `file_name` by the name `dataset`: Alpaca rows, or pairs if ranking.

    `columns` are those that the file has; one that is named but missing stops LLaMA-Factory. By
    default it has all of them.
    """
    known = _PAIR_COLUMNS if ranking else _COLUMNS
    used = {key: name for key, name in known.items() if columns is None or name in columns}
    info = {dataset: {"file_name": file_name, "ranking": ranking, "columns": used}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")


def program_for(
    command: str, keys: Mapping[str, Value], python: str = sys.executable
) -> tuple[str, ...]:
    """LLaMA-Factory in this interpreter: one process on the CPU, one a GPU to train on GPUs."""
    gpus = _A_PROCESS_A_GPU if command == "train" and not keys.get("use_cpu") else ()
    return (python, *gpus, "-m", "training.llamafactory_cli")


def command_line(
    command: str,
    keys: Mapping[str, Value],
    folder: Path,
    threads: int = 2,
    program: Sequence[str] | None = None,
) -> list[str]:
    """Exactly what `run_llamafactory` runs with the same arguments, from the project's root."""
    environment = [f"OMP_NUM_THREADS={threads}", "OMP_WAIT_POLICY=PASSIVE"]
    # By itself the library that reads the rows keeps them for good, in the home of whoever runs it.
    environment.append(f"HF_DATASETS_CACHE={folder / CACHE}")
    if (ROOT / str(keys.get("model_name_or_path", ""))).is_dir():
        environment += _OFFLINE
    if keys.get("use_cpu"):
        # With several GPUs in sight LLaMA-Factory would start as many processes on the CPU.
        environment.append("CUDA_VISIBLE_DEVICES=")
    program = program or program_for(command, keys)
    return ["env", *environment, *program, command, str(_recipe_file(command, folder))]


async def run_llamafactory(
    command: str,
    keys: Mapping[str, Value],
    folder: Path,
    on_progress: Callable[[TrainingProgress], None] = lambda progress: None,
    threads: int = 2,
    program: Sequence[str] | None = None,
    launcher: Launcher | None = None,
    name: str = "",
) -> Path:
    """Run `llamafactory-cli COMMAND` (`train` or `export`) with these keys; the path of its log.

    Recipe and log are written to `folder`; `program` stands in for LLaMA-Factory. It runs on this
    machine, or where `launcher` has jobs run, by the id `name`. Its processes end with us; where we
    are killed, they are ended before the folder is used again. Raises `TrainingFailed` naming the
    log when it ends badly or leaves no finished result.
    """
    job = llamafactory_job(command, keys, folder, name=name, threads=threads, program=program)
    launcher = launcher or LocalLauncher()
    await launcher.forget(job)
    write_recipe(command, keys, folder)
    await launcher.submit(job)
    reader = ProgressReader()
    try:
        async for words in launcher.logs(job):
            for progress in reader.feed(words):
                on_progress(progress)
        for progress in reader.feed(b"", last=True):
            on_progress(progress)
        status = await launcher.status(job)
    finally:
        await launcher.stop(job)
        await asyncio.to_thread(forget_cached, folder)
    check_ended(command, keys, status, job.log)
    return job.log


def llamafactory_job(
    command: str,
    keys: Mapping[str, Value],
    folder: Path,
    *,
    name: str = "",
    threads: int = 2,
    program: Sequence[str] | None = None,
) -> Job:
    """`llamafactory-cli COMMAND` in this folder, to be submitted once its recipe is written."""
    return Job(
        id=name or folder.name,
        command=command_line(command, keys, folder, threads, program),
        folder=folder,
        log=folder / f"{command}.log",
    )


def check_ended(command: str, keys: Mapping[str, Value], status: JobStatus, log_path: Path) -> None:
    """Raise `TrainingFailed`, naming the log, unless the job came to a good end with a result."""
    if status.state is not JobState.ENDED or status.code in KILLED:
        raise TrainingKilled(
            f"llamafactory-cli {command} was killed: {_last_words(log_path)!r}. See {log_path}."
        )
    if status.code != 0:
        raise TrainingFailed(
            f"llamafactory-cli {command} ended with status {status.code}: "
            f"{_last_words(log_path)!r}. The whole story is in {log_path}."
        )
    # A run that only measures makes no step and leaves no state.
    if command == "train" and keys.get("do_train", True):
        _check_finished(Path(str(keys["output_dir"])), log_path)


def forget_cached(folder: Path) -> None:
    """Delete the copies of the rows that a job in this folder has made for itself."""
    shutil.rmtree(folder / CACHE, ignore_errors=True)


def forget_shared(cache: Path, ours: Sequence[Path]) -> list[Path]:
    """Delete what earlier versions left in a cache that others share; the folders.

    The library notes beside each copy which file it was read from: those below `ours` are ours.
    """
    places = {place.absolute() for place in ours} | {place.resolve() for place in ours}
    gone = []
    for note in sorted(cache.glob("json/*/*/*/dataset_info.json")):
        if any(places & set(file.parents) for file in _read_from(note)):
            gone.append(note.parents[2])
            shutil.rmtree(note.parents[2], ignore_errors=True)
    return gone


def _read_from(note: Path) -> list[Path]:
    """The files that a copy was made of; none where nobody knows."""
    try:
        return [Path(name) for name in json.loads(note.read_bytes())["download_checksums"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_keys(command: str, folder: Path) -> dict[str, Any]:
    """The keys that a run in this folder was started with; nothing where none was."""
    path = _recipe_file(command, folder)
    return _read_yaml(path) if path.exists() else {}


def write_recipe(command: str, keys: Mapping[str, Value], folder: Path) -> Path:
    """Write the recipe where the job looks for it; its path."""
    path = _recipe_file(command, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(keys), encoding="utf-8")
    return path


def to_yaml(keys: Mapping[str, Value]) -> str:
    """The recipe as LLaMA-Factory reads it."""
    return str(yaml.safe_dump(dict(keys), sort_keys=False, allow_unicode=True))


def _recipe_file(command: str, folder: Path) -> Path:
    return folder / f"{command}.yaml"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as exc:
        raise ConfigError(f"Cannot read the recipe {path}: {exc}. Restore the file.") from exc
    return read


def _model_changes(model: str) -> _ModelChanges:
    known = known_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"There is no recipe {model!r}; {hint}?")
    path = MODELS / f"{model}.yaml"
    try:
        return _ModelChanges.model_validate(_read_yaml(path))
    except ValidationError as exc:
        raise ConfigError(f"The recipe {path} is wrong: {exc}. Mend the file.") from exc


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
    """The last error that was named, or the last line: torchrun's own banner follows the error."""
    text = log_path.read_text(encoding="utf-8", errors="replace").strip()
    said = _ERROR.findall(text) or text.splitlines() or ["no output"]
    return str(said[-1])[-300:]
