"""Socket Mode: a connection that Slack's events come through, made anew when it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import stamina
import structlog
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.web.async_client import AsyncWebClient

from bots.slack.calls import code_of
from core.errors import SolemateError

log = structlog.get_logger()

LONGEST_PAUSE_SECONDS = 60.0
PARTING_SECONDS = 3.0
_BAD_TOKEN = {"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"}


class Status:
    """How it goes: `problem` is a sentence for the operator, "" while all is well."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.problem = "It has not reached Slack yet."
        self._clock = clock
        self._touched_at: float | None = None

    def well(self) -> None:
        """Note that there is nothing to complain about."""
        self.problem = ""
        self.touch()

    def touch(self) -> None:
        """Note that Slack was heard from."""
        self._touched_at = self._clock()

    @property
    def quiet_seconds(self) -> float:
        """How long ago Slack was last heard from; 0 before the first time."""
        return 0.0 if self._touched_at is None else self._clock() - self._touched_at

    @property
    def complaint(self) -> str:
        """What the operator should know, "" while all is well."""
        return self.problem


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds between two pings, until a lost connection is made anew, and before another try."""

    ping_seconds: float = 4.0
    patience_seconds: float = 30.0
    connect_seconds: float = 30.0
    first_pause_seconds: float = 1.0


class _Handler(AsyncSocketModeHandler):
    """Bolt's handler, which remembers what is under way: nobody else holds its tasks."""

    def __init__(self, app: AsyncApp, app_token: str, client: AsyncWebClient, ping: float) -> None:
        super().__init__(app, app_token, web_client=client, ping_interval=ping)
        self._under_way: set[asyncio.Task[None] | None] = set()

    async def handle(  # type: ignore[override]
        self, client: SocketModeClient, req: SocketModeRequest
    ) -> None:
        task = asyncio.current_task()
        self._under_way.add(task)
        try:
            await super().handle(client, req)
        finally:
            self._under_way.discard(task)

    async def close(self) -> None:
        """Let what is under way be committed and acknowledged, then close."""
        if tasks := [task for task in self._under_way if task is not None]:
            await asyncio.wait(tasks, timeout=PARTING_SECONDS)
        try:
            await self.close_async()  # type: ignore[no-untyped-call]
        finally:
            # A socket that is cut while it is closed keeps the library from getting here.
            await self.client.aiohttp_client_session.close()


class Socket:
    """Keeps one connection open for ever; use `run` in a task and cancel it."""

    def __init__(
        self,
        app: AsyncApp,
        client: AsyncWebClient,
        app_token: str,
        *,
        rhythm: Rhythm,
    ) -> None:
        self._app = app
        self._client = client
        self._app_token = app_token
        self._rhythm = rhythm

    async def run(self, status: Status) -> None:
        """Connect and watch; returns never, raises when the connection has to be made anew.

        The library mends a lost connection by itself, but tries one address for ever.
        """
        ping = self._rhythm.ping_seconds
        handler = _Handler(self._app, self._app_token, self._client, ping)
        try:
            async with asyncio.timeout(self._rhythm.connect_seconds):
                handler.client.wss_uri = await handler.client.issue_new_wss_url()
                await handler.client.connect()  # type: ignore[no-untyped-call]
            status.well()
            await self._watch(handler.client, status)
        finally:
            await handler.close()

    async def _watch(self, socket: SocketModeClient, status: Status) -> None:
        while True:
            await asyncio.sleep(self._rhythm.ping_seconds)
            if await socket.is_connected():
                status.well()
                continue
            status.problem = "The connection to Slack is lost; it is being made anew."
            if status.quiet_seconds > self._rhythm.patience_seconds:
                raise ConnectionError("the connection stays lost")


async def for_ever(
    work: Callable[[], Awaitable[None]], status: Status, first_pause_seconds: float
) -> None:
    """Do the work again and again; what goes wrong is noted and tried after a growing pause."""
    while True:
        async for attempt in stamina.retry_context(
            on=Exception,
            attempts=None,
            timeout=None,
            wait_initial=first_pause_seconds,
            wait_max=LONGEST_PAUSE_SECONDS,
            wait_jitter=first_pause_seconds,
        ):
            with attempt, _noting(status):
                await work()


@contextmanager
def _noting(status: Status) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        status.problem = _explain(exc)
        log.warning("slack_failed", problem=status.problem, error=type(exc).__name__)
        raise


def _explain(error: Exception) -> str:
    match error:
        case SlackApiError() if code_of(error) in _BAD_TOKEN:
            return "Slack refuses a token: check SLACK_BOT_TOKEN and SLACK_APP_TOKEN."
        case SlackApiError():
            return f"Slack refuses ({code_of(error)}); deploy/slack/manifest.yaml lists the scopes."
        case aiohttp.ClientError() | TimeoutError() | ConnectionError():
            return "Slack cannot be reached; it tries to hand messages over again meanwhile."
        case SolemateError():
            return str(error)
        case _:
            return f"The connection failed ({type(error).__name__}); the log says why."
