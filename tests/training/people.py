"""People who ask a model server, and remember which adapter answered."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from core.messages import ChatMessage
from core.model import Sampling
from core.openai_model import OpenAIChatModel
from core.registry import Registry

PROMPT = (ChatMessage("user", "拖鞋？"),)


class People:
    """They ask one question after the other, and remember who answered."""

    def __init__(self, registry: Registry, model: OpenAIChatModel) -> None:
        self.registry = registry
        self.model = model
        self.answered: list[str] = []

    async def ask(self, person: str, tokens: int, begun: asyncio.Event | None = None) -> str:
        """The adapter that answered; raises where the answer failed."""
        name = await self.registry.choose(person)
        sampling, pieces = Sampling(max_tokens=tokens, temperature=1.0, seed=1), 0
        async with aclosing(self.model.stream(PROMPT, name, sampling)) as stream:
            async for _ in stream:
                pieces += 1
                if begun is not None:
                    begun.set()
        assert pieces
        self.answered.append(name)
        return name

    async def ask_until(self, person: str, name: str) -> None:
        """Ask again and again, until this adapter answers."""
        while await self.ask(person, tokens=4) != name:
            pass
