"""What `solemate doctor` finds about Telegram."""

from __future__ import annotations

from telegram import Bot, WebhookInfo
from telegram.error import Forbidden, InvalidToken, TelegramError
from telegram.request import HTTPXRequest

from bots.telegram.front import Access
from bots.telegram.webhook import Hook
from core.doctor import Finding, Health

_PART = "telegram"


async def examine_telegram(access: Access, hook: Hook | None) -> Finding:
    """Ask Telegram who the bot is, and whether its updates come the way they are wanted."""
    requests = [HTTPXRequest(connection_pool_size=1) for _ in range(2)]
    bot = Bot(
        access.token,
        base_url=access.base_url,
        request=requests[0],
        get_updates_request=requests[1],
    )
    try:
        async with bot:
            return _found(f"@{bot.username}", await bot.get_webhook_info(), hook)
    except (InvalidToken, Forbidden):
        advice = "Set TELEGRAM_BOT_TOKEN to the one that BotFather gives out."
        return Finding(_PART, Health.ILL, "Telegram refuses the token", advice)
    except TelegramError as exc:
        advice = "Check the network and telegram.base_url; messages wait at Telegram meanwhile."
        found = f"Telegram cannot be reached ({type(exc).__name__})"
        return Finding(_PART, Health.WARNING, found, advice)


def _found(name: str, info: WebhookInfo, hook: Hook | None) -> Finding:
    waiting = f", {info.pending_update_count} updates wait" if info.pending_update_count else ""
    if hook is None and info.url:
        advice = "A webhook is set; `solemate up` removes it, for telegram.mode is polling."
        return Finding(_PART, Health.WARNING, f"{name} has a webhook{waiting}", advice)
    if hook is None:
        return Finding(_PART, Health.OK, f"{name}, by polling{waiting}")
    if info.url != hook.url:
        advice = "`solemate up` sets it; then look here again."
        return Finding(_PART, Health.WARNING, f"{name} has no webhook yet{waiting}", advice)
    if info.last_error_message:
        advice = f"Check the way to telegram.webhook_url; Telegram says: {info.last_error_message}."
        return Finding(_PART, Health.WARNING, f"{name}: deliveries failed{waiting}", advice)
    return Finding(_PART, Health.OK, f"{name}, by webhook{waiting}")
