"""Jobs on a Ray cluster, through its REST API: no Ray is needed on this side.

The cluster's machines see a job's folder under the same path, on storage that is shared: they read
the frozen dataset and the recipe there, and leave log, adapter and exit status. What the folder
says counts. Ray's own word is a hint: its head forgets all jobs when it is started anew, and has
called a job failed that had succeeded (ray-project/ray, issue 65608).
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import structlog

from core.errors import ClusterUnavailable, TrainingFailed
from core.settings import ROOT, Settings
from training.launchers import (
    EXIT,
    PID,
    Job,
    JobState,
    JobStatus,
    Launcher,
    LocalLauncher,
    marked,
    number_in,
)
from training.ray_api import Cluster, JobInfo, RayApi, cluster_of, last_line, ray_api

log = structlog.get_logger()

_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two looks, and between two words about a job that has none of its own.

    `manifest` is how long an exit status may take to come through the shared storage, `stop` how
    long a job may take to end once it is asked to: Ray's own three are too short to save anything.
    """

    poll: float = 1.0
    waiting: float = 60.0
    manifest: float = 30.0
    stop: float = 60.0


class RayLauncher:
    """Runs jobs on a Ray cluster; a job's id is its submission id, so that it is started once."""

    elsewhere = True

    def __init__(
        self,
        cluster: Cluster,
        pace: Pace | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport` stands in for the network."""
        self._cluster = cluster
        self._pace = pace or Pace()
        self._transport = transport

    async def submit(self, job: Job) -> None:
        """Start the job, unless it was started before, by whomever."""
        if number_in(job.folder / PID) is not None:
            return
        job.folder.mkdir(parents=True, exist_ok=True)
        async with ray_api(self._cluster, self._transport) as api:
            await api.submit(job.id, self._submission(job))
        log.info("job_submitted", job=job.id, cluster=self._cluster.address, log=str(job.log))

    async def status(self, job: Job) -> JobStatus:
        """How the job is: what its folder says, and else what Ray does."""
        if (code := number_in(job.folder / EXIT)) is not None:
            return JobStatus(JobState.ENDED, code)
        async with ray_api(self._cluster, self._transport) as api:
            info = await api.info(job.id)
        if info is not None and not info.ended:
            return JobStatus(JobState.RUNNING)
        if (info is None or info.never_began) and number_in(job.folder / PID) is None:
            return JobStatus(JobState.NEW)
        if (code := await self._exit_code(job)) is not None:
            return JobStatus(JobState.ENDED, code)
        return JobStatus(JobState.GONE)

    async def logs(self, job: Job) -> AsyncGenerator[bytes, None]:
        """What the job says; b"" once a second while it says nothing.

        A job that waits for a free GPU, or whose cluster is out of reach, has a word of ours every
        minute: it is not to be taken for one that hangs.
        """
        clock = asyncio.get_running_loop().time
        read, noted = 0, clock()
        async with ray_api(self._cluster, self._transport) as api:
            while True:
                over, excuse = await self._look(api, job)
                for words in _words(job.log, read):
                    read += len(words)
                    yield words
                if over:
                    return
                if excuse and clock() - noted >= self._pace.waiting:
                    noted = clock()
                    log.warning("job_not_heard", job=job.id, problem=excuse)
                    yield f"{excuse}\n".encode()
                yield b""
                await asyncio.sleep(self._pace.poll)

    async def stop(self, job: Job) -> None:
        """End the job: asked first, and killed by Ray a minute later.

        Raises `ClusterUnavailable` where the cluster cannot be told for so long.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + self._pace.stop
        async with ray_api(self._cluster, self._transport) as api:
            while number_in(job.folder / EXIT) is None:
                try:
                    info = await api.info(job.id)
                    if info is None or info.ended:
                        return
                    await api.stop(job.id)
                except ClusterUnavailable:
                    if clock() >= until:
                        raise
                if clock() >= until + self._pace.manifest:
                    # It waits for room. Once it gets some, Ray ends it at once.
                    log.warning("job_still_stopping", job=job.id)
                    return
                await asyncio.sleep(self._pace.poll)

    async def forget(self, job: Job) -> None:
        """End what an earlier job of this id left, and let the next one start."""
        await self.stop(job)
        async with ray_api(self._cluster, self._transport) as api:
            await api.forget(job.id)
        for file in (job.folder / PID, job.folder / EXIT, job.log):
            file.unlink(missing_ok=True)

    async def fetch(self, job: Job, output: Path) -> Path:
        """The folder itself: its storage is shared."""
        if not await asyncio.to_thread(output.is_dir):
            raise TrainingFailed(
                f"The job {job.id!r} has ended, and {str(output)!r} is not here. Is that storage "
                "mounted on the cluster's machines under the same path?"
            )
        return output

    def _submission(self, job: Job) -> dict[str, Any]:
        run = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(marked(job))}"
        body: dict[str, Any] = {
            "entrypoint": f"{run} >> {shlex.quote(str(job.log))} 2>&1",
            "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(round(self._pace.stop))}},
        }
        # A command for the CPU hides the GPUs from itself.
        if self._cluster.gpus and "CUDA_VISIBLE_DEVICES=" not in job.command:
            body["entrypoint_num_gpus"] = self._cluster.gpus
        return body

    async def _look(self, api: RayApi, job: Job) -> tuple[bool, str]:
        """Whether the job is over, and why it may say nothing though it is well."""
        if number_in(job.folder / EXIT) is not None:
            return True, ""
        try:
            info = await api.info(job.id)
        except ClusterUnavailable as exc:
            return False, str(exc)
        if info is None:
            return True, ""
        if info.never_began:
            log.warning("job_waited_too_long", job=job.id, advice="It is submitted again.")
            return True, ""
        if info.ended:
            await self._keep_last_words(job, info)
            return True, ""
        return False, "It waits: the cluster has no room for it yet." if info.waits else ""

    async def _exit_code(self, job: Job) -> int | None:
        """The exit status, which may take a while to come through a network's file system."""
        for _ in range(max(1, round(self._pace.manifest / self._pace.poll))):
            if (code := number_in(job.folder / EXIT)) is not None:
                return code
            await asyncio.sleep(self._pace.poll)
        return None

    async def _keep_last_words(self, job: Job, info: JobInfo) -> None:
        """Keep what Ray says of a job that left no exit status: nobody else knows why."""
        if await self._exit_code(job) is None:
            with suppress(OSError), job.log.open("a", encoding="utf-8") as file:
                file.write(f"Ray says {info.status}: {last_line(info.message or '')}\n")


def open_launcher(settings: Settings) -> Launcher:
    """Where the settings have jobs run."""
    if settings.training.launcher == "ray":
        return RayLauncher(cluster_of(settings))
    return LocalLauncher(settings.training.nice)


def _words(path: Path, start: int) -> list[bytes]:
    """What a log holds from there on; nothing where it is not there yet."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return list(iter(lambda: file.read(_CHUNK), b""))
    except FileNotFoundError:
        return []
