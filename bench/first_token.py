"""The first text on the screen: through the engine and the API, against a bare call to the server.

Every question is asked each way, one after the other, in an order that turns around from question
to question; a ratio is the median over the questions, so that a machine that is busy for a while
is busy for all.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from bench.direct import DirectClient
from bench.expert import Expert, message
from bench.figures import Figure, Goal, median
from bench.loopback import served
from bench.model_server import embedded_server
from bench.prompts import Prompt, asked_prompts
from bots.allowance import Allowance, Limits
from bots.feeds import Feeds
from bots.lanes import Lanes
from bots.web.api import ApiOptions, create_api
from bots.web.desk import Desk
from core.engine import Engine
from core.inbox import Inbox
from core.messages import Delta, Platform, Replaced
from core.openai_model import OpenAIChatModel
from core.opening import photo_limits
from core.store import Store

PART = "first token"
# Enough to see the first text; the rest would only keep the server busy.
_MAX_TOKENS = 12
_PLENTY = Allowance(messages_per_minute=10**6, photos_per_minute=10**6, messages_per_day=10**6)

Way = Callable[[str, Prompt], Awaitable[float]]
"""Asks a question (or sends its prompt) and gives the seconds to the first text."""


async def measure(expert: Expert) -> list[Figure]:
    """The ratios through us / direct."""
    async with AsyncExitStack() as stack:
        ways = await _ways(expert, stack)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for place, (question, prompt) in enumerate(
            await asked_prompts(expert, 1 + expert.effort.pairs)
        ):
            for name in list(ways)[:: -1 if place % 2 else 1]:
                taken[name].append(await ways[name](question, prompt))
    # The first question warms everything up.
    direct, engine, api = (taken[name][1:] for name in ("direct", "engine", "api"))
    return [
        Figure(PART, "direct, p50", 1000 * median(direct), "ms"),
        Figure(PART, "through the engine / direct", _ratio(engine, direct), "×", Goal(1.1)),
        Figure(PART, "through POST /chat/stream / direct", _ratio(api, direct), "×", Goal(1.1)),
        Figure(PART, "the engine's own share", 1000 * _more(engine, direct), "ms"),
        Figure(PART, "the API's own share", 1000 * _more(api, direct), "ms"),
    ]


async def _ways(expert: Expert, stack: AsyncExitStack) -> dict[str, Way]:
    """The three ways to ask one and the same server."""
    settings = expert.settings
    base_url = await stack.enter_async_context(embedded_server(expert))
    client = DirectClient(base_url, settings.model.base_model)
    await stack.enter_async_context(client.openai)
    model = OpenAIChatModel(
        base_url,
        "",
        base_model=settings.model.base_model,
        first_token_seconds=60.0,
        deadline_seconds=120.0,
    )
    await stack.enter_async_context(model)
    store = await stack.enter_async_context(expert.store())
    engine = expert.engine(store, model)
    address = await stack.enter_async_context(_api(expert, store, engine))
    http = await stack.enter_async_context(httpx.AsyncClient(base_url=address, timeout=120))

    async def direct(_question: str, prompt: Prompt) -> float:
        return (await client.ask(prompt, _MAX_TOKENS)).first_seconds

    async def through_engine(question: str, _prompt: Prompt) -> float:
        return await _through_engine(engine, question)

    async def through_api(question: str, _prompt: Prompt) -> float:
        return await _through_api(http, question)

    return {"direct": direct, "engine": through_engine, "api": through_api}


async def _through_engine(engine: Engine, question: str) -> float:
    seconds = 0.0
    started = time.perf_counter()
    async for event in engine.answer(message(question, max_tokens=_MAX_TOKENS)):
        if not seconds and isinstance(event, (Delta, Replaced)):
            seconds = time.perf_counter() - started
    return seconds


async def _through_api(http: httpx.AsyncClient, question: str) -> float:
    seconds = 0.0
    body = {"message": question, "max_tokens": _MAX_TOKENS}
    started = time.perf_counter()
    async with http.stream("POST", "/chat/stream", json=body) as response:
        async for line in response.aiter_lines():
            event = line.removeprefix("data: ")
            if not seconds and event.startswith("{") and _shows_text(json.loads(event)):
                seconds = time.perf_counter() - started
    return seconds


def _shows_text(event: dict[str, object]) -> bool:
    return "content" in event or "replace" in event


@asynccontextmanager
async def _api(expert: Expert, store: Store, engine: Engine) -> AsyncIterator[str]:
    """The address of the HTTP API on this engine."""
    settings = expert.settings
    inbox = Inbox(store, owner="bench", depth=settings.limits.lane_depth)
    feeds = Feeds()
    lanes = Lanes(
        inbox=inbox,
        store=store,
        engine=engine,
        bots={Platform.API: feeds},
        limits=Limits(_PLENTY),
        width=settings.limits.lanes,
    )
    desk = Desk(store, inbox, engine, lanes, feeds, photo_limits(settings))
    options = ApiOptions(
        model_name=settings.model.base_model,
        max_tokens=settings.model.max_tokens,
        public_url="http://127.0.0.1",
    )
    async with lanes.running(), served(create_api(desk, parts={}, options=options)) as address:
        yield address


def _ratio(through: list[float], direct: list[float]) -> float:
    return median([ours / theirs for ours, theirs in zip(through, direct, strict=True)])


def _more(through: list[float], direct: list[float]) -> float:
    return median([ours - theirs for ours, theirs in zip(through, direct, strict=True)])
