"""Puts the loop together from the settings: pool, runs, steps, and who drives them when."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ClusterUnavailable
from core.settings import Settings, at_root, shared_datasets_cache
from core.store import Store
from training.adapters import Adapters, NewAdapter
from training.anchors import make_anchors
from training.canary import Canary
from training.collect import PairRules, collect_pairs
from training.dataset import (
    FreezeRules,
    Frozen,
    RunStage,
    freeze_pairs,
    freeze_ratings,
    freeze_rows,
    load_anchors,
    load_frozen,
)
from training.erasure import forget_erased, leave_out_erased
from training.lease import Lease
from training.llamafactory import Value, forget_shared, recipe
from training.material import load_material
from training.merged import put_away
from training.pair_rules import open_rules
from training.pairs import accepted, unpaired
from training.pause import pause_file
from training.ray_jobs import open_launcher
from training.rows import DpoRow, ReminderRow, SftRow, read_all
from training.runs import Run, Runs, RunState
from training.schedule import Schedule, Timetable
from training.steps import Limits, OnProgress, Release, Steps
from training.tokens import most_tokens, token_counter
from training.train import TrainingPlan, plan_training
from training.trigger import Look, TriggerRule

if TYPE_CHECKING:
    from training.gate import GateResult

ANCHORS = at_root("data/shoes_dpo.jsonl")
REMINDERS = at_root("data/reminders.jsonl")
SHIPPED_ROWS = at_root("data/shoes.jsonl")
EMBEDDED = "embedded"
LEASE = "loop"
_ANCHOR_SEED = 2024
_MINUTE, _HOUR = 60.0, 3600.0
# A small pool is gone through again where the recipe has room for it, but a model that sees the
# same ten pairs a hundred times learns them by heart.
_MOST_PASSES = 10
# The liked and the disliked should weigh about the same (Ethayarajh et al., "KTO", 2024).
_MOST_WEIGHT = 12.0


@dataclass(frozen=True, slots=True)
class Loop:
    """The parts of the loop that others hold in their hands."""

    runs: Runs
    look: Look
    steps: Steps
    schedule: Schedule


@asynccontextmanager
async def opened_loop(settings: Settings, store: Store) -> AsyncIterator[Loop]:
    """The loop on this store, with the rules and the gate that the settings make."""
    from training.gate import open_gate

    async with open_rules(settings) as rules, open_gate(settings, store) as evaluate:
        yield open_loop(settings, store, rules, evaluate)


@asynccontextmanager
async def opened_freezer(settings: Settings, store: Store) -> AsyncIterator[Freezer]:
    """What freezes the pool, for whoever wants a dataset and no run."""
    async with open_rules(settings, regenerate=False) as rules:
        yield Freezer(settings, store, rules)


def open_loop(
    settings: Settings,
    store: Store,
    rules: PairRules,
    evaluate: Callable[[Run], Awaitable[GateResult]],
    *,
    on_progress: OnProgress = lambda run, progress: None,
) -> Loop:
    """The loop on this store. `rules` say what becomes a pair, `evaluate` is the gate.

    The runs are written by whoever holds the lease alone; operators need none.
    """
    lease = _lease(store)
    runs = Runs(store, runs_folder(settings), lease)
    freezer = Freezer(settings, store, rules)
    steps = Steps(
        runs,
        open_launcher(settings),
        _release(settings, store, evaluate),
        freeze=freezer.freeze,
        plan=lambda run, frozen: plan_run(settings, run, frozen),
        datasets=datasets_folder(settings),
        limits=Limits(
            settings.training.timeout_minutes * _MINUTE,
            settings.training.stall_minutes * _MINUTE,
            settings.training.attempts,
        ),
        on_progress=on_progress,
    )
    look = Look(
        runs,
        _rule(settings),
        stage="dpo",
        recipe=settings.training.recipe,
        pool=freezer.pool,
        paused=pause_file(settings),
        automatic=settings.training.automatic,
    )
    return Loop(
        operators_runs(settings, store),
        look,
        steps,
        Schedule(look, steps, runs, lease, _timetable(settings)),
    )


def operators_runs(settings: Settings, store: Store) -> Runs:
    """The runs, for people: they need no lease to begin, cancel or approve one."""
    return Runs(store, runs_folder(settings))


def runs_folder(settings: Settings) -> Path:
    """Where each run has its folder."""
    return settings.state / "runs"


def datasets_folder(settings: Settings) -> Path:
    """Where each frozen dataset has its folder."""
    return settings.state / "datasets"


async def forget_files(settings: Settings, store: Store) -> list[str]:
    """Delete the files that hold what erased people said; the runs whose they were."""
    datasets = datasets_folder(settings)
    runs = await forget_erased(operators_runs(settings, store), datasets)
    places = (datasets, runs_folder(settings))
    await asyncio.to_thread(forget_shared, shared_datasets_cache(), places)
    return runs


async def leave_out(settings: Settings, store: Store) -> str:
    """Take erased people out of the run under way, whoever leads it; why its files are still there.

    "" where nothing of them is left.
    """
    lease = _lease(store)
    runs, launcher = Runs(store, runs_folder(settings), lease), open_launcher(settings)
    try:
        left = await leave_out_erased(runs, lease, launcher, datasets_folder(settings))
    except ClusterUnavailable as exc:
        return f"{exc} It goes when `solemate up` can end the training, or you erase them again."
    if left is None:
        return ""
    return (
        f"{left.id!r} is {left.state.value}: the solemate that leads it deletes its files as soon "
        "as that is done."
    )


def _lease(store: Store) -> Lease:
    """The right to drive the runs, for this process."""
    return Lease(store, LEASE, f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}")


class Freezer:
    """Reads the pool, and makes datasets of it."""

    def __init__(self, settings: Settings, store: Store, rules: PairRules) -> None:
        self._settings = settings
        self._store = store
        self._rules = rules

    async def pool(self, now: float) -> list[tuple[str, str]]:
        """Pair and person of everything that a run could train on, thumbs of just now included."""
        await collect_pairs(self._store, self._rules, now)
        found = await accepted(self._store, now, self._rules.pool)
        return [(pair.id, pair.user_id) for pair in found]

    async def freeze(self, stage: RunStage, recipe_name: str) -> Frozen:
        """The dataset of the pool, thumbs of just now included.

        Raises `DataError` where there is nothing to train on.
        """
        now, settings = time.time(), self._settings
        if stage != "sft":
            await collect_pairs(self._store, self._rules, now)
        folder = datasets_folder(settings)
        count = token_counter(settings)
        room = recipe(stage, {}, model=recipe_name).get("max_samples")
        rules = FreezeRules(
            cutoff_len=most_tokens(settings),
            # Nothing measures single answers: what is held out would be lost.
            held_out=0.0 if stage == "kto" else settings.training.held_out,
            worth_measuring=settings.training.gate.min_pairs,
            replay=settings.training.replay,
            most_rows=int(room or 0),
            most_passes=_MOST_PASSES,
        )
        if stage == "kto":
            rated = await unpaired(self._store, now, self._rules.pool)
            return await asyncio.to_thread(freeze_ratings, rated, rules, count, folder)
        if stage == "sft":
            rows = await asyncio.to_thread(read_all, SHIPPED_ROWS, SftRow)
            return await asyncio.to_thread(freeze_rows, rows, rules, count, folder)
        pairs = await accepted(self._store, now, self._rules.pool)
        anchors = await asyncio.to_thread(shipped_anchors, recipe_name)
        return await asyncio.to_thread(freeze_pairs, pairs, anchors, rules, count, folder)


def shipped_anchors(recipe_name: str) -> list[DpoRow]:
    """The pairs that are replayed beside people's, so that the model's manner is not forgotten."""
    if recipe_name != EMBEDDED:
        return load_anchors(ANCHORS)
    reminders = read_all(REMINDERS, ReminderRow)
    made = make_anchors(load_material(REMINDERS.parent), reminders, _ANCHOR_SEED)
    return [DpoRow.model_validate(pair.ranking()) for pair in made]


def plan_run(settings: Settings, run: Run, frozen: Frozen) -> TrainingPlan:
    """LLaMA-Factory's keys for this attempt of a run, fitted to the rows that it has.

    An adapter is trained on the very model that is served here, where we serve one ourselves.
    """
    ours = settings.model.embedded and run.recipe == EMBEDDED and run.stage != "sft"
    plan = plan_training(
        run.stage,
        runs_folder(settings),
        datetime.fromtimestamp(run.created_at, UTC),
        recipe_name=run.recipe,
        model=settings.model.expert if ours else "",
        frozen=frozen.folder,
        folder=run.attempt,
        output=run.output,
        python=settings.training.python,
    )
    return replace(plan, keys=fitted(plan.keys, frozen))


def fitted(keys: Mapping[str, Value], frozen: Frozen) -> dict[str, Value]:
    """The recipe's keys for so many rows, liked and disliked ones.

    `max_samples`, what a run has time for, is gone: the dataset has been filled up to it.
    """
    made = {name: value for name, value in keys.items() if name != "max_samples"}
    if frozen.manifest.stage == "kto":
        liked, disliked = frozen.manifest.liked, frozen.manifest.disliked
        made["kto_chosen_weight"] = round(min(_MOST_WEIGHT, max(1.0, disliked / liked)), 2)
        made["kto_rejected_weight"] = round(min(_MOST_WEIGHT, max(1.0, liked / disliked)), 2)
    return made


def _release(
    settings: Settings, store: Store, evaluate: Callable[[Run], Awaitable[GateResult]]
) -> Release:
    """What becomes of a trained adapter: gate, registry and canary, by what they are asked here."""
    registry = Adapters(store, settings.state / "adapters", settings.model.adapter)
    canary = Canary(store, registry, settings.training.canary)

    async def register(run: Run) -> str:
        if run.stage == "sft":
            return await asyncio.to_thread(put_away, settings, run)
        frozen = load_frozen(datasets_folder(settings) / run.dataset[:16])
        keys = plan_run(settings, run, frozen).keys
        new = NewAdapter(
            run_id=run.id,
            output=run.candidate,
            base=str(keys["model_name_or_path"]),
            parent=(await registry.route()).live,
            manifest={
                "stage": run.stage,
                "dataset": run.dataset,
                "recipe": dict(keys),
                "figures": dict(run.figures),
            },
        )
        return (await registry.register(new, who=run.started_by, now=time.time())).name

    async def start_canary(run: Run) -> None:
        # A whole model is tried on nobody: an operator serves it, or does not.
        if run.stage != "sft":
            await canary.start(run.adapter, who=run.started_by, now=time.time())

    async def judge_canary(run: Run) -> RunState | None:
        if run.stage == "sft":
            return RunState.PROMOTED
        await canary.advance(now=time.time(), paused=pause_file(settings).exists())
        route = await registry.route()
        if route.canary == run.adapter:
            return None
        return RunState.PROMOTED if route.live == run.adapter else RunState.ROLLED_BACK

    async def end_abandoned() -> None:
        await canary.end_abandoned(now=time.time())

    return Release(evaluate, register, start_canary, judge_canary, end_abandoned)


def _rule(settings: Settings) -> TriggerRule:
    wanted = settings.training
    return TriggerRule(
        min_new_pairs=wanted.min_new_pairs,
        rush_new_pairs=wanted.rush_new_pairs,
        min_pool=wanted.min_pool,
        min_people=wanted.min_people,
        window=wanted.window,
        cooldown_seconds=wanted.cooldown_hours * _HOUR,
    )


def _timetable(settings: Settings) -> Timetable:
    own = f"sqlite:///{settings.state / 'schedule.db'}"
    shared = settings.database.url.startswith("postgresql")
    return Timetable(
        cron=settings.training.cron,
        check_seconds=settings.training.check_minutes * _MINUTE,
        misfire_seconds=settings.training.misfire_hours * _HOUR,
        jobs=settings.database.address if shared else own,
    )
