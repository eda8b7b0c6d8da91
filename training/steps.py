"""A run from state to state: each step is one function, and may be done again after a crash."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from core.errors import (
    AdapterRejected,
    ConfigError,
    DataError,
    SolemateError,
    StoreError,
    TrainingFailed,
    TrainingKilled,
)
from training.dataset import Frozen, RunStage, load_frozen
from training.erasure import collecting_again, forget_run, remove, stop_training
from training.finish import finish, recipe_digest
from training.launchers import Job, JobState, Launcher
from training.lease import LeaseLost
from training.llamafactory import (
    CACHE,
    KILLED,
    check_ended,
    forget_cached,
    llamafactory_job,
    write_recipe,
)
from training.progress import ProgressReader, TrainingProgress, Watch
from training.runs import Lost, Run, Runs, RunState
from training.seal import check_seal
from training.train import TrainingPlan, check_plan

if TYPE_CHECKING:
    from training.gate import GateResult

log = structlog.get_logger()

ENOUGH_BYTES = 1_000_000_000
KEPT_RUNS = 5
_LOOK_SECONDS = 2.0
_ERASED = "Somebody whose words it was trained on was erased."

OnProgress = Callable[[Run, TrainingProgress], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a training may take, how long be silent, and how often it may be begun anew."""

    timeout_seconds: float
    stall_seconds: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Release:
    """What becomes of an adapter once it is trained; each may be called again for the same run.

    `evaluate` is the gate. `register` gives the adapter its name, `start_canary` has it answer
    some people, and `judge_canary` says how that ended: `PROMOTED`, `ROLLED_BACK`, or None for not
    yet. `end_abandoned` takes back a canary that no run tries.
    """

    evaluate: Callable[[Run], Awaitable[GateResult]]
    register: Callable[[Run], Awaitable[str]]
    start_canary: Callable[[Run], Awaitable[None]]
    judge_canary: Callable[[Run], Awaitable[RunState | None]]
    end_abandoned: Callable[[], Awaitable[None]]


class Steps:
    """Knows what to do next with a run."""

    def __init__(
        self,
        runs: Runs,
        launcher: Launcher,
        release: Release,
        *,
        freeze: Callable[[RunStage, str], Awaitable[Frozen]],
        plan: Callable[[Run, Frozen], TrainingPlan],
        datasets: Path,
        limits: Limits,
        who: str = "scheduler",
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        on_progress: OnProgress = lambda run, progress: None,
    ) -> None:
        """`freeze` makes a dataset below `datasets` of the pool as it is, for a stage and recipe.

        `now` gives the moments that are written down, `clock` measures how long something takes.
        """
        self._runs = runs
        self._launcher = launcher
        self._release = release
        self._freeze_pool = freeze
        self._plan = plan
        self._datasets = datasets
        self._limits = limits
        self._who = who
        self._now = now
        self._clock = clock
        self._on_progress = on_progress

    async def advance(self, run: Run) -> Run:
        """Do the next step; the run as it is then, unchanged where it has to wait.

        Raises `RunMoved` and `LeaseLost` where somebody else has taken the run over.
        """
        step = {
            RunState.COLLECTING: self._freeze,
            RunState.FROZEN: self._begin,
            RunState.TRAINING: self._train,
            RunState.EVALUATING: self._evaluate,
            RunState.CANARY: self._try_out,
        }.get(run.state)
        return run if step is None else await step(run)

    async def broken(self, run: Run, problem: Exception) -> Run:
        """What becomes of a run whose step nobody foresaw to fail so: again, or after all its end.

        Left as it is, it would keep every other from beginning.
        """
        # Its words may be people's; the log has where it came from.
        kind = type(problem).__name__
        return await self._broke(run, f"What follows on {run.state} broke ({kind}). See the log.")

    async def end_abandoned(self) -> None:
        """End the canary that no run tries, where there is one."""
        await self._release.end_abandoned()

    async def _freeze(self, run: Run) -> Run:
        await self._tidy()
        try:
            frozen = await self._freeze_pool(run.stage, run.recipe)
        except DataError as exc:
            return await self._reject(run, str(exc))
        manifest = frozen.manifest
        counts = {
            "train": manifest.count("train"),
            "held_out": manifest.count("held_out"),
            "anchors": manifest.anchors,
        }
        return await self._move(
            run,
            RunState.FROZEN,
            detail={**counts, "left_out": len(manifest.left_out)},
            frozen=frozen,
            dataset=manifest.digest,
            figures={**run.figures, "pairs": {**counts, "split_by": manifest.split_by}},
        )

    async def _begin(self, run: Run) -> Run:
        """Give the run a folder that nothing was in before: LLaMA-Factory resumes from an old one.

        A plan that cannot work is refused here, before anything slow begins.
        """
        if lost := await self._runs.lost_pairs(run):
            return await self._collect_again(run, lost)
        run.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(run.folder).free < ENOUGH_BYTES:
            log.warning("no_room_to_train", run=run.id, advice="make room on the disk")
            return run
        fresh = dataclasses.replace(run, attempts=run.attempts + 1)
        await asyncio.to_thread(shutil.rmtree, fresh.attempt, ignore_errors=True)
        try:
            plan = await self._planned(fresh)
            await asyncio.to_thread(check_plan, plan)
        except (ConfigError, DataError) as exc:
            return await self._reject(run, str(exc))
        return await self._move(
            run,
            RunState.TRAINING,
            detail={
                "recipe": recipe_digest(plan.keys),
                "base": str(plan.keys["model_name_or_path"]),
            },
            attempts=fresh.attempts,
        )

    async def _train(self, run: Run) -> Run:
        """Start the training, or find the one that was started, and stay with it until it ends."""
        lost = await self._runs.lost_pairs(run)
        if lost.spoils:
            # Somebody may have begun it, and been killed.
            await stop_training(run, self._launcher)
            return await self._collect_again(run, lost)
        try:
            plan = await self._planned(run)
        except (ConfigError, DataError) as exc:
            return await self._fail(run, str(exc))
        job = _job(run, plan)
        state = (await self._launcher.status(job)).state
        if state is JobState.GONE:
            return await self._try_again(run, "it was gone")
        if state is JobState.NEW:
            if lost:
                return await self._collect_again(run, lost)
            write_recipe(plan.command, plan.keys, run.attempt)
            await self._launcher.submit(job)
        try:
            if not await self._stay_with(run, job):
                remove(run.output)
                return await self._given_up(run)
            status = await self._launcher.status(job)
            if status.state is JobState.NEW:
                # A cluster that was started anew has forgotten a job that was still waiting.
                return run
            if status.state is JobState.GONE or status.code in KILLED:
                return await self._try_again(run, "it was killed")
            check_ended(plan.command, plan.keys, status, job.log)
            output = await self._launcher.fetch(job, plan.output)
            figures = await asyncio.to_thread(finish, run, plan, output)
        except TrainingFailed as exc:
            # Recipe and log tell what went wrong; half of the weights is of no use, and large.
            await asyncio.to_thread(remove, run.output)
            return await self._fail(run, str(exc))
        return await self._move(
            run,
            RunState.EVALUATING,
            detail=figures,
            figures={**run.figures, "training": figures},
        )

    async def _stay_with(self, run: Run, job: Job) -> bool:
        """Follow the job to its end; false where nobody wants what it trains any more.

        Whatever ends this ends the job, but for a lease that was lost: its new holder has the job.
        Where it is us who are ended, nothing half-done stays, and the next start begins anew.
        """
        stop = forget = True
        try:
            followed = await self._follow(run, job)
            forget = False
        except LeaseLost:
            stop = False
            raise
        except asyncio.CancelledError:
            # On another machine it goes on; the next start finds it by its id.
            stop = not self._launcher.elsewhere
            raise
        except TrainingFailed:
            forget = False
            raise
        finally:
            if stop:
                await self._launcher.stop(job)
                await asyncio.to_thread(forget_cached, run.attempt)
                if forget:
                    remove(run.attempt)
        return followed

    async def _follow(self, run: Run, job: Job) -> bool:
        reader, watch = ProgressReader(), Watch()
        limits = self._limits
        started = spoken = looked = self._clock()
        async with aclosing(self._launcher.logs(job)) as logs:
            async for words in logs:
                now = self._clock()
                for progress in reader.feed(words):
                    watch.check(progress)
                    self._on_progress(run, progress)
                if words:
                    spoken = now
                if now - spoken > limits.stall_seconds:
                    raise TrainingFailed(
                        f"The training of {run.id} said nothing for {limits.stall_seconds / 60:g} "
                        f"minutes and was stopped. See {job.log}, or raise training.stall_minutes."
                    )
                if now - started > limits.timeout_seconds:
                    raise TrainingFailed(
                        f"The training of {run.id} took longer than "
                        f"{limits.timeout_seconds / 60:g} minutes and was stopped. Raise "
                        f"training.timeout_minutes, or see {job.log}."
                    )
                if now - looked >= _LOOK_SECONDS:
                    looked = now
                    if not await self._is_wanted(run):
                        return False
        for progress in reader.feed(b"", last=True):
            watch.check(progress)
            self._on_progress(run, progress)
        return True

    async def _is_wanted(self, run: Run) -> bool:
        """Whether the run was not cancelled, and nobody in its data was erased or refused.

        A database that is away for a moment says neither.
        """
        try:
            if await self._runs.state(run.id) is not RunState.TRAINING:
                return False
            return not (await self._runs.lost_pairs(run)).spoils
        except StoreError as exc:
            log.warning("run_not_looked_at", run=run.id, problem=str(exc))
            return True

    async def _given_up(self, run: Run) -> Run:
        """The run whose training was stopped: cancelled, or without what was taken out of it."""
        now = await self._runs.get(run.id)
        lost = await self._runs.lost_pairs(run)
        still = now.state is RunState.TRAINING and lost.spoils
        return await self._collect_again(run, lost) if still else now

    async def _evaluate(self, run: Run) -> Run:
        """Ask the gate; what passes goes on, and what cannot be told goes to an operator."""
        if (lost := await self._runs.lost_pairs(run)).spoils:
            return await self._collect_again(run, lost)
        if run.breaks >= self._limits.attempts:
            return await self._reject(
                run,
                f"Solemate ended {run.breaks} times while this was measured. Is the memory enough?",
            )
        # Models are loaded: where that takes us along, nobody is left to count it.
        begun = await self._runs.note(run, breaks=run.breaks + 1)
        try:
            await asyncio.to_thread(check_seal, run.output, run=run.id, dataset=run.dataset)
            result = await self._release.evaluate(run)
        except TrainingKilled as exc:
            return await self._broke(run, str(exc))
        # A measurement that LLaMA-Factory breaks off ends the same way the next time.
        except (AdapterRejected, TrainingFailed) as exc:
            return await self._fail(run, str(exc))
        except (SolemateError, asyncio.CancelledError):
            # Somebody is away, or we are asked to end: no fault of what is measured.
            with suppress(SolemateError, LeaseLost):
                await self._runs.note(begun, breaks=run.breaks)
            raise
        gate = [_storable(dataclasses.asdict(figure)) for figure in result.figures]
        to = {
            "passed": RunState.CANARY,
            "needs_approval": RunState.AWAITING_APPROVAL,
            "failed": RunState.REJECTED,
        }[result.verdict]
        return await self._move(
            run,
            to,
            detail={"gate": result.verdict},
            figures={**run.figures, "gate": gate, "strength": result.strength},
        )

    async def _try_out(self, run: Run) -> Run:
        """Let the adapter answer some people, and see how they like it."""
        if not run.adapter:
            # A crash may have come between the first people and the note.
            if not (name := await self._runs.answering(run)):
                if (lost := await self._runs.lost_pairs(run)).spoils:
                    return await self._collect_again(run, lost)
                try:
                    name = await self._release.register(run)
                    await self._release.start_canary(dataclasses.replace(run, adapter=name))
                except AdapterRejected as exc:
                    return await self._fail(run, str(exc))
            # Noted last: until then a crash lets both be done again.
            run = await self._runs.note(run, adapter=name)
        outcome = await self._release.judge_canary(run)
        if outcome is RunState.ROLLED_BACK and (await self._runs.lost_pairs(run)).erased:
            # Nothing was judged: its pairs wait for the next run, which learns without the erased.
            return await self._move(
                run, outcome, problem=_ERASED, figures={**run.figures, "erased": True}
            )
        return run if outcome is None else await self._move(run, outcome)

    async def _try_again(self, run: Run, how: str) -> Run:
        """Another attempt in a fresh folder, unless there were too many."""
        await asyncio.to_thread(remove, run.output, run.attempt / CACHE)
        if run.attempts >= self._limits.attempts:
            return await self._fail(
                run,
                f"The training ended {run.attempts} times before its end: {how}. Is the memory "
                f"enough? See {run.attempt}.",
            )
        log.warning("run_interrupted", run=run.id, attempt=run.attempts, how=how)
        return await self._move(
            run, RunState.TRAINING, detail={"why": how}, attempts=run.attempts + 1
        )

    async def _broke(self, run: Run, problem: str) -> Run:
        """Leave the run for another attempt at the same step, unless there were too many."""
        times = run.breaks + 1
        if times >= self._limits.attempts:
            return await self._reject(run, f"{problem} This was attempt {times}, the last.")
        log.warning("step_broke", run=run.id, state=run.state, attempt=times)
        return await self._runs.note(run, breaks=times)

    async def _collect_again(self, run: Run, lost: Lost) -> Run:
        """Leave out what is no longer in the pool: dataset and adapter are made without it."""
        await asyncio.to_thread(forget_run, run, self._datasets)
        return await self._move(run, **collecting_again(lost.why))

    async def _tidy(self) -> None:
        """Keep what the last runs left on disk; registered adapters lie elsewhere."""
        past = await self._runs.all()
        kept, old = past[:KEPT_RUNS], past[KEPT_RUNS:]
        needed = {run.dataset[:16] for run in kept}
        gone = [run.folder for run in old]
        gone += [folder for folder in self._datasets.glob("*") if folder.name not in needed]
        await asyncio.to_thread(remove, *gone)

    async def _planned(self, run: Run) -> TrainingPlan:
        frozen = await asyncio.to_thread(load_frozen, self._datasets / run.dataset[:16])
        return self._plan(run, frozen)

    async def _fail(self, run: Run, problem: str) -> Run:
        """Reject the run, unless it failed because its files went with somebody who was erased."""
        if (lost := await self._runs.lost_pairs(run)).spoils:
            return await self._collect_again(run, lost)
        return await self._reject(run, problem)

    async def _reject(self, run: Run, problem: str) -> Run:
        log.warning("run_rejected", run=run.id, state=run.state)
        return await self._move(run, RunState.REJECTED, problem=problem)

    async def _move(self, run: Run, to: RunState, **changes: Any) -> Run:
        moved = await self._runs.move(run, to, who=self._who, now=self._now(), **changes)
        log.info("run_moved", run=run.id, before=run.state, after=to, attempt=moved.attempts)
        return moved


def _storable(figure: dict[str, Any]) -> dict[str, Any]:
    """A gate's figure as JSON has it: what is no number is said in words."""
    odd = {
        name: value
        for name, value in figure.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    said = [figure["note"], *(f"{name}: {value}" for name, value in odd.items())]
    return figure | dict.fromkeys(odd) | {"note": "; ".join(filter(None, said))}


def _job(run: Run, plan: TrainingPlan) -> Job:
    return llamafactory_job(
        plan.command,
        plan.keys,
        run.attempt,
        name=f"{run.id}-{run.attempts}",
        program=plan.program,
    )
