"""What `solemate doctor` finds about Slack."""

from __future__ import annotations

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bots.slack.calls import code_of
from bots.slack.front import CALL_SECONDS, Access, check_access
from core.doctor import Finding, Health

_PART = "slack"
# What the answers need; without the others something smaller is missing.
_NEEDED = {"chat:write", "app_mentions:read", "im:history"}


async def examine_slack(access: Access) -> Finding:
    """Ask Slack who the bot is and what it may do, and for a socket where it needs one.

    Raises `ConfigError` for tokens that cannot be some.
    """
    check_access(access)
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            client = AsyncWebClient(access.bot_token, base_url=access.base_url, session=session)
            who = await client.auth_test()
            if access.mode == "socket":
                await client.apps_connections_open(app_token=access.app_token)
    except SlackApiError as exc:
        advice = "Check SLACK_BOT_TOKEN and SLACK_APP_TOKEN; deploy/slack/manifest.yaml says where."
        return Finding(_PART, Health.ILL, f"Slack refuses a token ({code_of(exc)})", advice)
    except (aiohttp.ClientError, TimeoutError) as exc:
        advice = "Check the network and slack.base_url."
        found = f"Slack cannot be reached ({type(exc).__name__})"
        return Finding(_PART, Health.WARNING, found, advice)
    name = f"@{who.get('user')} in {who.get('team')}, by {access.mode}"
    scopes = {scope for scope in who.headers.get("x-oauth-scopes", "").split(",") if scope}
    if scopes and (missing := sorted(_NEEDED - scopes)):
        advice = "Add them as deploy/slack/manifest.yaml has them, and install the app again."
        return Finding(_PART, Health.ILL, f"{name}, without {', '.join(missing)}", advice)
    return Finding(_PART, Health.OK, name)
