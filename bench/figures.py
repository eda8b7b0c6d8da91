"""What a measurement comes to: a figure with its goal, and the table and JSON they end in."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Goal:
    """The limit a figure is held to: at most, unless `at_least`."""

    limit: float
    at_least: bool = False

    def met_by(self, value: float) -> bool:
        """Whether this value is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; the unit of a ratio is "×"."""

    part: str
    name: str
    value: float
    unit: str
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        return None if self.goal is None else self.goal.met_by(self.value)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed, as the nearest-rank method has it."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def to_table(figures: Sequence[Figure]) -> Table:
    """The figures as people read them."""
    table = Table(title="Solemate, measured in one run")
    for heading in ("part", "measured"):
        table.add_column(heading)
    for heading in ("figure", "goal", "met"):
        table.add_column(heading, justify="right")
    part = ""
    for figure in figures:
        if part and figure.part != part:
            table.add_section()
        title = figure.part if figure.part != part else ""
        part = figure.part
        met = {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[figure.met]
        goal = str(figure.goal) if figure.goal else ""
        table.add_row(title, figure.name, f"{_rounded(figure.value)} {figure.unit}", goal, met)
    return table


def to_json(figures: Sequence[Figure]) -> str:
    """The figures as programs read them, a list of objects."""
    rows = [asdict(figure) | {"met": figure.met} for figure in figures]
    return json.dumps(rows, ensure_ascii=False, indent=1)


def _rounded(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
