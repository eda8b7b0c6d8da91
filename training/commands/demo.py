"""`solemate demo-loop`: thumbs-down, training, gate, live, and the same questions again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from core.errors import ConfigError
from core.printing import Json, err, out, print_json, print_rows, printable
from core.running import run
from core.settings import Settings, at_root
from training.commands.pairs import print_lineage

if TYPE_CHECKING:
    from training.demo import Lesson, Said, Shown

ROWS = "data/demo_corrections.jsonl"


def demo_loop(
    context: typer.Context,
    rows: Annotated[Path | None, typer.Option(help="Corrections; default: data/'s.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where everything is kept; default: a new one in /tmp.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Correct some answers, train on it, go live, and ask again; minutes on a CPU."""
    settings: Settings = context.obj
    place = folder or Path(tempfile.mkdtemp(prefix="solemate-demo-"))
    if place.is_dir() and any(place.iterdir()):
        raise ConfigError(f"The folder {str(place)!r} is not empty. Name a new one with --folder.")
    from training.demo import show_the_loop

    shown = run(show_the_loop(settings, place, rows or at_root(ROWS), err.print))
    if not as_json:
        _print_shown(shown)
    print_json(shown.summary())


def _print_shown(shown: Shown) -> None:
    out.rule("the gate")
    print_rows(shown.run.figures["gate"], as_json=False)
    out.rule("the questions that were corrected")
    out.print(_beside(shown, "before", "after"))
    out.rule("the same asked in other words, which nobody corrected")
    out.print(_beside(shown, "rephrased_before", "rephrased_after"))
    if shown.lineage is not None:
        out.rule("the way of one thumbs-down")
        print_lineage(shown.lineage)
    live, new = shown.golden
    out.print(f"Golden questions passed: {live:.1%} before, {new:.1%} after.")
    out.print(f"Loss and rewards: {shown.run.attempt}", markup=False, soft_wrap=True)


def _beside(shown: Shown, before: str, after: str) -> Table:
    table = Table("", "asked", "corrected to", "before", "after", show_lines=True)
    for lesson in shown.lessons:
        old, new = getattr(lesson, before), getattr(lesson, after)
        learned = new.as_corrected(lesson.row.correction)
        table.add_row(
            "✓" if learned else "✗", *(Text(printable(one)) for one in _words(lesson, old, new))
        )
    return table


def _words(lesson: Lesson, old: Said, new: Said) -> tuple[str, ...]:
    return new.question, lesson.row.correction, _text(old), _text(new)


def _text(said: Said) -> str:
    return said.text if said.adapter else f"[quoted] {said.text}"
