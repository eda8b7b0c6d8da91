"""The bar that a training has on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from core.printing import err
from training.progress import TrainingProgress


@contextmanager
def training_bar(label: str) -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar on stderr with steps, loss, reward accuracy, margin and the time that is left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(label, total=None, figures="starting")

        def show(now: TrainingProgress) -> None:
            progress.update(
                task, completed=now.steps, total=now.total or None, figures=figures(now)
            )

        yield show


def figures(now: TrainingProgress) -> str:
    """The figures in one line; those that are not known yet are left out."""
    found = {"loss": now.loss, "accuracy": now.accuracy, "margin": now.margin}
    parts = [f"{name} {value:.3g}" for name, value in found.items() if value is not None]
    if now.remaining_seconds is not None:
        minutes, seconds = divmod(round(now.remaining_seconds), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(parts)
