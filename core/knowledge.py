"""Knowledge files -> chunks: every object checked, long texts split where a sentence ends."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.language import language_of
from core.messages import Language

# A chunk is at most this wide, a Chinese character counting 1 and any other 1/2.
CHUNK_WIDTH = 400
TITLE_WIDTH = 30
MAX_BYTES = 256_000_000

_SENTENCE_END = re.compile(
    r"(?<=[。！？])(?![”’』」）】])|(?<=[。！？][”’』」）】])"
    r"|(?<=[.!?])\s+(?=[\"“‘(]?[A-Z0-9])|(?<=[.!?][\"”’)])\s+(?=[\"“‘(]?[A-Z0-9])|\n+"
)
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|etc|approx|vs|no|mr|mrs|ms|dr|st|fig)\.$", re.IGNORECASE
)
# Of what is wrong in a file, so much is told at once.
_TOLD = 20
_FIELDS = frozenset({"id", "title", "content", "source", "topic", "lang", "keywords", "questions"})
_CLAUSE_END = re.compile(r"[，。！？；：、\n,;:!?]|\.(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Chunk:
    """An indexed piece of a document. `part` counts from 0 within a document that was split.

    `keywords` are words that people ask with and the text does not use, `questions` what people ask
    when this answers them; only the search sees both.
    """

    id: str
    title: str
    text: str
    source: str
    topic: str
    lang: Language
    part: int = 0
    keywords: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()

    @property
    def document(self) -> str:
        """The id of the object in the knowledge file."""
        return self.id.rpartition("#")[0] if self.part else self.id

    @property
    def entry(self) -> str:
        """What a document shares with its twin in the other language (`ID` and `ID.en`)."""
        return self.document.removesuffix(f".{self.lang}")

    @property
    def digest(self) -> str:
        """Changes when any field does."""
        fields: tuple[str, ...] = (self.id, self.title, self.text, self.source, self.topic)
        fields += (self.lang, *self.keywords, "", *self.questions)
        return hashlib.sha256("\x1f".join(fields).encode()).hexdigest()


def load_knowledge(path: Path) -> list[Chunk]:
    """Read a JSON list of objects with `content`; the other fields of `_FIELDS` may be.

    Raises `DataError` naming file, line and field of what is wrong, one a line.
    """
    chunks: list[Chunk] = []
    problems: list[str] = []
    try:
        for item in _objects(path):
            made = list(_chunks(item))
            problems += item.problems
            chunks += made if not item.problems else ()
    except DataError as exc:
        problems.append(str(exc))
    if problems:
        told = problems[:_TOLD]
        more = len(problems) - len(told)
        raise DataError("\n".join([*told, *([f"… and {more} more."] if more else [])]))
    if not chunks:
        raise DataError(f"{path} holds no entries: write at least one object with 'content'.")
    return chunks


def sentences(text: str) -> list[str]:
    """The sentences of a Chinese or English text, without the white space around them."""
    found: list[str] = []
    for piece in _SENTENCE_END.split(text):
        piece = piece.strip()
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {piece}"
        elif piece:
            found.append(piece)
    return found


@dataclass(frozen=True, slots=True)
class _Object:
    """One object of the file, with where it stands for the sake of messages."""

    path: Path
    text: str
    start: int
    end: int
    fields: Mapping[str, Any]
    seen: dict[str, int]
    problems: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    @property
    def line(self) -> int:
        return self.text.count("\n", 0, self.start) + 1

    def refuse(self, name: str, problem: str) -> None:
        """Note what is wrong, by the field's own line or, where it is missing, the object's.

        A field is refused once: what follows from its first fault is none of its own.
        """
        if name in self.refused:
            return
        self.refused.add(name)
        key = re.compile(rf'(?<!\\)"{re.escape(name)}"\s*:')
        found = key.search(self.text, self.start, self.end)
        line = self.text.count("\n", 0, found.start() if found else self.start) + 1
        self.problems.append(f"{self.path}, line {line}, field {name!r}: {problem}.")

    def check_names(self) -> None:
        """Refuse a misspelled field; others that we have no use for are left to who needs them."""
        for name in sorted(self.fields.keys() - _FIELDS):
            if meant := _misspelled(name, _FIELDS.difference(self.fields)):
                self.refuse(name, f"is unknown; did you mean {meant!r}")
                self.refused.add(meant)

    def name(self, identity: str) -> None:
        """Refuse an id that another object has already."""
        if identity in self.seen:
            self.refuse("id", f"{identity!r} is already used in line {self.seen[identity]}")
        self.seen.setdefault(identity, self.line)

    def string(self, name: str) -> str:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            self.refuse(name, f"must be text, not {value!r:.60}")
            return ""
        return (value or "").strip()

    def strings(self, name: str) -> tuple[str, ...]:
        value = self.fields.get(name) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.refuse(name, f"must be a list of texts, not {value!r:.60}")
            return ()
        return tuple(one.strip() for one in value if one.strip())


@lru_cache
def _misspelled(name: str, missing: frozenset[str]) -> str | None:
    """Which of the missing fields a name is meant for, where it is nearly spelled like one."""
    close = difflib.get_close_matches(name, sorted(missing), n=1, cutoff=0.75)
    return close[0] if close and len(name) > len("id") + 1 else None


def _objects(path: Path) -> Iterator[_Object]:
    text = _read(path)
    seen: dict[str, int] = {}
    decoder = json.JSONDecoder()
    start = _skip_space(text, 0)
    if text[start : start + 1] != "[":
        raise DataError(
            f"{path}, line 1: must be a JSON list of objects, '[{{\"content\": …}}, …]'."
        )
    start = _skip_space(text, start + 1)
    try:
        while text[start : start + 1] != "]":
            fields, end = decoder.raw_decode(text, start)
            item = _Object(path, text, start, end, fields, seen)
            if not isinstance(fields, dict):
                raise DataError(f"{path}, line {item.line}: must be an object, not {fields!r:.60}.")
            yield item
            start = _skip_space(text, end)
            if text[start : start + 1] == ",":
                start = _skip_space(text, start + 1)
            elif text[start : start + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, start)
    except (json.JSONDecodeError, RecursionError) as exc:
        line = (
            exc.lineno if isinstance(exc, json.JSONDecodeError) else text.count("\n", 0, start) + 1
        )
        raise DataError(f"{path}, line {line}: not valid JSON ({exc}).") from exc
    if text[start + 1 :].strip():
        line = text.count("\n", 0, start) + 1
        raise DataError(f"{path}, line {line}: there is more text after the list's end.")


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{path} is larger than {MAX_BYTES:,} bytes: split it into several files."
            )
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as exc:
        raise DataError(f"Cannot read the knowledge file {str(path)!r}: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8.") from exc


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start


def _chunks(item: _Object) -> Iterator[Chunk]:
    item.check_names()
    content = item.string("content")
    if not content:
        item.refuse("content", "is missing or empty")
    given = item.string("id")
    document = given or hashlib.sha256(content.encode()).hexdigest()[:16]
    if any(char.isspace() or not char.isprintable() for char in document):
        item.refuse("id", f"must not hold spaces or control characters: {document!r:.60}")
    if given or content:
        item.name(document)
    lang = _language(item, content)
    title = item.string("title") or _first_clause(content)
    source = item.string("source") or item.path.name
    topic = item.string("topic")
    keywords, questions = item.strings("keywords"), item.strings("questions")
    for part, text in enumerate(_split(content)):
        identity = f"{document}#{part + 1}" if part else document
        if part:
            item.name(identity)
        yield Chunk(identity, title, text, source, topic, lang, part, keywords, questions)


def _language(item: _Object, content: str) -> Language:
    lang = item.string("lang").casefold().replace("_", "-").partition("-")[0]
    if lang not in ("", "zh", "en"):
        item.refuse("lang", f"must be 'zh' or 'en', not {lang!r}")
    return "zh" if lang == "zh" else "en" if lang == "en" else language_of(content) or "en"


def _first_clause(content: str) -> str:
    clause = _CLAUSE_END.split(content, maxsplit=1)[0].strip() or content
    return next(_pieces(clause, TITLE_WIDTH))


def _split(content: str) -> Iterator[str]:
    """Whole sentences together up to `CHUNK_WIDTH`; a longer sentence is cut."""
    if _width(content) <= CHUNK_WIDTH:
        yield content
        return
    kept = ""
    for sentence in sentences(content):
        for piece in _pieces(sentence, CHUNK_WIDTH):
            joined = f"{kept} {piece}" if kept and piece[:1].isascii() else kept + piece
            if kept and _width(joined) > CHUNK_WIDTH:
                yield kept
                kept = piece
            else:
                kept = joined
    yield kept


def _pieces(text: str, width: float) -> Iterator[str]:
    start, used = 0, 0.0
    for position, char in enumerate(text):
        cost = _width(char)
        if used + cost > width:
            yield text[start:position]
            start, used = position, 0.0
        used += cost
    yield text[start:]


def _width(text: str) -> float:
    return sum(1.0 if ord(char) > 0x2E7F else 0.5 for char in text)
