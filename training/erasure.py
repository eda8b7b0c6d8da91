"""What erased people said leaves the files of runs, and the runs that are not over."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.dataset import Manifest, read_manifest, remove_frozen
from training.launchers import Job, Launcher
from training.lease import Lease, LeaseLost
from training.runs import Run, RunMoved, Runs, RunState

# Nobody writes a dataset for so long.
_WRITING_SECONDS = 600.0
_ERASURE = "erasure"
_LOOK_SECONDS = 0.5
# A leader who was killed leaves a lease that has to run out.
_PATIENCE = 1.2


async def forget_erased(runs: Runs, datasets: Path, *, now: float | None = None) -> list[str]:
    """Delete the files that hold what is gone, as of erased people; the runs whose they were.

    Datasets that no run knows are named by themselves. A run that waits for an operator begins
    again without what is gone; one under way notices that by itself.
    """
    at = time.time() if now is None else now
    found = [run for run in await runs.with_erased() if run.dataset]
    for run in found:
        if run.state is RunState.AWAITING_APPROVAL:
            with suppress(RunMoved):
                await runs.move(run, who=_ERASURE, now=at, **collecting_again("pairs were erased"))
                await asyncio.to_thread(remove, run.folder)
        elif run.ended or run.adapter or await runs.answering(run):
            # LLaMA-Factory's log shows rows, too; a registered adapter lies elsewhere.
            await asyncio.to_thread(remove, run.folder)
        await asyncio.to_thread(remove_frozen, datasets / run.dataset[:16])
    strays = await _strays(runs, datasets, at)
    for name in [run.dataset[:16] for run in found] + strays:
        dry = runs.folder.glob(f"dry-*-{name[:8]}")
        await asyncio.to_thread(remove, datasets / name, *dry)
    return [run.id for run in found] + strays


async def leave_out_erased(
    runs: Runs, lease: Lease, launcher: Launcher, datasets: Path, *, now: float | None = None
) -> Run | None:
    """Have the run under way begin again without erased people, and its files deleted.

    Whoever leads does that by itself, at the latest when its step ends, and is waited for as long
    as a lease lasts. Where nobody leads it is done here: a training is ended, too. The run, where
    its files are still there. `runs` need this lease. Raises `ClusterUnavailable` where a training
    cannot be ended.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + _PATIENCE * lease.seconds
    async with lease.renewed():
        while (run := await _with_erased_under_way(runs)) is not None:
            if await lease.take():
                if run.state is RunState.TRAINING:
                    await stop_training(run, launcher)
                await asyncio.to_thread(forget_run, run, datasets)
                with suppress(RunMoved, LeaseLost):
                    at = time.time() if now is None else now
                    again = collecting_again("pairs were erased")
                    await runs.move(run, who=_ERASURE, now=at, **again)
            elif clock() >= until:
                return run
            else:
                await asyncio.sleep(_LOOK_SECONDS)
    return None


async def _with_erased_under_way(runs: Runs) -> Run | None:
    """The run that is being made of what is gone; None where there is none, or it answers by now.

    What answers is flagged, and its run's files need nobody who leads.
    """
    run = await runs.active()
    if run is None or not run.dataset or run.adapter or await runs.answering(run):
        return None
    return run if (await runs.lost_pairs(run)).erased else None


async def stop_training(run: Run, launcher: Launcher) -> None:
    """End the training of this attempt, whoever began it, also without the dataset it was given."""
    log = run.attempt / "train.log"
    await launcher.stop(Job(f"{run.id}-{run.attempts}", (), run.attempt, log))


async def _strays(runs: Runs, datasets: Path, now: float) -> list[str]:
    """Datasets that hold what is gone, or that somebody was killed over while writing them.

    What a dry run froze belongs to no run, and so does what a crash kept from being noted.
    """
    found = []
    for folder, manifest, written in await asyncio.to_thread(_datasets_in, datasets):
        if manifest is None:
            gone = now - written > _WRITING_SECONDS
        else:
            names = [] if manifest.stage == "sft" else [item.id for item in manifest.items]
            gone = not await runs.holds_all(names)
        if gone:
            found.append(folder.name)
    return found


def _datasets_in(folder: Path) -> list[tuple[Path, Manifest | None, float]]:
    """Each dataset with what it says it holds, None for nothing, and when it was written."""
    found = []
    for place in sorted(folder.glob("*")):
        # One that is being written has a name of its own, and takes its place whole.
        manifest = None if place.name.startswith(".") else read_manifest(place)
        with suppress(FileNotFoundError):
            found.append((place, manifest, place.stat().st_mtime))
    return found


def collecting_again(why: str) -> dict[str, Any]:
    """How a run begins again: nothing that was measured before is said of it any more."""
    return {"to": RunState.COLLECTING, "detail": {"why": why}, "dataset": "", "figures": {}}


def forget_run(run: Run, datasets: Path) -> None:
    """Delete what a run has made so far: it begins again."""
    remove_frozen(datasets / run.dataset[:16])
    remove(run.folder)


def remove(*folders: Path) -> None:
    """Delete folders, where they are there."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
