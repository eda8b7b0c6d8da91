"""Whether questions are answered, and how well, part by part."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import structlog

from bots.bot import Status
from core.errors import RedisUnavailable, SolemateError, StoreError
from core.inbox import Inbox
from core.redis_link import RedisLink
from core.registry import Registry
from core.store import Store

log = structlog.get_logger()

CHECK_SECONDS = 8.0
# An inbox this far behind answers, but nobody would call it well.
SLOW_SECONDS = 60.0


class Condition(StrEnum):
    """How a part is: without one that is `DOWN`, no question is answered."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class PartHealth:
    """A part's condition, a sentence for the operator, and figures worth watching."""

    condition: Condition = Condition.OK
    detail: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """`{"status", "detail"?, figures…}`."""
        detail = {"detail": self.detail} if self.detail else {}
        return {"status": self.condition, **detail, **self.figures}


HealthCheck = Callable[[], Awaitable[PartHealth]]


async def check_all(parts: Mapping[str, HealthCheck]) -> dict[str, PartHealth]:
    """Every part's health, asked at the same time."""
    found = await asyncio.gather(*(_checked(name, check) for name, check in parts.items()))
    return dict(zip(parts, found, strict=True))


def overall(parts: Mapping[str, PartHealth]) -> Condition:
    """The condition of the whole: that of its worst part."""
    conditions = {part.condition for part in parts.values()}
    worst = (Condition.DOWN, Condition.DEGRADED)
    return next((one for one in worst if one in conditions), Condition.OK)


async def writing_health(store: Store) -> PartHealth:
    """Whether messages and thumbs can be committed."""
    try:
        await store.check_writing()
    except StoreError as exc:
        log.warning("store_unwritable", error=str(exc))
        advice = "Nothing can be saved, so messages and thumbs are refused: is the disk full?"
        return PartHealth(Condition.DOWN, advice)
    return PartHealth()


def model_health(servers: Mapping[str, bool]) -> PartHealth:
    """Whether questions can be asked; `servers` says of each model server whether it answers."""
    away = [url for url, well in servers.items() if not well]
    if not away:
        return PartHealth()
    if len(away) == len(servers):
        advice = "The model server does not answer: passages are quoted meanwhile."
    else:
        advice = f"{', '.join(away)} does not answer: the other model servers do meanwhile."
    return PartHealth(Condition.DEGRADED, advice)


def adapter_health(registry: Registry, servers: Mapping[str, bool]) -> PartHealth:
    """Whether the adapter that should answer does; `servers` as in `model_health`."""
    if registry.problem:
        advice = f"{registry.problem} No promotion or rollback may be followed; the log says why."
        return PartHealth(Condition.DEGRADED, advice)
    live = registry.route.live
    if live and not any(servers.values()):
        return PartHealth(Condition.DEGRADED, f"{live} cannot answer without a model server.")
    if not registry.complete:
        why = registry.why_missing(live)
        known = f": its folder cannot be read ({why})." if why else "; the log says why."
        advice = f"{live} is not loaded, so {registry.stand_in} answers in its place{known}"
        return PartHealth(Condition.DEGRADED, advice)
    lacking = [
        f"{server} lacks {name}" for (server, name), has in registry.loaded_on.items() if not has
    ]
    if lacking:
        advice = f"{', '.join(lacking)}, so fewer servers answer with it; the log says why."
        return PartHealth(Condition.DEGRADED, advice)
    return PartHealth(detail=f"{live} answers." if live else "")


async def redis_health(link: RedisLink) -> PartHealth:
    """Whether Redis answers; without it everybody is answered all the same."""
    try:
        await link.check()
    except RedisUnavailable:
        advice = "Redis does not answer: each replica counts limits alone meanwhile."
        return PartHealth(Condition.DEGRADED, advice)
    return PartHealth()


def intake_health(status: Status) -> PartHealth:
    """Whether a platform's messages come in."""
    condition = Condition.DEGRADED if status.complaint else Condition.OK
    quiet = round(status.quiet_seconds, 1)
    return PartHealth(condition, status.complaint, {"quiet_seconds": quiet})


async def inbox_health(inbox: Inbox) -> PartHealth:
    """How many messages wait, and since when."""
    waiting, oldest = await inbox.waiting()
    figures = {"waiting": waiting, "oldest_seconds": round(oldest, 1)}
    if oldest > SLOW_SECONDS:
        return PartHealth(Condition.DEGRADED, "Messages wait too long for an answer.", figures)
    return PartHealth(figures=figures)


async def _checked(name: str, check: HealthCheck) -> PartHealth:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except (SolemateError, TimeoutError) as exc:
        log.warning("part_down", part=name, error=type(exc).__name__)
        return PartHealth(Condition.DOWN, "It does not answer; the log says why.")
