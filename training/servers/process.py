"""A model server as a child process: started, watched, started again when it dies, ended."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import structlog

from core.errors import ModelUnavailable

log = structlog.get_logger()

STOP_SECONDS = 10.0
_RESTART_SECONDS = 1.0
_LOOK_SECONDS = 0.2


@asynccontextmanager
async def model_server(
    command: Sequence[str],
    *,
    healthy: Callable[[], Awaitable[bool]],
    log_file: Path,
    start_seconds: float = 120.0,
    environment: Mapping[str, str | None] | None = None,
) -> AsyncIterator[None]:
    """Run `command` while the block runs; enter the block once `healthy()` is true.

    A server that dies later is started again after a second. Its output goes to `log_file`;
    `environment` is laid over ours; what is None there is left out.
    Raises `ModelUnavailable`, naming that file, when it is not healthy within `start_seconds`.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    start = partial(_start, command, log_file, environment or {})
    first = await start()
    keeper: asyncio.Task[None] | None = None
    try:
        await _until_healthy(first, healthy, log_file, start_seconds)
        keeper = asyncio.create_task(_keep(first, start, log_file))
        # A task that is cancelled before its first step never comes to its `finally`.
        await asyncio.sleep(0)
        yield
    finally:
        if keeper is None:
            await _end(first)
        else:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper


async def _until_healthy(
    process: asyncio.subprocess.Process,
    healthy: Callable[[], Awaitable[bool]],
    log_file: Path,
    seconds: float,
) -> None:
    """Return when it is ready; looking is no retry, and so nothing to warn of."""
    try:
        async with asyncio.timeout(seconds):
            while not await healthy():
                if process.returncode is not None:
                    raise ModelUnavailable(
                        f"The model server ended at once (exit {process.returncode}): "
                        f"{_last_line(log_file)} The whole story is in {str(log_file)!r}."
                    )
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        raise ModelUnavailable(
            f"The model server did not get ready in {seconds:.0f} s; see {str(log_file)!r}."
        ) from None


async def _keep(
    process: asyncio.subprocess.Process,
    start: Callable[[], Awaitable[asyncio.subprocess.Process]],
    log_file: Path,
) -> None:
    """Start the server again whenever it ends; end it when this task is cancelled."""
    try:
        while True:
            code = await process.wait()
            log.error("model_server_died", exit=code, log=str(log_file))
            _end_what_is_left(process)
            await asyncio.sleep(_RESTART_SECONDS)
            process = await start()
    finally:
        await _end(process)


async def _start(
    command: Sequence[str], log_file: Path, environment: Mapping[str, str | None]
) -> asyncio.subprocess.Process:
    laid_over = {**os.environ, **environment}
    with log_file.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={name: value for name, value in laid_over.items() if value is not None},
            # Its own group: Ctrl-C is for us, and we end it after the last answer.
            start_new_session=True,
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the whole group to stop, and make it after ten seconds."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
    _end_what_is_left(process)


def _end_what_is_left(process: asyncio.subprocess.Process) -> None:
    """End what a process that is gone has started: vLLM's engine outlives its front, and holds on
    to the card's memory.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(log_file: Path) -> str:
    lines = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing."
