"""A Bot API server on this machine: it keeps updates and messages as Telegram does."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bots.markup import utf16_length

BOT_ID = 1000
TOKEN = f"{BOT_ID}:a-token-for-tests"
USERNAME = "SolemateBot"
ANN = 11
BEN = 12
GROUP = -500
Json = dict[str, Any]


@dataclass
class Shown:
    """A message in a chat, as people see it, and what stood there before."""

    chat_id: int
    message_id: int
    text: str
    entities: list[Json] = field(default_factory=list)
    keyboard: list[list[Json]] = field(default_factory=list)
    thread_id: int | None = None
    reply_to: int | None = None
    force_reply: Json = field(default_factory=dict)
    earlier: list[str] = field(default_factory=list)

    @property
    def data(self) -> list[str]:
        """What its buttons carry."""
        return [button["callback_data"] for row in self.keyboard for button in row]

    @property
    def labels(self) -> list[str]:
        """What its buttons say."""
        return [button["text"] for row in self.keyboard for button in row]

    def asks(self, user: int) -> bool:
        """Whether a reply opens by itself in a person's app: selective ones only for some.

        For those whom it mentions, and whoever wrote what it replies to; here that is the bot.
        """
        mentioned = [one["user"]["id"] for one in self.entities if one["type"] == "text_mention"]
        return bool(self.force_reply) and (
            not self.force_reply.get("selective") or user in mentioned
        )


@dataclass
class Call:
    """A request that came in."""

    method: str
    values: Json


class Refusal(Exception):
    """An answer that is not ok."""

    def __init__(self, status: int, description: str, **parameters: int) -> None:
        super().__init__(description)
        self.status = status
        self.parameters = parameters


def flood(seconds: int) -> Refusal:
    return Refusal(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


CONFLICT = Refusal(409, "Conflict: terminated by other getUpdates request")


@dataclass
class _Flood:
    share: float
    seconds: tuple[int, int]
    dice: random.Random
    clock: Callable[[], float]
    free_at: dict[int, float] = field(default_factory=dict)


@dataclass
class _Drop:
    share: float
    methods: tuple[str, ...]
    dice: random.Random

    def strikes(self, method: str) -> bool:
        return method in self.methods and self.dice.random() < self.share


class FakeTelegram:
    """The server's memory; `refuse` makes the next calls of a method fail."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.shown: list[Shown] = []
        self.waiting: list[Json] = []
        self.sent: list[Json] = []
        self.files: dict[str, bytes] = {}
        self.confirmed = 0
        self.address = ""
        self.next_update = 7_000
        self.takes_entities = True
        self.takes_drafts = True
        self.webhook = ""
        self.webhook_error = ""
        # The commands that a chat's menu lists in a language; None is everybody's, and any other.
        self.menus: dict[tuple[int | None, str | None], list[str]] = {}
        self.patience_seconds = 30.0
        self.conflicts = 0
        self.floods = 0
        self.calls_inside_a_penalty = 0
        self.drops = 0
        self._polls = 0
        # Polls that are never answered.
        self._stalls = 0
        self._lines: set[asyncio.Transport] = set()
        self._flood: _Flood | None = None
        self._drop: _Drop | None = None
        # What a chat's drafts said since its last message.
        self.drafts: dict[int, list[str]] = defaultdict(list)
        self._refusals: dict[str, list[Refusal | None]] = defaultdict(list)
        self._next_message = 100
        self._changed = asyncio.Condition()

    # --- what people do ---

    def person(self, number: int, language: str = "en") -> Json:
        return {
            "id": number,
            "is_bot": False,
            "first_name": f"P{number}",
            "language_code": language,
        }

    def chat(self, number: int) -> Json:
        if number > 0:
            return {"id": number, "type": "private", "first_name": "P"}
        return {"id": number, "type": "supergroup", "title": "Shoes"}

    def message(
        self, text: str = "", *, chat: int = ANN, user: int = ANN, language: str = "en", **more: Any
    ) -> Json:
        """A message a person sends, not yet in the queue."""
        self._next_message += 1
        message: Json = {
            "message_id": self._next_message,
            "date": int(time.time()),
            "chat": self.chat(chat),
            "from": self.person(user, language),
            **more,
        }
        if text:
            message["text"] = text
            entities = [*_commands(text), *_mentions(text)]
            if entities:
                message["entities"] = entities
        return message

    async def says(self, text: str = "", **more: Any) -> Json:
        """A person sends a message; the message."""
        message = self.message(text, **more)
        await self.update(message=message)
        return message

    async def sends_file(self, data: bytes, kind: str = "image/jpeg", **more: Any) -> Json:
        """A person sends a photo as a file, which Telegram leaves as it is."""
        name = f"file{len(self.files)}"
        self.files[name] = data
        document = {"file_id": name, "file_unique_id": name, "file_name": "shoe.jpg"}
        document |= {"mime_type": kind, "file_size": len(data)}
        return await self.says(document=document, **more)

    async def sends_photo(self, data: bytes, *, caption: str = "", **more: Any) -> Json:
        """A person sends a photo in two sizes."""
        words: Json = {}
        if caption:
            words = {"caption": caption, "caption_entities": _mentions(caption)}
        return await self.says(photo=self.photo(data), **words, **more)

    def photo(self, data: bytes) -> list[Json]:
        """A photo in two sizes; the larger can be fetched."""
        name = f"file{len(self.files)}"
        self.files[name] = data
        small = {"file_id": "small", "file_unique_id": "s", "width": 90, "height": 90}
        large = {
            "file_id": name,
            "file_unique_id": name,
            "width": 1280,
            "height": 960,
            "file_size": len(data),
        }
        return [small, large]

    async def presses(self, data: str, under: Shown, *, user: int = ANN) -> None:
        """A person presses a button."""
        await self.update(callback_query=self._press(data, under, user))

    def _press(self, data: str, under: Shown, user: int) -> Json:
        return {
            "id": f"query{self.next_update}",
            "from": self.person(user),
            "chat_instance": "1",
            "data": data,
            "message": self._as_message(under),
        }

    async def reacts(
        self, emoji: str, to: Shown, *, user: int = ANN, before: str = "", **more: Any
    ) -> None:
        """A person puts an emoji on a message, in the place of the one that was there before."""
        await self.update(message_reaction=self._reaction(emoji, to, user, before) | more)

    def _reaction(self, emoji: str, to: Shown, user: int, before: str) -> Json:
        return {
            "chat": self.chat(to.chat_id),
            "message_id": to.message_id,
            "user": self.person(user),
            "date": int(time.time()),
            "old_reaction": _emoji(before),
            "new_reaction": _emoji(emoji),
        }

    async def replies(self, to: Shown, text: str, **more: Any) -> Json:
        """A person replies to a message of the bot."""
        return await self.says(text, reply_to_message=self._as_message(to), **more)

    async def update(self, **content: Json) -> None:
        """Put something into the queue."""
        self.next_update += 1
        self.sent.append({"update_id": self.next_update, **content})
        self.waiting.append(self.sent[-1])
        await self._note()

    def numbered(self, message: Json) -> Json:
        """An update with this message, as it is posted to a webhook."""
        self.next_update += 1
        return {"update_id": self.next_update, "message": message}

    def numbered_press(self, data: str, under: Shown, *, user: int = ANN) -> Json:
        """An update with a press of a button, as it is posted to a webhook."""
        self.next_update += 1
        return {"update_id": self.next_update, "callback_query": self._press(data, under, user)}

    def numbered_reaction(
        self, emoji: str, to: Shown, *, user: int = ANN, before: str = "", **more: Any
    ) -> Json:
        """An update with another emoji on a message, as it is posted to a webhook."""
        self.next_update += 1
        reaction = self._reaction(emoji, to, user, before) | more
        return {"update_id": self.next_update, "message_reaction": reaction}

    def delete(self, shown: Shown) -> None:
        """A person deletes a message."""
        self.shown.remove(shown)

    # --- what tests ask ---

    def refuse(self, method: str, *refusals: Refusal | None) -> None:
        """Answer the next calls of a method like this; None closes the connection instead."""
        self._refusals[method] += refusals

    def stall(self, polls: int) -> None:
        """Leave the next polls without an answer, on lines that stay open."""
        self._stalls = polls

    def cut_lines(self) -> None:
        """Break all connections that are open."""
        for line in self._lines:
            line.abort()
        self._lines.clear()

    def relent(self, method: str) -> None:
        """Refuse no more calls of a method."""
        self._refusals[method].clear()

    def flood(
        self,
        *,
        share: float,
        seconds: tuple[int, int],
        dice: random.Random,
        clock: Callable[[], float],
    ) -> None:
        """From now on tell a share of the calls that their chat has to wait so long."""
        self._flood = _Flood(share, seconds, dice, clock)

    def drop_answers(self, *, share: float, methods: tuple[str, ...], dice: random.Random) -> None:
        """From now on do what a share of the calls say, and break off before the answer."""
        self._drop = _Drop(share, methods, dice)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so; it is asked again after every call."""
        async with asyncio.timeout(self.patience_seconds), self._changed:
            await self._changed.wait_for(true)

    def called(self, method: str) -> list[Json]:
        """What the calls of a method said."""
        return [call.values for call in self.calls if call.method == method]

    def texts(self, chat: int = ANN) -> list[str]:
        """What the bot's messages in a chat say now."""
        return [shown.text for shown in self.shown if shown.chat_id == chat]

    async def answered(self, count: int = 1) -> Shown:
        """Wait for this many answers with thumbs under them; the last of them."""

        def rated() -> list[Shown]:
            return [one for one in self.shown if any(d.startswith("up:") for d in one.data)]

        await self.until(lambda: len(rated()) >= count)
        return rated()[-1]

    # --- the server ---

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeTelegram]:
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", self._on_call)
        app.router.add_get("/file/bot{token}/{name}", self._on_file)
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
        assert isinstance(request.transport, asyncio.Transport)
        self._lines.add(request.transport)
        values = {key: _value(str(text)) for key, text in (await request.post()).items()}
        self.calls.append(Call(method, values))
        try:
            if request.match_info["token"] != TOKEN:
                raise Refusal(401, "Unauthorized")
            if refusals := self._refusals[method]:
                refusal = refusals.pop(0)
                if refusal is None:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                raise refusal
            self._check_flood(method, values)
            result = await getattr(self, f"_{method}", self._anything)(values)
            if self._drop is not None and self._drop.strikes(method):
                self.drops += 1
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        except Refusal as exc:
            body = {"ok": False, "error_code": exc.status, "description": str(exc)}
            if exc.parameters:
                body["parameters"] = exc.parameters
            return web.json_response(body, status=exc.status)
        finally:
            await self._note()
        return web.json_response({"ok": True, "result": result})

    async def _on_file(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.files[request.match_info["name"]])

    def _check_flood(self, method: str, values: Json) -> None:
        flooding = self._flood
        if flooding is None or not method.startswith(("send", "edit")):
            return
        chat, now = values["chat_id"], flooding.clock()
        if now < flooding.free_at.get(chat, 0.0):
            self.calls_inside_a_penalty += 1
        elif flooding.dice.random() < flooding.share:
            seconds = flooding.dice.randint(*flooding.seconds)
            flooding.free_at[chat] = now + seconds
            self.floods += 1
            raise flood(seconds)

    async def _anything(self, values: Json) -> bool:
        return True

    async def _getMe(self, values: Json) -> Json:
        return {"id": BOT_ID, "is_bot": True, "first_name": "Solemate", "username": USERNAME}

    async def _setMyCommands(self, values: Json) -> bool:
        chat = values.get("scope", {}).get("chat_id")
        spoken = {update["message"]["chat"]["id"] for update in self.sent if "message" in update}
        if chat is not None and chat not in spoken:
            raise Refusal(400, "Bad Request: chat not found")
        names = [one["command"] for one in values["commands"]]
        self.menus[chat, values.get("language_code")] = names
        return True

    async def _setWebhook(self, values: Json) -> bool:
        self.webhook = values["url"]
        return True

    async def _deleteWebhook(self, values: Json) -> bool:
        self.webhook = ""
        return True

    async def _getWebhookInfo(self, values: Json) -> Json:
        info: Json = {
            "url": self.webhook,
            "has_custom_certificate": False,
            "pending_update_count": len(self.waiting),
        }
        if self.webhook_error:
            info |= {"last_error_date": int(time.time()), "last_error_message": self.webhook_error}
        return info

    async def _getUpdates(self, values: Json) -> list[Json]:
        if self.webhook:
            raise Refusal(409, "Conflict: can't use getUpdates method while webhook is active")
        if self._stalls:
            self._stalls -= 1
            await asyncio.Event().wait()
        if offset := values.get("offset"):
            self.waiting = [one for one in self.waiting if one["update_id"] >= offset]
            self.confirmed = offset
            await self._note()
        self._polls += 1
        mine = self._polls
        await self._note()
        if not self.waiting and values.get("timeout"):
            try:
                async with asyncio.timeout(values["timeout"]), self._changed:
                    await self._changed.wait_for(lambda: bool(self.waiting) or self._polls != mine)
            except TimeoutError:
                pass
        if self._polls != mine:
            self.conflicts += 1
            raise CONFLICT
        return self.waiting[:100]

    async def _getFile(self, values: Json) -> Json:
        name = values["file_id"]
        size = len(self.files[name])
        return {"file_id": name, "file_unique_id": name, "file_size": size, "file_path": name}

    async def _sendMessage(self, values: Json) -> Json:
        self._next_message += 1
        markup = values.get("reply_markup", {})
        shown = Shown(
            values["chat_id"],
            self._next_message,
            self._checked(values),
            values.get("entities", []),
            markup.get("inline_keyboard", []),
            values.get("message_thread_id"),
            values.get("reply_parameters", {}).get("message_id"),
            markup if markup.get("force_reply") else {},
            self.drafts.pop(values["chat_id"], []),
        )
        self.shown.append(shown)
        return self._as_message(shown)

    async def _sendMessageDraft(self, values: Json) -> bool:
        if not self.takes_drafts:
            raise Refusal(404, "Not Found")
        if values["chat_id"] < 0 or not values["draft_id"]:
            raise Refusal(400, "Bad Request: TEXTDRAFT_PEER_INVALID")
        self.drafts[values["chat_id"]].append(self._checked(values))
        return True

    async def _editMessageText(self, values: Json) -> Json:
        shown, text = self._find(values), self._checked(values)
        keyboard = values.get("reply_markup", {}).get("inline_keyboard", [])
        if (text, keyboard) == (shown.text, shown.keyboard):
            raise Refusal(400, "Bad Request: message is not modified: nothing is new")
        shown.earlier.append(shown.text)
        shown.text, shown.keyboard = text, keyboard
        shown.entities = values.get("entities", [])
        return self._as_message(shown)

    async def _editMessageReplyMarkup(self, values: Json) -> Json:
        shown = self._find(values)
        shown.keyboard = values.get("reply_markup", {}).get("inline_keyboard", [])
        return self._as_message(shown)

    def _find(self, values: Json) -> Shown:
        for shown in self.shown:
            if (shown.chat_id, shown.message_id) == (values["chat_id"], values["message_id"]):
                return shown
        raise Refusal(400, "Bad Request: message to edit not found")

    def _as_message(self, shown: Shown) -> Json:
        message: Json = {
            "message_id": shown.message_id,
            "date": 1_790_000_000,
            "chat": self.chat(shown.chat_id),
            "from": {"id": BOT_ID, "is_bot": True, "first_name": "S", "username": USERNAME},
            "text": shown.text,
        }
        if shown.thread_id:
            message |= {"message_thread_id": shown.thread_id, "is_topic_message": True}
        return message

    def _checked(self, values: Json) -> str:
        """The text, if Telegram would take it."""
        text = str(values["text"])
        length = utf16_length(text)
        if not 0 < length <= 4096:
            raise Refusal(400, "Bad Request: message is too long")
        entities = values.get("entities", [])
        if entities and not self.takes_entities:
            raise Refusal(400, "Bad Request: can't parse entities")
        for entity in entities:
            if entity["offset"] + entity["length"] > length or entity["length"] < 1:
                raise Refusal(400, "Bad Request: ENTITY_BOUNDS_INVALID")
        return text

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _emoji(sign: str) -> list[Json]:
    return [{"type": "emoji", "emoji": sign}] if sign else []


def _commands(text: str) -> list[Json]:
    if not text.startswith("/"):
        return []
    return [{"type": "bot_command", "offset": 0, "length": len(text.split(" ")[0])}]


def _mentions(text: str) -> list[Json]:
    name = f"@{USERNAME}"
    at = text.find(f" {name}") + 1 if f" {name}" in text else (0 if text.startswith(name) else -1)
    if at < 0:
        return []
    return [{"type": "mention", "offset": utf16_length(text[:at]), "length": len(name)}]
