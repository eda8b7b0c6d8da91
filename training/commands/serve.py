"""`solemate serve`: a model with LoRA adapters behind an OpenAI-compatible API."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from core.errors import ConfigError
from core.opening import expert_folder, model_address, open_tracing
from core.running import run
from core.settings import Settings

if TYPE_CHECKING:
    from training.servers.embedded import ServerOptions

log = structlog.get_logger()


class ServeEngine(StrEnum):
    """What can compute a served model's answers."""

    EMBEDDED = "embedded"
    VLLM = "vllm"
    LLAMAFACTORY = "llamafactory"


def serve(
    context: typer.Context,
    engine: Annotated[ServeEngine, typer.Option(help="What computes.")] = ServeEngine.EMBEDDED,
    host: Annotated[str | None, typer.Option(help="Default: model.base_url's.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: model.base_url's.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A folder; default: model.expert, or the recipe's merged SFT model."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of a LoRA adapter; default: those that answer people."),
    ] = None,
    python: Annotated[
        Path | None, typer.Option(help="An interpreter that has vLLM; default: .venv-vllm's.")
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Show vLLM's or LLaMA-Factory's command and stop.")
    ] = False,
    parent: Annotated[
        int | None, typer.Option(hidden=True, help="End when this process is gone.")
    ] = None,
    extra: Annotated[
        list[str] | None, typer.Argument(help="After --: options of vLLM or LLaMA-Factory.")
    ] = None,
) -> None:
    """Serve a model with LoRA adapters through an OpenAI-compatible API."""
    settings: Settings = context.obj
    default_host, default_port = model_address(settings)
    adapters = None if adapter is None else dict(_named_folder(one) for one in adapter)
    host, port = host or default_host, port or default_port
    if engine is not ServeEngine.EMBEDDED:
        from training.servers import engines

        wanted = engines.Wanted(
            host, port, model or "", adapters, python, only_print, tuple(extra or ())
        )
        by_vllm = engine is ServeEngine.VLLM
        serve_engine = engines.serve_vllm if by_vllm else engines.serve_llamafactory
        run(serve_engine(settings, wanted), parent=parent)
        return
    if only_print or extra:
        raise ConfigError("The embedded engine runs in this process: no command, no more options.")
    from training.servers import embedded
    from training.servers.proxy import Keys

    keys = Keys(*settings.secrets.model_keys)
    keys.check(host)
    options = embedded.ServerOptions(
        model=Path(model) if model else expert_folder(settings),
        served_name=settings.model.base_model,
        host=host,
        port=port,
        adapters=adapters or {},
        keys=keys,
        tracing=context.with_resource(open_tracing(settings, "solemate-model")),
    )
    # An adapter that is asked for here has to be right; the settings' one is left out if it is not.
    named = adapter is not None or model is not None
    served = embedded.serve(options) if named else _serve_with_adapter(settings, options)
    run(served, parent=parent)


async def _serve_with_adapter(settings: Settings, options: ServerOptions) -> None:
    """Serve with the settings' adapter, or without it when it cannot be used.

    A server that `up` starts again and again must come up whatever has become of the adapter.
    """
    from core.errors import AdapterRejected
    from core.lora import check_adapter
    from core.registry import live_adapter
    from training.servers import embedded

    live = live_adapter(settings.model)
    if live is not None and live.path is not None:
        try:
            check_adapter(live)
            await embedded.serve(replace(options, adapters={live.name: live.path}))
            return
        except AdapterRejected as exc:
            log.warning("adapter_left_out", adapter=live.name, problem=str(exc))
    await embedded.serve(options)


def _named_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise ConfigError(f"{text!r} is no adapter; write NAME=FOLDER.")
    return name, Path(folder)
