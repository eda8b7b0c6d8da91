"""Calibration and measuring: fitted to a knowledge base, and honest about its operating point."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import pytest

from core.calibration import (
    DEFAULT,
    DEFAULT_LEXICAL,
    Judged,
    Signals,
    calibration_for,
    confidence,
    fit,
    load_calibration,
    to_json,
)
from core.errors import DataError
from core.index import Index, Recipe
from core.knowledge import Chunk
from core.retrieval import Relevance, Retriever, Snapshot
from core.retrieval_eval import Question, calibrate, evaluate, load_questions, search_batch
from core.terms import Analyzer
from tests.core.documents import OPTIONS

NAMES = [
    "洞洞",
    "乐福",
    "牛津",
    "德比",
    "孟克",
    "帆船",
    "马丁",
    "沙漠",
    "雨靴",
    "凉鞋",
    "拖鞋",
    "板鞋",
]


_ASKED: tuple[Literal["foreign"], Literal["known"]] = ("foreign", "known")


def judged(count: int) -> list[Judged]:
    chance = random.Random(3)
    made = []
    for number in range(count):
        level = 0.7 if number % 2 else 0.2
        best = Signals(level + chance.uniform(-0.2, 0.2), level, level, level / 2)
        rest = Signals(0.1, 0.1, 0.1, -0.8)
        made.append(Judged((best, rest), 0 if number % 2 else None, _ASKED[number % 2]))
    return made


def retriever() -> Retriever:
    chunks = [
        Chunk(f"e{number}", name, f"{name}的特点是第 {number} 种做法。", "test", "", "zh")
        for number, name in enumerate(NAMES)
    ]
    index = Index.of(Recipe(Analyzer(), None, "cpu"), chunks)
    return Retriever(Snapshot(index, DEFAULT_LEXICAL), OPTIONS)


def questions() -> list[Question]:
    known = [
        Question(f"q{number}", f"{name}有什么特点", f"e{number}", "zh", "plain")
        for number, name in enumerate(NAMES)
    ]
    return [*known, Question("far", "股票怎么买", "", "zh", "far")]


def test_probabilities_follow_what_was_right() -> None:
    calibration = fit(judged(200), "digest", wrong=0.1, refused=0.3)
    assert calibration.probability(Signals(0.7, 0.7, 0.7, 0.35)) > 0.9
    assert calibration.probability(Signals(0.2, 0.2, 0.2, 0.1)) < 0.1


def test_the_operating_point_says_what_the_thresholds_do() -> None:
    point = fit(judged(200), "digest", wrong=0.1, refused=0.3).point
    assert point is not None
    assert point.wrong <= 0.11
    assert point.answered > 0.95
    assert point.questions == 200


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(DataError, match="10 questions"):
        fit(judged(8), "digest", wrong=0.1, refused=0.3)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    calibration = fit(judged(100), "digest", wrong=0.2, refused=0.3)
    path = tmp_path / "calibration.json"
    path.write_bytes(to_json(calibration))
    assert load_calibration(path) == calibration


@pytest.mark.parametrize("content", ["", "{}", '{"weights": [1], "bias": 0}', "[1]"])
def test_a_damaged_calibration_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"calibration.json.*kb calibrate"):
        load_calibration(path)


def test_confidence_adds_up_to_certainty_at_most() -> None:
    assert confidence([0.7, 0.6]) == 1.0
    assert confidence([]) == 0.0


async def test_calibration_hides_entries_to_learn_when_not_to_answer() -> None:
    search = retriever()
    calibration = await calibrate(search, questions(), wrong=0.3, refused=0.25)
    assert calibration.knowledge == search.snapshot.index.digest
    assert calibration.point is not None
    assert calibration.point.answered > 0.9


async def test_the_report_counts_by_language_style_and_distance() -> None:
    report = await evaluate(retriever(), questions())
    (recall,) = report.recalls
    assert (recall.name, recall.questions, recall.at_1, recall.mrr) == ("zh plain", 12, 1.0, 1.0)
    assert [one.name for one in report.outcomes] == ["plain", "far"]
    assert report.outcomes[1].refused == 1.0
    assert report.auroc_far == 1.0


async def test_without_questions_nothing_is_measured_or_fitted(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n\n", "utf-8")
    with pytest.raises(DataError, match="no question to ask"):
        await evaluate(retriever(), load_questions(path))
    with pytest.raises(DataError, match="no question to ask"):
        await calibrate(retriever(), load_questions(path), wrong=0.3, refused=0.25)


async def test_a_batch_lists_documents_with_falling_scores() -> None:
    results = await search_batch(retriever(), questions())
    assert results[0].id == "q0"
    assert results[0].results[0].id == "e0"
    scores = [one.score for one in results[0].results]
    assert scores == sorted(scores, reverse=True)
    assert results[-1].outcome is Relevance.REFUSE


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "JSON"),
        ("5", "object"),
        ("{}", "'question'"),
        ('{"question": "a", "lang": 1}', "lang"),
    ],
)
def test_a_wrong_question_is_named_with_its_line(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f'{{"id": "a", "question": "ok"}}\n{line}\n', "utf-8")
    with pytest.raises(DataError, match=rf"line 2.*{named}"):
        load_questions(path)


def test_a_calibration_of_other_knowledge_gives_way_to_the_default(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    assert calibration_for(path, "mine", dense=True) == DEFAULT
    fitted = fit(judged(100), "mine", wrong=0.2, refused=0.3)
    path.write_bytes(to_json(fitted))
    assert calibration_for(path, "mine", dense=True) == fitted
    assert calibration_for(path, "another", dense=False) == DEFAULT_LEXICAL


def test_a_damaged_calibration_gives_way_too_so_that_it_can_be_fitted_anew(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text("{", "utf-8")
    assert calibration_for(path, "mine", dense=True) == DEFAULT
