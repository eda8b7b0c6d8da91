"""The Bolt app: it reads what Slack sends, and answers Slack when that is committed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import structlog
from slack_bolt.async_app import AsyncAck, AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.response import BoltResponse
from slack_sdk.web.async_client import AsyncWebClient

from bots.slack.events import Events
from bots.slack.people import Me
from core.errors import SolemateError

log = structlog.get_logger()

# Slack gives three seconds.
KNOWN_SECONDS = 2.5
_KINDS = ("event_callback", "block_actions", "view_submission", "view_closed")
_ANY = re.compile(r".*", re.DOTALL)

Json = dict[str, Any]


def build_app(base_url: str, session: aiohttp.ClientSession, me: Me, events: Events) -> AsyncApp:
    """The app around `events`; whoever feeds it has checked the signatures.

    Bolt by itself answers Slack first and works then, so that a crash between loses the event;
    `process_before_response` turns that round. What it does not know is answered, too, or Slack
    would send it again.
    """

    async def authorize(team_id: str | None, enterprise_id: str | None) -> AuthorizeResult:
        try:
            async with asyncio.timeout(KNOWN_SECONDS):
                await me.known.wait()
        except TimeoutError:
            problem = "Slack has not told yet who we are; it will send this again."
            raise SolemateError(problem) from None
        return AuthorizeResult(
            enterprise_id=enterprise_id,
            team_id=team_id,
            bot_user_id=me.bot_user,
            bot_id=me.bot_id,
            # Nothing is sent with Bolt's clients.
            bot_token="",
        )

    app = AsyncApp(
        name="solemate",
        client=AsyncWebClient(base_url=base_url, session=session),
        authorize=authorize,
        process_before_response=True,
        request_verification_enabled=False,
        ssl_check_enabled=False,
        attaching_function_token_enabled=False,
        attaching_conversation_kwargs_enabled=False,
    )

    def acknowledged(take: Callable[[Json], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def listener(body: Json, ack: AsyncAck) -> None:
            await take(body)
            await ack()

        return listener

    app.use(_acknowledge_others)
    app.event(_ANY)(acknowledged(events.on_event))
    app.action(_ANY)(acknowledged(events.on_action))
    app.view_submission(_ANY)(acknowledged(events.on_form))
    app.view_closed(_ANY)(acknowledged(_ignore))
    return app


async def _acknowledge_others(
    body: Json, next_: Callable[[], Awaitable[None]]
) -> BoltResponse | None:
    """Answer what we have no use for, shortcuts and the like: Bolt says 404, and logs its words."""
    kind = body.get("type")
    if kind in _KINDS:
        await next_()
        return None
    if kind == "app_rate_limited":
        # More came than Slack hands over in an hour: what is held back is lost.
        log.warning("events_held_back", minute=body.get("minute_rate_limited"))
    return BoltResponse(status=200)


async def _ignore(_body: Json) -> None:
    """A form that was closed: the thumb before it counts all the same."""
