"""What LLaMA-Factory says while it trains -> how far it is, and how it is doing."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from core.errors import TrainingFailed

# The trainer's bar alone has no words before it; tokenizing and loading have theirs.
_BAR = re.compile(r"^ *\d+%\|(?:[^|]*\|)? *(\d+)/(\d+) \[[\d:]+<([\d:?]+)")
_LINE = re.compile(r"[\r\n]+")
_FIGURES = re.compile(r"\{.*'loss': .*\}")
_FIGURE = re.compile(r"'([^']+)': '?([^',}]+)")
# Floats are printed with four digits, so that nothing is exactly 0 that was not exactly computed.
_MOST_FIRST_REWARD = 1e-3
# Fewer equal losses may be chance: they are rounded.
_TELLING_LOSSES = 5


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Optimizer steps done, of how many, and the figures logged last, by LLaMA-Factory's names."""

    steps: int
    total: int
    remaining_seconds: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """The loss."""
        return self.figures.get("loss")

    @property
    def accuracy(self) -> float | None:
        """The share of pairs whose chosen answer has the higher reward."""
        return self.figures.get("rewards/accuracies")

    @property
    def margin(self) -> float | None:
        """How much higher the chosen answers' rewards are than the rejected ones'."""
        return self.figures.get("rewards/margins")


class ProgressReader:
    """Reads a log as it grows; the pieces may end anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._now = TrainingProgress(0, 0)

    def feed(self, words: bytes, *, last: bool = False) -> Iterator[TrainingProgress]:
        """What these words say about the progress; `last` where none follow."""
        *lines, self._rest = _LINE.split(self._rest + self._decoder.decode(words, final=last))
        # A bar ends with the next one's beginning, which may be minutes away.
        if last or self._rest.endswith("]"):
            lines.append(self._rest)
            self._rest = ""
        for line in lines:
            if (found := self._read(line)) is not None:
                self._now = found
                yield found

    def _read(self, line: str) -> TrainingProgress | None:
        if bar := _BAR.match(line):
            done, total, left = bar.groups()
            return TrainingProgress(int(done), int(total), _seconds(left), self._now.figures)
        if _FIGURES.match(line):
            now = self._now
            return TrainingProgress(now.steps, now.total, now.remaining_seconds, _figures(line))
        return None


class Watch:
    """Stops a training that cannot come to any good, at the first figures that say so."""

    def __init__(self) -> None:
        self._seen: Mapping[str, float] | None = None

    def check(self, progress: TrainingProgress) -> None:
        """Raise `TrainingFailed` for figures that are no numbers, and for a wrong reference."""
        figures = progress.figures
        if not figures or figures is self._seen:
            return
        for name, value in figures.items():
            # The trainer prints 0 for a loss that is no number; no real one is exactly 0.
            if not math.isfinite(value) or (name == "loss" and value == 0):
                raise TrainingFailed(
                    f"{name} became {value:g} after step {progress.steps}: nothing is learned from "
                    "there on. Lower learning_rate in the recipe, or look at the newest pairs."
                )
        if self._seen is None:
            check_first_reward(figures)
        self._seen = figures


def check_learning(losses: Sequence[float]) -> None:
    """Raise `TrainingFailed` where the loss never moved: the adapter is what it began as."""
    if len(losses) >= _TELLING_LOSSES and len(set(losses)) == 1:
        raise TrainingFailed(
            f"The loss stayed at {losses[0]:g} from the first step to the last: nothing was "
            "learned. Raise learning_rate in the recipe, or look at lora_target."
        )


def check_first_reward(figures: Mapping[str, float]) -> None:
    """Raise `TrainingFailed` unless the first rewards are 0: the model still is its reference.

    LLaMA-Factory's default reference is the bare base model, whatever the adapter starts from
    (hiyouga/LlamaFactory, issue 8459). Stages without rewards have nothing to check.
    """
    first = figures.get("rewards/chosen", 0.0)
    if abs(first) > _MOST_FIRST_REWARD:
        raise TrainingFailed(
            f"The training began with a reward of {first:g} instead of 0: its reference is not the "
            "served model. Look at model_name_or_path and adapter_name_or_path in its recipe."
        )


def _seconds(clock: str) -> float | None:
    """1:02:03 in seconds; None for the bar's question mark."""
    if "?" in clock:
        return None
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def _figures(line: str) -> Mapping[str, float]:
    """The dictionary that the trainer prints: its numbers come as numbers or as texts."""
    found = {}
    for name, value in _FIGURE.findall(line):
        with suppress(ValueError):
            found[name] = float(value)
    return found
