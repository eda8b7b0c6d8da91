"""LLaMA-Factory's own API behind our door: the model with its SFT and DPO adapters, and no more.

It takes its adapters when it starts, one stack of them, answers to any model's name, and opens more
than it should: so it listens on loopback with a key, reads no local files and logs no questions,
and what people reach is the door. Another adapter is another server: start it beside this one
(`--port`), list both in `model.base_url`, and the registry sends people to whichever has the
adapter that is live; then end the old one.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog

from core.ports import free_port
from training.servers.process import model_server
from training.servers.proxy import Keys, Upstream, door

log = structlog.get_logger()

START_SECONDS = 1800.0
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """What LLaMA-Factory is told; `adapters` lie one on the other, SFT first and DPO after it."""

    model: str
    served_name: str
    template: str
    adapters: Sequence[Path] = ()
    python: str = ""
    extra: tuple[str, ...] = ()


def api_command(options: ApiOptions) -> list[str]:
    """The command line; where it listens is said by `api_environment`."""
    command = [options.python or sys.executable, "-m", "training.llamafactory_cli", "api"]
    command += ["--model_name_or_path", options.model, "--template", options.template]
    if options.adapters:
        command += ["--adapter_name_or_path", ",".join(str(one) for one in options.adapters)]
        command += ["--finetuning_type", "lora"]
    command += ["--infer_backend", "huggingface", "--trust_remote_code", "false"]
    return [*command, *options.extra]


def api_environment(options: ApiOptions, port: int) -> dict[str, str]:
    """The variables that belong to the command, without its key."""
    return {
        "API_HOST": _LOOPBACK,
        "API_PORT": str(port),
        "API_MODEL_NAME": options.served_name,
        "API_VERBOSE": "0",
        "ALLOW_LOCAL_FILES": "0",
        "SAFE_MEDIA_PATH": "/nonexistent",
    }


def printed(options: ApiOptions) -> str:
    """The command as it would be typed into a shell."""
    variables = api_environment(options, free_port(_LOOPBACK)).items()
    words = [f"{name}={shlex.quote(value)}" for name, value in variables]
    return " ".join([*words, shlex.join(api_command(options))])


@asynccontextmanager
async def running(
    options: ApiOptions, keys: Keys, host: str, port: int, log_file: Path
) -> AsyncIterator[str]:
    """The API behind its door while this is open; gives the door's base URL."""
    inner = free_port(_LOOPBACK)
    upstream = Upstream(
        f"http://{_LOOPBACK}:{inner}",
        secrets.token_urlsafe(32),
        model=options.served_name,
        health="/v1/models",
    )
    environment = {**api_environment(options, inner), "API_KEY": upstream.key}
    async with (
        door(upstream, keys, host, port) as url,
        httpx.AsyncClient(trust_env=False, timeout=5) as client,
        model_server(
            api_command(options),
            healthy=lambda: upstream.healthy(client),
            log_file=log_file,
            start_seconds=START_SECONDS,
            environment=environment,
        ),
    ):
        yield url


async def serve(options: ApiOptions, keys: Keys, host: str, port: int, log_file: Path) -> None:
    """Serve until cancelled."""
    async with running(options, keys, host, port, log_file) as url:
        log.info("model_server_started", url=url, model=options.served_name)
        await asyncio.get_running_loop().create_future()
