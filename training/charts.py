"""Pictures of a training and of what it brought: losses, rewards, and bars model by model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import DataError
from training.lineup import LABELS, Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind can tell apart; the hatches do without colour.
_COLOURS: dict[Label, str] = {"base": "#999999", "sft": "#E69F00", "dpo": "#0072B2"}
_HATCHES: dict[Label, str] = {"base": "", "sft": "//", "dpo": ".."}
_NAMES: dict[Label, str] = {"base": "base", "sft": "SFT", "dpo": "DPO"}
_CHOSEN, _REJECTED = "#009E73", "#D55E00"
_COLUMNS = 3
_PANEL_INCHES = (5.2, 3.6)


class _Part(BaseModel):
    # A history tells more than is drawn.
    model_config = ConfigDict(extra="ignore", frozen=True)


class TokenPoint(_Part):
    """The base model's loss after so many tokens."""

    tokens: float
    loss: float


class StepPoint(_Part):
    """A loss after so many steps of SFT."""

    step: float
    loss: float


class RewardPoint(StepPoint):
    """DPO's loss and rewards after so many steps."""

    accuracy: float | None = Field(None, alias="rewards/accuracies")
    margin: float | None = Field(None, alias="rewards/margins")
    chosen: float | None = Field(None, alias="rewards/chosen")
    rejected: float | None = Field(None, alias="rewards/rejected")


class History(_Part):
    """How the shipped models' training went; any part may be missing."""

    base: list[TokenPoint] = []
    sft: list[StepPoint] = []
    dpo: list[RewardPoint] = []


@dataclass(frozen=True, slots=True)
class Bars:
    """Groups of bars, one for each name; in a group a bar for each model. None has no bar."""

    title: str
    unit: str
    names: tuple[str, ...]
    values: Mapping[Label, Sequence[float | None]]


def load_history(path: Path) -> History:
    """Read a history; an empty one where there is no file. Raises `DataError` for a bad one."""
    try:
        return History.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return History()
    except (OSError, UnicodeDecodeError, ValidationError) as exc:
        raise DataError(f"The training history {path} cannot be read: {exc}. Restore it.") from exc


def draw(history: History, bars: Sequence[Bars], path: Path) -> Path:
    """Draw a panel for each part of the history and for each group of bars; the PNG's path."""
    # Seconds to import, and most processes that know of charts never draw one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [*_curves(history), *(_bars_panel(one) for one in bars)]
    columns = max(1, min(_COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(columns * width, rows * height))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.14)
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        panel(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _curves(history: History) -> list[Callable[[Axes], None]]:
    panels: list[Callable[[Axes], None]] = []
    if history.base:
        panels.append(lambda axes: _base_loss(axes, history.base))
    if history.sft:
        panels.append(lambda axes: _loss(axes, "sft", history.sft))
    if history.dpo:
        panels.append(lambda axes: _loss(axes, "dpo", history.dpo))
    if any(point.accuracy is not None for point in history.dpo):
        panels.append(lambda axes: _accuracy(axes, history.dpo))
    if any(point.margin is not None for point in history.dpo):
        panels.append(lambda axes: _rewards(axes, history.dpo))
    return panels


def _base_loss(axes: Axes, points: Sequence[TokenPoint]) -> None:
    axes.plot(
        [point.tokens / 1e6 for point in points],
        [point.loss for point in points],
        color="#555555",
    )
    axes.set(title="Base model: loss", xlabel="million tokens read", ylabel="loss (nats a token)")


def _loss(axes: Axes, label: Label, points: Sequence[StepPoint]) -> None:
    axes.plot(
        [point.step for point in points], [point.loss for point in points], color=_COLOURS[label]
    )
    unit = "loss (nats a token)" if label == "sft" else "loss"
    axes.set(title=f"{_NAMES[label]}: loss", xlabel="step", ylabel=unit)


def _accuracy(axes: Axes, points: Sequence[RewardPoint]) -> None:
    axes.plot(*_series(points, lambda point: point.accuracy), color=_COLOURS["dpo"])
    axes.axhline(0.5, color="#555555", linestyle=":", linewidth=1)
    axes.annotate("chance", (1, 0.5), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set(title="DPO: reward accuracy", xlabel="step", ylabel="share of pairs", ylim=(0, 1.05))


def _rewards(axes: Axes, points: Sequence[RewardPoint]) -> None:
    lines: tuple[tuple[str, str, str, Callable[[RewardPoint], float | None]], ...] = (
        ("margin", _COLOURS["dpo"], "-", lambda point: point.margin),
        ("chosen", _CHOSEN, "--", lambda point: point.chosen),
        ("rejected", _REJECTED, ":", lambda point: point.rejected),
    )
    for name, colour, style, value in lines:
        steps, values = _series(points, value)
        if steps:
            axes.plot(steps, values, label=name, color=colour, linestyle=style)
    axes.axhline(0, color="#555555", linewidth=0.8)
    axes.set(title="DPO: rewards", xlabel="step", ylabel="reward (beta x log ratio)")
    axes.legend(frameon=False)


def _series(
    points: Sequence[RewardPoint], value: Callable[[RewardPoint], float | None]
) -> tuple[list[float], list[float]]:
    """Steps and values of the points that have one."""
    known = [(point.step, found) for point in points if (found := value(point)) is not None]
    return [step for step, _ in known], [found for _, found in known]


def _bars_panel(bars: Bars) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        labels = [label for label in LABELS if label in bars.values]
        width = 0.8 / max(1, len(labels))
        for place, label in enumerate(labels):
            left = (place - (len(labels) - 1) / 2) * width
            known = [(x, value) for x, value in enumerate(bars.values[label]) if value is not None]
            drawn = axes.bar(
                [x + left for x, _ in known],
                [value for _, value in known],
                width=0.92 * width,
                label=_NAMES[label],
                color=_COLOURS[label],
                hatch=_HATCHES[label],
                edgecolor="white",
            )
            axes.bar_label(drawn, fmt="%.0f", padding=1, fontsize=7)
        axes.set_xticks(range(len(bars.names)), bars.names, fontsize=8)
        # Room for the legend above the highest bar.
        axes.set(title=bars.title, ylabel=bars.unit, ylim=(0, 122), yticks=range(0, 101, 20))
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center")

    return panel
