"""A whole solemate in a Slack of this machine, opened, running, and looked at by tests."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from PIL import Image
from starlette.applications import Starlette

from bots.allowance import Allowance
from bots.bot import Bot, Prepare
from bots.courier import Courier
from bots.slack.calls import read_error
from bots.slack.front import Access, Intake, Mode, Slack, open_slack
from bots.slack.home import Privacy
from bots.slack.people import Guests
from bots.slack.show import Pace
from bots.slack.socket import Rhythm
from bots.web.desk import Desk
from core.messages import Feedback, Platform
from core.model import ChatModel
from core.privacy import Pseudonyms
from core.settings import Duels as DuelSettings
from tests.bots.desks import NO_DUELS, PLENTY, open_desk
from tests.bots.slack_fake import ANN, APP_TOKEN, BOT_TOKEN, SECRET, FakeSlack

PSEUDONYMS = Pseudonyms(b"a key for tests")


def person(user: str = ANN) -> str:
    """A person's name in the store."""
    return PSEUDONYMS.of(Platform.SLACK, user)


class Clock:
    """Time that passes only while somebody sleeps, or is told to."""

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
    """A solemate in Slack."""

    fake: FakeSlack
    desk: Desk
    slack: Slack
    intake: Intake
    clock: Clock

    async def verdict(self, reply_id: str, user: str = ANN) -> Feedback | None:
        return await self.desk.store.verdict(reply_id, PSEUDONYMS.of(Platform.SLACK, user))

    async def rows(self, *columns: sa.Column[str]) -> Sequence[sa.Row[tuple[str, ...]]]:
        query = sa.select(*columns)
        return await self.desk.store.run(lambda connection: connection.execute(query).all())

    async def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Call the HTTP door."""
        app = Starlette(routes=list(self.intake.routes))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://solemate"
        ) as client:
            return await client.post("/slack/events", content=body, headers=headers)


def access_to(
    fake: FakeSlack,
    *,
    mode: Mode = "socket",
    guests: Guests | None = None,
    app_token: str = APP_TOKEN,
) -> Access:
    """How the fake is reached."""
    return Access(
        BOT_TOKEN, app_token, SECRET, fake.base_url, mode, guests or Guests(), 200_000, 3600.0
    )


@asynccontextmanager
async def opened(
    folder: Path,
    fake: FakeSlack,
    model: ChatModel | None = None,
    *,
    guests: Guests | None = None,
    mode: Mode = "socket",
    allowance: Allowance = PLENTY,
    pace: Pace | None = None,
    app_token: str = APP_TOKEN,
    duels: DuelSettings = NO_DUELS,
    depth: int = 20,
) -> AsyncIterator[World]:
    """Everything, before anything runs."""
    bots: dict[Platform, Bot] = {}
    prepare: dict[Platform, Prepare] = {}
    clock = Clock()
    access = access_to(fake, mode=mode, guests=guests, app_token=app_token)
    async with (
        open_desk(
            folder,
            model,
            bots=bots,
            prepare=prepare,
            allowance=allowance,
            duels=duels,
            depth=depth,
        ) as desk,
        open_slack(
            access,
            store=desk.store,
            inbox=desk.inbox,
            pseudonyms=PSEUDONYMS,
            duels=desk.duels,
            courier=Courier(read_error, sleep=clock.sleep, clock=clock),
            pace=pace or Pace(append_seconds=0),
        ) as slack,
    ):
        bots[Platform.SLACK] = slack.answers
        prepare[Platform.SLACK] = slack.reading.prepare
        intake = slack.intake(
            desk.lanes,
            desk.engine,
            privacy=Privacy(keep_days=30, trains=True),
            rhythm=Rhythm(ping_seconds=1, patience_seconds=20, first_pause_seconds=0.01),
        )
        yield World(fake, desk, slack, intake, clock)


@asynccontextmanager
async def running(world: World, *, answering: bool = True) -> AsyncIterator[World]:
    """Take things in while the block runs, and answer unless told otherwise."""
    taking = asyncio.create_task(world.intake.run())
    try:
        await world.fake.until(lambda: bool(world.fake.called("auth.test")))
        if answering:
            async with world.desk.lanes.running():
                yield world
        else:
            yield world
    finally:
        taking.cancel()
        await asyncio.wait({taking})


@asynccontextmanager
async def solemate(
    folder: Path, fake: FakeSlack, model: ChatModel | None = None, **options: Any
) -> AsyncIterator[World]:
    async with opened(folder, fake, model, **options) as world, running(world):
        yield world


def jpeg(size: int = 40) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), "white").save(out, "JPEG")
    return out.getvalue()


def reply_id(data: Sequence[str]) -> str:
    return data[0].partition(":")[2]
