"""A whole solemate on a Telegram of this machine, opened, running, and looked at by tests."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from PIL import Image

from bots.allowance import Allowance
from bots.bot import Bot, Prepare
from bots.courier import Courier
from bots.telegram.calls import Limits, Rates, chat_of, read_error
from bots.telegram.commands import Privacy
from bots.telegram.front import Access, Host, Telegram, open_telegram
from bots.telegram.people import Guests
from bots.telegram.place import Names, Place
from bots.telegram.polling import Polling, Rhythm
from bots.telegram.show import Pace
from bots.web.desk import Desk
from core.messages import Feedback, Platform
from core.model import ChatModel
from core.privacy import Pseudonyms
from core.settings import Duels as DuelSettings
from tests.bots.desks import NO_DUELS, PLENTY, open_desk
from tests.bots.telegram_fake import ANN, BOT_ID, TOKEN, FakeTelegram

PSEUDONYMS = Pseudonyms(b"a key for tests")
NAMES = Names(PSEUDONYMS)
CONVERSATION = NAMES.conversation(Place(BOT_ID, ANN), 0)
# What no test comes near.
FAST = Rates(overall=(1e6, 1), chat=(1e6, 1), group=(1e6, 1))

RHYTHM = Rhythm(poll_seconds=1, backlog_seconds=0.01, first_pause_seconds=0.01)


def person(number: int = ANN) -> str:
    """A person's name in the store."""
    return PSEUDONYMS.of(Platform.TELEGRAM, str(number))


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@dataclass
class World:
    """A solemate on Telegram."""

    fake: FakeTelegram
    access: Access
    desk: Desk
    telegram: Telegram
    host: Host
    polling: Polling
    clock: Clock

    async def verdict(self, reply_id: str, user: int = ANN) -> Feedback | None:
        return await self.desk.store.verdict(reply_id, person(user))

    async def rows(self, *columns: sa.Column[str]) -> Sequence[sa.Row[tuple[str, ...]]]:
        query = sa.select(*columns)
        return await self.desk.store.run(lambda connection: connection.execute(query).all())


@asynccontextmanager
async def opened(
    folder: Path,
    fake: FakeTelegram,
    model: ChatModel | None = None,
    *,
    guests: Guests | None = None,
    token: str = TOKEN,
    allowance: Allowance = PLENTY,
    rates: Rates = FAST,
    width: int = 4,
    depth: int = 20,
    lease_seconds: float = 60.0,
    album_seconds: float = 0.2,
    duels: DuelSettings = NO_DUELS,
) -> AsyncIterator[World]:
    """Everything, before anything runs."""
    bots: dict[Platform, Bot] = {}
    prepare: dict[Platform, Prepare] = {}
    clock = Clock()
    access = Access(token, f"{fake.address}/bot", f"{fake.address}/file/bot", guests or Guests())
    async with AsyncExitStack() as stack:
        desk = await stack.enter_async_context(
            open_desk(
                folder,
                model,
                bots=bots,
                prepare=prepare,
                allowance=allowance,
                width=width,
                depth=depth,
                lease_seconds=lease_seconds,
                duels=duels,
            )
        )
        telegram = await stack.enter_async_context(
            open_telegram(
                access,
                store=desk.store,
                inbox=desk.inbox,
                pseudonyms=PSEUDONYMS,
                max_photo_bytes=200_000,
                duels=desk.duels,
                album_seconds=album_seconds,
                courier=Courier(
                    read_error,
                    limits=Limits(rates),
                    sharing=chat_of,
                    sleep=clock.sleep,
                    clock=clock,
                ),
                pace=Pace(draft_seconds=0, private_seconds=0, group_seconds=0),
            )
        )
        bots[Platform.TELEGRAM] = telegram.answers
        prepare[Platform.TELEGRAM] = telegram.photos.prepare
        host = Host(
            desk.lanes, desk.engine, Privacy(keep_days=30, trains=True), lambda: "solemate-live"
        )
        polling = telegram.polling(host, rhythm=RHYTHM)
        yield World(fake, access, desk, telegram, host, polling, clock)


@asynccontextmanager
async def running(world: World, *, answering: bool = True) -> AsyncIterator[World]:
    """Poll while the block runs, and answer unless told otherwise."""
    async with AsyncExitStack() as stack:
        if answering:
            await stack.enter_async_context(world.desk.lanes.running())
        poll = asyncio.create_task(world.polling.run())
        try:
            yield world
        finally:
            # Nothing more is taken in while the lanes drain.
            poll.cancel()
            await asyncio.wait({poll})


@asynccontextmanager
async def solemate(
    folder: Path,
    fake: FakeTelegram,
    model: ChatModel | None = None,
    *,
    guests: Guests | None = None,
) -> AsyncIterator[World]:
    """Everything, polling and answering."""
    async with opened(folder, fake, model, guests=guests) as world, running(world):
        yield world


def jpeg(size: int = 40) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), "white").save(out, "JPEG")
    return out.getvalue()


def reply_id(data: Sequence[str]) -> str:
    """The reply that buttons belong to, from what they carry."""
    return data[0].partition(":")[2]
