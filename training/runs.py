"""Training runs as the store keeps them: a state machine whose every step is one audited row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.audit import append
from core.database import upsert
from core.errors import ConfigError, NotFound, SolemateError
from core.routes import last_route
from core.store import Store
from core.tables import adapters, audit, pairs, run_pairs, runs
from core.transactions import lock
from training.dataset import Frozen, RunStage
from training.lease import Lease
from training.lineage import kept_of, runs_with_erased


class RunState(StrEnum):
    """How far a run is."""

    COLLECTING = "collecting"
    FROZEN = "frozen"
    TRAINING = "training"
    EVALUATING = "evaluating"
    AWAITING_APPROVAL = "awaiting_approval"
    CANARY = "canary"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


_NEXT: Mapping[RunState, frozenset[RunState]] = {
    RunState.COLLECTING: frozenset({RunState.FROZEN, RunState.REJECTED, RunState.CANCELLED}),
    RunState.FROZEN: frozenset(
        {RunState.COLLECTING, RunState.TRAINING, RunState.REJECTED, RunState.CANCELLED}
    ),
    # Training again is another attempt; collecting again leaves somebody out who was erased.
    RunState.TRAINING: frozenset(
        {RunState.COLLECTING, RunState.TRAINING, RunState.EVALUATING}
        | {RunState.REJECTED, RunState.CANCELLED}
    ),
    RunState.EVALUATING: frozenset(
        {RunState.COLLECTING, RunState.AWAITING_APPROVAL, RunState.CANARY}
        | {RunState.REJECTED, RunState.CANCELLED}
    ),
    RunState.AWAITING_APPROVAL: frozenset(
        {RunState.COLLECTING, RunState.CANARY, RunState.REJECTED, RunState.CANCELLED}
    ),
    # Nobody is sent to the adapter of a run that collects again.
    RunState.CANARY: frozenset(
        {RunState.COLLECTING, RunState.PROMOTED, RunState.ROLLED_BACK, RunState.REJECTED}
    ),
}
ENDED = frozenset(RunState) - frozenset(_NEXT)
_ACTIVE = runs.c.state.in_([state.value for state in _NEXT])


@dataclass(frozen=True, slots=True)
class Lost:
    """Whether pairs of a run are in the pool no more: erased, taken out by operators or filters,
    or withdrawn by whoever has changed their mind.
    """

    erased: bool
    refused: bool
    withdrawn: bool

    def __bool__(self) -> bool:
        """Whether the pool is another by now."""
        return self.erased or self.refused or self.withdrawn

    @property
    def spoils(self) -> bool:
        """Whether what was trained on them is not to be used.

        Somebody who likes an answer after all is one of many, and no reason to train for hours
        again: on a busy bot there would always be another.
        """
        return self.erased or self.refused

    @property
    def why(self) -> str:
        """What happened, for the audit."""
        if self.erased:
            return "pairs were erased"
        return "pairs were refused or held back" if self.refused else "pairs were withdrawn"


class RunMoved(SolemateError):
    """Somebody else has moved the run meanwhile; nothing was written."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training run.

    `why` says what started it, `started_by` who. `folder` holds a folder for each attempt;
    `dataset` is the digest of what was frozen, `adapter` the registered name, "" before there is
    one. `problem` says why it was rejected, "" where its figures do. `breaks` is how often the step
    that it is at did not come to an end.
    """

    id: str
    key: str
    stage: RunStage
    recipe: str
    state: RunState
    why: str
    started_by: str
    folder: Path
    dataset: str
    adapter: str
    figures: Mapping[str, Any]
    problem: str
    attempts: int
    breaks: int
    created_at: float
    updated_at: float

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.state in ENDED

    @property
    def attempt(self) -> Path:
        """The folder of the attempt that is, or was, being made: recipe, log and chart."""
        return self.folder / f"attempt-{self.attempts}"

    @property
    def output(self) -> Path:
        """The folder of the adapter that this attempt trains."""
        return self.attempt / "adapter"

    @property
    def candidate(self) -> Path:
        """The folder of the adapter at the strength at which it is judged, and served."""
        strength = self.figures.get("strength", 1.0)
        return self.output if strength == 1 else self.attempt / f"adapter-x{strength:g}"

    @property
    def evaluated(self) -> bool:
        """Whether the gate has judged it: its pairs have had their chance.

        Not where it ended because somebody in its data was erased: the others' have had none.
        """
        return "gate" in self.figures and "erased" not in self.figures


class Runs:
    """The table of runs. With a lease, only its holder writes."""

    def __init__(self, store: Store, folder: Path, lease: Lease | None = None) -> None:
        """`folder` is where each run gets a folder of its own."""
        self._store = store
        self.folder = folder.absolute()
        self._lease = lease

    async def count(self) -> int:
        """How many there have ever been: what `start` has to have seen."""
        query = sa.select(sa.func.count()).select_from(runs)
        return await self._store.run(lambda connection: connection.execute(query).scalar_one())

    async def start(
        self, stage: RunStage, recipe: str, *, why: str, who: str, seen: int, now: float
    ) -> Run | None:
        """Begin a run; None where one is active, or another was begun since `seen` were counted.

        So whoever decides on what it saw before somebody else's run starts nothing: each number is
        given once, by the table's own unique key.
        """
        number = seen + 1
        name = f"{stage}-{number}"
        row = {
            "id": name,
            "key": f"run-{number}",
            "stage": stage,
            "recipe": recipe,
            "state": RunState.COLLECTING.value,
            "why": why[:200],
            "started_by": who,
            "folder": str(self.folder / name),
            "dataset": "",
            "adapter": "",
            "figures": {},
            "problem": "",
            "attempts": 0,
            "breaks": 0,
            "created_at": now,
            "updated_at": now,
        }

        def work(connection: Connection) -> bool:
            self._check_lease(connection)
            # Two operators who begin one at the same moment begin one.
            lock(connection, "runs")
            if connection.execute(sa.select(runs.c.id).where(_ACTIVE)).first() is not None:
                return False
            if not upsert(connection, runs, row, key=("key",)):
                return False
            append(
                connection,
                who=who,
                subject=name,
                before="",
                after=RunState.COLLECTING,
                at=now,
                detail={"why": row["why"], "recipe": recipe},
            )
            return True

        return await self.get(name) if await self._store.run(work) else None

    async def begin(self, stage: RunStage, recipe: str, *, who: str, now: float) -> Run:
        """Begin a run by hand, whatever the rule says; `ConfigError` where one is active."""
        seen = await self.count()
        run = await self.start(stage, recipe, why="by hand", who=who, seen=seen, now=now)
        if run is None:
            active = await self.active()
            name = active.id if active else "another"
            raise ConfigError(
                f"The run {name!r} is under way. Wait for it, or end it with `solemate runs "
                f"cancel {name}`."
            )
        return run

    async def get(self, name: str) -> Run:
        """The run of this name; `NotFound` where there is none."""
        query = sa.select(runs).where(runs.c.id == name)
        row = await self._store.run(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"There is no run {name!r}. See `solemate runs list`.")
        return _to_run(row)

    async def all(self) -> list[Run]:
        """Every run, the newest first."""
        query = sa.select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc())
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        return [_to_run(row) for row in rows]

    async def active(self) -> Run | None:
        """The run that is not over yet, if there is one."""
        query = sa.select(runs).where(_ACTIVE).order_by(runs.c.created_at).limit(1)
        row = await self._store.run(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _to_run(row)

    async def state(self, name: str) -> RunState:
        """How far the run is now; raises `LeaseLost` where this is no longer ours to ask."""
        query = sa.select(runs.c.state).where(runs.c.id == name)

        def work(connection: Connection) -> RunState:
            self._check_lease(connection)
            return RunState(connection.execute(query).scalar_one())

        return await self._store.run(work)

    async def move(
        self,
        run: Run,
        to: RunState,
        *,
        who: str,
        now: float,
        detail: Mapping[str, Any] | None = None,
        frozen: Frozen | None = None,
        **changes: Any,
    ) -> Run:
        """Take the run to another state, with an audit row, in one transaction; the run as it is.

        `frozen` notes which pairs it holds. Raises `RunMoved` where the run is not as `run` says.
        """
        assert to in _NEXT.get(run.state, frozenset()), f"{run.state} never leads to {to}"
        known = {"dataset": run.dataset, "attempts": run.attempts}
        noted = {**known, **changes, **(detail or {})}
        # What comes next has not broken yet.
        changes["breaks"] = 0

        def work(connection: Connection) -> None:
            self._write(connection, run, {**changes, "state": to.value, "updated_at": now})
            if frozen is not None:
                _note_pairs(connection, run.id, frozen)
            append(
                connection,
                who=who,
                subject=run.id,
                before=run.state,
                after=to,
                at=now,
                detail={name: value for name, value in noted.items() if name != "figures"},
            )

        await self._store.run(work)
        return dataclasses.replace(run, state=to, updated_at=now, **changes)

    async def note(self, run: Run, **changes: Any) -> Run:
        """Write something about the run that changes nothing of its state."""
        await self._store.run(lambda connection: self._write(connection, run, changes))
        return dataclasses.replace(run, **changes)

    async def pairs_tried(self) -> frozenset[str]:
        """The pairs of every run that was evaluated, or is on its way there: no news any more.

        A run that failed before gives its pairs back.
        """
        done = [run.id for run in await self.all() if run.evaluated or not run.ended]
        query = sa.select(run_pairs.c.pair_id).where(run_pairs.c.run_id.in_(done)).distinct()
        rows = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return frozenset(rows)

    async def pairs_of(self, name: str) -> dict[str, str]:
        """The side of the dataset by pair, for every pair of the run."""
        query = sa.select(run_pairs).where(run_pairs.c.run_id == name).order_by(run_pairs.c.pair_id)
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        return {row.pair_id: row.split for row in rows}

    async def with_erased(self) -> list[Run]:
        """The runs that hold what is in the store no more, as of erased people; newest first."""
        query = runs_with_erased()
        names = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return [run for run in await self.all() if run.id in names]

    async def holds_all(self, names: Sequence[str]) -> bool:
        """Whether the store still holds all these pairs and rated answers: nobody was erased."""
        kept = await self._store.run(lambda connection: kept_of(connection, names))
        return kept >= set(names)

    async def lost_pairs(self, run: Run) -> Lost:
        """What became of the run's pairs that are no longer in the pool."""

        def work(connection: Connection) -> Lost:
            of_run = run_pairs.c.run_id == run.id
            erased = connection.execute(runs_with_erased().where(of_run)).first()
            now = (
                sa.select(pairs.c.state)
                .join(run_pairs, run_pairs.c.pair_id == pairs.c.id)
                .where(of_run)
                .distinct()
            )
            states = set(connection.execute(now).scalars())
            return Lost(
                erased=erased is not None,
                refused=not states.isdisjoint({"refused", "waiting"}),
                withdrawn=not states.isdisjoint({"withdrawn"}),
            )

        return await self._store.run(work)

    async def answering(self, run: Run) -> str:
        """The run's adapter where people are sent to it, though a crash kept that from being noted
        in the run; "" for none.
        """

        def work(connection: Connection) -> str:
            route = last_route(connection)
            if route is None:
                return ""
            query = sa.select(adapters.c.name).where(
                adapters.c.run_id == run.id, adapters.c.name.in_((route.live, route.canary))
            )
            return connection.execute(query).scalar() or ""

        return await self._store.run(work)

    async def unaudited(self) -> list[str]:
        """The runs whose state is not what their last audit row says: somebody wrote past it."""
        last = sa.select(sa.func.max(audit.c.id)).group_by(audit.c.subject)
        query = (
            sa.select(runs.c.id)
            .outerjoin(audit, sa.and_(audit.c.subject == runs.c.id, audit.c.id.in_(last)))
            .where(sa.or_(audit.c.after.is_(None), audit.c.after != runs.c.state))
            .order_by(runs.c.id)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).scalars().all())
        return list(rows)

    def _check_lease(self, connection: Connection) -> None:
        if self._lease is not None:
            self._lease.check(connection)

    def _write(self, connection: Connection, run: Run, changes: Mapping[str, Any]) -> None:
        self._check_lease(connection)
        as_known = (
            runs.c.id == run.id,
            runs.c.state == run.state.value,
            runs.c.attempts == run.attempts,
        )
        statement = sa.update(runs).where(*as_known).values(**changes)
        if not connection.execute(statement).rowcount:
            raise RunMoved(f"The run {run.id!r} is no longer {run.state.value}: ask again.")


def check_decidable(run: Run, to: RunState) -> None:
    """Raise `ConfigError` where an operator wants of a run what is not theirs to decide now."""
    if to is RunState.CANARY and run.state is not RunState.AWAITING_APPROVAL:
        raise ConfigError(f"The run {run.id!r} is {run.state.value}: it waits for no approval.")
    if to not in _NEXT.get(run.state, frozenset()):
        hint = "" if run.ended else " `solemate adapters rollback` ends a canary."
        raise ConfigError(f"The run {run.id!r} is {run.state.value}: it cannot be {to}.{hint}")


def _note_pairs(connection: Connection, name: str, frozen: Frozen) -> None:
    """Note whose words the run holds; SFT's rows are shipped, and nobody's."""
    if frozen.manifest.stage == "sft":
        return
    connection.execute(sa.delete(run_pairs).where(run_pairs.c.run_id == name))
    rows = [
        {"run_id": name, "pair_id": item.id, "split": item.split} for item in frozen.manifest.items
    ]
    connection.execute(sa.insert(run_pairs), rows)


def _to_run(row: Any) -> Run:
    fields = dict(row._mapping)
    return Run(**fields | {"state": RunState(row.state), "folder": Path(row.folder)})
