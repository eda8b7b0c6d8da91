"""A child process runs once, is found again by whoever comes later, and ends with all its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from training.launchers import Job, JobState, JobStatus, LocalLauncher

WAITING = (
    "import sys; print('waiting', flush=True); sys.stdin.close(); import signal; signal.pause()"
)
# A child of the child, as torchrun has, that does not end when it is asked to.
STUBBORN = (
    "import subprocess, sys, signal; "
    "subprocess.Popen([sys.executable, '-c', 'import signal; "
    'signal.signal(signal.SIGTERM, signal.SIG_IGN); print("deaf", flush=True); signal.pause()\']); '
    "signal.pause()"
)
SUBMIT = """
import asyncio, sys
from pathlib import Path
from training.launchers import Job, LocalLauncher

folder = Path(sys.argv[1])
job = Job("dpo-1", [sys.executable, "-c", sys.argv[2], str(folder)], folder, folder / "train.log")

async def start():
    launcher = LocalLauncher()
    await launcher.submit(job)
    async for words in launcher.logs(job):
        if words:
            print(words.decode(), flush=True)

asyncio.run(start())
"""


def job(folder: Path, text: str) -> Job:
    command = [sys.executable, "-c", text, str(folder)]
    return Job("dpo-1", command, folder, folder / "train.log")


async def words_of(launcher: LocalLauncher, one: Job, until: bytes = b"\0") -> bytes:
    said = b""
    async for words in launcher.logs(one):
        said += words
        if until in said:
            break
    return said


def living(folder: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter()
        if any(str(folder) in word for word in _cmdline(process))
    ]


def _deaf_child(one: Job) -> psutil.Process:
    leader = psutil.Process(int((one.folder / "job.pid").read_text()))
    return next(
        child for child in leader.children(recursive=True) if "SIG_IGN" in str(_cmdline(child))
    )


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


async def test_a_job_says_its_words_and_its_exit_status(tmp_path: Path) -> None:
    launcher = LocalLauncher(niceness=10)
    one = job(tmp_path / "a", "import os; print(os.nice(0)); raise SystemExit(3)")
    assert await launcher.status(one) == JobStatus(JobState.NEW)
    await launcher.submit(one)
    assert int(await words_of(launcher, one)) == min(19, os.nice(0) + 10)
    assert await launcher.status(one) == JobStatus(JobState.ENDED, 3)


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this kernel does not group sessions"
)
async def test_a_job_stands_back_from_other_sessions_too(tmp_path: Path) -> None:
    launcher = LocalLauncher(niceness=7)
    one = job(tmp_path / "a", "print(open('/proc/self/autogroup').read())")
    await launcher.submit(one)
    assert b"nice 7" in await words_of(launcher, one)
    await launcher.stop(one)


async def test_a_job_is_started_once(tmp_path: Path) -> None:
    launcher = LocalLauncher()
    one = job(tmp_path / "a", "print('once')")
    await launcher.submit(one)
    await words_of(launcher, one)
    await launcher.submit(one)
    await LocalLauncher().submit(one)
    assert await words_of(launcher, one) == b"once\n"


async def test_a_job_whose_end_was_seen_is_no_child_any_more(tmp_path: Path) -> None:
    launcher = LocalLauncher()
    for number in range(5):
        one = job(tmp_path / str(number), "print('once')")
        await launcher.submit(one)
        while (await launcher.status(one)).state is not JobState.ENDED:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not launcher._is_child(one)


async def test_stopping_ends_every_process_of_the_group(tmp_path: Path) -> None:
    launcher = LocalLauncher(stop_seconds=0.2)
    one = job(tmp_path / "a", STUBBORN)
    await launcher.submit(one)
    await words_of(launcher, one, until=b"deaf")
    deaf = _deaf_child(one)
    await launcher.stop(one)
    assert (await launcher.status(one)).state is JobState.GONE
    assert not _lives(deaf)


async def test_the_control_whoever_ends_the_child_alone_leaves_what_it_started(
    tmp_path: Path,
) -> None:
    launcher = LocalLauncher(stop_seconds=0.2)
    one = job(tmp_path / "a", STUBBORN)
    await launcher.submit(one)
    await words_of(launcher, one, until=b"deaf")
    deaf = _deaf_child(one)
    leader = psutil.Process(int((one.folder / "job.pid").read_text()))
    leader.kill()
    leader.wait()
    assert _lives(deaf)
    await launcher.stop(one)
    assert not _lives(deaf)


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_a_child_that_lives_on_is_found_followed_and_not_doubled(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUBMIT, str(folder), WAITING),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert starter.stdout is not None
    while b"waiting" not in await starter.stdout.readline():
        pass
    starter.kill()
    await starter.communicate()
    launcher = LocalLauncher()
    one = job(folder, WAITING)
    assert (await launcher.status(one)).state is JobState.RUNNING
    before = living(folder)
    await launcher.submit(one)
    assert living(folder) == before
    assert await words_of(launcher, one, until=b"waiting") == b"waiting\n"
    await launcher.stop(one)
    assert (await launcher.status(one)).state is JobState.GONE
    assert living(folder) == []


async def test_a_child_whose_leader_was_killed_is_still_the_jobs(tmp_path: Path) -> None:
    launcher = LocalLauncher()
    one = job(tmp_path / "a", WAITING)
    await launcher.submit(one)
    await words_of(launcher, one, until=b"waiting")
    os.kill(int((tmp_path / "a" / "job.pid").read_text()), signal.SIGKILL)
    assert (await LocalLauncher().status(one)).state is JobState.RUNNING
    await launcher.stop(one)
    assert living(tmp_path / "a") == []


async def test_another_process_with_the_same_number_is_not_taken_for_the_job(
    tmp_path: Path,
) -> None:
    stranger = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WAITING, start_new_session=True
    )
    try:
        one = job(tmp_path / "a", WAITING)
        one.folder.mkdir()
        (one.folder / "job.pid").write_text(str(stranger.pid))
        launcher = LocalLauncher()
        assert (await launcher.status(one)).state is JobState.GONE
        await launcher.stop(one)
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()
