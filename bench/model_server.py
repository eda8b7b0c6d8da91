"""The embedded server by itself: its first token and its pace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from transformers.utils.logging import disable_progress_bar

from bench.direct import DirectAnswer, DirectClient
from bench.expert import Expert
from bench.figures import Figure, Goal, median
from bench.loopback import HOST, in_child
from bench.prompts import asked_prompts
from training.servers.embedded import ServerOptions, running

PART = "embedded server"
_MAX_TOKENS = 32


@asynccontextmanager
async def embedded_server(expert: Expert) -> AsyncIterator[str]:
    """The base URL of the server with the expert's model, in a child process."""
    options = ServerOptions(
        model=expert.model,
        served_name=expert.settings.model.base_model,
        host=HOST,
        port=0,
    )
    async with in_child(partial(_quietly_running, options)) as base_url:
        yield base_url


@asynccontextmanager
async def _quietly_running(options: ServerOptions) -> AsyncIterator[str]:
    disable_progress_bar()
    async with running(options) as base_url:
        yield base_url


async def measure(expert: Expert) -> list[Figure]:
    """The median time to the first token, and tokens a second after it."""
    asked = await asked_prompts(expert, 1 + expert.effort.pairs)
    async with embedded_server(expert) as base_url:
        client = DirectClient(base_url, expert.settings.model.base_model)
        async with client.openai:
            # The first question warms the server up.
            _, *answers = [await client.ask(prompt, _MAX_TOKENS) for _, prompt in asked]
    first_seconds = median([one.first_seconds for one in answers])
    return [
        Figure(PART, "first token, p50", 1000 * first_seconds, "ms", Goal(150)),
        Figure(PART, "pace", _pace(answers), "tokens/s", Goal(60, at_least=True)),
    ]


def _pace(answers: Sequence[DirectAnswer]) -> float:
    """Tokens a second after the first one, over all answers."""
    tokens = sum(max(0, one.tokens - 1) for one in answers)
    return max(1, tokens) / sum(one.rest_seconds for one in answers)
