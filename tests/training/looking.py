"""Somebody who looks whether a run is due, with a pool and a clock of their own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from core.store import Store
from training.runs import Run, Runs, RunState
from training.trigger import Look, TriggerRule

HOUR = 3600.0
NIGHT = datetime(2026, 3, 1, 3, 0, tzinfo=UTC).timestamp()
NOON = NIGHT + 9 * HOUR
RULE = TriggerRule(
    min_new_pairs=10,
    rush_new_pairs=50,
    min_pool=20,
    min_people=5,
    window="02:00-05:00",
    cooldown_seconds=24 * HOUR,
)


class Place:
    """A table of runs, a pool and a clock, for one who looks."""

    def __init__(self, store: Store, folder: Path, runs: Runs | None = None) -> None:
        self.runs = runs or Runs(store, folder / "runs")
        self.now = NIGHT
        self.pool = [(f"pair-{number}", f"person-{number % 7}") for number in range(20)]
        self.read = 0
        self.paused = folder / "paused"

    async def pool_now(self, now: float) -> Sequence[tuple[str, str]]:
        self.read += 1
        return self.pool

    def look(self, rule: TriggerRule = RULE, **options: bool) -> Look:
        return Look(
            self.runs,
            rule,
            stage="dpo",
            recipe="embedded",
            pool=self.pool_now,
            paused=self.paused,
            now=lambda: self.now,
            **options,
        )

    async def end(self, run: Run, to: RunState = RunState.CANCELLED) -> None:
        await self.runs.move(run, to, who="test", now=self.now)
