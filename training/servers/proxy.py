"""A narrow door before a model server: a list of paths, two keys, and nothing else gets through.

vLLM's key guards `/v1` alone. Its adapter routes load any folder of the disk for whoever knows
them, some under names outside `/v1`, and its API grows with every release: so what is not listed
here is not there. Answers are passed on as they come.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal

import httpx
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from core.errors import ConfigError
from core.ports import listening

log = structlog.get_logger()

MAX_BODY_BYTES = 1_000_000
_CONNECT_SECONDS = 5.0
# Long enough for any answer and any adapter: whoever asks has a deadline of their own.
_ANSWER_SECONDS = 600.0

Who = Literal["engine", "loop"]

DOOR: dict[tuple[str, str], Who] = {
    ("POST", "/v1/chat/completions"): "engine",
    ("GET", "/v1/models"): "engine",
    ("POST", "/v1/load_lora_adapter"): "loop",
    ("POST", "/v1/unload_lora_adapter"): "loop",
    ("GET", "/health"): "engine",
    ("GET", "/metrics"): "engine",
}
"""All there is. Whoever watches the server has the engine's key as well."""


@dataclass(frozen=True, slots=True)
class Keys:
    """`engine` asks questions; `loop` loads adapters, and asks questions as well.

    Without an engine's key everybody may ask; without a loop's key nobody loads an adapter.
    """

    engine: str = ""
    loop: str = ""

    def check(self, host: str) -> None:
        """Raise `ConfigError` where these keys would leave a door open."""
        if not self.engine and host not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigError(
                f"On {host!r} other machines reach the model server: set MODEL_API_KEY, here and "
                "where `solemate up` runs, or serve on 127.0.0.1."
            )
        if self.loop and self.loop == self.engine:
            raise ConfigError(
                "MODEL_ADMIN_KEY and MODEL_API_KEY are the same, so whoever may ask questions "
                "could load adapters. Make another: openssl rand -hex 32."
            )

    def admit(self, who: Who, given: str) -> bool:
        """Whether this key opens what is for `who`."""
        if who == "engine" and not self.engine:
            return True
        known = (self.loop,) if who == "loop" else (self.engine, self.loop)
        return any(one and secrets.compare_digest(given.encode(), one.encode()) for one in known)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind the door: its address without `/v1`, and the key that it asks for.

    Where it has a `model`, only that name may be asked for: it would answer to any other, too, and
    it takes no adapters. `health` is the path that tells whether it lives.
    """

    url: str
    key: str = ""
    model: str = ""
    health: str = "/health"

    async def healthy(self, client: httpx.AsyncClient) -> bool:
        """Whether it answers."""
        try:
            answer = await client.get(f"{self.url}{self.health}", headers=self.headers)
        except httpx.HTTPError:
            return False
        return answer.is_success

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries; an answer that is packed could not be passed on at once."""
        authorization = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return {"accept-encoding": "identity", **authorization}


def create_proxy(upstream: Upstream, keys: Keys, client: httpx.AsyncClient) -> Starlette:
    """The door as an ASGI application; `client` stays open as long as it is used."""

    async def passed_on(request: Request) -> Response:
        if refusal := _refusal(request, keys):
            return refusal
        try:
            body = await _body(request)
        except ClientDisconnect:
            return Response(status_code=499)
        if body is None:
            return _error(413, f"A request has at most {MAX_BODY_BYTES} bytes.")
        if upstream.model and (refusal := _other_model(request, body, upstream.model)):
            return refusal
        return await _passed_on(client, upstream, request, body)

    app = Starlette(
        routes=[Route(path, passed_on, methods=[method]) for method, path in DOOR],
        exception_handlers={404: _not_here, 405: _not_here},
    )
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def door(upstream: Upstream, keys: Keys, host: str, port: int) -> AsyncIterator[str]:
    """The door, open for whoever knows a key; gives its base URL, which ends in `/v1`."""
    keys.check(host)
    timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    with listening(host, port, "model.base_url") as listener:
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
            server = _Uvicorn(
                uvicorn.Config(
                    create_proxy(upstream, keys, client),
                    lifespan="off",
                    ws="none",
                    log_config=None,
                    timeout_graceful_shutdown=10,
                )
            )
            task = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                bound = listener.getsockname()
                yield f"http://{bound[0]}:{bound[1]}/v1"
            finally:
                server.should_exit = True
                await task


def _refusal(request: Request, keys: Keys) -> Response | None:
    who = DOOR[request.method if request.method != "HEAD" else "GET", request.url.path]
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if keys.admit(who, given):
        return None
    if who == "loop" and not keys.loop:
        return _error(403, "Adapters are not loaded here: the server has no MODEL_ADMIN_KEY.")
    if who == "loop" and keys.admit("engine", given):
        return _error(403, "This key asks questions; adapters are loaded with MODEL_ADMIN_KEY.")
    return _error(401, "Unauthorized")


def _other_model(request: Request, body: bytes, model: str) -> Response | None:
    """A 404 in vLLM's words for a model or a path that this server does not have."""
    if request.url.path.endswith("_lora_adapter"):
        return _error(404, "Not Found")
    if request.url.path != "/v1/chat/completions":
        return None
    try:
        asked = json.loads(body)["model"]
    except (ValueError, TypeError, KeyError):
        return _error(400, "The body is no JSON object with a `model`.")
    return None if asked == model else _error(404, f"The model `{asked}` does not exist.")


async def _body(request: Request) -> bytes | None:
    """What was sent; None where it is too much."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


async def _passed_on(
    client: httpx.AsyncClient, upstream: Upstream, request: Request, body: bytes
) -> Response:
    headers = {"content-type": "application/json", **upstream.headers}
    if trace := request.headers.get("traceparent"):
        headers["traceparent"] = trace
    path = upstream.health if request.url.path == "/health" else request.url.path
    asked = client.build_request(
        request.method, f"{upstream.url}{path}", content=body, headers=headers
    )
    try:
        answer = await client.send(asked, stream=True)
    except httpx.HTTPError as exc:
        log.warning("model_server_away", problem=type(exc).__name__)
        return _error(503, "The model server does not answer. Is it starting? Its log says more.")
    return StreamingResponse(
        _pieces(answer),
        answer.status_code,
        {"content-type": answer.headers.get("content-type", "application/json")},
        background=BackgroundTask(answer.aclose),
    )


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    """What the server sends; where it breaks off, so does this, and no end is made up."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        # Whoever asked may have left in the middle: the server is to stop computing then.
        await answer.aclose()


async def _not_here(_: Request, __: Exception) -> Response:
    return _error(404, "Not Found")


def _error(status: int, message: str) -> JSONResponse:
    kind = "AuthenticationError" if status in (401, 403) else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: who opened the door closes it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
