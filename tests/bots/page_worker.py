"""A process with the web page and the API on a port of its own, until it is killed.

`page_worker.py solemate FOLDER` stores in the folder, answers, and prints its address.
`page_worker.py trusting FOLDER` takes every message for one of its own page, for controls.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.requests import Request

from bots.web import chat_routes
from bots.web.api import ApiOptions, create_api
from bots.web.chat import mount_chat
from bots.web.http import own_origins
from bots.web.server import web_server
from core.logs import configure_logs
from tests.bots.desks import running_desk


async def serve(folder: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with running_desk(folder) as desk:
        options = ApiOptions(model_name="solemate", max_tokens=200, public_url=address)
        app = create_api(desk, parts={}, options=options)
        mount_chat(app, desk, storage_secret="for tests", origins=own_origins(address))
        server: uvicorn.Server = web_server(app, trusted_proxies=[])
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        await server.serve(sockets=[listening])


def trust(_request: Request, _origins: frozenset[str]) -> None:
    """Refuse nobody."""


if __name__ == "__main__":
    kind, state = sys.argv[1], Path(sys.argv[2])
    configure_logs("error", state / "worker.log")
    if kind == "trusting":
        chat_routes._check_sender = trust
    asyncio.run(serve(state))
