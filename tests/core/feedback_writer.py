"""Commits numbered verdicts and prints each number once it is committed, until it is killed.

With EARLY=1 it prints them before, as whoever commits many at a time for speed would.
"""

import asyncio
import itertools
import logging
import os
import sys

import structlog

from core.messages import Feedback, Rating
from core.store import Store

MANY = 100


async def write(url: str, reply_id: str, first: int, early: bool) -> None:
    async with Store(url) as store:
        waiting: list[int] = []
        for number in itertools.count(first):
            waiting.append(number)
            if early:
                tell(number)
            if early and len(waiting) < MANY:
                continue
            for one in waiting:
                await store.add_feedback(Feedback(reply_id, f"person-{one}", Rating.DOWN))
            waiting.clear()
            if not early:
                tell(number)


def tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


# Standard output is for the numbers alone.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
early = os.environ.get("EARLY") == "1"
asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3]), early))
