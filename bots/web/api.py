"""The HTTP API: ask, follow an answer, rate it, look at a session, and see how all is."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, FastAPI
from fastapi import Path as InPath
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from bots.web.completions import completion_routes, openai_shape
from bots.web.desk import Desk
from bots.web.health import (
    Condition,
    HealthCheck,
    PartHealth,
    check_all,
    inbox_health,
    overall,
    writing_health,
)
from bots.web.http import (
    EventStream,
    Gate,
    caller_of,
    language_wanted,
    own_origins,
    plain_shape,
    refusing_routes,
    remember_text,
    route_class,
    stream_events,
)
from core.errors import NotFound, StoreError
from core.gauges import read_gauges
from core.messages import (
    Delta,
    Done,
    Event,
    Feedback,
    Found,
    ImageTag,
    Language,
    Outcome,
    Platform,
    Queued,
    Rating,
    Reason,
    Replaced,
    Reply,
    Seen,
    Side,
    Source,
    Turn,
    UserMessage,
)
from core.notices import Lesson
from core.photos import decode_base64
from core.spelling import CONVERSATION, Spelled

_MESSAGE = Spelled(r"[A-Za-z0-9._:-]{1,128}", "1 to 128 letters, digits, '.', '_', ':' or '-'")
SessionId = Annotated[str, CONVERSATION]
MessageId = Annotated[str, _MESSAGE]
InPathSession = Annotated[str, InPath(), CONVERSATION]
InPathMessage = Annotated[str, InPath(), _MESSAGE]

# How far back "today" goes in the figures.
_DAY_SECONDS = 86400.0
# A request's text and its JSON come on top of two photos in base64.
_BODY_ALLOWANCE = 1_000_000
_RATINGS = {"thumbs_up": Rating.UP, "thumbs_down": Rating.DOWN}


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """How the API presents itself; callers may ask for `max_tokens` at most."""

    model_name: str
    max_tokens: int
    public_url: str
    allowed_origins: tuple[str, ...] = ()


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChatRequest(_Body):
    """A question; `message_id` is the caller's own key, which makes sending it twice harmless."""

    message: str
    session_id: SessionId | None = None
    message_id: MessageId | None = None
    image: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None


class FeedbackRequest(_Body):
    """A thumb; `message_id` is the one of the answer."""

    session_id: SessionId
    message_id: MessageId
    feedback: Literal["thumbs_up", "thumbs_down"]
    reason: Reason | None = None
    comment: Annotated[str, Field(max_length=4000)] | None = None
    correction: Annotated[str, Field(max_length=4000)] | None = None


class DuelRequest(_Body):
    """An answer that may be compared with another; `message_id` is the one of the answer."""

    session_id: SessionId
    message_id: MessageId


class PickRequest(_Body):
    """Which answer of a duel is better."""

    session_id: SessionId
    duel_id: MessageId
    better: Side


class NoticeRequest(_Body):
    """A session that may have taught something."""

    session_id: SessionId


class Learned(BaseModel):
    """What a session's corrections have taught; `message` says it in words."""

    message: str
    language: Language
    lessons: tuple[Lesson, ...]


class MaybeLearned(BaseModel):
    """Null where nothing was learned that the session was not told of before."""

    notice: Learned | None


class Contender(BaseModel):
    """One answer of a duel."""

    message: str
    sources: tuple[Source, ...]

    @classmethod
    def of(cls, reply: Reply) -> Self:
        """The answer without anything that tells who wrote it."""
        return cls(message=reply.text, sources=reply.sources)


class Comparison(BaseModel):
    """Two answers to show side by side; `/duel/pick` takes which one is better."""

    duel_id: str
    a: Contender
    b: Contender


class MaybeComparison(BaseModel):
    """Null where this answer is not to be compared."""

    duel: Comparison | None


class Answer(BaseModel):
    """A reply as callers read it; `message_id` is what `/feedback` takes."""

    session_id: str
    message_id: str
    message: str
    sources: tuple[Source, ...]
    tags: tuple[ImageTag, ...]
    adapter: str
    outcome: Outcome
    suggestions: tuple[str, ...]
    language: Language
    complete: bool
    timings: dict[str, float]
    timestamp: str

    @classmethod
    def of(cls, reply: Reply, at: datetime) -> Self:
        """The reply, given at this moment."""
        return cls(
            session_id=reply.conversation_id.removeprefix("api:"),
            message_id=reply.id,
            message=reply.text,
            sources=reply.sources,
            tags=reply.tags,
            adapter=reply.adapter,
            outcome=reply.outcome,
            suggestions=reply.suggestions,
            language=reply.language,
            complete=reply.complete,
            timings={**asdict(reply.timings), "own": reply.timings.own},
            timestamp=at.isoformat(),
        )


class PastAnswer(Answer):
    """A reply with the question it was given to."""

    question: str


class Session(BaseModel):
    """A session's answers, oldest first, and the ids of messages that wait for theirs."""

    session_id: str
    turns: list[PastAnswer]
    waiting: list[str]


class Status(BaseModel):
    """It is done."""

    status: Literal["success"] = "success"
    message: str = ""


def create_api(desk: Desk, *, parts: Mapping[str, HealthCheck], options: ApiOptions) -> FastAPI:
    """The API of this desk; `parts` are the health checks of everything but store and inbox."""
    origins = frozenset(options.allowed_origins)
    gate = Gate(
        origins=origins | own_origins(options.public_url),
        max_body_bytes=2 * 4 * -(-desk.photo_limits.max_bytes // 3) + _BODY_ALLOWANCE,
        metrics=desk.lanes.metrics,
    )
    # The interactive documentation would load its pages' scripts from elsewhere.
    app = FastAPI(title="Solemate", docs_url=None, redoc_url=None)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
        )
    openai = completion_routes(
        desk, gate, model_name=options.model_name, max_tokens=options.max_tokens
    )
    for router, shape in (
        (_chat_routes(desk, gate, options), plain_shape),
        (_session_routes(desk, gate), plain_shape),
        (_state_routes(desk, parts, gate), plain_shape),
        (openai, openai_shape),
    ):
        app.include_router(router)
        # The page's application stands behind the API and would answer with a page of its own.
        app.router.routes += refusing_routes(router, gate, shape)
    return app


def _chat_routes(desk: Desk, gate: Gate, options: ApiOptions) -> APIRouter:
    router = APIRouter(route_class=route_class(gate, plain_shape))

    async def taken(body: ChatRequest, request: Request) -> UserMessage:
        remember_text(request, body.message)
        message = _to_user_message(body, language_wanted(body.message, request), options)
        if body.image is None:
            return message
        photo = await asyncio.to_thread(decode_base64, body.image, desk.photo_limits)
        return replace(message, images=(photo,))

    async def asked(
        body: ChatRequest, message: UserMessage, request: Request
    ) -> AsyncGenerator[Event, None]:
        # A session of its own for each question must not mean limits of its own, too.
        sender = None if body.session_id else caller_of(request)
        return await desk.ask(message, sender=sender)

    @router.post("/chat")
    async def chat(body: ChatRequest, request: Request) -> Answer:
        """Ask, and wait for the whole answer."""
        events = await asked(body, await taken(body, request), request)
        return Answer.of(await _reply(events), datetime.now(UTC))

    @router.post("/chat/stream", response_class=StreamingResponse)
    async def stream(body: ChatRequest, request: Request) -> EventStream:
        """Ask, and read the answer while it is made."""
        message = await taken(body, request)
        events = await asked(body, message, request)
        return EventStream(stream_events(_as_json(events, message), request, plain_shape))

    @router.get("/chat/stream/{session_id}/{message_id}", response_class=StreamingResponse)
    async def resume(
        session_id: InPathSession, message_id: InPathMessage, request: Request
    ) -> EventStream:
        """Read an answer from its beginning, after the connection was lost."""
        message = _named(session_id, message_id)
        events = desk.follow(Platform.API, message.conversation_id, message_id)
        first = await anext(events)
        again = _as_json(_again(first, events), message)
        return EventStream(stream_events(again, request, plain_shape))

    return router


def _session_routes(desk: Desk, gate: Gate) -> APIRouter:
    router = APIRouter(route_class=route_class(gate, plain_shape))

    @router.post("/feedback")
    async def feedback(body: FeedbackRequest, request: Request) -> Status:
        """Rate an answer of one's own session; the last thumb counts."""
        remember_text(request, body.correction or body.comment or "")
        owner = _key(body.session_id)
        turn = await desk.store.turn(body.message_id)
        if turn.reply.conversation_id != owner:
            raise NotFound(f"Session {body.session_id!r} has no reply {body.message_id!r}.")
        await desk.rate(_to_feedback(body, owner))
        return Status()

    @router.post("/duel")
    async def duel(body: DuelRequest) -> MaybeComparison:
        """Another answer to compare an answer of one's own session with, now and then."""
        owner = _key(body.session_id)
        turn = await desk.store.turn(body.message_id)
        if turn.reply.conversation_id != owner:
            raise NotFound(f"Session {body.session_id!r} has no reply {body.message_id!r}.")
        made = await desk.duels.after_answer(body.message_id) if desk.duels else None
        if made is None:
            return MaybeComparison(duel=None)
        a, b = Contender.of(made.a), Contender.of(made.b)
        return MaybeComparison(duel=Comparison(duel_id=made.id, a=a, b=b))

    @router.post("/duel/pick")
    async def pick(body: PickRequest) -> Status:
        """Say which of two answers is better; the first word counts."""
        if desk.duels is None:
            raise NotFound(f"There is no duel {body.duel_id!r}.")
        await desk.duels.decide(body.duel_id, _key(body.session_id), body.better)
        return Status()

    @router.post("/notice")
    async def notice(body: NoticeRequest) -> MaybeLearned:
        """What one's own corrections have taught since the last time; told once."""
        found = await desk.notices.take(_key(body.session_id)) if desk.notices else None
        if found is None:
            return MaybeLearned(notice=None)
        learned = Learned(message=found.words, language=found.language, lessons=found.lessons)
        return MaybeLearned(notice=learned)

    @router.get("/session/{session_id}")
    async def session(session_id: InPathSession) -> Session:
        """The answers of a session so far."""
        turns = await desk.conversation(_key(session_id))
        waiting = await desk.inbox.pending(_key(session_id))
        if not turns and not waiting:
            raise NotFound(f"There is no session {session_id!r}.")
        return Session(
            session_id=session_id,
            turns=[_past_answer(turn) for turn in turns],
            waiting=[message.id for message in waiting],
        )

    @router.delete("/session/{session_id}")
    async def clear(session_id: InPathSession) -> Status:
        """Delete a session with its questions, photos, answers and thumbs."""
        await desk.forget(_key(session_id))
        return Status(message=f"Session {session_id} cleared")

    return router


def _state_routes(desk: Desk, parts: Mapping[str, HealthCheck], gate: Gate) -> APIRouter:
    router = APIRouter(route_class=route_class(gate, plain_shape))

    async def store() -> PartHealth:
        await desk.store.owner_of("")
        return await writing_health(desk.store)

    async def inbox() -> PartHealth:
        return await inbox_health(desk.inbox)

    @router.get("/health")
    async def health() -> Response:
        """How every part is; 503 when questions are not answered."""
        found = await check_all({"store": store, **parts, "inbox": inbox})
        status = overall(found)
        body = {
            "service": "solemate",
            "status": status,
            "parts": {name: part.as_json() for name, part in found.items()},
        }
        return JSONResponse(body, 503 if status is Condition.DOWN else 200)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Figures for Prometheus."""
        try:
            desk.lanes.metrics.waiting(*await desk.inbox.waiting())
            desk.lanes.metrics.holds(await read_gauges(desk.store, time.time() - _DAY_SECONDS))
        except StoreError:
            # Whoever watches has to see the other figures exactly when something is wrong.
            desk.lanes.metrics.waiting(float("nan"), float("nan"))
        return Response(desk.lanes.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router


def _key(session_id: str) -> str:
    """The conversation and the person behind a session; no other platform's begin like this."""
    return f"api:{session_id}"


def _named(session_id: str, message_id: str) -> UserMessage:
    key = _key(session_id)
    return UserMessage(message_id, Platform.API, key, key, "")


def _to_user_message(
    body: ChatRequest, language: Language | None, options: ApiOptions
) -> UserMessage:
    named = _named(body.session_id or str(uuid.uuid4()), body.message_id or uuid.uuid4().hex)
    return replace(
        named,
        text=body.message,
        language=language,
        max_tokens=min(body.max_tokens, options.max_tokens) if body.max_tokens else None,
        temperature=body.temperature,
    )


def _to_feedback(body: FeedbackRequest, user_id: str) -> Feedback:
    return Feedback(
        reply_id=body.message_id,
        user_id=user_id,
        rating=_RATINGS[body.feedback],
        reason=body.reason,
        comment=body.comment or "",
        correction=body.correction or "",
    )


def _past_answer(turn: Turn) -> PastAnswer:
    answer = Answer.of(turn.reply, datetime.fromtimestamp(turn.asked_at, UTC))
    return PastAnswer(**dict(answer), question=turn.question)


async def _reply(events: AsyncGenerator[Event, None]) -> Reply:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Done):
                return event.reply
    raise AssertionError("an answer's last event is Done")


async def _again(first: Event, rest: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


async def _as_json(
    events: AsyncGenerator[Event, None], message: UserMessage
) -> AsyncGenerator[dict[str, Any], None]:
    """The answer's events for the wire, after where to find them again."""
    session_id = message.conversation_id.removeprefix("api:")
    yield {"session_id": session_id, "resume": f"/chat/stream/{session_id}/{message.id}"}
    shown = ""
    async with aclosing(events):
        async for event in events:
            shown, data = _to_json(event, shown)
            for one in data:
                yield one


def _to_json(event: Event, shown: str) -> tuple[str, list[dict[str, Any]]]:
    """The text shown after this event, and what tells the caller so."""
    match event:
        case Queued(number):
            return shown, [{"progress": "queued", "number": number}]
        case Seen(tags):
            return shown, [{"progress": "seen", "tags": [asdict(tag) for tag in tags]}]
        case Found(passages):
            titles = [passage.title for passage in passages]
            return shown, [{"progress": "found", "passages": titles}]
        case Delta(text):
            return shown + text, [{"content": text}]
        case Replaced(text):
            return text, [{"replace": text}]
        case Done(reply):
            result = Answer.of(reply, datetime.now(UTC)).model_dump(mode="json")
            if shown == reply.text:
                return shown, [result]
            # An answer given before has no pieces any more.
            missing = {"replace": reply.text} if shown else {"content": reply.text}
            return reply.text, [missing, result]
