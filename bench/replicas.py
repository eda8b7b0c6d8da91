"""Three replicas against one: answers a second through a load balancer, on PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import httpx

from bench.expert import Expert
from bench.figures import Figure
from bench.loopback import in_child
from bench.stub_server import stub_server
from tests.balancer import balancing
from tests.cluster import running_cluster, server_programs
from tests.conftest import RedisServer
from tests.replicas import client, environment, replica, until_ready

PART = "replicas"
MODEL_SECONDS = 0.5


async def measure(expert: Expert) -> list[Figure]:
    """Nothing where PostgreSQL or Redis is not installed, or no replicas are wanted."""
    redis_program = shutil.which("redis-server")
    numbers = expert.effort.replicas
    if not numbers or server_programs() is None or redis_program is None:
        return []
    folder = expert.folder / "replicas"
    folder.mkdir()
    redis = RedisServer(redis_program, folder)
    redis.start()
    try:
        with running_cluster() as cluster:
            async with in_child(partial(stub_server, MODEL_SECONDS)) as model:
                settings = environment(
                    folder,
                    SOLEMATE__DATABASE__URL=cluster.url,
                    SOLEMATE__REDIS__URL=redis.url,
                    SOLEMATE__MODEL__BASE_URL=model,
                    SOLEMATE__LIMITS__LANES=str(expert.effort.conversations),
                )
                rates = [await _rate(expert, folder, settings, number) for number in numbers]
    finally:
        redis.stop()
    figures = [
        Figure(PART, f"answers by {number}", rate, "/s")
        for number, rate in zip(numbers, rates, strict=True)
    ]
    ratio = rates[-1] / rates[0]
    return [*figures, Figure(PART, f"{numbers[-1]} replicas / {numbers[0]}", ratio, "×")]


async def _rate(expert: Expert, folder: Path, settings: dict[str, str], number: int) -> float:
    """Answers a second of so many replicas."""
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(replica(one, folder, settings)) for one in range(number)
        ]
        for one in running:
            await until_ready(one)
        address = await stack.enter_async_context(balancing([one.port for one in running]))
        http = await stack.enter_async_context(client(address))
        await _converse(expert, http, f"warm-{number}", rounds=1)
        started = time.perf_counter()
        answers = await _converse(expert, http, f"talk-{number}", rounds=expert.effort.rounds)
        return answers / (time.perf_counter() - started)


async def _converse(expert: Expert, http: httpx.AsyncClient, name: str, rounds: int) -> int:
    """Hold all conversations at once; how many answers there were."""
    conversations = expert.effort.conversations
    questions = expert.some_questions(conversations * rounds)

    async def conversation(number: int) -> None:
        for turn in range(rounds):
            question = questions[(number * rounds + turn) % len(questions)]
            body = {"session_id": f"{name}-{number}", "message": question}
            (await http.post("/chat", json=body)).raise_for_status()

    async with asyncio.TaskGroup() as tasks:
        for number in range(conversations):
            tasks.create_task(conversation(number))
    return conversations * rounds
