"""A correction, followed to the answers that it teaches and back; and gone from all of it, once
its person is erased."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.audit import audit_of, verify
from core.backup import Place, back_up
from core.lora import WEIGHTS, digest_of
from core.messages import Done, Feedback, Platform, Rating, Reply, UserMessage
from core.opening import open_store
from core.privacy import export
from core.restore import restore
from core.settings import Settings, load_settings
from core.store import Store
from tests.bots.desks import ANSWER, open_engine
from tests.fakes import FakeChatModel
from tests.training.shipped_trainer import SHIPPED, write_trainer
from training.adapters import RETIRE_SECONDS, Adapters, check_whole
from training.collect import PairRules, collect_pairs
from training.commands.person import _erase
from training.dataset import load_frozen, ranking_row
from training.gate import GateFigure, GateResult
from training.lineage import lineage_of
from training.llamafactory import to_yaml
from training.loop import Loop, datasets_folder, open_loop
from training.pair_rules import open_rules
from training.pairs import pair_id, pair_named, read_pairs
from training.runs import Run, RunState
from training.seal import check_seal

ANN, BOB = "web:ann", "web:bob"
PHRASE = "quagga-striped"
TAUGHT = {
    ANN: (
        f"How do I wash my {PHRASE} canvas shoes?",
        f"Wash your {PHRASE} canvas shoes by hand in lukewarm water with mild soap.",
    ),
    BOB: (
        "Where should canvas sneakers dry?",
        "After you wash canvas shoes by hand, dry them in the shade.",
    ),
}


@dataclass
class Shop:
    """A store with its loop, and people who ask and correct."""

    settings: Settings
    store: Store
    rules: PairRules
    loop: Loop
    asked: int = 0

    @property
    def adapters(self) -> Adapters:
        folder = self.settings.state / "adapters"
        return Adapters(self.store, folder, self.settings.model.adapter)

    async def ask(self, person: str) -> Reply:
        """The answer of whoever is live."""
        self.asked += 1
        name, live = f"{person}-{self.asked}", (await self.adapters.route()).live
        engine = open_engine(self.store, FakeChatModel([ANSWER]), live)
        message = UserMessage(name, Platform.WEB, f"chat-{name}", person, TAUGHT[person][0])
        async for event in engine.answer(message):
            if isinstance(event, Done):
                return event.reply
        raise AssertionError("the answer did not end")

    async def correct(self, person: str) -> Reply:
        """The answer that a person did not like, and corrected."""
        reply = await self.ask(person)
        said = TAUGHT[person][1]
        await self.store.add_feedback(Feedback(reply.id, person, Rating.DOWN, correction=said))
        return reply

    async def trained(self) -> Run:
        """A run on what is accepted by now, once its adapter is live."""
        await collect_pairs(self.store, self.rules, time.time())
        run = await self.loop.runs.begin("dpo", "embedded", who="test", now=time.time())
        await self.loop.schedule.see_through(run.id)
        run = await self.loop.runs.get(run.id)
        assert run.state is RunState.PROMOTED, run.problem
        return run


@asynccontextmanager
async def open_shop(settings: Settings) -> AsyncIterator[Shop]:
    async def passes(run: Run) -> GateResult:
        return GateResult((GateFigure("test", 1.0, "= 1", True),))

    async with (
        open_store(settings) as store,
        open_rules(settings, regenerate=False) as rules,
    ):
        yield Shop(settings, store, rules, open_loop(settings, store, rules, passes))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    changes = {
        "DATABASE__FOLDER": str(tmp_path / "state"),
        "DATABASE__URL": f"sqlite:///{tmp_path / 's.db'}",
        "FEEDBACK__REVIEW": "none",
        "FEEDBACK__QUARANTINE_HOURS": "0",
        "TRAINING__PYTHON": str(write_trainer(tmp_path / "trainer")),
        "TRAINING__NICE": "0",
        "TRAINING__CANARY__SHARES": "[]",
    }
    return load_settings(environment={f"SOLEMATE__{name}": it for name, it in changes.items()})


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_verdict_is_followed_to_the_answers_it_teaches_and_back(settings: Settings) -> None:
    async with open_shop(settings) as shop:
        disliked = await shop.correct(ANN)
        await shop.correct(BOB)
        run = await shop.trained()
        turn = await shop.store.turn(disliked.id)
        said = TAUGHT[ANN][1]

        # The verdict is a pair, and the pair is a row: with the prompt as it was sent.
        pair = await pair_named(shop.store, pair_id(disliked.id, ANN, said))
        assert (pair.prompt, pair.chosen, pair.rejected) == (turn.prompt, said, disliked.text)
        frozen = load_frozen(datasets_folder(settings) / run.dataset[:16])
        assert (frozen.manifest.digest, frozen.manifest.items[0].split) == (run.dataset, "train")
        assert pair.id in {item.id for item in frozen.manifest.items}
        rows = (frozen.folder / "train.jsonl").read_text("utf-8").splitlines()
        assert ranking_row(turn.prompt, said, disliked.text) in [json.loads(row) for row in rows]

        # The dataset, the recipe and the weights are the same ones all along.
        adapter = await shop.adapters.get(run.adapter)
        seal = check_seal(run.output, run=run.id, dataset=run.dataset)
        assert adapter.manifest["dataset"] == seal.dataset == run.dataset
        by_state = {row.after: row.detail for row in await audit_of(shop.store, run.id)}
        recipe = sha(to_yaml(adapter.manifest["recipe"]).encode())
        assert by_state["training"]["recipe"] == seal.recipe == recipe
        assert by_state["frozen"]["dataset"] == run.dataset
        weights = sha((SHIPPED / WEIGHTS).read_bytes())
        assert seal.files[WEIGHTS] == weights == sha((adapter.path / WEIGHTS).read_bytes())
        registered, *_ = await audit_of(shop.store, adapter.name)
        assert registered.detail == {"run": run.id, "digest": digest_of(adapter.path)}
        check_whole(adapter)

        # And back, from an answer to everybody's words behind it.
        answer = await shop.ask(ANN)
        assert (await shop.store.turn(answer.id)).reply.adapter == adapter.name
        behind = await shop.adapters.lineage(await shop.adapters.get(answer.adapter))
        assert (behind.run, behind.dataset) == (run.id, run.dataset)
        assert {(one.pair, one.reply, one.person, one.verdict) for one in behind.pairs} >= {
            (pair.id, disliked.id, ANN, "down")
        }
        assert {one.person for one in behind.pairs} == {ANN, BOB}
        (used,) = (await lineage_of(shop.store, pair)).runs
        assert (used.run_id, used.adapter, used.adapter_state) == (run.id, adapter.name, "live")
        assert (await verify(shop.store)).whole


def files_with(phrase: str, folder: Path) -> list[Path]:
    """The files that hold a phrase, whatever they are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if phrase.encode() in path.read_bytes()]


async def test_an_erased_persons_words_are_nowhere_after_a_replay_a_restore_and_the_next_run(
    settings: Settings, tmp_path: Path
) -> None:
    place = Place(settings.database.address, settings.state)
    write_trainer(tmp_path / "trainer", reads=True)
    async with open_shop(settings) as shop:
        await shop.correct(ANN)
        await shop.correct(BOB)
        first = await shop.trained()
    backup = await back_up(place, tmp_path.with_name("backups"))
    assert {path.name for path in files_with(PHRASE, tmp_path)} >= {"s.db", "train.jsonl"}

    erased = await _erase(settings, ANN, "ann")
    assert erased["adapters_flagged"] == first.adapter
    assert files_with(PHRASE, tmp_path) == []
    for restored in (False, True):
        if restored:
            assert (await restore(place, backup.file)).erased_again == 1
            assert files_with(PHRASE, tmp_path) == []
        async with open_shop(settings) as shop:
            # The pool is collected from everybody's verdicts again.
            run = await shop.trained()
            assert len(await shop.loop.runs.pairs_of(run.id)) == 1
            assert {pair.user_id for pair in await read_pairs(shop.store)} == {BOB}
            found = await export(shop.store, ANN)
            assert not any(value for name, value in found.items() if name != "person")
            flagged = await shop.adapters.get(first.adapter)
            assert flagged.flagged_at is not None
            due = flagged.flagged_at + RETIRE_SECONDS
        assert files_with(PHRASE, tmp_path) == []
    async with open_shop(settings) as shop:
        assert await shop.adapters.retire_flagged(now=due) == [first.adapter]
        assert not flagged.path.exists()
        assert (await shop.adapters.route()).live == run.adapter
