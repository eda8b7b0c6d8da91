"""The connection to Redis, where there is one: what it cannot do now is done without it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import structlog

from core.errors import ConfigError, RedisUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger()

KEYS = "solemate:1"
"""What every key of ours begins with; the number changes with what is kept under them."""
# An answer waits no longer than this for what can be done without.
_PATIENCE_SECONDS = 0.5
# So long Redis is left alone after it has failed.
PAUSE_SECONDS = 5.0


class RedisLink:
    """A Redis server; use it as `async with RedisLink(url) as link`."""

    def __init__(
        self, url: str, password: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as exc:
            raise ConfigError(
                "The setting 'redis.url' needs a package that is missing: install the extra "
                "`redis`, or empty it."
            ) from exc
        self.url = url
        options: dict[str, Any] = {
            "socket_timeout": _PATIENCE_SECONDS,
            "socket_connect_timeout": _PATIENCE_SECONDS,
            # Once more, for a connection that was cut while nobody used it.
            "retry": Retry(NoBackoff(), 1),
            **({"password": password} if password else {}),
        }
        self._client = Redis.from_url(url, **options)
        self.connections = self._client.connection_pool
        self._clock = clock
        self._alone_until = float("-inf")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Redis]:
        """Ask Redis in the block; `RedisUnavailable` where it fails, or has failed just now."""
        from redis.exceptions import RedisError

        if self._clock() < self._alone_until:
            raise RedisUnavailable("Redis has just failed; it is asked again in some seconds.")
        try:
            yield self._client
        except (RedisError, OSError, TimeoutError) as exc:
            self._alone_until = self._clock() + PAUSE_SECONDS
            log.warning("redis_unavailable", error=type(exc).__name__)
            raise RedisUnavailable(f"Redis does not answer ({type(exc).__name__}).") from exc

    async def check(self) -> None:
        """Raise `RedisUnavailable` unless Redis takes what is written there."""
        async with self.asking() as redis:
            await redis.set(f"{KEYS}:check", "", ex=1)
