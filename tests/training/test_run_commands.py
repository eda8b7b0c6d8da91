"""An operator begins, looks at, approves and stops runs on the command line."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from typer.testing import CliRunner

from core.errors import ConfigError, DataError, StoreError
from core.policy import note_policy
from core.settings import Settings, load_settings
from core.store import Store
from core.tables import audit
from tests.training.run_parts import insert_pairs, pair
from training.commands.runs import group
from training.commands.train import group as train_group
from training.loop import operators_runs
from training.pairs import Origin
from training.pause import pause_file
from training.runs import Runs, RunState


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        environment={
            "SOLEMATE__DATABASE__FOLDER": str(tmp_path / "state"),
            "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path / 's.db'}",
        }
    )


def invoke(settings: Settings, *words: str, app: Any = group) -> str:
    done = CliRunner().invoke(app, words, obj=settings, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def asked(settings: Settings, *words: str) -> Any:
    """The JSON that a command prints, below what is logged without any settings for it."""
    return json.loads(invoke(settings, *words, "--json").splitlines()[-1])


def with_runs(settings: Settings, work: Callable[[Runs, Store], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        async with Store(settings.database.address) as store:
            return await work(operators_runs(settings, store), store)

    return asyncio.run(opened())


def test_who_changed_a_setting_is_shown(settings: Settings) -> None:
    async def start_twice(runs: Runs, store: Store) -> None:
        await note_policy(store, settings, who="ann", now=1.0)
        changed = load_settings(environment={"SOLEMATE__TRAINING__REPLAY": "3"})
        await note_policy(store, changed, who="bob", now=2.0)

    with_runs(settings, start_twice)
    (row,) = asked(settings, "rules")
    assert (row["who"], row["setting"]) == ("bob", "training.replay")
    assert (row["before"], row["after"]) == (settings.training.replay, 3.0)
    assert "training.replay" in invoke(settings, "rules")


def accept_pairs(settings: Settings, number: int = 12) -> None:
    async def keep(runs: Runs, store: Store) -> None:
        for place in range(number):
            await store.run(
                lambda connection, place=place: insert_pairs(
                    connection, pair(place, origin=Origin.IMPORTED)
                )
            )

    with_runs(settings, keep)


def put(settings: Settings, *states: RunState) -> None:
    """Take the first run from state to state."""

    async def move(runs: Runs, store: Store) -> None:
        for state in states:
            run = (await runs.all())[0]
            await runs.move(run, state, who="test", now=time.time())

    with_runs(settings, move)


def test_a_run_that_was_begun_is_listed_and_shown(settings: Settings) -> None:
    invoke(settings, "start", "--as", "ann")
    (listed,) = asked(settings, "list")
    assert (listed["run"], listed["state"], listed["by"]) == ("dpo-1", "collecting", "ann")
    shown = asked(settings, "show", "dpo-1")
    assert [(step["from"], step["to"]) for step in shown["steps"]] == [("", "collecting")]
    assert "dpo-1" in invoke(settings, "show", "dpo-1")


def test_a_second_run_is_refused_with_the_firsts_name(settings: Settings) -> None:
    invoke(settings, "start")
    with pytest.raises(ConfigError, match=r"'dpo-1' is under way.*runs cancel dpo-1"):
        invoke(settings, "start")


def test_a_stage_that_is_none_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="no stage 'ppo'"):
        invoke(settings, "start", "--stage", "ppo")


@pytest.mark.parametrize("words", [("dpo", "--from-feedback"), ("kto",)])
def test_train_begins_the_same_runs(settings: Settings, words: tuple[str, ...]) -> None:
    invoke(settings, *words, app=train_group)
    (listed,) = asked(settings, "list")
    assert listed["run"] == f"{words[0]}-1"


def test_feedback_and_a_file_of_ones_own_exclude_each_other(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="leave --model, --dataset and --output out"):
        invoke(settings, "dpo", "--from-feedback", "--dataset", "x.jsonl", app=train_group)


def test_a_dry_run_writes_dataset_and_recipe_and_prints_the_command(settings: Settings) -> None:
    accept_pairs(settings)
    would = asked(settings, "start", "--dry-run")
    # Twelve pairs are gone through ten times.
    anchors = round(settings.training.replay * 10 * 12)
    assert (would["train"], would["held_out"], would["anchors"]) == (12, 0, anchors)
    assert (Path(would["dataset"]) / "train.jsonl").read_text().count("\n") == 10 * 12 + anchors
    recipe = yaml.safe_load(Path(would["recipe"]).read_text())
    assert recipe["dataset_dir"] == would["dataset"]
    assert recipe["num_train_epochs"] == 1
    assert "max_samples" not in recipe
    assert would["command_line"][-1] == would["recipe"]
    assert asked(settings, "list") == []
    assert "-m training.llamafactory_cli train" in invoke(settings, "start", "--dry-run")


def test_a_dry_run_without_pairs_says_so(settings: Settings) -> None:
    with pytest.raises(DataError, match="no pair to train on"):
        invoke(settings, "start", "--dry-run")


def test_an_operator_approves_what_waits_for_it(settings: Settings) -> None:
    invoke(settings, "start")
    states = (RunState.FROZEN, RunState.TRAINING, RunState.EVALUATING, RunState.AWAITING_APPROVAL)
    put(settings, *states)
    invoke(settings, "approve", "dpo-1", "--as", "ann")
    shown = asked(settings, "show", "dpo-1")
    assert shown["state"] == "canary"
    assert shown["steps"][-1]["who"] == "ann"


@pytest.mark.parametrize("state", [RunState.TRAINING, RunState.EVALUATING])
def test_nobody_approves_past_the_gate(settings: Settings, state: RunState) -> None:
    invoke(settings, "start")
    states = [RunState.FROZEN, RunState.TRAINING, RunState.EVALUATING]
    put(settings, *states[: states.index(state) + 1])
    with pytest.raises(ConfigError, match=f"is {state.value}: it waits for no approval"):
        invoke(settings, "approve", "dpo-1")


def test_a_run_that_is_over_is_not_cancelled(settings: Settings) -> None:
    invoke(settings, "start")
    invoke(settings, "cancel", "dpo-1")
    with pytest.raises(ConfigError, match="is cancelled: it cannot be cancelled"):
        invoke(settings, "cancel", "dpo-1")


def test_the_loop_is_paused_and_goes_on(settings: Settings) -> None:
    invoke(settings, "pause")
    assert pause_file(settings).exists()
    invoke(settings, "resume")
    assert not pause_file(settings).exists()


def test_who_paused_the_loop_and_let_it_go_on_is_in_the_audit(settings: Settings) -> None:
    invoke(settings, "pause", "--as", "ann")
    invoke(settings, "pause", "--as", "bob")
    invoke(settings, "resume", "--as", "cleo")
    invoke(settings, "resume", "--as", "dan")
    assert [(row["who"], row["before"], row["after"]) for row in asked(settings, "rules")] == [
        ("ann", "running", "paused"),
        ("cleo", "paused", "running"),
    ]
    assert asked(settings, "verify")["rows"] == 2


def test_a_pause_that_the_audit_missed_is_noted_by_the_next_one(settings: Settings) -> None:
    pause_file(settings).parent.mkdir(parents=True)
    pause_file(settings).touch()
    invoke(settings, "pause", "--as", "ann")
    assert [row["after"] for row in asked(settings, "rules")] == ["paused"]


def test_the_loop_stands_still_also_where_the_audit_cannot_be_written(settings: Settings) -> None:
    Path(settings.database.address.removeprefix("sqlite:///")).mkdir()
    with pytest.raises(StoreError):
        invoke(settings, "pause")
    assert pause_file(settings).exists()


def test_a_changed_audit_is_an_error(settings: Settings) -> None:
    invoke(settings, "start")
    assert "as they were written" in invoke(settings, "verify")

    async def tamper(runs: Runs, store: Store) -> None:
        await store.run(lambda connection: connection.execute(sa.update(audit).values(who="x")))

    with_runs(settings, tamper)
    done = CliRunner().invoke(group, ["verify", "--json"], obj=settings)
    assert done.exit_code == 1
    assert json.loads(done.stdout.splitlines()[-1])["broken"] == 1
