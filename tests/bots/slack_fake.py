"""A Slack on this machine: Web API, Socket Mode, signed requests, streams and files."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from aiohttp import WSMsgType, web

BOT_TOKEN = "xoxb-token-for-tests"
APP_TOKEN = "xapp-token-for-tests"
SECRET = "a-signing-secret-for-tests"
TEAM = "T1"
BOT_USER = "UBOT"
BOT_ID = "BBOT"
ANN = "UANN"
BEN = "UBEN"
GENERAL = "C1"
Json = dict[str, Any]


@dataclass
class Shown:
    """A message of the bot, as people see it, and what stood there before."""

    channel: str
    ts: str
    thread: str
    text: str = ""
    blocks: list[Json] = field(default_factory=list)
    streaming: bool = False
    streamed: bool = False
    only_for: str = ""
    metadata: Json = field(default_factory=dict)
    earlier: list[str] = field(default_factory=list)

    @property
    def buttons(self) -> list[Json]:
        """Its buttons, whatever they look like: what each says and carries."""
        found: list[Json] = []
        for block in self.blocks:
            for element in block.get("elements", []):
                if element["type"] == "feedback_buttons":
                    for name in ("positive_button", "negative_button"):
                        found.append(element[name] | {"action_id": element["action_id"]})
                else:
                    found.append(element)
        return found

    @property
    def data(self) -> list[str]:
        """What its buttons carry."""
        return [button["value"] for button in self.buttons]


@dataclass
class Call:
    """A request that came in."""

    method: str
    values: Json


class Refusal(Exception):
    """An answer that is not ok."""

    def __init__(self, error: str, status: int = 200, retry_after: int | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def too_fast(seconds: int) -> Refusal:
    return Refusal("ratelimited", 429, seconds)


class FakeSlack:
    """The server's memory; `refuse` makes the next calls of a method fail."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.shown: list[Shown] = []
        self.files: dict[str, bytes | str] = {}
        self.file_types: dict[str, str] = {}
        self.tokens_seen: list[tuple[str, str]] = []
        self.threads: dict[tuple[str, str], list[Json]] = defaultdict(list)
        self.views: list[Json] = []
        self.homes: dict[str, Json] = {}
        self.locales: dict[str, str] = {}
        self.acks: list[str] = []
        self.sent: list[str] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.patience_seconds = 60.0
        # Slack hands each event to any of an app's sockets.
        self.any_socket = False
        self.scopes = ""
        # Replies of a thread in one answer.
        self.most_at_once = 1000
        self.streams_known = True
        self.statuses_known = True
        self.feedback_buttons_known = True
        self.address = ""
        self._refusals: dict[str, list[Refusal | None]] = defaultdict(list)
        self._lost: dict[str, list[Refusal | None]] = defaultdict(list)
        self._numbers = itertools.count(1)
        self._last_ts = 0.0
        self._changed = asyncio.Condition()

    @property
    def base_url(self) -> str:
        return f"{self.address}/api/"

    # --- what people do ---

    def message(
        self,
        text: str = "",
        *,
        channel: str = f"D{ANN}",
        user: str = ANN,
        thread: str | None = None,
        kind: str = "message",
        **more: Any,
    ) -> Json:
        """The body of an event that a person's message makes."""
        event: Json = {"type": kind, "channel": channel, "user": user, "text": text}
        event |= {"ts": self._new_ts(), "team": TEAM}
        if kind == "message":
            event["channel_type"] = "im" if channel.startswith("D") else "channel"
        if thread is not None:
            event["thread_ts"] = thread
        event |= more
        self.threads[(channel, thread or event["ts"])].append(event)
        return self.body(event)

    def body(self, event: Json, *, team: str = TEAM) -> Json:
        """What Slack sends for an event."""
        return {
            "type": "event_callback",
            "team_id": team,
            "api_app_id": "A1",
            "event_id": f"Ev{next(self._numbers)}",
            "event_time": 1_790_000_000,
            "event": event,
            "authorizations": [{"team_id": team, "user_id": BOT_USER, "is_bot": True}],
        }

    async def says(self, text: str = "", **more: Any) -> Json:
        """A person sends a message; the event."""
        body = self.message(text, **more)
        await self.send(body)
        event: Json = body["event"]
        return event

    async def mentions(
        self, text: str, *, channel: str = GENERAL, mention_first: bool = False, **more: Any
    ) -> Json:
        """A person mentions the bot in a channel, which makes two events of one message."""
        body = self.message(f"<@{BOT_USER}> {text}", channel=channel, **more)
        event: Json = body["event"]
        twin = self.body({k: v for k, v in event.items() if k != "channel_type"})
        twin["event"]["type"] = "app_mention"
        twins = (twin, body) if mention_first else (body, twin)
        await asyncio.gather(*map(self.send, twins))
        return event

    def file(self, data: bytes, kind: str = "image/jpeg", *, path: str = "") -> Json:
        """A file that Slack keeps."""
        name = path or f"files/F{next(self._numbers)}.jpg"
        self.files[name] = data
        self.file_types[name] = kind
        address = f"{self.address}/{name}"
        return {"id": "F1", "mimetype": kind, "size": len(data), "url_private_download": address}

    async def presses(
        self, data: str, under: Shown, *, user: str = ANN, channel: str | None = None
    ) -> Json:
        """A person presses a button; what was sent."""
        button = next(one for one in under.buttons if one["value"] == data)
        action = {"type": "button", "action_id": button["action_id"], "value": data}
        container = {"message_ts": under.ts, "is_ephemeral": bool(under.only_for)}
        channel = channel or under.channel
        return await self.acts(action, user=user, channel=channel, container=container)

    async def acts(self, action: Json, *, user: str = ANN, channel: str = "", **more: Any) -> Json:
        """A person does something with a block."""
        number = next(self._numbers)
        body: Json = {
            "type": "block_actions",
            "team": {"id": TEAM},
            "user": {"id": user, "team_id": TEAM},
            "api_app_id": "A1",
            "trigger_id": f"trigger{number}",
            "actions": [action | {"action_ts": f"1790000000.{number:06}", "block_id": "b"}],
            **more,
        }
        if channel:
            body["channel"] = {"id": channel}
        await self.send(body, "interactive")
        return body

    async def sends_form(
        self, view: Json, *, reason: str | None = None, correction: str = "", user: str = ANN
    ) -> Json:
        """A person fills in a form; what was sent."""
        selected = {"value": reason} if reason else None
        values = {
            "reason": {"reason": {"type": "radio_buttons", "selected_option": selected}},
            "correction": {"correction": {"type": "plain_text_input", "value": correction or None}},
        }
        body = {
            "type": "view_submission",
            "team": {"id": TEAM},
            "user": {"id": user, "team_id": TEAM},
            "view": view | {"id": f"V{next(self._numbers)}", "state": {"values": values}},
        }
        await self.send(body, "interactive")
        return body

    async def reacts(
        self,
        name: str,
        to: Shown,
        *,
        user: str = ANN,
        taken_off: bool = False,
        later: bool = False,
    ) -> Json:
        """A person puts an emoji on a message, or takes it off; what is sent, now or `later`."""
        item = {"type": "message", "channel": to.channel, "ts": to.ts}
        kind = "reaction_removed" if taken_off else "reaction_added"
        event = {"type": kind, "user": user, "reaction": name, "item": item}
        body = self.body(event | {"event_ts": self._new_ts()})
        if not later:
            await self.send(body)
        return body

    async def opens_home(self, user: str = ANN, tab: str = "home") -> None:
        """A person looks at the app."""
        event = {"type": "app_home_opened", "user": user, "channel": f"D{user}", "tab": tab}
        await self.send(self.body(event))

    # --- how Slack hands it over ---

    async def send(self, body: Json, kind: str = "events_api", *, retry: int = 0) -> str:
        """Send an envelope through a socket; its id."""
        await self.until(lambda: bool(self._open_sockets()))
        envelope = f"envelope{next(self._numbers)}"
        message: Json = {"type": kind, "envelope_id": envelope, "payload": body}
        message["accepts_response_payload"] = kind == "interactive"
        if retry:
            message |= {"retry_attempt": retry, "retry_reason": "timeout"}
        sockets = self._open_sockets()
        chosen = random.choice(sockets) if self.any_socket else sockets[-1]
        await chosen.send_json(message)
        self.sent.append(envelope)
        return envelope

    async def send_until_acknowledged(self, body: Json, kind: str = "events_api") -> None:
        """Send an envelope again and again, as Slack does, until it is acknowledged."""
        for retry in itertools.count():
            envelope = await self.send(body, kind, retry=retry)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self.acknowledged(envelope)
                return

    async def acknowledged(self, envelope: str) -> None:
        """Wait until an envelope is acknowledged."""
        await self.until(lambda: envelope in self.acks)

    async def all_acknowledged(self) -> None:
        """Wait until everything that was sent is acknowledged."""
        await self.until(lambda: set(self.sent) <= set(self.acks))

    async def disconnect(self, reason: str = "refresh_requested") -> None:
        """Tell the newest socket to go."""
        await self._open_sockets()[-1].send_json({"type": "disconnect", "reason": reason})

    async def drop_sockets(self) -> None:
        """Cut all connections."""
        for socket in self._open_sockets():
            await socket.close()
        await self._note()

    def signed(self, body: Json, now: float, *, secret: str = SECRET) -> tuple[bytes, Json]:
        """A body and its headers as Slack sends them over HTTP."""
        text = json.dumps(body)
        if body["type"] not in ("event_callback", "url_verification", "app_rate_limited"):
            return self.signed_form({"payload": text}, now, secret=secret)
        return self._signed(text, "application/json", now, secret)

    def signed_form(
        self, values: Mapping[str, str], now: float, *, secret: str = SECRET
    ) -> tuple[bytes, Json]:
        """A form and its headers as Slack sends them over HTTP."""
        return self._signed(urlencode(values), "application/x-www-form-urlencoded", now, secret)

    def _signed(self, text: str, kind: str, now: float, secret: str) -> tuple[bytes, Json]:
        stamp = str(int(now))
        mac = hmac.new(secret.encode(), f"v0:{stamp}:{text}".encode(), hashlib.sha256)
        headers = {
            "Content-Type": kind,
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={mac.hexdigest()}",
        }
        return text.encode(), headers

    # --- what tests ask ---

    def refuse(self, method: str, *refusals: Refusal | None) -> None:
        """Answer the next calls of a method like this; None closes the connection instead."""
        self._refusals[method] += refusals

    def lose(self, method: str, *answers: Refusal | None) -> None:
        """Do what the next calls of a method ask for, and answer all the same like `refuse`."""
        self._lost[method] += answers

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so; it is asked again after every call."""
        async with asyncio.timeout(self.patience_seconds), self._changed:
            await self._changed.wait_for(true)

    def called(self, method: str) -> list[Json]:
        """What the calls of a method said."""
        return [call.values for call in self.calls if call.method == method]

    def texts(self, channel: str = f"D{ANN}") -> list[str]:
        """What the bot's messages in a channel say now."""
        return [shown.text for shown in self.shown if shown.channel == channel]

    async def answered(self, count: int = 1) -> Shown:
        """Wait for this many answers with thumbs under them; the last of them."""

        def rated() -> list[Shown]:
            return [one for one in self.shown if any(d.startswith("up:") for d in one.data)]

        await self.until(lambda: len(rated()) >= count)
        return rated()[-1]

    # --- the server ---

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeSlack]:
        app = web.Application()
        app.router.add_route("*", "/api/{method}", self._on_call)
        app.router.add_get("/socket", self._on_socket)
        app.router.add_get("/{name:.*}", self._on_file)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _on_call(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        values = await _values(request)
        self.calls.append(Call(method, values))
        wanted = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
        try:
            if request.headers.get("Authorization") != f"Bearer {wanted}":
                raise Refusal("invalid_auth")
            _fail(self._refusals[method], request)
            name = f"_{method.replace('.', '_')}"
            result = await getattr(self, name, self._anything)(values)
            _fail(self._lost[method], request)
        except Refusal as exc:
            body = {"ok": False, "error": exc.error}
            return web.json_response(body, status=exc.status, headers=exc.headers)
        finally:
            await self._note()
        headers = {"x-oauth-scopes": self.scopes} if self.scopes else {}
        return web.json_response({"ok": True, **result}, headers=headers)

    async def _on_socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1})
        self.sockets.append(socket)
        await self._note()
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                answer = json.loads(message.data)
                self.acks.append(answer["envelope_id"])
                await self._note()
        return socket

    def _open_sockets(self) -> list[web.WebSocketResponse]:
        return [socket for socket in self.sockets if not socket.closed]

    async def _on_file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.tokens_seen.append((name, request.headers.get("Authorization", "")))
        found = self.files.get(name)
        if found is None:
            return web.Response(status=404)
        if isinstance(found, str):
            return web.Response(status=302, headers={"Location": found})
        return web.Response(body=found, content_type=self.file_types.get(name, "image/jpeg"))

    # --- the methods ---

    async def _anything(self, values: Json) -> Json:
        return {}

    async def _auth_test(self, values: Json) -> Json:
        names = {"user": "solemate", "team": "Shoes"}
        return names | {"user_id": BOT_USER, "bot_id": BOT_ID, "team_id": TEAM}

    async def _apps_connections_open(self, values: Json) -> Json:
        return {"url": f"{self.address.replace('http', 'ws')}/socket"}

    async def _users_info(self, values: Json) -> Json:
        return {"user": {"id": values["user"], "locale": self.locales.get(values["user"], "en-US")}}

    async def _conversations_replies(self, values: Json) -> Json:
        thread = (values["channel"], values["ts"])
        whole = str(values.get("include_all_metadata", "")).lower() in ("1", "true")
        ours = [
            {"ts": one.ts, "bot_id": BOT_ID, "user": BOT_USER, "text": one.text}
            | ({"metadata": one.metadata} if whole and one.metadata else {})
            for one in self.shown
            if (one.channel, one.thread) == thread and not one.only_for
        ]
        said = sorted([*self.threads[thread], *ours], key=lambda one: str(one["ts"]))
        since, until = str(values.get("oldest", "")), str(values.get("latest", "~"))
        inclusive = str(values.get("inclusive", "")).lower() in ("1", "true")
        # The message that the thread began with comes along, whatever is asked for.
        found = [
            one
            for one in said
            if since < one["ts"] < until
            or one is said[0]
            or (inclusive and one["ts"] in (since, until))
        ]
        # The earliest come first, and no more than asked for; Slack may give less at once.
        start = int(values["cursor"].partition(":")[2]) if values.get("cursor") else 0
        end = start + min(int(values.get("limit", 1000)), self.most_at_once)
        more = {"next_cursor": f"next:{end}" if end < len(found) else ""}
        return {
            "messages": found[start:end],
            "has_more": end < len(found),
            "response_metadata": more,
        }

    async def _views_open(self, values: Json) -> Json:
        self.views.append(values["view"])
        return {}

    async def _views_publish(self, values: Json) -> Json:
        self.homes[values["user_id"]] = values["view"]
        return {}

    async def _assistant_threads_setStatus(self, values: Json) -> Json:
        if not self.statuses_known:
            raise Refusal("missing_scope")
        return {}

    async def _chat_startStream(self, values: Json) -> Json:
        if not self.streams_known:
            raise Refusal("method_not_supported_for_channel_type")
        direct = values["channel"].startswith("D")
        if not direct and not (values.get("recipient_team_id") and values.get("recipient_user_id")):
            raise Refusal("missing_recipient_team_id")
        shown = Shown(values["channel"], self._new_ts(), values["thread_ts"], streaming=True)
        shown.text, shown.streamed = values.get("markdown_text", ""), True
        self.shown.append(shown)
        return {"ts": shown.ts, "channel": shown.channel}

    async def _chat_appendStream(self, values: Json) -> Json:
        shown = self._streaming(values)
        shown.earlier.append(shown.text)
        shown.text += values["markdown_text"]
        return {}

    async def _chat_stopStream(self, values: Json) -> Json:
        shown = self._streaming(values)
        blocks = self._checked(values.get("blocks", []))
        if more := values.get("markdown_text"):
            shown.earlier.append(shown.text)
            shown.text += more
        shown.blocks, shown.streaming = blocks, False
        return {}

    async def _chat_postMessage(self, values: Json) -> Json:
        thread = values.get("thread_ts", "")
        shown = Shown(values["channel"], self._new_ts(), thread, values["text"])
        shown.blocks = self._checked(values.get("blocks", []))
        shown.metadata = values.get("metadata", {})
        self.shown.append(shown)
        return {"ts": shown.ts, "channel": shown.channel}

    async def _chat_postEphemeral(self, values: Json) -> Json:
        await self._chat_postMessage(values)
        self.shown[-1].only_for = values["user"]
        return {"message_ts": self.shown[-1].ts}

    async def _chat_update(self, values: Json) -> Json:
        shown = self._find(values)
        if shown.streaming:
            raise Refusal("streaming_state_conflict")
        shown.earlier.append(shown.text)
        shown.blocks = self._checked(values.get("blocks", []))
        shown.text = values["text"]
        return {"ts": shown.ts}

    async def _chat_delete(self, values: Json) -> Json:
        self.shown.remove(self._find(values))
        return {}

    def close_stream(self, shown: Shown) -> None:
        """Slack ends a stream by itself."""
        shown.streaming = False

    def _find(self, values: Mapping[str, Any]) -> Shown:
        for shown in self.shown:
            if (shown.channel, shown.ts) == (values["channel"], values["ts"]):
                return shown
        raise Refusal("message_not_found")

    def _streaming(self, values: Json) -> Shown:
        shown = self._find(values)
        if not shown.streaming:
            raise Refusal("message_not_in_streaming_state")
        return shown

    def _checked(self, blocks: list[Json]) -> list[Json]:
        """The blocks, if Slack would take them."""
        for block in blocks:
            if block["type"] == "context_actions" and not self.feedback_buttons_known:
                raise Refusal("invalid_blocks")
            if block["type"] == "markdown" and not 0 < len(block["text"]) <= 12_000:
                raise Refusal("msg_blocks_too_long")
        return blocks

    def _new_ts(self) -> str:
        # Each is another, and later than the one before.
        self._last_ts = max(time.time(), self._last_ts + 0.001)
        return f"{self._last_ts:.6f}"

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _fail(refusals: list[Refusal | None], request: web.Request) -> None:
    """Raise the next of the refusals, if there is one; None closes the connection, too."""
    if not refusals:
        return
    refusal = refusals.pop(0)
    if refusal is None:
        assert request.transport is not None
        request.transport.abort()
    raise refusal or Refusal("nobody_hears_this")


async def _values(request: web.Request) -> Json:
    """What a call says, whichever way it says it."""
    asked: Json = dict(request.query)
    text = await request.text()
    if request.content_type == "application/json":
        return asked | json.loads(text)
    return asked | {key: _value(value) for key, value in parse_qsl(text)}


def _value(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, (dict, list, bool)) else text
