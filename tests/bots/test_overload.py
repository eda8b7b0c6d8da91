"""More than can be answered: nothing grows without end, others do not wait, nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from bots.allowance import Allowance
from bots.web.desk import Desk
from core.errors import Busy, SolemateError
from core.messages import ChatMessage, Done, Event, Platform, UserMessage
from core.model import Piece, Sampling
from tests.bots.desks import ANSWER, PLENTY, open_desk
from tests.fakes import FakeChatModel

DEPTH, WIDTH = 20, 4
CONVERSATIONS = 40
ANSWER_SECONDS = 0.05
MOST_MORE_BYTES = 150_000_000


@dataclass
class Counting:
    """A platform that counts the answers of each conversation."""

    shown: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if isinstance(event, Done):
                self.shown[message.conversation_id] += 1

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        self.failed += 1


class Steady(FakeChatModel):
    """Takes its time over each answer."""

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        await asyncio.sleep(ANSWER_SECONDS)
        self.asked.clear()
        async for piece in super().stream(prompt, adapter, sampling):
            yield piece


@asynccontextmanager
async def answering(
    folder: Path, bot: Counting, allowance: Allowance = PLENTY
) -> AsyncIterator[Desk]:
    bots = {Platform.WEB: bot}
    model = Steady([ANSWER])
    async with (
        open_desk(folder, model, bots=bots, allowance=allowance, width=WIDTH, depth=DEPTH) as desk,
        desk.lanes.running(),
    ):
        yield desk


def question(name: str, number: int) -> UserMessage:
    return UserMessage(f"m{number}", Platform.WEB, name, f"w:{name}", "canvas?")


async def until_answered(desk: Desk) -> None:
    while True:
        if await desk.inbox.waiting() == (0, 0.0):
            return
        await asyncio.sleep(0.1)


async def overload(folder: Path, seconds: float) -> None:
    """Let more be sent than can be answered, as fast as it is taken or refused."""
    bot, taken, refused = Counting(), Counter[str](), Counter[str]()
    deepest = 0
    async with answering(folder, bot) as desk:
        until = asyncio.get_running_loop().time() + seconds
        before = psutil.Process().memory_info().rss

        async def send(name: str) -> None:
            nonlocal deepest
            number = 0
            # However slow the machine is, everybody is refused once: that is what is looked at.
            while asyncio.get_running_loop().time() < until or not refused[name]:
                number += 1
                try:
                    await desk.lanes.submit(question(name, number))
                    taken[name] += 1
                except Busy:
                    refused[name] += 1
                    # Ten times what can be answered, and no more: whoever asks needs the processor.
                    await asyncio.sleep(CONVERSATIONS * ANSWER_SECONDS / WIDTH / 10)
                deepest = max(deepest, (await desk.inbox.backlog())[0])

        async with asyncio.TaskGroup() as tasks:
            for number in range(CONVERSATIONS):
                tasks.create_task(send(f"c{number}"))
        grown = psutil.Process().memory_info().rss - before
        await until_answered(desk)
        assert await desk.lanes.behind() == 0
    assert min(refused.values()) > 0
    assert deepest <= CONVERSATIONS * DEPTH
    assert grown <= MOST_MORE_BYTES
    assert (bot.shown, bot.failed) == (taken, 0)


async def test_more_than_can_be_answered_is_refused_and_what_was_taken_is_answered(
    tmp_path: Path,
) -> None:
    await overload(tmp_path, seconds=3)


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_a_minute_of_ten_times_too_much_leaves_nothing_behind(tmp_path: Path) -> None:
    await overload(tmp_path, seconds=60)


async def crowd(folder: Path, people: int, attempts: int) -> None:
    """One person sends without end while many ask one question each."""
    bot = Counting()
    allowance = Allowance(messages_per_minute=20, photos_per_minute=6, messages_per_day=500)
    async with answering(folder, bot, allowance) as desk:

        async def attack() -> None:
            for number in range(attempts):
                with suppress(Busy):
                    await desk.lanes.submit(question("attacker", number))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(attack())
            for number in range(people):
                tasks.create_task(desk.lanes.submit(question(f"person-{number}", 1)))
        await until_answered(desk)
    of_attacker = bot.shown.pop("attacker")
    assert of_attacker <= allowance.messages_per_minute
    assert bot.shown == Counter(f"person-{number}" for number in range(people))


async def test_one_who_floods_gets_twenty_answers_and_everybody_else_theirs(tmp_path: Path) -> None:
    await crowd(tmp_path, people=60, attempts=300)


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_a_thousand_people_are_answered_beside_one_who_floods(tmp_path: Path) -> None:
    await crowd(tmp_path, people=1000, attempts=5000)
