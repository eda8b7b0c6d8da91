"""A process that answers what is in the inbox until it is killed; prints how many are stored."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bots.web.desk import Desk
from core.errors import SolemateError
from core.logs import configure_logs
from core.messages import Event, Platform, UserMessage
from core.tables import turns
from tests.bots.desks import open_desk


@dataclass
class CountingBot:
    """Tells its parent at the start and after each answer how many the store has."""

    desk: Desk | None = None

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        async for _ in events:
            pass
        await self.tell()

    async def tell(self) -> None:
        assert self.desk is not None
        query = sa.select(sa.func.count()).select_from(turns)
        count = await self.desk.store.run(lambda connection: connection.execute(query).scalar_one())
        sys.stdout.write(f"{count}\n")
        sys.stdout.flush()

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        raise AssertionError(f"no message here is refused: {error}")


async def main(folder: Path) -> None:
    configure_logs("error", folder / "worker.log")
    bot = CountingBot()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    # What the killed process had leased is free again after this time.
    async with open_desk(folder, bots={Platform.WEB: bot}, lease_seconds=0.5) as desk:
        bot.desk = desk
        await bot.tell()
        async with desk.lanes.running():
            await told.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
