"""What every run is reminded with: questions of their own, told as they were before."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from training.anchors import make_anchors
from training.dpo_rows import kept_for_measuring
from training.material import Material, load_material
from training.rows import ReminderRow, read_all
from training.spoken import is_spoken

DATA = Path(__file__).parents[2] / "data"
REMINDERS = read_all(DATA / "reminders.jsonl", ReminderRow)


@pytest.fixture(scope="module")
def material() -> Material:
    return load_material(DATA)


def test_there_are_enough_of_them_and_each_is_about_an_entry_of_its_own() -> None:
    assert Counter(row.lang for row in REMINDERS) == {"zh": 238, "en": 126}
    assert len({row.entry for row in REMINDERS}) == len(REMINDERS)


def test_none_is_about_what_is_held_out_or_kept_for_measuring(material: Material) -> None:
    held_out = set(json.loads((DATA / "eval/held_out_entries.json").read_text("utf-8")))
    assert not {row.entry.removesuffix(".en") for row in REMINDERS} & held_out
    assert not [row.entry for row in REMINDERS if kept_for_measuring(row.entry)]
    assert {row.entry for row in REMINDERS} <= set(material.entries)


def test_no_model_was_trained_on_one_of_them(material: Material) -> None:
    known = {question.text for question in material.questions}
    assert not known & {row.question for row in REMINDERS}


def test_each_is_asked_once_and_answered_with_its_whole_entry_in_talk(material: Material) -> None:
    pairs = make_anchors(material, REMINDERS, seed=17)
    asked = [pair.row.prompt[-1].content for pair in pairs]
    assert len(set(asked)) == len(pairs) == len(REMINDERS)
    for pair in pairs:
        entry = material.entries[pair.row.entry]
        assert is_spoken(pair.chosen, entry.lang)
        assert not is_spoken(pair.row.output, entry.lang)
        assert entry.text.startswith(pair.row.output)
        assert len(pair.row.output) < len(entry.text)
        assert entry.text in pair.row.prompt[-1].content


def test_another_seed_draws_them_in_another_order(material: Material) -> None:
    one, same, other = (make_anchors(material, REMINDERS, seed=seed) for seed in (17, 17, 18))
    assert one == same
    assert [pair.row.entry for pair in one] != [pair.row.entry for pair in other]


def test_what_training_may_not_see_is_left_out(material: Material) -> None:
    kept = next(name for name in material.entries if kept_for_measuring(name))
    rows = [
        ReminderRow(entry=name, lang="zh", question="鞋湿了怎么办？")
        for name in ("no-such-entry", kept)
    ]
    assert make_anchors(material, rows, seed=17) == []
