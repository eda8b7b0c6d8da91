"""A training that came to its end: its curves looked at and drawn, its files sealed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.errors import TrainingFailed
from training.charts import History, draw
from training.llamafactory import to_yaml
from training.progress import TrainingProgress, Watch, check_learning
from training.runs import Run
from training.seal import put_seal
from training.train import TrainingPlan

CHART = "training.png"


def finish(run: Run, plan: TrainingPlan, output: Path) -> dict[str, float]:
    """Draw the curves, seal the files, and count up; `TrainingFailed` for curves gone wrong."""
    history = _log_history(output)
    watch = Watch()
    for point in history:
        watch.check(TrainingProgress(int(point.get("step", 0)), 0, None, _numbers(point)))
    points = [point for point in history if "loss" in point]
    check_learning([float(point["loss"]) for point in points])
    try:
        curves = {"sft" if run.stage == "sft" else "dpo": points}
        draw(History.model_validate(curves), (), run.attempt / CHART)
    except ValidationError as exc:
        raise TrainingFailed(f"The training's history in {str(output)!r} is odd: {exc}.") from exc
    put_seal(
        output,
        run=run.id,
        attempt=run.attempts,
        dataset=run.dataset,
        base=str(plan.keys["model_name_or_path"]),
        recipe=recipe_digest(plan.keys),
    )
    return _summary(history)


def recipe_digest(keys: Mapping[str, Any]) -> str:
    """The SHA-256 of a recipe as LLaMA-Factory reads it."""
    return hashlib.sha256(to_yaml(keys).encode()).hexdigest()


def _summary(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How the training ended, in a few figures."""
    points = [point for point in history if "loss" in point] or [{}]
    last = points[-1]
    runtime = [point["train_runtime"] for point in history if "train_runtime" in point]
    found = {
        "steps": last.get("step"),
        "loss": last.get("loss"),
        "reward_accuracy": last.get("rewards/accuracies"),
        "reward_margin": last.get("rewards/margins"),
        "seconds": runtime[-1] if runtime else None,
    }
    return {name: round(float(value), 4) for name, value in found.items() if value is not None}


def _log_history(output: Path) -> list[dict[str, Any]]:
    try:
        state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
        return list(state["log_history"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise TrainingFailed(
            f"The training left no readable trainer_state.json in {str(output)!r} ({exc!r})."
        ) from exc


def _numbers(point: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in point.items() if isinstance(value, int | float)}
