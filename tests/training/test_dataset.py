"""A frozen dataset is the pool of one moment: nothing is lost, mixed up, cut, or changed later."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataError
from core.messages import ChatMessage
from tests.training.run_parts import count_words, pair, questions, rated
from training.dataset import (
    FreezeRules,
    Frozen,
    freeze_pairs,
    freeze_ratings,
    load_anchors,
    load_frozen,
)
from training.pairs import PreferencePair
from training.rows import DpoRow

RULES = FreezeRules(cutoff_len=200)
ANCHORS = [
    DpoRow(prompt=f"Anchor {number}?", chosen="Hey!", rejected="Dear customer.", system="Be kind.")
    for number in range(50)
]


def freeze(
    pairs: Sequence[PreferencePair],
    folder: Path,
    rules: FreezeRules = RULES,
    anchors: Sequence[DpoRow] = (),
) -> Frozen:
    return freeze_pairs(pairs, anchors, rules, count_words, folder)


def rows(frozen: Frozen, side: str = "train") -> list[dict[str, Any]]:
    lines = (frozen.folder / f"{side}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def asked(row: dict[str, Any]) -> str:
    return str(row["messages"][-1]["content"])


def split_of(frozen: Frozen) -> dict[str, str]:
    return {item.id: item.split for item in frozen.manifest.items}


def test_a_row_holds_the_prompt_exactly_as_it_was_served(tmp_path: Path) -> None:
    prompt = (
        ChatMessage("system", "你是鞋类专家。\n"),
        ChatMessage("user", "  洞洞鞋？\u3000"),
        ChatMessage("assistant", "是的～ <3"),
        ChatMessage("user", "<doc 1 a>\nb\n</doc>\nQuestion: rain?\r\n"),
    )
    one = pair(0, prompt=prompt, chosen=" Ja. ", rejected="Nein!\n")
    (row,) = rows(freeze([one], tmp_path))
    assert [ChatMessage(**message) for message in row["messages"]] == list(prompt)
    assert row["chosen"] == {"role": "assistant", "content": " Ja. "}
    assert row["rejected"] == {"role": "assistant", "content": "Nein!\n"}


def test_llamafactory_is_told_sharegpt_and_our_own_role_tags(tmp_path: Path) -> None:
    frozen = freeze([pair(0)], tmp_path)
    told = json.loads((frozen.folder / "dataset_info.json").read_text())["train"]
    assert (told["formatting"], told["ranking"]) == ("sharegpt", True)
    assert told["tags"] == {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }


def test_the_same_pool_is_the_same_dataset(tmp_path: Path) -> None:
    pool = [pair(number) for number in range(80)]
    first = freeze(pool, tmp_path, anchors=ANCHORS)
    written = (first.folder / "manifest.json").stat().st_mtime_ns
    second = freeze(pool[::-1], tmp_path, anchors=ANCHORS[::-1])
    assert second == first
    assert (second.folder / "manifest.json").stat().st_mtime_ns == written


def test_the_same_lessons_are_the_same_training_whatever_their_ids(tmp_path: Path) -> None:
    pool = [pair(number) for number in range(12)]
    named = [replace(one, id=f"{11 - number:04}") for number, one in enumerate(pool)]
    first, second = (freeze(one, tmp_path, anchors=ANCHORS) for one in (pool, named))
    assert rows(first) == rows(second)


def test_one_pair_less_is_another_dataset(tmp_path: Path) -> None:
    pool = [pair(number) for number in range(5)]
    assert freeze(pool, tmp_path).manifest.digest != freeze(pool[1:], tmp_path).manifest.digest


def test_every_pair_is_in_the_manifest_once(tmp_path: Path) -> None:
    pool = [pair(number) for number in range(80)]
    pool[7] = pair(7, chosen="long " * 300)
    manifest = freeze(pool, tmp_path).manifest
    named = [item.id for item in manifest.items] + [one.id for one in manifest.left_out]
    assert sorted(named) == sorted(one.id for one in pool)


def test_no_person_and_no_question_stands_on_both_sides(tmp_path: Path) -> None:
    texts = questions(60)
    pool = [
        pair(number, person=f"p{number // 2}", question=texts[number % 60]) for number in range(90)
    ]
    frozen = freeze(pool, tmp_path, FreezeRules(200, held_out=0.3))
    sides = split_of(frozen)
    held = [one for one in pool if sides[one.id] == "held_out"]
    kept = [one for one in pool if sides[one.id] == "train"]
    assert len(held) >= 10
    assert frozen.manifest.split_by == "person and question"
    assert {one.user_id for one in held}.isdisjoint(one.user_id for one in kept)
    assert {one.question for one in held}.isdisjoint(one.question for one in kept)
    assert {asked(row) for row in rows(frozen)}.isdisjoint(
        asked(row) for row in rows(frozen, "held_out")
    )


def test_nearly_the_same_question_stays_on_one_side(tmp_path: Path) -> None:
    pool = [
        pair(2 * number + twin, question=text + "?" * twin + " please" * twin)
        for number, text in enumerate(questions(45))
        for twin in (0, 1)
    ]
    sides = split_of(freeze(pool, tmp_path))
    assert "held_out" in sides.values()
    for one, twin in zip(pool[::2], pool[1::2], strict=True):
        assert sides[one.id] == sides[twin.id]


def test_a_person_behind_everything_leaves_the_questions_apart(tmp_path: Path) -> None:
    frozen = freeze([pair(number, person="one") for number in range(80)], tmp_path)
    assert frozen.manifest.split_by == "question"
    assert 10 <= frozen.manifest.count("held_out") <= 12


def test_too_few_to_measure_with_are_all_trained_on(tmp_path: Path) -> None:
    frozen = freeze([pair(number) for number in range(30)], tmp_path)
    assert frozen.manifest.split_by == "nothing"
    assert frozen.manifest.count("train") == 30
    assert "held_out" not in json.loads((frozen.folder / "dataset_info.json").read_text())


def test_a_row_that_would_be_cut_is_left_out_and_says_why(tmp_path: Path) -> None:
    exact = pair(0)
    length = count_words(exact.prompt, exact.chosen)
    frozen = freeze([exact, pair(1, chosen="Yes.", rejected="No.")], tmp_path, FreezeRules(length))
    assert [item.id for item in frozen.manifest.items] == ["pair-0001"]
    assert frozen.manifest.left_out[0].why == f"{length} tokens of {length}: it would be cut"


def test_the_newest_fill_a_run_that_is_too_small_for_all(tmp_path: Path) -> None:
    rules = FreezeRules(200, most_rows=4)
    frozen = freeze([pair(number) for number in range(6)], tmp_path, rules, ANCHORS)
    assert {item.id for item in frozen.manifest.items} == {f"pair-000{n}" for n in (2, 3, 4, 5)}
    assert {one.id for one in frozen.manifest.left_out} == {"pair-0000", "pair-0001"}
    assert frozen.manifest.anchors == 0


def test_few_rows_fill_a_run_by_being_there_again_each_time_with_other_anchors(
    tmp_path: Path,
) -> None:
    rules = FreezeRules(200, replay=1.0, most_rows=20, most_passes=3)
    frozen = freeze([pair(number) for number in range(2)], tmp_path, rules, ANCHORS)
    found = [asked(row) for row in rows(frozen)]
    anchors = [one for one in found if one.startswith("Anchor")]
    assert (frozen.manifest.passes, frozen.rows) == (3, 3 * 2 + len(anchors))
    assert len(anchors) == len(set(anchors)) == 6
    assert Counter(Counter(one for one in found if one not in anchors).values()) == {3: 2}


def test_no_row_is_there_again_where_the_run_is_full(tmp_path: Path) -> None:
    rules = FreezeRules(200, replay=1.0, most_rows=7, most_passes=3)
    frozen = freeze([pair(number) for number in range(4)], tmp_path, rules, ANCHORS)
    assert (frozen.manifest.passes, frozen.rows) == (1, 7)


def test_anchors_are_replayed_beside_the_pairs(tmp_path: Path) -> None:
    rules = FreezeRules(200, replay=0.5)
    frozen = freeze([pair(number) for number in range(10)], tmp_path, rules, ANCHORS)
    anchored = [row for row in rows(frozen) if asked(row).startswith("Anchor")]
    assert (frozen.manifest.anchors, len(anchored), frozen.rows) == (5, 5, 15)
    assert anchored[0]["messages"][0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("languages", "number", "drawn"),
    [
        ("zh en", 10, {"zh": 5, "en": 5}),
        ("zh zh zh en", 20, {"zh": 15, "en": 5}),
        ("zh", 12, {"zh": 10, "en": 2}),  # nobody asked in English, which stays all the same
        ("en en", 40, {"en": 25, "zh": 15}),  # there are no more English ones
        ("zh en", 99, {"zh": 25, "en": 25}),
    ],
)
def test_a_language_has_the_share_of_the_anchors_that_it_has_of_the_pairs(
    tmp_path: Path, languages: str, number: int, drawn: dict[str, int]
) -> None:
    texts = {"zh": "第 {} 双鞋怎么洗？", "en": "How do I wash shoe {}?"}
    anchors = [
        one.model_copy(update={"prompt": texts["zh" if place % 2 else "en"].format(place)})
        for place, one in enumerate(ANCHORS)
    ]
    pairs = [
        pair(place, question=f"{'靴子怎么刷' if one == 'zh' else 'How to brush boots'} {place}？")
        for place, one in enumerate(languages.split())
    ]
    frozen = freeze(pairs, tmp_path, FreezeRules(200, replay=number / len(pairs)), anchors)
    found = Counter(
        language
        for row in rows(frozen)
        for language, word in (("zh", "双鞋"), ("en", "wash"))
        if word in asked(row)
    )
    assert found == Counter(drawn)


def test_the_shipped_pairs_are_anchors() -> None:
    anchors = load_anchors(Path(__file__).parents[2] / "data" / "shoes_dpo.jsonl")
    assert len(anchors) >= 600


@pytest.mark.parametrize("name", ["train.jsonl", "dataset_info.json", "manifest.json"])
def test_a_dataset_that_was_changed_is_noticed(tmp_path: Path, name: str) -> None:
    frozen = freeze([pair(number) for number in range(3)], tmp_path)
    assert load_frozen(frozen.folder) == frozen
    file = frozen.folder / name
    file.chmod(0o644)
    file.write_text(file.read_text().replace("pair-0001", "pair-0009").replace("rain", "snow"))
    if name == "dataset_info.json":
        file.write_text(file.read_text().replace("sharegpt", "openai"))
    with pytest.raises(DataError):
        load_frozen(frozen.folder)


def test_a_damaged_dataset_is_frozen_anew(tmp_path: Path) -> None:
    frozen = freeze([pair(0)], tmp_path)
    (frozen.folder / "train.jsonl").unlink()
    assert freeze([pair(0)], tmp_path) == frozen
    assert load_frozen(frozen.folder) == frozen


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair to train on"):
        freeze([], tmp_path)


def test_single_answers_are_kto_rows_with_their_thumb(tmp_path: Path) -> None:
    found = [rated(number, liked=number % 3 == 0) for number in range(9)]
    frozen = freeze_ratings(found, RULES, count_words, tmp_path)
    told = json.loads((frozen.folder / "dataset_info.json").read_text())["train"]
    assert told["columns"] == {"messages": "messages", "kto_tag": "label"}
    assert (frozen.manifest.liked, frozen.manifest.disliked) == (3, 6)
    thumbs = {row["messages"][-1]["content"]: row["label"] for row in rows(frozen)}
    assert thumbs == {f"Answer {number}.": number % 3 == 0 for number in range(9)}


def test_kto_wants_both_thumbs(tmp_path: Path) -> None:
    found = [rated(number, liked=False) for number in range(9)]
    with pytest.raises(DataError, match="there are 0 and 9"):
        freeze_ratings(found, RULES, count_words, tmp_path)
    # A dataset that no run has would be left out of an erasure.
    assert list(tmp_path.iterdir()) == []
