"""Commits numbered verdicts and prints each number once it is committed, until it is killed."""

import asyncio
import itertools
import logging
import sys

import structlog

from core.messages import Feedback, Rating
from core.store import Store


async def write(url: str, reply_id: str, first: int) -> None:
    async with Store(url) as store:
        for number in itertools.count(first):
            await store.add_feedback(Feedback(reply_id, f"person-{number}", Rating.DOWN))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


# Standard output is for the numbers alone.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3])))
