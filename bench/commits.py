"""Commits a second on SQLite and PostgreSQL: thumbs of many people, each on the disk at its end."""

from __future__ import annotations

import asyncio
import time

from bench.expert import Expert
from bench.figures import Figure
from core.messages import Feedback, Outcome, Platform, Rating, Reply, Turn
from core.store import Store
from tests.cluster import running_cluster, server_programs

PART = "commits"
PEOPLE = 16
_REPLY = Reply("bench-reply", "bench", "Wash them by hand.", Outcome.ANSWERED, "en")


async def measure(expert: Expert) -> list[Figure]:
    """Both, and their ratio; SQLite alone where no PostgreSQL is installed."""
    async with expert.store() as store:
        sqlite = await _rate(store, expert.effort.commits)
    figures = [Figure(PART, "SQLite", sqlite, "/s")]
    if server_programs() is None:
        return figures
    with running_cluster() as cluster:
        async with Store(cluster.url) as store:
            postgresql = await _rate(store, expert.effort.commits)
    return [
        *figures,
        Figure(PART, "PostgreSQL", postgresql, "/s"),
        Figure(PART, "PostgreSQL / SQLite", postgresql / sqlite, "×"),
    ]


async def _rate(store: Store, commits: int) -> float:
    """Have as many people press at once, one thumb after the other; thumbs a second."""
    turn = Turn(_REPLY, "bench", "ann", Platform.WEB, "How?", "How?", (), (), {}, time.time())
    await store.add_turn(turn)

    async def press(first: int) -> None:
        for number in range(first, commits, PEOPLE):
            await store.add_feedback(Feedback(_REPLY.id, f"person-{number}", Rating.UP))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for first in range(PEOPLE):
            tasks.create_task(press(first))
    return commits / (time.perf_counter() - started)
