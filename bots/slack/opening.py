"""Opens Slack from the settings, which hold a token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bots.bot import Intake
from bots.lanes import Lanes
from bots.opening import Front
from bots.slack.front import Access, open_slack
from bots.slack.home import Privacy
from bots.slack.people import Guests
from bots.slack.probe import examine_slack
from bots.standby import led
from core.doctor import Finding
from core.expert import Opened
from core.inbox import Inbox
from core.messages import Platform
from core.opening import open_leader, pseudonyms
from core.settings import Settings


@asynccontextmanager
async def open_front(settings: Settings, opened: Opened, inbox: Inbox) -> AsyncIterator[Front]:
    """Slack, by the socket that one replica of several holds, or by what it posts to any of us."""
    leader = open_leader(settings, Platform.SLACK) if settings.slack.mode == "socket" else None
    privacy = Privacy(settings.privacy.keep_days, settings.privacy.train_on_chats)
    async with open_slack(
        access(settings),
        store=opened.store,
        inbox=inbox,
        pseudonyms=pseudonyms(settings),
        duels=opened.duels,
    ) as slack:

        def intake(lanes: Lanes) -> Intake:
            return led(
                leader,
                lambda lead: slack.intake(lanes, opened.engine, privacy=privacy, lead=lead),
            )

        yield Front(slack.answers, slack.reading.prepare, slack.teller, intake)


async def examine(settings: Settings) -> Finding:
    """Look whether Slack can be reached."""
    return await examine_slack(access(settings))


def access(settings: Settings) -> Access:
    """How Slack is reached."""
    chosen, kept = settings.slack, settings.secrets
    assert kept.SLACK_BOT_TOKEN is not None, "without a token Slack is switched off"
    return Access(
        bot_token=kept.SLACK_BOT_TOKEN.get_secret_value(),
        app_token=kept.SLACK_APP_TOKEN.get_secret_value() if kept.SLACK_APP_TOKEN else "",
        signing_secret=(
            kept.SLACK_SIGNING_SECRET.get_secret_value() if kept.SLACK_SIGNING_SECRET else ""
        ),
        base_url=chosen.base_url,
        mode=chosen.mode,
        guests=Guests(
            frozenset(chosen.allowed_teams),
            frozenset(chosen.allowed_channels),
            frozenset(chosen.operators),
        ),
        max_photo_bytes=settings.vision.max_bytes,
        expire_seconds=settings.conversation.expire_minutes * 60,
    )
