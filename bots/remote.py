"""A running solemate as an expert: the terminal's way to the HTTP API."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self

import httpx

from core.errors import SolemateError
from core.messages import (
    Delta,
    Done,
    Event,
    Feedback,
    ImageTag,
    Outcome,
    Rating,
    Replaced,
    Reply,
    Source,
    Timings,
    UserMessage,
)

_RATINGS = {Rating.UP: "thumbs_up", Rating.DOWN: "thumbs_down"}


class RemoteExpert:
    """Asks a solemate that runs at `address`; use it as `async with`."""

    def __init__(self, address: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        # An answer has its own deadline on the server; this one only notices a dead connection.
        self._http = httpx.AsyncClient(base_url=address, timeout=60, transport=transport)
        self._sessions: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def answer(self, message: UserMessage) -> AsyncGenerator[Event, None]:
        """The running solemate's answer as it comes; `SolemateError` with its own sentence."""
        body: dict[str, Any] = {
            "session_id": message.conversation_id,
            "message_id": message.id,
            "message": message.text,
        }
        if message.images:
            body["image"] = base64.b64encode(message.images[0]).decode("ascii")
        async with _answering(self._post("/chat/stream", body)) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = _to_event(json.loads(line.removeprefix("data: ")))
                if isinstance(event, Done):
                    self._sessions[event.reply.id] = event.reply.conversation_id
                if event is not None:
                    yield event

    async def rate(self, feedback: Feedback) -> None:
        """Send a verdict on one of this connection's answers."""
        body = {
            "session_id": self._sessions[feedback.reply_id],
            "message_id": feedback.reply_id,
            "feedback": _RATINGS[feedback.rating],
            "correction": feedback.correction or None,
        }
        async with _answering(self._post("/feedback", body)):
            pass

    def _post(self, path: str, body: dict[str, Any]) -> AbstractAsyncContextManager[httpx.Response]:
        # In ASCII, for what was typed may hold bytes of another encoding that have no UTF-8 form.
        content, kind = json.dumps(body), {"Content-Type": "application/json"}
        return self._http.stream("POST", path, content=content, headers=kind)


@asynccontextmanager
async def _answering(request: Any) -> AsyncIterator[httpx.Response]:
    """The response, or the server's sentence about what is wrong with the request."""
    try:
        async with request as response:
            if response.is_error:
                text = (await response.aread()).decode("utf-8", "replace")
                raise SolemateError(_sentence(text, response.status_code))
            yield response
    except httpx.HTTPError as exc:
        raise SolemateError(
            f"The running solemate does not answer ({type(exc).__name__}); is it being stopped?"
        ) from exc


def _sentence(text: str, status: int) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The running solemate answers {status}."


def _to_event(data: dict[str, Any]) -> Event | None:
    if "message" in data and "outcome" in data:
        return Done(_to_reply(data))
    if "error" in data:
        raise SolemateError(str(data["error"]["message"]))
    if "replace" in data:
        return Replaced(data["replace"])
    return Delta(data["content"]) if "content" in data else None


def _to_reply(data: dict[str, Any]) -> Reply:
    timings = {key: value for key, value in data["timings"].items() if key != "own"}
    return Reply(
        id=data["message_id"],
        conversation_id=data["session_id"],
        text=data["message"],
        outcome=Outcome(data["outcome"]),
        language=data["language"],
        sources=tuple(Source(**source) for source in data["sources"]),
        tags=tuple(ImageTag(**tag) for tag in data["tags"]),
        suggestions=tuple(data["suggestions"]),
        adapter=data["adapter"],
        complete=data["complete"],
        timings=Timings(**timings),
    )
