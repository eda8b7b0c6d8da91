"""Opens training's parts from the settings, where they are installed: the loop, and its server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from core.errors import ConfigError
from core.openai_model import OpenAIChatModel
from core.opening import own_command
from core.ports import port_is_free
from core.settings import ROOT, Settings
from core.store import Store

if TYPE_CHECKING:
    from core.doctor import Finding
    from training.loop import Loop

# What needs the extra `train` is imported where it is needed: solemate answers without it.

log = structlog.get_logger()

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def embedded_server(
    settings: Settings, model: OpenAIChatModel
) -> AbstractAsyncContextManager[None]:
    """The embedded model server as a child process, with our settings; it ends when we do."""
    from training.servers.process import model_server

    return model_server(
        own_command("serve", "--parent", str(os.getpid())),
        healthy=model.healthy,
        log_file=settings.state / "model-server.log",
    )


@asynccontextmanager
async def open_training(settings: Settings, store: Store) -> AsyncIterator[Loop | None]:
    """What trains on people's thumbs; None where it is not installed."""
    try:
        from training.loop import opened_loop
    except ImportError as exc:
        log.warning("no_training", missing=exc.name, advice="install the extra `train`")
        yield None
        return
    if settings.training.launcher == "ray":
        from core.doctor import warn_of

        warn_of(await examine_training(settings))
    async with opened_loop(settings, store) as loop:
        yield loop


async def examine_training(settings: Settings) -> Finding:
    """Look at where runs go."""
    try:
        from training.local_probe import examine_here
        from training.ray_probe import examine_cluster
    except ImportError as exc:
        return _not_installed(exc)
    if settings.training.launcher == "ray":
        return await examine_cluster(settings)
    return await asyncio.to_thread(examine_here, settings)


async def examine_serving(settings: Settings) -> Finding:
    """Look at the vLLM of this machine, which another may not need: the model is on one of them."""
    from core.doctor import Finding, Health

    try:
        from training.servers.engines import VLLM_PYTHON
        from training.servers.vllm import find_vllm

        found = await find_vllm(VLLM_PYTHON)
    except ImportError as exc:
        return replace(_not_installed(exc), part="serving")
    except ConfigError as exc:
        found_none = "this machine could not serve the model with vLLM"
        advice = f"Where another machine does, that is well. {exc}"
        return Finding("serving", Health.WARNING, found_none, advice)
    return Finding("serving", Health.OK, f"vLLM {found.version}")


def serves_here(settings: Settings) -> bool:
    """Whether this machine may have to serve the model: there is a vLLM, or nobody else does."""
    if settings.model.embedded:
        return False
    ours = [url for url in map(urlsplit, settings.model.replicas) if url.hostname in _LOOPBACK]
    has_vllm = (ROOT / ".venv-vllm").is_dir()
    return has_vllm or any(port_is_free(url.hostname or "", url.port or 80) for url in ours)


def _not_installed(missing: ImportError) -> Finding:
    from core.doctor import Finding, Health

    advice = "Install the extra `train` here, or leave training to another machine."
    return Finding("training", Health.WARNING, f"{missing.name!r} is not installed", advice)


async def forget_erased_people(settings: Settings, store: Store) -> None:
    """Take from use and from disk what was made of people who have been erased."""
    from training.adapters import Adapters

    trained = Adapters(store, settings.state / "adapters", settings.model.adapter)
    await trained.retire_flagged(now=time.time())
    try:
        from training.loop import forget_files
    except ImportError:
        # Nothing is trained here.
        return
    await forget_files(settings, store)
