"""The embedder learns from questions, the same each time, and sees nothing that is held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.calibration import kept_for_calibration
from core.embedding import StaticTable
from training.embedder import EmbedderPlan, train_embedder, training_pairs
from training.material import load_material

PLAN = EmbedderPlan(width=16, vocabulary=200, steps=30, batch=16)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six entries with a question each; the last entry is held out."""
    folder = tmp_path / "data"
    (folder / "eval").mkdir(parents=True)
    words = ["拖鞋", "皮鞋", "跑鞋", "雨靴", "凉鞋", "棉鞋"]
    entries = [
        {"id": f"e{n}", "title": word, "content": f"{word}很好。{word}要擦。", "topic": "t"}
        | {"lang": "zh", "source": "s"}
        for n, word in enumerate(words)
    ]
    questions = [
        {"entry": f"e{n}", "lang": "zh", "style": "plain", "question": f"{word}呢{k}"}
        | {"sentences": [1]}
        for n, word in enumerate(words)
        for k in range(4)
    ]
    (folder / "knowledge_base.json").write_text(json.dumps(entries), "utf-8")
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)), "utf-8")
    (folder / "eval" / "held_out_entries.json").write_text('["e5"]', "utf-8")
    (folder / "synonyms.txt").write_text("拖鞋, slipper\n皮鞋, leather shoe\n", "utf-8")
    return folder


def test_held_out_entries_and_kept_questions_are_not_seen(data: Path) -> None:
    pairs = list(training_pairs(load_material(data)))
    assert pairs
    assert all(pair.entry != "e5" for pair in pairs)
    assert not any(kept_for_calibration(pair.text) for pair in pairs if "呢" in pair.text)


def test_training_twice_gives_the_same_vectors(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_embedder(data, tmp_path / name, PLAN)
    one, two = (StaticTable(tmp_path / name).encode_queries(["拖鞋"]) for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)


def test_a_name_comes_near_its_synonym(data: Path, tmp_path: Path) -> None:
    train_embedder(data, tmp_path / "table", PLAN)
    slipper, right, wrong = StaticTable(tmp_path / "table").encode_queries(
        ["slipper", "拖鞋很好", "皮鞋很好"]
    )
    assert slipper @ right > slipper @ wrong
