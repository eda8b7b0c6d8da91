"""How well an adapter tells the better answer of a pair from the worse: measured, not trained.

LLaMA-Factory's DPO stage computes it on held-out pairs (`do_eval` without `do_train`). The merged
SFT model has to be named as the reference: without one, LLaMA-Factory takes the model itself and
leaves the rewards out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import TrainingFailed
from training.launchers import Launcher
from training.llamafactory import Value, program_for, recipe, run_llamafactory, write_dataset_info
from training.rows import PairRow

_DATASET = "held_out_pairs"
_RESULTS = "eval_results.json"
_COLUMNS = ("prompt", "chosen", "rejected", "system", "history")


@dataclass(frozen=True, slots=True)
class Rewards:
    """Means over held-out pairs, as DPO counts them (Rafailov et al., 2023).

    A reward is beta times how much likelier, in log, the adapter makes an answer than its reference
    does; `reward_accuracy` is the share of pairs whose chosen answer has the higher reward. Beta is
    the measuring recipe's: where the adapter was trained with another, the rewards and their margin
    are larger or smaller by that, and the accuracy is the same.
    """

    pairs: int
    reward_accuracy: float
    reward_margin: float
    reward_chosen: float
    reward_rejected: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """An adapter of the merged SFT model in `model`, and the recipe that it was trained with.

    `python` is the interpreter that has LLaMA-Factory, "" for this one.
    """

    model: Path
    adapter: Path
    recipe: str = "embedded"
    python: str = ""


async def measure_rewards(pairs: Sequence[PairRow], candidate: Candidate, folder: Path) -> Rewards:
    """Measure an adapter on pairs; rows, keys and log are kept in `folder`.

    Raises `TrainingFailed`, naming the log, when LLaMA-Factory ends badly.
    """
    _write_pairs(pairs, folder)
    return await measure_frozen(len(pairs), candidate, folder, dataset=(folder, _DATASET))


async def measure_frozen(
    pairs: int,
    candidate: Candidate,
    folder: Path,
    *,
    dataset: tuple[Path, str],
    launcher: Launcher | None = None,
    name: str = "",
) -> Rewards:
    """Measure an adapter on so many pairs that are a dataset already: its folder and its name.

    Keys and log are kept in `folder`. `launcher` has it run elsewhere, by the id `name`. Raises
    `TrainingFailed` like `measure_rewards`.
    """
    # What an earlier measurement found must not be taken for this one's.
    (folder / _RESULTS).unlink(missing_ok=True)
    keys = reward_keys(candidate, folder, dataset=dataset)
    program = program_for("train", keys, candidate.python or sys.executable)
    log_path = await run_llamafactory(
        "train", keys, folder, program=program, launcher=launcher, name=name
    )
    return _read(folder / _RESULTS, pairs, log_path)


def reward_keys(
    candidate: Candidate, folder: Path, *, dataset: tuple[Path, str] | None = None
) -> dict[str, Value]:
    """The DPO recipe's keys (its beta, template and length), turned into a measurement.

    One pair at a time: LLaMA-Factory's means are means of batches, and the last may be smaller.
    """
    where, name = dataset or (folder, _DATASET)
    keys = recipe(
        "dpo",
        {
            "do_train": False,
            "do_eval": True,
            "model_name_or_path": str(candidate.model),
            "adapter_name_or_path": str(candidate.adapter),
            "ref_model": str(candidate.model),
            "eval_dataset": name,
            "dataset_dir": str(where),
            "output_dir": str(folder),
            "per_device_eval_batch_size": 1,
        },
        model=candidate.recipe,
    )
    # ZeRO 2 divides what only training has, and DeepSpeed refuses to measure with it.
    keys.pop("deepspeed", None)
    return keys


def _write_pairs(pairs: Sequence[PairRow], folder: Path) -> None:
    write_dataset_info(folder, _DATASET, "pairs.json", ranking=True, columns=_COLUMNS)
    rows = [pair.model_dump(include=set(_COLUMNS)) for pair in pairs]
    (folder / "pairs.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def _read(path: Path, pairs: int, log_path: Path) -> Rewards:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Rewards(
            pairs,
            reward_accuracy=float(found["eval_rewards/accuracies"]),
            reward_margin=float(found["eval_rewards/margins"]),
            reward_chosen=float(found["eval_rewards/chosen"]),
            reward_rejected=float(found["eval_rewards/rejected"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise TrainingFailed(
            f"LLaMA-Factory left no rewards in {str(path)!r} ({exc!r}). See {log_path}."
        ) from exc
