"""A run goes from state to state, whatever is killed on the way; what is not whole goes nowhere."""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from core.audit import audit_of, verify
from core.database import upsert
from core.errors import AdapterRejected, ClusterUnavailable, ModelUnavailable, TrainingKilled
from core.routes import Route, change_route
from core.store import Store
from core.tables import adapters, pairs
from tests.training.run_parts import count_words
from tests.training.stand_in import Figure, Workshop, with_limits
from training.charts import draw
from training.dataset import FreezeRules, Frozen, RunStage, freeze_pairs
from training.erasure import forget_erased, leave_out_erased
from training.launchers import Job, Launcher, LocalLauncher
from training.lease import Lease, LeaseLost
from training.pairs import PreferencePair, to_row
from training.runs import Run, RunMoved, Runs, RunState
from training.seal import check_seal
from training.steps import ENOUGH_BYTES, Steps

S = RunState
_NIGHTLY = pytest.mark.nightly


@pytest.fixture
async def shop(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    # A picture takes a second; one test looks at a real one.
    monkeypatch.setattr("training.finish.draw", lambda *_: None)
    made = Workshop(tmp_path, Runs(store, tmp_path / "runs"))
    await keep(store, made.pool)
    return made


async def keep(store: Store, found: list[PreferencePair]) -> None:
    for one in found:
        row = to_row(one) | {"decided_at": 1.0}
        await store.run(lambda connection, row=row: upsert(connection, pairs, row, key=("id",)))


def processes_of(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get("SOLEMATE_JOB", "").startswith(str(folder))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield process


async def test_a_run_is_frozen_trained_evaluated_tried_out_and_promoted(
    shop: Workshop, store: Store
) -> None:
    run = await shop.until(S.PROMOTED)
    assert run == await shop.runs.get(run.id)
    assert run.adapter == "shoes-dpo-1"
    assert shop.fake.asked == ["evaluate", "register", "canary shoes-dpo-1", "judge"]
    assert run.figures["training"]["loss"] == 0.3
    assert run.figures["gate"][0]["name"] == "held-out pairs"


async def test_every_transition_is_one_row_that_names_dataset_and_recipe(
    shop: Workshop, store: Store
) -> None:
    run = await shop.until(S.PROMOTED)
    rows = await audit_of(store, run.id)
    states = ["", "collecting", "frozen", "training", "evaluating", "canary", "promoted"]
    assert [(row.before, row.after) for row in rows] == list(zip(states, states[1:], strict=False))
    assert rows[1].detail["dataset"] == run.dataset
    assert len(rows[2].detail["recipe"]) == 64
    assert (await verify(store)).whole
    assert await shop.runs.unaudited() == []


async def test_a_state_that_was_written_past_the_audit_is_noticed(
    shop: Workshop, store: Store
) -> None:
    run = await shop.until(S.FROZEN)
    statement = sa.text("update runs set state = 'promoted'")
    await store.run(lambda connection: connection.execute(statement))
    assert await shop.runs.unaudited() == [run.id]


async def test_the_runs_pairs_are_noted_with_their_side(shop: Workshop) -> None:
    run = await shop.until(S.FROZEN)
    assert await shop.runs.pairs_of(run.id) == {one.id: "train" for one in shop.pool}


async def test_progress_is_told_while_it_trains(shop: Workshop) -> None:
    await shop.until(S.EVALUATING)
    last = shop.seen[-1]
    assert (last.steps, last.total, last.loss, last.accuracy) == (1, 4, 0.69, 0.5)


async def test_curves_and_log_lie_beside_the_sealed_adapter(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.finish.draw", draw)
    run = await shop.until(S.EVALUATING)
    assert (run.attempt / "training.png").read_bytes().startswith(b"\x89PNG")
    assert "done" in (run.attempt / "train.log").read_text()
    seal = check_seal(run.output, run=run.id, dataset=run.dataset)
    assert sorted(seal.files) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "trainer_state.json",
    ]


# --- what ends badly ---


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("partial", "step 2 of 4"),
        ("nan", "grad_norm became nan"),
        ("reference", "3.6 instead of 0"),
        ("fail", "ValueError: the pairs taste bad"),
        ("nan hang", "grad_norm became nan"),
        ("reference hang", "3.6 instead of 0"),
        ("endless", "grad_norm became inf"),
        ("zero", "loss became 0"),
        ("rewardless", "rewards/margins became nan"),
        ("flat", "loss stayed at 0.69"),
    ],
)
async def test_a_training_that_went_wrong_is_rejected_and_never_evaluated(
    shop: Workshop, how: str, problem: str
) -> None:
    shop.told(how)
    run = await shop.until(S.REJECTED)
    assert problem in run.problem
    assert shop.fake.asked == []
    assert list(processes_of(shop.folder)) == []
    # What it had of weights is of no use; what it said is.
    assert not run.output.exists()
    assert (run.attempt / "train.log").stat().st_size


@pytest.mark.parametrize("how", ["nan", "endless", "zero", "flat"])
async def test_the_control_whoever_does_not_look_at_the_figures_lets_each_of_them_go_live(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """They all come to their end with status 0, and leave every file."""
    monkeypatch.setattr("training.progress.Watch.check", lambda *_: None)
    monkeypatch.setattr("training.finish.check_learning", lambda _: None)
    shop.told(how)
    assert (await shop.until(S.PROMOTED)).adapter


async def test_the_control_whoever_goes_by_the_weights_lets_half_a_training_go_live(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaMA-Factory writes them before it says how far it came."""
    monkeypatch.setattr("training.steps.check_ended", lambda *_: None)
    shop.told("partial")
    run = await shop.until(S.PROMOTED)
    assert run.figures["training"]["steps"] == 2


async def test_a_run_that_failed_gives_its_pairs_back(shop: Workshop) -> None:
    shop.told("fail")
    await shop.until(S.REJECTED)
    assert await shop.runs.pairs_tried() == frozenset()
    shop.told("good")
    await shop.until(S.PROMOTED)
    assert await shop.runs.pairs_tried() == {one.id for one in shop.pool}


@pytest.mark.parametrize(
    ("limit", "said"),
    [("stall_seconds", "said nothing for 0.5 minutes"), ("timeout_seconds", "longer than 0.5")],
)
async def test_a_training_that_hangs_is_stopped_with_all_its_processes(
    shop: Workshop, limit: str, said: str
) -> None:
    seconds = count(0.0, 10.0)
    shop.clock = lambda: next(seconds)
    shop.told("hang")
    slow = with_limits(shop, stall_seconds=1e9, timeout_seconds=1e9)
    run = await with_limits(slow, **{limit: 30.0}).until(S.REJECTED)
    assert said in run.problem
    assert list(processes_of(shop.folder)) == []


async def test_a_pool_without_pairs_is_rejected(shop: Workshop) -> None:
    shop.pool.clear()
    run = await shop.until(S.REJECTED)
    assert "no pair to train on" in run.problem


async def test_a_recipe_that_cannot_work_is_refused_before_anything_starts(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await shop.until(S.FROZEN)
    monkeypatch.setattr(shop, "plan", _misspelt(shop))
    run = await shop.until(S.REJECTED, run=run)
    assert "no key 'pref_bta'" in run.problem
    assert shop.trained == []


def _misspelt(shop: Workshop):  # type: ignore[no-untyped-def]
    plan = shop.plan

    def misspelt(run, frozen):  # type: ignore[no-untyped-def]
        made = plan(run, frozen)
        made.keys["pref_bta"] = 0.1
        return made

    return misspelt


async def test_a_dataset_that_was_changed_is_not_trained_on(shop: Workshop) -> None:
    run = await shop.until(S.FROZEN)
    file = shop.folder / "datasets" / run.dataset[:16] / "train.jsonl"
    file.chmod(0o644)
    file.write_text(file.read_text().replace("Yes", "Buy"))
    run = await shop.until(S.REJECTED, run=run)
    assert "changed after it was frozen" in run.problem
    assert shop.trained == []


# --- a full disk ---


class FullDisk:
    """Lets so many files be opened to be written, and none after it until there is room again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.refused = 0
        of_disk = Path.open

        def opened(path: Path, mode: str = "r", *words: object, **named: object) -> object:
            if mode[0] in "wax":
                self.room -= 1
                if self.room < 0:
                    self.refused += 1
                    raise OSError(errno.ENOSPC, "No space left on device")
            return of_disk(path, mode, *words, **named)

        monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize(
    "room", [0, 3, 5, *(pytest.param(n, marks=_NIGHTLY) for n in (1, 2, 4, 6))]
)
async def test_wherever_the_disk_is_full_a_run_goes_on_when_there_is_room(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    await _on_a_full_disk(shop, monkeypatch, room)


async def test_the_control_a_dataset_that_is_written_where_it_belongs_is_half_on_a_full_disk(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def freeze(folder: Path) -> Frozen:
        return freeze_pairs(shop.pool, (), FreezeRules(cutoff_len=500), count_words, folder)

    whole = freeze(shop.folder / "elsewhere")

    async def in_place(stage: RunStage, recipe: str) -> Frozen:
        place = shop.folder / "datasets" / whole.folder.name
        if not place.exists():
            place.mkdir(parents=True)
            for file in whole.folder.iterdir():
                (place / file.name).write_bytes(file.read_bytes())
        return Frozen(place, whole.manifest)

    async def leave_it(steps: Steps) -> None:
        """Not even what no run knows is tidied away."""

    monkeypatch.setattr(shop, "freeze", in_place)
    monkeypatch.setattr(Steps, "_tidy", leave_it)
    with pytest.raises(AssertionError, match="no whole dataset"):
        await _on_a_full_disk(shop, monkeypatch, 3)


async def _on_a_full_disk(shop: Workshop, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Let a run find the disk full after so many files, then make room; it ends whole."""
    run = await shop.begun()
    disk = FullDisk(monkeypatch, room)
    for _ in range(10):
        try:
            run = await shop.steps().advance(run)
        except OSError:
            # Nothing was said to be done that was not.
            run = await shop.runs.get(run.id)
            disk.room = 1000
        if run.ended:
            break
    assert disk.refused
    assert run.state is S.PROMOTED, run.problem
    assert list(processes_of(shop.folder)) == []
    check_seal(run.output, run=run.id, dataset=run.dataset)


async def test_a_trainer_that_finds_the_disk_full_is_rejected_and_gives_its_pairs_back(
    shop: Workshop,
) -> None:
    shop.told("full")
    run = await shop.until(S.REJECTED)
    assert "No space left on device" in run.problem
    assert shop.fake.asked == []
    assert await shop.runs.pairs_tried() == frozenset()
    shop.told("good")
    await shop.until(S.PROMOTED)


async def test_no_training_begins_without_room_for_it(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await shop.until(S.FROZEN)
    free = shutil.disk_usage(shop.folder)._replace(free=ENOUGH_BYTES - 1)
    with monkeypatch.context() as full:
        full.setattr("training.steps.shutil.disk_usage", lambda folder: free)
        assert await shop.steps().advance(run) == run
    assert shop.trained == []
    await shop.until(S.PROMOTED, run=run)


# --- crashes: each step again ---


@pytest.mark.parametrize("state", [S.COLLECTING, S.FROZEN, S.TRAINING, S.EVALUATING, S.CANARY])
async def test_each_step_may_be_done_again_after_a_crash_before_its_commit(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, state: RunState
) -> None:
    run = await shop.until(state)
    move = shop.runs.move

    async def crash(*args: object, **changes: object) -> Run:
        raise RuntimeError("killed")

    monkeypatch.setattr(shop.runs, "move", crash)
    with pytest.raises(RuntimeError):
        await shop.steps().advance(run)
    monkeypatch.setattr(shop.runs, "move", move)
    run = await shop.until(S.PROMOTED, run=await shop.runs.get(run.id))
    assert len(shop.trained) == 1
    assert run.attempts == 1


async def test_a_child_that_still_lives_is_not_doubled(shop: Workshop) -> None:
    shop.told("hang")
    run = await shop.until(S.TRAINING)
    lost = Workshop(shop.folder, shop.runs)
    lost.told("hang")
    child = await _left_behind(lost, run)
    shop.told("good")
    told = asyncio.Event()
    adopted = asyncio.create_task(shop.steps(lambda run, progress: told.set()).advance(run))
    await told.wait()
    assert [process.pid for process in processes_of(shop.folder)] == child
    adopted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adopted
    assert len(shop.trained) == 1
    assert list(processes_of(shop.folder)) == []


async def _left_behind(shop: Workshop, run: Run) -> list[int]:
    """Begin the training and lose the lease on it, as a solemate that is killed would."""
    told = asyncio.Event()
    steps = shop.steps(lambda run, progress: told.set())
    followed = steps._follow

    async def lose(run: Run, job: Job) -> bool:
        async def until_told() -> None:
            await followed(run, job)

        task = asyncio.create_task(until_told())
        await told.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise LeaseLost("killed")

    steps._follow = lose  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        await steps.advance(run)
    return [process.pid for process in processes_of(shop.folder)]


async def test_a_child_that_is_gone_is_started_again_in_a_fresh_folder(shop: Workshop) -> None:
    shop.told("hang")
    run = await shop.until(S.TRAINING)
    await _left_behind(shop, run)
    for process in processes_of(shop.folder):
        process.kill()
    shop.told("good")
    run = await shop.until(S.EVALUATING, run=run)
    assert run.attempts == 2
    assert shop.trained == [
        str(run.folder / "attempt-1" / "adapter"),
        str(run.folder / "attempt-2" / "adapter"),
    ]
    assert not (run.folder / "attempt-1" / "adapter").exists()


async def test_a_run_that_is_killed_again_and_again_is_given_up(shop: Workshop) -> None:
    shop.told("killed")
    run = await shop.until(S.REJECTED)
    assert (run.attempts, len(shop.trained)) == (3, 3)
    assert "ended 3 times before its end" in run.problem


async def test_stopping_solemate_stops_the_training_and_leaves_nothing_half_done(
    shop: Workshop,
) -> None:
    shop.told("hang")
    run = await shop.until(S.TRAINING)
    begun = asyncio.Event()
    task = asyncio.create_task(shop.steps(lambda run, progress: begun.set()).advance(run))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(processes_of(shop.folder)) == []
    assert not run.attempt.exists()
    shop.told("good")
    again = await shop.until(S.EVALUATING, run=await shop.runs.get(run.id))
    assert again.attempts == 1


async def test_stopping_solemate_leaves_a_training_on_another_machine_to_be_found_again(
    shop: Workshop,
) -> None:
    class Elsewhere(LocalLauncher):
        elsewhere = True

    shop.launcher = lambda: Elsewhere(stop_seconds=1.0)
    shop.told("hang")
    run = await shop.until(S.TRAINING)
    begun = asyncio.Event()
    task = asyncio.create_task(shop.steps(lambda run, progress: begun.set()).advance(run))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = list(processes_of(shop.folder))
    assert found
    for process in found:
        process.kill()


async def test_a_run_that_is_cancelled_while_it_trains_ends_its_processes(shop: Workshop) -> None:
    seconds = count(0.0, 1.0)
    shop.clock = lambda: next(seconds)
    shop.told("hang")
    run = await shop.until(S.TRAINING)
    begun = asyncio.Event()
    task = asyncio.create_task(
        with_limits(shop, stall_seconds=1e9, timeout_seconds=1e9)
        .steps(lambda run, progress: begun.set())
        .advance(run)
    )
    await begun.wait()
    await shop.runs.move(run, S.CANCELLED, who="operator", now=3000.0)
    assert (await task).state is S.CANCELLED
    assert list(processes_of(shop.folder)) == []
    assert not run.output.exists()


# --- the gate, and those who were erased ---


async def test_what_the_gate_refuses_is_never_registered(shop: Workshop) -> None:
    shop.fake.verdict = "failed"
    run = await shop.until(S.REJECTED)
    assert shop.fake.asked == ["evaluate"]
    assert run.evaluated


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_a_figure_that_is_no_number_refuses_whatever_the_database(
    shop: Workshop, value: float
) -> None:
    """PostgreSQL takes no such thing: the gate would be asked again for ever."""
    shop.fake.verdict = "failed"
    shop.fake.figure = Figure("G3 margin", value, "> 0", False, "12 pairs")
    run = await shop.until(S.REJECTED)
    (figure,) = (await shop.runs.get(run.id)).figures["gate"]
    assert (figure["value"], figure["note"]) == (None, f"12 pairs; value: {value}")


async def test_what_cannot_be_told_waits_for_an_operator(shop: Workshop) -> None:
    shop.fake.verdict = "needs_approval"
    run = await shop.until(S.AWAITING_APPROVAL)
    assert await shop.steps().advance(run) == run
    run = await shop.runs.move(run, S.CANARY, who="operator", now=3000.0)
    assert (await shop.until(S.PROMOTED, run=run)).adapter == "shoes-dpo-1"


async def test_files_that_changed_after_the_training_are_refused(shop: Workshop) -> None:
    run = await shop.until(S.EVALUATING)
    weights = run.output / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run = await shop.until(S.REJECTED, run=run)
    assert "is not the file that was trained" in run.problem
    assert shop.fake.asked == []


async def test_a_gate_that_refuses_by_itself_is_quoted(shop: Workshop) -> None:
    shop.fake.problem = AdapterRejected("It holds a pickle.")
    assert (await shop.until(S.REJECTED)).problem == "It holds a pickle."


async def test_a_gate_that_is_killed_is_tried_again_as_often_as_a_training(shop: Workshop) -> None:
    run = await shop.until(S.EVALUATING)
    shop.fake.problem = TrainingKilled("llamafactory-cli train was killed.")
    for _ in range(2):
        # Each time by a solemate that was started anew.
        run = await shop.steps().advance(await shop.runs.get(run.id))
        assert run.state is S.EVALUATING
    run = await shop.steps().advance(await shop.runs.get(run.id))
    assert run.state is S.REJECTED
    assert "was killed" in run.problem
    assert shop.fake.asked.count("evaluate") == 3


async def test_attempts_at_a_step_that_breaks_are_counted_through_restarts(shop: Workshop) -> None:
    run = await shop.until(S.COLLECTING)
    for _ in range(2):
        found = await shop.runs.get(run.id)
        assert (await shop.steps().broken(found, RuntimeError())).state is S.COLLECTING
    # The next step begins to count anew.
    run = await shop.steps().advance(await shop.runs.get(run.id))
    for attempt in range(3):
        assert (run.state, run.breaks) == (S.FROZEN, attempt)
        run = await shop.steps().broken(await shop.runs.get(run.id), RuntimeError())
    assert run.state is S.REJECTED
    assert "attempt 3, the last" in run.problem


class Died(BaseException):
    """What nobody catches, as nobody does anything after a kill."""


async def test_a_gate_that_takes_solemate_along_is_given_up_as_well(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(run: Run) -> None:
        shop.fake.asked.append("evaluate")
        raise Died

    run = await shop.until(S.EVALUATING)
    monkeypatch.setattr(shop.fake, "evaluate", die)
    for _ in range(3):
        with pytest.raises(Died):
            await shop.steps().advance(await shop.runs.get(run.id))
    run = await shop.steps().advance(await shop.runs.get(run.id))
    assert run.state is S.REJECTED
    assert "ended 3 times while this was measured" in run.problem
    assert shop.fake.asked.count("evaluate") == 3


async def test_a_model_server_that_is_away_rejects_nothing(shop: Workshop) -> None:
    run = await shop.until(S.EVALUATING)
    shop.fake.problem = ModelUnavailable("away")
    for _ in range(5):
        with pytest.raises(ModelUnavailable):
            await shop.steps().advance(await shop.runs.get(run.id))
    assert await shop.runs.get(run.id) == run


async def test_whoever_stops_solemate_during_the_gate_costs_no_attempt(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def wait(run: Run) -> None:
        begun.set()
        await asyncio.Event().wait()

    run = await shop.until(S.EVALUATING)
    monkeypatch.setattr(shop.fake, "evaluate", wait)
    task = asyncio.create_task(shop.steps().advance(run))
    await begun.wait()
    assert (await shop.runs.get(run.id)).breaks == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await shop.runs.get(run.id) == run


async def test_a_canary_that_is_not_decided_is_asked_again(shop: Workshop) -> None:
    shop.fake.outcome = None
    run = await shop.until(S.CANARY)
    waiting = await shop.steps().advance(run)
    shop.fake.outcome = S.ROLLED_BACK
    assert (await shop.steps().advance(waiting)).state is S.ROLLED_BACK
    assert shop.fake.asked.count("register") == 1


async def lose(store: Store, pair: PreferencePair, state: str = "") -> None:
    """What an erasure does to a pair; or where a state is given, what a changed mind does."""
    this = pairs.c.id == pair.id
    changed = sa.update(pairs).where(this).values(state=state)
    statement = changed if state else sa.delete(pairs).where(this)
    await store.run(lambda connection: connection.execute(statement))


@pytest.mark.parametrize("state", [S.FROZEN, S.TRAINING, S.EVALUATING])
@pytest.mark.parametrize("forgotten", [False, True])
async def test_who_was_erased_is_left_out_and_the_run_begins_again(
    shop: Workshop, store: Store, state: RunState, forgotten: bool
) -> None:
    run = await shop.until(state)
    old = shop.folder / "datasets" / run.dataset[:16]
    gone = shop.pool.pop(3)
    await lose(store, gone)
    if forgotten:
        await forget_erased(shop.runs, shop.folder / "datasets")
    run = await shop.steps().advance(run)
    assert run.state is S.COLLECTING
    assert not old.exists()
    assert not run.folder.exists()
    run = await shop.until(S.PROMOTED, run=run)
    assert gone.id not in await shop.runs.pairs_of(run.id)


def our_lease(store: Store) -> Lease:
    return Lease(store, "loop", "eraser", seconds=1.0)


async def leave_out(shop: Workshop, store: Store, launcher: Launcher | None = None) -> Run | None:
    """What `solemate person erase` does with the run under way."""
    lease, folder = our_lease(store), shop.folder / "datasets"
    runs = Runs(store, shop.runs.folder, lease)
    return await leave_out_erased(runs, lease, launcher or shop.launcher(), folder)


@pytest.mark.parametrize("state", [S.FROZEN, S.TRAINING, S.EVALUATING, S.CANARY])
async def test_who_is_erased_while_nobody_leads_is_taken_out_of_the_run_at_once(
    shop: Workshop, store: Store, state: RunState
) -> None:
    run = await shop.until(state)
    run.folder.mkdir(parents=True, exist_ok=True)
    assert await leave_out(shop, store) is None
    assert (await shop.runs.get(run.id)).state is state
    gone = shop.pool.pop(3)
    await lose(store, gone)
    assert await leave_out(shop, store) is None
    run = await shop.runs.get(run.id)
    assert (run.state, run.dataset, run.figures) == (S.COLLECTING, "", {})
    assert not run.folder.exists()
    assert list((shop.folder / "datasets").iterdir()) == []
    assert (await audit_of(store, run.id))[-1].who == "erasure"
    # Whoever starts next leads at once.
    assert await Lease(store, "loop", "next").take()
    run = await shop.until(S.PROMOTED, run=run)
    assert gone.id not in await shop.runs.pairs_of(run.id)


async def test_an_erasure_ends_a_training_that_a_killed_solemate_left_behind(
    shop: Workshop, store: Store
) -> None:
    shop.told("hang")
    run = await shop.until(S.TRAINING)
    assert await _left_behind(shop, run)
    # It was killed a moment ago, and its lease runs on.
    assert await Lease(store, "loop", "killed", seconds=1.0).take()
    await lose(store, shop.pool.pop(3))
    assert await leave_out(shop, store) is None
    assert list(processes_of(shop.folder)) == []
    assert not run.folder.exists()


async def test_an_erasure_leaves_the_run_to_whoever_leads_and_says_so(
    shop: Workshop, store: Store
) -> None:
    run = await shop.until(S.EVALUATING)
    await lose(store, shop.pool.pop(3))
    leader = Lease(store, "loop", "leader", seconds=1.0)
    assert await leader.take()
    async with leader.renewed():
        left = await leave_out(shop, store)
        assert await leader.take()
    assert left is not None
    assert (left.id, (await shop.runs.get(run.id)).state) == (run.id, S.EVALUATING)
    assert run.output.exists()


async def test_a_leader_who_takes_the_erased_out_meanwhile_leaves_nothing_to_say(
    shop: Workshop, store: Store
) -> None:
    run = await shop.until(S.FROZEN)
    await lose(store, shop.pool.pop(3))
    leader = Lease(store, "loop", "leader", seconds=1.0)
    assert await leader.take()
    async with leader.renewed():
        erasing = asyncio.create_task(leave_out(shop, store))
        assert (await shop.steps().advance(run)).state is S.COLLECTING
        assert await erasing is None


async def test_an_erasure_that_cannot_end_a_training_keeps_what_tells_of_it(
    shop: Workshop, store: Store
) -> None:
    class Away(LocalLauncher):
        async def stop(self, job: Job) -> None:
            raise ClusterUnavailable("No answer from the cluster.")

    run = await shop.until(S.TRAINING)
    run.attempt.mkdir(parents=True)
    await lose(store, shop.pool.pop(3))
    with pytest.raises(ClusterUnavailable):
        await leave_out(shop, store, Away())
    assert (await shop.runs.get(run.id)).state is S.TRAINING
    assert run.attempt.exists()


async def test_who_is_erased_during_the_canary_ends_it_and_the_others_pairs_wait_for_another(
    shop: Workshop, store: Store
) -> None:
    shop.fake.outcome = None
    run = await shop.steps().advance(await shop.until(S.CANARY))
    await lose(store, shop.pool.pop(3))
    assert await shop.runs.pairs_tried()
    shop.fake.outcome = S.ROLLED_BACK
    run = await shop.steps().advance(run)
    assert run.state is S.ROLLED_BACK
    assert "was erased" in run.problem
    assert await shop.runs.pairs_tried() == frozenset()


async def test_a_training_that_somebody_left_behind_is_stopped_for_an_erasure(
    shop: Workshop, store: Store
) -> None:
    shop.told("hang")
    run = await shop.until(S.TRAINING)
    assert await _left_behind(shop, run)
    await lose(store, shop.pool.pop(3))
    run = await shop.steps().advance(run)
    assert run.state is S.COLLECTING
    assert list(processes_of(shop.folder)) == []
    assert not run.folder.exists()


@pytest.mark.parametrize("state", ["", "refused"])
async def test_a_training_is_stopped_as_soon_as_somebody_in_it_is_erased_or_refused(
    shop: Workshop, store: Store, state: str
) -> None:
    seconds = count(0.0, 1.0)
    shop.clock = lambda: next(seconds)
    shop.told("hang")
    run = await shop.until(S.TRAINING)
    old = shop.folder / "datasets" / run.dataset[:16]
    begun = asyncio.Event()
    task = asyncio.create_task(
        with_limits(shop, stall_seconds=1e9, timeout_seconds=1e9)
        .steps(lambda run, progress: begun.set())
        .advance(run)
    )
    await begun.wait()
    gone = shop.pool.pop(3)
    await lose(store, gone, state)
    run = await task
    assert (run.state, run.dataset) == (S.COLLECTING, "")
    assert list(processes_of(shop.folder)) == []
    assert not run.folder.exists()
    assert not old.exists()
    shop.told("good")
    run = await shop.until(S.PROMOTED, run=run)
    assert gone.id not in await shop.runs.pairs_of(run.id)


async def test_a_training_that_finds_its_rows_deleted_by_an_erasure_begins_again(
    shop: Workshop, store: Store
) -> None:
    shop.told("fail")
    run = await shop.until(S.TRAINING)
    steps = shop.steps()
    followed = steps._follow

    async def erased_meanwhile(run: Run, job: Job) -> bool:
        await lose(store, shop.pool.pop(3))
        return await followed(run, job)

    steps._follow = erased_meanwhile  # type: ignore[method-assign]
    assert (await steps.advance(run)).state is S.COLLECTING


async def test_a_run_that_waits_for_an_operator_begins_again_without_who_was_erased(
    shop: Workshop, store: Store
) -> None:
    shop.fake.verdict = "needs_approval"
    run = await shop.until(S.AWAITING_APPROVAL)
    gone = shop.pool.pop(3)
    await lose(store, gone)
    assert await forget_erased(shop.runs, shop.folder / "datasets") == [run.id]
    run = await shop.runs.get(run.id)
    assert (run.state, run.dataset, run.figures) == (S.COLLECTING, "", {})
    assert not run.folder.exists()
    rows = await audit_of(store, run.id)
    assert (rows[-1].who, rows[-1].detail["why"]) == ("erasure", "pairs were erased")
    run = await shop.until(S.AWAITING_APPROVAL, run=run)
    assert gone.id not in await shop.runs.pairs_of(run.id)


@pytest.mark.parametrize("state", ["", "refused", "waiting"])
async def test_an_approved_run_begins_again_without_what_was_taken_out(
    shop: Workshop, store: Store, state: str
) -> None:
    shop.fake.verdict = "needs_approval"
    run = await shop.until(S.AWAITING_APPROVAL)
    await lose(store, shop.pool.pop(3), state)
    run = await shop.runs.move(run, S.CANARY, who="operator", now=3000.0)
    run = await shop.steps().advance(run)
    assert run.state is S.COLLECTING
    assert "register" not in shop.fake.asked


@pytest.mark.parametrize(
    ("state", "after"),
    [(S.FROZEN, S.COLLECTING), (S.EVALUATING, S.CANARY), (S.CANARY, S.PROMOTED)],
)
async def test_who_changes_their_mind_is_left_out_until_it_was_trained_on(
    shop: Workshop, store: Store, state: RunState, after: RunState
) -> None:
    run = await shop.until(state)
    await lose(store, shop.pool.pop(3), "withdrawn")
    assert (await shop.steps().advance(run)).state is after


async def test_an_adapter_that_answers_already_is_not_forgotten_over_a_crash_and_an_erasure(
    shop: Workshop, store: Store
) -> None:
    run = await shop.until(S.CANARY)
    adapter = {
        "name": "shoes-v9",
        "run_id": run.id,
        "path": "",
        "base": "",
        "digest": "",
        "manifest": {},
        "state": "canary",
        "created_at": 1.0,
    }
    route = Route("old", canary="shoes-v9", share=0.05)

    def routed(connection: sa.Connection) -> None:
        connection.execute(sa.insert(adapters).values(adapter))
        change_route(
            connection, Route("old"), route, subject="shoes-v9", who="test", why="", now=1.0
        )

    await store.run(routed)
    await lose(store, shop.pool.pop(3))
    await forget_erased(shop.runs, shop.folder / "datasets")
    assert not run.folder.exists()
    assert await leave_out(shop, store) is None
    assert await shop.runs.get(run.id) == run
    shop.fake.outcome = S.ROLLED_BACK
    run = await shop.steps().advance(run)
    assert (run.state, run.adapter) == (S.ROLLED_BACK, "shoes-v9")
    assert shop.fake.asked == ["evaluate", "judge"]


async def test_the_files_of_a_canary_forget_whoever_was_erased(
    shop: Workshop, store: Store
) -> None:
    shop.fake.outcome = None
    run = await shop.steps().advance(await shop.until(S.CANARY))
    assert run.adapter
    await lose(store, shop.pool.pop(3))
    assert await forget_erased(shop.runs, shop.folder / "datasets") == [run.id]
    assert not run.folder.exists()


async def test_datasets_that_no_run_knows_forget_whoever_was_erased(
    shop: Workshop, store: Store
) -> None:
    datasets, dry = shop.folder / "datasets", shop.folder / "runs"
    frozen = await shop.freeze("dpo", "embedded")
    tried = dry / f"dry-dpo-{frozen.manifest.digest[:8]}"
    tried.mkdir(parents=True)
    assert await forget_erased(shop.runs, datasets) == []
    await lose(store, shop.pool.pop(3))
    others = await shop.freeze("dpo", "embedded")
    assert await forget_erased(shop.runs, datasets) == [frozen.folder.name]
    assert list(datasets.iterdir()) == [others.folder]
    assert not tried.exists()


async def test_a_dataset_that_somebody_was_killed_over_is_forgotten_once_nobody_writes_it(
    shop: Workshop,
) -> None:
    half = shop.folder / "datasets" / ".5eed"
    half.mkdir(parents=True)
    written = half.stat().st_mtime
    assert await forget_erased(shop.runs, half.parent, now=written + 60) == []
    assert await forget_erased(shop.runs, half.parent, now=written + 3600) == [".5eed"]
    assert not half.exists()


async def test_the_files_of_past_runs_forget_whoever_was_erased(
    shop: Workshop, store: Store
) -> None:
    run = await shop.until(S.PROMOTED)
    datasets = shop.folder / "datasets"
    assert await forget_erased(shop.runs, datasets) == []
    await lose(store, shop.pool[0])
    assert await forget_erased(shop.runs, datasets) == [run.id]
    assert not run.folder.exists()
    assert list(datasets.iterdir()) == []


async def test_old_runs_leave_no_files(shop: Workshop) -> None:
    for _ in range(7):
        run = await shop.until(S.FROZEN)
        run.folder.mkdir(parents=True)
        await shop.runs.move(run, S.CANCELLED, who="test", now=1.0)
        shop.pool.pop()
    left = sorted(folder.name for folder in (shop.folder / "runs").iterdir())
    assert left == ["dpo-3", "dpo-4", "dpo-5", "dpo-6", "dpo-7"]
    assert len(list((shop.folder / "datasets").iterdir())) == 5


# --- who may write ---


async def test_a_run_that_somebody_else_moved_is_not_moved_again(shop: Workshop) -> None:
    run = await shop.until(S.FROZEN)
    await shop.runs.move(run, S.CANCELLED, who="operator", now=1.0)
    with pytest.raises(RunMoved):
        await shop.steps().advance(run)


async def test_a_former_holder_of_the_lease_writes_nothing(store: Store, tmp_path: Path) -> None:
    now = 1000.0
    first = Lease(store, "loop", "first", clock=lambda: now)
    second = Lease(store, "loop", "second", clock=lambda: now)
    assert await first.take()
    shop = Workshop(tmp_path, Runs(store, tmp_path / "runs", first))
    await keep(store, shop.pool)
    run = await shop.until(S.FROZEN)
    assert not await second.take()
    now += 31.0
    assert await second.take()
    with pytest.raises(LeaseLost):
        await shop.steps().advance(run)
    assert (await Runs(store, tmp_path / "runs").get(run.id)).state is S.FROZEN


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
async def test_a_clock_that_jumps_an_hour_leaves_one_holder(store: Store, jump: float) -> None:
    now = 1000.0
    first = Lease(store, "loop", "first", clock=lambda: now)
    second = Lease(store, "loop", "second", clock=lambda: now)
    assert await first.take()
    now += jump
    assert await second.take()
    assert not await first.take()
    with pytest.raises(LeaseLost):
        await store.run(first.check)
    await store.run(second.check)


@pytest.mark.parametrize("ahead", [-31.0, 31.0, 61.0])
async def test_a_machine_whose_clock_is_wrong_takes_no_lease_that_is_held(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    clock = time.time
    async with Store(postgres_url) as one, Store(postgres_url) as other:
        first, second = Lease(one, "loop", "first"), Lease(other, "loop", "second")
        assert await first.take()
        monkeypatch.setattr(time, "time", lambda: clock() + ahead)
        assert not await second.take()
        monkeypatch.setattr(time, "time", clock)
        assert await first.take()
        await one.run(first.check)


async def test_two_looks_at_the_same_table_begin_one_run(shop: Workshop) -> None:
    seen = await shop.runs.count()
    started = [
        await shop.runs.start("dpo", "embedded", why="", who=who, seen=seen, now=1.0)
        for who in ("a", "b")
    ]
    assert [run is not None for run in started] == [True, False]


async def test_whoever_decided_before_a_run_that_is_over_begins_none(shop: Workshop) -> None:
    seen = await shop.runs.count()
    await shop.until(S.PROMOTED)
    late = await shop.runs.start("dpo", "embedded", why="", who="late", seen=seen, now=1.0)
    assert late is None
