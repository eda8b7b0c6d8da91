"""How far a training is, and whether it can come to any good, is read from its own words."""

from __future__ import annotations

import math
import random

import pytest

from core.errors import TrainingFailed
from training.progress import (
    ProgressReader,
    TrainingProgress,
    Watch,
    check_first_reward,
    check_learning,
)

LOG = (
    b"Loading weights: 100%|##########| 47/47 [00:01<00:00, 30.1it/s]\n"
    b"  0%|          | 0/60 [00:00<?, ?it/s]\r"
    b"  2%|2         | 1/60 [00:02<01:58,  2.01s/it]\r          \r"
    b"{'loss': '0.6931', 'grad_norm': '2.5', 'rewards/chosen': '0', 'rewards/accuracies': '0.5', "
    b"'rewards/margins': '0', 'epoch': '0.02'}\n"
    b"  2%|2         | 1/60 [00:02<01:58,  2.01s/it]\r"
    b" 50%|#####     | 30/60 [01:00<01:00,  2.00s/it]\r          \r"
    b"{'loss': 0.31, 'grad_norm': 1.5, 'rewards/chosen': 0.4, 'rewards/accuracies': 0.875, "
    b"'rewards/margins': 0.75, 'epoch': 0.5}\n"
    b" 50%|#####     | 30/60 [01:00<01:00,  2.00s/it]"
)


def read(log: bytes, size: int) -> list[TrainingProgress]:
    reader = ProgressReader()
    found = [
        progress
        for start in range(0, len(log), size)
        for progress in reader.feed(log[start : start + size])
    ]
    return found + list(reader.feed(b"", last=True))


def training(**figures: float) -> TrainingProgress:
    return TrainingProgress(3, 60, None, {"loss": 0.5, **figures})


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_steps_loss_margin_and_time_left_are_read_however_the_log_is_cut(size: int) -> None:
    found = read(LOG, size)
    assert found[0] == TrainingProgress(0, 60)
    assert found[1] == TrainingProgress(1, 60, 118.0)
    last = found[-1]
    assert (last.steps, last.total, last.remaining_seconds) == (30, 60, 60.0)
    assert (last.loss, last.accuracy, last.margin) == (0.31, 0.875, 0.75)


def test_a_bar_is_told_before_the_next_one_comes() -> None:
    reader = ProgressReader()
    assert list(reader.feed(b"\r 50%|#    | 1/2 [00:01<00:01,  1.00s/it]")) == [
        TrainingProgress(1, 2, 1.0)
    ]


@pytest.mark.parametrize("printed", ["nan", "'nan'", "inf", "'-inf'", "0.0", "'0'"])
def test_a_loss_that_is_no_number_stops_the_training(printed: str) -> None:
    line = f"{{'loss': {printed}, 'grad_norm': 1.0, 'epoch': 0.1}}\n".encode()
    (progress,) = read(line, 4096)
    with pytest.raises(TrainingFailed, match="loss became"):
        Watch().check(progress)


def test_a_gradient_that_is_no_number_stops_the_training() -> None:
    with pytest.raises(TrainingFailed, match="grad_norm became nan"):
        Watch().check(training(grad_norm=float("nan")))


@pytest.mark.parametrize("name", ["grad_norm", "rewards/chosen", "rewards/margins", "logps/chosen"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_figure_may_be_no_number(name: str, value: float) -> None:
    with pytest.raises(TrainingFailed, match=f"{name} became"):
        Watch().check(training(**{"rewards/chosen": 0.0, name: value}))


def test_a_loss_that_never_moves_teaches_nothing() -> None:
    with pytest.raises(TrainingFailed, match="nothing was learned"):
        check_learning([0.6931] * 5)
    check_learning([0.6931] * 4 + [0.6930])
    check_learning([0.6931] * 4)


def healthy_log(seed: int) -> bytes:
    """What a training that goes well prints: DPO, KTO or SFT, of any length and speed."""
    dice = random.Random(seed)
    stage, steps = ("dpo", "kto", "sft")[seed % 3], dice.randrange(6, 200)
    lines = []
    for step in range(1, steps + 1):
        done = step / steps
        figures = {
            "loss": dice.uniform(0.9, 1.1) * (0.7 * math.exp(-5 * done) + 1e-4),
            # One odd batch has a gradient fifty times the usual.
            "grad_norm": dice.lognormvariate(0.0, 1.0) * (50 if step == 3 else 1),
            "learning_rate": 1e-3 * (1 - done),
        }
        if stage != "sft":
            reward = 0.0 if step == 1 else dice.gauss(2 * done, 1.0)
            # KTO's batches may hold nothing that was liked, or nothing that was not.
            named = (
                ["chosen", "rejected"] if stage == "dpo" else [dice.choice(["chosen", "rejected"])]
            )
            figures |= {f"rewards/{name}": reward for name in named}
            figures |= {"rewards/accuracies": float(step > 1), "rewards/margins": abs(reward)}
        printed = {name: f"{value:.4g}" for name, value in figures.items()}
        bar = f"{100 * step // steps:3}%|#  | {step}/{steps} [00:0{step % 10}<00:03,  1.00s/it]"
        lines.append(f"{printed}\n{bar}\r")
    return "".join(lines).encode()


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_training_is_never_stopped(seed: int) -> None:
    watch = Watch()
    found = read(healthy_log(seed), 64)
    for progress in found:
        watch.check(progress)
    check_learning([progress.loss for progress in found if progress.loss])
    assert found[-1].steps == found[-1].total
    assert found[-1].loss is not None


def test_rewards_that_do_not_begin_at_zero_stop_the_training() -> None:
    with pytest.raises(TrainingFailed, match="3.6 instead of 0"):
        Watch().check(training(**{"rewards/chosen": 3.6}))


def test_later_rewards_may_be_what_they_are() -> None:
    watch = Watch()
    watch.check(training(**{"rewards/chosen": 0.0}))
    watch.check(training(**{"rewards/chosen": 3.6}))


def test_a_stage_without_rewards_has_none_to_check() -> None:
    check_first_reward({"loss": 2.0})
