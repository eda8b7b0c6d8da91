"""A trainer that leaves what LLaMA-Factory leaves, at once, or goes wrong in the way it is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.training.run_parts import count_words, pair
from training.dataset import FreezeRules, Frozen, RunStage, freeze_pairs
from training.launchers import Launcher, LocalLauncher
from training.pairs import PreferencePair
from training.progress import TrainingProgress
from training.runs import Run, Runs, RunState
from training.steps import Limits, Release, Steps
from training.train import TrainingPlan

TRAINER = """#!{python}
import json, pathlib, signal, sys, time

import yaml

keys = yaml.safe_load(open(sys.argv[-1]))
how = open({how!r}).read().split()
with open({how!r} + ".asked", "a") as asked:
    asked.write(keys["output_dir"] + "\\n")
output = pathlib.Path(keys["output_dir"])
output.mkdir(parents=True)
figures = {{"loss": 0.69, "grad_norm": 1.0, "rewards/chosen": 0.0, "rewards/accuracies": 0.5,
           "rewards/margins": 0.0}}
if "nan" in how:
    figures["grad_norm"] = float("nan")
if "reference" in how:
    figures["rewards/chosen"] = 3.6
if "endless" in how:
    figures["grad_norm"] = float("inf")
if "zero" in how:
    figures["loss"] = 0.0
if "rewardless" in how:
    figures["rewards/margins"] = float("nan")
def say(step):
    print(str({{name: f"{{value:.4g}}" for name, value in figures.items()}}), flush=True)
    print(f" 10%|#    | {{step}}/4 [00:01<00:03,  1.00s/it]", flush=True)
say(1)
if "hang" in how:
    signal.pause()
if "killed" in how:
    import os
    os.kill(os.getpid(), signal.SIGKILL)
if "fail" in how:
    raise ValueError("the pairs taste bad")
(output / "adapter_config.json").write_text("{{}}")
if "full" in how:
    raise OSError(28, "No space left on device")
(output / "adapter_model.safetensors").write_bytes(b"weights" * 100)
steps = 2 if "partial" in how else 4
history = [dict(figures, step=1), dict(figures, step=steps, loss=0.3)]
if "flat" in how:
    history = [dict(figures, step=step) for step in range(1, 7)]
state = {{"global_step": steps, "max_steps": 4, "log_history": history}}
(output / "trainer_state.json").write_text(json.dumps(state))
print("done", flush=True)
"""


@dataclass(frozen=True)
class Figure:
    """Stands in for a gate's figure."""

    name: str = "held-out pairs"
    value: float | None = 0.8
    limit: str = "≥ 0.6"
    passed: bool | None = True
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """Stands in for a gate's result."""

    verdict: str = "passed"
    figures: tuple[Figure, ...] = (Figure(),)
    strength: float = 1.0


@dataclass
class FakeRelease:
    """A gate, registry and canary that say what they are told, and remember what was asked."""

    verdict: str = "passed"
    figure: Figure = Figure()
    outcome: RunState | None = RunState.PROMOTED
    asked: list[str] = field(default_factory=list)
    problem: Exception | None = None

    def release(self) -> Release:
        return Release(
            self.evaluate,  # type: ignore[arg-type]
            self.register,
            self.start_canary,
            self.judge_canary,
            self.end_abandoned,
        )

    async def evaluate(self, run: Run) -> Verdict:
        self.asked.append("evaluate")
        if self.problem is not None:
            raise self.problem
        return Verdict(self.verdict, (self.figure,))

    async def register(self, run: Run) -> str:
        self.asked.append("register")
        return f"shoes-{run.id}"

    async def start_canary(self, run: Run) -> None:
        self.asked.append(f"canary {run.adapter}")

    async def judge_canary(self, run: Run) -> RunState | None:
        self.asked.append("judge")
        return self.outcome

    async def end_abandoned(self) -> None:
        """There is none."""


@dataclass
class Workshop:
    """Everything that a run needs, in a folder, with the stand-in for a trainer."""

    folder: Path
    runs: Runs
    pool: list[PreferencePair] = field(default_factory=lambda: [pair(n) for n in range(12)])
    fake: FakeRelease = field(default_factory=FakeRelease)
    seen: list[TrainingProgress] = field(default_factory=list)
    limits: Limits = Limits(timeout_seconds=60.0, stall_seconds=60.0, attempts=3)
    clock: Callable[[], float] = lambda: 0.0
    launcher: Callable[[], Launcher] = lambda: LocalLauncher(stop_seconds=1.0)

    def __post_init__(self) -> None:
        self.how = self.folder / "how"
        self.trainer = self.folder / "trainer"
        self.trainer.write_text(TRAINER.format(python=sys.executable, how=str(self.how)))
        self.trainer.chmod(0o755)
        if not self.how.exists():
            self.told("good")

    def told(self, how: str) -> None:
        """What the trainer does from now on."""
        self.how.write_text(how)

    @property
    def trained(self) -> list[str]:
        """The folders of every training that began."""
        asked = Path(f"{self.how}.asked")
        return asked.read_text().splitlines() if asked.exists() else []

    def steps(self, on_progress: Callable[[Run, TrainingProgress], None] | None = None) -> Steps:
        return Steps(
            self.runs,
            self.launcher(),
            self.fake.release(),
            freeze=self.freeze,
            plan=self.plan,
            datasets=self.folder / "datasets",
            limits=self.limits,
            now=lambda: 2000.0,
            clock=self.clock,
            on_progress=on_progress or (lambda run, progress: self.seen.append(progress)),
        )

    async def freeze(self, stage: RunStage, recipe: str) -> Frozen:
        rules = FreezeRules(cutoff_len=500)
        return freeze_pairs(self.pool, (), rules, count_words, self.folder / "datasets")

    def plan(self, run: Run, frozen: Frozen) -> TrainingPlan:
        model = self.folder / "model"
        model.mkdir(exist_ok=True)
        for name in ("config.json", "tokenizer_config.json"):
            (model / name).write_text("{}")
        keys = {
            "stage": "dpo",
            "model_name_or_path": str(model),
            "dataset": "train",
            "dataset_dir": str(frozen.folder),
            "output_dir": str(run.output),
            "use_cpu": True,
        }
        return TrainingPlan("dpo", "embedded", keys, None, run.attempt, str(self.trainer))

    async def begun(self) -> Run:
        """A run at its very beginning."""
        seen = await self.runs.count()
        run = await self.runs.start(
            "dpo", "embedded", why="12 new pairs", who="test", seen=seen, now=1000.0
        )
        assert run is not None
        return run

    async def until(self, *states: RunState, run: Run | None = None) -> Run:
        """Step by step, until the run is in one of these states."""
        run = run or await self.begun()
        steps = self.steps()
        for _ in range(10):
            if run.state in states:
                return run
            run = await steps.advance(run)
        raise AssertionError(f"the run stays {run.state}")


def with_limits(shop: Workshop, **changes: float) -> Workshop:
    """The same with other limits."""
    return replace(shop, limits=replace(shop.limits, **changes))  # type: ignore[arg-type]
