"""A merged model that is worse than the served one is refused, by what it says."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.opening import open_store
from tests.training.shipped_trainer import EXPERT, write_trainer
from tests.training.whole_loop import whole_loop_settings
from training import loop, succession, train
from training.llamafactory import Value, recipe
from training.loop import opened_loop
from training.runs import RunState
from training.succession import MOST_WORSE

pytestmark = pytest.mark.long


def shuffled_model(folder: Path) -> Path:
    """The served model with each matrix's numbers in another order: it knows nothing any more."""
    shutil.copytree(EXPERT, folder)
    dice = torch.Generator().manual_seed(7)
    for file in folder.glob("*.safetensors"):
        mixed = {
            name: one.flatten()[torch.randperm(one.numel(), generator=dice)].reshape(one.shape)
            for name, one in load_file(file).items()
        }
        save_file(mixed, file, metadata={"format": "pt"})
    return folder


@pytest.mark.timeout(900)
async def test_a_merged_model_that_has_forgotten_everything_is_refused_with_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    shipped = loop.SHIPPED_ROWS.read_text("utf-8").splitlines(keepends=True)
    rows.write_text("".join(shipped[::150]), "utf-8")
    monkeypatch.setattr(loop, "SHIPPED_ROWS", rows)
    monkeypatch.setattr(succession, "_HELD_OUT", 4)

    def on_the_served(name: str, changes: Mapping[str, Value], **more: str) -> dict[str, Value]:
        base = {"model_name_or_path": "data/embedded/expert"}
        return recipe(name, changes, **more) | (base if name in ("sft", "export") else {})

    for module in (loop, train):
        monkeypatch.setattr(module, "recipe", on_the_served)
    trainer = write_trainer(tmp_path / "trainer", shuffled_model(tmp_path / "shuffled"))
    settings = whole_loop_settings(
        tmp_path, monkeypatch, TRAINING__GATE__MIN_PAIRS="4", TRAINING__PYTHON=str(trainer)
    )
    async with open_store(settings) as store, opened_loop(settings, store) as opened:
        run = await opened.runs.begin("sft", "embedded", who="test", now=time.time())
        run = await opened.schedule.see_through(run.id)
        assert (run.state, run.adapter, run.problem) == (RunState.REJECTED, "", "")
        figures = {one["name"]: one for one in run.figures["gate"]}
        for score in ("held-out BLEU-4", "held-out ROUGE-L"):
            assert figures[score]["passed"] is False
            assert figures[score]["value"] < figures[score]["live"] - MOST_WORSE
        assert figures["differs from served"]["passed"]
