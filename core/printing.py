"""What commands print with: tables and JSON on stdout, everything else on stderr."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Without `emoji=False` a title or a file that holds ":x:" would show a cross.
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: object) -> None:
    """One JSON value on a line of its own."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def print_rows(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Rows with the same keys as a table, or as a JSON list."""
    if as_json:
        print_json(rows)
        return
    table = Table(*(name.replace("_", " ") for name in (rows[0] if rows else ("nothing",))))
    for row in rows:
        table.add_row(
            *(
                f"{value:.3f}" if isinstance(value, float) else escape(str(value))
                for value in row.values()
            )
        )
    out.print(table)


def printable(text: str) -> str:
    """A person's text without what would steer the terminal or turn the reading direction."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char)[0] != "C" else "\ufffd"
        for char in text
    )
