"""`solemate models build`: every step from `data/` to the model that is served, resumable.

tokenizer -> base (from nothing) -> SFT rows -> LoRA by LLaMA-Factory -> merged, served model. A
step whose inputs have not changed since it was finished is not done again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
import torch

from core.prompt import SYSTEM
from training import phrases
from training.corpus import Corpus
from training.llamafactory import (
    TrainingProgress,
    Value,
    recipe,
    run_llamafactory,
    write_dataset_info,
)
from training.material import Material, load_material
from training.pretrain import PretrainPlan, Shape, Step, new_model, pretrain
from training.sft_rows import make_rows, write_rows
from training.tokenizer import load_tokenizer, make_tokenizer, save_tokenizer

log = structlog.get_logger()

# What decides the result besides `data/`: a change of any of these files makes the step stale.
_CODE = Path(__file__).parent
_INPUTS: dict[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer.py",),
    "base": ("corpus.py", "phrases.py", "pretrain.py", "induction.py", "guidance.py"),
    "rows": ("sft_rows.py", "corpus.py", "phrases.py"),
    "sft": ("recipes/sft.yaml",),
    "export": ("recipes/export.yaml",),
}


class Progress(Protocol):
    """Someone who watches: `done` of `total` units of `step`, and a word on how it goes."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Where things are and how much is done; `work` keeps what a resumed build needs."""

    data: Path
    work: Path
    shape: Shape = field(default_factory=Shape)
    pretraining: PretrainPlan = field(default_factory=PretrainPlan)
    sft_changes: dict[str, Value] = field(default_factory=dict)
    seed: int = 17
    repeats: int = 2
    threads: int = 2

    @property
    def rows(self) -> Path:
        """The SFT rows."""
        return self.data / "shoes.jsonl"

    @property
    def base(self) -> Path:
        """The base model, as shipped."""
        return self.data / "embedded" / "base"

    @property
    def expert(self) -> Path:
        """The served model, as shipped."""
        return self.data / "embedded" / "expert"


class Trainer(Protocol):
    """LLaMA-Factory, or what stands in for it: runs `command` with these keys, logs to `folder`."""

    def __call__(
        self,
        command: str,
        keys: Mapping[str, Value],
        folder: Path,
        on_progress: Callable[[TrainingProgress], None] = ...,
        threads: int = ...,
    ) -> Awaitable[Path]: ...


async def build_models(
    plan: BuildPlan, on_progress: Progress, train: Trainer = run_llamafactory
) -> Path:
    """Make every model that `data/` and the code call for; the folder of the served one.

    A build that was interrupted goes on where it was. Raises `DataError` for bad data and
    `TrainingFailed`, naming the log, when LLaMA-Factory ends badly.
    """
    material = load_material(plan.data)
    steps: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = (
        ("tokenizer", lambda: asyncio.to_thread(_tokenizer, plan, material)),
        ("base", lambda: asyncio.to_thread(_base, plan, material, on_progress)),
        ("rows", lambda: asyncio.to_thread(_rows, plan, material)),
        ("sft", lambda: _sft(plan, on_progress, train)),
        ("export", lambda: _export(plan, train)),
    )
    state = _State(plan.work / "build.json")
    before = _digest_of_data(plan)
    for name, make in steps:
        before = _digest(before + _settings(plan, name), *(_CODE / part for part in _INPUTS[name]))
        if state.done(name) == before:
            log.info("build.kept", step=name)
        else:
            log.info("build.started", step=name)
            await make()
            state.finish(name, before)
        on_progress(name, 1, 1)
    return plan.expert


def _tokenizer(plan: BuildPlan, material: Material) -> None:
    save_tokenizer(make_tokenizer(_texts(material)), plan.work / "tokenizer")


def _base(plan: BuildPlan, material: Material, on_progress: Progress) -> None:
    def watch(step: Step) -> None:
        on_progress("base", step.tokens, step.total, f"loss {step.loss:.2f}")

    torch.set_num_threads(plan.threads)
    tokenizer = load_tokenizer(plan.work / "tokenizer")
    model = new_model(tokenizer, plan.shape, plan.pretraining.seed)
    pretrain(model, tokenizer, Corpus(material), plan.pretraining, plan.work / "base", watch)
    _replace(plan.work / "base", plan.base)


def _rows(plan: BuildPlan, material: Material) -> None:
    write_rows(make_rows(Corpus(material), plan.seed, plan.repeats), plan.rows)


async def _sft(plan: BuildPlan, on_progress: Progress, train: Trainer) -> None:
    def watch(progress: TrainingProgress) -> None:
        on_progress("sft", progress.steps, progress.total)

    dataset = plan.work / "dataset"
    write_dataset_info(dataset, "shoes", str(plan.rows.resolve()))
    keys = recipe(
        "sft",
        {
            "model_name_or_path": str(plan.base.resolve()),
            "dataset": "shoes",
            "dataset_dir": str(dataset.resolve()),
            "output_dir": str((plan.work / "sft").resolve()),
            **plan.sft_changes,
        },
    )
    await train("train", keys, plan.work / "sft-run", watch, plan.threads)


async def _export(plan: BuildPlan, train: Trainer) -> None:
    merged = plan.work / "merged"
    keys = recipe(
        "export",
        {
            "model_name_or_path": str(plan.base.resolve()),
            "adapter_name_or_path": str((plan.work / "sft").resolve()),
            "export_dir": str(merged.resolve()),
        },
    )
    await train("export", keys, plan.work / "export-run", threads=plan.threads)
    load_tokenizer(plan.base).save_pretrained(merged)
    _replace(merged, plan.expert)


def _texts(material: Material) -> list[str]:
    """What the tokenizer learns its words from: everything that training shows, in order."""
    texts = [f"{entry.title}\n{entry.text}" for entry in material.entries.values()]
    texts += [question.text for question in material.questions]
    texts += [*SYSTEM.values(), *phrases.REFUSED_EN, *phrases.ELSEWHERE_EN]
    return texts


@dataclass(frozen=True, slots=True)
class _State:
    """Which step was finished with which inputs, in one JSON file."""

    path: Path

    def done(self, step: str) -> str | None:
        found = self._read().get(step)
        return found if isinstance(found, str) else None

    def finish(self, step: str, inputs: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({**self._read(), step: inputs}, indent=2), encoding="utf-8")
        fresh.replace(self.path)

    def _read(self) -> dict[str, Any]:
        try:
            read = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # No state, or half of one: everything is made again, which is slow but right.
            return {}
        return read if isinstance(read, dict) else {}


def _digest_of_data(plan: BuildPlan) -> str:
    names = ("knowledge_base.json", "questions.jsonl", "eval/held_out_entries.json")
    return _digest("", *(plan.data / name for name in names))


def _settings(plan: BuildPlan, step: str) -> str:
    """The part of the plan that decides this step's result."""
    parts: dict[str, object] = {
        "base": (plan.shape, plan.pretraining),
        "rows": (plan.seed, plan.repeats),
        "sft": sorted(plan.sft_changes.items()),
    }
    return repr(parts.get(step))


def _digest(before: str, *files: Path) -> str:
    digest = hashlib.sha256(before.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _replace(made: Path, place: Path) -> None:
    """Put the model files that belong in `place` there, and nothing else."""
    fresh = place.with_name(place.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
                 "tokenizer_config.json", "chat_template.jinja"):  # fmt: skip
        if (made / name).exists():
            shutil.copy2(made / name, fresh / name)
    shutil.rmtree(place, ignore_errors=True)
    fresh.replace(place)
