"""A process that tells people what they taught, and may kill itself on the way.

Reads from its command line the database, and where: before the mark is committed, before anything
is said, after it, or nowhere. What it says, it prints.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass

import sqlalchemy as sa

from bots.notices import Telling
from core.messages import Platform
from core.notices import Notice, Notices
from core.store import Store


@dataclass(frozen=True)
class Printer:
    """A platform where everybody reads the standard output."""

    dies: str

    def is_private(self, conversation_id: str) -> bool:
        return True

    async def tell(self, conversation_id: str, notice: Notice) -> None:
        if self.dies == "before":
            die()
        sys.stdout.write(f"{notice.user_id}\n")
        sys.stdout.flush()
        if self.dies == "after":
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, dies: str) -> None:
    async with Store(url, exclusive=False) as store:
        notices = Notices(store)
        if await notices.people(Platform.WEB) and dies == "uncommitted":
            sa.event.listen(sa.Engine, "commit", lambda connection: die())
        await Telling(notices, store, {}).tell_all(Platform.WEB, Printer(dies))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
