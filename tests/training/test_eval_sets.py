"""Cases are made of held-out questions, and say which answer is right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.errors import DataError
from core.messages import Passage
from core.prompt import Budget, build_prompt, estimate_tokens
from training.eval_sets import (
    Case,
    Kind,
    SetOptions,
    load_cases,
    pair_cases,
    spread,
)
from training.material import load_entries, load_material
from training.rows import PairRow, read_all
from training.sft_rows import framed_answer

DATA = Path(__file__).parents[2] / "data"
ENTRIES = load_entries(DATA / "knowledge_base.json")
ROOM = Budget(5_000, estimate_tokens)
ALWAYS = [entry.passage() for entry in list(ENTRIES.values())[:5]]


async def find_always_the_same(question: str) -> Sequence[Passage]:
    return ALWAYS


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return asyncio.run(load_cases(DATA, find_always_the_same, SetOptions(3, ROOM, limit=30)))


def of(cases: Sequence[Case], *kinds: Kind) -> list[Case]:
    found = [case for case in cases if case.kind in kinds]
    assert found
    return found


def test_every_kind_is_asked_in_both_languages_as_often_as_wanted(cases: list[Case]) -> None:
    groups = [case.group for case in cases]
    kinds = (Kind.TRAINED, Kind.UNSEEN, Kind.UNANSWERABLE, Kind.TAKEN_OUT)
    assert {group: groups.count(group) for group in groups} == {
        f"{kind} {lang}": 30 for kind in kinds for lang in ("zh", "en")
    }


async def test_the_cases_are_the_same_every_time(cases: list[Case]) -> None:
    again = await load_cases(DATA, find_always_the_same, SetOptions(3, ROOM, limit=30))
    assert again == cases


def test_what_was_never_trained_on_is_told_apart(cases: list[Case]) -> None:
    trained = load_material(DATA).entries
    assert all(case.right and case.right.id in trained for case in of(cases, Kind.TRAINED))
    assert all(case.right and case.right.id not in trained for case in of(cases, Kind.UNSEEN))


def test_the_prompt_is_the_engines_own(cases: list[Case]) -> None:
    for case in cases:
        assert case.prompt == build_prompt(
            case.question, language=case.lang, passages=case.passages
        )


def test_the_right_entry_is_always_read_and_in_the_last_place_when_it_was_not_found(
    cases: list[Case],
) -> None:
    for case in of(cases, Kind.TRAINED, Kind.UNSEEN):
        assert case.right is not None
        names = [passage.id for passage in case.passages]
        assert len(names) == 3
        assert case.right.id in names
        assert case.right.passage() in ALWAYS or names[-1] == case.right.id


def test_what_was_taken_out_is_not_read_in_either_language(cases: list[Case]) -> None:
    asked = {
        row["question"]: row["entry"].removesuffix(".en")
        for row in map(json.loads, (DATA / "eval" / "retrieval.jsonl").read_text().splitlines())
    }
    for case in of(cases, Kind.TAKEN_OUT):
        assert asked[case.question] not in {one.id.removesuffix(".en") for one in case.passages}
        assert case.right is None


def test_the_reference_is_the_framed_passage(cases: list[Case]) -> None:
    for case in of(cases, Kind.TRAINED):
        assert case.right is not None
        right = case.right
        assert case.reference == framed_answer(right.title, right.text, right.lang)


async def test_the_right_entry_stays_when_not_all_passages_fit() -> None:
    small = Budget(350, estimate_tokens)
    tight = await load_cases(DATA, find_always_the_same, SetOptions(3, small, limit=20))
    for case in of(tight, Kind.TRAINED):
        assert case.right is not None
        assert case.right.text in case.prompt[-1].content
    assert any(len(case.passages) < 3 for case in tight)


def test_some_are_taken_evenly_from_all() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread(range(3), 0) == [0, 1, 2]


def test_a_pair_brings_its_own_prompt_and_the_chosen_answer_is_the_reference() -> None:
    entry = ENTRIES["slide-sandal"]
    prompt = build_prompt("一字拖能跑步吗？", language="zh", passages=[entry.passage()])
    pair = PairRow(
        system=prompt[0].content,
        prompt=prompt[1].content,
        chosen="哈喽，不能哦～",
        rejected="您好，不能。",
        entry=entry.id,
        lang="zh",
    )
    (case,) = pair_cases(DATA, [pair], limit=60)
    assert case.prompt == prompt
    assert case.question == "一字拖能跑步吗？"
    assert case.passages == (entry.passage(),)
    assert case.reference == "哈喽，不能哦～"


def test_a_pair_about_nothing_known_is_named() -> None:
    pair = PairRow(prompt="问", chosen="好", rejected="坏", entry="nowhere", lang="zh")
    with pytest.raises(DataError, match="nowhere"):
        pair_cases(DATA, [pair], limit=60)


def test_a_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "dpo.jsonl"
    path.write_text('{"prompt": "问", "chosen": "好", "rejected": "坏", "lang": "zh"}\n', "utf-8")
    with pytest.raises(DataError, match=r"dpo\.jsonl, line 1, field 'entry'"):
        read_all(path, PairRow)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        read_all(tmp_path / "nothing.jsonl", PairRow)
