"""A process that answers in the Slack at an address until it is killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from core.logs import configure_logs
from tests.bots.slack_fake import FakeSlack
from tests.bots.slack_world import opened


async def main(folder: Path, address: str) -> None:
    configure_logs("error", folder / "worker.log")
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    # The server lives in the parent; this one only knows where.
    there = FakeSlack()
    there.address = address
    async with opened(folder, there) as world:
        await world.desk.inbox.take_over()
        taking = asyncio.create_task(world.intake.run())
        async with world.desk.lanes.running():
            await told.wait()
            taking.cancel()
            await asyncio.wait({taking})


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
