"""An OpenAI-compatible server for a transformers model with LoRA adapters, on CPU.

Paths, bodies, status codes and metric names are those of vLLM, so that one client, one registry
and one dashboard serve both. A request's `model` chooses the adapter; an unloaded or replaced
adapter goes on serving the answers it has begun.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import prometheus_client
import structlog
import torch
import uvicorn
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import AdapterRejected, Busy, ConfigError, ModelUnavailable, NotFound
from core.ports import listening
from core.tracing import Span, Tracing
from training.servers import decoding
from training.servers.decoding import Chunk, Decoder, Generation
from training.servers.lora import LoraWeights, read_adapter

log = structlog.get_logger()

MAX_BODY_BYTES = 1_000_000
MAX_ADAPTERS = 16
GRACE_SECONDS = 3.0
"""How long a stopping server lets answers run on before it ends them with an error."""

_Body = TypeVar("_Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What `serve` needs to know; port 0 takes a free one, an empty `api_key` asks for none.

    One thread is enough for a small model; two on a machine that has no more cores than that lose
    most of their time waiting for each other as soon as anything else runs.
    """

    model: Path
    served_name: str
    host: str
    port: int
    adapters: Mapping[str, Path] = field(default_factory=dict)
    api_key: str = ""
    threads: int = 1
    slots: int = 8
    waiting: int = 32
    tracing: Tracing = field(default_factory=Tracing)


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model in fp32, its tokenizer, and the folder both came from.

    `context` is the most tokens that prompt and answer may have together.
    """

    network: Any
    tokenizer: Any
    folder: Path
    context: int
    ends: frozenset[int]

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, special ones left out."""
        text: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def encode(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """The tokens of a conversation up to where the assistant speaks next."""
        return tuple(
            self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
        )


@dataclass(frozen=True, slots=True)
class _Adapter:
    name: str
    path: Path
    weights: LoraWeights


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str | list[_TextPart]

    @property
    def text(self) -> str:
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        return "\n".join(parts)


class _StreamOptions(BaseModel):
    include_usage: bool = False


_Stop = Annotated[str, Field(min_length=1, max_length=256)]
# Fields that would change the answer, and that this server does not have.
_UNSUPPORTED = (
    "tools",
    "functions",
    "logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "top_k",
    "min_p",
)


class _ChatRequest(BaseModel):
    """The body of `/v1/chat/completions`; fields that nobody knows are ignored, as in vLLM."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: Literal[1] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @model_validator(mode="after")
    def _has_nothing_unsupported(self) -> _ChatRequest:
        if self.stream_options and not self.stream:
            raise ValueError("Stream options can only be defined when `stream=True`.")
        for name in _UNSUPPORTED:
            if (self.model_extra or {}).get(name):
                raise ValueError(f"`{name}` is not supported by this server.")
        return self

    def decoding_request(
        self, tokens: tuple[int, ...], room: int, weights: LoraWeights | None
    ) -> decoding.Request:
        """What the decoder needs; the answer gets what is left of the context at most."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return decoding.Request(
            tokens=tokens,
            max_tokens=min(self.max_completion_tokens or self.max_tokens or room, room),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=self.seed,
            stop=stop,
            weights=weights,
        )


class _LoadRequest(BaseModel):
    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False


class _UnloadRequest(BaseModel):
    lora_name: str = ""


class _ApiError(Exception):
    """An answer other than success, in OpenAI's words for it."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, dict[str, str | int | None]]:
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.status,
            }
        }


def load_model(folder: Path) -> LanguageModel:
    """Read a model from its folder: safetensors only, no code from it, nothing downloaded.

    Raises `NotFound` when there is none and `ConfigError` when it cannot be served.
    """
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise NotFound(
            f"There is no model in {str(folder)!r}: config.json and safetensors belong there. "
            "Run `solemate models build`, or name another folder."
        )
    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise ConfigError(f"The model in {str(folder)!r} cannot be read: {exc}.") from exc
    if tokenizer.chat_template is None:
        raise ConfigError(f"The tokenizer in {str(folder)!r} has no chat template; add one.")
    return LanguageModel(
        network=network,
        tokenizer=tokenizer,
        folder=folder,
        context=network.config.max_position_embeddings,
        ends=_token_ids(network.generation_config.eos_token_id, tokenizer.eos_token_id),
    )


def create_app(
    model: LanguageModel,
    decoder: Decoder,
    *,
    served_name: str,
    adapters: Mapping[str, Path] | None = None,
    api_key: str = "",
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
        middleware=[Middleware(_KeyRequired, api_key=api_key)],
        exception_handlers={
            _ApiError: _to_response,
            HTTPException: _to_response,
            Exception: _to_response,
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
                api_key=options.api_key,
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
        self._metrics = _Metrics(decoder, served_name)
        self._started = int(time.time())

    def add(self, name: str, path: Path, weights: LoraWeights) -> None:
        """Let `name` answer with these weights from the next request on."""
        self._adapters[name] = _Adapter(name, path, weights)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, streamed or whole."""
        asked = await _body(request, _ChatRequest)
        weights = self._weights(asked.model)
        tokens = await asyncio.to_thread(self._encode, asked)
        room = self._model.context - len(tokens)
        if room <= 0:
            raise _bad(
                f"This model's maximum context length is {self._model.context} tokens. However, "
                f"your request has {len(tokens)} input tokens. Please reduce the length of the "
                "input messages.",
                param="input_tokens",
            )
        try:
            generation = self._decoder.submit(asked.decoding_request(tokens, room, weights))
        except Busy as busy:
            raise _ApiError(busy.status, "ServiceUnavailableError", str(busy)) from busy
        span = self._tracing.begin(
            "generate",
            header=request.headers.get("traceparent", ""),
            model=asked.model,
            prompt_tokens=len(tokens),
        )
        chunks = _traced(span, self._metrics.watch(asked.model, generation))
        answer = _Answer(asked, generation, chunks, span)
        if asked.stream:
            return _EventStream(answer)
        return await _unless_gone(request, answer)

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
        asked = await _body(request, _LoadRequest)
        name = asked.lora_name
        if not name or not asked.lora_path:
            raise _invalid("Both 'lora_name' and 'lora_path' must be provided.")
        async with self._changing:
            self._check_name(name, replace=asked.load_inplace)
            path = Path(asked.lora_path)
            weights = await self._read(path)
            self.add(name, path, weights)
        log.info("adapter_loaded", adapter=name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        """Forget an adapter's name; answers that it has begun go on."""
        asked = await _body(request, _UnloadRequest)
        name = asked.lora_name
        if not name:
            raise _invalid("'lora_name' needs to be provided to unload a LoRA adapter.")
        async with self._changing:
            if self._adapters.pop(name, None) is None:
                raise _not_found(f"The lora adapter '{name}' cannot be found.")
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
            raise _not_found(f"The model `{model}` does not exist.", param="model")
        return self._adapters[model].weights

    def _encode(self, asked: _ChatRequest) -> tuple[int, ...]:
        try:
            return self._model.encode(
                [{"role": one.role, "content": one.text} for one in asked.messages]
            )
        except (TemplateError, UnicodeError, TypeError) as exc:
            raise _bad(f"The messages cannot be put into the model's template: {exc}") from exc

    async def _read(self, path: Path) -> LoraWeights:
        try:
            return await asyncio.to_thread(
                read_adapter, path, self._model.network, self._model.folder
            )
        except NotFound as exc:
            raise _not_found(str(exc)) from exc
        except AdapterRejected as exc:
            log.warning("adapter_refused", reason=str(exc))
            raise _ApiError(500, "InternalServerError", str(exc)) from exc

    def _check_name(self, name: str, *, replace: bool) -> None:
        if name == self._served_name:
            raise _invalid(f"The lora adapter name '{name}' conflicts with a served base model.")
        if name in self._adapters and not replace:
            raise _invalid(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        if name not in self._adapters and len(self._adapters) >= MAX_ADAPTERS:
            raise _invalid(f"{MAX_ADAPTERS} lora adapters are loaded already; unload one first.")

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


class _Answer:
    """One completion on its way to the client, whole or as events."""

    def __init__(
        self,
        asked: _ChatRequest,
        generation: Generation,
        chunks: AsyncIterator[Chunk],
        span: Span,
    ) -> None:
        self._span = span
        self._asked = asked
        self._generation = generation
        self._chunks = chunks
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": asked.model,
        }

    def cancel(self) -> None:
        self._generation.cancel()
        self._span.end()

    async def whole(self) -> Response:
        """One JSON body once the answer is complete."""
        try:
            chunks = [chunk async for chunk in self._chunks]
        except ModelUnavailable as failure:
            raise _ApiError(500, "InternalServerError", str(failure)) from failure
        message = {"role": "assistant", "content": "".join(chunk.text for chunk in chunks)}
        choice = {"index": 0, "message": message, "finish_reason": chunks[-1].finish_reason}
        return JSONResponse(
            {
                **self._head,
                "object": "chat.completion",
                "choices": [choice],
                "usage": self._usage(chunks[-1]),
            }
        )

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events; a failure is an error object, so that it is not taken for an end."""
        yield self._event({"role": "assistant", "content": ""}, None)
        try:
            async for chunk in self._chunks:
                if chunk.text or chunk.finish_reason:
                    yield self._event({"content": chunk.text}, chunk.finish_reason)
        except ModelUnavailable as failure:
            yield _sse(_ApiError(500, "InternalServerError", str(failure)).body())
        else:
            if self._asked.stream_options and self._asked.stream_options.include_usage:
                yield _sse(self._chunk([], usage=self._usage(chunk)))
        yield "data: [DONE]\n\n"

    def _event(self, delta: dict[str, str], finish_reason: str | None) -> str:
        return _sse(self._chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason}]))

    def _chunk(self, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}

    def _usage(self, last: Chunk) -> dict[str, int]:
        read = len(self._generation.request.tokens)
        return {
            "prompt_tokens": read,
            "completion_tokens": last.tokens,
            "total_tokens": read + last.tokens,
        }


async def _traced(span: Span, chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """The chunks, with what is worth knowing of them noted."""
    async for chunk in chunks:
        if chunk.finish_reason:
            span.note(answer_tokens=chunk.tokens, finish_reason=chunk.finish_reason)
        yield chunk


class _EventStream(StreamingResponse):
    """Streams an answer, and frees its slot however the connection ends."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__(answer.events(), media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


class _Metrics:
    """vLLM's metric names, labelled with the model or adapter that was asked for."""

    def __init__(self, decoder: Decoder, served_name: str) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        for name, what, value in (
            ("running", "are being decoded", lambda: decoder.running),
            ("waiting", "wait for a slot", lambda: decoder.waiting),
        ):
            gauge = prometheus_client.Gauge(
                f"vllm:num_requests_{name}",
                f"Requests that {what}.",
                ["model_name"],
                registry=self._registry,
            )
            gauge.labels(served_name).set_function(value)
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens read.")
        self._answer_tokens = self._counter("generation_tokens", "Tokens generated.")
        self._ended = self._counter("request_success", "Answers that ended.", "finished_reason")
        self._first_token = prometheus_client.Histogram(
            "vllm:time_to_first_token_seconds",
            "Seconds from the request to its first token.",
            ["model_name"],
            registry=self._registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
        )

    def page(self) -> bytes:
        """Everything in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

    async def watch(self, model: str, generation: Generation) -> AsyncIterator[Chunk]:
        """The generation's chunks, counted as they pass."""
        begun = time.perf_counter()
        counted = 0
        async for chunk in generation.chunks():
            if not counted:
                self._first_token.labels(model).observe(time.perf_counter() - begun)
                self._prompt_tokens.labels(model).inc(len(generation.request.tokens))
            self._answer_tokens.labels(model).inc(chunk.tokens - counted)
            counted = chunk.tokens
            if chunk.finish_reason:
                self._ended.labels(model, chunk.finish_reason).inc()
            yield chunk

    def _counter(self, name: str, what: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(
            f"vllm:{name}", what, ["model_name", *labels], registry=self._registry
        )


class _KeyRequired:
    """Lets only those who know the key reach `/v1`; without a key, everybody."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1") and not self._knows(scope):
            refusal = _ApiError(401, "AuthenticationError", "Unauthorized")
            await JSONResponse(refusal.body(), 401)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return self._expected is None or secrets.compare_digest(given, self._expected)


async def _unless_gone(request: Request, answer: _Answer) -> Response:
    """The whole answer, given up as soon as its client leaves."""
    work = asyncio.create_task(answer.whole())
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else Response(status_code=499)
    finally:
        answer.cancel()
        work.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, kind: type[_Body]) -> _Body:
    """The request's JSON as `kind`; raises 413 before it has read too much, 400 if it is wrong."""
    read = bytearray()
    try:
        async for part in request.stream():
            read += part
            if len(read) > MAX_BODY_BYTES:
                raise _ApiError(
                    413,
                    "RequestEntityTooLarge",
                    f"The request is longer than {MAX_BODY_BYTES} bytes.",
                )
    except ClientDisconnect as exc:
        raise _bad("The request was not sent to its end.") from exc
    try:
        return kind.model_validate_json(bytes(read))
    except ValidationError as exc:
        wrong = exc.errors()[0]
        where = ".".join(str(part) for part in wrong["loc"])
        raise _bad(f"{where or 'body'}: {wrong['msg']}", param=where or None) from exc


def _bad(message: str, param: str | None = None) -> _ApiError:
    return _ApiError(400, "BadRequestError", message, param)


def _invalid(message: str) -> _ApiError:
    return _ApiError(400, "InvalidUserInput", message)


def _not_found(message: str, param: str | None = None) -> _ApiError:
    return _ApiError(404, "NotFoundError", message, param)


async def _to_response(_: Request, exc: Exception) -> Response:
    if isinstance(exc, HTTPException):
        exc = _ApiError(exc.status_code, exc.detail.replace(" ", ""), exc.detail)
    if not isinstance(exc, _ApiError):
        exc = _ApiError(500, "InternalServerError", "Something went wrong; see the server's log.")
    headers = {"Retry-After": "1"} if exc.status == 503 else None
    return JSONResponse(exc.body(), exc.status, headers)


def _sse(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _token_ids(*ids: int | list[int] | None) -> frozenset[int]:
    lists = [one if isinstance(one, list) else [one] for one in ids if one is not None]
    return frozenset(one for several in lists for one in several)


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
