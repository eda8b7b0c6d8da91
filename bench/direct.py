"""The model server asked without us: the `openai` package and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import openai
from openai.types.chat import ChatCompletionMessageParam

from core.messages import ChatMessage


@dataclass(frozen=True, slots=True)
class DirectAnswer:
    """Seconds to the first text and from there to the end, and how many tokens there were.

    `pieces` are the chunks with text in them.
    """

    first_seconds: float
    rest_seconds: float
    tokens: int
    pieces: int = 0


class DirectClient:
    """Asks one server for one model; close it with `async with client.openai`."""

    def __init__(self, base_url: str, model: str, api_key: str = "none") -> None:
        self.openai = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0)
        self._model = model

    async def ask(self, prompt: Sequence[ChatMessage], max_tokens: int) -> DirectAnswer:
        """Stream one answer to its end."""
        messages = [cast(ChatCompletionMessageParam, asdict(one)) for one in prompt]
        tokens = pieces = 0
        started = time.perf_counter()
        first = 0.0
        async with await self.openai.chat.completions.create(
            model=self._model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=max_tokens,
            temperature=0.0,
        ) as chunks:
            async for chunk in chunks:
                if chunk.choices and chunk.choices[0].delta.content:
                    first = first or time.perf_counter()
                    pieces += 1
                if chunk.usage:
                    tokens = chunk.usage.completion_tokens
        ended = time.perf_counter()
        # A model that has not been trained may say nothing at all.
        first = first or ended
        return DirectAnswer(first - started, ended - first, tokens, pieces)
