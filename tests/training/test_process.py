"""A child process stands in for the model server: a tiny HTTP server, or something that fails."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from core.errors import ModelUnavailable
from training.servers.process import model_server

# Listens, and writes its process id into a file; with it lives an engine, as beside vLLM's front.
SERVER = """
import os, pathlib, socket, subprocess, sys
pathlib.Path(sys.argv[2] + "-engine").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listener.accept()[0].close()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def listening(port: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    return check


async def until(check: Callable[[], Awaitable[bool]], wanted: bool = True) -> None:
    async with asyncio.timeout(30):
        while await check() is not wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def engine_of(pid_file: Path) -> int:
    return int(pid_file.with_name(f"{pid_file.name}-engine").read_text())


async def until_gone(pid: int) -> None:
    async def lives() -> bool:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False

    await until(lives, wanted=False)


def command(port: int, pid_file: Path) -> list[str]:
    return [sys.executable, "-c", SERVER, str(port), str(pid_file)]


async def test_the_server_runs_while_the_block_runs(port: int, tmp_path: Path) -> None:
    healthy = listening(port)
    pid_file = tmp_path / "pid"
    async with model_server(command(port, pid_file), healthy=healthy, log_file=tmp_path / "log"):
        assert await healthy()
    assert not await healthy()
    await until_gone(engine_of(pid_file))


async def test_a_block_that_fails_at_once_leaves_no_server(port: int, tmp_path: Path) -> None:
    healthy = listening(port)
    with pytest.raises(ValueError, match="at once"):
        async with model_server(
            command(port, tmp_path / "pid"), healthy=healthy, log_file=tmp_path / "log"
        ):
            raise ValueError("at once")
    assert not await healthy()


async def test_a_server_that_dies_is_started_again(port: int, tmp_path: Path) -> None:
    healthy, pid_file = listening(port), tmp_path / "pid"
    async with model_server(command(port, pid_file), healthy=healthy, log_file=tmp_path / "log"):
        first, engine = int(pid_file.read_text()), engine_of(pid_file)
        os.kill(first, signal.SIGKILL)
        await until(healthy, wanted=False)
        await until(healthy)
        assert int(pid_file.read_text()) != first
        await until_gone(engine)


async def test_what_a_server_that_died_had_started_is_ended_with_the_block(
    port: int, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    async with model_server(
        command(port, pid_file), healthy=listening(port), log_file=tmp_path / "log"
    ):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
    await until_gone(engine_of(pid_file))


async def test_a_server_that_cannot_start_is_explained_by_its_last_words(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    words = [sys.executable, "-c", "import sys; sys.exit('The model folder is empty.')"]
    with pytest.raises(ModelUnavailable, match="The model folder is empty"):
        async with model_server(words, healthy=never, log_file=tmp_path / "log"):
            pytest.fail("it must not get here")


async def test_a_server_that_never_gets_healthy_is_ended(port: int, tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    pid_file = tmp_path / "pid"
    with pytest.raises(ModelUnavailable, match="did not get ready"):
        async with model_server(
            command(port, pid_file), healthy=never, log_file=tmp_path / "log", start_seconds=2
        ):
            pytest.fail("it must not get here")
    assert not await listening(port)()
