"""The circuit breaker on a clock of its own."""

from __future__ import annotations

import asyncio

import pytest

from core.breaker import Breaker
from core.errors import ModelUnavailable


def fail(breaker: Breaker) -> None:
    with pytest.raises(ModelUnavailable), breaker.call():
        raise ModelUnavailable("down")


def succeed(breaker: Breaker) -> None:
    with breaker.call():
        pass


def test_the_breaker_opens_after_five_failures_in_a_row() -> None:
    breaker = Breaker(lambda: 0.0)
    for _ in range(4):
        fail(breaker)
    succeed(breaker)
    for _ in range(4):
        fail(breaker)
    assert breaker.closed
    fail(breaker)
    assert not breaker.closed


def test_the_breaker_opens_when_most_of_twenty_calls_failed() -> None:
    breaker = Breaker(lambda: 0.0)
    for _ in range(6):
        succeed(breaker)
        fail(breaker)
        fail(breaker)
        assert breaker.closed
    succeed(breaker)
    fail(breaker)
    assert not breaker.closed


def test_an_open_breaker_refuses_at_once() -> None:
    breaker = Breaker(lambda: 0.0)
    for _ in range(5):
        fail(breaker)
    with pytest.raises(ModelUnavailable, match="left alone for 10 s"), breaker.call():
        pytest.fail("the call was let through")


def test_one_probe_at_a_time_is_let_through_after_ten_seconds() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(5):
        fail(breaker)
    now[0] = 10.0
    with breaker.call(), pytest.raises(ModelUnavailable), breaker.call():
        pytest.fail("a second probe was let through")
    assert breaker.closed


def test_a_failed_probe_keeps_the_breaker_open_for_ten_more_seconds() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(5):
        fail(breaker)
    now[0] = 10.0
    fail(breaker)
    now[0] = 19.0
    with pytest.raises(ModelUnavailable, match="1 s more"), breaker.call():
        pytest.fail("the call was let through")


def test_an_abandoned_probe_leaves_room_for_another() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(5):
        fail(breaker)
    now[0] = 10.0
    with pytest.raises(asyncio.CancelledError), breaker.call():
        raise asyncio.CancelledError
    succeed(breaker)
    assert breaker.closed
