"""Whoever is killed at whatever moment of a run: one adapter answers, it is whole, and nothing is
left behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from core import registry as registry_module
from core.audit import verify
from core.errors import AdapterRejected
from core.openai_model import OpenAIChatModel
from core.opening import open_store
from core.registry import Registry, live_adapter
from core.settings import ROOT, Settings, load_settings
from core.store import Store
from core.tables import adapters as adapters_table
from tests.training.killed_loop import jobs_in
from tests.training.people import People
from tests.training.run_parts import insert_pairs, pair
from tests.training.shipped_trainer import EXPERT, SHIPPED, write_trainer
from training.adapters import Adapters, NewAdapter, Registered, check_whole
from training.loop import operators_runs
from training.pairs import Origin
from training.runs import RunState
from training.servers.embedded import ServerOptions, running

pytestmark = pytest.mark.long


@dataclass
class Killed:
    """The process with the loop, and what it leaves."""

    settings: Settings
    store: Store
    stack: ExitStack
    process: subprocess.Popen[str] | None = None

    async def order(self, what: str, whom: str = "runner", at: int = 0) -> tuple[int, int]:
        """Have something done; its exit status, and how many points were passed."""
        if self.process is None:
            self.process = self.stack.enter_context(_process())
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {whom} {at}\n")
        self.process.stdin.flush()
        while len(said := (await asyncio.to_thread(self.process.stdout.readline)).split()) != 2:
            assert said, "it is gone"
        return int(said[0]), int(said[1])

    @property
    def adapters(self) -> Adapters:
        model = self.settings.model
        return Adapters(self.store, self.settings.state / "adapters", model.adapter)

    async def check(self) -> None:
        """One adapter is live, and it is whole; so is the audit."""
        route = await self.adapters.route()
        query = sa.select(adapters_table.c.name).where(adapters_table.c.state == "live")
        live = await self.store.run(lambda connection: connection.execute(query).scalars().all())
        default = self.settings.model.adapter
        assert [name for name in live if name != default] == (
            [route.live] if route.live != default else []
        )
        if route.live != default:
            check_whole(await self.adapters.get(route.live))
        assert (await verify(self.store)).whole


@pytest.fixture
async def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Killed]:
    async with killed_loop(tmp_path, monkeypatch) as made:
        yield made


@asynccontextmanager
async def killed_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Killed]:
    trainer = write_trainer(tmp_path / "trainer")
    for name, value in {
        "DATABASE__FOLDER": str(tmp_path / "state"),
        "DATABASE__URL": f"sqlite:///{tmp_path / 's.db'}",
        "LOGGING__FILE": "",
        "FEEDBACK__QUARANTINE_HOURS": "0",
        "TRAINING__PYTHON": str(trainer),
        "TRAINING__AUTOMATIC": "false",
        "TRAINING__ATTEMPTS": "10",
        "TRAINING__CANARY__SHARES": "[]",
    }.items():
        monkeypatch.setenv(f"SOLEMATE__{name}", value)
    settings = load_settings()
    settings.state.mkdir(parents=True)
    async with open_store(settings, exclusive=False) as store:
        with ExitStack() as stack:
            yield Killed(settings, store, stack)


def _process() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.killed_loop"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


# --- a run ---


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.nightly)])
@pytest.mark.timeout(3600)
async def test_whoever_is_killed_a_run_comes_to_its_end_once(killed: Killed, kills: int) -> None:
    runs = operators_runs(killed.settings, killed.store)
    found = [pair(number, origin=Origin.IMPORTED) for number in range(12)]
    await killed.store.run(lambda connection: insert_pairs(connection, *found))
    await runs.begin("dpo", "embedded", who="test", now=time.time())
    _, points = await killed.order("lead")
    for number in range(kills):
        whom = ("both", "runner", "trainer")[number % 3]
        before = (await killed.adapters.route()).live
        run = await runs.begin("dpo", "embedded", who="test", now=time.time())
        at = 1 + (2 * number + 1) * points // (2 * kills)
        status, _ = await killed.order("lead", whom, at)
        await killed.check()
        run = await runs.get(run.id)
        if whom == "trainer":
            assert status == 0
        else:
            assert status == -signal.SIGKILL
            # What is not registered answers nobody; what is, is whole.
            registered = [one.name for one in await killed.adapters.all() if one.run_id == run.id]
            assert (await killed.adapters.route()).live in {before, *registered}
            assert (await killed.order("lead"))[0] == 0
        run = await runs.get(run.id)
        assert (run.state, run.problem) == (RunState.PROMOTED, "")
        assert (await killed.adapters.route()).live == run.adapter
        assert len([one for one in await killed.adapters.all() if one.run_id == run.id]) == 1
        assert len(await runs.pairs_of(run.id)) == 12
        assert jobs_in(killed.settings.state) == []
        await killed.check()


async def test_the_control_an_adapter_that_is_routed_before_it_is_copied_is_noticed(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.adapters._copy", lambda output, registered: None)
    made = await registered(killed.adapters, 1)
    await killed.adapters.promote(made.name, who="test", now=1.0)
    with pytest.raises(AdapterRejected):
        await killed.check()


# --- a promotion ---


async def registered(adapters: Adapters, number: int) -> Registered:
    new = NewAdapter(f"dpo-{number}", SHIPPED, str(EXPERT), "", {})
    return await adapters.register(new, who="test", now=float(number))


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.nightly)])
@pytest.mark.timeout(3600)
async def test_wherever_a_promotion_is_killed_one_adapter_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    monkeypatch.setattr(registry_module, "ROUTE_SECONDS", 0.1)
    server = ServerOptions(EXPERT, "solemate", "127.0.0.1", 0)
    async with running(server) as url:
        monkeypatch.setenv("SOLEMATE__MODEL__BASE_URL", url)
        async with (
            killed_loop(tmp_path, monkeypatch) as killed,
            OpenAIChatModel(
                url, "", base_model="solemate", first_token_seconds=60, deadline_seconds=120
            ) as model,
        ):
            names = [(await registered(killed.adapters, number)).name for number in (1, 2)]
            live = live_adapter(killed.settings.model)
            registry = Registry(model, "solemate", live, store=killed.store, key=b"key")
            people = People(registry, model)
            status, points = await killed.order(names[0])
            assert status == 0
            async with registry.reconciling():
                asking = asyncio.create_task(_ask_on(people))
                for number in range(kills):
                    before, wanted = names[number % 2], names[1 - number % 2]
                    at = 1 + (number * points // min(kills, points)) % points
                    status, _ = await killed.order(wanted, "runner", at)
                    assert status == -signal.SIGKILL
                    await killed.check()
                    assert (await killed.adapters.route()).live in (before, wanted)
                    assert await people.ask("anna", tokens=2) in names
                    # The operator tries again.
                    assert (await killed.order(wanted))[0] == 0
                    await people.ask_until("anna", wanted)
                    assert not asking.done()
                asking.cancel()
    assert set(people.answered) <= {*names, killed.settings.model.adapter}


async def _ask_on(people: People) -> None:
    """Ask without a pause; ends with the first answer that fails."""
    while True:
        await people.ask("bea", tokens=2)
