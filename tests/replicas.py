"""Several `solemate up`, each in a process of its own, on the same database and folder."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from core.ports import free_port
from core.settings import ROOT

# Of a machine that has other things to do.
START_SECONDS = 900


@dataclass
class Replica:
    """A solemate in a process of its own."""

    port: int
    log: Path
    process: asyncio.subprocess.Process

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self, event: str) -> list[dict[str, Any]]:
        """What its log tells about an event."""
        lines = self.log.read_text("utf-8").splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in said if one["event"] == event]


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """The variables of one, without a model of its own and without an adapter."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SOLEMATE_")}
    return {
        **kept,
        "SOLEMATE__DATABASE__FOLDER": str(folder / "state"),
        "SOLEMATE__LOGGING__FILE": "",
        "SOLEMATE__MODEL__EMBEDDED": "false",
        "SOLEMATE__MODEL__ADAPTER": "",
        "SOLEMATE__MODEL__CONTEXT_TOKENS": "4096",
        "SOLEMATE__LIMITS__MESSAGES_PER_MINUTE": "1000",
        **changes,
    }


@asynccontextmanager
async def replica(number: int, folder: Path, settings: dict[str, str]) -> AsyncIterator[Replica]:
    """One that is gone in the end."""
    port, log = free_port("127.0.0.1"), folder / f"replica-{number}.log"
    with log.open("wb") as words:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "solemate", "up"),
            cwd=ROOT,
            env={**settings, "SOLEMATE__WEB__PORT": str(port)},
            stdout=words,
            stderr=words,
        )
    try:
        yield Replica(port, log, process)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 60)
        with suppress(ProcessLookupError):
            process.kill()


@asynccontextmanager
async def client(address: str) -> AsyncIterator[httpx.AsyncClient]:
    """Whose every request is a connection of its own, so that each goes to another replica."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as opened:
        yield opened


async def until_ready(one: Replica) -> None:
    async with client(one.address) as http, asyncio.timeout(START_SECONDS):
        while True:
            if one.process.returncode is not None:
                raise AssertionError(one.log.read_text("utf-8"))
            with suppress(httpx.HTTPError):
                if (await http.get("/health")).is_success:
                    return
            await asyncio.sleep(0.2)
