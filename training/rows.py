"""Data files -> checked rows: each keeps its file and line, whatever is wrong is collected."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from core.errors import DataError
from core.messages import Language
from core.prompt import build_prompt

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Number = Annotated[int, Field(ge=1)]
GoldenKind = Literal["facts", "refusal", "language", "photo", "followup", "format"]

# What stands before the question in a prompt, taken from the prompt itself.
_BEFORE_QUESTION = tuple(
    build_prompt("", language=language)[-1].content for language in ("zh", "en")
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong or doubtful, and where; line 0 and field "" mean the whole file."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        name = f", field {self.field!r}" if self.field else ""
        return f"{self.file}{line}{name}: {self.message}"


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EntryRow(_Shape):
    """An entry of the knowledge base."""

    id: Text
    title: Text
    content: Text
    topic: Text
    lang: Language
    source: Text
    keywords: list[Text] = Field(default_factory=list)
    questions: list[Text] = Field(default_factory=list)


class QuestionRow(_Shape):
    """A question about an entry; `sentences` are the 1-based numbers of those that answer it."""

    entry: Text
    lang: Language
    style: Text
    question: Text
    sentences: list[Number] = Field(min_length=1)


class ReminderRow(_Shape):
    """An everyday question about an entry that no shipped model was trained on."""

    entry: Text
    lang: Language
    question: Text


class RetrievalRow(QuestionRow):
    """A question that retrieval is measured with."""

    id: Text


class UnansweredRow(_Shape):
    """A question that nothing in the knowledge base answers; calibration learns from it."""

    question: Text
    lang: Language
    distance: Text


class UnanswerableRow(UnansweredRow):
    """Another such question, that refusals are measured with."""

    id: Text


class SpokenRow(_Shape):
    """An entry said by hand the way people talk."""

    entry: Text
    lang: Language
    spoken: Text


class Said(_Shape):
    """One message of the conversation so far."""

    role: Literal["user", "assistant"]
    content: Text


class SeenTag(_Shape):
    """What vision saw in the photo that comes with the question."""

    name: Text
    phrase: Text
    score: float


class GoldenRow(_Shape):
    """A question and what its answer must hold: of each list in `must` one of the alternatives.

    Nothing in `must_not` may occur. `entry` is what the answer is about, where it is about one.
    """

    id: Text
    lang: Language
    question: str
    kind: GoldenKind
    history: list[Said] = []
    tags: list[SeenTag] = []
    must: list[list[Text]] = []
    must_not: list[str] = []
    entry: Text | None = None


class CorrectionRow(_Shape):
    """What a person of the demo asks, says should have been answered, and later asks again."""

    id: Text
    lang: Language
    entry: Text
    question: Text
    correction: Text
    rephrased: Text


class SftRow(BaseModel):
    """A training row in LLaMA-Factory's Alpaca format; other columns are for the reader."""

    model_config = ConfigDict(frozen=True, strict=True)

    instruction: Text
    input: str = ""
    output: Text
    system: str = ""
    history: list[list[str]] = []


class DpoRow(BaseModel):
    """A pair of answers to one prompt; other columns are for the reader."""

    model_config = ConfigDict(frozen=True, strict=True)

    prompt: Text
    chosen: Text
    rejected: Text
    system: str = ""
    history: list[list[str]] = []


class PairRow(DpoRow):
    """A held-out preference pair: its columns `entry` and `lang` say what it is about."""

    entry: Text
    lang: Language


class AnyRow(BaseModel):
    """A row of a file that is not described here; what it asks is still compared."""

    model_config = ConfigDict(frozen=True)

    question: str = ""
    prompt: str = ""
    instruction: str = ""


Shape = TypeVar("Shape", bound=BaseModel)
Shape_co = TypeVar("Shape_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class Row(Generic[Shape_co]):
    """A row that has the right shape, with the line where it starts."""

    file: str
    line: int
    data: Shape_co

    def finding(self, name: str, message: str) -> Finding:
        """Something about a field of this row."""
        return Finding(self.file, self.line, name, message)


@dataclass(slots=True)
class Rows(Generic[Shape_co]):
    """The good rows of a file and what is wrong with the others."""

    file: str
    present: bool = True
    rows: list[Row[Shape_co]] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)


def read_rows(path: Path, file: str, shape: type[Shape]) -> Rows[Shape]:
    """Read a `.jsonl` file, or a `.json` list of objects. `file` is the name in findings.

    A missing file is not present and has no rows; a broken one has problems.
    """
    found: Rows[Shape] = Rows(file)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        found.present = False
        return found
    except OSError as exc:
        found.problems.append(Finding(file, 0, "", f"cannot be read ({exc.strerror})"))
        return found
    except UnicodeDecodeError as exc:
        found.problems.append(Finding(file, 0, "", f"byte {exc.start} is not UTF-8"))
        return found
    split = _json_lines if path.suffix == ".jsonl" else _json_list
    for line, value in split(text):
        if isinstance(value, ValueError):
            found.problems.append(Finding(file, line, "", f"not valid JSON ({value})"))
            continue
        try:
            found.rows.append(Row(file, line, shape.model_validate(value)))
        except ValidationError as exc:
            found.problems += [
                Finding(file, line, ".".join(map(str, error["loc"])), _reason(error))
                for error in exc.errors()
            ]
    return found


def read_all(path: Path, shape: type[Shape]) -> list[Shape]:
    """Every row of a file that must be there and right; raises `DataError` for the first flaw."""
    found = read_rows(path, str(path), shape)
    if not found.present or not (found.rows or found.problems):
        raise DataError(f"There are no rows in {str(path)!r}. Restore the file.")
    if found.problems:
        raise DataError(f"{found.problems[0]}. Fix it.")
    return [row.data for row in found.rows]


def question_in(prompt: str) -> str:
    """The question at the end of a prompt as the engine builds it; another text is itself."""
    return split_question(prompt)[1].strip()


def split_question(prompt: str) -> tuple[str, str]:
    """What stands before the question of such a prompt, marker included, and the question."""
    for marker in _BEFORE_QUESTION:
        before, found, question = f"\n{prompt}".rpartition(f"\n{marker}")
        if found:
            return (before + found)[1:], question
    return "", prompt


_TOO_DEEP = "it is nested too deeply"


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    # Not `splitlines`, which also cuts at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as exc:
                yield number, exc
            except RecursionError:
                yield number, ValueError(_TOO_DEEP)


def _json_list(text: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list with their lines; a syntax error ends it."""
    decoder = json.JSONDecoder()
    gap = re.compile(r"[\s,]*")
    try:
        values = json.loads(text)
    except ValueError as exc:
        yield getattr(exc, "lineno", 1), exc
        return
    except RecursionError:
        yield 1, ValueError(_TOO_DEEP)
        return
    if not isinstance(values, list):
        yield 1, ValueError("must be a list of objects")
        return
    position = text.index("[") + 1
    for value in values:
        start = gap.match(text, position)
        assert start is not None
        yield text.count("\n", 0, start.end()) + 1, value
        _, position = decoder.raw_decode(text, start.end())


def _reason(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "is not a known field"
    if error["type"] == "string_too_short":
        return "is empty"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r:.60}"
