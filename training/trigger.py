"""Whether a run is due: a rule over the pool, asked as often as one likes."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from core.errors import ConfigError
from training.dataset import RunStage
from training.runs import Run, Runs

_WINDOW = re.compile(r"^([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)$")


# Of a cool-down of a day, an hour.
_EARLY = 1 / 24


@dataclass(frozen=True, slots=True)
class Moment:
    """What the rule looks at: the pool as it is, and what was done before."""

    now: float
    new: int
    pool: int
    people: int
    last_run_at: float | None


@dataclass(frozen=True, slots=True)
class TriggerRule:
    """When enough has come together for a run; `config.toml` says why one would change each.

    `window` are hours of the day in UTC such as "02:00-05:00", "" for any.
    """

    min_new_pairs: int
    rush_new_pairs: int
    min_pool: int
    min_people: int
    window: str
    cooldown_seconds: float

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a window that is none, before anybody waits for it."""
        in_window(self.window, 0.0)

    def due(self, moment: Moment, *, nightly: bool) -> str:
        """Why a run is due, "" where none is. The nightly look is inside every window."""
        last = moment.last_run_at
        if last is not None and self.cooling(last, moment.now, nightly=nightly):
            return ""
        if moment.pool < self.min_pool or moment.people < self.min_people:
            return ""
        rush = moment.new >= self.rush_new_pairs
        in_time = nightly or in_window(self.window, moment.now)
        if moment.new < self.min_new_pairs or not (rush or in_time):
            return ""
        return f"{moment.new} new pairs, {moment.pool} of {moment.people} people in all"

    def cooling(self, last_run_at: float, now: float, *, nightly: bool) -> bool:
        """Whether the last run is too recent; one that lies ahead was begun by another clock.

        The nightly look may come a little early: last night's run began a moment after its own
        look, and so a day's rest would miss every night by that moment.
        """
        early = _EARLY if nightly else 0.0
        return 0 <= now - last_run_at < self.cooldown_seconds * (1 - early)


def in_window(window: str, now: float) -> bool:
    """Whether this moment (Unix seconds) lies in hours of the day such as "22:00-02:00" (UTC)."""
    if not window:
        return True
    found = _WINDOW.match(window)
    if found is None:
        raise ConfigError(
            f"The setting 'training.window' is {window!r}: write hours in UTC such as "
            "'02:00-05:00', or '' for any time."
        )
    hours = [int(part) for part in found.groups()]
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    moment = datetime.fromtimestamp(now, UTC)
    minute = moment.hour * 60 + moment.minute
    return start <= minute < end if start <= end else minute >= start or minute < end


class Look:
    """Looks whether a run is due, and begins it."""

    def __init__(
        self,
        runs: Runs,
        rule: TriggerRule,
        *,
        stage: RunStage,
        recipe: str,
        pool: Callable[[float], Awaitable[Sequence[tuple[str, str]]]],
        paused: Path,
        automatic: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`pool` gives pair and person of everything that a run could train on at a moment.

        While the file `paused` exists nothing is begun, and without `automatic` never.
        """
        self._automatic = automatic
        self._runs = runs
        self._rule = rule
        self._stage = stage
        self._recipe = recipe
        self._pool = pool
        self._paused = paused
        self._now = now

    @property
    def paused(self) -> bool:
        """Whether an operator has told the loop to stand still."""
        return self._paused.exists()

    async def __call__(self, *, nightly: bool = False) -> Run | None:
        """Begin a run where one is due; None where none is, or somebody else was faster.

        What costs nothing is asked first: most looks end before the pool is read.
        """
        now = self._now()
        if self.paused or not self._automatic:
            return None
        past = await self._runs.all()
        last = max((run.created_at for run in past), default=None)
        if any(not run.ended for run in past):
            return None
        if last is not None and self._rule.cooling(last, now, nightly=nightly):
            return None
        pool = await self._pool(now)
        tried = await self._runs.pairs_tried()
        moment = Moment(
            now,
            new=sum(pair not in tried for pair, _ in pool),
            pool=len(pool),
            people=len({person for _, person in pool if person}),
            last_run_at=last,
        )
        why = self._rule.due(moment, nightly=nightly)
        if not why:
            return None
        return await self._runs.start(
            self._stage, self._recipe, why=why, who="scheduler", seen=len(past), now=now
        )
