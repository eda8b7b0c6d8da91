"""What is in the data files, and what is wrong with them: counts, lengths, variety, findings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from core.duplicates import near_pairs, normalised
from core.errors import DataError
from core.language import language_of
from core.tags import TagGroup, load_tags, untranslated
from core.terms import synonym_groups
from training import checks
from training.checks import Asked
from training.rows import (
    AnyRow,
    CorrectionRow,
    DpoRow,
    EntryRow,
    Finding,
    GoldenRow,
    PairRow,
    QuestionRow,
    ReminderRow,
    RetrievalRow,
    Rows,
    SftRow,
    Shape,
    SpokenRow,
    UnanswerableRow,
    UnansweredRow,
    question_in,
    read_rows,
)
from training.sizes import SizeRow, load_sizes, table_errors

KNOWLEDGE = "knowledge_base.json"
QUESTIONS = "questions.jsonl"
REMINDERS = "reminders.jsonl"
RETRIEVAL = "eval/retrieval.jsonl"
UNANSWERABLE = "eval/unanswerable.jsonl"
HELD_OUT = "eval/held_out_entries.json"
SFT = "shoes.jsonl"
DPO = "shoes_dpo.jsonl"
CORRECTIONS = "demo_corrections.jsonl"
SPOKEN = "spoken.jsonl"
UNANSWERED = "unanswerable.jsonl"
PAIRS = "eval/dpo.jsonl"
GOLDEN = ("eval/golden.jsonl", "eval/probes.jsonl")
SIZES = "size_table.json"
SYNONYMS = "synonyms.txt"
_DESCRIBED = frozenset(
    (KNOWLEDGE, QUESTIONS, REMINDERS, RETRIEVAL, UNANSWERABLE, HELD_OUT, SFT, DPO, CORRECTIONS)
    + (SPOKEN, UNANSWERED, PAIRS, *GOLDEN, SIZES)
)

# Below these, training data repeats itself or says too little.
MIN_DIVERSITY = 0.8
MIN_ANSWER = 20
MAX_NEAR_SHARE = 0.2

_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W_]+")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Characters of the shortest, middle, 95th percent and longest text."""

    shortest: int
    median: float
    p95: float
    longest: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Lengths:
        """The lengths of these texts, zeros when there are none."""
        lengths = sorted(map(len, texts))
        if not lengths:
            return cls(0, 0.0, 0.0, 0)
        p95 = quantiles(lengths, n=20, method="inclusive")[-1] if len(lengths) > 1 else lengths[0]
        return cls(lengths[0], float(median(lengths)), float(p95), lengths[-1])


@dataclass(frozen=True, slots=True)
class Repeats:
    """Texts that came before: exactly, but for punctuation and case, and nearly."""

    exact: int
    normalised: int
    near: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Repeats:
        """Counts of the repeated texts; each kind leaves out the ones before it."""
        exact = len(texts) - len(set(texts))
        plain = {normalised(text): text for text in reversed(texts)}
        near = {pair.second for pair in near_pairs(list(plain.values())[::-1])}
        return cls(exact, len(texts) - exact - len(plain), len(near))


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file: `counts` by field (lang, topic, style), `lengths` by field.

    `distinct` is the share of different words and of different word pairs in the first of the
    texts, a Chinese character counting as a word (Li et al., 2016, distinct-1 and distinct-2).
    """

    file: str
    rows: int
    counts: dict[str, dict[str, int]]
    lengths: dict[str, Lengths]
    distinct: tuple[float, float]
    repeats: Repeats


@dataclass(slots=True)
class Report:
    """All files, with what has to be mended (`problems`) and what should be read (`warnings`)."""

    files: list[FileReport] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    held_out: int = 0
    absent: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing has to be mended."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Everything as plain lists and dicts."""
        return {"ok": self.ok, **asdict(self)}


def inspect_data(data: Path, tags: Path) -> Report:
    """Read and check every data file below `data`, and the tag file.

    Wrong content never raises: it is a finding. All but the knowledge base and the questions that
    retrieval is calibrated and measured with may be absent.
    """
    inspection = _Inspection(data)
    entries = inspection.knowledge()
    inspection.questions(entries)
    inspection.unanswerable()
    taught = [
        *inspection.sft(),
        *inspection.dpo(),
        *inspection.reminders(entries),
        *inspection.corrections(entries),
    ]
    inspection.spoken(entries)
    inspection.golden(entries)
    inspection.pairs(entries)
    inspection.synonyms()
    inspection.held_out(entries, taught)
    inspection.others()
    inspection.leaks()
    inspection.tags(tags)
    return inspection.report


@dataclass(slots=True)
class _Inspection:
    """One pass over the files; each step adds what it finds to the report."""

    data: Path
    report: Report = field(default_factory=Report)
    training: list[Asked] = field(default_factory=list)
    evaluation: list[Asked] = field(default_factory=list)

    def knowledge(self) -> dict[str, EntryRow]:
        found = self.read(KNOWLEDGE, EntryRow)
        rows = [row.data for row in found.rows]
        self.describe(
            found.file,
            {
                "content": [row.content for row in rows],
                "title": [row.title for row in rows],
                "question": [text for row in rows for text in row.questions],
            },
            lang=[row.lang for row in rows],
            topic=[row.topic for row in rows],
        )
        self.report.problems += checks.id_problems(found.rows)
        self.report.problems += checks.entry_problems(found.rows)
        self.report.problems += checks.size_problems(found.rows, self.sizes())
        self.report.warnings += checks.title_warnings(found.rows)
        self.repeated(_texts(found, "content"))
        # The embedder learns from them, and the index holds them.
        self.training += [
            Asked(row.file, row.line, "questions", text)
            for row in found.rows
            for text in row.data.questions
        ]
        return {row.id: row for row in rows}

    def sizes(self) -> Sequence[SizeRow]:
        """The size table. Without one, sizes are only compared with foot lengths in millimetres."""
        path = self.data / SIZES
        if not path.exists():
            self.report.absent.append(self.name(SIZES))
            return ()
        try:
            rows = load_sizes(path)
        except DataError as exc:
            self.problem(SIZES, str(exc))
            return ()
        for error in table_errors(rows):
            self.problem(SIZES, error)
        return rows

    def questions(self, entries: dict[str, EntryRow]) -> None:
        training = self.read(QUESTIONS, QuestionRow)
        evaluation = self.read(RETRIEVAL, RetrievalRow)
        self.report.problems += checks.id_problems(evaluation.rows)
        for found in (training, evaluation):
            rows = [row.data for row in found.rows]
            self.describe(
                found.file,
                {"question": [row.question for row in rows]},
                lang=[row.lang for row in rows],
                style=[row.style for row in rows],
            )
            self.report.problems += checks.question_problems(found.rows, entries)
            self.report.problems += checks.asked_problems(found.rows)
            self.repeated(_texts(found, "question"))
        self.training += _texts(training, "question")
        self.evaluation += _texts(evaluation, "question")

    def unanswerable(self) -> None:
        measured = self.read(UNANSWERABLE, UnanswerableRow)
        learned = self.read(UNANSWERED, UnansweredRow, required=False)
        self.report.problems += checks.id_problems(measured.rows)
        self.unanswered(measured)
        if learned.present:
            self.unanswered(learned)
        self.training += _texts(learned, "question")
        self.evaluation += _texts(measured, "question")

    def unanswered(self, found: Rows[UnansweredRow] | Rows[UnanswerableRow]) -> None:
        rows = [row.data for row in found.rows]
        self.describe(
            found.file,
            {"question": [row.question for row in rows]},
            lang=[row.lang for row in rows],
            distance=[row.distance for row in rows],
        )
        self.report.problems += checks.asked_problems(found.rows)
        self.repeated(_texts(found, "question"))

    def sft(self) -> Iterator[tuple[Asked, str]]:
        """The rows for supervised training: where each stands and all of its text."""
        found = self.read(SFT, SftRow, required=False)
        rows = [row.data for row in found.rows]
        yield from self.taught(
            found,
            "instruction",
            {
                "question": [question_in(row.instruction) for row in rows],
                "output": [row.output for row in rows],
            },
            [
                _joined(row.system, row.history, row.instruction, row.input, row.output)
                for row in rows
            ],
        )

    def dpo(self) -> Iterator[tuple[Asked, str]]:
        """The preference pairs: where each stands and all of its text."""
        found = self.read(DPO, DpoRow, required=False)
        rows = [row.data for row in found.rows]
        self.report.problems += checks.pair_problems(found.rows)
        self.report.warnings += checks.pair_warnings(found.rows)
        yield from self.taught(
            found,
            "prompt",
            {
                "question": [question_in(row.prompt) for row in rows],
                "chosen": [row.chosen for row in rows],
                "rejected": [row.rejected for row in rows],
            },
            [
                _joined(row.system, row.history, row.prompt, row.chosen, row.rejected)
                for row in rows
            ],
        )

    def reminders(self, entries: dict[str, EntryRow]) -> Iterator[tuple[Asked, str]]:
        """The questions that every run is reminded with: where each stands, and what is taught."""
        found = self.read(REMINDERS, ReminderRow, required=False)
        if not found.rows:
            return
        rows = [row.data for row in found.rows]
        self.describe(
            found.file,
            {"question": [row.question for row in rows]},
            lang=[row.lang for row in rows],
        )
        self.report.problems += checks.reminder_problems(found.rows, entries)
        asked = _texts(found, "question")
        self.repeated(asked)
        self.training += asked
        yield from _entries_of(found, entries)

    def corrections(self, entries: dict[str, EntryRow]) -> Iterator[tuple[Asked, str]]:
        """The demo's corrections, which it trains on: where each stands, and what is taught.

        Asked again in other words they are measured, so those must not be trained on.
        """
        found = self.read(CORRECTIONS, CorrectionRow, required=False)
        if not found.rows:
            return
        rows = [row.data for row in found.rows]
        self.describe(
            found.file,
            {
                "question": [row.question for row in rows],
                "correction": [row.correction for row in rows],
                "rephrased": [row.rephrased for row in rows],
            },
            lang=[row.lang for row in rows],
        )
        self.report.problems += checks.id_problems(found.rows)
        self.report.problems += checks.correction_problems(found.rows, entries)
        asked = _texts(found, "question")
        self.repeated(asked)
        self.training += asked
        self.evaluation += _texts(found, "rephrased")
        yield from _entries_of(found, entries)

    def spoken(self, entries: dict[str, EntryRow]) -> None:
        found = self.read(SPOKEN, SpokenRow, required=False)
        if found.rows:
            self.describe(
                found.file,
                {"spoken": [row.data.spoken for row in found.rows]},
                lang=[row.data.lang for row in found.rows],
            )
        self.report.problems += checks.spoken_problems(found.rows, entries)

    def golden(self, entries: dict[str, EntryRow]) -> None:
        for name in GOLDEN:
            found = self.read(name, GoldenRow, required=False)
            if found.rows:
                rows = [row.data for row in found.rows]
                self.describe(
                    found.file,
                    {"question": [row.question for row in rows]},
                    lang=[row.lang for row in rows],
                    kind=[row.kind for row in rows],
                )
            self.report.problems += checks.id_problems(found.rows)
            self.report.problems += checks.about_problems(found.rows, entries)
            self.evaluation += _texts(found, "question")

    def pairs(self, entries: dict[str, EntryRow]) -> None:
        """The preference pairs that are measured with."""
        found = self.read(PAIRS, PairRow, required=False)
        prompts = _prompts(found, "prompt")
        if found.rows:
            rows = [row.data for row in found.rows]
            self.describe(
                found.file,
                {
                    "question": [one.text for one in prompts],
                    "chosen": [row.chosen for row in rows],
                    "rejected": [row.rejected for row in rows],
                },
                lang=[row.lang for row in rows],
            )
        self.report.problems += checks.about_problems(found.rows, entries)
        self.report.problems += checks.pair_problems(found.rows)
        self.report.warnings += checks.pair_warnings(found.rows)
        self.evaluation += prompts

    def synonyms(self) -> None:
        path = self.data / SYNONYMS
        if not path.exists():
            self.report.absent.append(self.name(SYNONYMS))
            return
        try:
            synonym_groups(path)
        except DataError as exc:
            self.problem(SYNONYMS, str(exc))

    def taught(
        self,
        found: Rows[SftRow] | Rows[DpoRow],
        prompt: str,
        texts: dict[str, list[str]],
        whole: Sequence[str],
    ) -> Iterator[tuple[Asked, str]]:
        """Describe a training file whose rows are `whole`; where each stands and what it says."""
        if not found.rows:
            return
        self.describe(found.file, texts)
        self.report.warnings += _same_rows(found, whole)
        self.report.warnings += _monotony(self.report.files[-1], whole)
        prompts = _prompts(found, prompt)
        self.training += prompts
        self.training += _earlier(found)
        yield from zip(prompts, whole, strict=True)

    def held_out(self, entries: dict[str, EntryRow], taught: Iterable[tuple[Asked, str]]) -> None:
        """The entries kept from training: that they exist, and that no training row holds them."""
        file = self.name(HELD_OUT)
        try:
            text = (self.data / HELD_OUT).read_bytes()
            names = TypeAdapter(list[str]).validate_json(text)
        except OSError as exc:
            self.problem(HELD_OUT, f"cannot be read ({exc.strerror}); restore it")
            return
        except ValidationError:
            self.problem(HELD_OUT, "must be a JSON list of entry ids")
            return
        self.report.held_out = len(names)
        self.report.problems += checks.held_out_problems(file, names, entries)
        kept = frozenset(name for one in names for name in (one, f"{one}.en"))
        self.report.problems += checks.held_out_leaks(taught, kept, entries)

    def others(self) -> None:
        """Files that no check knows: listed, and what their rows ask is compared with training."""
        for path in sorted((*self.data.glob("*.json*"), *self.data.glob("eval/*.json*"))):
            name = path.relative_to(self.data).as_posix()
            if name in _DESCRIBED:
                continue
            self.report.not_checked.append(self.name(name))
            if path.suffix == ".jsonl":
                found = self.read(name, AnyRow)
                asked = [
                    one for key in AnyRow.model_fields for one in _prompts(found, key) if one.text
                ]
                self.describe(found.file, {"question": [one.text for one in asked]})
                if path.parent != self.data:
                    self.evaluation += asked

    def leaks(self) -> None:
        self.report.problems += checks.leaks(self.training, self.evaluation)

    def tags(self, path: Path) -> None:
        try:
            groups = load_tags(path)
        except DataError as exc:
            self.report.problems.append(Finding(path.name, 0, "", str(exc)))
            return
        self.report.tags = {group.english: len(group.tags) for group in groups}
        self.report.warnings += _tag_warnings(path, groups)

    def read(self, name: str, shape: type[Shape], *, required: bool = True) -> Rows[Shape]:
        found = read_rows(self.data / name, self.name(name), shape)
        if found.present:
            self.report.problems += found.problems
        elif required:
            self.problem(name, "is missing; restore it")
        else:
            self.report.absent.append(found.file)
        return found

    def describe(self, file: str, texts: dict[str, list[str]], **labels: list[str]) -> None:
        """Add the file's figures; the first of the texts is the one that should vary."""
        varied = next(iter(texts.values()))
        labels.setdefault("lang", [language_of(text) or "en" for text in varied])
        self.report.files.append(
            FileReport(
                file=file,
                rows=len(varied),
                counts={
                    name: dict(Counter(values).most_common()) for name, values in labels.items()
                },
                lengths={name: Lengths.of(values) for name, values in texts.items()},
                distinct=(distinct(varied, 1), distinct(varied, 2)),
                repeats=Repeats.of(varied),
            )
        )

    def repeated(self, asked: Sequence[Asked]) -> None:
        problems, warnings = checks.repeated(asked)
        self.report.problems += problems
        self.report.warnings += warnings

    def problem(self, name: str, message: str) -> None:
        self.report.problems.append(Finding(self.name(name), 0, "", message))

    def name(self, name: str) -> str:
        return f"{self.data.name}/{name}"


def distinct(texts: Iterable[str], size: int) -> float:
    """The share of different word runs of this size among all of them, 0 where there are none."""
    runs = [
        tuple(words[start : start + size])
        for words in (_TOKEN.findall(text.casefold()) for text in texts)
        for start in range(len(words) - size + 1)
    ]
    return len(set(runs)) / len(runs) if runs else 0.0


def render(report: Report) -> RenderableType:
    """The report for a terminal: figures first, then what to mend and what to read."""
    tables = (_files_table, _lengths_table, _repeats_table, _counts_table)
    parts: list[RenderableType] = [table(report) for table in tables]
    if report.absent:
        parts.append(f"Not there yet: {escape(', '.join(report.absent))}")
    if report.not_checked:
        listed = escape(", ".join(report.not_checked))
        parts.append(f"Only compared with the training questions: {listed}")
    parts += [f"[red]problem[/red] {escape(str(one))}" for one in report.problems]
    parts += [f"[yellow]warning[/yellow] {escape(str(one))}" for one in report.warnings]
    parts.append(f"{len(report.problems)} problems, {len(report.warnings)} warnings")
    return Group(*parts)


def _files_table(report: Report) -> Table:
    table = _table("Data files", "file", "rows", "zh", "en", "distinct-1", "distinct-2")
    for one in report.files:
        languages = one.counts["lang"]
        table.add_row(
            escape(one.file),
            f"{one.rows}",
            *(f"{languages.get(lang, 0) / max(1, one.rows):.0%}" for lang in ("zh", "en")),
            *(f"{share:.2f}" for share in one.distinct),
        )
    return table


def _lengths_table(report: Report) -> Table:
    table = _table("Characters", "file", "text", "min", "median", "p95", "max")
    for one in report.files:
        for name, length in one.lengths.items():
            figures = (length.shortest, length.median, length.p95, length.longest)
            table.add_row(escape(one.file), name, *(f"{figure:.0f}" for figure in figures))
    return table


def _repeats_table(report: Report) -> Table:
    table = _table("Repeats", "file", "exact", "normalised", "near")
    for one in report.files:
        found = one.repeats
        table.add_row(escape(one.file), f"{found.exact}", f"{found.normalised}", f"{found.near}")
    return table


def _table(title: str, *headers: str) -> Table:
    """A table of a file's figures; small enough for 80 columns, where no header is cut."""
    table = Table(title=title, title_justify="left")
    for header in headers:
        figure = header not in ("file", "text")
        table.add_column(header, justify="right" if figure else "left", no_wrap=True)
    return table


def _counts_table(report: Report) -> Table:
    table = Table("what", "how many", title="Kinds", title_justify="left")
    for one in report.files:
        for name, counts in one.counts.items():
            if name != "lang":
                table.add_row(escape(f"{one.file}, {name}"), escape(_listed(counts)))
    table.add_row("tags", escape(_listed(report.tags)))
    table.add_row("entries held out from training", f"{report.held_out}")
    return table


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _texts(found: Rows[Shape], name: str) -> list[Asked]:
    return [Asked(row.file, row.line, name, getattr(row.data, name)) for row in found.rows]


def _entries_of(
    found: Rows[ReminderRow] | Rows[CorrectionRow], entries: Mapping[str, EntryRow]
) -> Iterator[tuple[Asked, str]]:
    """Where each row stands, and the entry that training reads for it."""
    for place in _texts(found, "entry"):
        if place.text in entries:
            yield place, entries[place.text].content


def _prompts(found: Rows[Shape], name: str) -> list[Asked]:
    """What the prompts ask, without the documents in front of the question."""
    return [
        Asked(one.file, one.line, one.field, question_in(one.text)) for one in _texts(found, name)
    ]


def _earlier(found: Rows[SftRow] | Rows[DpoRow]) -> list[Asked]:
    """What was asked in the histories; a turn is a question and its answer."""
    return [
        Asked(row.file, row.line, "history", question_in(turn[0]))
        for row in found.rows
        for turn in row.data.history
        if turn
    ]


def _joined(system: str, history: Sequence[Sequence[str]], *texts: str) -> str:
    return "\n".join((system, *(text for turn in history for text in turn), *texts))


def _same_rows(found: Rows[SftRow] | Rows[DpoRow], whole: Sequence[str]) -> Iterator[Finding]:
    """One warning about all rows that repeat another: a row taught twice only counts double."""
    lines = [row.line for row in found.rows]
    first: dict[str, int] = {}
    again = [
        (line, first[text])
        for line, text in zip(lines, whole, strict=True)
        if first.setdefault(text, line) != line
    ]
    if again:
        line, original = again[0]
        message = f"is the same row as line {original}; {len(again)} rows repeat another"
        yield Finding(found.file, line, "", message)


def _monotony(figures: FileReport, whole: Sequence[str]) -> Iterator[Finding]:
    """Warnings about training data that repeats itself or answers in too few words."""
    different = len({normalised(text) for text in whole}) / len(whole)
    if different < MIN_DIVERSITY:
        yield Finding(figures.file, 0, "", f"only {different:.0%} of the rows are different")
    asked = figures.rows - figures.repeats.exact - figures.repeats.normalised
    if figures.repeats.near > MAX_NEAR_SHARE * asked:
        message = f"{figures.repeats.near} of {asked} different questions nearly repeat another"
        yield Finding(figures.file, 0, "question", message)
    for name, lengths in figures.lengths.items():
        if name != "question" and lengths.median < MIN_ANSWER:
            message = f"half of the answers are shorter than {MIN_ANSWER} characters"
            yield Finding(figures.file, 0, name, message)


def _tag_warnings(path: Path, groups: Sequence[TagGroup]) -> Iterator[Finding]:
    for name in untranslated(groups):
        yield Finding(path.name, 0, "", f"{name!r} has no English phrase")
    for group in groups:
        for phrase, count in Counter(tag.phrase for tag in group.tags if tag.phrase).items():
            if count > 1:
                yield Finding(path.name, 0, "", f"{count} tags share the phrase {phrase!r}")
