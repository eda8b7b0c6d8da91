"""A command that is told to stop closes what it has opened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Whoever runs the tests in the background, or under nohup, hands ignored signals down.
SCRIPT = """
import asyncio
import signal
import sys
from core.running import run

signal.signal(signal.SIGINT, signal.default_int_handler)

async def work() -> None:
    print("open", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("closing", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print("closed", flush=True)

run(work())
"""


@contextmanager
def started(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does what the script says, and nothing more after this."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def _next_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def _stop(script: str, *signals: signal.Signals) -> tuple[bytes, int]:
    """Send the signals once the work is open; what it says at last, and its status."""
    with started(script) as process:
        for number, said in zip(signals, (b"open\n", b"closing\n"), strict=True):
            assert _next_line(process) == said
            process.send_signal(number)
        said, _ = process.communicate(b"\n")
        return said, process.returncode


WITH_A_CHILD = f"""
import subprocess
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
{SCRIPT}
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_things_are_closed_ends_them_at_once_and_what_was_started(
    first: signal.Signals,
) -> None:
    with started(WITH_A_CHILD) as process:
        child = int(_next_line(process))
        for number, said in ((first, b"open\n"), (signal.SIGINT, b"closing\n")):
            assert _next_line(process) == said
            process.send_signal(number)
        assert process.wait(60) == 128 + signal.SIGINT
        assert process.communicate() == (b"", b"")
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "State:\tZ" in status.read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_lets_everything_be_closed(number: signal.Signals) -> None:
    heeding = f"import signal\nsignal.signal({number:d}, signal.SIG_DFL)\n{SCRIPT}"
    assert _stop(heeding, number, signal.SIGTERM) == (b"closed\n", 128 + number)


def test_what_nohup_ignores_is_ignored() -> None:
    ignoring = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SCRIPT}"
    with started(ignoring) as process:
        assert _next_line(process) == b"open\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(b"\n")
        assert said == b"closing\nclosed\n"
    assert process.returncode == 128 + signal.SIGTERM


CHILD = """
import asyncio, pathlib, sys
from core.running import run

async def work() -> None:
    told = pathlib.Path(sys.argv[1])
    told.write_text("open")
    try:
        await asyncio.Event().wait()
    finally:
        told.write_text("closed")

run(work(), parent=int(sys.argv[2]))
"""
WITH_A_SERVER = """
import os, subprocess, sys
command = [sys.executable, "-c", {child!r}, {told!r}, str(os.getpid())]
subprocess.Popen(command, start_new_session=True)
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_server_closes_when_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with started(WITH_A_SERVER.format(child=CHILD, told=str(told))) as process:
        assert _next_line(process) == b"open\n"
        _until(lambda: told.exists() and told.read_text() == "open")
        process.kill()
        _until(lambda: told.read_text() == "closed")


def _until(reached: Callable[[], bool]) -> None:
    while not reached():
        time.sleep(0.05)
