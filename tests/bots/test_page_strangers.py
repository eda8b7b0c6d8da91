"""Whoever calls the page from elsewhere, sends too much or only holds sockets gets no answer.

The controls show that the same calls come through where the page trusts everybody, and that its own
visitors are answered meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp
import httpx
import pytest

from tests.bots.workers import process_of

QUESTION = "canvas?"
FOREIGN = "https://evil.example"
ELEVEN_MB = 11_000_000
_TAKEN = re.compile(r"^solemate_(?:answers_total\{.*\}|inbox_messages) (\S+)$", re.MULTILINE)
NIGHTLY = (pytest.mark.nightly, pytest.mark.timeout(1800))

pytestmark = pytest.mark.timeout(300)


@dataclass
class Site:
    """The page in a process of its own, and what it has taken in."""

    address: str

    @asynccontextmanager
    async def visited(self) -> AsyncIterator[httpx.AsyncClient]:
        """A browser that was shown the page and has its cookie."""
        async with self.stranger() as browser:
            page = await browser.get("/", headers={"accept": "text/html"})
            assert page.status_code == 200
            yield browser

    def stranger(self) -> httpx.AsyncClient:
        """A client that comes for the first time."""
        return httpx.AsyncClient(base_url=self.address, timeout=240)

    async def taken(self) -> int:
        """How many messages wait or are answered, whoever sent them."""
        async with self.stranger() as client:
            figures = (await client.get("/metrics")).text
        return sum(int(float(count)) for count in _TAKEN.findall(figures))

    async def answered(self, count: int) -> None:
        """Wait until nothing waits and so many have been taken."""
        while True:
            async with self.stranger() as client:
                figures = (await client.get("/metrics")).text
            if "solemate_inbox_messages 0.0" in figures and await self.taken() == count:
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def site(
    folder: Path, kind: Literal["solemate", "trusting"] = "solemate"
) -> AsyncIterator[Site]:
    async with process_of("page_worker", kind, str(folder), told=True) as process:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        assert re.fullmatch(r"http://[\d.:]+", line)
        yield Site(line)


_numbers = itertools.count()


async def post(
    client: httpx.AsyncClient, *, text: str = QUESTION, photo: bytes = b"", **headers: str
) -> int:
    """Send a message as the page does; the status."""
    number = next(_numbers)
    form = {"id": f"m{number}", "conversation": f"c{number}", "text": text}
    files = [("photos", ("shoe.png", photo))] if photo else [("", ("", b""))]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await client.post("/page/messages", data=form, files=files, headers=named)
    return response.status_code


async def call_from_elsewhere(site: Site, rounds: int) -> list[int]:
    """Post as pages of other sites, and with cookies of one's own making; the statuses."""
    found = []
    async with site.visited() as browser:
        cookie = browser.cookies["session"]
        forged = [
            "",
            cookie[:-1] + ("A" if cookie[-1] != "A" else "B"),
            cookie.partition(".")[0],
            base64.b64encode(b'{"id": "somebody", "visited": true}').decode() + ".aaaa.bbbb",
        ]
        for _ in range(rounds):
            for origin in (FOREIGN, "null", f"{site.address}.evil.example"):
                found.append(await post(browser, origin=origin))
                found.append(await post(browser, origin=origin, sec_fetch_site="cross-site"))
            found.append(await post(browser, origin=FOREIGN, sec_fetch_site="same-site"))
            for name in forged:
                async with site.stranger() as stranger:
                    found.append(await post(stranger, cookie=f"session={name}"))
            async with site.stranger() as stranger:
                found += [await post(stranger) for _ in range(2)]
    return found


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=NIGHTLY)])
async def test_whoever_calls_from_elsewhere_or_forges_a_cookie_gets_no_answer(
    tmp_path: Path, rounds: int
) -> None:
    async with site(tmp_path) as found:
        assert set(await call_from_elsewhere(found, rounds)) == {403}
        assert await found.taken() == 0


async def test_the_same_calls_come_through_where_everybody_is_trusted(tmp_path: Path) -> None:
    async with site(tmp_path, "trusting") as found:
        statuses = await call_from_elsewhere(found, 1)
        assert set(statuses) == {202}
        await found.answered(len(statuses))


async def test_our_own_page_is_listened_to_wherever_it_is_shown(tmp_path: Path) -> None:
    async with site(tmp_path) as found, found.visited() as browser:
        shown_at = "https://shoes.example"
        assert await post(browser, origin=found.address) == 202
        assert await post(browser, origin=shown_at, host="shoes.example") == 202
        assert await post(browser, origin=shown_at, sec_fetch_site="same-origin") == 202
        assert await post(browser) == 202
        await found.answered(4)


async def test_what_is_too_large_is_refused_at_every_door(tmp_path: Path) -> None:
    long, huge = "a" * ELEVEN_MB, b"\xff\xd8\xff" + b"a" * ELEVEN_MB
    image = base64.b64encode(huge).decode()
    turn = {"role": "user", "content": long}
    async with site(tmp_path) as found, found.visited() as browser:
        statuses = [
            await post(browser, text=long),
            await post(browser, photo=huge),
            (await browser.post("/chat", json={"message": long})).status_code,
            (await browser.post("/chat", json={"message": "", "image": image})).status_code,
            (
                await browser.post(
                    "/v1/chat/completions", json={"model": "solemate", "messages": [turn]}
                )
            ).status_code,
        ]
        assert [status // 100 for status in statuses] == [4] * len(statuses)
        assert await found.taken() == 0


@asynccontextmanager
async def socket_of(
    http: aiohttp.ClientSession, site: Site, number: int
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A socket of a page that nobody was shown; it has said all that such a page could say."""
    address = f"{site.address}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    headers = {"Origin": FOREIGN, "Cookie": "session=forged.aaaa.bbbb"}
    async with http.ws_connect(address, headers=headers) as line:
        client = f"00000000-0000-4000-8000-{number:012}"
        hello = {"client_id": client, "tab_id": "t", "document_id": "d"}
        asks = {"client_id": client, "id": 4, "listener_id": "l", "args": ["m", QUESTION]}
        assert (await line.receive_str()).startswith("0")
        await line.send_str("40")
        assert (await line.receive_str()).startswith("40")
        await line.send_str(f"420{json.dumps(['handshake', hello])}")
        assert await line.receive_str() == "430[false]"
        await line.send_str(f"42{json.dumps(['event', asks])}")
        yield line


@pytest.mark.parametrize("sockets", [50, pytest.param(1000, marks=NIGHTLY)])
async def test_sockets_without_a_page_get_no_answer_and_keep_nobody_from_theirs(
    tmp_path: Path, sockets: int
) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        site(tmp_path) as found,
        aiohttp.ClientSession(connector=connector) as http,
        AsyncExitStack() as lines,
    ):
        held = [
            await lines.enter_async_context(socket_of(http, found, number))
            for number in range(sockets)
        ]
        assert await found.taken() == 0
        async with found.visited() as browser:
            assert await post(browser, origin=found.address) == 202
        await found.answered(1)
        assert await found.taken() == 1
        assert not any(line.closed for line in held)
