"""The client of an OpenAI-compatible model server: deadlines, completeness, one retry.

Any OpenAI-compatible server will do: the embedded one, vLLM, LLaMA-Factory's API. The `openai`
package takes a truncated stream, an empty answer or an HTML page for a success, so what counts as
an answer is decided here: text, an end that the server announced, and the model that was asked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Self

import httpx2
import openai
import structlog
from pydantic import BaseModel, ValidationError

from core.breaker import Breaker, Refused, RetryBudget
from core.errors import (
    AdapterRejected,
    AnswerIncomplete,
    ModelMissing,
    ModelUnavailable,
    NoHotLoad,
    NotFound,
)
from core.messages import ChatMessage
from core.model import FinishReason, Piece, Sampling, Survey
from core.tracing import CARRIED

log = structlog.get_logger()

GAP_SECONDS = 5.0
"""The longest silence between two words; a half-open connection says nothing for ever."""
RETRY_SECONDS = 8.0
"""What must be left of the deadline for a second try to be worth its cost."""
# uvicorn, and with it vLLM, hangs up a connection that has rested for five seconds: the package's
# default, as long, asks over ones that are being closed, and the oldest one is asked first.
_CONNECTIONS = httpx2.Limits(max_connections=1000, keepalive_expiry=2.0)
_ADMIN_SECONDS = 60.0
_HEALTH_SECONDS = 5.0
_LAST_WORDS_SECONDS = 0.2
_LONGEST_TOKEN = 16
# Everything that is not text: C0 and C1 controls but tab and line feed, and halves of surrogates.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _Listed(BaseModel):
    id: str


class _Listing(BaseModel):
    data: list[_Listed]


class _Passing(ModelUnavailable):
    """A failure that may be gone a moment later: no connection, 5xx, 429."""


class _Away(_Passing):
    """Nobody listens there."""

    unasked = True


class OpenAIChatModel:
    """A model behind an OpenAI-compatible API; close it with `async with`.

    `base_url` ends in `/v1`. `base_model` is the served name of the model without an adapter.
    No text within `first_token_seconds`, or no end within `deadline_seconds`, is a failure,
    whatever the server sends in the meantime.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        base_model: str,
        first_token_seconds: float,
        deadline_seconds: float,
        http_client: httpx2.AsyncClient | None = None,
        breaker: Breaker | None = None,
        admin_key: str = "",
    ) -> None:
        """`admin_key` is sent to load and unload adapters, where the server wants another key."""
        self._base_url = base_url.rstrip("/")
        self._base_model = base_model
        self._first_token_seconds = first_token_seconds
        self._deadline_seconds = deadline_seconds
        self._breaker = breaker or Breaker()
        self._admin = {"Authorization": f"Bearer {admin_key}"} if admin_key else {}
        self._retries = RetryBudget()
        self._client = openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=deadline_seconds,
            # The package's usual HTTP client takes more than twice as long over a stream, and
            # longer with each connection that is open.
            http_client=http_client
            or openai.DefaultAioHttpClient(timeout=deadline_seconds, limits=_CONNECTIONS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """The answer of `adapter` ("" is the base model), piece by piece.

        Raises `ModelUnavailable` when the server cannot be asked, `ModelMissing` when it does not
        have that adapter, and `AnswerIncomplete` when what it sent is no complete answer; pieces
        that came before are then not to be trusted.
        """
        deadline = _now() + self._deadline_seconds
        model = adapter or self._base_model
        self._retries.deposit()
        shown = False
        try:
            async with aclosing(self._attempt(prompt, model, sampling, deadline)) as pieces:
                async for piece in pieces:
                    shown = True
                    yield piece
            return
        except _Passing as failure:
            if shown or not self._may_retry(deadline):
                raise
            log.info("model_retry", model=model, error=type(failure.__cause__).__name__)
        async with aclosing(self._attempt(prompt, model, sampling, deadline)) as pieces:
            async for piece in pieces:
                yield piece

    def _may_retry(self, deadline: float) -> bool:
        return self._breaker.closed and deadline - _now() >= RETRY_SECONDS and self._retries.spend()

    async def _attempt(
        self, prompt: Sequence[ChatMessage], model: str, sampling: Sampling, deadline: float
    ) -> AsyncGenerator[Piece, None]:
        with self._breaker.call(), _translated(self._base_url):
            silence = min(deadline, _now() + self._first_token_seconds)
            async with asyncio.timeout_at(silence):
                response = await self._client.post(
                    "/chat/completions",
                    # The package's own types for request and chunk cost more than all the rest
                    # between us and the first word; what comes is checked here anyway.
                    cast_to=object,
                    body=_request(prompt, model, sampling),
                    options={"headers": _trace()},
                    stream=True,
                    stream_cls=openai.AsyncStream[object],
                )
            async with response:
                _check_content_type(response.response)
                answer = _Answer(model, sampling.max_tokens)
                chunks = aiter(response)
                while not answer.finished:
                    async with asyncio.timeout_at(silence):
                        chunk = await anext(chunks, None)
                    piece = answer.read(chunk)
                    if piece.text or piece.finish_reason:
                        silence = min(deadline, _now() + GAP_SECONDS)
                        yield piece
                await _hear_out(chunks)

    async def models(self) -> list[str]:
        """The names that can be asked for: the base model and every loaded adapter."""
        with _translated(self._base_url):
            async with asyncio.timeout(_HEALTH_SECONDS):
                listing = await self._client.get("/models", cast_to=str)
        try:
            return [model.id for model in _Listing.model_validate_json(listing).data]
        except ValidationError as exc:
            raise ModelUnavailable(
                f"{self._base_url!r} did not list its models. Is it an OpenAI-compatible server?"
            ) from exc

    async def survey(self) -> Survey:
        """The names that this server has."""
        names = frozenset(await self.models())
        return Survey(names, names, {self._base_url: names})

    async def load_adapter(self, name: str, path: Path) -> None:
        """Make the LoRA adapter in `path`, a folder on the server's disk, answer as `name`.

        Raises `AdapterRejected` with the server's reason when it does not take it, `NoHotLoad`
        when it takes none at all while it runs.
        """
        await self._administer(
            "/load_lora_adapter", {"lora_name": name, "lora_path": str(path)}, AdapterRejected
        )

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; raises `NotFound` when the server does not know it."""
        await self._administer("/unload_lora_adapter", {"lora_name": name}, NotFound)

    @property
    def trusted(self) -> bool:
        """Whether it has not failed again and again of late."""
        return self._breaker.closed

    async def health(self) -> dict[str, bool]:
        """Whether the server answers, by its base URL."""
        return {self._base_url: await self.healthy()}

    async def healthy(self) -> bool:
        """Whether the server answers at all; it may still not have the adapter one wants."""
        root = self._base_url.removesuffix("/v1")
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self._client.get(f"{root}/health", cast_to=str)
        except openai.NotFoundError:
            return await self._lists_models()
        except (openai.OpenAIError, TimeoutError):
            return False
        return True

    async def _lists_models(self) -> bool:
        # LLaMA-Factory's API has no health path.
        try:
            await self.models()
        except ModelUnavailable:
            return False
        return True

    async def _administer(
        self,
        path: str,
        body: dict[str, str],
        refusal: type[AdapterRejected] | type[NotFound],
    ) -> None:
        name = body["lora_name"]
        try:
            with _translated(self._base_url):
                async with asyncio.timeout(_ADMIN_SECONDS):
                    await self._client.post(
                        path, cast_to=str, body=body, options={"headers": self._admin}
                    )
        except ModelUnavailable as failure:
            cause = failure.__cause__
            if not isinstance(cause, openai.APIStatusError):
                raise
            if _has_no_such_path(cause):
                raise NoHotLoad(
                    f"{self._base_url!r} takes no adapters while it runs. Start it with the "
                    f"adapter {name!r}, or vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
                ) from failure
            raise refusal(
                f"The model server refused {path!r} for {name!r}: {_server_words(cause)}"
            ) from failure


class _Answer:
    """Reads the chunks of one streamed answer and decides whether it is one."""

    def __init__(self, model: str, max_tokens: int) -> None:
        self._model = model
        self._room = _LONGEST_TOKEN * max_tokens
        self._said_something = False
        self.finished = False

    def read(self, chunk: object | None) -> Piece:
        """The piece in a chunk (None is the stream's end); raises `AnswerIncomplete`."""
        if chunk is None:
            raise AnswerIncomplete("The model's answer broke off before its end. Ask again.")
        self._check_model(_entry(chunk, "model"))
        choices = _entry(chunk, "choices")
        if not isinstance(choices, list) or not choices:
            return Piece("")
        text = self._text(_entry(_entry(choices[0], "delta"), "content"))
        return Piece(text, self._finish_reason(_entry(choices[0], "finish_reason")))

    def _check_model(self, model: object) -> None:
        if model and model != self._model:
            raise AnswerIncomplete(
                f"Model {model!r} answered in place of {self._model!r}. Is the adapter loaded?"
            )

    def _text(self, content: object) -> str:
        if content is None:
            return ""
        if not isinstance(content, str):
            raise AnswerIncomplete(f"The model sent {type(content).__name__} where text belongs.")
        self._room -= len(content)
        if self._room < 0:
            raise AnswerIncomplete("The model's answer is longer than what was asked for.")
        text = _CONTROL.sub("", content)
        self._said_something = self._said_something or bool(text.strip())
        return text

    def _finish_reason(self, reason: object) -> FinishReason | None:
        if reason is None or reason == "":
            return None
        if reason not in ("stop", "length"):
            raise AnswerIncomplete(f"The model's answer ended with {reason!r}, not as a text does.")
        if not self._said_something:
            raise AnswerIncomplete("The model's answer is empty. Ask again or in other words.")
        self.finished = True
        return reason


def _request(prompt: Sequence[ChatMessage], model: str, sampling: Sampling) -> dict[str, object]:
    """The body of a chat completion; what a strict server may not know is sent only if it matters.

    `repetition_penalty` is none of OpenAI's own fields.
    """
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": one.role, "content": one.content} for one in prompt],
        "stream": True,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.repetition_penalty != 1.0:
        body["repetition_penalty"] = sampling.repetition_penalty
    return body


def _trace() -> dict[str, str]:
    """The headers by which the server goes on with the trace that this call belongs to."""
    header = CARRIED.get()
    return {"traceparent": header} if header else {}


def _entry(value: object, name: str) -> object:
    """An entry of a JSON object; None where there is none, or no object."""
    return value.get(name) if isinstance(value, dict) else None


async def _hear_out(chunks: AsyncIterator[object]) -> None:
    """Read what follows a finished answer: a connection left before its end is of no more use."""
    with suppress(TimeoutError, openai.OpenAIError, ValueError):
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            async for _ in chunks:
                pass


def _check_content_type(response: httpx2.Response) -> None:
    kind = response.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise AnswerIncomplete(
            f"The model server sent {kind or 'no content type'!r} in place of a stream. "
            "Does model.base_url point at an OpenAI-compatible API?"
        )


@contextmanager
def _translated(base_url: str) -> Iterator[None]:
    """Turn the client library's errors into ours, so that nobody else imports `openai`."""
    try:
        yield
    except TimeoutError as exc:
        raise ModelUnavailable(f"{base_url!r} was silent for too long. Is it overloaded?") from exc
    except openai.APIConnectionError as exc:
        if isinstance(exc, openai.APITimeoutError) and not _is_unconnected(exc):
            sentence = f"{base_url!r} was silent for too long. Is it overloaded?"
            raise ModelUnavailable(sentence) from exc
        raise _Away(f"No answer from {base_url!r}. Is the model server running?") from exc
    except openai.APIStatusError as exc:
        raise _status_failure(base_url, exc) from exc
    except openai.APIError as exc:
        raise AnswerIncomplete(f"{base_url!r} failed in mid-answer: {exc.message}") from exc
    except ValueError as exc:
        # Malformed JSON or UTF-8 in an event: outside the package's own errors.
        raise AnswerIncomplete(f"{base_url!r} sent an event that cannot be read.") from exc


def _is_unconnected(exc: openai.APITimeoutError) -> bool:
    """Whether there was no connection, or it broke off: the aiohttp client calls that a timeout."""
    return isinstance(exc.__cause__, httpx2.ConnectTimeout)


def _status_failure(base_url: str, exc: openai.APIStatusError) -> ModelUnavailable:
    sentence = f"{base_url!r} answered {exc.status_code}: {_server_words(exc)}"
    if exc.status_code == 429 and _retry_after(exc) > 1.0:
        return ModelUnavailable(sentence)
    if exc.status_code == 429 or exc.status_code >= 500:
        return _Passing(sentence)
    if exc.status_code == 404:
        return ModelMissing(sentence)
    return Refused(sentence)


def _server_words(exc: openai.APIStatusError) -> str:
    """The server's own sentence, without the package's frame; cut, for it may be a web page."""
    words = exc.body.get("message") if isinstance(exc.body, dict) else None
    return _CONTROL.sub("", str(words or exc.message))[:300]


def _has_no_such_path(exc: openai.APIStatusError) -> bool:
    """Whether a 404 is about the path; one about an adapter has a sentence of its own."""
    words = exc.body.get("message") if isinstance(exc.body, dict) else None
    return exc.status_code == 405 or (exc.status_code == 404 and words in (None, "Not Found"))


def _retry_after(exc: openai.APIStatusError) -> float:
    try:
        return float(exc.response.headers.get("retry-after", "0"))
    except ValueError:
        return float("inf")


def _now() -> float:
    return asyncio.get_running_loop().time()
