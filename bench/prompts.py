"""The prompts that the engine sends for questions, found by letting it ask a reciter."""

from __future__ import annotations

from bench.expert import Expert, message
from bench.own_time import final_reply
from bench.reciter import Reciter
from core.messages import ChatMessage, Outcome

Prompt = tuple[ChatMessage, ...]


async def asked_prompts(expert: Expert, number: int) -> list[tuple[str, Prompt]]:
    """Questions, and one prompt for each: what a direct call has to send to be the same call."""
    pairs = []
    async with expert.store() as store:
        reciter = Reciter()
        engine = expert.engine(store, reciter)
        for question in expert.some_questions(number):
            reply = await final_reply(engine, message(question))
            if reply.outcome is Outcome.ANSWERED:
                pairs.append((question, reciter.prompt))
    return pairs
