"""A Ray head of its own for tests: started, asked for a token, ended with all its processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from training.ray_api import Cluster

TOKEN = "a-token-that-is-long-enough-for-rays-taste"
# A busy machine may need several attempts; Ray gives each of its parts half a minute.
_START_SECONDS = 600


@contextmanager
def ray_head(cpus: int = 2, **environment: str) -> Iterator[Cluster]:
    """A head without GPUs that lets nobody in without `TOKEN`."""
    # Ray's sockets lie below it, and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    dashboard, client = _free_port(), _free_port()
    address = f"http://127.0.0.1:{dashboard}"
    with (folder / "words").open("wb") as words:
        process = subprocess.Popen(
            [
                # On a machine that is busy one of Ray's own parts may give up at its start.
                *("sh", "-c", 'while :; do "$@"; sleep 1; done', "ray"),
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--port=0", f"--ray-client-server-port={client}", f"--num-cpus={cpus}"),
                *("--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"),
                *("--dashboard-agent-listen-port=0", "--dashboard-host=127.0.0.1"),
                *(f"--dashboard-port={dashboard}", f"--temp-dir={folder}"),
                *("--min-worker-port=0", "--max-worker-port=0"),
            ],
            env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **environment},
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    try:
        _until_it_answers(address, folder / "words")
        yield Cluster(address, TOKEN)
    finally:
        _end(process, folder)


def _until_it_answers(address: str, words: Path) -> None:
    last = time.monotonic() + _START_SECONDS
    headers = {"Authorization": f"Bearer {TOKEN}"}
    while time.monotonic() < last:
        with suppress(httpx.HTTPError):
            answer = httpx.get(f"{address}/api/v0/nodes", headers=headers, timeout=10)
            if answer.is_success and answer.json()["data"]["result"]["result"]:
                return
        time.sleep(0.2)
    raise AssertionError(f"Ray did not start:\n{words.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill the head and whatever it has started: each names the head's folder or is its child."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(folder) in word for word in one.cmdline()):
                one.kill()
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number
