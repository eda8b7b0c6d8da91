"""How much one person may send: counted in Redis for all replicas, or here where it is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from bots.windows import Windows
from core.errors import Busy, RedisUnavailable
from core.redis_link import KEYS, RedisLink

_CODES = {"minute": "busy", "day": "busy_day", "photos": "busy_photos"}


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much one person may send."""

    messages_per_minute: int
    photos_per_minute: int
    messages_per_day: int


class Limits:
    """Counts what each person sends, in moving windows: in Redis, or here where it is away."""

    def __init__(
        self,
        allowance: Allowance,
        link: RedisLink | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = Windows()
        self._clock = clock
        self._link = link
        self._shared = None if link is None else MovingWindowRateLimiter(_storage(link))
        self._minute = RateLimitItemPerMinute(allowance.messages_per_minute)
        self._day = RateLimitItemPerDay(allowance.messages_per_day)
        self._photos = RateLimitItemPerMinute(allowance.photos_per_minute)

    async def count(
        self, user_id: str, *, photos: int, messages: int = 1, sent_at: float | None = None
    ) -> None:
        """Count what comes; raise `Busy` when it is more than the person may send.

        What was sent a while ago, at `sent_at` (Unix seconds), and comes now that we are here
        again, was not sent within this minute.
        """
        counts: list[tuple[RateLimitItem, str, int]] = [(self._day, "day", messages)]
        if sent_at is None or self._clock() - sent_at <= self._minute.get_expiry():
            counts += [(self._minute, "minute", messages), (self._photos, "photos", photos)]
        for item, name, cost in counts:
            if cost and (wait := await self._wait(item, (name, user_id), cost)):
                raise Busy(
                    f"Too many {'photos' if item is self._photos else 'messages'}: "
                    f"at most {item.amount} per {item.get_expiry()} seconds.",
                    retry_after_seconds=min(wait, item.get_expiry()),
                    code=_CODES[name],
                    limit=item.amount,
                )

    async def _wait(self, item: RateLimitItem, key: tuple[str, str], cost: int) -> float:
        """Count; 0 where that may be, else the seconds until more may be sent."""
        if self._link is not None and self._shared is not None:
            # People must not wait for Redis, nor be let in without end: each replica counts alone.
            with suppress(RedisUnavailable):
                async with self._link.asking():
                    return await _hit(self._shared, item, key, cost)
        return self._own.hit(item, key, cost)


async def _hit(
    limiter: MovingWindowRateLimiter, item: RateLimitItem, key: tuple[str, str], cost: int
) -> float:
    if await limiter.hit(item, *key, cost=cost):
        return 0.0
    window = await limiter.get_window_stats(item, *key)
    return max(1.0, window.reset_time - time.time())


def _storage(link: RedisLink) -> RedisStorage:
    options: dict[str, Any] = {"connection_pool": link.connections}
    return RedisStorage(
        f"async+{link.url}", implementation="redispy", key_prefix=f"{KEYS}:limits", **options
    )
