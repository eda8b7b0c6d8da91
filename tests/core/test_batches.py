"""What is asked while a model is busy is computed together in its next call."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.batches import Batches


class Model:
    """Doubles numbers, each call held until `free` is set; remembers what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.busy = Event()
        self.free = Event()

    def __call__(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        self.asked.append(list(numbers))
        self.busy.set()
        assert self.free.wait(60)
        if 13 in numbers:
            raise ValueError("unlucky")
        return np.array([2 * number for number in numbers], np.float32)


def doubled(model: Model, numbers: Sequence[int], *, most: int) -> list[Any]:
    """Ask for the first number, and for the others while the model is busy with it."""
    batches = Batches[int](model, most, Lock())
    with ThreadPoolExecutor(len(numbers)) as threads:
        asking = [threads.submit(batches, numbers[0])]
        assert model.busy.wait(60)
        asking += [threads.submit(batches, number) for number in numbers[1:]]
        while len(batches._waiting) < len(numbers) - 1:
            pass
        model.free.set()
        return [one.exception(60) or one.result(60) for one in asking]


def test_all_who_wait_are_answered_by_the_next_call() -> None:
    model = Model()
    assert doubled(model, range(1, 6), most=8) == [2, 4, 6, 8, 10]
    assert model.asked[0] == [1]
    assert sorted(model.asked[1]) == [2, 3, 4, 5]


def test_a_call_has_no_more_than_it_may() -> None:
    model = Model()
    assert doubled(model, range(1, 8), most=3) == [2, 4, 6, 8, 10, 12, 14]
    assert [len(asked) for asked in model.asked] == [1, 3, 3]


def test_whoever_comes_alone_waits_for_nobody() -> None:
    model = Model()
    model.free.set()
    assert Batches[int](model, 8, Lock())(4) == 8
    assert model.asked == [[4]]


def test_a_failure_is_told_to_all_whom_it_concerns_and_to_nobody_else() -> None:
    model = Model()
    first, *others = doubled(model, [1, 2, 13], most=8)
    assert first == 2
    assert [str(one) for one in others] == ["unlucky", "unlucky"]


def test_a_model_that_failed_is_asked_again() -> None:
    model = Model()
    model.free.set()
    batches = Batches[int](model, 8, Lock())
    with pytest.raises(ValueError, match="unlucky"):
        batches(13)
    assert batches(2) == 4
