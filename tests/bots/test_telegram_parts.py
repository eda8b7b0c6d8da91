"""Telegram's small parts: buttons, pace, places and the status of the polling."""

from __future__ import annotations

import pytest

from bots.buttons import Thumb, Why, from_data, to_data
from bots.telegram.people import Guests
from bots.telegram.place import Place, place_from
from bots.telegram.polling import Status
from bots.telegram.show import Pace
from core.messages import Rating, Reason

REPLY = "0123456789abcdef" * 2
PRESSES = [
    *(Thumb(rating, REPLY) for rating in Rating),
    *(Why(reason, REPLY) for reason in (*Reason, None)),
]


@pytest.mark.parametrize("press", PRESSES)
def test_a_button_carries_its_press_in_64_bytes(press: Thumb | Why) -> None:
    data = to_data(press)
    assert len(data.encode()) <= 64
    assert from_data(data) == press


@pytest.mark.parametrize("data", ["", "up", "language:zh", "forget:yes", "sideways:1"])
def test_other_buttons_are_no_verdicts(data: str) -> None:
    assert from_data(data) is None


@pytest.mark.parametrize("place", [Place(1, 11), Place(9_999_999_999, -1_009_999_999_999, 77)])
def test_a_conversation_knows_its_place(place: Place) -> None:
    conversation = place.conversation_id(2_147_483_647)
    assert len(conversation) <= 64
    assert place_from(conversation) == place


def test_edits_slow_down_as_the_text_grows_and_in_groups() -> None:
    private, group = Place(1, 11), Place(1, -11)
    assert Pace().seconds(private, 0) == 1.0
    assert Pace().seconds(private, 1000) == 2.0
    assert Pace().seconds(group, 0) == 3.0


def test_a_poll_that_is_away_too_long_is_a_complaint() -> None:
    status = Status(problem="", polled_at=1000.0)
    assert status.complaint(1060.0) == ""
    assert "No poll" in status.complaint(1200.0)


def test_without_lists_everyone_is_welcome() -> None:
    assert Guests().welcome(99, Place(1, 99))


def test_with_a_list_only_its_people_and_the_operators_are_welcome() -> None:
    guests = Guests(users=frozenset({11}), operators=frozenset({12}))
    welcome = [guests.welcome(number, Place(1, number)) for number in (11, 12, 13)]
    assert welcome == [True, True, False]
