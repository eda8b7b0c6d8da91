"""vLLM through the engine and the door before it, against vLLM alone; nothing without a vLLM.

Alone means the `openai` package and vLLM's own port, with the prompts that the engine would send.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from bench.direct import DirectClient
from bench.expert import Expert, message
from bench.figures import Figure, median
from bench.loopback import HOST
from bench.prompts import Prompt, asked_prompts
from core.errors import ConfigError
from core.messages import ChatMessage, Delta, Replaced
from core.model import Piece, Sampling
from core.openai_model import OpenAIChatModel
from core.store import Store
from training.servers import vllm
from training.servers.engines import VLLM_PYTHON
from training.servers.proxy import Keys, door

PART = "vLLM"
_KEY = "bench"
_MAX_TOKENS = 24
_QUESTIONS = 3
"""What each conversation asks, one question after the other."""


class Way(Protocol):
    """A way to ask; `pieces` counts what the model has written in all."""

    pieces: int

    async def ask(self, question: str, prompt: Prompt) -> float:
        """Ask one question to its end; the seconds to its first text."""
        ...


class Alone:
    """The `openai` package and nothing else."""

    def __init__(self, client: DirectClient) -> None:
        self._client = client
        self.pieces = 0

    async def ask(self, _question: str, prompt: Prompt) -> float:
        answer = await self._client.ask(prompt, _MAX_TOKENS)
        self.pieces += answer.pieces
        return answer.first_seconds


class Through:
    """The engine, from the question to the reply in the store; it is its model's listener too."""

    def __init__(self, expert: Expert, store: Store, model: OpenAIChatModel) -> None:
        self._model = model
        self._engine = expert.engine(store, self)
        self.pieces = 0

    async def ask(self, question: str, _prompt: Prompt) -> float:
        started, first = time.perf_counter(), 0.0
        async for event in self._engine.answer(message(question, max_tokens=_MAX_TOKENS)):
            if not first and isinstance(event, (Delta, Replaced)):
                first = time.perf_counter() - started
        return first

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """What the model says."""
        async with aclosing(self._model.stream(prompt, adapter, sampling)) as pieces:
            async for piece in pieces:
                self.pieces += bool(piece.text)
                yield piece


async def measure(expert: Expert) -> list[Figure]:
    """First token and pace, both ways, for each number of conversations."""
    if not expert.effort.talks:
        return []
    try:
        found = await vllm.find_vllm(VLLM_PYTHON)
    except ConfigError:
        return []
    settings = expert.settings.model
    options = vllm.VllmOptions(
        str(expert.model), settings.base_model, settings.context_tokens, max_rank=16
    )
    at = vllm.upstream()
    most = max(expert.effort.talks) * _QUESTIONS
    asked = await asked_prompts(expert, most)
    async with (
        vllm.started(found, options, at, expert.folder / "vllm.log"),
        door(at, Keys(_KEY), HOST, 0) as url,
        OpenAIChatModel(
            url,
            _KEY,
            base_model=settings.base_model,
            first_token_seconds=120.0,
            deadline_seconds=300.0,
        ) as model,
        expert.store() as store,
    ):
        direct = DirectClient(f"{at.url}/v1", settings.base_model, at.key)
        async with direct.openai:
            ways: tuple[Way, Way] = (Alone(direct), Through(expert, store, model))
            figures: list[Figure] = []
            for way in ways:
                await _talks(way, asked, 1)
            for talks in expert.effort.talks:
                alone, ours = [await _talks(way, asked, talks) for way in ways]
                figures += _figures(talks, alone, ours)
    return figures


@dataclass(frozen=True, slots=True)
class Talked:
    """The median time to a first token, and tokens a second over all conversations."""

    first_seconds: float
    pace: float


async def _talks(way: Way, asked: Sequence[tuple[str, Prompt]], talks: int) -> Talked:
    """Hold so many conversations at once."""

    async def talk(number: int) -> list[float]:
        places = range(number * _QUESTIONS, (number + 1) * _QUESTIONS)
        return [await way.ask(*asked[place % len(asked)]) for place in places]

    before, began = way.pieces, time.perf_counter()
    first = [one for part in await asyncio.gather(*map(talk, range(talks))) for one in part]
    seconds = time.perf_counter() - began
    return Talked(median(first), (way.pieces - before) / seconds)


def _figures(talks: int, alone: Talked, ours: Talked) -> list[Figure]:
    who = f"{talks} conversation{'s' if talks > 1 else ''}"
    return [
        Figure(PART, f"{who}: first token alone, p50", 1000 * alone.first_seconds, "ms"),
        Figure(PART, f"{who}: through us / alone", ours.first_seconds / alone.first_seconds, "×"),
        Figure(PART, f"{who}: pace alone", alone.pace, "tokens/s"),
        Figure(PART, f"{who}: pace through us / alone", ours.pace / alone.pace, "×"),
    ]
