"""Where a job runs, behind one small protocol: start it, ask how it is, read its log, stop it.

A job is a command with a folder of its own. What becomes of it is written into that folder by the
job's side alone, so that whoever started it may be gone: the next one finds it, running or ended.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import psutil
import structlog

from core.settings import ROOT

log = structlog.get_logger()

_POLL_SECONDS = 0.1
# $0 is the job's folder. The exit status appears whole or not at all; a shell that is killed leaves
# none. The shell says its own number, so that no crash of ours comes between start and note.
_WRAPPER = (
    'echo $$ > "$0/job.pid.new" && mv "$0/job.pid.new" "$0/job.pid"; "$@"; code=$?; '
    'echo "$code" > "$0/job.exit.new" && mv "$0/job.exit.new" "$0/job.exit"; exit "$code"'
)
PID, EXIT = "job.pid", "job.exit"
"""Where a job's side notes that it has begun, and how it ended."""
# Every process of a job has this variable, and its children inherit it.
_MARK = "SOLEMATE_JOB"
_CHUNK = 65536


class JobState(StrEnum):
    """How a job is. `GONE`: it was started, and is no more, without having come to its end."""

    NEW = "new"
    RUNNING = "running"
    ENDED = "ended"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job is, and its exit status once it has ended."""

    state: JobState
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A command to run once; `id` names it wherever it runs, `log` is where its words go."""

    id: str
    command: Sequence[str]
    folder: Path
    log: Path


class Launcher(Protocol):
    """A place where jobs run."""

    @property
    def elsewhere(self) -> bool:
        """Whether jobs run on another machine, and go on there when this one stops."""
        ...

    async def submit(self, job: Job) -> None:
        """Start the job, unless it was started before."""
        ...

    async def status(self, job: Job) -> JobStatus:
        """How the job is."""
        ...

    def logs(self, job: Job) -> AsyncGenerator[bytes, None]:
        """What the job says, from its first word to its last; b"" when it has been silent a while.

        Ends when the job has ended or is gone.
        """
        ...

    async def stop(self, job: Job) -> None:
        """End the job and every process of it; nothing where it has ended."""
        ...

    async def forget(self, job: Job) -> None:
        """End what an earlier job in the same folder left, and let the next one start."""
        ...

    async def fetch(self, job: Job, output: Path) -> Path:
        """The folder `output` that the job wrote, on this machine."""
        ...


def standing_back(niceness: int) -> tuple[str, ...]:
    """What to put before a command so that it leaves the processor to others (0 to 19).

    Linux shares the processor among sessions first, and looks at `nice` only within each; a job has
    a session of its own, so that one has to stand back as well (sched(7), the autogroup feature).
    """
    if not niceness:
        return ()
    script = '{ echo "$0" > /proc/self/autogroup; } 2>/dev/null; exec nice -n "$0" "$@"'
    return ("sh", "-c", script, str(niceness))


class LocalLauncher:
    """Child processes of this machine, each leading a process group of its own.

    A child outlives a solemate that is killed; the next one goes on reading its log. `niceness`
    leaves the processor to whoever answers people (0 to 19, as `nice` has it).
    """

    elsewhere = False

    def __init__(self, niceness: int = 0, stop_seconds: float = 10.0) -> None:
        """`stop_seconds` lie between the request to end and the kill."""
        self._niceness = niceness
        self._stop_polls = max(1, round(stop_seconds / _POLL_SECONDS))
        self._children: dict[Path, asyncio.subprocess.Process] = {}

    async def submit(self, job: Job) -> None:
        """Start the job, unless it was started before."""
        if self._pid(job) is not None:
            return
        job.folder.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as words:
            child = await asyncio.create_subprocess_exec(
                *marked(job, standing_back(self._niceness)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                cwd=ROOT,
                start_new_session=True,
            )
        self._children[job.folder] = child
        log.info("job_started", job=job.id, pid=child.pid, log=str(job.log))

    async def status(self, job: Job) -> JobStatus:
        """How the job is, whoever started it."""
        pid = self._pid(job)
        if pid is None:
            return JobStatus(JobState.NEW)
        # Alive is asked first: a job that ends in between has left its exit status by then.
        alive = self._is_child(job) or _leads(job, pid) or bool(_processes(job))
        code = number_in(job.folder / EXIT)
        if code is not None:
            await self._reap(job)
            return JobStatus(JobState.ENDED, code)
        return JobStatus(JobState.RUNNING if alive else JobState.GONE)

    async def logs(self, job: Job) -> AsyncGenerator[bytes, None]:
        """What the job says; b"" ten times a second while it says nothing."""
        with job.log.open("rb") as words:
            while True:
                over = (await self.status(job)).state is not JobState.RUNNING
                while chunk := words.read(_CHUNK):
                    yield chunk
                if over:
                    return
                yield b""
                await self._pause(job)

    async def stop(self, job: Job) -> None:
        """End all processes of the job: asked first, then killed."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for poll in range(self._stop_polls):
                left = _processes(job)
                if not left:
                    break
                # The killed ones may have had time to start another.
                if poll == 0 or sign is signal.SIGKILL:
                    _send(sign, left)
                await asyncio.sleep(_POLL_SECONDS)
        if (child := self._children.pop(job.folder, None)) is not None:
            await child.wait()

    async def forget(self, job: Job) -> None:
        """End what an earlier job in the same folder left, and let the next one start."""
        await self.stop(job)
        for file in (job.folder / PID, job.folder / EXIT, job.log):
            file.unlink(missing_ok=True)

    async def fetch(self, job: Job, output: Path) -> Path:
        """The folder itself: it is on this machine."""
        return output

    async def _reap(self, job: Job) -> None:
        """Let our own child come to its end: it notes its exit status just before."""
        if (child := self._children.get(job.folder)) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), self._stop_polls * _POLL_SECONDS)

    async def _pause(self, job: Job) -> None:
        """Wait a moment, or until our own child ends."""
        child = self._children.get(job.folder)
        if child is None:
            await asyncio.sleep(_POLL_SECONDS)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), _POLL_SECONDS)

    def _is_child(self, job: Job) -> bool:
        """Whether it is a living child of this very process."""
        child = self._children.get(job.folder)
        return child is not None and child.returncode is None

    def _pid(self, job: Job) -> int | None:
        """The leader of the job's group; None before the job was started."""
        child = self._children.get(job.folder)
        return child.pid if child is not None else number_in(job.folder / PID)


def marked(job: Job, before: Sequence[str] = ()) -> list[str]:
    """The job's command as its side runs it: noting in its folder how it goes.

    `before` stands before the command itself.
    """
    wrapper = ("sh", "-c", _WRAPPER, str(job.folder))
    return ["env", f"{_MARK}={job.folder}", *wrapper, *before, *job.command]


def number_in(file: Path) -> int | None:
    """The number that a job's side has noted; None before it has."""
    try:
        return int(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _send(sign: signal.Signals, processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(sign)


def _is_of(job: Job, process: psutil.Process) -> bool:
    """Whether a process belongs to the job: numbers are used again, a job's folder is not."""
    try:
        marked: bool = process.environ().get(_MARK) == str(job.folder)
        return marked and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _leads(job: Job, pid: int) -> bool:
    """Whether the job's first process lives: the cheap question, asked ten times a second."""
    try:
        return _is_of(job, psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _processes(job: Job) -> list[psutil.Process]:
    """The job's living processes, children of its children included."""
    return [process for process in psutil.process_iter() if _is_of(job, process)]
