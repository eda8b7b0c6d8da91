"""How often each person did something of late, counted in this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from limits import RateLimitItem

_SWEPT_AT_LEAST = 1000


@dataclass(slots=True)
class _Window:
    seconds: float
    hits: deque[float] = field(default_factory=deque)

    def move(self, now: float) -> None:
        while self.hits and self.hits[0] <= now - self.seconds:
            self.hits.popleft()


class Windows:
    """Moving windows, forgotten some time after nothing is left in them.

    The storage in memory of the package that counts in Redis looks through everybody's windows at
    each hit, with a thread for each: a few thousand people of one day, and that takes longer than
    their answers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[Hashable, _Window] = {}
        self._sweep_at = _SWEPT_AT_LEAST

    def __len__(self) -> int:
        return len(self._windows)

    def hit(self, item: RateLimitItem, key: Hashable, cost: int) -> float:
        """Count; 0 where that may be, else the seconds until the window moves on, one at least."""
        now, seconds = self._clock(), item.get_expiry()
        window = self._windows.setdefault(key, _Window(seconds))
        window.move(now)
        if len(window.hits) + cost > item.amount:
            oldest = window.hits[0] if window.hits else now
            return max(1.0, oldest + seconds - now)
        window.hits.extend([now] * cost)
        self._sweep(now)
        return 0.0

    def _sweep(self, now: float) -> None:
        """Look through them all only when they have doubled, so that a hit costs little."""
        if len(self._windows) < self._sweep_at:
            return
        for key, window in list(self._windows.items()):
            window.move(now)
            if not window.hits:
                del self._windows[key]
        self._sweep_at = max(_SWEPT_AT_LEAST, 2 * len(self._windows))
