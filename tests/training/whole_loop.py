"""A whole solemate in this process, with a model server and a LLaMA-Factory of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core import registry as registry_module
from core.expert import Opened, open_expert
from core.messages import Done, Feedback, Platform, Rating, Reply, UserMessage
from core.ports import free_port
from core.settings import ROOT, Settings, at_root, load_settings
from training import canary as canary_rules
from training import trial
from training.loop import Loop, opened_loop
from training.opening import embedded_server
from training.runs import Run, RunState

HOST = "127.0.0.1"
# A gate as of every day, with few questions, and with figures of a training of a few steps.
FAST = {
    "LOGGING__FILE": "",
    "MODEL__FIRST_TOKEN_SECONDS": "120",
    "MODEL__DEADLINE_SECONDS": "240",
    "MODEL__TEMPERATURE": "0",
    "RETRIEVAL__EMBEDDING_MODEL": "",
    "FEEDBACK__REVIEW": "none",
    "FEEDBACK__QUARANTINE_HOURS": "0",
    "FEEDBACK__REGENERATE": "0",
    "TRAINING__CHECK_MINUTES": "0.02",
    "TRAINING__NICE": "0",
    "TRAINING__REPLAY": "0",
    "TRAINING__MIN_NEW_PAIRS": "4",
    "TRAINING__MIN_POOL": "4",
    "TRAINING__GATE__GOLDEN_ROWS": "4",
    "TRAINING__GATE__GOLDEN_LOSS": "0.5",
    "TRAINING__GATE__LENGTH": "1.0",
    "TRAINING__GATE__DRIFT": "5.0",
    # Half of the people at once; as soon as no harm is seen, the others.
    "TRAINING__CANARY__SHARES": "[0.5]",
    "TRAINING__CANARY__STAGE_HOURS": "0",
    "TRAINING__CANARY__STAGE_RATINGS": "0",
    # Long enough for a busy machine to gather likes in: what is not cleared by then is taken back.
    "TRAINING__CANARY__LIMIT_HOURS": "0.0125",
}


@dataclass
class WholeLoop:
    """Asks, rates and decides, as people and operators do."""

    settings: Settings
    opened: Opened
    loop: Loop
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def ask(self, question: str, person: str) -> Reply:
        """The answer to a question in a conversation of its own."""
        name = f"message-{next(self.numbers)}"
        message = UserMessage(name, Platform.WEB, f"in-{name}", person, question)
        async for event in self.opened.engine.answer(message):
            if isinstance(event, Done):
                return event.reply
        raise AssertionError("the answer did not end")

    async def correct(self, reply: Reply, person: str, correction: str) -> None:
        verdict = Feedback(reply.id, person, Rating.DOWN, correction=correction)
        await self.opened.engine.rate(verdict)

    async def rate(self, reply: Reply, person: str, rating: Rating) -> None:
        await self.opened.engine.rate(Feedback(reply.id, person, rating))

    async def newest_run(self) -> Run | None:
        return next(iter(await self.loop.runs.all()), None)

    async def until(self, state: RunState) -> Run:
        """The newest run, once it is in this state; fails where it ends in another one."""

        async def reached() -> Run | None:
            run = await self.newest_run()
            if run is None or run.state is state:
                return run
            assert not run.ended, (run.state, run.problem, run.figures.get("gate"))
            return None

        return await until(reached)

    async def canary_answers(self) -> None:
        """Wait until the engine sends somebody to a canary that is loaded."""

        async def routed() -> bool:
            registry = self.opened.registry
            return any(
                [await registry.choose(f"fan-{n}") == registry.route.canary for n in range(9)]
            )

        await until(routed)

    async def like_the_canary(self, questions: Sequence[str]) -> Run:
        """Ask as one person after the other, who like what the canary says, until it is live.

        Meanwhile the others get the live adapter, as before. What the canary cannot say without a
        mistake, which differs from processor to processor, gives way to the next question.
        """
        left = deque(questions)
        answered: dict[str, int] = {}
        live, canary = self.opened.registry.route.live, self.opened.registry.route.canary
        while (run := await self.newest_run()) and not run.ended:
            person = f"fan-{next(self.numbers)}"
            reply = await self.ask(left[0], person)
            answered[reply.adapter] = answered.get(reply.adapter, 0) + 1
            if reply.adapter == canary:
                await self.rate(reply, person, Rating.UP)
            elif not reply.adapter:
                left.rotate(-1)
        assert {live, canary} <= set(answered)
        assert run is not None
        return run

    async def answers_with(self, adapter: str) -> None:
        """Wait until the engine sends everybody to this adapter."""

        async def routed() -> bool:
            route = self.opened.registry.route
            return (route.live, route.canary) == (adapter, "") and self.opened.registry.complete

        await until(routed)

    async def command(self, *words: str) -> Any:
        """What a command of the program prints as JSON, run beside this solemate."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "solemate", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        printed, complaint = await child.communicate()
        assert child.returncode == 0, complaint.decode()
        return json.loads(printed) if "--json" in words else printed.decode()


async def until(found: Callable[[], Awaitable[Any]]) -> Any:
    """What this finds, as soon as it finds something."""
    while True:
        if result := await found():
            return result
        await asyncio.sleep(0.1)


def whole_loop_settings(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    """Settings in the environment, so that child processes read the same."""
    named = {
        "DATABASE__FOLDER": str(folder / "state"),
        "DATABASE__URL": f"sqlite:///{folder / 'solemate.db'}",
        "MODEL__BASE_URL": f"http://{HOST}:{free_port(HOST)}/v1",
        "WEB__PORT": str(free_port(HOST)),
    }
    for name, value in (named | FAST | changes).items():
        monkeypatch.setenv(f"SOLEMATE__{name}", value)
    probes = folder / "probes.jsonl"
    lines = at_root(trial.PROBES).read_text("utf-8").splitlines(keepends=True)
    # The orders, which the engine turns away itself: what so small a model says after a few steps
    # differs from processor to processor, and one of two answers is half of this gate.
    probes.write_text("".join(lines[-2:]), "utf-8")
    monkeypatch.setattr(trial, "PROBES", str(probes))
    monkeypatch.setattr(trial, "_USUAL", 2)
    monkeypatch.setattr(trial, "_TAUGHT", 4)
    # Whatever else this machine does meanwhile is no reason to roll anything back.
    monkeypatch.setattr(canary_rules, "_SLOW", 1000.0)
    monkeypatch.setattr(registry_module, "ROUTE_SECONDS", 0.1)
    return load_settings()


@asynccontextmanager
async def whole_loop(settings: Settings) -> AsyncIterator[WholeLoop]:
    async with (
        open_expert(settings, embedded_server) as opened,
        opened_loop(settings, opened.store) as loop,
    ):
        led = asyncio.create_task(loop.schedule.run())
        try:
            yield WholeLoop(settings, opened, loop)
        finally:
            led.cancel()
            await asyncio.gather(led, return_exceptions=True)
