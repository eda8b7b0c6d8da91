"""A command that is told to stop closes what it has opened."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio
import sys
from core.running import run

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


def _stop(script: str, *signals: signal.Signals) -> tuple[bytes, int]:
    """Send the signals once the work is open; what it says at last, and its status."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        first, *others = signals
        process.send_signal(first)
        assert process.stdout.readline() == b"closing\n"
        for number in others:
            process.send_signal(number)
        process.stdin.write(b"\n")
        process.stdin.flush()
        return process.stdout.read(), process.wait()


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
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WITH_A_CHILD]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        for number, said in ((first, b"open\n"), (signal.SIGINT, b"closing\n")):
            assert process.stdout.readline() == said
            process.send_signal(number)
        assert process.wait(60) == 128 + signal.SIGINT
        assert process.communicate() == (b"", b"")
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "State:\tZ" in status.read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_lets_everything_be_closed(number: signal.Signals) -> None:
    # Whoever runs the tests under nohup hands an ignored SIGHUP down.
    usual = "default_int_handler" if number == signal.SIGINT else "SIG_DFL"
    heeding = f"import signal\nsignal.signal({number:d}, signal.{usual})\n{SCRIPT}"
    assert _stop(heeding, number, signal.SIGTERM) == (b"closed\n", 128 + number)


def test_what_nohup_ignores_is_ignored() -> None:
    ignoring = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SCRIPT}"
    with subprocess.Popen(
        [sys.executable, "-c", ignoring], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(b"\n")
        assert said == b"closing\nclosed\n"
    assert process.returncode == 128 + signal.SIGTERM
