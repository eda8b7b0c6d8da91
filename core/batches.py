"""Computes together what several threads ask a model at about the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Rows = NDArray[np.float32]


class Batches(Generic[Item]):
    """One call of a model at a time, for all who wait by then; nobody waits for others to come.

    A GPU needs hardly longer for eight items than for one.
    """

    def __init__(self, compute: Callable[[Sequence[Item]], Rows], most: int, free: Lock) -> None:
        """`compute` gives one row an item for at most `most` of them, while `free` is held."""
        self._compute = compute
        self._most = most
        self._free = free
        self._waiting: list[tuple[Item, Future[Rows]]] = []
        self._queue = Lock()

    def __call__(self, item: Item) -> Rows:
        """The item's row; blocks until it is there, so call it in a thread."""
        mine: Future[Rows] = Future()
        with self._queue:
            self._waiting.append((item, mine))
        # Whoever finds the model free computes for the first who wait, until their own is done.
        while not mine.done():
            with self._free:
                if not mine.done():
                    self._compute_next()
        return mine.result()

    def _compute_next(self) -> None:
        with self._queue:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            rows = self._compute([item for item, _ in batch])
        except Exception as exc:  # noqa: BLE001  (each of them raises it)
            for _, future in batch:
                future.set_exception(exc)
            return
        for (_, future), row in zip(batch, rows, strict=True):
            future.set_result(row)
