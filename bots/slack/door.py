"""The HTTP door: Slack's signed requests, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from slack_bolt.adapter.starlette.async_handler import to_async_bolt_request, to_starlette_response
from slack_bolt.async_app import AsyncApp
from slack_sdk.signature import SignatureVerifier
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

log = structlog.get_logger()

PATH = "/slack/events"
MOST_BYTES = 1_000_000


class Door:
    """Takes `POST /slack/events`."""

    def __init__(self, app: AsyncApp, signing_secret: str, heard: Callable[[], None]) -> None:
        """`heard` is called for each request that is Slack's."""
        self._app = app
        self._verifier = SignatureVerifier(signing_secret)
        self._heard = heard

    async def receive(self, request: Request) -> Response:
        """Slack's request is answered when it is committed; what is not Slack's gets 401."""
        try:
            body = await _read(request)
        except ClientDisconnect:
            return PlainTextResponse("", 400)
        if body is None:
            return PlainTextResponse("The request is too large.", 413)
        if not self._is_genuine(request, body):
            log.warning("signature_refused")
            return PlainTextResponse("The signature does not fit.", 401)
        self._heard()
        return to_starlette_response(
            await self._app.async_dispatch(to_async_bolt_request(request, body))
        )

    def _is_genuine(self, request: Request, body: bytes) -> bool:
        """Whether Slack signed this within five minutes; anything odd is not genuine."""
        stamp = request.headers.get("x-slack-request-timestamp", "")
        signature = request.headers.get("x-slack-signature", "")
        # The library raises for what is no number, no ASCII or no UTF-8, and that would be a 500.
        if not (stamp.isascii() and stamp.isdecimal() and len(stamp) < 20 and signature.isascii()):
            return False
        try:
            return self._verifier.is_valid(body, stamp, signature)
        except UnicodeDecodeError:
            return False


async def _read(request: Request) -> bytes | None:
    """The body; None when it is larger than anything Slack sends."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)
