"""What all routes of the HTTP API share: whom they listen to, how they refuse, how they stream."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from bots.metrics import Metrics
from bots.web.person import preferred
from core.errors import Busy, SolemateError
from core.language import language_of
from core.messages import Language
from core.spelling import requirement
from core.wording import apology

log = structlog.get_logger()

# As much of a text as tells its language.
_SAMPLE = 1000
_SAFE = ("GET", "HEAD", "OPTIONS")
# How long the rest of a body that is refused is waited for.
_DRAIN_SECONDS = 10.0
_LOOPBACK = ("127.0.0.1", "localhost")


class Refused(SolemateError):
    """A request we do not take; `field` is the key that is wrong in it."""

    def __init__(self, status: int, code: str, field: str | None = None, **values: object) -> None:
        super().__init__(f"The request is refused: {code}.", **values)
        self.status = status
        self.code = code
        self.field = field


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request got no answer, as the caller reads it; `field` is the key that was wrong."""

    status: int
    code: str
    message: str
    field: str | None = None
    retry_after_seconds: int | None = None


ErrorShape = Callable[[Problem], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Gate:
    """Who may call, and how much may be sent; `origins` are the sites whose pages may."""

    origins: frozenset[str]
    max_body_bytes: int
    metrics: Metrics

    async def admit(self, request: Request) -> Request:
        """The request with its body read; `Refused` for a foreign page or an unfit body."""
        try:
            self._check(request)
        except Refused:
            await self._drain(request, 0)
            raise
        return await self._read(request) if request.method == "POST" else request

    def _check(self, request: Request) -> None:
        """Refuse what its head alone makes unfit."""
        if request.method not in _SAFE:
            origin = request.headers.get("origin")
            if origin is not None and origin not in self.origins:
                raise Refused(403, "origin", origin=origin[:100])
        if request.method != "POST":
            return
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "body_type")
        if _announced(request) > self.max_body_bytes:
            raise self._too_large()

    async def _drain(self, request: Request, read: int) -> None:
        """Take in the rest of a refused body that is not much larger than one that is taken.

        Many clients write all of it before they read: they would find the connection broken, and
        not the answer.
        """
        most = 2 * self.max_body_bytes
        if _announced(request) > most or "expect" in request.headers:
            return
        more = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while more and read <= most:
                    message = await request.receive()
                    read += len(message.get("body", b""))
                    more = message.get("more_body", False)

    async def _read(self, request: Request) -> Request:
        read = 0

        async def receive_at_most() -> Message:
            nonlocal read
            message = await request.receive()
            read += len(message.get("body", b""))
            if read > self.max_body_bytes:
                if message.get("more_body", False):
                    await self._drain(request, read)
                raise self._too_large()
            return message

        capped = Request(request.scope, receive_at_most)
        try:
            # Starlette keeps the body, so FastAPI finds it read and only parses it.
            await capped.body()
        except ClientDisconnect:
            raise Refused(400, "body_json") from None
        return capped

    def _too_large(self) -> Refused:
        return Refused(413, "body_large", limit=self.max_body_bytes)


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def route_class(gate: Gate, shape: ErrorShape) -> type[APIRoute]:
    """The class of routes behind this gate, whose errors have this shape."""

    class GatedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_gated(request: Request) -> Response:
                started = time.perf_counter()
                try:
                    response = await handle(await gate.admit(request))
                except (SolemateError, RequestValidationError, HTTPException) as exc:
                    response = error_response(_told(exc, request), shape)
                # The outermost handler: whatever it was, the caller gets one sentence.
                except Exception as exc:
                    log.exception("request_failed", route=self.path_format)
                    response = error_response(explain(exc, request), shape)
                gate.metrics.served(self.path_format, response.status_code)
                gate.metrics.took(self.path_format, time.perf_counter() - started)
                return response

            return handle_gated

    return GatedRoute


def refusing_routes(router: APIRouter, gate: Gate, shape: ErrorShape) -> list[Route]:
    """Routes to add behind a router's own: they refuse whatever else lies under its paths."""
    routes = [route for route in router.routes if isinstance(route, Route)]
    folders = sorted({route.path.split("/")[1] for route in routes})
    refuse = _Refusal(routes, gate, shape)
    return [Route(f"/{name}{rest}", refuse) for name in folders for rest in ("", "/{rest:path}")]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An application that answers 405 where a route knows the path, with `Allow`, and else 404."""

    routes: Sequence[Route]
    gate: Gate
    shape: ErrorShape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = ", ".join(sorted(self._methods(scope)))
        refused = (
            Refused(405, "wrong_method", allowed=allowed) if allowed else Refused(404, "no_route")
        )
        response = error_response(explain(refused, Request(scope)), self.shape)
        if allowed:
            response.headers["Allow"] = allowed
        self.gate.metrics.served("none", response.status_code)
        await response(scope, receive, send)

    def _methods(self, scope: Scope) -> set[str]:
        """What the routes at this path can be asked with."""
        return {
            method
            for route in self.routes
            if route.matches(scope)[0] is Match.PARTIAL
            for method in route.methods or ()
        }


async def stream_events(
    events: AsyncGenerator[dict[str, Any], None], request: Request, shape: ErrorShape
) -> AsyncGenerator[str, None]:
    """The events for the wire, then the error that ended them, if one did, then `[DONE]`."""
    try:
        async with aclosing(events):
            async for event in events:
                yield server_event(event)
    except SolemateError as exc:
        yield server_event(shape(_told(exc, request)))
    # The outermost handler: the status has been sent, so the stream itself says what happened.
    except Exception as exc:
        log.exception("stream_failed")
        yield server_event(shape(explain(exc, request)))
    yield server_event("[DONE]")


def explain(exc: Exception, request: Request) -> Problem:
    """An error as the caller reads it: a sentence of ours, in the language of the request."""
    error = _as_ours(exc)
    sentence = apology(error, _language_of_caller(getattr(request.state, "text", ""), request))
    match error:
        case Busy():
            seconds = math.ceil(error.retry_after_seconds)
            return Problem(error.status, error.code, sentence, retry_after_seconds=seconds)
        case Refused():
            return Problem(error.status, error.code, sentence, error.field)
        case _:
            return Problem(error.status, error.code, sentence)


def _told(exc: Exception, request: Request) -> Problem:
    """Explain an error; what the operator can mend is logged in its own words."""
    problem = explain(exc, request)
    if problem.status >= 500:
        log.error("request_failed", code=problem.code, error=str(exc))
    return problem


def error_response(problem: Problem, shape: ErrorShape) -> Response:
    """The problem as a response."""
    headers = {}
    if problem.retry_after_seconds is not None:
        headers["Retry-After"] = str(problem.retry_after_seconds)
    return JSONResponse(shape(problem), problem.status, headers)


def plain_shape(problem: Problem) -> dict[str, Any]:
    """`{"error": {"code", "message"}}`."""
    return {"error": {"code": problem.code, "message": problem.message}}


def caller_of(request: Request, name: str | None = None) -> str:
    """Who is asking: the name a caller gives, else its machine; never in plain text."""
    host = request.client.host if request.client else ""
    who = f"user {name}" if name else f"host {host}"
    return f"api:{hashlib.sha256(who.encode()).hexdigest()[:32]}"


def remember_text(request: Request, text: str) -> None:
    """Let errors of this request speak the language of its text."""
    request.state.text = text


def language_wanted(text: str, request: Request) -> Language | None:
    """The language to answer in where the text has no letters to tell it."""
    return None if _has_letters(text) else _preferred(request)


def own_origins(public_url: str) -> frozenset[str]:
    """The origins of our own pages; a loopback address has two names."""
    url = urlsplit(public_url)
    hosts = _LOOPBACK if url.hostname in _LOOPBACK else (url.hostname or "",)
    port = f":{url.port}" if url.port else ""
    return frozenset(f"{url.scheme}://{host}{port}" for host in hosts)


def is_foreign(request: Request, own: frozenset[str]) -> bool:
    """Whether a page of another site calls, as the caller's browser tells it.

    `own` are origins of ours. Behind a proxy that hides the address which people use, a browser of
    today still says that page and address belong together, at least where that is https.
    """
    origin = request.headers.get("origin")
    if origin is None or origin in own:
        return False
    relation = request.headers.get("sec-fetch-site")
    if relation is not None:
        return relation != "same-origin"
    return origin.partition("://")[2] != request.headers.get("host")


def server_event(data: dict[str, Any] | str) -> str:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n"


class EventStream(StreamingResponse):
    """Server-sent events; whoever makes them is closed as soon as the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette notices a client that left only when it sends again; a model may take seconds.
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(self.listen_for_disconnect(receive))
            writing = tasks.create_task(self._write(send))
            leaving.add_done_callback(lambda _: writing.cancel())
            writing.add_done_callback(lambda _: leaving.cancel())

    async def _write(self, send: Send) -> None:
        with suppress(OSError):
            async with aclosing(self._events):
                await self.stream_response(send)


def _has_letters(text: str) -> bool:
    return any(char.isalpha() for char in text[:_SAMPLE])


def _language_of_caller(text: str, request: Request) -> Language:
    told_by_text = language_of(text[:_SAMPLE]) if _has_letters(text) else None
    return told_by_text or _preferred(request) or "en"


def _preferred(request: Request) -> Language | None:
    return preferred(request.headers.get("accept-language", ""))


def _as_ours(exc: Exception) -> SolemateError:
    match exc:
        case SolemateError():
            return exc
        case RequestValidationError():
            return _wrong_body(exc)
        case HTTPException(status_code=400):
            return Refused(400, "body_json")
        case _:
            return SolemateError("Our own mistake; the log has it.")


def _wrong_body(exc: RequestValidationError) -> Refused:
    error = exc.errors()[0]
    if error["type"] == "json_invalid":
        return Refused(400, "body_json")
    field = ".".join(str(part) for part in error["loc"][1:])[:100]
    if not field:
        return Refused(422, "body_object")
    code = {"extra_forbidden": "unknown_field", "missing": "missing_field"}.get(error["type"])
    if code:
        return Refused(422, code, field, name=repr(field))
    return Refused(422, "invalid_field", field, name=repr(field), allowed=requirement(error))
