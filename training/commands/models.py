"""`solemate models build`: every shipped model, made from data/."""

from __future__ import annotations

from typing import Any

import typer

from core.printing import err, out
from core.running import run
from core.settings import Settings, at_root

group = typer.Typer(no_args_is_help=True, help="The shipped models.")


@group.command("build")
def build_shipped(context: typer.Context) -> None:
    """Make every shipped model from data/; goes on where it was interrupted."""
    run(_build_models(context.obj))


async def _build_models(settings: Settings) -> None:
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from training.build import BuildPlan, build_models

    plan = BuildPlan(data=at_root("data"), work=settings.state / "models")
    columns = (
        *Progress.get_default_columns(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err) as progress:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int, note: str = "") -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total, note=note)
            progress.update(tasks[step], completed=done, total=total, note=note)

        made = await build_models(plan, show)
    out.print(f"The served model is in {made}.")
