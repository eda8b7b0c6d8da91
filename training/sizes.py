"""The table of shoe sizes, whether it follows its formulas, and whether a text agrees with it.

A shoe is made on a last, which is longer than the foot: ISO 9407 (Mondopoint) counts the foot in
millimetres, while Paris points and barleycorns count the last. ISO 19407 lines the systems up by
foot length. The relations below are those; brands differ from them, so every figure but the
Chinese ones is approximate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import DataError
from core.knowledge import sentences

System = Literal["foot_mm", "cn_mm", "cn_old", "eu", "uk", "us_men", "us_women"]
SYSTEMS: tuple[System, ...] = get_args(System)

FIRST_MM, LAST_MM, STEP_MM = 220, 300, 5
_ROOM_MM = (15.0, 20.0)  # how much longer the last is than the foot
_BARLEYCORN_MM = 25.4 / 3

# How far a size may lie from the table, in millimetres of foot length: half a step where the
# size is the foot length itself, three quarters of a Paris point (the play that `_ROOM_MM`
# leaves), one size in the systems that count barleycorns.
_TOLERANCE_MM: dict[System, float] = {
    "foot_mm": 0.5,
    "cn_mm": 2.5,
    "cn_old": 2.5,
    "eu": 5.0,
    "uk": _BARLEYCORN_MM,
    "us_men": _BARLEYCORN_MM,
    "us_women": _BARLEYCORN_MM,
}
# UK and US sizes are compared with each other to half a size: only their zero differs.
_BARLEYCORNS: frozenset[System] = frozenset({"uk", "us_men", "us_women"})

_NUMBER = r"(\d+(?:\.\d+)?)(?:\s*(?:到|至|[-–~～]|to|or|或)\s*(\d+(?:\.\d+)?))?(?![\d.]*\d)"
_IS = r"\s*(?:大约|相当于|约|对应|就|多)*(?:是|为)?\s*"
# What names a system in front of its number, or behind it.
_SPELLINGS: tuple[tuple[System, str], ...] = (
    ("foot_mm", rf"(?:脚长|foot length(?: of)?){_IS}{_NUMBER}\s*(?P<unit>cm|mm|厘米|毫米)"),
    ("foot_mm", rf"{_NUMBER}\s*(?P<unit>cm|mm|厘米|毫米)\s*(?:的|长的)?(?:脚|foot)"),
    ("foot_mm", rf"foot (?:is )?{_NUMBER}\s*(?P<unit>cm|mm) long"),
    ("cn_mm", rf"(?:国标|韩码|蒙多点)(?:鞋?[号码])?的?{_IS}{_NUMBER}(?!\s*型)"),
    ("cn_mm", r"(?:例如|标着)\s*(\d{3})()(?=\s*(?:表示脚长|就是脚长|的鞋))"),
    ("cn_mm", rf"\b(?:Mondopoint|Chinese size|Korean size)(?: is)? {_NUMBER}"),
    ("cn_mm", r"(?:marked|so) (\d{3})()(?= (?:means|is meant for) a)"),
    ("foot_mm", rf"日码{_IS}{_NUMBER}"),
    ("cn_old", rf"旧(?:鞋|国标)?码{_IS}{_NUMBER}\s*码?"),
    ("cn_old", rf"脚长\s*[\d.]+\s*cm\s*就是\s*{_NUMBER}\s*码"),
    ("cn_old", rf"{_NUMBER} in (?:the )?old Chinese"),
    ("cn_old", rf"cm foot is an? {_NUMBER}"),
    ("eu", rf"(?:欧码|\bEU(?:ropean)?(?: size)?){_IS}(?:is )?{_NUMBER}"),
    ("uk", rf"(?:英码|\bUK(?: size)?){_IS}(?:is )?{_NUMBER}"),
    ("us_men", rf"(?:美码男鞋|男鞋美码|\bUS men's(?: size)?){_IS}(?:is )?{_NUMBER}"),
    ("us_women", rf"(?:美码女鞋|女鞋美码|\bUS women's(?: size)?){_IS}(?:is )?{_NUMBER}"),
)
_MENTIONS = tuple((system, re.compile(text, re.IGNORECASE)) for system, text in _SPELLINGS)
# Widths (2E) and steps ("每 1 码", "大 0.5 到 1 码") are no sizes.
_STEP = re.compile(r"^\s*(?:[A-Z]\b|(?:cm|mm)\b)", re.IGNORECASE)
# "The US number is so much larger than the UK number", in sizes.
_OFFSETS: tuple[tuple[re.Pattern[str], tuple[float, float]], ...] = (
    (re.compile(rf"美码(?:男鞋)?(?:通常|一般)?比英码大\s*{_NUMBER}"), (0.5, 1.0)),
    (re.compile(rf"美码女鞋[^。，]*比[^。，]*美码男鞋大\s*{_NUMBER}"), (1.0, 1.5)),
)


class SizeRow(BaseModel):
    """One foot length in every system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    foot_mm: float
    cn_mm: float
    cn_old: float
    eu: float
    uk: float
    us_men: float
    us_women: float

    def size(self, system: System) -> float:
        """The number of this system."""
        return float(getattr(self, system))


class SizeFile(BaseModel):
    """`data/size_table.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    note: str
    rows: tuple[SizeRow, ...]


@dataclass(frozen=True, slots=True)
class Mention:
    """A size named in a text; `low` and `high` are equal unless the text gives a range."""

    system: System
    low: float
    high: float
    text: str


def load_sizes(path: Path) -> tuple[SizeRow, ...]:
    """Read the table of sizes, ordered by foot length.

    Raises `DataError` naming the file and the field that is wrong.
    """
    try:
        table = SizeFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); restore it.") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}, field {field!r}: {first['msg']}.") from exc
    except ValueError as exc:
        raise DataError(f"{path}: not valid JSON ({exc}).") from exc
    if not table.rows:
        raise DataError(f"{path}, field 'rows': is empty; a size needs something to compare to.")
    return table.rows


def table_errors(rows: Sequence[SizeRow]) -> Iterator[str]:
    """What in the table does not follow the formulas, a sentence each."""
    lengths = [row.foot_mm for row in rows]
    if lengths != [float(length) for length in range(FIRST_MM, LAST_MM + 1, STEP_MM)]:
        yield f"foot lengths must go from {FIRST_MM} to {LAST_MM} mm in steps of {STEP_MM}"
    for row in rows:
        for system, (low, high) in allowed(row).items():
            if not low <= row.size(system) <= high:
                yield (
                    f"foot {row.foot_mm:g} mm: {system} is {row.size(system):g}, "
                    f"but the formula gives {low:.1f} to {high:.1f}"
                )
    for before, after in pairwise(rows):
        for system in SYSTEMS:
            if before.size(system) >= after.size(system):
                yield f"{system} does not grow from foot {before.foot_mm:g} to {after.foot_mm:g} mm"


def allowed(row: SizeRow) -> dict[System, tuple[float, float]]:
    """The smallest and largest true number of each system for the row's foot length.

    Old Chinese = 2 x cm - 10; EU = 1.5 x last in cm; UK adult = 3 x last in inches - 25, one size
    either way; US men's = UK + 1/2 to 1; US women's = US men's + 1 to 1 1/2. EU and UK are
    rounded to halves, which adds a quarter of a size.
    """
    foot = row.foot_mm
    shortest, longest = (foot + room for room in _ROOM_MM)
    old = 2 * foot / 10 - 10
    uk = shortest / _BARLEYCORN_MM - 25
    return {
        "cn_mm": (foot, foot),
        "cn_old": (old, old),
        "eu": (0.15 * shortest - 0.25, 0.15 * longest + 0.25),
        "uk": (uk - 1, uk + 1),
        "us_men": (row.uk + 0.5, row.uk + 1),
        "us_women": (row.us_men + 1, row.us_men + 1.5),
    }


def contradictions(text: str, rows: Sequence[SizeRow]) -> Iterator[str]:
    """Sizes in a text that the table does not let stand together, a sentence each.

    Sizes are compared with the foot length named last (or first in their sentence); where none
    was named, sizes of different systems in one sentence are compared with each other.
    """
    for foot, sizes in _groups(text):
        pairs = [(foot, size) for size in sizes] if foot else list(combinations(sizes, 2))
        for one, other in pairs:
            if one.system != other.system and not _agree(one, other, rows):
                yield f"{one.text!r} and {other.text!r} do not belong together"
    for pattern, (low, high) in _OFFSETS:
        for match in pattern.finditer(text):
            first, last = _ends(match)
            if not low <= first <= last <= high:
                yield f"{match.group()!r} should be {low:g} to {high:g}"


def mentions(text: str) -> list[Mention]:
    """The sizes and foot lengths named in a text, in order."""
    found: dict[int, Mention] = {}
    for system, pattern in _MENTIONS:
        for match in pattern.finditer(text):
            if _STEP.match(text[match.end() :]):
                continue
            low, high = _ends(match)
            if system == "foot_mm" and match.groupdict().get("unit") not in ("mm", "毫米"):
                low, high = low * 10, high * 10
            found.setdefault(match.start(1), Mention(system, low, high, match.group().strip()))
    return [found[start] for start in sorted(found)]


def _groups(text: str) -> Iterator[tuple[Mention | None, list[Mention]]]:
    """A foot length (None before the first) with the sizes that are said of it."""
    foot: Mention | None = None
    for sentence in sentences(text):
        found = mentions(sentence)
        foot = next((one for one in found if one.system == "foot_mm"), foot)
        sizes: list[Mention] = []
        for mention in found:
            if mention.system != "foot_mm":
                sizes.append(mention)
            elif foot is not None and mention.low != foot.low:
                yield foot, sizes
                foot, sizes = mention, []
        yield foot, sizes


def _agree(one: Mention, other: Mention, rows: Sequence[SizeRow]) -> bool:
    """Whether some foot wears both. True outside the table, where nothing is known."""
    feet = _feet(one, rows), _feet(other, rows)
    if feet[0] is None or feet[1] is None:
        return True
    gap = max(feet[0][0] - feet[1][1], feet[1][0] - feet[0][1])
    if {one.system, other.system} <= _BARLEYCORNS:
        return gap <= _BARLEYCORN_MM / 2
    return gap <= max(_TOLERANCE_MM[one.system], _TOLERANCE_MM[other.system])


def _feet(mention: Mention, rows: Sequence[SizeRow]) -> tuple[float, float] | None:
    """Shortest and longest foot of a mention in millimetres, by the table."""
    if mention.system in ("foot_mm", "cn_mm"):
        return mention.low, mention.high
    column = [row.size(mention.system) for row in rows]
    if not column or not column[0] <= mention.low <= mention.high <= column[-1]:
        return None
    low, high = np.interp((mention.low, mention.high), column, [row.foot_mm for row in rows])
    return float(low), float(high)


def _ends(match: re.Match[str]) -> tuple[float, float]:
    first = float(match.group(1))
    return first, float(match.group(2) or first)
