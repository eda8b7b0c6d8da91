"""A PostgreSQL server of a test's own, which may be killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import stamina

from core.ports import free_port
from tests.conftest import missing

HOST = "127.0.0.1"
# The user that Debian makes for it: a server refuses to run as root.
OWNER = "postgres"


class Cluster:
    """A server on a port of its own; use it as `with running_cluster(…)`."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._port = free_port(HOST)

    @property
    def address(self) -> str:
        return f"postgresql://postgres@{HOST}:{self._port}/postgres"

    @property
    def url(self) -> str:
        """The address as a store takes it."""
        return self.address.replace("postgresql:", "postgresql+psycopg:")

    def make(self, settings: Sequence[str]) -> None:
        """Make its files; `settings` are lines of postgresql.conf."""
        self._run("initdb", "--username=postgres", "--auth=trust", "--no-sync")
        with (self._folder / "postgresql.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in settings)

    def start(self) -> None:
        """Start it, as soon as what was killed has let go of its memory."""
        options = f"-h {HOST} -p {self._port} -k {self._folder}"
        refused = subprocess.CalledProcessError
        for attempt in stamina.retry_context(on=refused, attempts=None, timeout=120):
            with attempt:
                log = self._folder / "server.log"
                self._run("pg_ctl", "--wait", "start", f"--log={log}", f"--options={options}")

    def stop(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "--mode=immediate", "stop")

    def kill_backend(self) -> None:
        """Kill one that serves a client; the server ends all others then, and recovers."""
        backends = (
            "SELECT pid FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        with psycopg.connect(self.address) as connection:
            (pid, *_) = [row[0] for row in connection.execute(backends)]
            os.kill(pid, signal.SIGKILL)

    def kill_postmaster(self) -> None:
        """Kill the server itself with all that belongs to it, and start it again."""
        postmaster = int((self._folder / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        as_owner = ["runuser", "-u", OWNER, "--"] if os.geteuid() == 0 else []
        subprocess.run(
            [*as_owner, self._programs / program, f"--pgdata={self._folder}", *arguments],
            cwd="/",
            check=True,
            # A server keeps what it inherits: a pipe of ours would never end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def server_programs() -> Path | None:
    """The folder of PostgreSQL's own programs, which Debian puts on nobody's path."""
    found = shutil.which("initdb") or max(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None
    )
    return Path(found).parent if found else None


@contextmanager
def running_cluster(*settings: str) -> Iterator[Cluster]:
    """A server with these lines in its postgresql.conf; skips the test where there is none."""
    programs = server_programs()
    if programs is None:
        missing("PostgreSQL's server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="solemate-cluster-"))
    if os.geteuid() == 0:
        shutil.chown(folder, OWNER)
    cluster = Cluster(programs, folder)
    try:
        cluster.make(settings)
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
