"""The written knowledge and questions that training may see, read from `data/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.knowledge import sentences
from core.messages import Language, Passage


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the knowledge base, cut into the sentences that questions point at."""

    id: str
    title: str
    text: str
    sentences: tuple[str, ...]
    topic: str
    lang: Language
    source: str = ""
    keywords: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()

    @property
    def joint(self) -> str:
        """What stands between two sentences of this language."""
        return "" if self.lang == "zh" else " "

    def passage(self) -> Passage:
        """The entry as retrieval hands it to the engine."""
        return Passage(self.id, self.title, self.text, self.source, self.topic, self.lang)

    def pick(self, numbers: Sequence[int]) -> str:
        """The sentences of these 1-based numbers, joined."""
        return self.joint.join(self.sentences[number - 1] for number in numbers)


@dataclass(frozen=True, slots=True)
class Question:
    """A hand-written question; `answer` numbers the sentences of `entry` that answer it."""

    entry: str
    text: str
    answer: tuple[int, ...]
    lang: Language
    style: str


@dataclass(frozen=True, slots=True)
class Material:
    """Entries by id and the questions about them."""

    entries: dict[str, Entry]
    questions: tuple[Question, ...]


def load_material(data: Path) -> Material:
    """Everything training may see: held-out entries and the questions about them are left out.

    Raises `DataError` when a file is missing or a line has the wrong shape.
    """
    held_out = set(_json(data / "eval" / "held_out_entries.json"))
    held_out |= {f"{name}.en" for name in held_out}
    entries = [_entry(row) for row in _json(data / "knowledge_base.json")]
    trainable = {entry.id: entry for entry in entries if entry.id not in held_out}
    questions = load_questions(data / "questions.jsonl")
    return Material(trainable, tuple(q for q in questions if q.entry in trainable))


def load_entries(path: Path) -> dict[str, Entry]:
    """Every entry of a knowledge base, held out or not."""
    return {entry.id: entry for entry in map(_entry, _json(path))}


def load_questions(path: Path) -> list[Question]:
    """The questions of a JSON-lines file, in order."""
    questions = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        try:
            row = json.loads(line)
            questions.append(
                Question(
                    row["entry"],
                    row["question"],
                    tuple(row["sentences"]),
                    row["lang"],
                    row["style"],
                )
            )
        except (ValueError, KeyError, TypeError) as exc:
            raise DataError(f"{path}, line {number}: not a question ({exc!r}). Fix it.") from exc
    return questions


def _entry(row: dict[str, Any]) -> Entry:
    try:
        return Entry(
            id=row["id"],
            title=row["title"],
            text=row["content"],
            sentences=tuple(sentences(row["content"])),
            topic=row["topic"],
            lang=row["lang"],
            source=row["source"],
            keywords=tuple(row.get("keywords", ())),
            questions=tuple(row.get("questions", ())),
        )
    except (KeyError, TypeError) as exc:
        raise DataError(f"Not a knowledge entry: {row!r} ({exc!r}). Fix it.") from exc


def _json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as exc:
        raise DataError(f"{path} is not JSON: {exc}. Fix it or restore it.") from exc


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise DataError(f"Cannot read {path}: {exc.strerror}. Restore the file.") from exc
