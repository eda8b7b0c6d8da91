"""Killed in the middle of answering, Slack's solemate loses nothing and says little twice."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.bots.slack_fake import FakeSlack

ROOT = Path(__file__).resolve().parents[2]
# As many are answered at once by the world's lanes.
WIDTH = 4


@asynccontextmanager
async def worker(folder: Path, fake: FakeSlack) -> AsyncIterator[None]:
    """A solemate in a process of its own, killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bots.slack_worker",
        str(folder),
        fake.address,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


def answered(fake: FakeSlack) -> set[str]:
    """The channels with a finished answer."""
    return {one.channel for one in fake.shown if any(d.startswith("up:") for d in one.data)}


def _has(fake: FakeSlack, count: int) -> bool:
    return len(answered(fake)) >= count


async def lose_and_find(folder: Path, messages: int, kills: list[int]) -> None:
    async with FakeSlack().serving() as fake:
        # A new process may take its time on a busy machine.
        fake.patience_seconds = 250
        bodies = [
            fake.message("How do I wash canvas shoes?", user=f"U{n}", channel=f"DU{n}")
            for n in range(messages)
        ]

        async def deliver() -> None:
            for body in bodies:
                await fake.send_until_acknowledged(body)

        async with asyncio.TaskGroup() as tasks:
            delivering = tasks.create_task(deliver())
            for count in kills:
                async with worker(folder, fake):
                    await fake.until(partial(_has, fake, count))
            async with worker(folder, fake):
                await delivering
                await fake.until(partial(_has, fake, messages))
        assert len(fake.shown) <= messages + WIDTH * len(kills)


@pytest.mark.timeout(900)
async def test_two_kills_lose_no_message(tmp_path: Path) -> None:
    await lose_and_find(tmp_path, 30, [5, 15])


@pytest.mark.nightly
@pytest.mark.timeout(3600)
async def test_thirty_kills_lose_no_message(tmp_path: Path) -> None:
    await lose_and_find(tmp_path, 2000, list(range(60, 1860, 60)))
