"""`solemate train sft|dpo|export`: a run of one stage, planned, checked and done."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from core.errors import ConfigError, DataError, TrainingFailed
from core.settings import at_root
from training.llamafactory import (
    Value,
    command_line,
    program_for,
    read_keys,
    recipe,
    run_llamafactory,
    write_dataset_info,
)
from training.progress import TrainingProgress
from training.recipe_keys import check_keys
from training.rows import DpoRow, SftRow, read_rows

Stage = Literal["sft", "dpo", "kto", "export"]

# Single answers with a thumb come from people alone: for KTO nothing is shipped.
_DATASETS: Mapping[Stage, Path] = {
    "sft": at_root("data/shoes.jsonl"),
    "dpo": at_root("data/shoes_dpo.jsonl"),
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# Stands in a dry run for the run that has to come first.
_NOT_YET = "YYYYMMDD-HHMMSS"


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """One run: LLaMA-Factory's keys, the rows it trains on, and the folder of the run.

    `python` is the interpreter that has LLaMA-Factory.
    """

    stage: Stage
    recipe: str
    keys: Mapping[str, Value]
    dataset: Path | None
    folder: Path
    python: str = sys.executable

    @property
    def command(self) -> str:
        """LLaMA-Factory's command."""
        return "export" if self.stage == "export" else "train"

    @property
    def output(self) -> Path:
        """The folder of the adapter, or of the merged model."""
        return Path(str(self.keys["export_dir" if self.stage == "export" else "output_dir"]))

    @property
    def program(self) -> tuple[str, ...]:
        """What runs LLaMA-Factory."""
        return program_for(self.command, self.keys, self.python)

    @property
    def command_line(self) -> list[str]:
        """Exactly what is run, from the project's root."""
        return command_line(self.command, self.keys, self.folder, program=self.program)


def plan_training(
    stage: Stage,
    runs: Path,
    now: datetime,
    *,
    recipe_name: str = "embedded",
    model: str = "",
    adapter: Path | None = None,
    dataset: Path | None = None,
    frozen: Path | None = None,
    folder: Path | None = None,
    output: Path | None = None,
    python: str = "",
) -> TrainingPlan:
    """What a run of this stage would do; nothing is written, and nothing need exist yet.

    SFT and export start from the recipe's model. DPO and KTO start from the SFT model that was
    merged last (`export`), and an export merges the adapter of the last SFT, both from `runs`.
    `model` and `adapter` name others. `frozen` is the folder of a frozen dataset, to be trained on
    instead of a file, and `folder` the run's where it is not named by the moment. Raises
    `ConfigError` for a recipe that nobody wrote.
    """
    folder = folder or runs.absolute() / f"{stage}-{now:%Y%m%d-%H%M%S}"
    keys = recipe(stage, {}, model=recipe_name)
    base = model or str(keys.get("model_name_or_path") or _merged(runs, recipe_name))
    keys["model_name_or_path"] = _located(base)
    if stage == "export":
        adapter = adapter or _sft_adapter(runs, keys["model_name_or_path"])
        keys["adapter_name_or_path"] = str(adapter.absolute())
        keys["export_dir"] = str((output or folder / "model").absolute())
        return TrainingPlan(stage, recipe_name, keys, None, folder, python or sys.executable)
    keys["output_dir"] = str((output or folder / "adapter").absolute())
    rows = None if frozen else dataset or _DATASETS.get(stage)
    keys["dataset"] = rows.stem if rows else "train"
    keys["dataset_dir"] = str(folder / "dataset" if frozen is None else frozen.absolute())
    rows = rows and rows.absolute()
    return TrainingPlan(stage, recipe_name, keys, rows, folder, python or sys.executable)


def served_model(runs: Path, now: datetime, recipe_name: str, model: str = "") -> str:
    """The model that DPO adapters of a recipe are trained on, which is the one to serve with them.

    `model` names another. Raises `ConfigError` where there is none yet.
    """
    plan = plan_training("dpo", runs, now, recipe_name=recipe_name, model=model)
    _check_model(plan)
    return str(plan.keys["model_name_or_path"])


def check_plan(plan: TrainingPlan) -> None:
    """Raise `ConfigError` or `DataError` for what LLaMA-Factory would stumble over, but at once.

    It takes 20 seconds to say anything, and not always what is wrong.
    """
    _check_folders(plan)
    check_keys(plan.keys)
    _check_model(plan)
    if plan.dataset is not None:
        _columns(plan.stage, plan.dataset)


async def run_training(
    plan: TrainingPlan,
    on_progress: Callable[[TrainingProgress], None] = lambda progress: None,
    *,
    timeout_minutes: float,
) -> Path:
    """Do the run; the folder of the adapter, or of the merged model.

    Recipe, dataset_info.json and log are in `plan.folder`. Raises what `check_plan` does, and
    `TrainingFailed`, naming the log, when LLaMA-Factory ends badly or takes too long.
    """
    await asyncio.to_thread(check_plan, plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    if plan.dataset is not None:
        write_dataset_info(
            plan.folder / "dataset",
            plan.dataset.stem,
            str(plan.dataset),
            ranking=plan.stage == "dpo",
            columns=_columns(plan.stage, plan.dataset),
        )
    try:
        async with asyncio.timeout(timeout_minutes * 60):
            await run_llamafactory(
                plan.command, plan.keys, plan.folder, on_progress, program=plan.program
            )
    except TimeoutError as exc:
        raise TrainingFailed(
            f"The {plan.stage} run took longer than {timeout_minutes:g} minutes and was stopped. "
            f"Raise training.timeout_minutes, or see {plan.folder / plan.command}.log."
        ) from exc
    return plan.output


def _located(model: str) -> str:
    """A folder, of the working directory or of the project, as a full path; a hub name as it is."""
    for path in (Path(model), at_root(model)):
        if path.is_dir():
            return str(path.absolute())
    return model


def _merged(runs: Path, recipe_name: str) -> Path:
    """The model that the last export of this recipe's SFT wrote."""
    base = recipe("export", {}, model=recipe_name)["model_name_or_path"]
    for folder in _newest_first(runs, "export"):
        keys = read_keys("export", folder)
        made = Path(str(keys.get("export_dir")))
        if keys.get("model_name_or_path") == _located(str(base)) and is_model(made):
            return made
    return runs.absolute() / f"export-{_NOT_YET}" / "model"


def _sft_adapter(runs: Path, base: Value) -> Path:
    """The adapter that the last SFT of this model left."""
    for folder in _newest_first(runs, "sft"):
        keys = read_keys("train", folder)
        made = Path(str(keys.get("output_dir")))
        if keys.get("model_name_or_path") == base and _is_finished(made):
            return made
    return runs.absolute() / f"sft-{_NOT_YET}" / "adapter"


def _newest_first(runs: Path, stage: Stage) -> list[Path]:
    return sorted(runs.absolute().glob(f"{stage}-*"), reverse=True)


def is_model(folder: Path) -> bool:
    """Whether a whole model lies there, and no adapter."""
    # An export that was stopped has its weights in part, and its tokenizer, saved last, not at all.
    names = ("config.json", "tokenizer_config.json")
    return all((folder / name).exists() for name in names) and not _is_adapter(folder)


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def _is_finished(adapter: Path) -> bool:
    """Whether all steps were done: a run that was stopped can leave an adapter as well."""
    try:
        state = json.loads((adapter / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return _is_adapter(adapter) and bool(state["global_step"] == state["max_steps"])


def _check_folders(plan: TrainingPlan) -> None:
    for folder in (plan.folder, plan.output):
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                f"The folder {str(folder)!r} is not empty. Name another with --output, or start "
                "again: a run writes into a folder of its own."
            )


def _check_model(plan: TrainingPlan) -> None:
    model = str(plan.keys["model_name_or_path"])
    if _NOT_YET in model:
        raise ConfigError(
            "There is no merged SFT model to start from. Run `solemate train sft` and `solemate "
            f"train export` with --recipe {plan.recipe} first, or name a folder with --model."
        )
    if Path(model).is_dir() and not is_model(Path(model)):
        raise ConfigError(
            f"The folder {model!r} holds no whole model: config.json or tokenizer_config.json is "
            "missing, or it is an adapter. Name a model's folder with --model."
        )
    if not Path(model).is_dir() and not _is_hub_name(model):
        raise ConfigError(
            f"There is no model {model!r}. Name a folder, or a hub name such as "
            "Qwen/Qwen2.5-7B-Instruct, with --model."
        )
    adapter = plan.keys.get("adapter_name_or_path")
    if adapter is not None and not _is_adapter(Path(str(adapter))):
        raise ConfigError(
            f"There is no adapter in {str(adapter)!r}. Run `solemate train sft --recipe "
            f"{plan.recipe}` first, or name a folder with --adapter."
        )


def _is_hub_name(model: str) -> bool:
    """Whether this can be a hub's OWNER/NAME; in a folder that exists it is a file's name."""
    owner = model.partition("/")[0]
    known = Path(owner).exists() or at_root(owner).exists()
    return not known and bool(_HUB_NAME.fullmatch(model))


def _columns(stage: Stage, dataset: Path) -> frozenset[str]:
    """The columns that the rows have; raises `DataError` for the first that is wrong."""
    found = read_rows(dataset, str(dataset), DpoRow if stage == "dpo" else SftRow)
    if not found.present:
        raise DataError(f"There is no dataset {str(dataset)!r}. Name one with --dataset.")
    if found.problems:
        more = f" {len(found.problems) - 1} more are wrong." if len(found.problems) > 1 else ""
        raise DataError(f"{found.problems[0]}. Mend the row.{more}")
    if not found.rows:
        raise DataError(f"The dataset {str(dataset)!r} is empty. Name another with --dataset.")
    return frozenset(name for row in found.rows for name in row.data.model_fields_set)
