"""Kills, stops and lost sockets: every message in Slack is answered, and as a rule once.

The controls show that a stop in order loses messages where the library acknowledges by itself,
and that it fails on headers which are nobody's signature.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from slack_sdk.signature import SignatureVerifier

from bots.slack.front import Intake
from bots.slack.home import Privacy
from bots.slack.place import place_from
from core.store import Store
from core.tables import inbox
from tests.bots.slack_fake import SECRET, FakeSlack, Json
from tests.bots.slack_world import World, opened, running
from tests.bots.workers import worker
from tests.hole import line_to

# As many are answered at once by the world's lanes.
WIDTH = 4
# What a flood is, and how often one of its messages may be answered twice for thirty kills.
A_SECOND = 100
MOST_DUPLICATES = 100
# Why Slack has a socket renewed.
REASONS = ("warning", "refresh_requested", "too_many_websockets")


def answered(fake: FakeSlack) -> set[str]:
    """The channels with a finished answer."""
    return {one.channel for one in fake.shown if any(d.startswith("up:") for d in one.data)}


def _has(fake: FakeSlack, count: int) -> bool:
    return len(answered(fake)) >= count


@dataclass
class Flood:
    """Messages that come so many a second, each again and again until it is acknowledged."""

    fake: FakeSlack
    acknowledged: set[str] = field(default_factory=set)

    async def pour(self, bodies: list[Json]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for body in bodies:
                tasks.create_task(self._deliver(body))
                await asyncio.sleep(1 / A_SECOND)

    async def _deliver(self, body: Json) -> None:
        await self.fake.send_until_acknowledged(body)
        self.acknowledged.add(body["event"]["channel"])


async def stored(folder: Path) -> set[str]:
    """The channels whose message is in the inbox, whatever has become of it."""
    query = sa.select(inbox.c.conversation_id).where(inbox.c.conversation_id.contains(":DU"))
    async with Store(f"sqlite:///{folder / 'solemate.db'}") as store:
        found = await store.run(lambda connection: connection.execute(query).scalars().all())
    return {place_from(conversation).channel for conversation in found}


async def lose_and_find(folder: Path, messages: int, kills: list[int]) -> None:
    """Kill the bot in a flood, again and again: all it acknowledged was committed by then."""
    async with FakeSlack().serving() as fake:
        # A new process may take its time on a busy machine.
        fake.patience_seconds = 250
        flood = Flood(fake)
        async with asyncio.TaskGroup() as tasks:
            pouring = tasks.create_task(flood.pour(questions(fake, messages)))
            for count in kills:
                async with worker("slack", "solemate", folder, fake.address):
                    await fake.until(partial(_has, fake, count))
                assert flood.acknowledged <= await stored(folder)
            async with worker("slack", "solemate", folder, fake.address):
                await pouring
                await fake.until(partial(_has, fake, messages))
        assert len(flood.acknowledged & await stored(folder)) == messages
        assert len(fake.shown) <= messages + min(WIDTH * len(kills), MOST_DUPLICATES)


@pytest.mark.timeout(900)
async def test_two_kills_lose_no_message(tmp_path: Path) -> None:
    await lose_and_find(tmp_path, 30, [5, 15])


@pytest.mark.nightly
@pytest.mark.timeout(3600)
async def test_thirty_kills_lose_no_message(tmp_path: Path) -> None:
    await lose_and_find(tmp_path, 2000, list(range(60, 1860, 60)))


def questions(fake: FakeSlack, count: int) -> list[Json]:
    """Questions, each of another person alone with the bot."""
    return [
        fake.message("How do I wash canvas shoes?", user=f"U{n}", channel=f"DU{n}")
        for n in range(count)
    ]


async def stop_and_go_on(folder: Path, messages: int, stops: int) -> None:
    """Stop the bot in order while it answers, again and again; nothing is lost or said twice."""
    async with FakeSlack().serving() as fake:
        fake.patience_seconds = 250
        bodies = questions(fake, messages)
        shares = [bodies[start::stops] for start in range(stops)]
        for share in shares:
            async with worker("slack", "solemate", folder, fake.address) as process:
                before = len(answered(fake))
                for body in share:
                    await fake.send(body)
                await fake.all_acknowledged()
                await fake.until(partial(_has, fake, before + 1))
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        async with worker("slack", "solemate", folder, fake.address):
            await fake.until(partial(_has, fake, messages))
        assert len(fake.shown) == messages


@pytest.mark.timeout(900)
async def test_a_stop_in_order_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    await stop_and_go_on(tmp_path, 24, stops=1)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
async def test_stops_in_a_flood_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    await stop_and_go_on(tmp_path, 300, stops=3)


@pytest.mark.timeout(900)
async def test_the_same_stop_loses_messages_where_the_library_acknowledges(tmp_path: Path) -> None:
    async with FakeSlack().serving() as fake:
        fake.patience_seconds = 250
        async with worker("slack", "library", tmp_path, fake.address) as process:
            for body in questions(fake, 24):
                await fake.send(body)
            await fake.all_acknowledged()
            process.send_signal(signal.SIGTERM)
            await process.wait()
        assert len(fake.shown) < 24


async def churn(folder: Path, messages: int, every: int) -> None:
    """Break the socket off, or have Slack renew it, after every few messages."""
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201
    async with FakeSlack().serving() as fake, opened(folder, fake) as world, running(world):
        fake.patience_seconds = 250
        for number, body in enumerate(questions(fake, messages)):
            if number % every == 0:
                await fake.until(lambda: any(not one.closed for one in fake.sockets))
                if dice.random() < 0.5:
                    await fake.disconnect(dice.choice(REASONS))
                else:
                    await fake.drop_sockets()
            await fake.send_until_acknowledged(body)
        await fake.until(partial(_has, fake, messages))
        assert len(fake.shown) == messages
    assert len(fake.sockets) > messages // every


async def test_sockets_that_come_and_go_lose_no_message(tmp_path: Path) -> None:
    await churn(tmp_path, 12, every=4)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
async def test_sockets_that_come_and_go_for_long_lose_no_message(tmp_path: Path) -> None:
    await churn(tmp_path, 2000, every=20)


async def swallow(folder: Path, messages: int, seconds: float) -> None:
    """Swallow everything in both directions so long, and until that is noticed, in mid-talk."""
    async with FakeSlack().serving() as fake, line_to(fake.address) as line:
        fake.address = line.address
        fake.patience_seconds = 250
        async with opened(folder, fake) as world, running(world):
            bodies = questions(fake, messages)
            await fake.until(lambda: bool(fake.sockets))
            for body in bodies[: messages // 2]:
                await fake.send_until_acknowledged(body)
            line.sound.clear()
            for body in bodies[messages // 2 :]:
                await fake.send(body)
            await until_noticed(world, seconds)
            line.sound.set()
            for body in bodies[messages // 2 :]:
                await fake.until(lambda: any(not one.closed for one in fake.sockets))
                await fake.send_until_acknowledged(body)
            await fake.until(partial(_has, fake, messages))
        assert len(fake.shown) == messages


async def until_noticed(world: World, seconds: float) -> None:
    began = asyncio.get_running_loop().time()
    while True:
        lasted = asyncio.get_running_loop().time() - began
        if world.intake.status.complaint and lasted >= seconds:
            return
        await asyncio.sleep(0.1)


async def test_a_line_that_swallows_everything_is_noticed_and_costs_no_message(
    tmp_path: Path,
) -> None:
    await swallow(tmp_path, 8, seconds=0)


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_a_line_that_is_dead_for_half_a_minute_costs_no_message(tmp_path: Path) -> None:
    await swallow(tmp_path, 60, seconds=30)


async def deliver_thrice(folder: Path, messages: int) -> None:
    """Hand every event over three times in any order, as both of its kinds, before and after."""
    async with FakeSlack().serving() as fake:
        fake.patience_seconds = 250
        bodies = questions(fake, messages)
        repeats = [body for body in bodies for _ in range(2)]
        random.Random(5).shuffle(repeats)
        async with opened(folder, fake) as world, running(world):
            for body in itertools.chain(bodies, repeats):
                await fake.send(body, retry=1)
            await fake.until(partial(_has, fake, messages))
            await fake.all_acknowledged()
        async with opened(folder, fake) as world, running(world):
            for body in bodies:
                await fake.send(body, retry=3)
            await fake.all_acknowledged()
            assert await world.desk.inbox.waiting() == (0, 0.0)
        assert len(fake.shown) == messages


async def test_events_that_come_again_and_after_a_restart_count_once(tmp_path: Path) -> None:
    await deliver_thrice(tmp_path, 12)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
async def test_a_thousand_events_that_come_again_count_once(tmp_path: Path) -> None:
    await deliver_thrice(tmp_path, 1000)


@pytest.mark.parametrize(
    "posts",
    [20, pytest.param(500, marks=(pytest.mark.nightly, pytest.mark.timeout(1800)))],
)
async def test_two_sockets_on_one_database_answer_each_question_once(
    tmp_path: Path, posts: int
) -> None:
    """Slack hands the two events of a mention, and what it repeats, to either of them."""
    async with FakeSlack().serving() as fake, opened(tmp_path, fake) as world, running(world):
        fake.patience_seconds, fake.any_socket = 250, True
        second = asyncio.create_task(second_intake(world).run())
        await fake.until(lambda: len(fake.sockets) == 2)
        for number in range(posts):
            await fake.mentions("canvas?", user=f"U{number}", mention_first=number % 2 == 0)
        for number in range(posts):
            await fake.send(fake.message("canvas?", user=f"U{number}", channel=f"DU{number}"))
        await fake.answered(2 * posts)
        await fake.all_acknowledged()
        second.cancel()
        await asyncio.wait({second})
        assert await world.desk.inbox.waiting() == (0, 0.0)
    threads = [one.thread for one in fake.shown]
    assert len(threads) == len(set(threads)) == 2 * posts


def second_intake(world: World) -> Intake:
    """A second connection with the same tokens, over the same store."""
    return world.slack.intake(
        world.desk.lanes, world.desk.engine, privacy=Privacy(keep_days=30, trains=True)
    )


@pytest.mark.parametrize("moment", ["soon", "1e9", ""])
def test_the_library_fails_on_headers_that_are_nobodys_signature(moment: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal"):
        SignatureVerifier(SECRET).is_valid("{}", moment, "v0=" + "0" * 64)
