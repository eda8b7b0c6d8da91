"""What erased people said leaves the files of runs, and the runs that are not over."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.dataset import Manifest, read_manifest, remove_frozen
from training.runs import Run, RunMoved, Runs, RunState

# Nobody writes a dataset for so long.
_WRITING_SECONDS = 600.0
_ERASURE = "erasure"


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
        elif run.ended or run.adapter:
            # LLaMA-Factory's log shows rows, too; a registered adapter lies elsewhere.
            await asyncio.to_thread(remove, run.folder)
        await asyncio.to_thread(remove_frozen, datasets / run.dataset[:16])
    strays = await _strays(runs, datasets, at)
    for name in [run.dataset[:16] for run in found] + strays:
        dry = runs.folder.glob(f"dry-*-{name[:8]}")
        await asyncio.to_thread(remove, datasets / name, *dry)
    return [run.id for run in found] + strays


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
