"""The golden set, row by row: does it ask what the knowledge base answers, and only that?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict, Field

from core.duplicates import near_pairs
from core.grounding import is_refusal
from core.language import language_of
from core.messages import Language
from core.tags import load_tags
from core.wording import say
from training.rows import EntryRow, Text, read_rows

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"
GOLDEN = DATA / "eval" / "golden.jsonl"
# Questions that training or another measurement asks already.
ASKED = (
    "questions.jsonl",
    "unanswerable.jsonl",
    "eval/retrieval.jsonl",
    "eval/unanswerable.jsonl",
)
# Fewer of a kind say too little: one wrong answer would weigh too much.
LEAST = {
    ("facts", "zh"): 85,
    ("facts", "en"): 35,
    ("refusal", "zh"): 20,
    ("refusal", "en"): 15,
    ("language", "zh"): 5,
    ("language", "en"): 5,
    ("photo", "zh"): 14,
    ("photo", "en"): 6,
    ("followup", "zh"): 14,
    ("followup", "en"): 6,
    ("format", "zh"): 4,
    ("format", "en"): 4,
}


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MessageRow(_Shape):
    """What was said before."""

    role: Literal["user", "assistant"]
    content: Text


class TagRow(_Shape):
    """What vision saw in the photo."""

    name: Text
    phrase: Text
    score: float = Field(gt=0, le=1)


class GoldenRow(_Shape):
    """A question and what its answer has to say; one without an `entry` has to be refused."""

    id: Text
    lang: Language
    question: Text
    kind: Literal["facts", "refusal", "language", "photo", "followup", "format"]
    history: list[MessageRow] = Field(default_factory=list)
    tags: list[TagRow] = Field(default_factory=list)
    must: list[list[Text]]
    # Not `Text`: a space at the end may tell a heading from a word.
    must_not: list[str] = Field(min_length=1)
    entry: str = ""


class Answerable(NamedTuple):
    """A row with the text that answers it."""

    row: GoldenRow
    content: str


@pytest.fixture(scope="module")
def rows() -> list[GoldenRow]:
    found = read_rows(GOLDEN, GOLDEN.name, GoldenRow)
    assert [str(one) for one in found.problems] == []
    return [row.data for row in found.rows]


@pytest.fixture(scope="module")
def entries() -> dict[str, EntryRow]:
    known = json.loads((DATA / "knowledge_base.json").read_text("utf-8"))
    return {one["id"]: EntryRow.model_validate(one) for one in known}


@pytest.fixture(scope="module")
def answerable(rows: list[GoldenRow], entries: dict[str, EntryRow]) -> list[Answerable]:
    return [Answerable(row, entries[row.entry].content) for row in rows if row.entry in entries]


def test_ids_are_unique(rows: list[GoldenRow]) -> None:
    assert [name for name, count in Counter(row.id for row in rows).items() if count > 1] == []


def test_every_kind_is_asked_often_enough_in_both_languages(rows: list[GoldenRow]) -> None:
    counts = Counter((row.kind, row.lang) for row in rows)
    assert {key: counts[key] for key, least in LEAST.items() if counts[key] < least} == {}


def test_all_topics_are_asked_about_in_both_languages(
    rows: list[GoldenRow], entries: dict[str, EntryRow]
) -> None:
    asked = {(entries[row.entry].topic, row.lang) for row in rows if row.entry in entries}
    assert {(one.topic, one.lang) for one in entries.values()} - asked == set()


def test_questions_are_in_the_language_of_their_answer(
    rows: list[GoldenRow], entries: dict[str, EntryRow]
) -> None:
    assert [row.id for row in rows if language_of(row.question) != row.lang] == []
    answered = [row for row in rows if row.entry in entries]
    assert [row.id for row in answered if entries[row.entry].lang != row.lang] == []


def test_only_followups_have_a_history_of_one_round(rows: list[GoldenRow]) -> None:
    expected = {row.id: ["user", "assistant"] * (row.kind == "followup") for row in rows}
    assert {row.id: [one.role for one in row.history] for row in rows} == expected


def test_only_photo_questions_have_tags_and_vision_knows_them(rows: list[GoldenRow]) -> None:
    groups = load_tags(ROOT / "clip_data" / "sneaker_tag.txt")
    known = {(tag.name, tag.phrase) for group in groups for tag in group.tags}
    assert [row.id for row in rows if bool(row.tags) != (row.kind == "photo")] == []
    assert [
        (row.id, tag.name)
        for row in rows
        for tag in row.tags
        if (tag.name, tag.phrase) not in known
    ] == []


def test_every_question_has_an_entry_that_exists_but_those_to_refuse(
    rows: list[GoldenRow], entries: dict[str, EntryRow]
) -> None:
    wrong = [row.id for row in rows if (row.entry in entries) != (row.kind != "refusal")]
    assert wrong == []
    assert [row.id for row in rows if bool(row.must) != (row.kind != "refusal")] == []


def test_the_entry_says_every_fact_that_is_asked_for(answerable: list[Answerable]) -> None:
    assert [
        (row.id, fact)
        for row, content in answerable
        for fact in row.must
        if not any(one in content for one in fact)
    ] == []


def test_nothing_forbidden_stands_in_the_entry(answerable: list[Answerable]) -> None:
    assert [
        (row.id, wrong)
        for row, content in answerable
        for wrong in row.must_not
        if _plain(wrong) in _plain(content)
    ] == []


def test_nothing_forbidden_stands_in_a_fact(rows: list[GoldenRow]) -> None:
    assert [
        (row.id, wrong, one)
        for row in rows
        for wrong in row.must_not
        for fact in row.must
        for one in fact
        if _plain(wrong) in _plain(one)
    ] == []


def test_neither_the_question_nor_the_history_gives_the_answer_away(
    rows: list[GoldenRow],
) -> None:
    said = [
        (row, text)
        for row in rows
        if row.must
        for text in (row.question, *(one.content for one in row.history))
    ]
    assert [row.id for row, text in said if _says_all(text, row.must)] == []


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_shipped_refusal_passes(rows: list[GoldenRow], lang: Language) -> None:
    refusal = say("refused", lang)
    assert is_refusal(refusal)
    refused = [row for row in rows if row.kind == "refusal" and row.lang == lang]
    assert [(row.id, wrong) for row in refused for wrong in row.must_not if wrong in refusal] == []


def test_no_question_repeats_another_nor_one_of_training_or_retrieval(
    rows: list[GoldenRow],
) -> None:
    others = [text for name in ASKED for text in _questions(DATA / name)]
    mine = [
        text
        for row in rows
        for text in (row.question, *(one.content for one in row.history if one.role == "user"))
    ]
    asked = [*others, *mine]
    assert [
        (asked[pair.first], asked[pair.second])
        for pair in near_pairs(asked)
        if pair.second >= len(others)
    ] == []


def _questions(path: Path) -> Iterable[str]:
    return [json.loads(line)["question"] for line in path.read_text("utf-8").splitlines()]


def _plain(text: str) -> str:
    """Case and white space do not make a difference to what is said."""
    return "".join(text.casefold().split())


def _says_all(text: str, facts: Sequence[Sequence[str]]) -> bool:
    return all(any(_plain(one) in _plain(text) for one in fact) for fact in facts)
