"""Whoever is killed while they tell a person what they taught: nobody is told twice.

That they were told is committed first. So a kill in between leaves the person untold, which they
can see in what became of their corrections; the control shows what the other order would do.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from core.settings import ROOT
from core.store import Store
from core.tables import notices
from tests.bots.desks import teach
from tests.training.feedback_world import BETTER, World

ANN = "web:ann"


def tell(url: str, dies: str) -> tuple[int, list[str]]:
    """How a process ended that told people, and whom it told."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bots.killed_teller", url, dies],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, [line for line in done.stdout.splitlines() if line == ANN]


async def taught(url: str) -> None:
    async with Store(url) as store:
        reply = await World(store).ask(user=ANN)
        await teach(store, reply, ANN, BETTER)


@pytest.mark.parametrize(
    ("dies", "before", "after"),
    [("uncommitted", 0, 1), ("before", 0, 0), ("after", 1, 0)],
)
async def test_a_person_is_told_once_or_where_the_kill_falls_in_between_never(
    store_url: str, dies: str, before: int, after: int
) -> None:
    await taught(store_url)
    assert tell(store_url, dies) == (-signal.SIGKILL, [ANN] * before)
    assert tell(store_url, "never") == (0, [ANN] * after)
    assert tell(store_url, "never") == (0, [])
    async with Store(store_url) as store:
        query = sa.select(sa.func.count()).select_from(notices)
        assert await store.run(lambda connection: connection.execute(query).scalar_one()) == 1


async def test_the_control_a_mark_that_comes_after_the_words_tells_twice(sqlite_url: str) -> None:
    await taught(sqlite_url)
    assert tell(sqlite_url, "after") == (-signal.SIGKILL, [ANN])
    async with Store(sqlite_url) as store:
        # Killed before it could write the mark that it had put off.
        await store.run(lambda connection: connection.execute(sa.delete(notices)))
    assert tell(sqlite_url, "never") == (0, [ANN])
