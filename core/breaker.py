"""Spares a model server that fails: a circuit breaker, and a budget for second tries."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from core.errors import ModelMissing, ModelUnavailable

log = structlog.get_logger()

RETRY_SHARE = 0.1
"""Second tries per question, so that a failing server is not asked twice as often."""


class Refused(ModelUnavailable):
    """The server is well but does not take this request."""


class _LeftAlone(ModelUnavailable):
    """The server was not asked."""

    unasked = True


class Breaker:
    """Stops asking a server that keeps failing, and tries it again now and then.

    Opens after five failures in a row, or when more than half of the last twenty calls failed;
    after ten seconds lets one probe through, and closes when that succeeds (the circuit breaker
    of Nygard, "Release It!").
    """

    failures_in_a_row = 5
    window = 20
    open_seconds = 10.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: deque[bool] = deque(maxlen=self.window)
        self._opened_at: float | None = None
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether the server is thought to be well."""
        return self._opened_at is None

    @contextmanager
    def call(self) -> Iterator[None]:
        """Watch one request; raise `ModelUnavailable` at once while the breaker is open.

        A request that ends with `ModelUnavailable` is a failure; one that the server refused for
        its content, or that was cancelled on our side, says nothing about the server.
        """
        probe = self._admit()
        try:
            yield
        except (Refused, ModelMissing):
            self._note(probe, failed=False)
            raise
        except ModelUnavailable:
            self._note(probe, failed=True)
            raise
        else:
            self._note(probe, failed=False)
        finally:
            self._probing = self._probing and not probe

    def _admit(self) -> bool:
        """Whether this call is the probe; raises when there may be no call."""
        if self._opened_at is None:
            return False
        waited = self._clock() - self._opened_at
        if self._probing or waited < self.open_seconds:
            raise _LeftAlone(
                "The model server has failed repeatedly, so it is left alone for "
                f"{max(0.0, self.open_seconds - waited):.0f} s more. Look at its log."
            )
        self._probing = True
        return True

    def _note(self, probe: bool, *, failed: bool) -> None:
        if probe:
            self._opened_at = self._clock() if failed else None
            self._failed.clear()
        elif self.closed:
            self._failed.append(failed)
            if self._too_many():
                self._opened_at = self._clock()
                log.warning("breaker_opened")

    def _too_many(self) -> bool:
        recent = list(self._failed)
        in_a_row = recent[-self.failures_in_a_row :]
        if len(in_a_row) == self.failures_in_a_row and all(in_a_row):
            return True
        return len(recent) == self.window and sum(recent) > self.window / 2


class RetryBudget:
    """Grants one retry for every ten questions, and a first one on credit."""

    def __init__(self) -> None:
        self._saved = 1.0

    def deposit(self) -> None:
        """Count a question."""
        self._saved = min(self._saved + RETRY_SHARE, 10 * RETRY_SHARE)

    def spend(self) -> bool:
        """Take a retry, if one is granted."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
