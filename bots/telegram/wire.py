"""What comes over Telegram's wire, where the library cannot make updates of all of it."""

from __future__ import annotations

import json
from typing import Any

import structlog
from telegram import Bot, Update
from telegram.request import HTTPXRequest

log = structlog.get_logger()


class PollRequest(HTTPXRequest):
    """Fetches updates, and keeps what came last: one that is unreadable spoils them all."""

    body = b""

    async def do_request(self, *args: Any, **more: Any) -> tuple[int, bytes]:
        """Send it; see the library's."""
        status, self.body = await super().do_request(*args, **more)
        return status, self.body

    def updates(self, bot: Bot) -> tuple[Update, ...]:
        """The updates in what came last, each read by itself."""
        found = json.loads(self.body)["result"]
        return tuple(to_update(one, one["update_id"], bot) for one in found)


def to_update(data: dict[str, Any], number: int, bot: Bot) -> Update:
    """The update with this number; one that the library cannot read is empty.

    One of a kind that the library does not know says so itself, and is empty, too.
    """
    try:
        return Update.de_json(data, bot)
    # Whatever the library makes of it: sent again, it would be no better.
    except Exception as exc:  # noqa: BLE001  (its text may be somebody's)
        log.error("update_unreadable", update=number, error=type(exc).__name__)
        return Update(number)
