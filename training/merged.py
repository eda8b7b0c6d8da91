"""The model that an SFT run's adapter is merged into, and its place once an operator adopts it.

Nothing is tried on people then: whoever adopts the model starts the servers again with it, and the
adapters of the one before end with it.
"""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

from core.settings import Settings
from training.llamafactory import read_keys, write_recipe
from training.runs import Run
from training.train import TrainingPlan, is_model, plan_training, run_training


async def merge(settings: Settings, run: Run) -> TrainingPlan:
    """Have LLaMA-Factory merge the run's adapter into its base, unless that is done already."""
    plan = _merging(settings, run)
    if not is_model(plan.output):
        await asyncio.to_thread(shutil.rmtree, plan.folder, ignore_errors=True)
        await run_training(plan, timeout_minutes=settings.training.timeout_minutes)
    return plan


def place_of(settings: Settings, run: Run) -> Path:
    """Where the model of an SFT run lies once it is adopted; `serve` and DPO look for it there."""
    begun = datetime.fromtimestamp(run.created_at, UTC)
    return settings.state.absolute() / "runs" / f"export-{begun:%Y%m%d-%H%M%S}-{run.id}" / "model"


def put_away(settings: Settings, run: Run) -> str:
    """Put the merged model where the next runs and servers find it; the name of its folder."""
    plan, place = _merging(settings, run), place_of(settings, run)
    if not is_model(place):
        keys = read_keys(plan.command, plan.folder) | {"export_dir": str(place)}
        write_recipe(plan.command, keys, plan.folder)
        plan.folder.rename(place.parent)
    return place.parent.name


def adoption(settings: Settings, run: Run) -> str:
    """What an operator has to do for a merged model to answer."""
    return (
        f'Set model.expert = "{place_of(settings, run)}" and model.adapter = "", and start '
        "solemate again. Adapters of the model before stay behind: `solemate runs start` trains a "
        "new one on all pairs."
    )


def _merging(settings: Settings, run: Run) -> TrainingPlan:
    return plan_training(
        "export",
        settings.state / "runs",
        datetime.fromtimestamp(run.created_at, UTC),
        recipe_name=run.recipe,
        adapter=run.output,
        folder=run.attempt / "merged",
        python=settings.training.python,
    )
