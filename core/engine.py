"""The expert: `Engine.answer` turns a message into a stored reply, `Engine.rate` stores a thumb."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import structlog

from core.errors import AnswerUnsupported, MessageRejected, ModelMissing, ModelUnavailable
from core.followup import Resolved, choices, resolve, still_offered
from core.grounding import (
    Ground,
    copies,
    is_refusal,
    says_a_sentence,
    stands_on_one,
    used_passages,
)
from core.guard import guarded
from core.language import language_asked_for, language_of
from core.messages import (
    ChatMessage,
    Delta,
    Done,
    Event,
    Feedback,
    Found,
    ImageTag,
    Language,
    Outcome,
    Passage,
    Replaced,
    Reply,
    Seen,
    Source,
    Timings,
    Turn,
    UserMessage,
)
from core.model import ChatModel, Piece, Sampling
from core.photos import PhotoLimits, open_photo, to_jpeg
from core.prices import asks_a_price, name_a_price
from core.prompt import Budget, build_prompt
from core.quantities import holds, quantities
from core.retrieval import Query, Relevance, Retrieved, Retriever
from core.smalltalk import (
    AGREED,
    DENIED,
    DISTRESS,
    WEATHER,
    asks_what_is_seen,
    has_words,
    small_talk,
)
from core.store import Store
from core.tags import contradicted
from core.tracing import CARRIED, UNTRACED, Span
from core.vision import Vision
from core.wording import ask_back, closest, describe_photo, photo_differs, quote, say

log = structlog.get_logger()

Rewrite = Literal["carry", "model", "off"]

MAX_PHOTOS = 4
# A terminal's colours, control characters but tab and line feed, and halves of surrogate pairs: no
# database and no model server takes them all.
_UNWRITABLE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_REWRITE: dict[Language, str] = {
    "zh": "把最后一个问题改写成不看上文也能懂的一句话，只输出改写后的问题。",
    "en": "Rewrite the last question so that it can be understood alone. Output the question only.",
}


@dataclass(frozen=True, slots=True)
class Options:
    """How the engine answers; `budget` is what the model may read, the answer not counted.

    `rewrite` completes follow-ups: by carrying the topic over, by asking the model, or not at all.
    Of the `rounds` that are remembered the model is shown the last `history_rounds`.
    """

    base_model: str
    sampling: Sampling
    budget: Budget
    photo_limits: PhotoLimits
    max_characters: int
    rounds: int
    expire_seconds: float
    min_support: float
    history_rounds: int
    rewrite: Rewrite


@dataclass(slots=True)
class _Draft:
    """What is known of the answer while it is being made."""

    message: UserMessage
    started: float
    asked_at: float
    span: Span
    language: Language = "zh"
    jpegs: tuple[bytes, ...] = ()
    tags: tuple[ImageTag, ...] = ()
    resolved: Resolved = field(default_factory=lambda: Resolved("", ""))
    passages: tuple[Passage, ...] = ()
    compares: bool = False
    prompt: tuple[ChatMessage, ...] = ()
    sampling: Sampling | None = None
    lead: str = ""
    text: str = ""
    outcome: Outcome = Outcome.ANSWERED
    suggestions: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    adapter: str = ""
    asked: str = ""
    failure: str = ""
    complete: bool = False
    vision_seconds: float = 0.0
    retrieval_seconds: float = 0.0
    first_token_seconds: float = 0.0
    model_seconds: float = 0.0


class Engine:
    """Answers questions about shoes from the knowledge base, with the model's words."""

    def __init__(
        self,
        *,
        store: Store,
        retriever: Retriever,
        vision: Vision,
        model: ChatModel,
        choose_adapter: Callable[[str], Awaitable[str]],
        options: Options,
        report_missing: Callable[[str], None] = lambda _name: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`choose_adapter` names the model or adapter that answers a person (by user id).

        `report_missing` hears of an adapter that was chosen and that the model server does not
        have; the base model answers that question.
        """
        self._store = store
        self._retriever = retriever
        self._vision = vision
        self._model = model
        self._choose_adapter = choose_adapter
        self._options = options
        self._report_missing = report_missing
        self._clock = clock

    async def answer(
        self,
        message: UserMessage,
        *,
        history: Sequence[Turn] | None = None,
        stop: asyncio.Event | None = None,
        span: Span = UNTRACED,
    ) -> AsyncGenerator[Event, None]:
        """Answer a message: events while it happens, then `Done` with the stored reply.

        `history` replaces the conversation's own. `stop`, once set, ends the answer where it is.
        The steps are spans within `span`.
        Raises `MessageRejected` and `ImageRejected` for what cannot be taken; a model that fails
        never raises: the best passage is quoted.
        """
        self.check(message)
        message = replace(message, text=_UNWRITABLE.sub("", message.text))
        draft = _Draft(message, self._clock(), time.time(), span)
        turns = await self._history(message) if history is None else tuple(history)
        draft.language = _language(message, turns)
        if message.images:
            with span.child("vision"):
                await self._look(draft)
            yield Seen(draft.tags)
        async with aclosing(self._reply(draft, turns, stop or asyncio.Event())) as events:
            async for event in events:
                yield event
        with span.child("store"):
            reply = await self._remember(draft)
        span.note(reply=reply.id, outcome=reply.outcome.value, adapter=reply.adapter)
        yield Done(reply)

    async def rate(self, feedback: Feedback, *, reacted_at: float | None = None) -> bool:
        """Commit a verdict; the last one of a person on a reply counts. `NotFound` without it.

        False for an emoji that was put on at `reacted_at` and has been taken off since.
        """
        counts = await self._store.add_feedback(feedback, reacted_at=reacted_at)
        log.info("rated", reply=feedback.reply_id, rating=feedback.rating, counts=counts)
        return counts

    async def _reply(
        self, draft: _Draft, turns: Sequence[Turn], stop: asyncio.Event
    ) -> AsyncGenerator[Event, None]:
        """Fill the draft: by hand where no passage is needed, else from what is found."""
        by_hand = self._by_hand(draft, turns)
        if by_hand is None:
            await self._resolve(draft, turns)
            by_hand = self._described(draft)
        if by_hand is not None:
            draft.text, draft.outcome = by_hand
            draft.complete = True
            yield Delta(draft.text)
            return
        with draft.span.child("retrieval") as span:
            found = await self._search(draft)
            span.note(passages=len(found.passages), relevance=found.relevance.value)
        draft.lead = self._differs(draft)
        unpriced = asks_a_price(draft.message.text) and not name_a_price(found.passages)
        if unpriced or found.relevance is not Relevance.ANSWER:
            self._decline(draft, found, unpriced=unpriced)
            yield Delta(draft.text)
            return
        yield Found(draft.passages)
        if draft.lead:
            yield Delta(draft.lead)
        async with aclosing(self._write(draft, turns, stop)) as events:
            async for event in events:
                yield event

    def check(self, message: UserMessage) -> None:
        """Raise `MessageRejected` for a message that cannot be taken."""
        limit = self._options.max_characters
        if not message.text.strip() and not message.photo_count:
            raise MessageRejected(
                "The message is empty; write a question or attach a photo.", code="text_empty"
            )
        if len(message.text) > limit:
            raise MessageRejected(
                f"The message has {len(message.text)} characters; the limit is {limit}.",
                code="text_long",
                status=413,
                length=len(message.text),
                limit=limit,
            )
        if message.photo_count > MAX_PHOTOS:
            raise MessageRejected(
                f"The message has {message.photo_count} photos; the limit is {MAX_PHOTOS}.",
                code="photo_many",
                status=413,
                limit=MAX_PHOTOS,
            )

    async def _history(self, message: UserMessage) -> tuple[Turn, ...]:
        return await self._store.history(
            message.conversation_id,
            rounds=self._options.rounds,
            since=time.time() - self._options.expire_seconds,
        )

    async def _look(self, draft: _Draft) -> None:
        """Decode the photos safely and read them; a tag keeps its best score of all photos."""
        started = self._clock()
        best: dict[tuple[str, str], ImageTag] = {}
        jpegs = []
        for data in draft.message.images:
            photo = await asyncio.to_thread(open_photo, data, self._options.photo_limits)
            jpegs.append(await asyncio.to_thread(to_jpeg, photo))
            for tag in await self._vision.tags(photo):
                key = (tag.group, tag.name)
                if key not in best or best[key].score < tag.score:
                    best[key] = tag
        draft.jpegs = tuple(jpegs)
        draft.tags = tuple(sorted(best.values(), key=lambda tag: -tag.score))
        draft.vision_seconds = self._clock() - started

    def _by_hand(self, draft: _Draft, turns: Sequence[Turn]) -> tuple[str, Outcome] | None:
        """The answer to a message without a question: small talk, yes, no, a bare photo."""
        text, language = draft.message.text, draft.language
        kind = small_talk(text)
        if draft.jpegs and kind != DISTRESS and (kind or not has_words(text)):
            return self._seen(draft), Outcome.CLARIFY
        if (left := still_offered(text, turns)) is not None:
            draft.suggestions, kind = left, DENIED
        if kind == DENIED and draft.suggestions:
            return ask_back(draft.suggestions, language, instead=True), Outcome.CLARIFY
        if kind == AGREED and (offered := choices(turns)):
            if len(offered) == 1:
                return None
            draft.suggestions = offered
            return ask_back(offered, language), Outcome.CLARIFY
        if kind:
            known = kind not in (WEATHER, DENIED)
            return say(kind, language), Outcome.ANSWERED if known else Outcome.REFUSED
        if not has_words(text):
            return say("no_words", language), Outcome.CLARIFY
        return None

    def _described(self, draft: _Draft) -> tuple[str, Outcome] | None:
        """The answer to "what colour is this?" about a new photo, or one described just now."""
        at_photo = draft.jpegs or (draft.tags and not draft.resolved.topic)
        if at_photo and asks_what_is_seen(draft.message.text):
            return self._seen(draft), Outcome.CLARIFY
        return None

    def _seen(self, draft: _Draft) -> str:
        return describe_photo(draft.tags, draft.language, self._vision.colours_only)

    async def _resolve(self, draft: _Draft, turns: Sequence[Turn]) -> None:
        """Complete a follow-up from the turns before it, by rule or by the model."""
        text = draft.message.text.strip()
        rewrite = self._options.rewrite
        if rewrite == "off":
            draft.resolved = Resolved(text, text, draft.tags)
            return
        draft.resolved = resolve(text, turns, draft.tags)
        if rewrite == "model" and draft.resolved.topic:
            rewritten = await self._rewritten(draft, turns)
            if rewritten:
                draft.resolved = replace(draft.resolved, query=rewritten)
        draft.tags = draft.resolved.tags

    async def _rewritten(self, draft: _Draft, turns: Sequence[Turn]) -> str:
        """The model's stand-alone form of a follow-up; "" when it has none to give."""
        prompt = (
            ChatMessage("system", _REWRITE[draft.language]),
            *_rounds(turns),
            ChatMessage("user", draft.message.text),
        )
        sampling = replace(self._options.sampling, max_tokens=80, temperature=0.0)
        text = ""
        try:
            async with aclosing(
                self._model.stream(prompt, self._options.base_model, sampling)
            ) as pieces:
                async for piece in pieces:
                    text += piece.text
        except ModelUnavailable as exc:
            log.warning("rewrite_failed", error=type(exc).__name__)
            return ""
        return text.strip().splitlines()[0] if text.strip() else ""

    async def _search(self, draft: _Draft) -> Retrieved:
        started = self._clock()
        text, groups = draft.message.text, self._vision.groups
        agreeing = tuple(tag for tag in draft.tags if not contradicted(tag, text, groups))
        resolved = draft.resolved
        query = Query(resolved.query, agreeing, draft.language, resolved.topic)
        found = await self._retriever.search(query)
        draft.passages, draft.compares = found.passages, found.compares
        draft.retrieval_seconds = self._clock() - started
        return found

    def _decline(self, draft: _Draft, found: Retrieved, *, unpriced: bool) -> None:
        """Nothing (surely) relevant: ask back with the nearest topics, or say so politely.

        `unpriced` says that a price is asked for, and none is known.
        """
        draft.complete = True
        if language_of(draft.message.text) is None:
            # What is not surely understood in another language is no ground for a choice.
            draft.outcome = Outcome.REFUSED
            draft.text = say("other_language", draft.language)
        elif unpriced:
            draft.outcome = Outcome.REFUSED
            draft.text = say("unpriced", draft.language)
        elif found.relevance is Relevance.CLARIFY:
            draft.outcome = Outcome.CLARIFY
            lacking = say("lacking", draft.language, title=found.lacking) if found.lacking else ""
            draft.text = draft.lead + lacking + self._asked_back(draft, found)
        else:
            draft.outcome = Outcome.REFUSED
            draft.text = say("refused", draft.language)

    def _asked_back(self, draft: _Draft, found: Retrieved) -> str:
        """The question which topic is meant; what is likely the one is shown at once."""
        readable = [one for one in found.passages if one.lang == draft.language]
        # White shoes are no choice for whoever shows black ones.
        offered = [one for one in readable or found.passages if not self._denied(draft, one.title)]
        titles = tuple(dict.fromkeys(one.title for one in offered))
        if not titles:
            return self._seen(draft)
        best = offered[0]
        if not found.likely or best is not found.passages[0] or best.lang != draft.language:
            draft.suggestions = titles
            return ask_back(titles, draft.language)
        draft.suggestions, draft.sources = titles[1:], _sources([best])
        return closest(best, draft.suggestions, draft.language)

    def _denied(self, draft: _Draft, title: str) -> bool:
        """Whether a title names another colour or type than the photo, which nobody denied."""
        text, groups = draft.message.text, self._vision.groups
        return any(
            contradicted(tag, title, groups) and not contradicted(tag, text, groups)
            for tag in draft.tags
            if tag.sure
        )

    def _differs(self, draft: _Draft) -> str:
        """What was seen, where the person's words say otherwise; the words win."""
        for tag in draft.tags:
            if said := contradicted(tag, draft.message.text, self._vision.groups):
                return photo_differs(tag, said, draft.language)
        return ""

    async def _write(
        self, draft: _Draft, turns: Sequence[Turn], stop: asyncio.Event
    ) -> AsyncGenerator[Event, None]:
        """Let the model answer from the passages; where it fails or invents, quote the best."""
        message, options = draft.message, self._options
        draft.sampling = _sampling(options.sampling, message)
        draft.prompt = build_prompt(
            draft.resolved.question,
            language=draft.language,
            passages=draft.passages,
            tags=draft.tags,
            history=_rounds(turns[-shown:]) if (shown := options.history_rounds) else (),
            budget=options.budget,
        )
        draft.adapter = await self._choose_adapter(message.user_id)
        asked = self._clock()
        span = draft.span.child("model", adapter=draft.adapter)
        try:
            async with aclosing(self._say(draft, draft.sampling, stop, span)) as events:
                async for event in events:
                    yield event
        except ModelUnavailable as exc:
            log.warning("model_failed", error=type(exc).__name__, adapter=draft.adapter)
            span.end(type(exc).__name__)
            draft.asked, draft.failure = draft.adapter, type(exc).__name__
            unsure = isinstance(exc, AnswerUnsupported)
            self._quote(draft, "quoted_unsure" if unsure else "quoted")
            yield Replaced(draft.text)
        finally:
            draft.model_seconds = self._clock() - asked
            span.end()

    async def _say(
        self, draft: _Draft, sampling: Sampling, stop: asyncio.Event, span: Span
    ) -> AsyncGenerator[Event, None]:
        """The model's text as it comes, as far as its passages support it."""
        finish, said = None, ""
        ground = _ground(draft, self._options.min_support)
        pieces = self._pieces(draft, sampling, span)
        shown = guarded(pieces, ground, english=draft.language == "en")
        async with aclosing(pieces), aclosing(shown) as safe:
            async for piece in safe:
                if not said:
                    draft.first_token_seconds = self._clock() - draft.started
                    span.note(first_token_seconds=draft.first_token_seconds)
                said += piece.text
                finish = piece.finish_reason
                yield Delta(piece.text)
                if stop.is_set():
                    break
        draft.complete = finish == "stop"
        ending = {"stop": "", "length": say("cut", draft.language)}.get(
            finish or "", say("stopped", draft.language)
        )
        if ending:
            yield Delta(ending)
        draft.text = draft.lead + said + ending
        draft.outcome = Outcome.REFUSED if is_refusal(said) else Outcome.ANSWERED
        if draft.outcome is Outcome.ANSWERED:
            used = used_passages(said, draft.passages)
            if draft.complete:
                self._check_sources(draft, said, used)
            draft.sources = _sources(used)

    def _check_sources(self, draft: _Draft, said: str, used: Sequence[Passage]) -> None:
        """Raise `AnswerUnsupported` for a comparison of one thing, or one thing said of another."""
        if draft.compares:
            if len(used) < len(draft.passages):
                raise AnswerUnsupported("The answer is about one of two things to compare.")
        elif not copies(self._options.min_support):
            return
        elif not stands_on_one(said, draft.passages):
            raise AnswerUnsupported(
                "The answer stands on none of its passages, or on parts of several."
            )
        elif not says_a_sentence(said, used):
            raise AnswerUnsupported("The answer says no sentence of its passages.")
        elif _misses_the_figure(draft.resolved.question, used, draft.passages):
            raise AnswerUnsupported("The answer is about another figure than the question.")

    async def _pieces(
        self, draft: _Draft, sampling: Sampling, span: Span
    ) -> AsyncGenerator[Piece, None]:
        """The chosen adapter's answer; the base model's where the server has lost the adapter."""
        CARRIED.set(span.header)
        try:
            async with aclosing(
                self._model.stream(draft.prompt, draft.adapter, sampling)
            ) as pieces:
                async for piece in pieces:
                    yield piece
            return
        except ModelMissing:
            if draft.adapter == self._options.base_model:
                raise
            log.warning("adapter_missing", adapter=draft.adapter)
            self._report_missing(draft.adapter)
            draft.adapter = self._options.base_model
        async with aclosing(self._model.stream(draft.prompt, draft.adapter, sampling)) as pieces:
            async for piece in pieces:
                yield piece

    def _quote(self, draft: _Draft, sentence: str) -> None:
        """Answer with the best passage word for word, marked as a quote.

        Of things that are compared, with the passage of each.
        """
        quoted = draft.passages if draft.compares else draft.passages[:1]
        draft.text = draft.lead + quote(sentence, quoted, draft.language)
        draft.outcome = Outcome.QUOTED
        draft.adapter = ""
        draft.complete = False
        draft.sources = _sources(quoted)

    async def _remember(self, draft: _Draft) -> Reply:
        """Store the turn with everything that took part in it, and return its reply."""
        message = draft.message
        reply = Reply(
            id=uuid.uuid4().hex,
            conversation_id=message.conversation_id,
            text=draft.text,
            outcome=draft.outcome,
            language=draft.language,
            sources=draft.sources,
            tags=draft.tags,
            suggestions=draft.suggestions,
            adapter=draft.adapter,
            complete=draft.complete,
            timings=Timings(
                vision=draft.vision_seconds,
                retrieval=draft.retrieval_seconds,
                first_token=draft.first_token_seconds,
                model=draft.model_seconds,
                total=self._clock() - draft.started,
            ),
        )
        turn = Turn(
            reply=reply,
            message_id=message.id,
            user_id=message.user_id,
            platform=message.platform,
            question=message.text,
            query=draft.resolved.query,
            prompt=draft.prompt,
            passages=draft.passages,
            sampling=asdict(draft.sampling) if draft.sampling else {},
            asked_at=draft.asked_at,
            asked=draft.asked or draft.adapter,
            failure=draft.failure,
        )
        await self._store.add_turn(turn, draft.jpegs)
        log.info(
            "answered",
            reply=reply.id,
            outcome=reply.outcome,
            adapter=reply.adapter,
            own_ms=round(reply.timings.own * 1000, 1),
            total_ms=round(reply.timings.total * 1000, 1),
        )
        return reply


def _language(message: UserMessage, turns: Sequence[Turn]) -> Language:
    """What the text asks for, the person's choice, the text's, or (a photo, "ok") the last one."""
    if (wanted := language_asked_for(message.text)) is not None:
        return wanted
    if message.language is not None:
        return message.language
    # "No" and "ok" are said in Chinese as well.
    short = message.text.isascii() and small_talk(message.text) in (AGREED, DENIED)
    if turns and (short or not any(char.isalpha() for char in message.text)):
        return turns[-1].reply.language
    return language_of(message.text) or "en"


def _rounds(turns: Sequence[Turn]) -> list[ChatMessage]:
    """The conversation so far, as the model reads it; what was no answer is left out."""
    return [
        message
        for turn in turns
        if turn.reply.outcome in (Outcome.ANSWERED, Outcome.QUOTED) and turn.question.strip()
        for message in (
            ChatMessage("user", turn.question),
            ChatMessage("assistant", turn.reply.text),
        )
    ]


def _sampling(default: Sampling, message: UserMessage) -> Sampling:
    """The settings' sampling with what the message asks for."""
    return replace(
        default,
        max_tokens=message.max_tokens or default.max_tokens,
        temperature=default.temperature if message.temperature is None else message.temperature,
    )


def _ground(draft: _Draft, min_support: float) -> Ground:
    """What the answer may say: passages, question and tags."""
    tags = (f"{tag.name} {tag.phrase} {tag.score:.0%}" for tag in draft.tags)
    return Ground.of(
        (f"{passage.title}\n{passage.text}" for passage in draft.passages),
        min_support,
        also=(draft.resolved.question, *tags),
    )


def _misses_the_figure(question: str, used: Sequence[Passage], found: Sequence[Passage]) -> bool:
    """Whether others of the passages found hold a figure that is asked for, but none of those used.

    Who asks about 235 gets no answer about 230.
    """
    asked = quantities(question)

    def holds_it(passage: Passage) -> bool:
        known = quantities(f"{passage.title}\n{passage.text}")
        return any(holds(known, *one) for one in asked)

    return any(map(holds_it, found)) and not any(map(holds_it, used))


def _sources(passages: Sequence[Passage]) -> tuple[Source, ...]:
    return tuple(Source.of(passage) for passage in passages)
