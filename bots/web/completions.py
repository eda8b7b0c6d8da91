"""The expert as an OpenAI model: `/v1/chat/completions` and `/v1/models`, for any OpenAI client.

Calls are stateless: the history is the messages that are sent along. Shapes are those of
https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bots.web.desk import Desk
from bots.web.http import (
    EventStream,
    Gate,
    Problem,
    Refused,
    caller_of,
    language_wanted,
    remember_text,
    route_class,
    stream_events,
)
from core.followup import points_back
from core.language import language_of
from core.messages import (
    Delta,
    Done,
    Event,
    Outcome,
    Platform,
    Replaced,
    Reply,
    Turn,
    UserMessage,
)
from core.photos import decode_base64
from core.prompt import estimate_tokens
from core.wording import say

# More than any budget holds; what a caller sends beyond it costs nothing.
_ROUNDS = 20
_ROUND_CHARACTERS = 8000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Body):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(_Body):
    """A photo as a `data:` URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Body):
    """A photo."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """One message; answers that clients send back carry keys we have no use for."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """The words of all parts."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or []
        return "\n".join(part.text for part in parts if isinstance(part, TextPart))

    @property
    def photo_urls(self) -> list[str]:
        """The addresses of all photos."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(_Body):
    """What a stream carries besides the text."""

    include_usage: bool = False


class CompletionRequest(_Body):
    """OpenAI's request; keys that would change what an answer is are unknown to us.

    `top_p`, `seed`, `stop` and the penalties are accepted for the clients that always send them:
    the expert's own sampling stands.
    """

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    n: Literal[1] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None

    @property
    def token_limit(self) -> int | None:
        """The longest answer wanted, under either of its names."""
        return self.max_completion_tokens or self.max_tokens


@dataclass(frozen=True, slots=True)
class _Expert:
    """Answers stateless calls under a model's name."""

    desk: Desk
    model_name: str
    max_tokens: int

    def check_name(self, name: str) -> None:
        if name != self.model_name:
            raise Refused(404, "model_not_found", model=repr(name[:100]), known=self.model_name)

    async def to_user_message(self, body: CompletionRequest, request: Request) -> UserMessage:
        """The last message, with the photos it is about."""
        last = body.messages[-1]
        remember_text(request, last.text)
        self.check_name(body.model)
        if last.role != "user":
            raise Refused(400, "no_question")
        limit = body.token_limit
        return UserMessage(
            id=uuid.uuid4().hex,
            platform=Platform.API,
            conversation_id=f"api:{uuid.uuid4()}",
            user_id=caller_of(request, body.user),
            text=last.text,
            images=await asyncio.to_thread(self._photos, _photo_urls(body.messages)),
            language=language_wanted(last.text, request),
            max_tokens=min(limit, self.max_tokens) if limit else None,
            temperature=body.temperature,
        )

    async def answer(
        self, message: UserMessage, history: Sequence[Turn]
    ) -> AsyncGenerator[Event, None]:
        """The answer's events, when a place among the conversations is free."""
        engine, lanes = self.desk.engine, self.desk.lanes
        engine.check(message)
        async with (
            lanes.slot(message.user_id, photos=len(message.images)),
            aclosing(engine.answer(message, history=history)) as events,
        ):
            async for event in events:
                if isinstance(event, Done):
                    lanes.metrics.answered(message.platform, event.reply)
                yield event

    async def usage(self, reply: Reply) -> dict[str, int]:
        """Tokens of the prompt as sent and of the answer, by the estimate that budgets use."""
        turn = await self.desk.store.turn(reply.id)
        prompt = sum(estimate_tokens(message.content) for message in turn.prompt)
        answer = estimate_tokens(reply.text)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }

    def _photos(self, urls: Sequence[str]) -> tuple[bytes, ...]:
        return tuple(decode_base64(url, self.desk.photo_limits) for url in urls)


def completion_routes(desk: Desk, gate: Gate, *, model_name: str, max_tokens: int) -> APIRouter:
    """The routes under `/v1`; answers are never longer than `max_tokens`."""
    router = APIRouter(prefix="/v1", route_class=route_class(gate, openai_shape))
    expert = _Expert(desk, model_name, max_tokens)
    card = {"id": model_name, "object": "model", "created": _now(), "owned_by": "solemate"}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The one model there is."""
        return {"object": "list", "data": [card]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """That model, by its name."""
        expert.check_name(name)
        return card

    @router.post("/chat/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Answer the last message, knowing those before it."""
        message = await expert.to_user_message(body, request)
        events = expert.answer(message, _history(body.messages, message))
        # What cannot be taken is refused before the first event, while there is a status to send.
        first = await anext(events)
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            chunks = _Chunks(f"chatcmpl-{message.id}", model_name, usage)
            answer = _as_chunks(expert, first, events, chunks)
            return EventStream(stream_events(answer, request, openai_shape))
        reply = await _reply(first, events)
        return JSONResponse(_completion(message, reply, model_name, await expert.usage(reply)))

    return router


def openai_shape(problem: Problem) -> dict[str, Any]:
    """OpenAI's error object."""
    kinds = {429: "rate_limit_exceeded"}
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": problem.message,
            "type": kinds.get(problem.status, kind),
            "param": problem.field,
            "code": problem.code,
        }
    }


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Makes the chunks of one stream, which share everything but their choice."""

    id: str
    model: str
    with_usage: bool

    def delta(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice], None)

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        return self._chunk([], usage)

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> dict[str, Any]:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": _now(),
            "model": self.model,
            "choices": choices,
        }
        return {**chunk, "usage": usage} if self.with_usage else chunk


async def _as_chunks(
    expert: _Expert, first: Event, rest: AsyncGenerator[Event, None], chunks: _Chunks
) -> AsyncGenerator[dict[str, Any], None]:
    """The answer in OpenAI's chunks, which can only add text: what is taken back is called so."""
    yield chunks.delta({"role": "assistant", "content": ""})
    shown = withdrawn = False
    async with aclosing(rest):
        event = first
        while not isinstance(event, Done):
            match event:
                case Delta(text) if not withdrawn:
                    shown = True
                    yield chunks.delta({"content": text})
                case Replaced():
                    withdrawn = True
                case _:
                    pass
            event = await anext(rest)
    reply = event.reply
    if withdrawn:
        taken_back = f"\n\n{say('withdrawn', reply.language)}\n\n" if shown else ""
        yield chunks.delta({"content": taken_back + reply.text})
    yield chunks.delta({}, _finish_reason(reply))
    if chunks.with_usage:
        yield chunks.usage(await expert.usage(reply))


async def _reply(first: Event, rest: AsyncGenerator[Event, None]) -> Reply:
    async with aclosing(rest):
        event = first
        while not isinstance(event, Done):
            event = await anext(rest)
        return event.reply


def _completion(
    message: UserMessage, reply: Reply, model: str, usage: dict[str, int]
) -> dict[str, Any]:
    answer = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {
        "index": 0,
        "message": answer,
        "logprobs": None,
        "finish_reason": _finish_reason(reply),
    }
    return {
        "id": f"chatcmpl-{message.id}",
        "object": "chat.completion",
        "created": _now(),
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def _finish_reason(reply: Reply) -> Literal["stop", "length"]:
    # A quote is not complete for training, but nothing of it is cut.
    return "stop" if reply.complete or reply.outcome is Outcome.QUOTED else "length"


def _history(messages: Sequence[Message], message: UserMessage) -> tuple[Turn, ...]:
    """The rounds before the last message, as turns of its conversation."""
    photos = set(_photo_urls(messages))
    rounds = list(_rounds(messages[:-1]))[-_ROUNDS:]
    return tuple(
        replace(
            _said_before(question.text, answer.text, message),
            photo_again=bool(photos) and photos <= set(question.photo_urls),
        )
        for question, answer in rounds
    )


def _rounds(messages: Sequence[Message]) -> Iterator[tuple[Message, Message]]:
    """Questions with their answers; what stands alone is no round."""
    for one, other in zip(messages, messages[1:], strict=False):
        if one.role == "user" and other.role == "assistant":
            yield one, other


def _said_before(question: str, answer: str, message: UserMessage) -> Turn:
    question, answer = question[:_ROUND_CHARACTERS], answer[:_ROUND_CHARACTERS]
    reply = Reply(
        id="",
        conversation_id=message.conversation_id,
        text=answer,
        outcome=Outcome.ANSWERED,
        language=language_of(answer) or "en",
    )
    return Turn(
        reply=reply,
        message_id="",
        user_id=message.user_id,
        platform=message.platform,
        question=question,
        query=question,
        prompt=(),
        passages=(),
        sampling={},
        asked_at=0.0,
    )


def _photo_urls(messages: Sequence[Message]) -> list[str]:
    """The last message's photos, or those it points back to."""
    *earlier, last = messages
    if last.photo_urls or not points_back(last.text):
        return last.photo_urls
    return next((one.photo_urls for one in reversed(earlier) if one.photo_urls), [])


def _now() -> int:
    return int(time.time())
