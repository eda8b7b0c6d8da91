"""The gate says what it measured beside the limit; what it cannot tell, it does not guess."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from core.settings import load_settings
from tests.core.lora_folders import RANK, edit_config, write_adapter, write_base
from training.gate import Compared, GateFigure, GateResult, Instruments, Passed, Trained, judge
from training.rewards import Rewards

LIMITS = load_settings(environment={}).training.gate
GOOD_REWARDS = Rewards(40, 0.8, 0.5, 0.2, -0.3)
ROWS = frozenset(f"g{number}" for number in range(100))
PROBES = frozenset({"p1", "p2"})
GOOD = Compared(
    asked=30,
    changed=20,
    won=20,
    drawn=15,
    lost=5,
    golden={"live": Passed(ROWS | PROBES, 80.0), "candidate": Passed(ROWS | PROBES, 82.0)},
    refusals=frozenset({"g0", "g1"}),
    probes=PROBES,
    questions=100,
    drift=0.02,
)


@dataclass
class Bench:
    """A finished training in a folder, and instruments that show what they are told."""

    trained: Trained
    rewards: Rewards | None = GOOD_REWARDS
    live: Rewards | None = Rewards(40, 0.7, 0.4, 0.1, -0.3)
    compared: Compared = GOOD
    asked: list[str] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.trained.adapter

    def state(self, **changes: Any) -> None:
        """What the trainer wrote at its end."""
        first = {"step": 1, "loss": 0.6931, "rewards/chosen": 0.0}
        known = {"global_step": 30, "max_steps": 30, "log_history": [first, {"loss": 0.4}]}
        (self.output / "trainer_state.json").write_text(json.dumps(known | changes))

    async def judged(self) -> GateResult:
        async def rewards() -> Rewards | None:
            self.asked.append("rewards")
            return self.rewards

        async def live() -> Rewards | None:
            self.asked.append("live")
            return self.live

        async def compare() -> Compared:
            self.asked.append("compare")
            return self.compared

        return await judge(self.trained, Instruments(rewards, live, compare), LIMITS)

    async def figure(self, name: str) -> GateFigure:
        """The figure of this name."""
        return next(one for one in (await self.judged()).figures if one.name == name)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    base = write_base(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base, 0.1)
    made = Bench(Trained(tmp_path / "adapter", str(base), str(base)))
    made.state()
    return made


async def test_a_good_adapter_passes_and_every_figure_has_its_limit(bench: Bench) -> None:
    found = await bench.judged()
    assert found.verdict == "passed"
    assert [one.name.split()[0] for one in found.figures] == [
        *("G0", "G1", "G1", "G1", "G2", "G3", "G3"),
        *("differs", "G4", "G4", "G8", "G5", "G6", "G7"),
    ]
    assert all(one.limit and one.value is not None for one in found.figures)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"log_history": [{"step": 1, "loss": 1.3, "rewards/chosen": 3.6}]}, "G0 first reward"),
        ({"global_step": 12}, "G1 steps"),
        ({"global_step": 0, "max_steps": 0}, "G1 steps"),
        (
            {"log_history": [{"loss": 0.6, "rewards/chosen": 0.0}, {"loss": float("nan")}]},
            "G1 odd numbers",
        ),
        ({"log_history": [{"rewards/chosen": 0.0, "grad_norm": float("inf")}]}, "G1 odd numbers"),
    ],
)
async def test_a_training_that_went_wrong_is_refused_before_anything_is_loaded(
    bench: Bench, changes: dict[str, Any], name: str
) -> None:
    bench.state(**changes)
    found = await bench.judged()
    assert found.verdict == "failed"
    assert [one.name for one in found.figures if one.passed is False] == [name]
    assert bench.asked == []


async def test_a_training_without_a_state_never_finished(bench: Bench) -> None:
    (bench.output / "trainer_state.json").unlink()
    assert (await bench.judged()).verdict == "failed"


async def test_a_first_step_without_liked_answers_is_judged_by_the_others(bench: Bench) -> None:
    bench.state(log_history=[{"step": 1, "loss": 0.5, "rewards/rejected": 0.0}])
    assert (await bench.figure("G0 first reward")).passed


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def foreign(folder: Path) -> None:
    other = write_base(folder.parent / "other", value=1.0)
    edit_config(folder, base_model_name_or_path=str(other))


def of_nobody_knows_what(folder: Path) -> None:
    edit_config(folder, base_model_name_or_path="somebody/else")


@pytest.mark.parametrize("damage", [pickled, truncated, foreign, of_nobody_knows_what])
async def test_files_that_are_not_right_are_refused_before_anything_is_loaded(
    bench: Bench, damage: Callable[[Path], None]
) -> None:
    damage(bench.output)
    figure = await bench.figure("G1 files")
    assert figure.passed is False
    assert figure.note
    assert bench.asked == []


async def test_a_rank_that_the_server_does_not_take_is_refused(bench: Bench) -> None:
    assert LIMITS.max_rank > RANK
    edit_config(bench.output, r=LIMITS.max_rank + 1)
    assert (await bench.figure("G1 files")).passed is False


@pytest.mark.parametrize(
    ("accuracy", "pairs", "live", "passed"),
    [
        (0.8, 40, 0.7, True),
        (0.8, 40, 0.85, False),
        (0.55, 40, 0.5, False),
        (0.6, 20, 0.5, None),
        (0.6, 100, 0.5, True),
        (1.0, 12, 0.5, None),
    ],
)
async def test_pairs_that_were_held_out_must_be_told_apart_more_surely_than_by_chance(
    bench: Bench, accuracy: float, pairs: int, live: float, passed: bool | None
) -> None:
    bench.rewards = replace(GOOD_REWARDS, reward_accuracy=accuracy, pairs=pairs)
    bench.live = replace(GOOD_REWARDS, reward_accuracy=live)
    assert (await bench.figure("G2 pair accuracy")).passed is passed


async def test_too_few_pairs_ask_for_a_person_and_say_so(bench: Bench) -> None:
    bench.rewards = replace(GOOD_REWARDS, pairs=12)
    found = await bench.judged()
    assert found.verdict == "needs_approval"
    (figure,) = [one for one in found.figures if one.passed is None]
    assert figure.note == f"12 held-out pairs; {LIMITS.min_pairs} are needed to tell"
    assert "live" not in bench.asked


async def test_without_held_out_pairs_a_person_decides(bench: Bench) -> None:
    bench.rewards = None
    bench.compared = replace(GOOD, won=0, drawn=0, lost=0)
    found = await bench.judged()
    assert found.verdict == "needs_approval"
    assert {one.name for one in found.figures if one.passed is None} == {
        "G2 pair accuracy",
        "G5 win rate",
    }


async def test_a_failure_is_not_made_good_by_what_cannot_be_told(bench: Bench) -> None:
    bench.rewards = None
    bench.compared = replace(GOOD, changed=0)
    assert (await bench.judged()).verdict == "failed"


@pytest.mark.parametrize("changes", [{"reward_chosen": -1.2}, {"reward_margin": -0.1}])
async def test_both_answers_must_not_sink_together(bench: Bench, changes: dict[str, float]) -> None:
    bench.rewards = replace(GOOD_REWARDS, **changes)  # type: ignore[arg-type]
    assert (await bench.judged()).verdict == "failed"


def passing(rows: frozenset[str], characters: float | None = 80.0) -> dict[str, Passed]:
    return {**GOOD.golden, "candidate": Passed(rows, characters)}


@pytest.mark.parametrize(
    ("changes", "name", "passed"),
    [
        ({"changed": 0}, "differs from base", False),
        ({"changed": 1}, "differs from base", True),
        ({"golden": passing((ROWS | PROBES) - {"g5"})}, "G4 golden", True),
        ({"golden": passing((ROWS | PROBES) - {"g5", "g6"})}, "G4 golden", False),
        ({"golden": passing((ROWS | PROBES) - {"g0"})}, "G4 lost refusals", False),
        ({"golden": passing(ROWS | {"p1"})}, "G8 probes", False),
        ({"won": 5, "drawn": 15, "lost": 20}, "G5 win rate", False),
        ({"won": 16, "drawn": 9, "lost": 15}, "G5 win rate", None),
        ({"won": 0, "drawn": 40, "lost": 0}, "G5 win rate", True),
        ({"drift": 0.2}, "G6 drift", True),
        ({"drift": 0.4}, "G6 drift", False),
        ({"drift": None}, "G6 drift", None),
        ({"golden": passing(ROWS | PROBES, 100.0)}, "G7 length", False),
        ({"golden": passing(ROWS | PROBES, 60.0)}, "G7 length", False),
        ({"golden": passing(ROWS | PROBES, None)}, "G7 length", None),
    ],
)
async def test_what_it_says_is_compared_with_what_the_live_adapter_says(
    bench: Bench, changes: dict[str, Any], name: str, passed: bool | None
) -> None:
    bench.compared = replace(GOOD, **changes)
    assert (await bench.figure(name)).passed is passed
