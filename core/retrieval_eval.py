"""Measures retrieval on questions whose entry is known, and fits its calibration to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.calibration import Calibration, Judged, fit, kept_for_calibration
from core.errors import DataError
from core.index import Index
from core.messages import Language
from core.retrieval import Query, Ranking, Relevance, Retriever, Snapshot

# Fewer questions than this are all used to calibrate, even if an embedder may have seen them.
_ENOUGH_KEPT = 60
_BINS = 10


@dataclass(frozen=True, slots=True)
class Question:
    """A question for measuring; `entry` is the id of the document that answers it, "" for none.

    `group` is its style (plain, colloquial) or, without an entry, its distance (near, far).
    """

    id: str
    text: str
    entry: str
    lang: Language | None
    group: str


@dataclass(frozen=True, slots=True)
class Recall:
    """How often the right entry is first or among the first three, and the mean of 1 / place."""

    name: str
    questions: int
    at_1: float
    at_3: float
    mrr: float


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of a kind of questions, in shares; `wrong` are answers without the right one.

    `shown` are those asked back with a passage shown at once, `shown_wrong` where it is not right.
    """

    name: str
    questions: int
    answered: float
    clarified: float
    refused: float
    wrong: float
    shown: float
    shown_wrong: float


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """The figures of `solemate eval retrieval`.

    The areas under the ROC curve say how well confidence tells answerable questions from those near
    the subject and far from it (1 is perfect, 0.5 chance; 0 when there were none). `ece` is the
    mean gap between confidence and being right.
    """

    recalls: tuple[Recall, ...]
    outcomes: tuple[Outcomes, ...]
    auroc_near: float
    auroc_far: float
    ece: float


@dataclass(frozen=True, slots=True)
class Scored:
    """One document of a batch search's result."""

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One line of a batch search's output."""

    id: str
    outcome: Relevance
    results: tuple[Scored, ...]


def load_questions(path: Path) -> list[Question]:
    """Read JSON lines with `question` and optional id, entry, lang, style, distance.

    Raises `DataError` naming file, line and field.
    """
    questions = []
    for number, line in _lines(path):
        row = _object(path, number, line)
        lang = row.get("lang")
        if lang not in (None, "zh", "en"):
            raise DataError(f"{path}, line {number}, field 'lang': must be zh or en, not {lang!r}.")
        questions.append(
            Question(
                str(row.get("id", number)),
                _text(path, number, row, "question"),
                str(row.get("entry") or ""),
                lang,
                str(row.get("style") or row.get("distance") or ""),
            )
        )
    return questions


async def search_batch(
    retriever: Retriever, questions: Sequence[Question], top_k: int = 10
) -> list[BatchResult]:
    """Rank documents for many questions; every result is listed, whatever the outcome."""
    results = []
    for question in questions:
        ranking = await retriever.rank(Query(question.text))
        scored = tuple(
            Scored(hit.chunk.document, round(hit.probability, 6)) for hit in ranking.hits[:top_k]
        )
        results.append(BatchResult(question.id, ranking.relevance, scored))
    return results


async def calibrate(
    retriever: Retriever, questions: Sequence[Question], wrong: float, refused: float
) -> Calibration:
    """Fit the retriever's calibration to its own knowledge base.

    Each question with an entry is asked twice: as it is, and with that entry hidden, which makes
    it one that cannot be answered; those are the hardest, because everything near is still there.
    Of all that cannot be answered a share `wrong` may be answered, and `refused` is refused.
    Raises `DataError` without any question.
    """
    _check_any(questions)
    known = {chunk.entry for chunk in retriever.snapshot.index.chunks}
    kept = [one for one in questions if not one.entry or kept_for_calibration(one.text)]
    judged = []
    for question in kept if len(kept) >= _ENOUGH_KEPT else questions:
        query = Query(question.text)
        entry = _entry(question.entry)
        if entry not in known:
            judged.append(_judged(await retriever.rank(query), "", "foreign"))
            continue
        judged.append(_judged(await retriever.rank(query), entry, "known"))
        judged.append(_judged(await retriever.rank_without(query, entry), "", "hidden"))
    return fit(judged, retriever.snapshot.index.digest, wrong, refused)


async def evaluate(retriever: Retriever, questions: Sequence[Question]) -> RetrievalReport:
    """Measure recall by language and style, also across languages, and what is answered.

    Raises `DataError` without any question.
    """
    _check_any(questions)
    index = retriever.snapshot.index
    known = {chunk.entry for chunk in index.chunks}
    answerable = [one for one in questions if _entry(one.entry) in known]
    others = [one for one in questions if not one.entry]
    rankings = {one: await retriever.rank(Query(one.text)) for one in (*answerable, *others)}
    chinese = _only_chinese(retriever)
    crossing = [one for one in answerable if one.lang == "en"]
    crossed = {one: await chinese.rank(Query(one.text)) for one in crossing}
    recalls = [*_recalls(answerable, rankings, ""), *_recalls(crossing, crossed, "→zh")]
    outcomes = _outcomes(answerable, rankings) + _outcomes(others, rankings)
    return RetrievalReport(
        tuple(recalls),
        tuple(outcomes),
        _auroc(rankings, answerable, [one for one in others if one.group == "near"]),
        _auroc(rankings, answerable, [one for one in others if one.group == "far"]),
        _ece(rankings, [*answerable, *others]),
    )


def _check_any(questions: Sequence[Question]) -> None:
    if not questions:
        raise DataError(
            "There is no question to ask: the files hold none. Give JSON lines with a question "
            "and the id of its entry."
        )


def _only_chinese(retriever: Retriever) -> Retriever:
    snapshot = retriever.snapshot
    chunks = [chunk for chunk in snapshot.index.chunks if chunk.lang == "zh"]
    return retriever.on(Snapshot(Index.of(snapshot.index.recipe, chunks), snapshot.calibration))


def _judged(ranking: Ranking, entry: str, asked: Literal["known", "hidden", "foreign"]) -> Judged:
    signals = tuple(hit.signals for hit in ranking.hits[:3])
    entries = [hit.chunk.entry for hit in ranking.hits[:3]]
    return Judged(signals, entries.index(entry) if entry in entries else None, asked)


def _entry(entry: str) -> str:
    return entry.removesuffix(".en").removesuffix(".zh")


def _place(question: Question, ranking: Ranking) -> int | None:
    """1 for the first, None where the entry was not found."""
    entries = [hit.chunk.entry for hit in ranking.hits]
    entry = _entry(question.entry)
    return entries.index(entry) + 1 if entry in entries else None


def _recalls(
    questions: Sequence[Question], rankings: Mapping[Question, Ranking], suffix: str
) -> list[Recall]:
    return [
        _recall(f"{name}{suffix}", [_place(one, rankings[one]) for one in members])
        for name, members in _grouped(questions, lambda one: f"{one.lang} {one.group}".strip())
    ]


def _recall(name: str, places: Sequence[int | None]) -> Recall:
    found = [place for place in places if place]
    count = len(places)
    return Recall(
        name,
        count,
        sum(place == 1 for place in found) / count,
        sum(place <= 3 for place in found) / count,
        sum(1 / place for place in found) / count,
    )


def _outcomes(
    questions: Sequence[Question], rankings: Mapping[Question, Ranking]
) -> list[Outcomes]:
    outcomes = []
    for name, members in _grouped(questions, lambda one: one.group):
        found = [rankings[one].relevance for one in members]
        count = len(members)
        outcomes.append(
            Outcomes(
                name,
                count,
                found.count(Relevance.ANSWER) / count,
                found.count(Relevance.CLARIFY) / count,
                found.count(Relevance.REFUSE) / count,
                sum(_wrong(one, rankings[one]) for one in members) / count,
                sum(_shown(rankings[one]) for one in members) / count,
                sum(_shown_wrong(one, rankings[one]) for one in members) / count,
            )
        )
    return outcomes


def _wrong(question: Question, ranking: Ranking) -> bool:
    return ranking.relevance is Relevance.ANSWER and not _right(question, ranking)


def _shown(ranking: Ranking) -> bool:
    return bool(ranking.hits) and ranking.shows(ranking.hits[0], ranking.relevance)


def _shown_wrong(question: Question, ranking: Ranking) -> bool:
    return _shown(ranking) and _place(question, ranking) != 1


def _right(question: Question, ranking: Ranking) -> bool:
    place = _place(question, ranking) if question.entry else None
    return place is not None and place <= 3


def _grouped(
    questions: Sequence[Question], key: Callable[[Question], str]
) -> list[tuple[str, list[Question]]]:
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(key(question), []).append(question)
    return sorted(groups.items())


def _auroc(
    rankings: Mapping[Question, Ranking], yes: Sequence[Question], no: Sequence[Question]
) -> float:
    """How often an answerable question has the higher confidence; a tie counts half."""
    if not yes or not no:
        return 0.0
    high = np.array([rankings[one].confidence for one in yes])[:, None]
    low = np.array([rankings[one].confidence for one in no])[None, :]
    return float(np.mean((high > low) + 0.5 * (high == low)))


def _ece(rankings: Mapping[Question, Ranking], questions: Sequence[Question]) -> float:
    """Expected calibration error over ten bins of equal width."""
    sure = np.array([rankings[one].confidence for one in questions])
    right = np.array([_right(one, rankings[one]) for one in questions], float)
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(float(right[bins == one].mean() - sure[bins == one].mean()))
        * float(np.mean(bins == one))
        for one in np.unique(bins)
    ]
    return float(sum(gaps))


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as exc:
        raise DataError(f"Cannot read the questions in {str(path)!r}: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not UTF-8 text; save the file as UTF-8.") from exc
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as exc:
        raise DataError(f"{path}, line {number}: not valid JSON ({exc}).") from exc
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: must be an object, not {line!r:.60}.")
    return row


def _text(path: Path, number: int, row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f"{path}, line {number}, field {name!r}: must be text, not {value!r:.60}.")
    return value
