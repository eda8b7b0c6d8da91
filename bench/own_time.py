"""Own time an answer: the whole engine with a model that answers at once, and where it goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import Connection

from bench.expert import Expert, message
from bench.figures import Figure, Goal, median, percentile
from bench.reciter import Reciter
from core.engine import Engine
from core.messages import Done, Outcome, Reply, UserMessage
from core.store import Store

PART = "own time an answer"
ROUNDS = 5
_PAGE = b"\0" * 4096
T = TypeVar("T")


class WatchedStore(Store):
    """A store that counts the seconds it is waited for."""

    seconds = 0.0

    async def run(self, work: Callable[[Connection], T]) -> T:
        started = time.perf_counter()
        try:
            return await super().run(work)
        finally:
            self.seconds += time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class _Sample:
    """Seconds of one answer: all of it, on the processor, in store and search; of a disk sync."""

    total: float
    processor: float
    store: float
    retrieval: float
    sync: float
    answered: bool


async def measure(expert: Expert) -> list[Figure]:
    """The median and the 99th percentile, and the shares of store and retrieval."""
    effort = expert.effort
    url = f"sqlite:///{expert.folder / 'own-time.db'}"
    async with WatchedStore(url) as store:
        engine = expert.engine(store, Reciter())
        samples = [
            await _sample(engine, store, one, expert.folder / "sync")
            for one in _conversations(expert.some_questions(effort.warm_up + effort.questions))
        ]
    return _figures(samples[effort.warm_up :])


def _conversations(questions: Sequence[str]) -> list[UserMessage]:
    """The questions, a few in a row in the same conversation, so that there is a history."""
    return [message(text, f"own-{number // ROUNDS}") for number, text in enumerate(questions)]


async def _sample(engine: Engine, store: WatchedStore, asked: UserMessage, file: Path) -> _Sample:
    waited, busy = store.seconds, time.process_time()
    started = time.perf_counter()
    reply = await final_reply(engine, asked)
    total = time.perf_counter() - started
    return _Sample(
        total,
        time.process_time() - busy,
        store.seconds - waited,
        reply.timings.retrieval,
        _sync_seconds(file),
        reply.outcome is Outcome.ANSWERED,
    )


async def final_reply(engine: Engine, asked: UserMessage) -> Reply:
    """Ask, and wait until the answer is stored."""
    async for event in engine.answer(asked):
        if isinstance(event, Done):
            return event.reply
    raise AssertionError("an answer's last event is Done")


def _sync_seconds(file: Path) -> float:
    """What the disk takes to keep one page for good: no commit can be quicker."""
    with file.open("ab") as opened:
        opened.write(_PAGE)
        opened.flush()
        started = time.perf_counter()
        os.fsync(opened.fileno())
        return time.perf_counter() - started


def _figures(samples: Sequence[_Sample]) -> list[Figure]:
    totals = [one.total for one in samples]
    whole = sum(totals)
    without_store = [one.total - one.store for one in samples]
    answered = sum(one.answered for one in samples) / len(samples)
    return [
        Figure(PART, "p50", 1000 * median(totals), "ms", Goal(10)),
        Figure(PART, "p99", 1000 * percentile(totals, 0.99), "ms", Goal(50)),
        Figure(PART, "p50 of processor time", 1000 * median([s.processor for s in samples]), "ms"),
        Figure(PART, "p50 without the store", 1000 * median(without_store), "ms"),
        Figure(PART, "the store's share", 100 * sum(one.store for one in samples) / whole, "%"),
        Figure(PART, "retrieval's share", 100 * sum(one.retrieval for one in samples) / whole, "%"),
        Figure(PART, "one sync of this disk, p50", 1000 * median([s.sync for s in samples]), "ms"),
        Figure(PART, "answered by the model", 100 * answered, "%"),
    ]
