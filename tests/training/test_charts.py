"""Pictures are drawn from whatever part of a training's history there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from core.errors import DataError
from training.charts import Bars, History, draw, load_history

WHOLE = {
    "base": [{"tokens": 1e5, "loss": 6.1}, {"tokens": 2e6, "loss": 2.2}],
    "sft": [{"step": 10, "loss": 1.9, "epoch": 0.1}, {"step": 20, "loss": 0.4}],
    "dpo": [
        {
            "step": 1,
            "loss": 0.69,
            "rewards/accuracies": 0.5,
            "rewards/margins": 0.0,
            "rewards/chosen": 0.0,
            "rewards/rejected": 0.0,
        },
        {"step": 5, "loss": 0.3, "rewards/accuracies": 1.0, "rewards/margins": 2.1},
        {"step": 6, "loss": 0.2},
    ],
}
BARS = Bars("Scores", "0 to 100", ("BLEU-4", "right"), {"sft": [80.0, None], "dpo": [60.0, 90.0]})


def history(folder: Path, found: object) -> History:
    path = folder / "history.json"
    path.write_text(json.dumps(found), "utf-8")
    return load_history(path)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_every_part_of_the_history_and_the_bars_have_a_panel(tmp_path: Path) -> None:
    whole = size(draw(history(tmp_path, WHOLE), [BARS], tmp_path / "whole.png"))
    one = size(draw(History(), [BARS], tmp_path / "one.png"))
    # Base, SFT, DPO, its accuracy, its rewards and the bars: two rows of three.
    assert whole == pytest.approx((3 * one[0], 2 * one[1]), abs=5)


def test_a_part_that_is_missing_is_left_out(tmp_path: Path) -> None:
    two = size(draw(history(tmp_path, {"sft": WHOLE["sft"]}), [BARS], tmp_path / "two.png"))
    one = size(draw(History(), [BARS], tmp_path / "one.png"))
    assert two == pytest.approx((2 * one[0], one[1]), abs=5)


def test_there_is_a_picture_even_of_nothing(tmp_path: Path) -> None:
    assert size(draw(History(), [], tmp_path / "new" / "nothing.png"))[0] > 0


def test_rewards_are_read_under_their_own_names(tmp_path: Path) -> None:
    points = history(tmp_path, WHOLE).dpo
    assert [point.accuracy for point in points] == [0.5, 1.0, None]
    assert [point.margin for point in points] == [0.0, 2.1, None]


def test_without_a_file_there_is_no_history(tmp_path: Path) -> None:
    assert load_history(tmp_path / "history.json") == History()


def test_a_broken_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"history\.json"):
        history(tmp_path, {"sft": [{"step": 1}]})
