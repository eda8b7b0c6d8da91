"""A crowd on all channels: each person asks one question at a set moment and reads the answer.

Seconds count from the moment the question was due, not from when it could be sent: a bench that
waits for what it measures would hide the queue.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import aiohttp

from bench.channels import PROCESSOR_PATH, Platforms
from tests.bots.slack_fake import FakeSlack
from tests.bots.slack_fake import Shown as SlackShown
from tests.bots.telegram_fake import FakeTelegram
from tests.bots.telegram_fake import Shown as TelegramShown

Channel = Literal["telegram", "slack", "web"]

_LOOK_SECONDS = 0.01
_SECOND_ANSWER_SECONDS = 0.5
_FIRST_PERSON = 1_000


@dataclass(slots=True)
class Person:
    """Somebody with one question; `answered` says when each answer to it was whole.

    `taken_seconds` is how long the platform waited until it was told that the question is taken.
    """

    number: int
    channel: Channel
    question: str
    due: float = 0.0
    taken_seconds: float | None = None
    answered: list[float] = field(default_factory=list)
    whole: asyncio.Event = field(default_factory=asyncio.Event)

    def reads(self) -> None:
        """An answer is whole."""
        self.answered.append(time.perf_counter())
        self.whole.set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the questions; `taken_seconds` holds those that Slack waited."""

    seconds: list[float]
    taken_seconds: list[float]
    lost: int
    twice: int


class Crowd:
    """People, and the platforms that they use."""

    def __init__(self, telegram: FakeTelegram, slack: FakeSlack) -> None:
        self._telegram = telegram
        self._slack = slack
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._numbers = iter(range(_FIRST_PERSON, 10**6))

    @property
    def platforms(self) -> Platforms:
        """Where bots find the platforms."""
        return Platforms(self._telegram.address, self._slack.base_url)

    async def close(self) -> None:
        """Leave the web."""
        await self._http.close()

    def people(self, questions: Sequence[str], channels: Sequence[Channel]) -> list[Person]:
        """A person for each question, on these channels by turns."""
        return [
            Person(next(self._numbers), channels[place % len(channels)], question)
            for place, question in enumerate(questions)
        ]

    async def processor_seconds(self, address: str) -> float:
        """How long the bot at this address has been on the processor."""
        async with self._http.get(f"{address}{PROCESSOR_PATH}") as response:
            return float(await response.text())

    async def ask(
        self,
        people: Sequence[Person],
        address: str,
        *,
        rate: float,
        patience_seconds: float,
        rated: bool = True,
    ) -> Outcome:
        """All ask, `rate` a second, and wait for their answers, at most so long after the last.

        Answers come with thumbs where they are `rated`.
        """
        looking = asyncio.create_task(self._look(people, rated))
        start = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as tasks:
                for place, person in enumerate(people):
                    person.due = start + place / rate
                    await asyncio.sleep(person.due - time.perf_counter())
                    tasks.create_task(self._say(person, address, patience_seconds))
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_seconds):
                    for person in people:
                        await person.whole.wait()
            # A second answer may be on its way.
            await asyncio.sleep(_SECOND_ANSWER_SECONDS)
        finally:
            looking.cancel()
            await asyncio.wait({looking})
        return Outcome(
            [one.answered[0] - one.due for one in people if one.answered],
            [one.taken_seconds for one in people if one.taken_seconds is not None],
            lost=sum(not one.answered for one in people),
            twice=sum(len(one.answered) > 1 for one in people),
        )

    async def _say(self, person: Person, address: str, patience_seconds: float) -> None:
        if person.channel == "telegram":
            await self._telegram.says(person.question, chat=person.number, user=person.number)
        elif person.channel == "slack":
            await self._say_in_slack(person, patience_seconds)
        else:
            # Whoever has waited so long in vain is counted as lost.
            with suppress(TimeoutError, aiohttp.ClientError):
                async with asyncio.timeout(patience_seconds):
                    await self._say_on_the_web(person, address)

    async def _say_in_slack(self, person: Person, patience_seconds: float) -> None:
        user, channel = f"U{person.number}", f"D{person.number}"
        body = self._slack.message(person.question, channel=channel, user=user)
        envelope = await self._slack.send(body)
        sent = time.perf_counter()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                await self._slack.acknowledged(envelope)
                person.taken_seconds = time.perf_counter() - sent

    async def _say_on_the_web(self, person: Person, address: str) -> None:
        body = {"message": person.question}
        async with self._http.post(f"{address}/chat/stream", json=body) as response:
            async for line in response.content:
                event = line.decode().removeprefix("data: ").strip()
                if event.startswith("{") and "message_id" in json.loads(event):
                    person.reads()

    async def _look(self, people: Iterable[Person], rated: bool) -> None:
        """Note again and again which messages on Telegram and Slack have become whole answers."""
        who = {str(one.number): one for one in people}
        places = {"telegram": len(self._telegram.shown), "slack": len(self._slack.shown)}
        growing: list[TelegramShown | SlackShown] = []
        while True:
            growing += self._telegram.shown[places["telegram"] :]
            growing += self._slack.shown[places["slack"] :]
            places = {"telegram": len(self._telegram.shown), "slack": len(self._slack.shown)}
            for shown in [one for one in growing if _is_whole(one, rated)]:
                growing.remove(shown)
                if person := who.get(_reader(shown)):
                    person.reads()
            await asyncio.sleep(_LOOK_SECONDS)


def _is_whole(shown: TelegramShown | SlackShown, rated: bool) -> bool:
    """Whether an answer has its thumbs; one that gets none is whole as it comes."""
    if isinstance(shown, SlackShown) and shown.streaming:
        return False
    return bool(shown.data) or not rated


def _reader(shown: TelegramShown | SlackShown) -> str:
    if isinstance(shown, SlackShown):
        return shown.channel.removeprefix("D")
    return str(shown.chat_id)


@asynccontextmanager
async def crowd() -> AsyncIterator[Crowd]:
    """A crowd with a Telegram and a Slack of its own, made anew for each bot."""
    slack = FakeSlack()
    async with FakeTelegram().serving() as telegram, slack.serving():
        slack.patience_seconds = 60.0
        people = Crowd(telegram, slack)
        try:
            yield people
        finally:
            await people.close()
