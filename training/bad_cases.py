"""Bad cases: every thumbs-down with what could mend it, grouped, and as a sheet for people to read.

Training mends the wording of an answer. A misread photo, a missing passage or a model that was away
is mended elsewhere, and shows here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, Font
from openpyxl.utils import get_column_letter

from core.errors import DataError
from core.messages import Rating, Turn
from core.store import Store
from training.pairs import PairState, PreferencePair, read_pairs
from training.personal_data import scrub
from training.verdicts import Verdict, read_turns, read_verdicts

NO_TOPIC = "nothing found"
NO_REASON = "no reason given"
NO_ADAPTER = "no model"
# A spreadsheet takes a cell that begins so for a formula, also when it is saved as CSV later.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_CONTROL = ("\t", "\r", "\n")
_CELL_CHARACTERS = 32_000
# XML has no place for them (https://www.w3.org/TR/xml/#charsets), and openpyxl writes them.
_NO_XML = re.compile(r"[\ud800-\udfff\ufffe\uffff]")
_COLUMNS = (
    ("when", 17), ("reason", 16), ("topic", 14), ("adapter", 18), ("what to look at", 36),
    ("question", 36), ("answer", 60), ("correction", 40), ("comment", 30), ("passages", 36),
    ("photo tags", 24), ("outcome", 11), ("language", 9), ("reply", 34), ("right answer", 50),
    ("who mends it", 20),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BadCase:
    """A thumbs-down: what was asked and said, and what could mend it.

    `beyond_training` says why no pair can; `pair` is the state of the pair where there is one, and
    `refusal` why it is not trained on. Personal data is taken out.
    """

    reply_id: str
    at: float
    reason: str
    topic: str
    adapter: str
    language: str
    outcome: str
    question: str
    answer: str
    correction: str
    comment: str
    passages: tuple[str, ...]
    tags: tuple[str, ...]
    beyond_training: str
    pair: PairState | None
    refusal: str

    @property
    def look_at(self) -> str:
        """What a person should look at, "" where a pair is on its way."""
        if self.beyond_training:
            return self.beyond_training
        if self.pair is None:
            return "nobody knows a better answer yet"
        return self.refusal


@dataclass(frozen=True, slots=True)
class CaseGroup:
    """Thumbs-down of one reason, about one topic, on one adapter's answers."""

    reason: str
    topic: str
    adapter: str
    count: int
    beyond_training: int


async def read_bad_cases(store: Store, since: float = 0.0) -> list[BadCase]:
    """Every thumbs-down that stands and was given at or after `since`, the newest first."""
    down = [
        verdict
        for verdict in await read_verdicts(store)
        if verdict.rating is Rating.DOWN and verdict.created_at >= since
    ]
    turns = await read_turns(store, (verdict.reply_id for verdict in down))
    pairs = {(pair.reply_id, pair.user_id): pair for pair in await _by_weight(store)}
    return [
        _case(verdict, turns[verdict.reply_id], pairs.get((verdict.reply_id, verdict.user_id)))
        for verdict in reversed(down)
        if verdict.reply_id in turns
    ]


def grouped(cases: Iterable[BadCase]) -> list[CaseGroup]:
    """The cases counted by reason, topic and adapter, the largest group first."""
    groups: defaultdict[tuple[str, str, str], list[BadCase]] = defaultdict(list)
    for case in cases:
        groups[case.reason, case.topic, case.adapter].append(case)
    counted = [
        CaseGroup(*key, len(group), sum(bool(case.beyond_training) for case in group))
        for key, group in groups.items()
    ]
    return sorted(counted, key=lambda one: (-one.count, one.reason, one.topic, one.adapter))


def write_sheet(cases: Sequence[BadCase], path: Path) -> None:
    """Write a review sheet (XLSX), with two empty columns for what the reader finds out.

    No cell is a formula, whatever people wrote. Raises `DataError` for a path that is no good.
    """
    book = Workbook()
    sheet = book.active
    sheet.title = "bad cases"
    sheet.append([name for name, _ in _COLUMNS])
    for case in cases:
        sheet.append([safe_cell(text) for text in _cells(case)])
    for number, (_, width) in enumerate(_COLUMNS, 1):
        sheet.column_dimensions[get_column_letter(number)].width = width
    for row in sheet.iter_rows():
        for cell in row:
            cell.alignment = Alignment(wrap_text=True, vertical="top")
            cell.data_type = "s"
    for cell in sheet[1]:
        cell.font = Font(bold=True)
    sheet.freeze_panes = "A2"
    sheet.auto_filter.ref = sheet.dimensions
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        book.save(path)
    except OSError as exc:
        raise DataError(f"Cannot write {str(path)!r}: {exc.strerror}. Name another file.") from exc


def safe_cell(text: str) -> str:
    """The text as a cell may hold it: never a formula, nothing a spreadsheet cannot store."""
    text = _NO_XML.sub("\ufffd", ILLEGAL_CHARACTERS_RE.sub("\ufffd", text))
    risky = text.lstrip().startswith(_FORMULA) or text.startswith(_CONTROL)
    return ("'" + text if risky else text)[:_CELL_CHARACTERS]


async def _by_weight(store: Store) -> list[PreferencePair]:
    """All pairs; of several about one verdict the one that says most comes last."""
    order = (PairState.WITHDRAWN, PairState.REFUSED, PairState.WAITING, PairState.ACCEPTED)
    return sorted(await read_pairs(store), key=lambda pair: order.index(pair.state))


def _case(verdict: Verdict, turn: Turn, pair: PreferencePair | None) -> BadCase:
    return BadCase(
        reply_id=verdict.reply_id,
        at=verdict.created_at,
        reason=verdict.reason or NO_REASON,
        topic=turn.passages[0].topic if turn.passages else NO_TOPIC,
        adapter=verdict.adapter or NO_ADAPTER,
        language=verdict.language,
        outcome=verdict.outcome,
        question=scrub(verdict.question).text,
        answer=scrub(turn.reply.text).text,
        correction=scrub(verdict.correction).text,
        comment=scrub(verdict.comment).text,
        passages=tuple(passage.title for passage in turn.passages),
        tags=tuple(f"{tag.name} {tag.score:.0%}" for tag in turn.reply.tags),
        beyond_training=verdict.beyond_training,
        pair=pair.state if pair else None,
        refusal=pair.refusal if pair else "",
    )


def _cells(case: BadCase) -> list[str]:
    when = datetime.fromtimestamp(case.at, UTC)
    return [
        f"{when:%Y-%m-%d %H:%M}",
        case.reason,
        case.topic,
        case.adapter,
        case.look_at,
        case.question,
        case.answer,
        case.correction,
        case.comment,
        ", ".join(case.passages),
        ", ".join(case.tags),
        case.outcome,
        case.language,
        case.reply_id,
        "",
        "",
    ]
