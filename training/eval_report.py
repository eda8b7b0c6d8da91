"""What an evaluation found, for people (tables, a picture) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from training.charts import Bars, History, draw
from training.evaluate import Example, Figures, Measured
from training.golden_eval import Golden, Share
from training.lineup import Label
from training.rewards import Rewards

_NONE = "–"


@dataclass(frozen=True, slots=True)
class Report:
    """Figures by model as JSON, the same as tables, and as bars."""

    models: Mapping[Label, Mapping[str, Any]]
    tables: Sequence[RenderableType]
    bars: Sequence[Bars]

    def save(self, path: Path, history: History) -> None:
        """Write the JSON to `path`, and beside it the picture with the history of the training."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.models, ensure_ascii=False, indent=2), encoding="utf-8")
        draw(history, self.bars, path.with_suffix(".png"))


def sft_report(measured: Sequence[Measured]) -> Report:
    """The figures side by side, by group, and examples."""
    return Report(
        {one.label: one.to_json() for one in measured},
        [_columns(measured, _LINES), _groups(measured), _examples(measured)],
        _bars(measured),
    )


def dpo_report(measured: Sequence[Measured], rewards: Rewards | None) -> Report:
    """The same for the held-out pairs; DPO with its rewards and its length beside SFT's."""
    models = {one.label: one.to_json() for one in measured}
    lengths = {one.label: one.overall.characters for one in measured}
    tables: list[RenderableType] = [_columns(measured, _LINES), _groups(measured)]
    if (long := lengths.get("dpo")) and (short := lengths.get("sft")):
        models["dpo"]["length_ratio"] = long / short
        tables.append(f"DPO's answers are {long / short:.2f} times as long as SFT's.")
    if rewards is not None:
        models.setdefault("dpo", {}).update(asdict(rewards))
        tables.append(_rewards(rewards))
    return Report(models, [*tables, _examples(measured)], _bars(measured))


def golden_report(results: Sequence[Golden], *, failures: bool) -> Report:
    """Pass rates by kind and language, examples, and what failed where that is wanted."""
    failed = map(_failures, results) if failures else ()
    return Report(
        {one.label: one.to_json() for one in results},
        [_shares(results), _columns(results, _GOLDEN_LINES), *failed, _examples(results)],
        [
            Bars(
                "Golden set: passed",
                "%",
                tuple(share.name for share in results[0].kinds),
                {one.label: [100 * share.passed for share in one.kinds] for one in results},
            )
        ]
        if results
        else [],
    )


class _Model(Protocol):
    """What has a column of its own: a model, and some of what it said."""

    @property
    def label(self) -> Label: ...
    @property
    def model(self) -> str: ...
    @property
    def examples(self) -> Sequence[Example]: ...


AnyModel = TypeVar("AnyModel", bound=_Model)
_Lines = Sequence[tuple[str, Callable[[AnyModel], str]]]


def _columns(models: Sequence[AnyModel], lines: _Lines[AnyModel]) -> Table:
    """The models side by side, a figure to a line."""
    table = Table("", *(f"{one.label} ({one.model})" for one in models))
    for name, value in lines:
        table.add_row(name, *(value(one) for one in models))
    return table


def _groups(measured: Sequence[Measured]) -> Table:
    table = Table(
        "group",
        "n",
        "model",
        *(name for name, _ in _GROUP_COLUMNS),
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for rows in zip(*(one.groups for one in measured), strict=True):
        for one, figures in zip(measured, rows, strict=True):
            first = one is measured[0]
            table.add_row(
                figures.group if first else "",
                str(figures.n) if first else "",
                one.label,
                *(value(figures) for _, value in _GROUP_COLUMNS),
                end_section=one is measured[-1],
            )
    return table


def _examples(models: Sequence[_Model]) -> Table:
    table = Table("question", *(one.label for one in models), show_lines=True)
    for rows in zip(*(one.examples for one in models), strict=True):
        table.add_row(escape(rows[0].question), *(escape(row.answer) for row in rows))
    return table


def _rewards(rewards: Rewards) -> Table:
    table = Table("pairs", "reward accuracy", "margin", "chosen", "rejected")
    table.add_row(
        str(rewards.pairs),
        _percent(rewards.reward_accuracy),
        *(
            f"{value:.3f}"
            for value in (rewards.reward_margin, rewards.reward_chosen, rewards.reward_rejected)
        ),
    )
    return table


def _shares(results: Sequence[Golden]) -> Table:
    heads = (head for one in results for head in (f"{one.label}: passed", "by the model"))
    table = Table("", "n", *heads)
    parts: tuple[Callable[[Golden], Sequence[Share]], ...] = (
        lambda one: [one.overall],
        lambda one: one.kinds,
        lambda one: one.languages,
    )
    for part in parts:
        for shares in zip(*map(part, results), strict=True):
            cells = (_percent(value) for one in shares for value in (one.passed, one.by_model))
            table.add_row(shares[0].name, str(shares[0].n), *cells)
        table.add_section()
    return table


def _failures(result: Golden) -> Table:
    table = Table(
        *("id", "kind", "question", "outcome", "answer", "what is wrong"),
        title=f"{result.label}: {len(result.failures)} failed",
        show_lines=True,
    )
    for one in result.failures:
        cells = (one.id, one.kind, one.question, one.outcome, one.answer, "; ".join(one.problems))
        table.add_row(*map(escape, cells))
    return table


def _bars(measured: Sequence[Measured]) -> list[Bars]:
    """Text figures from 0 to 100, and shares in per cent; what no model has is not drawn."""
    return [
        *_drawn("Answers against references", "0 to 100", _TEXT_BARS, measured),
        *_drawn("What the answers are", "% of the answers", _SHARE_BARS, measured),
    ]


_Value = Callable[[Figures], float | None]


def _drawn(
    title: str, unit: str, lines: Sequence[tuple[str, _Value]], measured: Sequence[Measured]
) -> Iterator[Bars]:
    there = [
        (name, value)
        for name, value in lines
        if any(value(one.overall) is not None for one in measured)
    ]
    if there:
        yield Bars(
            title,
            unit,
            tuple(name for name, _ in there),
            {one.label: [value(one.overall) for _, value in there] for one in measured},
        )


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _refused(one: Figures) -> float | None:
    return one.refused_rightly if one.refused_wrongly is None else one.refused_wrongly


_LINES: tuple[tuple[str, Callable[[Measured], str]], ...] = (
    ("answers", lambda one: str(one.overall.n)),
    ("BLEU-4", lambda one: _number(one.overall.bleu_4)),
    ("ROUGE-L", lambda one: _number(one.overall.rouge_l)),
    ("facts kept", lambda one: _percent(one.overall.facts_kept)),
    ("right passage quoted", lambda one: _percent(one.overall.right)),
    ("invented something", lambda one: _percent(one.overall.invented)),
    ("… after the engine's guard", lambda one: _percent(one.overall.after_guard)),
    ("a passage shown in its place", lambda one: _percent(one.overall.quoted)),
    ("refused rightly", lambda one: _percent(one.overall.refused_rightly)),
    ("refused wrongly", lambda one: _percent(one.overall.refused_wrongly)),
    ("goes round in circles", lambda one: _percent(one.overall.looping)),
    ("spoken", lambda one: _percent(one.overall.spoken)),
    ("characters", lambda one: _number(one.overall.characters)),
    ("answers a second", lambda one: _number(one.speed.answers_per_second)),
    ("tokens a second", lambda one: _number(one.speed.tokens_per_second)),
    ("first token, ms", lambda one: f"{one.speed.first_token_ms:.0f}"),
)
_GOLDEN_LINES: tuple[tuple[str, Callable[[Golden], str]], ...] = (
    ("BLEU-4", lambda one: _number(one.bleu_4)),
    ("ROUGE-L", lambda one: _number(one.rouge_l)),
    ("characters of the model's own", lambda one: _number(one.characters)),
    ("answers a second", lambda one: _number(one.speed.answers_per_second)),
    ("first token, ms", lambda one: f"{one.speed.first_token_ms:.0f}"),
)
_GROUP_COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("BLEU-4", lambda one: _number(one.bleu_4)),
    ("right", lambda one: _percent(one.right)),
    ("refused", lambda one: _percent(_refused(one))),
    ("invented", lambda one: _percent(one.invented)),
    ("passage\nshown", lambda one: _percent(one.quoted)),
    ("spoken", lambda one: _percent(one.spoken)),
)
_TEXT_BARS: tuple[tuple[str, _Value], ...] = (
    ("BLEU-4", lambda one: one.bleu_4),
    ("ROUGE-L", lambda one: one.rouge_l),
    ("facts kept", lambda one: _hundred(one.facts_kept)),
    ("right", lambda one: _hundred(one.right)),
)
_SHARE_BARS: tuple[tuple[str, _Value], ...] = (
    ("invented", lambda one: _hundred(one.invented)),
    ("passage\nshown", lambda one: _hundred(one.quoted)),
    ("refused\nrightly", lambda one: _hundred(one.refused_rightly)),
    ("refused\nwrongly", lambda one: _hundred(one.refused_wrongly)),
    ("spoken", lambda one: _hundred(one.spoken)),
)
