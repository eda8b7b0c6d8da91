"""The webhook: Telegram posts its updates to us, and each is committed before it hears 200."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send
from telegram import Bot, Update, WebhookInfo

from bots.telegram.intake import ALLOWED_UPDATES, Intake
from bots.telegram.status import Status, until_done
from bots.telegram.wire import to_update
from core.errors import ConfigError, StoreError
from core.wording import say

log = structlog.get_logger()

PATH = "/telegram/webhook"
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"
# The largest update, a message of 4,096 characters with its entities, takes a tenth of it.
MAX_BODY_BYTES = 262_144
CHECK_SECONDS = 60.0
# How long ago a delivery may have failed without being worth a complaint.
RECENT_SECONDS = 300.0
_SECRET = re.compile(r"[A-Za-z0-9_-]{32,256}")


@dataclass(frozen=True, slots=True)
class Hook:
    """Where Telegram posts, and the secret by which we know that it is Telegram."""

    url: str
    secret: str


def check_hook(url: str, secret: str, *, official: bool) -> Hook:
    """The hook, if Telegram will take it and nobody can guess it; else `ConfigError`.

    `official` is whether Telegram's own servers will call, which only use https.
    """
    if not _SECRET.fullmatch(secret):
        raise ConfigError(
            'telegram.mode = "webhook" needs TELEGRAM_WEBHOOK_SECRET: 32 to 256 letters, digits, '
            "_ and -. Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    address = urlsplit(url)
    if address.scheme not in (("https",) if official else ("https", "http")) or not address.netloc:
        raise ConfigError(
            f"telegram.webhook_url is {url!r}: Telegram needs the https:// address at which a "
            f"proxy of yours leads to {PATH}."
        )
    return Hook(url, secret)


class Webhook:
    """Asks Telegram to post its updates here, and takes them in; use `run` in a task."""

    def __init__(
        self,
        bot: Bot,
        hook: Hook,
        intake: Intake,
        *,
        begin: Callable[[], None],
        check_seconds: float = CHECK_SECONDS,
        first_pause_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`begin` is called once, when Telegram has been reached."""
        self.status = Status(clock)
        # Telegram's requests are for us, whatever their method.
        self.routes: Sequence[BaseRoute] = (Route(PATH, self),)
        self._bot = bot
        self._hook = hook
        self._intake = intake
        self._begin = begin
        self._check_seconds = check_seconds
        self._first_pause_seconds = first_pause_seconds
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """See to it that Telegram posts to us, again and again: others may have told it not to."""
        while True:
            async for attempt in until_done(self._first_pause_seconds):
                with attempt, self.status.noting():
                    self.status.problem = await self._check()
            self.status.touch()
            await asyncio.sleep(self._check_seconds)

    async def _check(self) -> str:
        """Register where it is not; what is wrong with deliveries, "" for nothing."""
        if not self._ready.is_set():
            await self._bot.initialize()
            # The secret may have changed, which nobody can see from outside.
            await self._register()
            self._begin()
            self._ready.set()
            return ""
        info = await self._bot.get_webhook_info()
        if info.url != self._hook.url:
            log.warning("webhook_gone")
            await self._register()
            return ""
        return _complaint(info, datetime.now(UTC))

    async def _register(self) -> None:
        await self._bot.set_webhook(
            self._hook.url,
            allowed_updates=ALLOWED_UPDATES,
            secret_token=self._hook.secret,
            drop_pending_updates=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; what is not 200 comes again."""
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method != "POST":
            return _refusal(405, "wrong_method", allowed="POST")
        # Before anything is read: a stranger is to cost nothing.
        if not self._knows(request.headers.get(SECRET_HEADER, "")):
            return _refusal(403, "webhook_secret", header=SECRET_HEADER)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _refusal(415, "body_type")
        body = await _body_of(request)
        if body is None:
            return _refusal(413, "body_large", limit=MAX_BODY_BYTES)
        update = _update_in(body, self._bot)
        if update is None:
            return _refusal(400, "body_json")
        if not self._ready.is_set():
            return _refusal(503, "not_saved")
        try:
            await self._intake.receive([update])
        except StoreError as exc:
            log.error("update_not_saved", error=str(exc))
            return _refusal(503, "not_saved")
        self.status.touch()
        return Response(status_code=200)

    def _knows(self, secret: str) -> bool:
        return hmac.compare_digest(secret.encode(), self._hook.secret.encode())


async def _body_of(request: Request) -> bytes | None:
    """The body, None for one that is too large; no more of that is read than has to be."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return None
    except ClientDisconnect:
        return b""
    return body


def _update_in(body: bytes, bot: Bot) -> Update | None:
    """The update; None for a body that is none."""
    try:
        data = json.loads(body)
        number = data["update_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(number) is not int:
        return None
    return to_update(data, number, bot)


def _complaint(info: WebhookInfo, now: datetime) -> str:
    failed_at = info.last_error_date
    if failed_at is None or (now - failed_at).total_seconds() > RECENT_SECONDS:
        return ""
    return f"Telegram cannot deliver to telegram.webhook_url: {info.last_error_message}."


def _refusal(status: int, code: str, **values: object) -> Response:
    """The refusal in the shape of the API's."""
    log.info("webhook_refused", status=status)
    headers = {"Allow": str(values["allowed"])} if "allowed" in values else None
    error = {"code": code, "message": say(code, "en", **values)}
    return JSONResponse({"error": error}, status, headers)
