"""`solemate runs …`: what the loop trains, and an operator's say in it."""

from __future__ import annotations

import asyncio
import getpass
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from core.opening import open_store
from core.printing import Json, err, out, print_json, print_rows
from core.running import run
from core.settings import ROOT, Settings

if TYPE_CHECKING:
    from core.audit import AuditRow
    from core.policy import Change
    from core.store import Store
    from training.dataset import RunStage
    from training.lineage import Taught
    from training.loop import Loop
    from training.pause import LoopState
    from training.runs import Run, Runs, RunState

# Modules that load torch are imported where they are needed: `runs list` takes no second.

group = typer.Typer(no_args_is_help=True, help="Training runs on people's feedback.")

Name = Annotated[str, typer.Argument(help="The run, as `runs list` names it.")]
Operator = Annotated[str, typer.Option("--as", help="Your name in the audit; default: your login.")]
_POLL_SECONDS = 0.5


@group.command("list")
def list_runs(context: typer.Context, as_json: Json = False) -> None:
    """List the runs, the newest first."""
    print_rows([_summary(one) for one in run(_all(context.obj))], as_json)


@group.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show a run with its figures, its pairs and every step that it took."""
    found, pairs, steps, taught = run(_show(context.obj, name))
    if as_json:
        print_json(
            _summary(found)
            | {
                "folder": str(found.folder),
                "dataset": found.dataset,
                "figures": found.figures,
                "pairs": pairs,
                "lineage": [asdict(one) for one in taught],
                "steps": [_step(row) for row in steps],
            }
        )
        return
    _print_run(found, pairs, steps)
    print_rows([asdict(one) for one in taught], as_json=False)


@group.command()
def start(
    context: typer.Context,
    stage: Annotated[str, typer.Option(help="dpo | kto | sft")] = "dpo",
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it needs somebody.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write dataset and recipe; train nothing.")
    ] = False,
    operator: Operator = "",
    as_json: Json = False,
) -> None:
    """Begin a run now, whatever the thresholds say; the running solemate drives it."""
    work = begin_run(
        context.obj,
        _stage(stage),
        None,
        wait=wait,
        dry_run=dry_run,
        as_json=as_json,
        operator=operator,
    )
    run(work)


@group.command()
def wait(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Stay with a run until it ends or needs somebody; drive it where no solemate is running."""
    _print_end(run(_wait(context.obj, name)), as_json)


@group.command()
def cancel(context: typer.Context, name: Name, operator: Operator = "") -> None:
    """End a run that is not being tried on people yet; its pairs wait for the next one."""
    from training.runs import RunState

    run(_decide(context.obj, name, RunState.CANCELLED, operator))
    out.print(f"{name} is cancelled.")


@group.command()
def approve(context: typer.Context, name: Name, operator: Operator = "") -> None:
    """Let a run that waits for it go on: its adapter begins to answer people."""
    from training.runs import RunState

    approved = run(_decide(context.obj, name, RunState.CANARY, operator))
    if approved.stage == "sft":
        from training.merged import adoption

        out.print(f"{name}: its model is put away as soon as a solemate is running.")
        out.print(adoption(context.obj, approved), markup=False, highlight=False, soft_wrap=True)
        return
    out.print(f"{name} goes on to its canary as soon as a solemate is running.")


@group.command()
def pause(context: typer.Context, operator: Operator = "") -> None:
    """Stop the loop: no run begins, none goes a step further; a harmful canary still comes back."""
    from training.pause import pause_file

    file = pause_file(context.obj)
    file.parent.mkdir(parents=True, exist_ok=True)
    stood = file.exists()
    # It stands still also where the audit cannot be written.
    file.touch()
    out.print("The loop stands still. `solemate runs resume` lets it go on.")
    run(_note_pause(context.obj, "paused", operator, moved=not stood))


@group.command()
def resume(context: typer.Context, operator: Operator = "") -> None:
    """Let the loop go on."""
    from training.pause import pause_file

    file = pause_file(context.obj)
    run(_note_pause(context.obj, "running", operator, moved=file.exists()))
    file.unlink(missing_ok=True)
    out.print("The loop goes on.")


@group.command()
def rules(context: typer.Context, as_json: Json = False) -> None:
    """Show who changed which setting about learning when, as each start found it, and pauses."""
    changes = run(_rules(context.obj))
    print_rows([asdict(one) | {"at": _moment(one.at)} for one in changes], as_json)


@group.command()
def verify(context: typer.Context, as_json: Json = False) -> None:
    """Check that nobody changed the audit, and that the runs are as it says."""
    found, strays = run(_verify(context.obj))
    if as_json:
        print_json(
            {"whole": found.whole, "rows": found.rows, "digest": found.digest}
            | {"broken": found.broken, "runs": strays}
        )
    elif found.whole and not strays:
        out.print(f"All {found.rows} rows are as they were written. Last digest: {found.digest}")
    else:
        if not found.whole:
            err.print(f"Row {found.broken} of the audit, or one before it, was changed.")
        for name in strays:
            err.print(f"The run {name} is not in the state that its last audit row says.")
    if strays or not found.whole:
        raise typer.Exit(1)


async def begin_run(
    settings: Settings,
    stage: RunStage,
    recipe: str | None,
    *,
    wait: bool,
    dry_run: bool,
    as_json: bool,
    operator: str = "",
) -> None:
    """What `runs start` and `train … --from-feedback` do."""
    name = recipe or settings.training.recipe
    if dry_run:
        async with open_store(settings, exclusive=False) as store:
            await _show_what_would_run(settings, store, stage, name, as_json)
        return
    async with _runs(settings) as (_, runs):
        who = operator or getpass.getuser()
        begun = await runs.begin(stage, name, who=who, now=time.time())
    if wait:
        begun = await _wait(settings, begun.id)
    _print_end(begun, as_json)
    if not wait and not as_json:
        out.print("It is driven by the running solemate, or by the next one that starts.")


async def _wait(settings: Settings, name: str) -> Run:
    from training.loop import opened_loop

    async with (
        open_store(settings, exclusive=False) as store,
        opened_loop(settings, store) as loop,
    ):
        return await _see_through(loop, name)


async def _see_through(loop: Loop, name: str) -> Run:
    """Stay with a run, with a bar while it trains, wherever it is driven."""
    from training.commands.progress import training_bar

    driven = asyncio.create_task(loop.schedule.see_through(name))
    try:
        with training_bar(name) as show_progress:
            async for progress in _progress(loop, name, driven):
                show_progress(progress)
        return await driven
    finally:
        driven.cancel()
        await asyncio.gather(driven, return_exceptions=True)


async def _progress(loop: Loop, name: str, driven: asyncio.Task[Run]) -> AsyncIterator[Any]:
    """What the run's log says, until the run is driven to its end."""
    from training.progress import ProgressReader

    log: Path | None = None
    reader, place = ProgressReader(), 0
    while not driven.done():
        found = await loop.runs.get(name)
        if log != found.attempt / "train.log":
            log, reader, place = found.attempt / "train.log", ProgressReader(), 0
        if log.exists():
            with log.open("rb") as words:
                words.seek(place)
                read = words.read()
            place += len(read)
            for progress in reader.feed(read):
                yield progress
        await asyncio.wait({driven}, timeout=_POLL_SECONDS)


async def _show_what_would_run(
    settings: Settings, store: Store, stage: RunStage, recipe: str, as_json: bool
) -> None:
    """Freeze the pool and write the recipe, and print what would train on it."""
    from training.llamafactory import write_recipe
    from training.loop import opened_freezer, plan_run
    from training.runs import Run, RunState

    async with opened_freezer(settings, store) as freezer:
        frozen = await freezer.freeze(stage, recipe)
    now = time.time()
    folder = settings.state.absolute() / "runs" / f"dry-{stage}-{frozen.manifest.digest[:8]}"
    would = Run(
        *(folder.name, "", stage, recipe, RunState.FROZEN, "", "", folder),
        *(frozen.manifest.digest, "", {}, "", 1, 0, now, now),
    )
    plan = plan_run(settings, would, frozen)
    path = write_recipe(plan.command, plan.keys, plan.folder)
    if as_json:
        print_json(
            {
                "dataset": str(frozen.folder),
                "train": frozen.manifest.count("train"),
                "held_out": frozen.manifest.count("held_out"),
                "anchors": frozen.manifest.anchors,
                "recipe": str(path),
                "keys": dict(plan.keys),
                "command_line": plan.command_line,
            }
        )
        return
    out.print(
        f"Dataset: {frozen.folder} ({frozen.manifest.count('train')} pairs and "
        f"{frozen.manifest.anchors} anchors to train on, {frozen.manifest.count('held_out')} to "
        f"measure with)\nRecipe:  {path}",
        soft_wrap=True,
    )
    typer.echo(f"cd {ROOT} && {shlex.join(plan.command_line)}")


@asynccontextmanager
async def _runs(settings: Settings) -> AsyncIterator[tuple[Store, Runs]]:
    """The runs, beside a solemate that may be working on them."""
    from training.loop import operators_runs

    async with open_store(settings, exclusive=False) as store:
        yield store, operators_runs(settings, store)


async def _all(settings: Settings) -> list[Run]:
    async with _runs(settings) as (_, runs):
        return await runs.all()


async def _show(
    settings: Settings, name: str
) -> tuple[Run, dict[str, str], list[AuditRow], tuple[Taught, ...]]:
    from core.audit import audit_of
    from training.lineage import taught_in

    async with _runs(settings) as (store, runs):
        found = await runs.get(name)
        taught = await store.run(lambda connection: taught_in(connection, name))
        return found, await runs.pairs_of(name), await audit_of(store, name), taught


async def _decide(settings: Settings, name: str, to: RunState, operator: str) -> Run:
    from training.runs import check_decidable

    async with _runs(settings) as (_, runs):
        found = await runs.get(name)
        check_decidable(found, to)
        return await runs.move(found, to, who=operator or getpass.getuser(), now=time.time())


async def _rules(settings: Settings) -> list[Change]:
    from core.policy import policy_changes
    from training.pause import pauses

    async with _runs(settings) as (store, _):
        changes = await policy_changes(store) + await pauses(store)
    return sorted(changes, key=lambda one: one.at)


async def _note_pause(settings: Settings, after: LoopState, operator: str, *, moved: bool) -> None:
    from training.pause import note_pause

    who = operator or getpass.getuser()
    async with _runs(settings) as (store, _):
        await note_pause(store, after, moved=moved, who=who, now=time.time())


async def _verify(settings: Settings) -> tuple[Any, list[str]]:
    from core.audit import verify as verify_audit

    async with _runs(settings) as (store, runs):
        return await verify_audit(store), await runs.unaudited()


def _stage(text: str) -> RunStage:
    from core.errors import ConfigError

    if text == "dpo":
        return "dpo"
    if text == "kto":
        return "kto"
    if text == "sft":
        return "sft"
    raise ConfigError(f"There is no stage {text!r}; a run is dpo, kto or sft.")


def _print_end(found: Run, as_json: bool) -> None:
    if as_json:
        print_json(_summary(found))
    else:
        out.print(f"{found.id}: {found.state}. {escape(found.problem)}".strip())


def _summary(found: Run) -> dict[str, Any]:
    return {
        "run": found.id,
        "state": found.state.value,
        "why": found.why,
        "by": found.started_by,
        "attempts": found.attempts,
        "adapter": found.adapter,
        "begun": _moment(found.created_at),
        "problem": found.problem,
    }


def _step(row: AuditRow) -> dict[str, Any]:
    return {
        "at": _moment(row.at),
        "who": row.who,
        "from": row.before,
        "to": row.after,
        "detail": dict(row.detail),
        "digest": row.digest,
    }


def _print_run(found: Run, pairs: dict[str, str], steps: list[AuditRow]) -> None:
    print_rows([{name: str(value) for name, value in _summary(found).items()}], as_json=False)
    for figures in found.figures.values():
        print_rows(figures if isinstance(figures, list) else [figures], as_json=False)
    table = Table("when", "who", "from", "to", "attempt", "seal")
    for row in steps:
        attempt = str(row.detail.get("attempts", ""))
        table.add_row(_moment(row.at), row.who, row.before, row.after, attempt, row.digest[:16])
    out.print(table)
    held = sum(side == "held_out" for side in pairs.values())
    out.print(f"{len(pairs) - held} pairs trained on, {held} to measure with. See {found.folder}.")


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
