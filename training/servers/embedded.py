"""An OpenAI-compatible server for a transformers model with LoRA adapters, on CPU.

Paths, bodies, status codes and metric names are those of vLLM, so that one client, one registry
and one dashboard serve both. A request's `model` chooses the adapter; an unloaded or replaced
adapter goes on serving the answers it has begun.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import prometheus_client
import structlog
import torch
import uvicorn
from jinja2 import TemplateError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import AdapterRejected, Busy, NotFound
from core.ports import listening
from core.tracing import Tracing
from training.servers.answer import Answer, EventStream, whole_answer
from training.servers.api_errors import (
    ApiError,
    bad_request,
    error_response,
    invalid_input,
    not_found,
    server_error,
)
from training.servers.api_requests import ChatRequest, LoadRequest, UnloadRequest, read_body
from training.servers.decoding import Decoder
from training.servers.language_model import LanguageModel, load_model
from training.servers.lora import LoraWeights, read_adapter
from training.servers.metrics import Metrics
from training.servers.proxy import Keys

log = structlog.get_logger()

MAX_ADAPTERS = 16
GRACE_SECONDS = 3.0
"""How long a stopping server lets answers run on before it ends them with an error."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What `serve` needs to know; port 0 takes a free one, without `keys` everybody may ask.

    One thread is enough for a small model; two on a machine that has no more cores than that lose
    most of their time waiting for each other as soon as anything else runs.
    """

    model: Path
    served_name: str
    host: str
    port: int
    adapters: Mapping[str, Path] = field(default_factory=dict)
    keys: Keys = field(default_factory=Keys)
    threads: int = 1
    slots: int = 8
    waiting: int = 32
    tracing: Tracing = field(default_factory=Tracing)


@dataclass(frozen=True, slots=True)
class _Adapter:
    name: str
    path: Path
    weights: LoraWeights


def create_app(
    model: LanguageModel,
    decoder: Decoder,
    *,
    served_name: str,
    adapters: Mapping[str, Path] | None = None,
    keys: Keys | None = None,
    tracing: Tracing | None = None,
) -> Starlette:
    """The server as an ASGI application over a running decoder, with `adapters` loaded.

    Raises `NotFound` or `AdapterRejected` when one of the adapters cannot be used.
    """
    api = _Api(model, decoder, served_name, tracing or Tracing())
    for name, path in (adapters or {}).items():
        api.add(name, path, read_adapter(path, model.network, model.folder))
    return Starlette(
        routes=[
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/models", api.models),
            Route("/v1/load_lora_adapter", api.load_adapter, methods=["POST"]),
            Route("/v1/unload_lora_adapter", api.unload_adapter, methods=["POST"]),
            Route("/health", api.health),
            Route("/metrics", api.metrics),
        ],
        middleware=[Middleware(_KeysRequired, keys=keys or Keys())],
        exception_handlers={
            ApiError: error_response,
            HTTPException: error_response,
            Exception: error_response,
        },
    )


@asynccontextmanager
async def running(options: ServerOptions) -> AsyncIterator[str]:
    """A server that answers as long as this is open; gives its base URL, which ends in `/v1`.

    On leaving, running answers get a few seconds to end. Raises `ConfigError` for a taken port,
    `NotFound` for a missing model or adapter, `AdapterRejected` for a bad one.
    """
    with listening(options.host, options.port, "model.base_url") as listener:
        torch.set_num_threads(options.threads)
        model = await asyncio.to_thread(load_model, options.model)
        decoder = Decoder(
            model.network, model.decode, model.ends, slots=options.slots, waiting=options.waiting
        )
        with decoder:
            app = create_app(
                model,
                decoder,
                served_name=options.served_name,
                adapters=options.adapters,
                keys=options.keys,
                tracing=options.tracing,
            )
            async with _answering(app, listener, decoder):
                host, port = listener.getsockname()[:2]
                log.info("model_server_started", host=host, port=port, model=options.served_name)
                yield f"http://{host}:{port}/v1"


async def serve(options: ServerOptions) -> None:
    """Serve until SIGINT or SIGTERM, or until cancelled."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with running(options):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()


class _Api:
    """The endpoints, over one model and its adapters."""

    def __init__(
        self, model: LanguageModel, decoder: Decoder, served_name: str, tracing: Tracing
    ) -> None:
        self._tracing = tracing
        self._model = model
        self._decoder = decoder
        self._served_name = served_name
        self._adapters: dict[str, _Adapter] = {}
        self._changing = asyncio.Lock()
        self._metrics = Metrics(decoder, served_name)
        self._started = int(time.time())

    def add(self, name: str, path: Path, weights: LoraWeights) -> None:
        """Let `name` answer with these weights from the next request on."""
        self._adapters[name] = _Adapter(name, path, weights)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, streamed or whole."""
        asked = await read_body(request, ChatRequest)
        weights = self._weights(asked.model)
        tokens = await asyncio.to_thread(self._encode, asked)
        room = self._model.context - len(tokens)
        if room <= 0:
            raise bad_request(
                f"This model's maximum context length is {self._model.context} tokens. However, "
                f"your request has {len(tokens)} input tokens. Please reduce the length of the "
                "input messages.",
                param="input_tokens",
            )
        try:
            generation = self._decoder.submit(asked.decoding_request(tokens, room, weights))
        except Busy as busy:
            raise ApiError(busy.status, "ServiceUnavailableError", str(busy)) from busy
        span = self._tracing.begin(
            "generate",
            header=request.headers.get("traceparent", ""),
            model=asked.model,
            prompt_tokens=len(tokens),
        )
        chunks = self._metrics.watch(asked.model, generation)
        answer = Answer(asked, generation, chunks, span)
        if asked.stream:
            return EventStream(answer)
        return await whole_answer(request, answer)

    async def models(self, _: Request) -> Response:
        """The base model and every adapter, as vLLM lists them."""
        cards = [self._card(self._served_name, str(self._model.folder), None)]
        cards += [
            self._card(one.name, str(one.path), self._served_name)
            for one in self._adapters.values()
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def load_adapter(self, request: Request) -> Response:
        """Load an adapter; a broken one leaves everything as it was."""
        asked = await read_body(request, LoadRequest)
        name = asked.lora_name
        if not name or not asked.lora_path:
            raise invalid_input("Both 'lora_name' and 'lora_path' must be provided.")
        async with self._changing:
            self._check_name(name, replace=asked.load_inplace)
            path = Path(asked.lora_path)
            weights = await self._read(path)
            self.add(name, path, weights)
        log.info("adapter_loaded", adapter=name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        """Forget an adapter's name; answers that it has begun go on."""
        asked = await read_body(request, UnloadRequest)
        name = asked.lora_name
        if not name:
            raise invalid_input("'lora_name' needs to be provided to unload a LoRA adapter.")
        async with self._changing:
            if self._adapters.pop(name, None) is None:
                raise not_found(f"The lora adapter '{name}' cannot be found.")
        log.info("adapter_unloaded", adapter=name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def health(self, _: Request) -> Response:
        """200 while the decoding thread is alive."""
        return Response(status_code=200 if self._decoder.alive else 503)

    async def metrics(self, _: Request) -> Response:
        """Prometheus' text format."""
        return Response(self._metrics.page(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    def _weights(self, model: str) -> LoraWeights | None:
        if model == self._served_name:
            return None
        if model not in self._adapters:
            raise not_found(f"The model `{model}` does not exist.", param="model")
        return self._adapters[model].weights

    def _encode(self, asked: ChatRequest) -> tuple[int, ...]:
        try:
            return self._model.encode(
                [{"role": one.role, "content": one.text} for one in asked.messages]
            )
        except (TemplateError, UnicodeError, TypeError) as exc:
            raise bad_request(
                f"The messages cannot be put into the model's template: {exc}"
            ) from exc

    async def _read(self, path: Path) -> LoraWeights:
        try:
            return await asyncio.to_thread(
                read_adapter, path, self._model.network, self._model.folder
            )
        except NotFound as exc:
            raise not_found(str(exc)) from exc
        except AdapterRejected as exc:
            log.warning("adapter_refused", reason=str(exc))
            raise server_error(str(exc)) from exc

    def _check_name(self, name: str, *, replace: bool) -> None:
        if name == self._served_name:
            raise invalid_input(
                f"The lora adapter name '{name}' conflicts with a served base model."
            )
        if name in self._adapters and not replace:
            raise invalid_input(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        if name not in self._adapters and len(self._adapters) >= MAX_ADAPTERS:
            raise invalid_input(
                f"{MAX_ADAPTERS} lora adapters are loaded already; unload one first."
            )

    def _card(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "solemate",
            "root": root,
            "parent": parent,
            "max_model_len": self._model.context,
            "permission": [],
        }


class _KeysRequired:
    """Lets only those in who know a key; without keys, everybody.

    With no key of their own, adapters are loaded by whoever asks questions.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._knows(scope):
            refusal = ApiError(401, "AuthenticationError", "Unauthorized")
            await JSONResponse(refusal.body(), 401)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
        for_adapters = scope["path"].endswith("_lora_adapter")
        return self._keys.admit("loop" if for_adapters and self._keys.loop else "engine", given)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: who opened the server closes it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _answering(
    app: ASGIApp, listener: socket.socket, decoder: Decoder
) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(2 * GRACE_SECONDS),
    )
    server = _Server(config)
    config.load()
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        _, unfinished = await asyncio.wait({task}, timeout=GRACE_SECONDS)
        if unfinished:
            decoder.stop()
        await task
