"""Opens the web server from the settings: the API, the chat page on it, and everyone's health."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import uvicorn

from bots.bot import Intake, Status
from bots.feeds import Feeds
from bots.lanes import Lanes
from bots.web.api import ApiOptions, create_api
from bots.web.chat import mount_chat
from bots.web.desk import Desk
from bots.web.health import (
    HealthCheck,
    PartHealth,
    adapter_health,
    intake_health,
    model_health,
    redis_health,
)
from bots.web.http import own_origins
from bots.web.server import web_server
from core.expert import Opened
from core.inbox import Inbox
from core.messages import Platform
from core.notices import Notices
from core.opening import photo_limits, secret
from core.settings import Settings


def open_desk(
    settings: Settings,
    opened: Opened,
    inbox: Inbox,
    lanes: Lanes,
    feeds: Feeds,
    notices: Notices | None,
) -> Desk:
    """What the page and the API do all their work with."""
    return Desk(
        opened.store,
        inbox,
        opened.engine,
        lanes,
        feeds,
        photo_limits(settings),
        opened.duels,
        notices,
    )


def open_web(
    settings: Settings, opened: Opened, desk: Desk, intakes: Mapping[Platform, Intake]
) -> uvicorn.Server:
    """The web server; once a process. It opens what `intakes` have for platforms to call."""
    parts = _parts(opened)
    for platform, intake in intakes.items():
        parts[platform] = _watched(desk, platform, intake.status)
    desk.lanes.metrics.watch_route(lambda: opened.registry.route)
    desk.lanes.metrics.watch_adapters(lambda: opened.registry.loaded_on)
    desk.lanes.metrics.watch_machine(settings.state)
    public_url = settings.web.public_url or settings.web.address
    app = create_api(
        desk,
        parts=parts,
        options=ApiOptions(
            model_name=settings.model.base_model,
            max_tokens=settings.model.max_tokens,
            public_url=public_url,
            allowed_origins=tuple(settings.web.allowed_origins),
        ),
    )
    for intake in intakes.values():
        # Before the page, whose application takes every other path.
        app.router.routes += intake.routes
    mount_chat(
        app,
        desk,
        storage_secret=secret(settings.state / "page-secret"),
        origins=own_origins(public_url),
    )
    return web_server(app, trusted_proxies=[str(one) for one in settings.web.trusted_proxies])


def _parts(opened: Opened) -> dict[str, HealthCheck]:
    """Looks at the parts that answer."""

    async def index() -> PartHealth:
        return PartHealth(figures={"chunks": len(opened.retriever.snapshot.index)})

    async def vision() -> PartHealth:
        only = "Colours only: style and pattern need a CLIP model."
        return PartHealth(detail=only if opened.vision.colours_only else "")

    async def model() -> PartHealth:
        return model_health(await opened.model.health())

    async def adapter() -> PartHealth:
        return adapter_health(opened.registry, await opened.model.health())

    parts: dict[str, HealthCheck] = {
        "index": index,
        "vision": vision,
        "model": model,
        "adapter": adapter,
    }
    if opened.link is not None:
        parts["redis"] = partial(redis_health, opened.link)
    return parts


def _watched(desk: Desk, platform: Platform, status: Status) -> HealthCheck:
    """A platform's health check; its figures are shown from now on, too."""
    desk.lanes.metrics.watch_platform(
        platform, lambda: status.complaint, lambda: status.quiet_seconds
    )

    async def check() -> PartHealth:
        return intake_health(status)

    return check
