"""A `solemate up` that Ctrl-C ends twice: the answer under way is given by the next one."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from bench.stub_server import stub_server
from core.store import Store
from core.tables import inbox, turns
from tests.replicas import Replica, client, environment, replica, until_ready

NEVER_SECONDS = 3600.0
QUESTION = {"session_id": "s", "message_id": "m", "message": "How do I wash canvas shoes?"}

pytestmark = pytest.mark.timeout(2400)


async def until_asked(database: str) -> None:
    """Wait until the model has been asked for an answer."""
    leased = sa.select(sa.func.count()).where(inbox.c.state == "leased")
    async with Store(database, exclusive=False) as store:
        while True:
            if await store.run(lambda connection: connection.scalar(leased)):
                return
            await asyncio.sleep(0.05)


async def until_closing(one: Replica) -> None:
    """Wait until it takes no connections any more."""
    while True:
        try:
            async with client(one.address) as http:
                await http.get("/health")
        except httpx.TransportError:
            return
        await asyncio.sleep(0.05)


async def test_a_second_ctrl_c_ends_it_at_once_and_the_next_one_answers_what_was_asked(
    tmp_path: Path,
) -> None:
    database = f"sqlite:///{tmp_path}/solemate.db"
    settings = environment(tmp_path, SOLEMATE__DATABASE__URL=database)
    async with (
        stub_server(NEVER_SECONDS) as slow,
        replica(0, tmp_path, settings | {"SOLEMATE__MODEL__BASE_URL": slow}) as first,
    ):
        await until_ready(first)
        async with client(first.address) as http:
            asking = asyncio.create_task(http.post("/chat", json=QUESTION))
            await until_asked(database)
            first.process.send_signal(signal.SIGINT)
            await until_closing(first)
            first.process.send_signal(signal.SIGINT)
            assert await first.process.wait() == 128 + signal.SIGINT
            with pytest.raises(httpx.TransportError):
                await asking
    assert "Traceback" not in first.log.read_text("utf-8")

    async with (
        stub_server(0.0) as quick,
        replica(1, tmp_path, settings | {"SOLEMATE__MODEL__BASE_URL": quick}) as second,
    ):
        await until_ready(second)
        async with client(second.address) as http:
            answer = (await http.post("/chat", json=QUESTION)).json()
        assert answer["message"]
    async with Store(database) as store:
        rows = await store.run(lambda connection: connection.execute(sa.select(turns)).all())
    assert [row.reply_id for row in rows] == [answer["message_id"]]
