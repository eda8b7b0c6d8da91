"""Who drives the runs, and when it is looked whether one is due: one leader, and a timetable.

APScheduler's job store keeps the moment of the next nightly look, so that one which fell due while
nobody ran is made up for. What it starts is decided by the rule and by the table of runs alone: a
look too many starts nothing. Only the leader opens the job store: two schedulers on one store run
every job twice (APScheduler's FAQ).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from core.errors import ConfigError, SolemateError
from training.lease import Lease, LeaseLost
from training.runs import Run, RunMoved, Runs, RunState
from training.steps import Steps
from training.trigger import Look

log = structlog.get_logger()

NIGHTLY, CHECK = "nightly look", "check"
_DIGITS = re.compile(r"\d")


def cron_trigger(cron: str) -> CronTrigger:
    """The trigger of a crontab line in UTC; `ConfigError` for a wrong one.

    Weekdays have to be names: APScheduler counts them from Monday, and crontab from Sunday.
    """
    fields = cron.split()
    if len(fields) == 5 and _DIGITS.search(fields[4]):
        raise ConfigError(
            f"The setting 'training.cron' is {cron!r}: write weekdays as names, such as mon-fri. "
            "Their numbers mean other days in other programs."
        )
    try:
        return CronTrigger.from_crontab(cron, timezone=UTC)
    except ValueError as exc:
        raise ConfigError(
            f"The setting 'training.cron' is {cron!r}: {exc}. Write five fields, such as "
            "'0 3 * * *' for every night at three (UTC)."
        ) from exc


@dataclass(frozen=True, slots=True)
class Timetable:
    """When to look: `cron` is the nightly look, `check_seconds` lie between the cheap ones.

    `jobs` is the database of APScheduler's own table. A nightly look that was missed is made up
    for within `misfire_seconds`.
    """

    cron: str
    check_seconds: float
    misfire_seconds: float
    jobs: str

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a cron line that is none."""
        cron_trigger(self.cron)


class Schedule:
    """Leads while nobody else does: looks at the times of the timetable, and drives the run."""

    def __init__(
        self, look: Look, steps: Steps, runs: Runs, lease: Lease, timetable: Timetable
    ) -> None:
        self._look = look
        self._steps = steps
        self._runs = runs
        self._lease = lease
        self._timetable = timetable
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Lead again and again, until this is cancelled."""
        while True:
            try:
                if await self._lease.take():
                    await self._lead()
            except SolemateError as exc:
                log.warning("loop_interrupted", problem=str(exc))
            # A mistake of ours in here must not end the answers of everybody.
            except Exception:
                log.exception("loop_failed")
            await asyncio.sleep(self._lease.seconds / 3)

    async def see_through(self, name: str) -> Run:
        """The run when it has come to its end, or waits for people.

        It is driven here where nobody else leads, and waited for where somebody does.
        """
        async with self._lease.renewed():
            while True:
                run = await self._runs.get(name)
                if run.ended or run.state is RunState.AWAITING_APPROVAL or run.adapter:
                    return run
                moved = False
                with suppress(LeaseLost):
                    moved = await self._lease.take() and await self._advance(run)
                if not moved:
                    await self._rest(self._lease.seconds / 3)

    async def look(self, *, nightly: bool) -> None:
        """Look whether a run is due, and have it driven."""
        try:
            if await self._look(nightly=nightly) is not None:
                self._wake.set()
        except (SolemateError, LeaseLost) as exc:
            log.warning("look_failed", problem=str(exc))

    async def _lead(self) -> None:
        """Lead until the lease is lost."""
        log.info("loop_led")
        async with self._lease.renewed():
            try:
                async with self._looking():
                    await self._drive()
            except LeaseLost as exc:
                log.warning("loop_lost", problem=str(exc))

    async def _drive(self) -> None:
        """Take the active run from step to step; between two, wait for something to do."""
        while True:
            if not await self._lease.take():
                raise LeaseLost("Somebody else leads by now.")
            run = await self._runs.active()
            if run is None or run.state is not RunState.CANARY:
                await self._steps.end_abandoned()
            held = run is None or (self._look.paused and not await self._presses(run))
            moved = not held and run is not None and await self._advance(run)
            if not moved:
                await self._rest(self._lease.seconds / 3)

    async def _presses(self, run: Run) -> bool:
        """Whether a run is looked after also while the loop stands still.

        What is tried on people may do harm, and what erased people said has to go.
        """
        return bool(run.adapter or (run.dataset and (await self._runs.lost_pairs(run)).erased))

    async def _advance(self, run: Run) -> bool:
        """Do the run's next step; whether it got anywhere, so that another may follow at once."""
        try:
            return (await self._steps.advance(run)).state is not run.state
        except RunMoved as exc:
            log.info("run_moved_elsewhere", run=run.id, problem=str(exc))
        except SolemateError as exc:
            log.warning("step_failed", run=run.id, state=run.state, problem=str(exc))
            # A gate takes minutes, and a server that is away now will be for a while.
            await self._rest(self._timetable.check_seconds)
        except LeaseLost:
            raise
        # A mistake of ours must not keep the run, and with it every other, where it is for ever.
        except Exception as exc:
            log.exception("step_broken", run=run.id, state=run.state)
            with suppress(SolemateError):
                if (await self._steps.broken(run, exc)).ended:
                    return True
            await self._rest(self._timetable.check_seconds)
        return False

    async def _rest(self, seconds: float) -> None:
        """Wait for a run that begins, or for a while: others begin and end runs too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    @asynccontextmanager
    async def _looking(self) -> AsyncGenerator[None, None]:
        """Look at the times of the timetable while this is open."""
        _LEADING.append(self)
        scheduler = _open_scheduler(self._timetable)
        scheduler.start(paused=True)
        try:
            _plan_nightly(scheduler, self._timetable)
            scheduler.add_job(
                self.look,
                "interval",
                kwargs={"nightly": False},
                seconds=self._timetable.check_seconds,
                id=CHECK,
                jobstore="memory",
                next_run_time=datetime.now(UTC),
                coalesce=True,
                misfire_grace_time=None,
            )
            scheduler.resume()
            yield
        finally:
            scheduler.shutdown(wait=False)
            # It is shut down by the event loop, not by the call.
            await asyncio.sleep(0)
            _LEADING.remove(self)


# A persistent job is pickled: it names a function of a module and cannot hold the schedule itself.
_LEADING: list[Schedule] = []


async def look_tonight() -> None:
    """What the nightly job calls, in whichever process leads by then."""
    for schedule in list(_LEADING):
        await schedule.look(nightly=True)


def _open_scheduler(timetable: Timetable) -> AsyncIOScheduler:
    stores = {"default": SQLAlchemyJobStore(url=timetable.jobs), "memory": MemoryJobStore()}
    return AsyncIOScheduler(jobstores=stores, timezone=UTC)


def _plan_nightly(scheduler: AsyncIOScheduler, timetable: Timetable) -> None:
    """Have the nightly look in the job store, without moving one that is overdue.

    `replace_existing` would compute its next time anew, and so forget what was missed.
    """
    trigger = cron_trigger(timetable.cron)
    job = scheduler.get_job(NIGHTLY)
    if job is None:
        scheduler.add_job(
            look_tonight,
            trigger,
            id=NIGHTLY,
            coalesce=True,
            misfire_grace_time=round(timetable.misfire_seconds),
        )
        return
    now = datetime.now(UTC)
    changes = {"misfire_grace_time": round(timetable.misfire_seconds)}
    if str(job.trigger) == str(trigger):
        job.modify(**changes)
        return
    overdue = job.next_run_time is not None and job.next_run_time <= now
    due = job.next_run_time if overdue else trigger.get_next_fire_time(None, now)
    job.modify(trigger=trigger, next_run_time=due, **changes)
