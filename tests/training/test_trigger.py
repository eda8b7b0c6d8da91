"""A run begins when enough has come together: once, wherever and however often it is looked."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.store import Store
from tests.training.looking import HOUR, NIGHT, NOON, RULE, Place
from tests.training.run_parts import pair
from tests.training.stand_in import Workshop
from training.lease import Lease
from training.runs import Runs, RunState
from training.trigger import Moment, in_window

MOMENT = Moment(now=NIGHT, new=10, pool=20, people=5, last_run_at=None)


# --- the rule ---


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ({}, True),
        ({"new": 9}, False),
        ({"pool": 19}, False),
        ({"people": 4}, False),
        ({"now": NOON}, False),
        ({"now": NOON, "new": 50, "pool": 60}, True),
        ({"now": NOON, "new": 50, "pool": 60, "people": 4}, False),
        ({"last_run_at": NIGHT - 23 * HOUR}, False),
        ({"last_run_at": NIGHT - 24 * HOUR}, True),
        ({"last_run_at": NIGHT + HOUR}, True),
    ],
)
def test_a_run_is_due_when_everything_has_come_together(
    change: dict[str, float], due: bool
) -> None:
    assert bool(RULE.due(replace(MOMENT, **change), nightly=False)) is due  # type: ignore[arg-type]


def test_a_run_a_night_keeps_its_hour_however_late_each_look_is() -> None:
    rule, last, begun = replace(RULE, window=""), None, []
    for night in range(30):
        # The nightly look is a little late, more or less; the cheap ones come between.
        late = NIGHT + night * 24 * HOUR + (0.04, 0.01, 0.03)[night % 3]
        for now, nightly in ((late, True), (late + 300.0, False), (late + 12 * HOUR, False)):
            moment = Moment(now, new=10, pool=20, people=5, last_run_at=last)
            if rule.due(moment, nightly=nightly):
                begun.append((now, nightly))
                last = now
    assert len(begun) == 30
    assert all(nightly for _, nightly in begun)


def test_a_nightly_look_soon_after_a_run_still_begins_none() -> None:
    moment = replace(MOMENT, last_run_at=NIGHT - 22 * HOUR)
    assert RULE.due(moment, nightly=True) == ""


def test_the_nightly_look_is_inside_every_window() -> None:
    assert RULE.due(replace(MOMENT, now=NOON), nightly=True)


def test_a_window_may_reach_over_midnight() -> None:
    found = [in_window("22:00-02:00", NIGHT + hours * HOUR) for hours in (-2, -1, 18, 19)]
    assert found == [True, False, False, True]


@pytest.mark.parametrize("window", ["2-5", "25:00-26:00", "night"])
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.window"):
        in_window(window, NIGHT)


# --- looking ---


@pytest.fixture
def place(store: Store, tmp_path: Path) -> Place:
    return Place(store, tmp_path)


async def test_a_due_run_says_why_it_began(place: Place) -> None:
    run = await place.look()()
    assert run is not None
    assert (run.why, run.state) == ("20 new pairs, 20 of 7 people in all", RunState.COLLECTING)


async def test_no_second_run_begins_while_one_is_active(place: Place) -> None:
    await place.look()()
    place.now += 48 * HOUR
    assert await place.look()() is None
    assert place.read == 1


async def test_events_that_always_qualify_make_one_run_a_day(place: Place) -> None:
    begun = []
    for _ in range(4 * 12):
        place.now += 2 * HOUR
        place.pool += [(f"more-{place.now}-{n}", f"person-{n}") for n in range(60)]
        if run := await place.look()():
            begun.append(run)
            await place.end(run)
    assert len(begun) == 4


async def test_the_control_without_a_rest_the_same_events_make_a_run_at_every_look(
    place: Place,
) -> None:
    restless = replace(RULE, cooldown_seconds=0.0)
    for number in range(12):
        place.now += 2 * HOUR
        place.pool += [(f"more-{place.now}-{n}", f"person-{n}") for n in range(60)]
        run = await place.look(restless)()
        assert run is not None, number
        await place.end(run)


async def test_pausing_stops_the_loop_at_the_next_look(place: Place) -> None:
    place.paused.touch()
    assert await place.look()() is None
    place.paused.unlink()
    assert await place.look()() is not None


async def test_without_the_automatic_nothing_begins_by_itself(place: Place) -> None:
    assert await place.look(automatic=False)(nightly=True) is None


async def test_pairs_that_were_tried_are_no_news(store: Store, tmp_path: Path) -> None:
    shop = Workshop(tmp_path, Runs(store, tmp_path / "runs"))
    shop.fake.verdict = "failed"
    await shop.until(RunState.FROZEN)
    assert await shop.runs.pairs_tried() == {one.id for one in shop.pool}
    place = Place(store, tmp_path, shop.runs)
    place.now += 100 * HOUR
    place.pool = [(one.id, one.user_id) for one in [*shop.pool, pair(40)]]
    active = await shop.runs.active()
    assert active is not None
    await place.end(active, RunState.CANCELLED)
    # A run that was never evaluated gives its pairs back.
    rule = replace(RULE, min_pool=1)
    run = await place.look(rule)(nightly=True)
    assert run is not None
    assert run.why.startswith("13 new pairs")


# --- four who look at once ---


@pytest.mark.parametrize("windows", [10, pytest.param(200, marks=pytest.mark.nightly)])
async def test_four_schedulers_begin_one_run_a_window(tmp_path: Path, windows: int) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    async with (
        Store(url) as first,
        Store(url, exclusive=False) as second,
        Store(url, exclusive=False) as third,
        Store(url, exclusive=False) as fourth,
    ):
        places = [Place(store, tmp_path) for store in (first, second, third, fourth)]
        for window in range(windows):
            for place in places:
                place.now = NIGHT + window * 24 * HOUR
                place.pool = [(f"{window}-{n}", f"person-{n}") for n in range(20)]
            begun = await asyncio.gather(*(place.look()() for place in places))
            (run,) = [run for run in begun if run is not None]
            await places[0].end(run)
        assert await places[0].runs.count() == windows


async def test_counting_only_when_it_is_begun_would_begin_four(place: Place) -> None:
    """The control: four decided on the same pool, and the first run is over when the next comes."""
    assert RULE.due(MOMENT, nightly=True)
    for _ in range(4):
        seen = await place.runs.count()
        run = await place.runs.start("dpo", "e", why="", who="x", seen=seen, now=NIGHT)
        assert run is not None
        await place.end(run)
    assert await place.runs.count() == 4


LOOKER = """
import asyncio, sys
from pathlib import Path
from core.store import Store
from training.lease import Lease
from training.runs import Runs
from training.trigger import Look, TriggerRule

folder, owner = Path(sys.argv[1]), sys.argv[2]
rule = TriggerRule(1, 1, 1, 1, "", 0.0)

async def pool(now):
    print("reading", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return [("pair", "person")]

async def look():
    async with Store(f"sqlite:///{folder / 's.db'}", exclusive=False) as store:
        lease = Lease(store, "loop", owner, seconds=5.0) if owner != "anybody" else None
        if lease is not None:
            print("leads" if await lease.take() else "waits", flush=True)
        look = Look(Runs(store, folder / "runs", lease), rule, stage="dpo", recipe="embedded",
                    pool=pool, paused=folder / "paused")
        try:
            run = await look()
        except Exception as exc:
            print(type(exc).__name__, flush=True)
        else:
            print(run.id if run else "none", flush=True)

asyncio.run(look())
"""


async def _looker(folder: Path, owner: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOOKER, str(folder), owner),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


async def _says(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    while (line := (await process.stdout.readline()).decode().strip()).startswith("20"):
        pass
    return line


async def test_four_processes_that_all_decided_to_begin_a_run_begin_one(tmp_path: Path) -> None:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as store:
        lookers = [await _looker(tmp_path, "anybody") for _ in range(4)]
        for process in lookers:
            assert await _says(process) == "reading"
        # All four have seen an empty table by now; one is held, and comes when all is over.
        lookers[3].send_signal(signal.SIGSTOP)
        said = []
        for process in lookers:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            await process.stdin.drain()
        for process in lookers[:3]:
            said.append(await _says(process))
            await process.wait()
        runs = Runs(store, tmp_path / "runs")
        active = await runs.active()
        assert active is not None
        await runs.move(active, RunState.CANCELLED, who="test", now=1.0)
        lookers[3].send_signal(signal.SIGCONT)
        said.append(await _says(lookers[3]))
        await lookers[3].wait()
        assert sorted(said) == ["dpo-1", "none", "none", "none"]
        assert await runs.count() == 1


async def test_a_leader_that_was_stopped_past_its_lease_writes_nothing(tmp_path: Path) -> None:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as store:
        looker = await _looker(tmp_path, "stopped")
        assert [await _says(looker), await _says(looker)] == ["leads", "reading"]
        looker.send_signal(signal.SIGSTOP)
        ahead = datetime.now(UTC).timestamp() + 6.0
        assert await Lease(store, "loop", "new", seconds=5.0, clock=lambda: ahead).take()
        looker.send_signal(signal.SIGCONT)
        assert looker.stdin is not None
        looker.stdin.write(b"go\n")
        await looker.stdin.drain()
        assert await _says(looker) == "LeaseLost"
        await looker.wait()
        assert await Runs(store, tmp_path / "runs").count() == 0
