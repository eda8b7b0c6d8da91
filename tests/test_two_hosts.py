"""Engine on one host, model server and trainer on another; the tunnel between them may break."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def lack() -> str:
    """What this machine lacks to be two hosts, "" for nothing."""
    for name in ("ip", "ssh", "ssh-keygen", "/usr/sbin/sshd"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    name = f"solemate-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return "this machine permits no network namespaces" if made.returncode else ""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What the experiment saw."""
    if missing := lack():
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "two_hosts.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(1600)
def test_answers_under_way_when_the_tunnel_breaks_quote_a_passage_and_none_is_lost(
    seen: dict[str, Any],
) -> None:
    assert seen["quoted_in_mid_answer"] >= 1
    assert seen["quoted_in_mid_answer"] + seen["answered_in_time"] == seen["asked"]
    assert seen["stored_once"] == seen["asked"]


def test_a_question_asked_without_the_tunnel_is_answered_with_a_quote(seen: dict[str, Any]) -> None:
    assert seen["while_cut"] == "quoted"


def test_the_model_answers_again_once_the_tunnel_is_back(seen: dict[str, Any]) -> None:
    assert seen["questions_until_the_model_answers_again"] >= 1


def test_a_training_goes_on_while_nobody_can_reach_it(seen: dict[str, Any]) -> None:
    assert seen["training"] == "ended 0"
    assert seen["training_log"] == "training\ntrained\n"
