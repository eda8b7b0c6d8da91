"""Tests that may be looked at all the time: they rarely cry wolf, and soon see the wolf."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from training.sprt import HarmTest, Rate, Standing, duel_evidence, wilson

KNOWN = HarmTest(Rate(300.0, 700.0), 0.2, 0.04, 0.1)


def events(rate: float, number: int, rng: random.Random) -> list[bool]:
    return [rng.random() < rate for _ in range(number)]


def test_nothing_has_happened_yet() -> None:
    assert KNOWN.look([]) is Standing.OPEN


def test_one_bad_thing_after_the_other_is_harm() -> None:
    assert KNOWN.look([True] * 10) is Standing.HARMFUL


def test_harm_that_was_seen_stays_seen() -> None:
    assert KNOWN.look([True] * 10 + [False] * 100) is Standing.HARMFUL


def test_good_things_clear_it_of_suspicion() -> None:
    assert KNOWN.look([False] * 10) is Standing.CLEARED


def test_suspicion_comes_back_with_bad_things() -> None:
    assert KNOWN.look([False] * 10 + [True] * 5) is Standing.OPEN


def test_what_is_usual_counts_less_where_it_is_hardly_known() -> None:
    unknown = HarmTest(Rate(0.3, 0.7), 0.2, 0.04, 0.1)
    bad = [True] * 7
    assert KNOWN.look(bad) is Standing.HARMFUL
    assert unknown.look(bad) is Standing.OPEN


def test_without_a_difference_it_rarely_cries_harm_however_often_one_looks() -> None:
    rng = random.Random(7)
    looks = [KNOWN.look(events(0.3, 150, rng)) for _ in range(1000)]
    # It has looked after every event: harm that was seen stays seen.
    assert looks.count(Standing.HARMFUL) <= 50


def test_where_something_is_usual_at_the_moment_it_is_no_harm() -> None:
    assert KNOWN.look([True] * 30, least=[0.98] * 30) is not Standing.HARMFUL
    assert KNOWN.look([True] * 30, least=[1.0] * 30) is not Standing.HARMFUL
    assert KNOWN.look([True] * 10, least=[0.0] * 10) is Standing.HARMFUL


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (10, 5), (5, 10), (40, 20)])
def test_the_evidence_of_duels_is_the_mean_over_all_rates_above_a_half(won: int, lost: int) -> None:
    steps = 20_000
    rates = [0.5 + (step + 0.5) / steps / 2 for step in range(steps)]
    mean = sum((2 * one) ** won * (2 * (1 - one)) ** lost for one in rates) / steps
    assert duel_evidence(won, lost) == pytest.approx(mean, rel=1e-6)


def longest(results: Sequence[bool]) -> float:
    """The most evidence at any look."""
    most, won = 0.0, 0
    for count, result in enumerate(results, 1):
        won += result
        most = max(most, duel_evidence(won, count - won))
    return most


def test_equal_duellists_are_rarely_told_apart_and_better_ones_are() -> None:
    rng = random.Random(7)
    equal = [longest(events(0.5, 200, rng)) for _ in range(300)]
    better = [longest(events(0.65, 200, rng)) for _ in range(50)]
    assert sum(one >= 20 for one in equal) <= 15
    assert sum(one >= 20 for one in better) >= 45


def test_bounds_are_wilsons() -> None:
    assert wilson(60, 100, 1.645) == pytest.approx((0.518, 0.677), abs=1e-3)
    assert wilson(0, 0, 1.645) == (0.0, 1.0)
