"""One run with LLaMA-Factory itself: it trains on the prompt that was served, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from core.store import Store, upsert
from core.tables import pairs
from tests.training.run_parts import make_tiny_model, pair, two_steps_of
from tests.training.stand_in import Workshop
from training.launchers import LocalLauncher
from training.pairs import to_row
from training.runs import Runs, RunState
from training.steps import Limits, Steps


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as opened:
        yield opened


@pytest.mark.timeout(900)
async def test_llamafactory_trains_a_run_on_the_prompt_as_it_was_served(
    store: Store, tmp_path: Path
) -> None:
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
