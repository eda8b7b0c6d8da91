"""`python -m bench`: measure, and print the figures as a table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import (
    beside_training,
    commits,
    delivery,
    first_token,
    learning,
    model_server,
    own_time,
    replicas,
    search,
    tagging,
    throughput,
    training_run,
    vllm_server,
)
from bench.effort import FULL, QUICK, Effort
from bench.expert import Expert, workplace
from bench.figures import Figure, to_json, to_table
from core.logs import configure_logs
from core.settings import at_root, load_settings

Measurement = Callable[[Expert], Awaitable[list[Figure]]]

MEASUREMENTS: dict[str, Measurement] = {
    "own time an answer": own_time.measure,
    "the embedded server": model_server.measure,
    "the first token": first_token.measure,
    "photos": tagging.measure,
    "search": search.measure,
    "many conversations": throughput.measure,
    "delivery": delivery.measure,
    "commits": commits.measure,
    "replicas": replicas.measure,
    "vLLM": vllm_server.measure,
    "a training run": training_run.measure,
    "beside a training": beside_training.measure,
    "learning": learning.measure,
}

out = Console()
err = Console(stderr=True)


def main(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here, too.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only try that all of it works.")] = False,
    model: Annotated[
        Path | None, typer.Option(help="The served model's folder; default: the shipped one.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Measure only what has this in its name: 'learning', 'run', …")
    ] = "",
) -> None:
    """Measure how fast Solemate is on this machine; nothing else should be running on it."""
    configure_logs("error", None)
    wanted = [name for name in MEASUREMENTS if only in name]
    if not wanted:
        raise typer.BadParameter(f"nothing is called so; there are {', '.join(MEASUREMENTS)}")
    figures = asyncio.run(measured(QUICK if quick else FULL, model, wanted))
    out.print(to_table(figures))
    if json_file is not None:
        json_file.write_text(to_json(figures), encoding="utf-8")


async def measured(
    effort: Effort, model: Path | None = None, wanted: Collection[str] = MEASUREMENTS
) -> list[Figure]:
    """The figures of these parts, with the settings as shipped whatever the environment says."""
    settings = load_settings(environment={})
    figures: list[Figure] = []
    with workplace(settings) as folder, err.status("") as status:
        expert = Expert(settings, folder, effort, model or at_root(settings.model.expert))
        for name in wanted:
            status.update(f"Measuring {name} …")
            figures += await MEASUREMENTS[name](expert)
    return figures


if __name__ == "__main__":
    typer.run(main)
