"""A command that is told to stop closes what it has opened."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import asyncio
from core.running import run

async def work() -> None:
    print("open", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("closed", flush=True)

run(work())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_lets_everything_be_closed(number: signal.Signals) -> None:
    # Whoever runs the tests under nohup hands an ignored SIGHUP down.
    heeding = f"import signal\nsignal.signal({number:d}, signal.SIG_DFL)\n{SCRIPT}"
    with subprocess.Popen([sys.executable, "-c", heeding], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        process.send_signal(number)
        process.send_signal(number)
        assert process.stdout.read() == b"closed\n"
    assert process.returncode == 128 + number


def test_what_nohup_ignores_is_ignored() -> None:
    ignoring = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SCRIPT}"
    with subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"closed\n"
    assert process.returncode == 128 + signal.SIGTERM
