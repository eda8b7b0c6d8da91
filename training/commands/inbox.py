"""`solemate inbox …`: the messages that people sent, as far as an operator has to know."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from core.opening import open_store
from core.printing import Json, err, print_rows, printable
from core.put_aside import PutAside, list_put_aside
from core.running import run
from core.settings import Settings

group = typer.Typer(no_args_is_help=True, help="The messages that people sent.")


@group.callback()
def _group() -> None:
    """Keep `dead` a command of its own: a group of one would be that one."""


@group.command()
def dead(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, help="So many, the latest.")] = 50,
    texts: Annotated[bool, typer.Option("--texts", help="Show what was written, too.")] = False,
    as_json: Json = False,
) -> None:
    """List what was put aside without an answer, and why."""
    found = run(_dead(context.obj, limit))
    rows = [_row(one) | ({"text": printable(one.text)} if texts else {}) for one in found]
    if not rows and not as_json:
        err.print("Nothing was put aside.")
        return
    print_rows(rows, as_json)


async def _dead(settings: Settings, limit: int) -> list[PutAside]:
    async with open_store(settings, exclusive=False) as store:
        return await list_put_aside(store, limit=limit)


def _row(one: PutAside) -> dict[str, Any]:
    return {
        "put_aside": datetime.fromtimestamp(one.at).astimezone().isoformat(timespec="seconds"),
        "platform": str(one.platform),
        "conversation": one.conversation_id,
        "message": one.message_id,
        "why": one.problem,
        "apology": one.apology,
    }
