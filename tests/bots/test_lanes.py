"""Lanes: order in a conversation, conversations side by side, nothing lost and nothing twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bots.allowance import Allowance, Limits
from bots.lanes import Patience
from bots.web.desk import Desk
from core.errors import Busy, NotFound, PlatformAway, SolemateError, StoreError
from core.inbox import Letter, Receipt
from core.messages import ChatMessage, Done, Event, Platform, UserMessage
from core.model import Piece, Sampling
from core.tables import inbox, turns
from core.wording import apology
from tests.bots.desks import AT_ONCE, open_desk
from tests.fakes import FakeChatModel, HeldChatModel

ROOT = Path(__file__).resolve().parents[2]


def ask(number: int, conversation: str = "c", text: str = "canvas?") -> UserMessage:
    return UserMessage(f"m{number}", Platform.WEB, conversation, "w:someone", text)


@dataclass
class RecordingBot:
    """Remembers what it showed; `ended` is set after `expected` messages were shown or failed."""

    expected: int = 1
    started: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    apologies: list[tuple[str, SolemateError | None]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    fails: frozenset[str] = frozenset()
    all_started: asyncio.Event = field(default_factory=asyncio.Event)

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        self.started.append(message.id)
        if len(self.started) >= self.expected:
            self.all_started.set()
        if message.text in self.fails:
            raise RuntimeError("this platform is broken")
        async for event in events:
            self.events.append(event)
        self.shown.append(message.id)
        self._count()

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        self.apologies.append((message.id, error))
        self._count()

    def _count(self) -> None:
        if len(self.shown) + len(self.apologies) >= self.expected:
            self.ended.set()


@asynccontextmanager
async def lanes_of(
    folder: Path, bot: RecordingBot, model: FakeChatModel | None = None, *, width: int = 4
) -> AsyncIterator[Desk]:
    async with open_desk(folder, model, bots={Platform.WEB: bot}, width=width) as desk:
        yield desk


async def states(desk: Desk) -> dict[str, str]:
    query = sa.select(inbox.c.message_id, inbox.c.state)
    rows = await desk.store.run(lambda connection: connection.execute(query).all())
    return {row.message_id: row.state for row in rows}


async def test_messages_of_a_conversation_are_answered_in_their_order(tmp_path: Path) -> None:
    bot = RecordingBot(expected=6)
    async with lanes_of(tmp_path, bot) as desk, desk.lanes.running():
        for number in range(6):
            await desk.lanes.submit(ask(number))
        await bot.ended.wait()
    assert bot.shown == [f"m{number}" for number in range(6)]


async def test_only_one_message_of_a_conversation_is_answered_at_a_time(tmp_path: Path) -> None:
    bot, model = RecordingBot(expected=2), HeldChatModel()
    async with lanes_of(tmp_path, bot, model) as desk, desk.lanes.running():
        await desk.lanes.submit(ask(1))
        await model.waiting.wait()
        await desk.lanes.submit(ask(2))
        assert bot.started == ["m1"]
        model.gate.set()
        await bot.ended.wait()
    assert bot.shown == ["m1", "m2"]


async def test_conversations_are_answered_side_by_side(tmp_path: Path) -> None:
    bot, model = RecordingBot(expected=4), HeldChatModel()
    async with lanes_of(tmp_path, bot, model) as desk, desk.lanes.running():
        for number in range(4):
            await desk.lanes.submit(ask(number, conversation=f"c{number}"))
        await bot.all_started.wait()
        assert bot.shown == []
        model.gate.set()
        await bot.ended.wait()
    assert len(bot.shown) == 4


class SlowNowAndThen(FakeChatModel):
    """Holds every fifth answer until `gate` is set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate = asyncio.Event()

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        pieces = super().stream(prompt, adapter, sampling)
        first = await anext(pieces)
        if len(self.asked) % 5 == 0:
            await self.gate.wait()
        yield first
        async for piece in pieces:
            yield piece


async def test_answers_with_a_slow_first_word_hold_up_nobody_else(tmp_path: Path) -> None:
    bot, model = RecordingBot(expected=8), SlowNowAndThen()
    async with lanes_of(tmp_path, bot, model) as desk, desk.lanes.running():
        for number in range(10):
            await desk.lanes.submit(ask(number, conversation=f"c{number}"))
        await bot.ended.wait()
        assert len(bot.shown) == 8
        bot.expected = 10
        bot.ended.clear()
        model.gate.set()
        await bot.ended.wait()
    assert len(set(bot.shown)) == 10


async def test_a_message_is_answered_though_its_sender_left_while_it_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, committing = RecordingBot(), asyncio.Event()
    async with lanes_of(tmp_path, bot) as desk, desk.lanes.running():
        inbox_takes = desk.inbox.take

        async def take(message: UserMessage) -> Receipt:
            committing.set()
            return await inbox_takes(message)

        monkeypatch.setattr(desk.inbox, "take", take)
        submitting = asyncio.create_task(desk.lanes.submit(ask(1)))
        await committing.wait()
        submitting.cancel()
        await bot.ended.wait()
        assert submitting.cancelled()
    assert bot.shown == ["m1"]


async def test_an_answer_begins_while_its_message_is_committed_and_is_shown_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, begun = RecordingBot(), asyncio.Event()
    async with lanes_of(tmp_path, bot) as desk, desk.lanes.running():
        engine_answers, inbox_takes = desk.engine.answer, desk.inbox.take

        async def answer(message: UserMessage, **options: Any) -> AsyncGenerator[Event, None]:
            async for event in engine_answers(message, **options):
                begun.set()
                yield event

        async def take(message: UserMessage) -> Receipt:
            await begun.wait()
            assert bot.started == []
            return await inbox_takes(message)

        monkeypatch.setattr(desk.engine, "answer", answer)
        monkeypatch.setattr(desk.inbox, "take", take)
        await desk.lanes.submit(ask(1))
        await bot.ended.wait()
    assert bot.shown == ["m1"]


async def test_what_cannot_be_committed_is_not_answered_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = RecordingBot()
    async with lanes_of(tmp_path, bot, width=1) as desk, desk.lanes.running():
        with monkeypatch.context() as broken:

            async def full(_: UserMessage) -> Receipt:
                raise StoreError("The disk is full.")

            for way in ("take", "put"):
                broken.setattr(desk.inbox, way, full)
            with pytest.raises(StoreError):
                await desk.lanes.submit(ask(1))
        await desk.lanes.submit(ask(2))
        await bot.ended.wait()
    assert bot.started == ["m2"]


async def test_the_same_message_is_answered_once(tmp_path: Path) -> None:
    bot = RecordingBot(expected=2)
    async with lanes_of(tmp_path, bot) as desk, desk.lanes.running():
        assert await desk.lanes.submit(ask(1))
        assert not await desk.lanes.submit(ask(1))
        await desk.lanes.submit(ask(2))
        await bot.ended.wait()
        assert not await desk.lanes.submit(ask(1))
    assert bot.shown == ["m1", "m2"]


@pytest.mark.parametrize("others", [1, pytest.param(999, marks=pytest.mark.nightly)])
async def test_a_failing_message_is_put_aside_after_three_tries_with_one_apology(
    tmp_path: Path, others: int
) -> None:
    bot = RecordingBot(expected=1 + others, fails=frozenset({"bad"}))
    well = range(2, 2 + others)
    async with lanes_of(tmp_path, bot) as desk:
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1, "c1", "bad"))
            for number in well:
                await desk.lanes.submit(ask(number, f"c{number}"))
            await bot.ended.wait()
        assert bot.started.count("m1") == 3
        assert bot.apologies == [("m1", None)]
        assert Counter(bot.shown) == Counter(f"m{number}" for number in well)
        assert await states(desk) == {"m1": "dead"} | {f"m{number}": "done" for number in well}


async def test_a_message_after_a_failing_one_is_answered(tmp_path: Path) -> None:
    bot = RecordingBot(expected=2, fails=frozenset({"bad"}))
    async with lanes_of(tmp_path, bot) as desk, desk.lanes.running():
        await desk.lanes.submit(ask(1, text="bad"))
        await desk.lanes.submit(ask(2))
        await bot.ended.wait()
    assert bot.shown == ["m2"]


async def test_a_refused_message_is_apologised_for_once_and_not_tried_again(
    tmp_path: Path,
) -> None:
    bot = RecordingBot(expected=1)
    async with lanes_of(tmp_path, bot) as desk:
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1, text=" "))
            await bot.ended.wait()
        [(message, error)] = bot.apologies
        assert (message, type(error).__name__) == ("m1", "MessageRejected")
        assert bot.started == ["m1"]
        assert await states(desk) == {"m1": "done"}


class MuteBot(RecordingBot):
    """A platform that takes nothing, not even an apology."""

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        await super().apologise(message, error)
        raise RuntimeError("the platform is away")


async def test_a_platform_that_takes_no_apology_does_not_stop_the_others(tmp_path: Path) -> None:
    bot = MuteBot(expected=3, fails=frozenset({"bad"}))
    async with lanes_of(tmp_path, bot) as desk, desk.lanes.running():
        await desk.lanes.submit(ask(1, "c1", " "))
        await desk.lanes.submit(ask(2, "c2", "bad"))
        await desk.lanes.submit(ask(3, "c3"))
        await bot.ended.wait()
    assert bot.shown == ["m3"]


@dataclass
class AwayBot(RecordingBot):
    """A platform that cannot be reached so many times."""

    away: int = 0
    tries: int = 0

    async def show(self, message: UserMessage, events: AsyncIterator[Event]) -> None:
        self._try()
        await super().show(message, events)

    async def apologise(self, message: UserMessage, error: SolemateError | None) -> None:
        self._try()
        await super().apologise(message, error)

    def _try(self) -> None:
        self.tries += 1
        if self.tries <= self.away:
            raise PlatformAway("It does not answer.")


async def test_a_platform_that_is_away_for_a_while_loses_nothing(tmp_path: Path) -> None:
    bot = AwayBot(expected=2, away=12)
    async with lanes_of(tmp_path, bot) as desk, desk.lanes.running():
        await desk.lanes.submit(ask(1))
        await desk.lanes.submit(ask(2))
        await bot.ended.wait()
    assert (bot.shown, bot.apologies, bot.tries) == (["m1", "m2"], [], 14)


async def test_why_a_message_is_refused_is_said_once_the_platform_is_back(tmp_path: Path) -> None:
    bot = AwayBot(away=12)
    async with lanes_of(tmp_path, bot) as desk:
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1, text=" "))
            await bot.ended.wait()
        [(message, error)] = bot.apologies
        assert (message, type(error).__name__) == ("m1", "MessageRejected")
        assert await states(desk) == {"m1": "done"}


async def test_a_platform_that_is_away_for_long_gets_its_apologies_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.POLL_SECONDS", 0.01)
    bot = AwayBot(away=6)
    patience = replace(AT_ONCE, away_seconds=0.0)
    async with open_desk(tmp_path, bots={Platform.WEB: bot}, patience=patience) as desk:
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1))
            await bot.ended.wait()
        query = sa.select(inbox.c.state, inbox.c.problem)
        [row] = await desk.store.run(lambda connection: connection.execute(query).all())
        assert tuple(row) == ("dead", "It does not answer.")
        assert await desk.inbox.apologies.next() is None
    assert bot.apologies == [("m1", None)]
    assert bot.tries == 7


async def test_a_pause_grows_with_the_time_that_something_fails() -> None:
    patience = Patience()
    for failing, least, most in ((0, 1, 1.25), (1, 4, 5), (6, 24, 30), (300, 60, 75)):
        assert least <= patience.pause(failing) <= most


async def test_messages_of_a_platform_that_was_switched_off_are_put_aside(tmp_path: Path) -> None:
    bot = RecordingBot()
    async with lanes_of(tmp_path, bot) as desk:
        slack = UserMessage("s1", Platform.SLACK, "slack", "s:1", "canvas?")
        await desk.inbox.put(slack)
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1))
            await bot.ended.wait()
            while (await states(desk))["s1"] != "dead":
                pass
        assert bot.shown == ["m1"]


async def test_a_crash_between_storing_and_finishing_shows_the_stored_reply_again(
    tmp_path: Path,
) -> None:
    model = FakeChatModel()
    async with lanes_of(tmp_path, RecordingBot(), model) as desk:
        await desk.inbox.put(ask(1))
        events = [event async for event in desk.engine.answer(ask(1))]
    asked = len(model.asked)
    bot = RecordingBot()
    async with lanes_of(tmp_path, bot, model) as desk, desk.lanes.running():
        await bot.ended.wait()
    [shown] = bot.events
    first = events[-1]
    assert isinstance(shown, Done)
    assert isinstance(first, Done)
    assert shown.reply.id == first.reply.id
    assert len(model.asked) == asked


async def test_a_message_whose_answering_ends_the_program_is_put_aside_at_last(
    tmp_path: Path,
) -> None:
    bot = RecordingBot()
    async with lanes_of(tmp_path, bot) as desk:
        await desk.inbox.put(ask(1))
        crashed = sa.update(inbox).values(attempts=10)
        await desk.store.run(lambda connection: connection.execute(crashed))
        async with desk.lanes.running():
            await bot.ended.wait()
        assert bot.started == []
        assert [message for message, _ in bot.apologies] == ["m1"]
        assert await states(desk) == {"m1": "dead"}


async def test_leaving_waits_for_answers_under_way(tmp_path: Path) -> None:
    bot, model = RecordingBot(), HeldChatModel()
    async with lanes_of(tmp_path, bot, model) as desk:
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1))
            await model.waiting.wait()
            asyncio.get_running_loop().call_soon(model.gate.set)
        assert bot.shown == ["m1"]
        assert await states(desk) == {"m1": "done"}


async def test_letters_go_back_when_answers_take_too_long_to_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.DRAIN_SECONDS", 0.01)
    bot, model = RecordingBot(), HeldChatModel()
    async with lanes_of(tmp_path, bot, model) as desk:
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1))
            await model.waiting.wait()
        assert await states(desk) == {"m1": "new"}
        letter = await desk.inbox.lease()
        assert letter is not None
        assert letter.attempts == 1


async def test_a_cancelled_run_gives_its_letters_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.DRAIN_SECONDS", 0.01)
    bot, model = RecordingBot(), HeldChatModel()
    async with lanes_of(tmp_path, bot, model) as desk:

        async def run() -> None:
            async with desk.lanes.running():
                await asyncio.Event().wait()

        running = asyncio.create_task(run())
        await desk.lanes.submit(ask(1))
        await model.waiting.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await states(desk) == {"m1": "new"}


async def test_a_letter_leased_at_the_moment_of_leaving_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leasing, go_on = asyncio.Event(), asyncio.Event()
    async with lanes_of(tmp_path, RecordingBot()) as desk:
        await desk.inbox.put(ask(1))
        lease = desk.inbox.lease

        async def slow_lease() -> Letter | None:
            letter = await lease()
            leasing.set()
            await go_on.wait()
            return letter

        monkeypatch.setattr(desk.inbox, "lease", slow_lease)
        async with desk.lanes.running():
            await leasing.wait()
            asyncio.get_running_loop().call_soon(go_on.set)
        assert await states(desk) == {"m1": "new"}


async def test_an_answer_that_outlives_its_lease_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, model, leased_again = RecordingBot(), HeldChatModel(), asyncio.Event()
    async with open_desk(tmp_path, model, bots={Platform.WEB: bot}, lease_seconds=0.0) as desk:
        lease = desk.inbox.lease

        async def watched_lease() -> Letter | None:
            letter = await lease()
            if letter is not None and letter.attempts > 1:
                leased_again.set()
            return letter

        monkeypatch.setattr(desk.inbox, "lease", watched_lease)
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1))
            await leased_again.wait()
            model.gate.set()
            await bot.ended.wait()
        assert bot.started == ["m1"]
        assert await states(desk) == {"m1": "done"}


async def test_the_blocks_own_error_comes_out_as_it_is(tmp_path: Path) -> None:
    async with lanes_of(tmp_path, RecordingBot()) as desk:
        with pytest.raises(NotFound):
            async with desk.lanes.running():
                raise NotFound("gone")


async def test_an_unreadable_inbox_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.POLL_SECONDS", 0.01)
    bot = RecordingBot()
    async with lanes_of(tmp_path, bot) as desk:
        lease, failures = desk.inbox.lease, [StoreError("away"), StoreError("still away")]

        async def failing_lease() -> Letter | None:
            if failures:
                raise failures.pop()
            return await lease()

        monkeypatch.setattr(desk.inbox, "lease", failing_lease)
        await desk.inbox.put(ask(1))
        async with desk.lanes.running():
            await bot.ended.wait()
    assert bot.shown == ["m1"]


async def test_a_stopped_answer_ends_where_it_is(tmp_path: Path) -> None:
    bot, model = RecordingBot(), HeldChatModel(["Wash canvas shoes by hand."])
    async with lanes_of(tmp_path, bot, model) as desk:
        async with desk.lanes.running():
            await desk.lanes.submit(ask(1))
            await model.waiting.wait()
            assert await desk.lanes.stop("c", "m1")
            model.gate.set()
            await bot.ended.wait()
        assert not await desk.lanes.stop("c", "m1")
    done = bot.events[-1]
    assert isinstance(done, Done)
    assert not done.reply.complete
    assert done.reply.text.endswith("(stopped)")


async def test_a_stateless_call_gets_the_only_place_while_nothing_waits(tmp_path: Path) -> None:
    async with (
        lanes_of(tmp_path, RecordingBot(), width=1) as desk,
        desk.lanes.running(),
        asyncio.timeout(5),
        desk.lanes.slot("api:x", photos=0),
    ):
        pass


async def test_a_person_who_sends_too_much_is_asked_to_wait() -> None:
    limits = Limits(Allowance(messages_per_minute=2, photos_per_minute=1, messages_per_day=9))
    await limits.count("w:one", photos=1)
    await limits.count("w:one", photos=0)
    with pytest.raises(Busy) as caught:
        await limits.count("w:one", photos=0)
    assert 1 <= caught.value.retry_after_seconds <= 60
    await limits.count("w:other", photos=0)


async def test_a_repeat_does_not_count_against_the_persons_limits(tmp_path: Path) -> None:
    bot = RecordingBot(expected=2)
    allowance = Allowance(messages_per_minute=2, photos_per_minute=1, messages_per_day=9)
    async with (
        open_desk(tmp_path, bots={Platform.WEB: bot}, allowance=allowance) as desk,
        desk.lanes.running(),
    ):
        for _ in range(3):
            await desk.lanes.submit(ask(1))
        await desk.lanes.submit(ask(2))
        assert not await desk.lanes.submit(ask(1))
        await bot.ended.wait()
    assert bot.shown == ["m1", "m2"]


async def test_a_photo_of_an_album_that_comes_again_does_not_count(tmp_path: Path) -> None:
    allowance = Allowance(messages_per_minute=1, photos_per_minute=2, messages_per_day=9)
    album = replace(ask(1), files=("one",))
    async with open_desk(tmp_path, allowance=allowance) as desk:
        for part in ("a", "a", "a", "b"):
            await desk.lanes.join(album, part, hold_seconds=60)
        with pytest.raises(Busy):
            await desk.lanes.join(album, "c", hold_seconds=60)


async def test_what_comes_again_after_a_failed_commit_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowance = Allowance(messages_per_minute=1, photos_per_minute=1, messages_per_day=9)
    async with open_desk(tmp_path, allowance=allowance) as desk:
        with monkeypatch.context() as broken:

            async def full(_: UserMessage) -> bool:
                raise StoreError("The disk is full.")

            broken.setattr(desk.inbox, "put", full)
            for _ in range(3):
                with pytest.raises(StoreError):
                    await desk.lanes.submit(ask(1))
        assert await desk.lanes.submit(ask(1))
        with pytest.raises(Busy):
            await desk.lanes.submit(ask(2))


async def test_what_was_sent_long_ago_counts_for_its_day_and_not_for_this_minute() -> None:
    allowance = Allowance(messages_per_minute=1, photos_per_minute=1, messages_per_day=3)
    limits = Limits(allowance, clock=lambda: 10_000.0)
    await limits.count("w:one", photos=1, sent_at=9_000.0)
    await limits.count("w:one", photos=1, sent_at=9_000.0)
    await limits.count("w:one", photos=1, sent_at=9_990.0)
    with pytest.raises(Busy):
        await limits.count("w:one", photos=0, sent_at=9_000.0)


async def test_photos_have_a_limit_of_their_own() -> None:
    limits = Limits(Allowance(messages_per_minute=9, photos_per_minute=1, messages_per_day=9))
    await limits.count("w:one", photos=1)
    with pytest.raises(Busy, match="at most 1 per 60") as caught:
        await limits.count("w:one", photos=1)
    assert "一分钟最多看 1 张" in apology(caught.value, "zh")
    assert "no more than 1 photos" in apology(caught.value, "en")
    await limits.count("w:one", photos=0)


async def test_who_has_used_up_a_day_is_told_in_how_many_hours_more_may_come() -> None:
    limits = Limits(Allowance(messages_per_minute=9, photos_per_minute=9, messages_per_day=2))
    await limits.count("w:one", photos=0, messages=2)
    with pytest.raises(Busy) as caught:
        await limits.count("w:one", photos=0)
    assert "一天里我最多回答你 2 条消息，请大约 24 小时后再来" in apology(caught.value, "zh")
    assert "no more than 2 messages a day" in apology(caught.value, "en")
    assert "in about 24 h" in apology(caught.value, "en")


async def test_answers_and_apologies_are_counted(tmp_path: Path) -> None:
    bot = RecordingBot(expected=2)
    async with lanes_of(tmp_path, bot) as desk, desk.lanes.running():
        await desk.lanes.submit(ask(1, "c1"))
        await desk.lanes.submit(ask(2, "c2", " "))
        await bot.ended.wait()
        figures = desk.lanes.metrics.render().decode()
    assert 'solemate_answers_total{outcome="failed",platform="web"} 1.0' in figures
    assert 'solemate_answer_seconds_count{step="own"} 1.0' in figures


async def test_ten_conversations_share_two_places(tmp_path: Path) -> None:
    bot = RecordingBot(expected=30)
    async with lanes_of(tmp_path, bot, width=2) as desk, desk.lanes.running():
        for number in range(30):
            await desk.lanes.submit(ask(number, f"c{number % 10}"))
        await bot.ended.wait()
    for conversation in range(10):
        numbers = [int(one[1:]) for one in bot.shown if int(one[1:]) % 10 == conversation]
        assert numbers == sorted(numbers)


async def test_no_message_is_lost_when_the_program_is_killed(tmp_path: Path) -> None:
    """100 messages and three kills: every one is answered, and none is stored twice."""
    async with open_desk(tmp_path) as desk:
        for number in range(100):
            await desk.inbox.put(ask(number, f"c{number % 20}"))
    for kill in range(3):
        await worker_until(tmp_path, 20 * (kill + 1), kill=True)
    await worker_until(tmp_path, 100, kill=False)
    async with open_desk(tmp_path) as desk:
        query = sa.select(turns.c.message_id)
        rows = await desk.store.run(lambda connection: connection.execute(query).scalars().all())
        assert sorted(rows) == sorted(f"m{number}" for number in range(100))
        # A row stays leased where the kill came between storing the answer and finishing it.
        assert set((await states(desk)).values()) <= {"done", "leased"}


async def worker_until(folder: Path, answers: int, *, kill: bool) -> None:
    """Run a process that answers, until this many are stored; then kill it, or let it end."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bots.killed_worker",
        str(folder),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert worker.stdout is not None
    stored = 0
    try:
        while stored < answers:
            line = await worker.stdout.readline()
            assert line, "the worker ended before it had answered"
            stored = int(line)
    finally:
        os.kill(worker.pid, signal.SIGKILL if kill else signal.SIGTERM)
        await worker.communicate()
