"""Opens Telegram from the settings, which hold a token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from bots.bot import Intake
from bots.lanes import Lanes
from bots.opening import Front
from bots.standby import led
from bots.telegram.commands import Privacy
from bots.telegram.front import Access, Host, open_telegram
from bots.telegram.people import Guests
from bots.telegram.place import Names
from bots.telegram.probe import examine_telegram
from bots.telegram.webhook import PATH, Hook, check_hook
from core.doctor import Finding
from core.expert import Opened
from core.inbox import Inbox
from core.messages import Platform
from core.opening import open_leader, pseudonyms
from core.renaming import rename_conversations
from core.settings import Settings

log = structlog.get_logger()


@asynccontextmanager
async def open_front(
    settings: Settings, hook: Hook | None, opened: Opened, inbox: Inbox
) -> AsyncIterator[Front]:
    """Telegram, which calls us at `hook`, or which we poll."""
    if count := await rename_conversations(opened.store, Names(pseudonyms(settings)).sealing):
        log.info("chats_sealed", count=count)
        await opened.store.wipe(rewrite=True)
    leader = open_leader(settings, Platform.TELEGRAM) if hook is None else None
    async with open_telegram(
        access(settings),
        store=opened.store,
        inbox=inbox,
        pseudonyms=pseudonyms(settings),
        max_photo_bytes=settings.vision.max_bytes,
        duels=opened.duels,
    ) as telegram:

        def intake(lanes: Lanes) -> Intake:
            host = _host(settings, opened, lanes)
            if hook is not None:
                return telegram.webhook(host, hook)
            return led(leader, lambda lead: telegram.polling(host, lead=lead))

        yield Front(telegram.answers, telegram.photos.prepare, telegram.teller, intake)


async def examine(settings: Settings) -> Finding:
    """Look whether Telegram can be reached, and whether it can reach us."""
    return await examine_telegram(access(settings), hook(settings))


def access(settings: Settings) -> Access:
    """How Telegram is reached."""
    token, chosen = settings.secrets.TELEGRAM_BOT_TOKEN, settings.telegram
    assert token is not None, "without a token Telegram is switched off"
    guests = Guests(
        frozenset(chosen.allowed_users),
        frozenset(chosen.allowed_chats),
        frozenset(chosen.operators),
    )
    return Access(token.get_secret_value(), chosen.base_url, chosen.base_file_url, guests)


def hook(settings: Settings) -> Hook | None:
    """Where Telegram is to call us; None where we poll."""
    chosen, secret = settings.telegram, settings.secrets.TELEGRAM_WEBHOOK_SECRET
    if chosen.mode != "webhook":
        return None
    return check_hook(
        chosen.webhook_url or f"{settings.web.public_url.rstrip('/')}{PATH}",
        secret.get_secret_value() if secret else "",
        official=chosen.base_url.startswith("https://api.telegram.org/"),
    )


def _host(settings: Settings, opened: Opened, lanes: Lanes) -> Host:
    def live() -> str:
        adapter = opened.registry.live
        return adapter.name if adapter else settings.model.base_model

    privacy = Privacy(settings.privacy.keep_days, settings.privacy.train_on_chats)
    return Host(lanes, opened.engine, privacy, live)
