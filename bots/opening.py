"""Opens the lanes from the settings, and says what opening a chat platform gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from bots.allowance import Allowance, Limits
from bots.bot import Bot, Intake, Prepare
from bots.feeds import Feeds
from bots.lanes import Lanes
from bots.notices import Teller
from core.expert import Opened
from core.inbox import Inbox
from core.messages import Platform
from core.settings import Settings
from core.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Front:
    """A chat platform that is open.

    The lanes show with `bot` and complete messages with `prepare`; `intake` makes what takes
    messages in: run it while the lanes are running.
    """

    bot: Bot
    prepare: Prepare
    teller: Teller
    intake: Callable[[Lanes], Intake]


OpenFront = Callable[[Opened, Inbox], AbstractAsyncContextManager[Front]]
"""Opens a chat platform. Close it after the lanes have drained."""


def open_lanes(
    settings: Settings,
    opened: Opened,
    inbox: Inbox,
    feeds: Feeds,
    fronts: Mapping[Platform, Front],
    tracing: Tracing,
) -> Lanes:
    """What answers the messages of all platforms; `feeds` show those that have no front."""
    bots: dict[Platform, Bot] = dict.fromkeys(
        (Platform.WEB, Platform.API, Platform.TERMINAL), feeds
    )
    limits = settings.limits
    return Lanes(
        inbox=inbox,
        store=opened.store,
        engine=opened.engine,
        bots=bots | {platform: front.bot for platform, front in fronts.items()},
        limits=Limits(
            Allowance(
                limits.messages_per_minute, limits.photos_per_minute, limits.messages_per_day
            ),
            opened.link,
        ),
        width=limits.lanes,
        prepare={platform: front.prepare for platform, front in fronts.items()},
        tracing=tracing,
    )
