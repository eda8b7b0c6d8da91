"""One run with LLaMA-Factory itself: it trains on the prompt that was served, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from core.store import Store, upsert
from core.tables import pairs
from tests.training.run_parts import pair
from tests.training.stand_in import Workshop
from training.dataset import Frozen
from training.launchers import LocalLauncher
from training.pairs import to_row
from training.pretrain import Shape, new_model
from training.runs import Run, Runs, RunState
from training.steps import Limits, Steps
from training.tokenizer import load_tokenizer, make_tokenizer, save_tokenizer
from training.train import TrainingPlan, plan_training


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A model that was never trained, with the shipped one's tokenizer and chat form."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_tokenizer(make_tokenizer(["一字拖是拖鞋。"]), folder)
    shape = Shape(layers=5, width=64, heads=4, inner=64)
    new_model(load_tokenizer(folder), shape, seed=1).save_pretrained(folder)
    return folder


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as opened:
        yield opened


@pytest.mark.timeout(900)
async def test_llamafactory_trains_a_run_on_the_prompt_as_it_was_served(
    store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    shop = Workshop(tmp_path, Runs(store, tmp_path / "runs"))
    shop.pool[:] = [pair(number) for number in range(4)]
    for one in shop.pool:
        row = to_row(one) | {"decided_at": 1.0}
        await store.run(lambda connection, row=row: upsert(connection, pairs, row, key=("id",)))

    def plan(run: Run, frozen: Frozen) -> TrainingPlan:
        made = plan_training(
            "dpo",
            tmp_path,
            datetime(2026, 3, 1),
            model=str(tiny_model),
            frozen=frozen.folder,
            folder=run.attempt,
            output=run.output,
        )
        small = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1}
        return replace(made, keys={**made.keys, **small})

    steps = Steps(
        shop.runs,
        LocalLauncher(),
        shop.fake.release(),
        freeze=shop.freeze,
        plan=plan,
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
