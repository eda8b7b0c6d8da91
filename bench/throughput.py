"""Answers a second: many conversations at once, through inbox, lanes, engine and store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

from bench.expert import Expert, message
from bench.figures import Figure, percentile
from bench.loopback import in_child
from bench.stub_server import stub_server
from bots.allowance import Allowance, Limits
from bots.lanes import Lanes
from core.errors import SolemateError
from core.inbox import Inbox
from core.messages import Done, Event, Platform, Reply, UserMessage
from core.openai_model import OpenAIChatModel

PART = "many conversations"
MODEL_SECONDS = 0.5
_PLENTY = Allowance(messages_per_minute=10**6, photos_per_minute=10**6, messages_per_day=10**6)


class Mailbox:
    """A platform that keeps each reply until it is fetched."""

    def __init__(self) -> None:
        self._replies: dict[str, asyncio.Future[Reply]] = {}

    def expect(self, message_id: str) -> asyncio.Future[Reply]:
        """The reply to a message, once it is there."""
        return self._replies.setdefault(message_id, asyncio.get_running_loop().create_future())

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if isinstance(event, Done):
                self.expect(message.id).set_result(event.reply)

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        self.expect(message.id).set_exception(error or SolemateError("There is no answer."))


async def measure(expert: Expert) -> list[Figure]:
    """Answers a second and what they are of the most that the stub could give."""
    effort = expert.effort
    async with (
        in_child(partial(stub_server, MODEL_SECONDS)) as base_url,
        OpenAIChatModel(
            base_url,
            "",
            base_model=expert.settings.model.base_model,
            first_token_seconds=30.0,
            deadline_seconds=60.0,
        ) as model,
        expert.store() as store,
    ):
        mailbox = Mailbox()
        lanes = Lanes(
            inbox=Inbox(store, owner="bench", depth=effort.rounds),
            store=store,
            engine=expert.engine(store, model),
            bots={Platform.API: mailbox},
            limits=Limits(_PLENTY),
            width=effort.conversations,
        )
        async with lanes.running():
            await _converse(expert, lanes, mailbox, rounds=1)
            started = time.perf_counter()
            seconds = await _converse(expert, lanes, mailbox, rounds=effort.rounds)
            whole = time.perf_counter() - started
    rate, ideal = len(seconds) / whole, effort.conversations / MODEL_SECONDS
    return [
        Figure(PART, f"answers, {effort.conversations} conversations", rate, "/s"),
        Figure(PART, "answers / the most the stub can give", rate / ideal, "×"),
        Figure(PART, "an answer, p95", 1000 * percentile(seconds, 0.95), "ms"),
    ]


async def _converse(expert: Expert, lanes: Lanes, mailbox: Mailbox, rounds: int) -> list[float]:
    """Hold all conversations at once; the seconds that each question waited for its answer."""
    seconds: list[float] = []

    async def conversation(number: int) -> None:
        for turn in range(rounds):
            place = number * rounds + turn
            question = message(questions[place % len(questions)], f"{rounds}-talk-{number}")
            reply = mailbox.expect(question.id)
            asked = time.perf_counter()
            await lanes.submit(question)
            await reply
            seconds.append(time.perf_counter() - asked)

    conversations = expert.effort.conversations
    questions = expert.some_questions(conversations * rounds)
    async with asyncio.TaskGroup() as tasks:
        for number in range(conversations):
            tasks.create_task(conversation(number))
    return seconds
