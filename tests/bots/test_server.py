"""The web server: who calls through a trusted proxy has limits of their own, and nobody else."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from bots.allowance import Allowance
from bots.web.api import ApiOptions, create_api
from bots.web.server import web_server
from tests.bots.desks import running_desk

PROXY = "10.1.2.3"
QUESTION = {"message": "canvas?"}
# What somebody has written in front of the proxy's word does not count.
CALLERS = ("198.51.100.1", "192.0.2.9, 198.51.100.1", "198.51.100.2", "198.51.100.2")


@pytest.mark.parametrize(
    ("peer", "answers"),
    [(PROXY, [200, 429, 200, 429]), ("203.0.113.9", [200, 429, 429, 429])],
    ids=["through the proxy", "past the proxy"],
)
async def test_only_a_trusted_proxy_may_say_who_calls(
    tmp_path: Path, peer: str, answers: list[int]
) -> None:
    allowance = Allowance(messages_per_minute=1, photos_per_minute=1, messages_per_day=9)
    options = ApiOptions(model_name="solemate", max_tokens=200, public_url="http://shoes.example")
    async with running_desk(tmp_path, allowance=allowance) as desk:
        app = create_api(desk, parts={}, options=options)
        config = web_server(app, trusted_proxies=["10.1.0.0/16"]).config
        config.load()
        wire = httpx.ASGITransport(config.loaded_app, client=(peer, 1))
        async with httpx.AsyncClient(transport=wire, base_url="http://shoes.example") as http:
            found = [
                await http.post("/chat", json=QUESTION, headers={"x-forwarded-for": caller})
                for caller in CALLERS
            ]
    assert [one.status_code for one in found] == answers
