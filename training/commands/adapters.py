"""`solemate adapters …`: what was trained, where it comes from, and who of it answers people."""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from core.errors import AdapterRejected, ModelUnavailable
from core.opening import open_store
from core.printing import Json, err, out, print_json, print_rows
from core.running import run
from core.settings import Settings

if TYPE_CHECKING:
    from core.audit import AuditRow
    from core.messages import Adapter
    from core.openai_model import OpenAIChatModel
    from core.routes import Route
    from core.store import Store
    from training.adapters import Adapters, Lineage, Registered

# Modules that load torch are imported where they are needed: `adapters list` takes no second.

group = typer.Typer(no_args_is_help=True, help="The registry of trained adapters.")

Name = Annotated[str, typer.Argument(help="The adapter, as `adapters list` names it.")]
Operator = Annotated[str, typer.Option("--as", help="Your name in the audit; default: your login.")]
_PROBE = "帆布鞋怎么洗？"


@dataclass(frozen=True, slots=True)
class _Shown:
    """Everything that is known of an adapter."""

    registered: Registered
    lineage: Lineage
    steps: list[AuditRow]
    route: Route


@group.command("list")
def list_adapters(context: typer.Context, as_json: Json = False) -> None:
    """List the adapters, the newest first, and who answers."""
    found, route = run(_all(context.obj))
    rows = [_summary(one, route) for one in found]
    default = context.obj.model.adapter
    if default:
        rows.append(
            {
                "adapter": default,
                "state": "shipped",
                "answers": _share(default, route),
                "run": "",
                "parent": "",
                "made": "",
                "erase_by": "",
            }
        )
    print_rows(rows, as_json)


@group.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show an adapter: its manifest, the pairs behind it, and everything that happened to it."""
    found = run(_show(context.obj, name))
    if as_json:
        print_json(
            _summary(found.registered, found.route)
            | {
                "folder": str(found.registered.path),
                "digest": found.registered.digest,
                "manifest": dict(found.registered.manifest),
                "lineage": asdict(found.lineage),
                "steps": [_step(row) for row in found.steps],
            }
        )
        return
    _print(found)


@group.command()
def load(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Load an adapter on the model server and ask it a question; nobody is sent to it."""
    said = run(_load(context.obj, name))
    if as_json:
        print_json({"adapter": name, "answer": said})
    else:
        out.print(f"{name} answers: {escape(said)}", highlight=False)


@group.command()
def promote(
    context: typer.Context, name: Name, operator: Operator = "", as_json: Json = False
) -> None:
    """Let an adapter answer everybody; who is live now stays loaded for a rollback."""
    _print_route(run(_promote(context.obj, name, operator or getpass.getuser())), as_json)


@group.command()
def rollback(context: typer.Context, operator: Operator = "", as_json: Json = False) -> None:
    """End the canary, or without one put back who was live before; takes effect in seconds."""
    _print_route(run(_roll_back(context.obj, operator or getpass.getuser())), as_json)


async def _all(settings: Settings) -> tuple[list[Registered], Route]:
    async with _opened(settings) as (_, adapters):
        return await adapters.all(), await adapters.route()


async def _show(settings: Settings, name: str) -> _Shown:
    from core.audit import audit_of

    async with _opened(settings) as (store, adapters):
        found = await adapters.get(name)
        lineage = await adapters.lineage(found)
        return _Shown(found, lineage, await audit_of(store, name), await adapters.route())


async def _load(settings: Settings, name: str) -> str:
    async with _opened(settings) as (_, adapters):
        adapter = await _checked(settings, adapters, name)
    async with _client(settings) as model:
        return await _answer_of(model, adapter)


async def _promote(settings: Settings, name: str, who: str) -> Route:
    async with _opened(settings) as (_, adapters):
        adapter = await _checked(settings, adapters, name)
        try:
            async with _client(settings) as model:
                await _answer_of(model, adapter)
        except ModelUnavailable as exc:
            # It is checked, and it is loaded as soon as there is a server; until then whoever
            # was live before answers.
            err.print(f"It was not asked anything: {exc}", style="yellow", markup=False)
        return await adapters.promote(name, who=who, now=time.time())


async def _roll_back(settings: Settings, who: str) -> Route:
    async with _opened(settings) as (_, adapters):
        return await adapters.roll_back(who=who, now=time.time())


async def _checked(settings: Settings, adapters: Adapters, name: str) -> Adapter:
    """The adapter, once its files are known to be what they were registered as."""
    from core.lora import check_adapter
    from core.registry import live_adapter
    from training.adapters import check_whole

    default = live_adapter(settings.model)
    if default is not None and default.name == name:
        if default.path is not None and default.path.is_dir():
            await asyncio.to_thread(check_adapter, default)
        return default
    found = await adapters.get(name)
    await asyncio.to_thread(check_whole, found)
    return found.adapter


async def _answer_of(model: OpenAIChatModel, adapter: Adapter) -> str:
    """What the adapter says to a question, loaded for it where it was not.

    Loading succeeds for any adapter whose shapes fit, so that only an answer tells something.
    Raises `AdapterRejected` where the server does not take it or nothing comes.
    """
    from core.errors import AnswerIncomplete
    from core.messages import ChatMessage
    from core.model import Sampling

    if adapter.name not in await model.models():
        if adapter.path is None:
            raise AdapterRejected(
                f"The model server has no adapter {adapter.name!r}, and no folder is known."
            )
        await model.load_adapter(adapter.name, adapter.path)
    text = ""
    prompt, sampling = (ChatMessage("user", _PROBE),), Sampling(max_tokens=32, temperature=0.0)
    try:
        async with aclosing(model.stream(prompt, adapter.name, sampling)) as pieces:
            async for piece in pieces:
                text += piece.text
    except AnswerIncomplete as exc:
        raise AdapterRejected(f"{adapter.name!r} gives no whole answer: {exc}") from exc
    return text.strip()


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Store, Adapters]]:
    """The registry, also while a solemate is running."""
    from training.adapters import Adapters

    async with open_store(settings, exclusive=False) as store:
        yield store, Adapters(store, settings.state / "adapters", settings.model.adapter)


def _client(settings: Settings) -> OpenAIChatModel:
    from core.openai_model import OpenAIChatModel

    key, admin_key = settings.secrets.model_keys
    return OpenAIChatModel(
        settings.model.replicas[0],
        key,
        admin_key=admin_key,
        base_model=settings.model.base_model,
        first_token_seconds=settings.model.deadline_seconds,
        deadline_seconds=settings.model.deadline_seconds,
    )


def _summary(found: Registered, route: Route) -> dict[str, Any]:
    from training.adapters import RETIRE_SECONDS

    flagged = found.flagged_at
    return {
        "adapter": found.name,
        "state": found.state,
        "answers": _share(found.name, route),
        "run": found.run_id,
        "parent": found.parent,
        "made": _moment(found.created_at),
        "erase_by": "" if flagged is None else _moment(flagged + RETIRE_SECONDS),
    }


def _share(name: str, route: Route) -> str:
    """Which part of the people an adapter answers."""
    if name == route.canary:
        return f"{route.share:.0%}"
    return f"{1 - route.share:.0%}" if name == route.live else ""


def _step(row: AuditRow) -> dict[str, Any]:
    return {
        "at": _moment(row.at),
        "who": row.who,
        "from": row.before,
        "to": row.after,
        "detail": dict(row.detail),
        "digest": row.digest,
    }


def _print(found: _Shown) -> None:
    print_rows([_summary(found.registered, found.route)], as_json=False)
    gate = found.registered.manifest.get("figures", {}).get("gate", [])
    if gate:
        print_rows(gate, as_json=False)
    rows = [
        {"when": _moment(row.at), "who": row.who, "from": row.before, "to": row.after}
        | {"why": row.detail.get("why", "")}
        for row in found.steps
    ]
    print_rows(rows, as_json=False)
    print_rows([asdict(one) for one in found.lineage.pairs], as_json=False)
    out.print(f"The files are in {found.registered.path}.", markup=False, soft_wrap=True)


def _print_route(route: Route, as_json: bool) -> None:
    if as_json:
        print_json(asdict(route))
        return
    before = f"; {route.previous} stays loaded for a rollback" if route.previous else ""
    out.print(f"{route.live or 'The base model'} answers everybody{before}.")


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
