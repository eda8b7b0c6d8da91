"""`solemate person …`: all that is kept about somebody, to hand out or to delete for good."""

from __future__ import annotations

import getpass
import json
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.opening import open_link, open_store, pseudonyms
from core.printing import Json, err, out, print_json, print_rows
from core.running import run
from core.settings import Settings

if TYPE_CHECKING:
    from core.redis_link import RedisLink

# Modules that load torch are imported where they are needed.

group = typer.Typer(no_args_is_help=True, help="What is kept about a person; its erasure.")

Key = Annotated[
    str,
    typer.Argument(help="telegram:NUMBER, slack:TEAM:USER, web:ID, or the store's name of them."),
]


Operator = Annotated[str, typer.Option("--as", help="Your name in the audit; default: your login.")]


@group.command()
def export(
    context: typer.Context,
    key: Key,
    file: Annotated[
        Path | None, typer.Option("--file", help="Write it there, for you alone to read.")
    ] = None,
    operator: Operator = "",
    as_json: Json = False,
) -> None:
    """Print all that is kept about a person as one JSON document."""
    found = run(_export(context.obj, key, operator or getpass.getuser()))
    if file is None:
        print_json(found) if as_json else typer.echo(_written(found))
        return
    file.touch(mode=0o600)
    file.write_text(_written(found) + "\n", "utf-8")
    out.print(f"{file} holds all that is kept about {found['person']}.")


@group.command()
def erase(
    context: typer.Context,
    key: Key,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    operator: Operator = "",
    as_json: Json = False,
) -> None:
    """Delete all that is kept about a person; a tombstone keeps backups from bringing it back."""
    person = run(_known(context.obj, key))
    if not yes:
        typer.confirm(f"Delete all that is kept about {person}, for good?", abort=True, err=True)
    done = run(_erase(context.obj, person, operator or getpass.getuser()))
    print_json(done) if as_json else print_rows([done], as_json=False)


async def _known(settings: Settings, key: str) -> str:
    """The person's name in the store; `NotFound` where nobody of that name was ever here."""
    from core.privacy import check_known

    person = pseudonyms(settings).named(key)
    async with open_store(settings, exclusive=False) as store:
        await check_known(store, person)
    return person


async def _export(settings: Settings, key: str, who: str) -> dict[str, Any]:
    from core.privacy import erased_at, note_export
    from core.privacy import export as export_from

    person = await _known(settings, key)
    async with open_store(settings, exclusive=False) as store:
        erased = await erased_at(store, person)
        found = await export_from(store, person)
        await note_export(store, person, who=who)
    return found | {"erased_at": _day(erased) if erased else None}


async def _erase(settings: Settings, person: str, who: str) -> dict[str, Any]:
    """Erase a person from the store and from the datasets on disk; what that did."""
    from core.privacy import erase as erase_from
    from training.adapters import RETIRE_SECONDS, Adapters
    from training.loop import forget_files, leave_out

    now = time.time()
    async with AsyncExitStack() as stack:
        if link := open_link(settings):
            await stack.enter_async_context(link)
        opened = open_store(settings, exclusive=False, link=link)
        store = await stack.enter_async_context(opened)
        done = await erase_from(store, person, now=now, who=who)
        if link is not None:
            await _tell_of_redis(link, settings.conversation.expire_minutes)
        runs = await forget_files(settings, store)
        with err.status("Taking them out of the training run…"):
            left = await leave_out(settings, store)
        adapters = Adapters(store, settings.state / "adapters", settings.model.adapter)
        flagged = [one.name for one in await adapters.all() if one.flagged_at == now]
    if left:
        err.print(f"A training run still holds what they said. {left}", style="yellow")
    return {
        "person": person,
        "turns": done.turns,
        "ratings": done.ratings,
        "photos": done.photos,
        "pairs": done.pairs,
        "datasets_deleted": len(runs),
        "all_files_deleted": not left,
        "adapters_flagged": ", ".join(flagged),
        "retired_by": _day(now + RETIRE_SECONDS) if flagged else "",
    }


async def _tell_of_redis(link: RedisLink, minutes: float) -> None:
    """Say so where the last rounds could not be deleted from Redis: this process will not do it."""
    from core.errors import RedisUnavailable

    try:
        await link.check()
    except RedisUnavailable:
        err.print(
            f"Redis does not answer, and may hold the last rounds for {minutes:g} more minutes. "
            "Erase the person again when it is back to delete them at once."
        )


def _written(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, indent=2)


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()
