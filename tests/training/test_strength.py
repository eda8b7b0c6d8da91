"""What forgets as it was trained is judged at other strengths, and served at one it passes at."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from core.errors import AdapterRejected
from core.lora import WEIGHTS, LoraConfig, check_adapter
from core.messages import Adapter
from core.settings import load_settings
from core.store import Store
from tests.core.lora_folders import write_adapter, write_base
from tests.training.test_gate import GOOD, GOOD_REWARDS, PROBES, ROWS
from training.gate import Instruments, Passed, Trained, judge_strengths
from training.rewards import Rewards
from training.runs import Run, Runs
from training.seal import check_seal, put_seal
from training.strength import at_strength
from training.trial import Trial, Trials

LIMITS = load_settings(environment={}).training.gate.model_copy(update={"strengths": [1.25, 1.5]})
FINISHED = {
    "global_step": 30,
    "max_steps": 30,
    "log_history": [{"step": 1, "loss": 0.69, "rewards/chosen": 0.0}],
}


@pytest.fixture
async def run(tmp_path: Path) -> Run:
    """A run that has trained an adapter, which is sealed."""
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as store:
        begun = await Runs(store, tmp_path / "runs").start(
            "dpo", "embedded", why="test", who="test", seen=0, now=1.0
        )
    assert begun is not None
    made = replace(begun, dataset="d", attempts=1)
    made.attempt.mkdir(parents=True)
    base = write_base(tmp_path / "base")
    write_adapter(made.output, base, 0.1)
    (made.output / "trainer_state.json").write_text(json.dumps(FINISHED))
    put_seal(made.output, run=made.id, attempt=1, dataset="d", base=str(base), recipe="r")
    return made


def config_of(run: Run) -> LoraConfig:
    base = str(run.folder.parent.parent / "base")
    return check_adapter(Adapter("x", run.candidate, base))


def test_another_strength_is_another_folder_with_the_same_weights(run: Run) -> None:
    tried = at_strength(run, 1.25)
    assert tried.candidate != tried.output == run.candidate
    assert config_of(tried).scale == 1.25 * config_of(run).scale
    assert (tried.candidate / WEIGHTS).read_bytes() == (run.output / WEIGHTS).read_bytes()
    seals = [check_seal(one.candidate, run=run.id, dataset="d") for one in (run, tried)]
    assert [seal.model_dump(exclude={"files"}) for seal in seals] == [
        seals[0].model_dump(exclude={"files"})
    ] * 2


def test_what_a_crash_left_half_made_is_made_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("disk")

    with monkeypatch.context() as patched:
        patched.setattr("training.strength.put_seal", full)
        with pytest.raises(OSError, match="disk"):
            at_strength(run, 1.25)
    assert sorted(path.name for path in run.attempt.iterdir()) == ["adapter"]
    first, second = at_strength(run, 1.25), at_strength(run, 1.25)
    assert config_of(first) == config_of(second)


def test_what_was_changed_since_its_training_is_made_no_stronger(run: Run) -> None:
    (run.output / WEIGHTS).write_bytes(b"another")
    with pytest.raises(AdapterRejected, match="not the file that was trained"):
        at_strength(run, 1.25)


@dataclass
class Shop:
    """Stands in for the trials: how many golden rows an adapter passes depends on its strength."""

    golden: dict[float, int]
    rewards: Rewards = GOOD_REWARDS
    asked: list[float] = field(default_factory=list)

    async def of(self, run: Run) -> Trial:
        strength = run.figures["strength"]
        self.asked.append(strength)
        passed = frozenset(sorted(ROWS)[: self.golden[strength]]) | PROBES
        golden = {**GOOD.golden, "candidate": Passed(passed, 80.0)}

        async def rewards() -> Rewards:
            return self.rewards

        async def compare() -> Any:
            return replace(GOOD, golden=golden, refusals=frozenset())

        seal = await asyncio.to_thread(check_seal, run.candidate, run=run.id, dataset="d")
        return Trial(
            Trained(run.candidate, seal.base, seal.base), Instruments(rewards, rewards, compare)
        )


@pytest.mark.parametrize(
    ("golden", "asked", "verdict"),
    [
        ({1.0: 99}, [1.0], "passed"),
        ({1.0: 95, 1.25: 99}, [1.0, 1.25], "passed"),
        ({1.0: 95, 1.25: 98, 1.5: 100}, [1.0, 1.25, 1.5], "passed"),
        ({1.0: 95, 1.25: 96, 1.5: 97}, [1.0, 1.25, 1.5], "failed"),
    ],
)
async def test_the_first_strength_that_forgets_nothing_is_taken(
    run: Run, golden: dict[float, int], asked: list[float], verdict: str
) -> None:
    shop = Shop(golden)
    found = await judge_strengths(run, cast(Trials, shop), LIMITS)
    assert (shop.asked, found.verdict, found.strength) == (asked, verdict, asked[-1])
    told = [figure for figure in found.figures if figure.name == "strength"]
    assert len(told) == (len(asked) > 1)
    assert all(figure.note.startswith("failed at 1: G4 golden 0.95") for figure in told)


async def test_what_fails_otherwise_is_refused_as_it_is(run: Run) -> None:
    shop = Shop({1.0: 95}, replace(GOOD_REWARDS, reward_margin=-1.0))
    found = await judge_strengths(run, cast(Trials, shop), LIMITS)
    assert (shop.asked, found.verdict) == ([1.0], "failed")


async def test_no_other_strength_is_tried_where_none_is_wanted(run: Run) -> None:
    limits = LIMITS.model_copy(update={"strengths": []})
    found = await judge_strengths(run, cast(Trials, Shop({1.0: 95})), limits)
    assert found.verdict == "failed"
    assert all(figure.name != "strength" for figure in found.figures)
