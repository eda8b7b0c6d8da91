"""Telegram's small parts: buttons, pace, places, rates, status, and what the doctor finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from telegram.error import BadRequest, NetworkError, RetryAfter, TelegramError, TimedOut

from bots.buttons import Pick, Thumb, Why, from_data, to_data
from bots.courier import Courier, Unreachable, Wait
from bots.telegram.calls import Drafts, Limits, Rates, read_error
from bots.telegram.front import Access
from bots.telegram.notices import TelegramTeller
from bots.telegram.people import Guests
from bots.telegram.place import Names, Place, number_of
from bots.telegram.probe import examine_telegram
from bots.telegram.show import Pace
from bots.telegram.status import Status
from bots.telegram.webhook import Hook
from core.doctor import Finding, Health
from core.errors import ConfigError
from core.messages import Platform, Rating, Reason, Side, UserMessage
from core.privacy import Pseudonyms
from tests.bots.telegram_fake import TOKEN, USERNAME, FakeTelegram

REPLY = "0123456789abcdef" * 2
PRESSES = [
    *(Thumb(rating, REPLY) for rating in Rating),
    *(Why(reason, REPLY) for reason in (*Reason, None)),
    *(Pick(side, REPLY) for side in Side),
]


@pytest.mark.parametrize("press", PRESSES)
def test_a_button_carries_its_press_in_64_bytes(press: Thumb | Why | Pick) -> None:
    data = to_data(press)
    assert len(data.encode()) <= 64
    assert from_data(data) == press


@pytest.mark.parametrize("data", ["", "up", "language:zh", "forget:yes", "sideways:1"])
def test_other_buttons_are_no_verdicts(data: str) -> None:
    assert from_data(data) is None


@pytest.mark.parametrize("place", [Place(1, 11), Place(9_999_999_999, -1_009_999_999_999, 77)])
def test_a_conversation_knows_its_place(place: Place) -> None:
    names = Names(Pseudonyms(b"a key"))
    conversation = names.conversation(place, 2_147_483_647)
    assert len(conversation) <= 64
    assert names.where(conversation) == place


def test_a_person_cannot_be_told_from_the_name_of_their_chat() -> None:
    place = Place(9_999_999_999, 4_503_599_627_370_495, 2_147_483_647)
    name = Names(Pseudonyms(b"a key")).conversation(place, 2_147_483_647)
    assert str(place.chat_id) not in name
    assert len(name) <= 64
    with pytest.raises(ConfigError):
        Names(Pseudonyms(b"another")).where(name)


def test_whoever_was_sealed_with_another_key_is_told_nothing() -> None:
    name = Names(Pseudonyms(b"another")).conversation(Place(1, 11), 7)
    for key, found in ((b"a key", False), (b"another", True)):
        teller = TelegramTeller(1, None, Names(Pseudonyms(key)))  # type: ignore[arg-type]
        assert teller.is_private(name) is found


def test_what_was_named_openly_is_still_found() -> None:
    assert Names(Pseudonyms(b"a key")).where("telegram:1:11:0:7") == Place(1, 11)


@pytest.mark.parametrize(
    ("message_id", "number"), [("105", 105), ("album-77", None), ("album-77-106", 106)]
)
def test_an_answer_replies_to_a_message_and_not_to_an_album(
    message_id: str, number: int | None
) -> None:
    message = UserMessage(message_id, Platform.TELEGRAM, "telegram:1:-2:0:0", "p", "Hi")
    assert number_of(message) == number


def test_edits_slow_down_as_the_text_grows_and_in_groups() -> None:
    private, group = Place(1, 11), Place(1, -11)
    assert Pace().after_edit(private, 0) == 1.0
    assert Pace().after_edit(private, 1000) == 2.0
    assert Pace().after_edit(group, 0) == 3.0
    assert Pace().after_draft(1000) == 1.0


def test_silence_that_lasts_too_long_is_a_complaint() -> None:
    now = 1000.0
    status = Status(lambda: now)
    assert "not reached" in status.complaint
    status.problem = ""
    status.touch()
    now = 1060.0
    assert status.complaint == ""
    now = 1200.0
    assert "not been heard" in status.complaint


@pytest.mark.filterwarnings("ignore::telegram.warnings.PTBDeprecationWarning")
def test_telegram_says_itself_how_long_to_wait() -> None:
    assert read_error(RetryAfter(7)) == Wait(7.0)


@pytest.mark.parametrize(
    ("cause", "arrived"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.PoolTimeout("full"), False),
        (httpx.ReadTimeout("late"), True),
        (httpx.RemoteProtocolError("closed"), True),
    ],
)
def test_a_call_without_an_answer_may_have_arrived(cause: Exception, arrived: bool) -> None:
    error = NetworkError("lost")
    error.__cause__ = cause
    assert read_error(error) == Unreachable(arrived=arrived)


@pytest.mark.parametrize(
    ("error", "reading"),
    [
        (TimedOut(), Unreachable(arrived=True)),
        (BadRequest("no"), None),
        (TelegramError("?"), None),
    ],
)
def test_an_error_says_whether_to_try_again(
    error: TelegramError, reading: Wait | Unreachable | None
) -> None:
    assert read_error(error) == reading


ONCE = (1.0, 3600.0)
OFTEN = (1000.0, 1.0)


class Calls:
    """Counts what arrives in each chat."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def to(self, chat: int) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            self.made.append(chat)

        return call


@pytest.mark.parametrize(
    ("rates", "first", "second"),
    [
        (Rates(overall=ONCE, chat=OFTEN, group=OFTEN), 11, 12),
        (Rates(overall=OFTEN, chat=ONCE, group=OFTEN), 11, 11),
        (Rates(overall=OFTEN, chat=OFTEN, group=ONCE), -11, -11),
    ],
)
async def test_over_a_rate_messages_wait_and_edits_are_left_out(
    rates: Rates, first: int, second: int
) -> None:
    courier, calls = Courier(read_error, limits=Limits(rates)), Calls()
    await courier.deliver(first, calls.to(first), repeatable=True)
    await courier.offer(second, calls.to(second))
    waiting = asyncio.create_task(courier.deliver(second, calls.to(second), repeatable=True))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    assert calls.made == [first]


async def test_a_chat_over_its_rate_holds_up_no_other() -> None:
    rates = Rates(overall=OFTEN, chat=ONCE, group=ONCE)
    courier, calls = Courier(read_error, limits=Limits(rates)), Calls()
    for chat in (11, 12, -13):
        await courier.deliver(chat, calls.to(chat), repeatable=True)
    assert calls.made == [11, 12, -13]


async def test_edits_leave_room_for_what_has_to_arrive() -> None:
    rates = Rates(overall=OFTEN, chat=(4.0, 3600.0), group=OFTEN)
    courier, calls = Courier(read_error, limits=Limits(rates)), Calls()
    for _ in range(10):
        await courier.offer(11, calls.to(11))
    assert len(calls.made) == 3
    await courier.deliver(11, calls.to(11), repeatable=True)
    assert len(calls.made) == 4


async def test_drafts_count_for_no_chat() -> None:
    rates = Rates(overall=OFTEN, chat=ONCE, group=ONCE)
    courier, calls = Courier(read_error, limits=Limits(rates)), Calls()
    for _ in range(5):
        await courier.offer(Drafts(11), calls.to(11))
    await courier.deliver(11, calls.to(11), repeatable=True)
    assert len(calls.made) == 6


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().serving() as server:
        yield server


async def found(fake: FakeTelegram, hook: Hook | None = None, token: str = TOKEN) -> Finding:
    address = f"{fake.address}/bot"
    return await examine_telegram(Access(token, address, address, Guests()), hook)


async def test_the_doctor_names_the_bot(fake: FakeTelegram) -> None:
    finding = await found(fake)
    assert (finding.part, finding.health) == ("telegram", Health.OK)
    assert USERNAME in finding.found


async def test_the_doctor_knows_a_wrong_token_without_showing_it(fake: FakeTelegram) -> None:
    finding = await found(fake, token="1000:wrong-token")
    assert finding.health is Health.ILL
    assert "BotFather" in finding.advice
    assert "wrong-token" not in f"{finding.found} {finding.advice}"


async def test_the_doctor_says_when_telegram_is_away(fake: FakeTelegram) -> None:
    fake.refuse("getMe", *[None] * 3)
    finding = await found(fake)
    assert finding.health is Health.WARNING
    assert "cannot be reached" in finding.found


@pytest.mark.parametrize(
    ("wanted", "set_to", "error", "advice"),
    [
        ("", "https://old.example/", "", "removes it"),
        ("https://new.example/", "", "", "sets it"),
        ("https://new.example/", "https://new.example/", "502 Bad Gateway", "502"),
    ],
)
async def test_the_doctor_sees_updates_that_go_astray(
    fake: FakeTelegram, wanted: str, set_to: str, error: str, advice: str
) -> None:
    fake.webhook, fake.webhook_error = set_to, error
    finding = await found(fake, Hook(wanted, "s" * 40) if wanted else None)
    assert finding.health is Health.WARNING
    assert advice in finding.advice


def test_without_lists_everyone_is_welcome() -> None:
    assert Guests().welcome(99, Place(1, 99))


def test_with_a_list_only_its_people_and_the_operators_are_welcome() -> None:
    guests = Guests(users=frozenset({11}), operators=frozenset({12}))
    welcome = [guests.welcome(number, Place(1, number)) for number in (11, 12, 13)]
    assert welcome == [True, True, False]
