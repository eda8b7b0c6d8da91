"""Bots in processes of their own, that can be killed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]

Kind = Literal["solemate", "faltering", "library"]


@asynccontextmanager
async def process_of(
    module: str, *arguments: str, told: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A module of `tests.bots` as a process, killed at the end of the block.

    `told` is whether what it prints is read here.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", f"tests.bots.{module}", *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE if told else None,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def worker(
    platform: Literal["slack", "telegram"], kind: Kind, folder: Path, address: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A bot that answers at this address, killed at the end of the block."""
    async with process_of(f"{platform}_worker", kind, str(folder), address) as process:
        yield process
