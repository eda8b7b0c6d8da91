"""Serves as the settings say with engines that are programs: vLLM, and LLaMA-Factory's API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
import typer

from core.backup import reading
from core.database import check_tables
from core.errors import AdapterRejected, StoreError
from core.lora import check_adapter
from core.messages import Adapter
from core.registry import live_adapter
from core.routes import Route, last_route, registered
from core.settings import ROOT, Settings
from training.recipe_keys import check_keys
from training.servers import llamafactory_api, vllm
from training.servers.proxy import Keys
from training.train import served_model

log = structlog.get_logger()

VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line; `None` and "" leave it to the settings."""

    host: str
    port: int
    model: str
    adapters: Mapping[str, Path] | None
    python: Path | None
    only_print: bool
    extra: Sequence[str]


async def serve_vllm(settings: Settings, wanted: Wanted) -> None:
    """Run vLLM behind its door, or print how it would be run."""
    found = await vllm.find_vllm(wanted.python or VLLM_PYTHON)
    model = _model(settings, wanted)
    options = vllm.VllmOptions(
        model=model,
        served_name=settings.model.base_model,
        context_tokens=settings.model.context_tokens,
        max_rank=settings.training.gate.max_rank,
        adapters=await _adapters(settings, wanted, model),
        extra=tuple(wanted.extra),
    )
    if wanted.only_print:
        typer.echo(vllm.printed(found, options))
        return
    await vllm.serve(
        found, options, _keys(settings), wanted.host, wanted.port, _log_file(settings, "vllm")
    )


async def serve_llamafactory(settings: Settings, wanted: Wanted) -> None:
    """Run LLaMA-Factory's API behind its door, or print how it would be run."""
    from training.llamafactory import recipe

    model = _model(settings, wanted)
    given = await _adapters(settings, wanted, model) if wanted.adapters is None else wanted.adapters
    keys = recipe("dpo", {}, model=settings.training.recipe)
    check_keys(keys)
    # An adapter by name is the registry's way to send people here; without one it is the model.
    name = [settings.model.base_model, *given][-1]
    options = llamafactory_api.ApiOptions(
        model=model,
        served_name=name,
        template=str(keys["template"]),
        adapters=tuple(path.absolute() for path in given.values()),
        python=settings.training.python,
        extra=tuple(wanted.extra),
    )
    if wanted.only_print:
        typer.echo(llamafactory_api.printed(options))
        return
    log_file = _log_file(settings, "llamafactory-api")
    await llamafactory_api.serve(options, _keys(settings), wanted.host, wanted.port, log_file)


def _model(settings: Settings, wanted: Wanted) -> str:
    """The model to serve: named, or the merged one that the recipe's adapters are trained on."""
    return served_model(
        settings.state / "runs", datetime.now(UTC), settings.training.recipe, wanted.model
    )


async def _adapters(settings: Settings, wanted: Wanted, model: str) -> dict[str, Path]:
    """Those that vLLM has from its start: what was named, or what the registry would load.

    One that does not fit the model is an error where it was named, and left out where not: a server
    that is started again and again must come up whatever has become of an adapter.
    """
    if wanted.adapters is not None:
        named = {name: path.absolute() for name, path in wanted.adapters.items()}
        for name, path in named.items():
            check_adapter(Adapter(name, path, model), settings.training.gate.max_rank)
        return named
    fitting: dict[str, Path] = {}
    for one in await _routed(settings):
        try:
            path = (one.path or Path()).absolute()
            check_adapter(
                Adapter(one.name, path, model, one.digest), settings.training.gate.max_rank
            )
        except AdapterRejected as exc:
            log.warning("adapter_left_out", adapter=one.name, problem=str(exc))
        else:
            fitting[one.name] = path
    return fitting


async def _routed(settings: Settings) -> list[Adapter]:
    """The adapters that answer people now; those of the settings where no store says otherwise."""
    default = live_adapter(settings.model)
    fallback = [default] if default is not None and default.path is not None else []
    if not _has_store(settings.database.address):
        return fallback
    try:
        route, known = await asyncio.to_thread(_read_route, settings.database.address)
    except StoreError as exc:
        # The store may be on the other machine: the registry there loads what is missing here.
        log.warning("registry_not_read", problem=str(exc))
        return fallback
    if route is None:
        return fallback
    known |= {one.name: one for one in fallback}
    return [known[name] for name in route.names if name in known]


def _read_route(address: str) -> tuple[Route | None, dict[str, Adapter]]:
    """Who answers whom, beside a running solemate: its tables are read as they are."""
    with reading(address) as connection:
        route = last_route(connection) if check_tables(connection) else None
        return route, registered(connection, route.names) if route else {}


def _has_store(address: str) -> bool:
    """Whether there can be a route: opening a SQLite file that is not there would make one."""
    kind, _, file = address.partition(":///")
    return kind != "sqlite" or Path(file).exists()


def _keys(settings: Settings) -> Keys:
    keys = Keys(*settings.secrets.model_keys)
    if not keys.loop:
        log.warning("no_adapters_at_run_time", advice="set MODEL_ADMIN_KEY here and for `up`")
    return keys


def _log_file(settings: Settings, name: str) -> Path:
    return settings.state / f"{name}.log"
