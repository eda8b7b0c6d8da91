"""`solemate pairs`: what an operator types, from a thumb to a file that can be trained on."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from openpyxl import load_workbook
from typer.testing import CliRunner

from core.errors import ConfigError, NotFound
from core.settings import Settings, load_settings
from core.store import Store
from core.tables import adapters, run_pairs, runs
from tests.training.feedback_world import ANSWER, BETTER, World
from training.commands.pairs import group
from training.loop import opened_freezer

Step = Callable[[World], Awaitable[None]]


class CommandLine:
    """Runs commands on a store of its own, and lets people rate in between."""

    def __init__(self, folder: Path, **feedback: object) -> None:
        self.folder = folder
        self._url = f"sqlite:///{folder / 'store.db'}"
        variables = {
            "SOLEMATE__DATABASE__URL": self._url,
            "SOLEMATE__DATABASE__FOLDER": str(folder),
            "SOLEMATE__FEEDBACK__REGENERATE": "0",
            "SOLEMATE__FEEDBACK__QUARANTINE_HOURS": "0",
        }
        variables |= {f"SOLEMATE__FEEDBACK__{key.upper()}": str(v) for key, v in feedback.items()}
        self.settings: Settings = load_settings(environment=variables)

    def rate(self, step: Step) -> None:
        async def work() -> None:
            async with Store(self._url) as store:
                await step(World(store))

        asyncio.run(work())

    def run(self, *arguments: object, typed: str = "") -> str:
        done = CliRunner().invoke(
            group, list(map(str, arguments)), obj=self.settings, input=typed, catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return done.output

    def json(self, *arguments: object) -> Any:
        lines = self.run(*arguments, "--json").splitlines()
        return json.loads(next(line for line in lines if line.startswith(("{", "["))))


async def corrected(world: World) -> None:
    await world.dislike(await world.ask(), BETTER, at=time.time() - 60)


def test_a_thumb_becomes_a_pair_that_is_reviewed_and_exported(tmp_path: Path) -> None:
    line = CommandLine(tmp_path, typed_accepts=1)
    line.rate(corrected)
    collected = line.json("collect")
    assert collected["states"] == {"waiting": 1}
    (listed,) = line.json("list", "--state", "waiting")
    assert (listed["chosen"], listed["rejected"]) == (BETTER, ANSWER)
    assert "1 accepted" in line.run("review", "--as", "eve", typed="a\n")
    file = tmp_path / "out" / "pairs.json"
    assert "1 rows" in line.run("export", file, "--format", "sharegpt")
    (row,) = json.loads(file.read_text(encoding="utf-8"))
    assert row["chosen"] == {"role": "assistant", "content": BETTER}


def test_show_walks_from_the_thumb_to_the_adapter(tmp_path: Path) -> None:
    line = CommandLine(tmp_path, review="none")
    line.rate(corrected)
    (name,) = line.json("collect")["new"]

    async def train(world: World) -> None:
        await world.store.run(lambda connection: trained_on(connection, name))

    line.rate(train)
    shown = line.json("show", name[:8])
    assert [one["rating"] for one in shown["said"]] == ["down"]
    assert [one["after"] for one in shown["decisions"]] == ["accepted"]
    (used,) = shown["runs"]
    assert (used["run_id"], used["split"], used["adapter"]) == ("run-1", "train", "shoes-v2")
    assert used["flagged"]
    text = line.run("show", name)
    assert "thumb down (with a correction)" in text
    assert "adapter shoes-v2 (live, flagged for erasure)" in text


def trained_on(connection: sa.Connection, pair: str) -> None:
    run = {
        "id": "run-1",
        "key": "k",
        "stage": "dpo",
        "recipe": "embedded",
        "state": "promoted",
        "why": "",
        "started_by": "eve",
        "folder": "",
        "dataset": "",
        "adapter": "shoes-v2",
        "figures": {},
        "problem": "",
        "attempts": 1,
        "created_at": 1.0,
        "updated_at": 1.0,
    }
    adapter = {
        "name": "shoes-v2",
        "run_id": "run-1",
        "path": "",
        "base": "",
        "digest": "",
        "manifest": {},
        "state": "live",
        "created_at": 1.0,
        "flagged_at": 2.0,
    }
    connection.execute(sa.insert(runs).values(run))
    connection.execute(sa.insert(adapters).values(adapter))
    row = {"run_id": "run-1", "pair_id": pair, "split": "train"}
    connection.execute(sa.insert(run_pairs).values(row))


def test_pairs_of_a_file_can_be_accepted_at_once(tmp_path: Path) -> None:
    line = CommandLine(tmp_path)
    file = tmp_path / "pairs.jsonl"
    row = {"prompt": "帆布鞋怎么洗？", "chosen": BETTER, "rejected": ANSWER}
    bad = row | {"chosen": "傻逼，自己看说明书去，别问了。"}
    file.write_text("".join(json.dumps(one) + "\n" for one in (row, bad)), encoding="utf-8")
    said = line.run("import", file, "--accept", "--as", "eve")
    assert "2 rows: 1 accepted, 1 refused, 0 known before." in said
    assert "sensitive word" in said
    assert [one["accepted_by"] for one in line.json("list", "--state", "accepted")] == [["eve"]]


def test_bad_cases_are_counted_and_written_to_a_sheet(tmp_path: Path) -> None:
    line = CommandLine(tmp_path)

    async def disliked(world: World) -> None:
        await world.dislike(await world.ask(complete=False), at=time.time() - 60)

    line.rate(disliked)
    sheet = tmp_path / "cases.xlsx"
    (counted,) = line.json("bad-cases", "--sheet", sheet)
    assert (counted["topic"], counted["count"], counted["beyond_training"]) == ("care", 1, 1)
    assert load_workbook(sheet).active.max_row == 2


@pytest.mark.parametrize(
    ("arguments", "problem", "said"),
    [
        (("show", "nope"), NotFound, "no pair 'nope'"),
        (("export", "pairs.txt"), ConfigError, "goes into a .jsonl file"),
        (("bad-cases", "--sheet", "cases.csv"), ConfigError, "is an .xlsx file"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, arguments: tuple[str, ...], problem: type[Exception], said: str
) -> None:
    with pytest.raises(problem, match=said):
        CommandLine(tmp_path).run(*arguments)


def test_every_command_works_beside_a_solemate_that_runs(tmp_path: Path) -> None:
    line = CommandLine(tmp_path, review="all")
    line.rate(corrected)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"prompt": "鞋带多长？", "chosen": "一米。", "rejected": "不知道。"}\n', "utf-8"
    )
    held, over = threading.Event(), threading.Event()

    async def hold() -> None:
        async with Store(line.settings.database.address):
            held.set()
            await asyncio.to_thread(over.wait)

    with ThreadPoolExecutor(1) as other:
        running = other.submit(lambda: asyncio.run(hold()))
        held.wait()
        try:
            (name,) = line.json("collect")["new"]
            assert [pair["id"] for pair in line.json("list")] == [name]
            line.run("show", name)
            line.run("review", typed="a\n")
            line.run("export", tmp_path / "pairs.jsonl")
            line.run("import", rows)
            line.run("bad-cases")
        finally:
            over.set()
        running.result()


async def test_a_run_that_is_begun_by_hand_has_the_thumbs_of_just_now(tmp_path: Path) -> None:
    settings = CommandLine(tmp_path, review="none").settings
    async with (
        Store(settings.database.address) as store,
        opened_freezer(settings, store) as freezer,
    ):
        world = World(store)
        await world.dislike(await world.ask(), BETTER)
        frozen = await freezer.freeze("dpo", "embedded")
    assert frozen.manifest.count("train") == 1
