"""A stub of a model server that takes its time: it recites as slowly as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bench.loopback import served
from bench.reciter import recited

# Servers send several tokens at once when they are busy; so many events make an answer here.
EVENTS = 10


@asynccontextmanager
async def stub_server(seconds: float) -> AsyncIterator[str]:
    """The base URL of a server whose every answer takes so long, whatever else it is doing."""

    async def chat(request: Request) -> Response:
        asked = await request.json()
        tokens = recited(asked["messages"][-1]["content"])
        events = _events(asked["model"], tokens, seconds)
        return StreamingResponse(events, media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    async with served(app) as address:
        yield f"{address}/v1"


async def _events(model: str, tokens: list[str], seconds: float) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number in range(1, EVENTS + 1):
        await asyncio.sleep(started + seconds * number / EVENTS - loop.time())
        first, last = (len(tokens) * at // EVENTS for at in (number - 1, number))
        choice = {
            "index": 0,
            "delta": {"content": "".join(tokens[first:last])},
            "finish_reason": "stop" if number == EVENTS else None,
        }
        chunk = {"id": "stub", "created": 0, "object": "chat.completion.chunk", "model": model}
        yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"
