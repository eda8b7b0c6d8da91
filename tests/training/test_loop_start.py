"""What starting the loop costs whoever starts it: nothing is loaded before there is work for it."""

from __future__ import annotations

import json
import subprocess
import sys

from core.settings import ROOT

HEAVY = ("torch", "transformers", "matplotlib", "scipy", "sklearn", "nltk", "jieba", "ray")
OPEN = f"""
import asyncio, json, sys, tempfile
from core.settings import load_settings
from core.store import Store
from training.loop import opened_loop

async def main():
    with tempfile.TemporaryDirectory() as folder:
        changes = {{"SOLEMATE__DATABASE__FOLDER": folder}}
        settings = load_settings(environment=changes)
        async with Store(f"sqlite:///{{folder}}/s.db") as store:
            async with opened_loop(settings, store) as loop:
                assert await loop.look(nightly=True) is None

asyncio.run(main())
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


def test_a_loop_that_has_nothing_to_do_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPEN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
