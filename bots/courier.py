"""Calls a platform as fast as it allows: whoever is told to wait waits, the others do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import structlog
from aiolimiter import AsyncLimiter

from core.errors import PlatformAway, SolemateError

log = structlog.get_logger()
T = TypeVar("T")

Call = Callable[[], Awaitable[T]]
Sleep = Callable[[float], Awaitable[object]]

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5
# Lanes whose last calls are remembered.
MOST_LANES = 10_000
# This share of a rate is kept for what has to arrive: what is only offered is left out before.
RESERVE = 0.25


@dataclass(frozen=True, slots=True)
class Wait:
    """The platform took nothing and says when it will."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Unreachable:
    """There was no answer; `arrived` where the call may have had its effect all the same."""

    arrived: bool


# What an error means for trying again; None where it would fail again.
Reading = Callable[[Exception], Wait | Unreachable | None]
# What calls in a lane have to pass: limiters of its own, or of several lanes together.
Limits = Callable[[Hashable], Sequence[AsyncLimiter]]


@contextmanager
def reaching(read: Reading) -> Iterator[None]:
    """Raise `PlatformAway` for what goes wrong in the block and is the platform's own trouble."""
    try:
        yield
    except SolemateError:
        raise
    except Exception as exc:
        if read(exc) is None:
            raise
        raise PlatformAway(f"The platform cannot be reached ({type(exc).__name__}).") from exc


class Courier:
    """Makes calls in lanes, each again while the platform is in the way.

    A lane is whatever the platform counts by: a channel, or a method.
    """

    def __init__(
        self,
        read: Reading,
        *,
        limits: Limits = lambda _lane: (),
        sharing: Callable[[Hashable], Hashable] = lambda lane: lane,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Lanes with the same `sharing` wait together when one of them is told to."""
        self._read = read
        self._limits = lru_cache(MOST_LANES)(limits)
        self._sharing = sharing
        self._sleep = sleep
        self._clock = clock
        self._free_at: dict[Hashable, float] = {}

    async def deliver(self, lane: Hashable, call: Call[T], *, repeatable: bool) -> T:
        """The call's result, after waiting and trying again as often as it makes sense.

        Without `repeatable` a call that may have arrived is not made again. Raises what the
        platform said last.
        """
        for attempt in range(1, ATTEMPTS):
            await self._until_free(lane)
            try:
                return await call()
            except Exception as exc:
                match self._read(exc):
                    case Wait(seconds):
                        self._hold(lane, seconds)
                    case Unreachable(arrived) if repeatable or not arrived:
                        log.warning("platform_unreachable", attempt=attempt)
                        await self._sleep(FIRST_PAUSE_SECONDS * 2**attempt)
                    case _:
                        raise
        await self._until_free(lane)
        return await call()

    async def offer(self, lane: Hashable, call: Call[T]) -> T | None:
        """Make the call once if the lane has room now; None where it would come too late.

        Raises what the platform said, unless that was to wait.
        """
        if not self.has_room(lane):
            return None
        for limiter in self._limits(lane):
            await limiter.acquire()
        try:
            return await call()
        except Exception as exc:
            match self._read(exc):
                case Wait(seconds):
                    self._hold(lane, seconds)
                    return None
                case _:
                    raise

    def has_room(self, lane: Hashable) -> bool:
        """Whether a call could be made now, and what has to arrive would not wait for it."""
        return not self._is_held(lane) and all(_has_room(one) for one in self._limits(lane))

    async def _until_free(self, lane: Hashable) -> None:
        """Wait for the end of the lane's penalty and for its turn."""
        while True:
            while (left := self._free_at.get(self._sharing(lane), 0.0) - self._clock()) > 0:
                await self._sleep(left)
            self._free_at.pop(self._sharing(lane), None)
            for limiter in self._limits(lane):
                await limiter.acquire()
            # Another call may have brought a new penalty meanwhile.
            if not self._is_held(lane):
                return

    def _is_held(self, lane: Hashable) -> bool:
        return self._free_at.get(self._sharing(lane), 0.0) > self._clock()

    def _hold(self, lane: Hashable, seconds: float) -> None:
        log.warning("told_to_wait", seconds=seconds)
        shared = self._sharing(lane)
        self._free_at[shared] = max(self._free_at.get(shared, 0.0), self._clock() + seconds)


def _has_room(limiter: AsyncLimiter) -> bool:
    return limiter.has_capacity(min(limiter.max_rate, 1 + limiter.max_rate * RESERVE))
