"""Runs with LLaMA-Factory itself: on the prompt as it was served, and until people are answered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from core.audit import verify
from core.database import upsert
from core.messages import Rating, Reply
from core.opening import open_store
from core.settings import at_root
from core.store import Store
from core.tables import pairs
from tests.training.run_parts import make_tiny_model, pair, two_steps_of
from tests.training.stand_in import Workshop
from tests.training.whole_loop import WholeLoop, whole_loop, whole_loop_settings
from training import loop, train, trial
from training.launchers import LocalLauncher
from training.llamafactory import Value, read_keys, recipe
from training.loop import opened_loop
from training.merged import place_of
from training.pairs import to_row
from training.rows import CorrectionRow, read_all
from training.runs import Runs, RunState
from training.steps import Limits, Steps
from training.train import is_model

pytestmark = pytest.mark.long


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as opened:
        yield opened


def copies_of_rows(folder: Path) -> list[Path]:
    return list(folder.rglob("*.arrow"))


@pytest.mark.timeout(900)
async def test_llamafactory_trains_a_run_on_the_prompt_as_it_was_served(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    tiny_model = make_tiny_model(tmp_path / "tiny")
    shop = Workshop(tmp_path, Runs(store, tmp_path / "runs"))
    shop.pool[:] = [pair(number) for number in range(4)]
    for one in shop.pool:
        row = to_row(one) | {"decided_at": 1.0}
        await store.run(lambda connection, row=row: upsert(connection, pairs, row, key=("id",)))

    steps = Steps(
        shop.runs,
        LocalLauncher(),
        shop.fake.release(),
        freeze=shop.freeze,
        plan=two_steps_of(tiny_model),
        datasets=tmp_path / "datasets",
        limits=Limits(timeout_seconds=900.0, stall_seconds=900.0, attempts=1),
        on_progress=lambda run, progress: shop.seen.append(progress),
    )
    run = await shop.begun()
    while run.state is not RunState.EVALUATING:
        run = await steps.advance(run)
        assert not run.ended, run.problem

    assert (shop.seen[-1].steps, shop.seen[-1].total) == (2, 2)
    assert {"loss", "rewards/accuracies", "rewards/margins"} <= set(shop.seen[-1].figures)
    assert (run.attempt / "training.png").exists()
    log = (run.attempt / "train.log").read_text("utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    served = [
        tokenizer.apply_chat_template(
            [asdict(message) for message in one.prompt], tokenize=False, add_generation_prompt=True
        )
        + one.chosen
        for one in shop.pool
    ]
    # LLaMA-Factory prints the first row as it goes into the model.
    assert any(f"chosen_inputs:\n{text}" in log for text in served)
    assert "detailed thinking off" not in log
    # No copy of the rows is left, neither here nor in the cache of all.
    assert copies_of_rows(tmp_path) == []


async def written_by(
    shop: WholeLoop, adapter: str, count: int
) -> tuple[list[CorrectionRow], list[Reply]]:
    """The first corrections whose question this adapter answers itself, and what it answered."""
    rows, replies = [], []
    for row in read_all(at_root("data/demo_corrections.jsonl"), CorrectionRow):
        reply = await shop.ask(row.question, row.id)
        if reply.adapter == adapter:
            rows.append(row)
            replies.append(reply)
        if len(rows) == count:
            break
    assert len(rows) == count
    return rows, replies


@pytest.mark.timeout(1200)
async def test_corrections_go_live_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the whole loop, with nothing in the place of anything."""
    # Four corrections with nothing beside them, in steps of full length, made it forget to answer.
    settings = whole_loop_settings(tmp_path, monkeypatch, TRAINING__REPLAY="3")
    monkeypatch.setattr(train, "recipe", paced(0.4))
    async with whole_loop(settings) as shop:
        shipped = settings.model.adapter
        rows, before = await written_by(shop, shipped, 4)
        for row, reply in zip(rows, before, strict=True):
            await shop.correct(reply, row.id, row.correction)

        run = await shop.until(RunState.AWAITING_APPROVAL)
        figures = {one["name"]: one for one in run.figures["gate"]}
        assert figures["differs from base"]["value"] > 0
        assert figures["G2 pair accuracy"]["passed"] is None
        assert (await shop.opened.registry.choose("anybody")) == shipped
        await shop.command("runs", "approve", run.id, "--as", "ann")

        await shop.canary_answers()
        run = await shop.like_the_canary([row.question for row in rows])
        assert run.state is RunState.PROMOTED
        await shop.answers_with(run.adapter)
        after = [await shop.ask(row.question, row.id) for row in rows]
        # What it cannot say without a mistake is quoted in its place.
        assert run.adapter in {reply.adapter for reply in after} <= {run.adapter, ""}
        assert [reply.text for reply in after] != [reply.text for reply in before]

        shown = await shop.command("adapters", "show", run.adapter, "--json")
        assert {one["person"] for one in shown["lineage"]["pairs"]} == {row.id for row in rows}
        assert (await verify(shop.opened.store)).whole

        route = await shop.command("adapters", "rollback", "--json")
        assert route["live"] == shipped
        await shop.answers_with(shipped)
        again = [await shop.ask(row.question, row.id) for row in rows]
        assert [(reply.adapter, reply.text) for reply in again] == [
            (reply.adapter, reply.text) for reply in before
        ]


@pytest.mark.timeout(1200)
async def test_thumbs_alone_train_an_adapter_that_an_operator_lets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KTO: nobody said what would have been better."""
    settings = whole_loop_settings(tmp_path, monkeypatch, TRAINING__CANARY__SHARES="[]")
    monkeypatch.setattr(trial, "_TAUGHT", 6)
    # A few thumbs teach less than would be seen on every CPU: steps twice as long.
    monkeypatch.setattr(train, "recipe", paced(2))
    async with whole_loop(settings) as shop:
        rows, before = await written_by(shop, settings.model.adapter, 6)
        for number, (row, reply) in enumerate(zip(rows, before, strict=True)):
            await shop.rate(reply, row.id, Rating.DOWN if number % 3 else Rating.UP)
        begun = await shop.command("train", "kto", "--json")
        run = await shop.until(RunState.AWAITING_APPROVAL)
        assert begun["run"] == run.id
        keys = read_keys("train", run.attempt)
        assert (keys["kto_chosen_weight"], keys["kto_rejected_weight"]) == (2.0, 1.0)
        assert run.figures["pairs"] == {
            "train": len(rows), "held_out": 0, "anchors": 0, "split_by": "nothing"
        }  # fmt: skip
        assert run.figures["training"]["loss"] < 1.0
        figures = {one["name"]: one for one in run.figures["gate"]}
        assert figures["G0 first reward"]["passed"]
        assert figures["differs from base"]["passed"]
        assert figures["G6 drift"]["value"] > 0
        for undecided in ("G2 pair accuracy", "G5 win rate"):
            assert figures[undecided]["passed"] is None
            assert "single answers" in figures[undecided]["note"]
        await shop.command("runs", "approve", run.id, "--as", "ann")
        run = await shop.until(RunState.PROMOTED)
        await shop.answers_with(run.adapter)
        after = [await shop.ask(row.question, row.id) for row in rows]
        # What it cannot say without a mistake is quoted in its place.
        assert run.adapter in {reply.adapter for reply in after} <= {run.adapter, ""}
        assert [reply.text for reply in after] != [reply.text for reply in before]


@pytest.mark.timeout(1200)
async def test_a_newly_merged_model_is_judged_and_waits_to_be_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = loop.SHIPPED_ROWS.read_text("utf-8").splitlines(keepends=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(shipped[::150]), "utf-8")
    monkeypatch.setattr(loop, "SHIPPED_ROWS", rows)
    # What answers well already and is taught three short steps more is about as good as before.
    base = {"model_name_or_path": "data/embedded/expert"}
    started = {"sft": {**base, "max_samples": 36, "learning_rate": 1e-5}, "export": base}

    def shortened(name: str, changes: Mapping[str, Value], **more: str) -> dict[str, Value]:
        return recipe(name, changes, **more) | started.get(name, {})

    for module in (loop, train):
        monkeypatch.setattr(module, "recipe", shortened)
    settings = whole_loop_settings(
        tmp_path, monkeypatch, TRAINING__GATE__MIN_PAIRS="4", TRAINING__GATE__GOLDEN_LOSS="0.25"
    )
    async with open_store(settings) as store, opened_loop(settings, store) as opened:
        run = await opened.runs.begin("sft", "embedded", who="test", now=time.time())
        run = await opened.schedule.see_through(run.id)
        assert run.state is RunState.AWAITING_APPROVAL, (run.problem, run.figures)
        figures = {one["name"]: one for one in run.figures["gate"]}
        assert figures["held-out ROUGE-L"]["passed"]
        assert figures["differs from served"]["passed"]
        assert figures["adoption"]["passed"] is None
        assert await opened.runs.pairs_of(run.id) == {}
        await opened.runs.move(run, RunState.CANARY, who="ann", now=time.time())
        run = await opened.schedule.see_through(run.id)
        assert run.adapter == place_of(settings, run).parent.name
        assert is_model(place_of(settings, run))


def paced(factor: float) -> Callable[..., dict[str, Value]]:
    """The recipes, with steps of so many times the length."""

    def made(name: str, changes: Mapping[str, Value], *, model: str) -> dict[str, Value]:
        keys = recipe(name, changes, model=model)
        return keys | {"learning_rate": factor * float(keys["learning_rate"])}

    return made
