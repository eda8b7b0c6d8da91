"""Windows move on, are forgotten when nothing is left in them, and leave nothing to do."""

from __future__ import annotations

import asyncio

from limits import RateLimitItemPerDay, RateLimitItemPerMinute

from bots.allowance import Allowance, Limits
from bots.windows import Windows

TWO_A_MINUTE = RateLimitItemPerMinute(2)
ONE_A_DAY = RateLimitItemPerDay(1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_window_moves_on() -> None:
    clock = Clock()
    windows = Windows(clock)
    waits = []
    for moment in (0, 10, 20, 59, 60, 61, 70):
        clock.now = float(moment)
        waits.append(windows.hit(TWO_A_MINUTE, "ann", 1))
    assert waits == [0, 0, 40, 1, 0, 9, 0]


def test_people_and_kinds_are_counted_apart() -> None:
    windows = Windows(Clock())
    assert [windows.hit(TWO_A_MINUTE, who, 2) for who in ("ann", "ben")] == [0, 0]
    assert windows.hit(ONE_A_DAY, ("day", "ann"), 1) == 0
    assert windows.hit(TWO_A_MINUTE, "ann", 1) == 60


def test_more_than_may_ever_be_is_refused_and_not_counted() -> None:
    windows = Windows(Clock())
    assert windows.hit(TWO_A_MINUTE, "ann", 3) == 60
    assert windows.hit(TWO_A_MINUTE, "ann", 2) == 0


def test_windows_are_forgotten_when_nothing_is_left_in_them() -> None:
    clock = Clock()
    windows = Windows(clock)
    for day in range(20):
        clock.now = 86_400.0 * 2 * day
        for person in range(1000):
            windows.hit(ONE_A_DAY, (day, person), 1)
    assert 1000 <= len(windows) <= 2000


async def test_a_message_leaves_nothing_to_do_about_others() -> None:
    limits = Limits(Allowance(messages_per_minute=9, photos_per_minute=9, messages_per_day=9))
    for number in range(100):
        await limits.count(f"w:{number}", photos=1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
