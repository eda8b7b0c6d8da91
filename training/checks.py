"""What can be wrong with the data files: each check yields findings about the rows it is given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from core.duplicates import Pair, near_pairs, normalised
from core.grounding import Ground, shingles
from core.knowledge import sentences
from core.language import language_of
from core.messages import Language
from core.quantities import quantities
from training.rows import (
    CorrectionRow,
    DpoRow,
    EntryRow,
    Finding,
    GoldenRow,
    PairRow,
    QuestionRow,
    ReminderRow,
    RetrievalRow,
    Row,
    SpokenRow,
    UnanswerableRow,
    UnansweredRow,
)
from training.sizes import SizeRow, contradictions

MAX_SENTENCES = 5
MAX_QUESTION = 200
# A correction takes this part of its character or word pairs from its entry.
MIN_QUOTED = 0.75
_TWIN = ".en"
# A shorter sentence ("It depends.") says nothing about where it comes from.
_TELLING = 10
# Chosen and rejected answers of one pair should be about as long as each other.
_MAX_RATIO = 2.0

_HAN = re.compile(r"[\u3400-\u9fff]")
_WORD = re.compile(r"[a-z0-9]+")
_SPELLED = {
    "half": "0.5", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "twelve": "12", "third": "1/3",
    "半": "0.5", "二": "2", "两": "2", "三": "3", "四": "4", "五": "5", "六": "6", "七": "7",
    "八": "8", "九": "9", "十": "10",
}  # fmt: skip
_SPELLING = re.compile(r"[半二两三四五六七八九十]|\b[a-z]+", re.IGNORECASE)
_DECADES = re.compile(r"20 世纪 (\d0)(?:( 到 )(\d0))? 年代")
_ORDINAL = re.compile(r"第[一二三四五六七八九十]+")
_PHYSICAL = frozenset(
    ("mm", "cm", "m", "km", "g", "kg", "h", "min", "s", "day", "week", "month", "year")
    + ("°c", "j", "inch", "%")
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question somewhere in the data, with where it stands."""

    file: str
    line: int
    field: str
    text: str

    @property
    def place(self) -> str:
        """File and line, for messages about another row."""
        return f"{self.file}, line {self.line}"


def id_problems(
    rows: Iterable[Row[EntryRow | RetrievalRow | UnanswerableRow | CorrectionRow | GoldenRow]],
) -> Iterator[Finding]:
    """Ids that were used before."""
    seen: dict[str, int] = {}
    for row in rows:
        identity = row.data.id
        if identity in seen:
            yield row.finding("id", f"{identity!r} is already used in line {seen[identity]}")
        seen.setdefault(identity, row.line)


def entry_problems(rows: Sequence[Row[EntryRow]]) -> Iterator[Finding]:
    """Entries that are too long, in another language than they say, or twins of nothing."""
    entries = {row.data.id: row.data for row in rows}
    for row in rows:
        entry = row.data
        count = len(sentences(entry.content))
        if count > MAX_SENTENCES:
            yield row.finding("content", f"has {count} sentences; keep it to {MAX_SENTENCES}")
        if not _written_in(entry.lang, entry.content):
            yield row.finding("lang", f"is {entry.lang!r}, but the content is not")
        if entry.id.endswith(_TWIN):
            twin = entries.get(entry.id.removesuffix(_TWIN))
            if twin is None or (twin.lang, entry.lang) != ("zh", "en"):
                yield row.finding("id", f"{entry.id!r} needs a Chinese entry of that name")
            else:
                yield from _twin_problems(row, twin)


def size_problems(rows: Iterable[Row[EntryRow]], sizes: Sequence[SizeRow]) -> Iterator[Finding]:
    """Statements about shoe sizes that disagree with the table."""
    for row in rows:
        for message in contradictions(row.data.content, sizes):
            yield row.finding("content", f"{message}, says the size table")


def title_warnings(rows: Iterable[Row[EntryRow]]) -> Iterator[Finding]:
    """Titles that another entry of the same language has too."""
    seen: dict[tuple[Language, str], str] = {}
    for row in rows:
        key = (row.data.lang, normalised(row.data.title))
        if key in seen:
            yield row.finding("title", f"{row.data.title!r} is also the title of {seen[key]!r}")
        seen.setdefault(key, row.data.id)


def question_problems(
    rows: Iterable[Row[QuestionRow]], entries: Mapping[str, EntryRow]
) -> Iterator[Finding]:
    """Questions about entries or sentences that do not exist."""
    for row in rows:
        entry = entries.get(row.data.entry)
        if entry is None:
            yield row.finding("entry", f"{row.data.entry!r} is not in the knowledge base")
            continue
        count = len(sentences(entry.content))
        for number in row.data.sentences:
            if number > count:
                yield row.finding(
                    "sentences", f"{number} is too high: {entry.id!r} has {count} sentences"
                )


def asked_problems(rows: Iterable[Row[QuestionRow | UnansweredRow]]) -> Iterator[Finding]:
    """Questions that are in another language than they say, or very long."""
    for row in rows:
        if not _written_in(row.data.lang, row.data.question):
            yield row.finding("lang", f"is {row.data.lang!r}, but the question is not")
        if len(row.data.question) > MAX_QUESTION:
            yield row.finding("question", f"is longer than {MAX_QUESTION} characters")


def correction_problems(
    rows: Sequence[Row[CorrectionRow]], entries: Mapping[str, EntryRow]
) -> Iterator[Finding]:
    """Corrections of no entry or one used before, in another language, or not taken from it."""
    yield from _once_each(rows, entries, ("question", "correction", "rephrased"))
    for row in rows:
        if row.data.entry in entries:
            yield from _quoting_problems(row, entries[row.data.entry])


def spoken_problems(
    rows: Iterable[Row[SpokenRow]], entries: Mapping[str, EntryRow]
) -> Iterator[Finding]:
    """Spoken answers about no entry, about one a second time, or in another language than it."""
    yield from _once_each(rows, entries, ("spoken",))


def about_problems(
    rows: Iterable[Row[GoldenRow] | Row[PairRow]], entries: Mapping[str, EntryRow]
) -> Iterator[Finding]:
    """Rows that are about no entry, or about one of another language than theirs."""
    for row in rows:
        if row.data.entry is not None:
            yield from _entry_problems(row, row.data.entry, row.data.lang, entries)


def reminder_problems(
    rows: Sequence[Row[ReminderRow]], entries: Mapping[str, EntryRow]
) -> Iterator[Finding]:
    """Reminders of no entry, of one a second time, or in another language than it."""
    yield from _once_each(rows, entries, ("question",))


def _once_each(
    rows: Iterable[Row[CorrectionRow] | Row[ReminderRow] | Row[SpokenRow]],
    entries: Mapping[str, EntryRow],
    texts: Sequence[str],
) -> Iterator[Finding]:
    """Rows of no entry or one used before, or with a text in another language than theirs."""
    seen: dict[str, int] = {}
    for row in rows:
        name = row.data.entry
        yield from _entry_problems(row, name, row.data.lang, entries)
        if name in seen:
            yield row.finding("entry", f"{name!r} is already used in line {seen[name]}")
        seen.setdefault(name, row.line)
        for field in texts:
            if not _written_in(row.data.lang, getattr(row.data, field)):
                yield row.finding("lang", f"is {row.data.lang!r}, but the {field} is not")


def _entry_problems(
    row: Row[Any], name: str, language: Language, entries: Mapping[str, EntryRow]
) -> Iterator[Finding]:
    entry = entries.get(name)
    if entry is None:
        yield row.finding("entry", f"{name!r} is not in the knowledge base")
    elif language != entry.lang:
        yield row.finding("lang", f"is {language!r}, but {name!r} is {entry.lang!r}")


def repeated(asked: Sequence[Asked]) -> tuple[list[Finding], list[Finding]]:
    """Problems (the same text twice in one file) and warnings (nearly the same)."""
    pairs = near_pairs([one.text for one in asked])
    same = [_about(pair, asked) for pair in pairs if _same(pair, asked)]
    near = [_about(pair, asked) for pair in pairs if not _same(pair, asked)]
    return same, near


def leaks(training: Sequence[Asked], evaluation: Sequence[Asked]) -> Iterator[Finding]:
    """Evaluation questions that training sees too: exactly, normalised, or nearly."""
    asked = [*_once(training), *evaluation]
    border = len(asked) - len(evaluation)
    for pair in near_pairs([one.text for one in asked]):
        if pair.first < border <= pair.second:
            yield _about(pair, asked)


def held_out_problems(
    file: str, held_out: Sequence[str], entries: Mapping[str, EntryRow]
) -> Iterator[Finding]:
    """Names of held-out entries that do not exist or come twice."""
    for name, count in Counter(held_out).items():
        if name not in entries:
            yield Finding(file, 0, "", f"{name!r} is not in the knowledge base")
        if count > 1:
            yield Finding(file, 0, "", f"{name!r} is listed {count} times")


def held_out_leaks(
    texts: Iterable[tuple[Asked, str]], held_out: frozenset[str], entries: Mapping[str, EntryRow]
) -> Iterator[Finding]:
    """Training rows (where, whole text) that hold a sentence of an entry kept from training."""
    known = {
        sentence
        for entry in entries.values()
        if entry.id not in held_out
        for sentence in map(normalised, sentences(entry.content))
    }
    secret = {
        plain: entry.id
        for entry in entries.values()
        if entry.id in held_out
        for sentence in sentences(entry.content)
        if len(plain := normalised(sentence)) >= _TELLING and plain not in known
    }
    for asked, text in texts:
        found = {secret[plain] for one in sentences(text) if (plain := normalised(one)) in secret}
        for name in sorted(found):
            message = f"holds a sentence of {name!r}, which is held out from training"
            yield Finding(asked.file, asked.line, asked.field, message)


def pair_problems(rows: Iterable[Row[DpoRow]]) -> Iterator[Finding]:
    """Pairs that teach nothing, or teach other facts instead of another manner."""
    for row in rows:
        pair = row.data
        if normalised(pair.chosen) == normalised(pair.rejected):
            yield row.finding("rejected", "is the same as chosen")
        odd = set(_figures(pair.chosen)) - set(_figures(pair.rejected)) - _spelled(pair.rejected)
        odd |= set(_figures(pair.rejected)) - set(_figures(pair.chosen)) - _spelled(pair.chosen)
        if odd:
            yield row.finding("chosen", f"figures differ from rejected: {', '.join(sorted(odd))}")


def pair_warnings(rows: Iterable[Row[DpoRow]]) -> Iterator[Finding]:
    """Pairs whose answers differ much in length, which DPO would learn instead of the manner."""
    for row in rows:
        short, long = sorted((len(row.data.chosen), len(row.data.rejected)))
        if long > _MAX_RATIO * short:
            yield row.finding("chosen", f"lengths differ much: {short} and {long} characters")


def _quoting_problems(row: Row[CorrectionRow], entry: EntryRow) -> Iterator[Finding]:
    """A figure, name or sentence of the correction that the entry lacks, or too few words of it."""
    said = row.data.correction
    strange = Ground.of([entry.content], MIN_QUOTED).unsupported(said)
    if strange:
        yield row.finding("correction", f"{strange!r} does not stand in {entry.id!r}")
    pairs = _pairs(said, entry.lang)
    share = len(pairs & _pairs(entry.content, entry.lang)) / max(1, len(pairs))
    if share < MIN_QUOTED:
        message = f"takes {share:.0%} of its words from {entry.id!r}, not {MIN_QUOTED:.0%}"
        yield row.finding("correction", message)


def _pairs(text: str, language: Language) -> set[str]:
    """Neighbouring characters of a Chinese text, neighbouring words of an English one."""
    if language == "zh":
        return shingles(text)
    words = _WORD.findall(text.casefold())
    return {f"{first} {second}" for first, second in pairwise(words)}


def _twin_problems(row: Row[EntryRow], chinese: EntryRow) -> Iterator[Finding]:
    """Figures that stand in one twin only; the other may spell them out."""
    theirs = _figures(chinese.content)
    ours = _figures(row.data.content)
    for value in sorted(_measured(theirs) - set(ours) - _spelled(row.data.content)):
        yield row.finding("content", f"{value!r} stands in {chinese.id!r}, but not here")
    for value in sorted(set(ours) - set(theirs) - _spelled(chinese.content)):
        yield row.finding("content", f"{value!r} does not stand in {chinese.id!r}")
    for value in sorted(set(ours) & set(theirs)):
        here, there = ours[value] & _PHYSICAL, theirs[value] & _PHYSICAL
        if here and there and not here & there:
            message = f"{value} {min(here)} is {value} {min(there)} in {chinese.id!r}"
            yield row.finding("content", message)


def _figures(text: str) -> dict[str, set[str]]:
    """Each number with its units; a lone 1 is left out, being an article in English."""
    text = _ORDINAL.sub("", _DECADES.sub(_calendar_years, text))
    found: dict[str, set[str]] = {}
    for value, unit in quantities(text):
        found.setdefault(value, set()).add(unit)
    found.pop("1", None)
    return found


def _measured(figures: dict[str, set[str]]) -> set[str]:
    return {value for value, units in figures.items() if units - {""}}


def _spelled(text: str) -> set[str]:
    words = (match.group().lower() for match in _SPELLING.finditer(text))
    return {_SPELLED[word] for word in words if word in _SPELLED}


def _calendar_years(match: re.Match[str]) -> str:
    """20 世纪 70 到 90 年代 -> 1970 到 1990, as English says it."""
    return " 到 ".join(f"19{decade}" for decade in match.group(1, 3) if decade)


def _written_in(language: Language, text: str) -> bool:
    """Chinese may name things in Latin letters; English holds no Chinese at all."""
    if language == "zh":
        return bool(_HAN.search(text))
    return language_of(text) == "en" and not _HAN.search(text)


def _same(pair: Pair, asked: Sequence[Asked]) -> bool:
    return normalised(asked[pair.first].text) == normalised(asked[pair.second].text)


def _about(pair: Pair, asked: Sequence[Asked]) -> Finding:
    first, second = asked[pair.first], asked[pair.second]
    if first.text == second.text:
        how = "the same as"
    elif _same(pair, asked):
        how = "the same but for case, width and punctuation as"
    else:
        how = f"nearly ({pair.overlap:.2f}) the same as"
    return Finding(second.file, second.line, second.field, f"is {how} {first.place}")


def _once(asked: Iterable[Asked]) -> list[Asked]:
    """The first of each text: training rows ask the same thing of many documents."""
    return list({one.text: one for one in reversed(list(asked))}.values())[::-1]
