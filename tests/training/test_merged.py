"""The model of an SFT run, once it is adopted: put in its place once, and found there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.settings import Settings, load_settings
from core.store import Store
from tests.training.run_parts import count_words, pair
from training.dataset import FreezeRules, freeze_pairs
from training.llamafactory import write_recipe
from training.loop import plan_run
from training.merged import adoption, merge, place_of, put_away
from training.runs import Run, Runs
from training.train import is_model, plan_training, served_model

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(environment={"SOLEMATE__DATABASE__FOLDER": str(tmp_path / "state")})


@pytest.fixture
async def run(tmp_path: Path, settings: Settings) -> Run:
    """An SFT run of a large model, whose adapter has been merged."""
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as store:
        runs = Runs(store, settings.state / "runs")
        begun = await runs.begin("sft", "qwen2.5-7b", who="test", now=NOW.timestamp())
    made = replace(begun, attempts=1)
    folder = made.attempt / "merged"
    plan = plan_training(
        "export",
        settings.state / "runs",
        NOW,
        recipe_name=made.recipe,
        adapter=made.output,
        folder=folder,
    )
    plan.output.mkdir(parents=True)
    for name in ("config.json", "tokenizer_config.json"):
        (plan.output / name).write_text("{}")
    write_recipe(plan.command, plan.keys, plan.folder)
    return made


async def test_a_merged_model_is_not_merged_again(settings: Settings, run: Run) -> None:
    assert (await merge(settings, run)).output == run.attempt / "merged" / "model"


def test_an_adopted_model_is_what_the_next_adapter_is_trained_on(
    settings: Settings, run: Run
) -> None:
    place = place_of(settings, run)
    assert put_away(settings, run) == put_away(settings, run) == place.parent.name
    assert is_model(place)
    assert not (run.attempt / "merged").exists()
    assert served_model(settings.state / "runs", NOW, run.recipe) == str(place)
    assert f'model.expert = "{place}"' in adoption(settings, run)


def test_an_adapter_of_the_shipped_model_is_trained_on_the_one_that_is_served(
    settings: Settings, run: Run, tmp_path: Path
) -> None:
    place = place_of(settings, run)
    put_away(settings, run)
    model = settings.model.model_copy(update={"expert": str(place)})
    adopted = settings.model_copy(update={"model": model})
    found = [pair(number) for number in range(4)]
    frozen = freeze_pairs(found, (), FreezeRules(500), count_words, tmp_path / "datasets")
    later = replace(run, id="dpo-2", stage="dpo", recipe="embedded")
    assert plan_run(adopted, later, frozen).keys["model_name_or_path"] == str(place)
    again = replace(run, id="sft-3", recipe="embedded")
    assert plan_run(adopted, again, frozen).keys["model_name_or_path"] != str(place)
