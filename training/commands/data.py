"""`solemate data …`: the data files, checked and counted."""

from __future__ import annotations

import typer

from core.printing import Json, out, print_json
from core.settings import at_root

group = typer.Typer(no_args_is_help=True, help="The data files.")


@group.command()
def report(context: typer.Context, as_json: Json = False) -> None:
    """Check every data file and count what is in it."""
    from training.report import inspect_data, render

    found = inspect_data(at_root("data"), at_root(context.obj.vision.tags))
    if as_json:
        print_json(found.to_json())
    else:
        out.print(render(found))
    if not found.ok:
        raise typer.Exit(1)
