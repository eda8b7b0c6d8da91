"""What Slack's errors mean for trying again."""

from __future__ import annotations

import aiohttp
from slack_sdk.errors import SlackApiError

from bots.courier import Unreachable, Wait

_DEFAULT_WAIT_SECONDS = 30.0
_TOO_FAST = {"ratelimited", "rate_limited"}
# Slack's own trouble; the call may be half done.
_THEIR_FAULT = {"internal_error", "fatal_error", "service_unavailable", "request_timeout"}


def read_error(error: Exception) -> Wait | Unreachable | None:
    """What to do about an error of the client; None for one that would come again."""
    match error:
        case SlackApiError():
            if error.response.status_code == 429 or code_of(error) in _TOO_FAST:
                return Wait(_seconds(error.response.headers.get("Retry-After")))
            if error.response.status_code >= 500 or code_of(error) in _THEIR_FAULT:
                return Unreachable(arrived=True)
            return None
        case aiohttp.ClientConnectorError():
            return Unreachable(arrived=False)
        case aiohttp.ClientError() | TimeoutError():
            return Unreachable(arrived=True)
        case _:
            return None


def code_of(error: SlackApiError) -> str:
    """Slack's name for what went wrong."""
    body = error.response.data
    return str(body.get("error", "")) if isinstance(body, dict) else ""


def _seconds(text: object) -> float:
    try:
        return max(1.0, float(str(text)))
    except ValueError:
        return _DEFAULT_WAIT_SECONDS
