"""The nightly look is never forgotten, and whoever leads drives a run to its end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apscheduler.triggers.cron import CronTrigger

from core.database import upsert
from core.errors import ConfigError
from core.store import Store
from core.tables import pairs
from tests.training.looking import HOUR, NOON, Place
from tests.training.stand_in import Workshop
from training import schedule
from training.lease import Lease
from training.pairs import to_row
from training.runs import ENDED, Run, Runs, RunState
from training.schedule import Schedule, Timetable, cron_trigger

# The days before Europe's clocks go forward, and back.
SPRING = datetime(2026, 3, 28, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, tzinfo=UTC)


def test_weekdays_are_names() -> None:
    with pytest.raises(ConfigError, match="weekdays as names"):
        cron_trigger("0 3 * * 1-5")
    monday = datetime(2026, 3, 2, tzinfo=UTC)
    due = cron_trigger("0 3 * * tue").get_next_fire_time(None, monday)
    assert due == datetime(2026, 3, 3, 3, tzinfo=UTC)


@pytest.mark.parametrize("cron", ["often", "0 3 * *", "0 99 * * *"])
def test_a_cron_line_that_is_none_is_refused(cron: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.cron"):
        cron_trigger(cron)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # Europe's clocks go forward, then back; a year ends. In UTC nothing happens.
        (datetime(2026, 3, 29, 0, tzinfo=UTC), datetime(2026, 3, 29, 3, tzinfo=UTC)),
        (datetime(2026, 10, 25, 0, tzinfo=UTC), datetime(2026, 10, 25, 3, tzinfo=UTC)),
        (datetime(2026, 12, 31, 4, tzinfo=UTC), datetime(2027, 1, 1, 3, tzinfo=UTC)),
    ],
)
def test_the_night_comes_once_whatever_the_clocks_do(before: datetime, after: datetime) -> None:
    trigger = cron_trigger("0 3 * * *")
    first = trigger.get_next_fire_time(None, before)
    assert first == after
    assert trigger.get_next_fire_time(first, first) == after + timedelta(days=1)


def test_the_control_by_the_clock_on_the_wall_a_night_is_an_hour_off() -> None:
    of_europe = CronTrigger.from_crontab("0 3 * * *", timezone="Europe/Berlin")
    for before, hours in ((SPRING, 23), (AUTUMN, 25)):
        first = of_europe.get_next_fire_time(None, before)
        second = of_europe.get_next_fire_time(first, first)
        assert second.timestamp() - first.timestamp() == hours * HOUR


def timetable(tmp_path: Path, cron: str = "0 3 * * *") -> Timetable:
    return Timetable(cron, 3600.0, 6 * HOUR, f"sqlite:///{tmp_path / 'jobs.db'}")


async def shut(scheduler: schedule.AsyncIOScheduler) -> None:
    scheduler.shutdown(wait=False)
    # It is the event loop that does it.
    await asyncio.sleep(0)


def due(tmp_path: Path) -> float:
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        ((moment,),) = connection.execute("select next_run_time from apscheduler_jobs")
    connection.close()
    return float(moment)


async def make_overdue(tmp_path: Path, seconds: float) -> float:
    """Have the nightly job missed so long ago, as after a night without power."""
    scheduler = schedule._open_scheduler(timetable(tmp_path))
    missed = datetime.now(UTC) - timedelta(seconds=seconds)
    scheduler.start(paused=True)
    scheduler.get_job(schedule.NIGHTLY).modify(next_run_time=missed)
    await shut(scheduler)
    return missed.timestamp()


async def planned(tmp_path: Path, cron: str = "0 3 * * *") -> None:
    """Plan the nightly look, as a start of solemate does, without letting it run."""
    scheduler = schedule._open_scheduler(timetable(tmp_path, cron))
    scheduler.start(paused=True)
    schedule._plan_nightly(scheduler, timetable(tmp_path, cron))
    await shut(scheduler)


async def test_a_restart_leaves_a_missed_night_in_its_place(tmp_path: Path) -> None:
    await planned(tmp_path)
    missed = await make_overdue(tmp_path, 2 * HOUR)
    await planned(tmp_path)
    assert due(tmp_path) == pytest.approx(missed)


async def test_another_cron_line_leaves_a_missed_night_in_its_place(tmp_path: Path) -> None:
    await planned(tmp_path)
    missed = await make_overdue(tmp_path, 2 * HOUR)
    await planned(tmp_path, "30 4 * * mon-fri")
    assert due(tmp_path) == pytest.approx(missed)


async def test_another_cron_line_moves_a_night_to_come(tmp_path: Path) -> None:
    await planned(tmp_path)
    before = due(tmp_path)
    await planned(tmp_path, "30 4 * * *")
    assert due(tmp_path) != before


async def test_replacing_the_job_would_forget_the_missed_night(tmp_path: Path) -> None:
    """The control: what APScheduler does by itself."""
    await planned(tmp_path)
    missed = await make_overdue(tmp_path, 2 * HOUR)
    scheduler = schedule._open_scheduler(timetable(tmp_path))
    scheduler.start(paused=True)
    scheduler.add_job(
        schedule.look_tonight,
        cron_trigger("0 3 * * *"),
        id=schedule.NIGHTLY,
        replace_existing=True,
    )
    await shut(scheduler)
    assert due(tmp_path) > missed


async def test_the_schedule_makes_up_for_a_missed_night_and_drives_the_run_to_its_end(
    store: Store, tmp_path: Path
) -> None:
    await planned(tmp_path)
    await make_overdue(tmp_path, 2 * HOUR)
    now = NOON
    lease = Lease(store, "loop", "me", clock=lambda: now)
    shop = Workshop(tmp_path, Runs(store, tmp_path / "runs", lease))
    place = Place(store, tmp_path, shop.runs)
    place.now = NOON
    over = asyncio.Event()

    async def judged(run: Run) -> RunState:
        over.set()
        return RunState.PROMOTED

    shop.fake.judge_canary = judged  # type: ignore[method-assign]
    await _keep(store, shop)
    steps = shop.steps()
    leading = asyncio.create_task(
        Schedule(place.look(), steps, shop.runs, lease, timetable(tmp_path)).run()
    )
    await over.wait()
    run = await shop.runs.get("dpo-1")
    # Ending the schedule lets another one lead at once.
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
    assert run.started_by == "scheduler"
    assert await Lease(store, "loop", "next", clock=lambda: now).take()


async def _keep(store: Store, shop: Workshop) -> None:
    for one in shop.pool:
        row = to_row(one) | {"decided_at": 1.0}
        await store.run(lambda connection, row=row: upsert(connection, pairs, row, key=("id",)))


async def test_a_run_is_seen_through_by_whoever_waits_for_it(store: Store, tmp_path: Path) -> None:
    lease = Lease(store, "loop", "me")
    shop = Workshop(tmp_path, Runs(store, tmp_path / "runs", lease))
    shop.fake.verdict = "needs_approval"
    await _keep(store, shop)
    begun = await Workshop(tmp_path, Runs(store, tmp_path / "runs")).begun()
    place = Place(store, tmp_path, shop.runs)
    waiting = Schedule(place.look(), shop.steps(), shop.runs, lease, timetable(tmp_path))
    run = await waiting.see_through(begun.id)
    assert run.state is RunState.AWAITING_APPROVAL


@pytest.fixture
async def shop(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr("training.finish.draw", lambda *_: None)
    made = Workshop(tmp_path, Runs(store, tmp_path / "runs"))
    await _keep(store, made)
    return made


def at_once(store: Store, shop: Workshop, tmp_path: Path) -> Schedule:
    """Who leads, and waits a moment only between two looks."""
    place = Place(store, tmp_path, shop.runs)
    lease = Lease(store, "loop", "me", seconds=0.3)
    often = Timetable("0 3 * * *", 0.05, 6 * HOUR, f"sqlite:///{tmp_path / 'jobs.db'}")
    return Schedule(place.look(), shop.steps(), shop.runs, lease, often)


async def driven(shop: Workshop, leading: Schedule, to: Collection[RunState] = ENDED) -> Run:
    """The run when it has got there, driven by this one."""
    over, move = asyncio.Event(), shop.runs.move

    async def moved(run: Run, to: RunState, **changes: Any) -> Run:
        found = await move(run, to, **changes)
        if found.state in to:
            over.set()
        return found

    shop.runs.move = moved  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(leading.run())
    try:
        async with asyncio.timeout(30):
            await over.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return await shop.runs.get("dpo-1")


async def test_a_step_that_breaks_in_a_way_nobody_foresaw_ends_the_run_after_some_attempts(
    shop: Workshop, store: Store, tmp_path: Path
) -> None:
    tries = 0

    async def broken(stage: str, recipe: str) -> None:
        nonlocal tries
        tries += 1
        raise RuntimeError("what somebody said")

    shop.freeze = broken  # type: ignore[method-assign, assignment]
    await shop.begun()
    run = await driven(shop, at_once(store, shop, tmp_path))
    assert (run.state, tries) == (RunState.REJECTED, 3)
    assert "RuntimeError" in run.problem
    assert "somebody" not in run.problem


async def test_a_paused_loop_still_looks_at_what_is_tried_on_people(
    shop: Workshop, store: Store, tmp_path: Path
) -> None:
    shop.fake.outcome = None
    run = await shop.until(RunState.CANARY)
    await shop.steps().advance(run)
    shop.fake.outcome = RunState.ROLLED_BACK
    (tmp_path / "paused").touch()
    run = await driven(shop, at_once(store, shop, tmp_path))
    assert run.state is RunState.ROLLED_BACK


async def test_a_paused_loop_still_leaves_out_who_was_erased(
    shop: Workshop, store: Store, tmp_path: Path
) -> None:
    run = await shop.until(RunState.EVALUATING)
    gone = shop.pool.pop(3)
    this = sa.delete(pairs).where(pairs.c.id == gone.id)
    await store.run(lambda connection: connection.execute(this))
    (tmp_path / "paused").touch()
    collecting = {RunState.COLLECTING}
    found = await driven(shop, at_once(store, shop, tmp_path), collecting)
    assert (found.state, found.dataset) == (RunState.COLLECTING, "")
    assert not run.folder.exists()
    assert shop.fake.asked == []


async def test_a_paused_loop_begins_no_canary(shop: Workshop, store: Store, tmp_path: Path) -> None:
    run = await shop.until(RunState.CANARY)
    (tmp_path / "paused").touch()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await driven(shop, at_once(store, shop, tmp_path))
    assert (await shop.runs.get(run.id)).adapter == ""
    assert shop.fake.asked == ["evaluate"]


async def test_a_canary_that_no_run_tries_is_ended_by_whoever_leads(
    shop: Workshop, store: Store, tmp_path: Path
) -> None:
    over = asyncio.Event()

    async def end() -> None:
        over.set()

    shop.fake.end_abandoned = end  # type: ignore[method-assign]
    leading = asyncio.create_task(at_once(store, shop, tmp_path).run())
    async with asyncio.timeout(30):
        await over.wait()
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
