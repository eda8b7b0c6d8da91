"""Who has been told what, so that it is said once and not at every message."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

MOST_TOLD = 10_000


class Told:
    """Remembers what was said until it may be said again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[Hashable, float] = {}

    def first(self, what: Hashable, *, seconds: float) -> bool:
        """Whether it has to be said now: it was not within the seconds named the last time."""
        now = self._clock()
        if self._until.get(what, 0.0) > now:
            return False
        if len(self._until) >= MOST_TOLD:
            self._until = {key: until for key, until in self._until.items() if until > now}
        if len(self._until) >= MOST_TOLD:
            return False
        self._until[what] = now + seconds
        return True
