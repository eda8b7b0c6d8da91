"""Inbox -> engine -> show: one message at a time in a conversation, conversations in parallel."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from bots.allowance import Limits
from bots.bot import Bot, Prepare, Question
from bots.headstart import HeadStart
from bots.metrics import Metrics
from bots.way import Way
from core.apologies import Owed
from core.engine import Engine
from core.errors import (
    ImageRejected,
    MessageRejected,
    PlatformAway,
    SolemateError,
    StoreError,
)
from core.inbox import Inbox, Letter, Receipt
from core.messages import Done, Event, Platform, UserMessage
from core.store import Store
from core.tracing import Span, Tracing

log = structlog.get_logger()

ATTEMPTS = 3
# A message whose answering ends the process must not do so for ever.
MOST_LEASES = 10
DRAIN_SECONDS = 25.0
# Expired leases and messages put in by another process are found at this pace.
POLL_SECONDS = 2.0
# So long nobody waits for a lane, unless more comes than can be answered.
BACKLOG_SECONDS = 10.0
# So soon it is noticed that another replica has stopped an answer, or deleted its conversation.
HEED_SECONDS = 0.5
# What the store keeps of why a message was put aside.
MOST_OF_A_PROBLEM = 200
# Messages that could not be committed, and were counted all the same.
MOST_COUNTED = 10_000
# What is held until a moment may be leased just after it.
HOLD_ENDS_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds between the tries to answer a message, and for how long a platform may be away."""

    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 60.0
    away_seconds: float = 600.0

    def pause(self, failing_seconds: float) -> float:
        """The pause after it has failed for so long: 1, 5, 25 and then 60 seconds, about."""
        longest = min(self.longest_pause_seconds, 4 * failing_seconds)
        return max(self.first_pause_seconds, longest) * random.uniform(1.0, 1.25)


class Lanes:
    """Takes messages in, answers them in order, and shows the answers on their platforms."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        store: Store,
        engine: Engine,
        bots: Mapping[Platform, Bot],
        limits: Limits,
        width: int,
        patience: Patience | None = None,
        prepare: Mapping[Platform, Prepare] | None = None,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`width` conversations are answered at the same time.

        `prepare` completes a platform's messages when their turn comes.
        """
        self.metrics = metrics or Metrics(CollectorRegistry())
        self._tracing = tracing or Tracing()
        self._inbox = inbox
        self._store = store
        self._engine = engine
        self._bots = bots
        self._limits = limits
        self._patience = patience or Patience()
        self._prepare = {} if prepare is None else prepare
        self._slots = asyncio.Semaphore(width)
        self._woken = asyncio.Event()
        self._stops: dict[tuple[str, str], asyncio.Event] = {}
        self._letters: dict[int, asyncio.Event] = {}
        self._counted: set[tuple[str, str]] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._taking: set[asyncio.Task[Receipt]] = set()
        self._answering: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer what is in the inbox while the block runs; then drain, at most 25 seconds."""
        try:
            async with asyncio.TaskGroup() as tasks:
                dispatcher = tasks.create_task(self._dispatch(tasks))
                beside = [tasks.create_task(one) for one in (self._heed(), self._say_sorry())]
                self._tasks = tasks
                try:
                    yield
                finally:
                    self._tasks = None
                    dispatcher.cancel()
                    await self._drain()
                    for task in beside:
                        task.cancel()
        except BaseExceptionGroup as group:
            # The block's own error is what its caller waits for, not a group of one.
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from None

    async def submit(
        self, message: UserMessage, *, sender: str | None = None, sent_at: float | None = None
    ) -> bool:
        """Commit a message to the inbox; false when the same one came before.

        Raises `Busy` over the conversation's depth or the limits of `sender`, by default the
        message's person: whoever is a new person each time is known by something else. Where a
        platform says when it was sent, `sent_at` (Unix seconds) tells which minute it counts for.
        Raises `StoreError` where it has to come again.
        """
        if await self._knows(message, message.id):
            return False
        key, who = _key(message), sender or message.user_id
        async with self._counting(key, who, photos=message.photo_count, sent_at=sent_at):
            if self._tasks is not None and self._is_next(message):
                return await self._take(message, self._tasks)
            fresh = await self._inbox.put(message)
            self._woken.set()
            return fresh

    async def join(
        self,
        message: UserMessage,
        part: str,
        *,
        hold_seconds: float,
        sent_at: float | None = None,
    ) -> bool:
        """Commit one part of a message that comes in parts; false when it came before.

        All parts that come within `hold_seconds` of each other are answered together. Raises
        `Busy` like `submit`.
        """
        if await self._knows(message, part):
            return False
        key, messages = (message.conversation_id, part), 1
        if await self._knows(message, message.id):
            messages = 0
        costs = {"photos": message.photo_count, "messages": messages}
        async with self._counting(key, message.user_id, **costs, sent_at=sent_at):
            fresh = await self._inbox.join(message, part, hold_seconds=hold_seconds)
        asyncio.get_running_loop().call_later(hold_seconds + HOLD_ENDS_SECONDS, self._woken.set)
        return fresh

    async def _knows(self, message: UserMessage, message_id: str) -> bool:
        return await self._inbox.knows(message.platform, message.conversation_id, message_id)

    @asynccontextmanager
    async def _counting(
        self,
        key: tuple[str, str],
        who: str,
        *,
        photos: int,
        messages: int = 1,
        sent_at: float | None = None,
    ) -> AsyncIterator[None]:
        """Count what is committed in the block; not again where that failed and it comes again."""
        if key not in self._counted:
            await self._limits.count(who, photos=photos, messages=messages, sent_at=sent_at)
        self._counted.discard(key)
        try:
            yield
        except StoreError:
            if len(self._counted) < MOST_COUNTED:
                self._counted.add(key)
            raise

    async def behind(self, message: UserMessage | None = None) -> int:
        """How many messages a new one would wait for; 0 while they are answered soon.

        This very `message` would wait for those of its own conversation, too.
        """
        waiting, seconds = await self._inbox.backlog()
        if seconds > BACKLOG_SECONDS:
            return waiting
        if message is None or waiting < self._inbox.depth:
            return 0
        ahead = await self._inbox.ahead(message)
        return ahead if ahead >= self._inbox.depth else 0

    async def stop(self, conversation_id: str, message_id: str) -> bool:
        """End an answer under way where it is, on whatever replica; false when it is over."""
        event = self._stops.get((conversation_id, message_id))
        if event is None:
            return await self._inbox.stop(conversation_id, message_id)
        event.set()
        return True

    @asynccontextmanager
    async def slot(self, user_id: str, *, photos: int) -> AsyncIterator[None]:
        """A place among the conversations for an answer that needs no inbox (a stateless call)."""
        await self._limits.count(user_id, photos=photos)
        async with self._slots:
            yield

    def _is_next(self, message: UserMessage) -> bool:
        """Whether a message that comes now may be answered at once, as far as we can tell."""
        busy = any(message.conversation_id == conversation for conversation, _ in self._stops)
        return not busy and not self._slots.locked()

    async def _take(self, message: UserMessage, tasks: asyncio.TaskGroup) -> bool:
        """Commit a message with its lease; its answer begins meanwhile, and is shown after that.

        The slot for it is taken before, so that nobody is overtaken who waits for one. What is
        leased is answered even if whoever sent it has left in the meantime.
        """
        await self._slots.acquire()
        ahead = None
        if message.platform not in self._prepare:
            stop, way = asyncio.Event(), Way(self._tracing, message)
            ahead = HeadStart(self._engine.answer(message, stop=stop, span=way.lane), stop, way)
        taking = asyncio.ensure_future(self._inbox.take(message))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        taking.add_done_callback(lambda _: self._answer_taken(taking, ahead, tasks))
        receipt = await asyncio.shield(taking)
        return receipt.fresh

    def _answer_taken(
        self, taking: asyncio.Task[Receipt], ahead: HeadStart | None, tasks: asyncio.TaskGroup
    ) -> None:
        failed = taking.cancelled() or taking.exception() is not None
        letter = None if failed else taking.result().letter
        if letter is not None:
            self._start(letter, tasks, ahead)
            return
        if ahead is not None:
            tasks.create_task(ahead.end())
        self._slots.release()
        self._woken.set()

    def _start(
        self, letter: Letter, tasks: asyncio.TaskGroup, ahead: HeadStart | None = None
    ) -> None:
        """Answer a letter in a task that gives the slot back, taken before, in the end."""
        task = tasks.create_task(self._handle(letter, ahead))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        task.add_done_callback(lambda _: self._slots.release())

    async def _dispatch(self, tasks: asyncio.TaskGroup) -> None:
        """Start what may be answered now; no slot is held while there is nothing to answer."""
        while True:
            self._woken.clear()
            await self._slots.acquire()
            letter = None
            try:
                letter = await self._lease()
            finally:
                if letter is None:
                    self._slots.release()
            if letter is None:
                await self._until_woken()
                continue
            self._start(letter, tasks)

    async def _lease(self) -> Letter | None:
        """The next letter; one that was leased while we were cancelled goes back."""
        leasing = asyncio.ensure_future(self._inbox.lease())
        try:
            letter = await asyncio.shield(leasing)
        except asyncio.CancelledError:
            with suppress(SolemateError):
                if letter := await leasing:
                    await self._inbox.give_back(letter)
            raise
        except SolemateError as exc:
            log.error("inbox_unreadable", error=str(exc))
            return None
        if letter is None or _key(letter.message) not in self._stops:
            return letter
        # Its lease ran out while it is being answered here: leasing it again has renewed it.
        log.warning("lease_ran_out", message=letter.message.id)
        self._woken.set()
        return None

    async def _heed(self) -> None:
        """Hold what is under way, and end what was stopped or deleted on another replica.

        An answer may be shown for longer than a lease lasts: platforms have their callers wait.
        """
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while True:
            await asyncio.sleep(HEED_SECONDS)
            under_way = dict(self._letters)
            if not under_way:
                continue
            # A store that is away for a moment is asked again.
            with suppress(SolemateError):
                if clock() - renewed >= self._inbox.lease_seconds / 3:
                    await self._inbox.renew(under_way)
                    renewed = clock()
                for letter in await self._inbox.unwanted(under_way):
                    under_way[letter].set()

    async def _until_woken(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._woken.wait()

    async def _handle(self, letter: Letter, ahead: HeadStart | None) -> None:
        """Answer one letter; what fails is tried again, and put aside after three times.

        Where the platform is away, that is nobody's fault: it is tried again for ten minutes.
        """
        message = letter.message
        key = _key(message)
        stop = ahead.stop if ahead else asyncio.Event()
        self._stops[key] = self._letters[letter.id] = stop
        bot = self._bots.get(message.platform, _SwitchedOff())
        way = ahead.way if ahead else Way(self._tracing, message, letter.received_at)
        way.left_inbox()
        try:
            if letter.attempts > MOST_LEASES:
                raise SolemateError(f"The message ended the program {MOST_LEASES} times.")
            async with aclosing(self._events(letter, stop, ahead, way.lane)) as events:
                await bot.show(message, events)
            await self._inbox.done(letter)
        except asyncio.CancelledError:
            with suppress(SolemateError):
                await self._inbox.give_back(letter)
            raise
        except (MessageRejected, ImageRejected) as exc:
            way.end(type(exc).__name__)
            await self._put_aside(letter, bot, exc)
        except PlatformAway as exc:
            way.end(type(exc).__name__)
            log.warning("platform_away", message=message.id, problem=str(exc))
            await self._put_aside(letter, bot, exc)
        # The outermost handler: one bad message must not stop the others.
        except Exception as exc:
            way.end(type(exc).__name__)
            log.exception("answer_failed", message=message.id, attempt=letter.attempts)
            await self._put_aside(letter, bot, exc)
        finally:
            del self._stops[key], self._letters[letter.id]
            self._woken.set()
            if ahead is not None:
                await ahead.end()
            way.end()

    async def _put_aside(self, letter: Letter, bot: Bot, exc: Exception) -> None:
        """Try again later, or give up with one apology; a refused message is not tried again."""
        try:
            match exc:
                case MessageRejected() | ImageRejected():
                    await self._refuse(letter, bot, exc)
                case PlatformAway() if letter.failing_seconds < self._patience.away_seconds:
                    await self._try_later(letter, counts=False)
                case PlatformAway():
                    await self._give_up(letter, bot, exc)
                case _ if letter.attempts < ATTEMPTS:
                    await self._try_later(letter, counts=True)
                case _:
                    await self._give_up(letter, bot, exc)
        # The outermost handler again. What could not be written is taken up when its lease runs
        # out.
        except Exception:
            log.exception("not_put_aside", message=letter.message.id)

    async def _refuse(self, letter: Letter, bot: Bot, exc: SolemateError) -> None:
        """Say once why there is no answer; where that cannot be said now, it all comes again."""
        try:
            await bot.apologise(letter.message, exc)
        except PlatformAway as away:
            await self._put_aside(letter, bot, away)
            return
        except Exception:
            log.exception("apology_failed", message=letter.message.id)
        self.metrics.failed(letter.message.platform)
        await self._inbox.done(letter)

    async def _try_later(self, letter: Letter, *, counts: bool) -> None:
        pause = self._patience.pause(letter.failing_seconds)
        await self._inbox.retry(letter, pause_seconds=pause, counts=counts)
        asyncio.get_running_loop().call_later(pause + HOLD_ENDS_SECONDS, self._woken.set)

    async def _give_up(self, letter: Letter, bot: Bot, exc: Exception) -> None:
        error = exc if isinstance(exc, SolemateError) else None
        # What is not ours to explain may hold what people wrote.
        problem = type(exc).__name__ if error is None else str(error)
        if await self._inbox.dead(letter, problem[:MOST_OF_A_PROBLEM]):
            self.metrics.failed(letter.message.platform)
            await self._apologise(Owed(letter.id, letter.message, 0.0), bot, error)

    async def _apologise(self, owed: Owed, bot: Bot, error: SolemateError | None) -> None:
        """Say an apology; where the platform is away it stays owed."""
        try:
            await bot.apologise(owed.message, error)
        except (PlatformAway, StoreError) as exc:
            log.warning("apology_owed", message=owed.message.id, problem=str(exc))
            pause = self._patience.pause(owed.since_seconds)
            await self._inbox.apologies.later(owed.id, pause)
            return
        # It would fail again: the person has left, or our own mistake is in the way.
        except Exception:
            log.exception("apology_failed", message=owed.message.id)
        await self._inbox.apologies.said(owed.id)

    async def _say_sorry(self) -> None:
        """Say the apologies that could not be said when they were due."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            # A store that is away for a moment is asked again.
            with suppress(SolemateError):
                while (owed := await self._inbox.apologies.next()) is not None:
                    bot = self._bots.get(owed.message.platform, _SwitchedOff())
                    await self._apologise(owed, bot, None)

    async def _events(
        self, letter: Letter, stop: asyncio.Event, ahead: HeadStart | None, lane: Span
    ) -> AsyncGenerator[Event, None]:
        """The engine's events; for a message answered before a crash, the stored reply again."""
        message, turn = letter.message, None
        if letter.answered:
            turn = await self._store.answered(message.platform, *_key(message))
        if turn is not None:
            yield Done(turn.reply)
            return
        answer = ahead.events() if ahead else await self._answer(message, stop, lane)
        async with aclosing(answer) as events:
            async for event in events:
                if isinstance(event, Done):
                    self.metrics.answered(message.platform, event.reply)
                yield event

    async def _answer(
        self, message: UserMessage, stop: asyncio.Event, lane: Span
    ) -> AsyncGenerator[Event, None]:
        prepare = self._prepare.get(message.platform)
        asked = await prepare(message) if prepare else Question(message)
        return self._engine.answer(asked.message, history=asked.history, stop=stop, span=lane)

    async def _drain(self) -> None:
        """Let answers under way end; after 25 seconds their letters go back to the inbox."""
        if self._taking:
            await asyncio.wait(self._taking)
        if self._answering:
            await asyncio.wait(self._answering, timeout=DRAIN_SECONDS)
        for task in self._answering:
            task.cancel()


def _key(message: UserMessage) -> tuple[str, str]:
    return message.conversation_id, message.id


class _SwitchedOff:
    """Stands in for a platform that was switched off while messages waited: they are put aside."""

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        raise SolemateError(f"{message.platform} is switched off; set its token to answer there.")

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        log.warning("nobody_told", platform=message.platform, message=message.id)
