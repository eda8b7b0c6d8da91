"""The demo's corrections stand on their entries, and what it asks finds them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from core.duplicates import near_pairs
from core.opening import open_retriever
from core.retrieval import Query, Relevance, Retrieved
from core.settings import load_settings
from training import checks
from training.rows import AnyRow, CorrectionRow, EntryRow, Row, question_in, read_rows

DATA = Path(__file__).parents[2] / "data"
FOUND = read_rows(DATA / "demo_corrections.jsonl", "demo_corrections.jsonl", CorrectionRow)
CORRECTIONS = [row.data for row in FOUND.rows]
ENTRIES = {
    row.data.id: row.data
    for row in read_rows(DATA / "knowledge_base.json", "knowledge_base.json", EntryRow).rows
}
ASKED = [text for row in CORRECTIONS for text in (row.question, row.rephrased)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Retrieved]:
    """What the program as it is shipped finds for each question, by the question."""
    folder = tmp_path_factory.mktemp("state")
    settings = load_settings(environment={"SOLEMATE__DATABASE__FOLDER": str(folder)})

    async def search() -> dict[str, Retrieved]:
        _, retriever = await open_retriever(settings)
        return {text: await retriever.search(Query(text)) for text in ASKED}

    return asyncio.run(search())


def place(found: Retrieved, entry: str) -> int:
    """Where an entry stands among the passages, from 1 on; 0 where it was not found."""
    names = [passage.id for passage in found.passages]
    return names.index(entry) + 1 if entry in names else 0


def other_questions() -> list[str]:
    """Everything that the training questions and the evaluation sets ask."""
    names = ("questions.jsonl", "reminders.jsonl", "unanswerable.jsonl")
    files = (*(DATA / name for name in names), *DATA.glob("eval/*.jsonl"))
    rows: list[Row[AnyRow]] = [row for file in files for row in read_rows(file, "", AnyRow).rows]
    return [question_in(row.data.question or row.data.prompt) for row in rows]


def test_every_row_has_its_shape_and_an_entry_of_its_own_that_it_is_taken_from() -> None:
    assert FOUND.problems == []
    assert list(checks.id_problems(FOUND.rows)) == []
    assert list(checks.correction_problems(FOUND.rows, ENTRIES)) == []


def test_there_are_twenty_chinese_and_ten_english_rows_over_many_topics() -> None:
    assert Counter(row.lang for row in CORRECTIONS) == {"zh": 20, "en": 10}
    assert len({row.entry.removesuffix(".en") for row in CORRECTIONS}) == 30
    assert len({ENTRIES[row.entry].topic for row in CORRECTIONS}) >= 12


def test_no_entry_is_held_out_from_training() -> None:
    held_out = json.loads((DATA / "eval" / "held_out_entries.json").read_text("utf-8"))
    assert not {row.entry.removesuffix(".en") for row in CORRECTIONS} & set(held_out)


def test_a_correction_is_as_short_as_people_type() -> None:
    for row in CORRECTIONS:
        if row.lang == "zh":
            assert 15 <= len(row.correction) <= 60, row.id
        else:
            assert 8 <= len(row.correction.split()) <= 35, row.id


def test_no_question_is_nearly_another_one() -> None:
    others = list(dict.fromkeys(other_questions()))
    assert len(others) > 3_000
    texts = [*others, *ASKED]
    pairs = [pair for pair in near_pairs(texts) if pair.second >= len(others)]
    assert [(texts[pair.first], texts[pair.second]) for pair in pairs] == []


def test_asked_again_it_shares_few_words_with_the_first_time() -> None:
    for row in CORRECTIONS:
        assert near_pairs((row.question, row.rephrased), near=0.35) == [], row.id


def test_every_question_is_answered_with_its_entry_among_the_first_three(
    found: dict[str, Retrieved],
) -> None:
    for row in CORRECTIONS:
        for text in (row.question, row.rephrased):
            assert found[text].relevance is Relevance.ANSWER, text
            assert 1 <= place(found[text], row.entry) <= 3, text


def test_nearly_every_question_finds_its_entry_first(found: dict[str, Retrieved]) -> None:
    firsts = [row.id for row in CORRECTIONS if place(found[row.question], row.entry) == 1]
    assert len(firsts) >= 25
