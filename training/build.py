"""`solemate models build`: every step from `data/` to the model that is served, resumable.

tokenizer -> base (from nothing) -> SFT rows -> SFT LoRA by LLaMA-Factory -> merged, served model ->
preference pairs -> DPO LoRA by LLaMA-Factory on the merged model -> embedder. A step whose inputs
have not changed since it was finished is not done again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from core.prompt import SYSTEM
from training import phrases
from training.corpus import Corpus
from training.dpo_rows import (
    load_spoken,
    machine_spoken,
    make_held_out_pairs,
    make_pairs,
    write_json_lines,
    write_pairs,
)
from training.embedder import EmbedderPlan, train_embedder
from training.llamafactory import (
    Value,
    recipe,
    run_llamafactory,
    write_dataset_info,
)
from training.material import Material, load_material
from training.pretrain import PretrainPlan, Shape, Step, new_model, pretrain
from training.progress import TrainingProgress, check_first_reward
from training.sft_rows import make_rows, write_rows
from training.spoken import CLOSERS, OPENERS
from training.tokenizer import load_tokenizer, make_tokenizer, save_tokenizer
from training.weights import save_halved

log = structlog.get_logger()

_STEPS_A_POINT = 25
# Where the state keeps what the step under way has taken so far, by its inputs.
_MINUTES = "minutes"

# What decides the result besides `data/`: a change of any of these files makes the step stale, and
# those after it.
_CODE = Path(__file__).parent
_INPUTS: dict[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer.py", "material.py", "../core/prompt.py"),
    "base": (
        "corpus.py",
        "phrases.py",
        "spoken.py",
        "pretrain.py",
        "induction.py",
        "guidance.py",
        "muon.py",
    ),  # fmt: skip
    "rows": ("sft_rows.py", "corpus.py", "phrases.py", "spoken.py"),
    "sft": ("recipes/sft.yaml", "recipes/models/embedded.yaml"),
    "export": ("recipes/export.yaml", "recipes/models/embedded.yaml"),
    "pairs": ("dpo_rows.py",),
    "dpo": ("recipes/dpo.yaml", "recipes/models/embedded.yaml"),
    "embedder": ("embedder.py",),
}
_DATA: dict[str, tuple[str, ...]] = {
    "pairs": ("spoken.jsonl",),
    "embedder": ("synonyms.txt", "knowledge_base.json"),
}
# What an entry is found by; of the models only the embedder learns from it.
_SEARCH_ONLY = frozenset({"keywords", "questions"})

# The shipped adapter brings out a manner that SFT has taught already: few pairs are enough, and the
# last two layers. The ones below find and copy the passage, and would unlearn that.
_MANNER: dict[str, Value] = {
    "max_samples": 200,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "pref_beta": 0.1,
    "pref_ftx": 0.3,
    "lora_target": ",".join(
        f"{layer}.mlp.{part}_proj" for layer in (4, 5) for part in ("gate", "up", "down")
    ),
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
    dpo_changes: dict[str, Value] = field(default_factory=lambda: dict(_MANNER))
    embedding: EmbedderPlan = field(default_factory=EmbedderPlan)
    seed: int = 17
    repeats: int = 2
    threads: int = 2

    @property
    def rows(self) -> Path:
        """The SFT rows."""
        return self.data / "shoes.jsonl"

    @property
    def pairs(self) -> Path:
        """The preference pairs."""
        return self.data / "shoes_dpo.jsonl"

    @property
    def held_out_pairs(self) -> Path:
        """The preference pairs to measure with."""
        return self.data / "eval" / "dpo.jsonl"

    @property
    def embedder(self) -> Path:
        """The text embedding, as shipped."""
        return self.data / "embedded" / "embedder"

    @property
    def adapter(self) -> Path:
        """The DPO adapter of the served model, as shipped."""
        return self.data / "embedded" / "adapter"

    @property
    def history(self) -> Path:
        """What the trainings wrote down on their way, and the minutes each step took."""
        return self.data / "embedded" / "history.json"

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
    stopping = threading.Event()

    def watch(step: str, done: int, total: int, note: str = "") -> None:
        if stopping.is_set():
            raise _Stopped
        on_progress(step, done, total, note)

    try:
        return await _build(plan, watch, train)
    except asyncio.CancelledError:
        # Threads cannot be cancelled, and the process waits for them: the next step ends it.
        stopping.set()
        raise


class _Stopped(Exception):
    """Nobody waits for this training any more."""


async def _build(plan: BuildPlan, on_progress: Progress, train: Trainer) -> Path:
    material = load_material(plan.data)
    steps: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = (
        ("tokenizer", lambda: asyncio.to_thread(_tokenizer, plan, material)),
        ("base", lambda: asyncio.to_thread(_base, plan, material, on_progress)),
        ("rows", lambda: asyncio.to_thread(_rows, plan, material)),
        ("sft", lambda: _sft(plan, on_progress, train)),
        ("export", lambda: _export(plan, train)),
        ("pairs", lambda: asyncio.to_thread(_pairs, plan, material)),
        ("dpo", lambda: _dpo(plan, on_progress, train)),
        ("embedder", lambda: asyncio.to_thread(_embedder, plan)),
    )
    state = _State(plan.work / "build.json")
    before = _digest_of_data(plan)
    for name, make in steps:
        before = _digest(before + _settings(plan, name), *_inputs(plan, name))
        if state.done(name) == before:
            log.info("build.kept", step=name)
        else:
            log.info("build.started", step=name)
            with state.counting(before) as minutes:
                await make()
            _note_minutes(plan, name, minutes())
            state.finish(name, before)
        on_progress(name, 1, 1)
    return plan.expert


def _tokenizer(plan: BuildPlan, material: Material) -> None:
    save_tokenizer(make_tokenizer(_texts(material)), plan.work / "tokenizer")


def _base(plan: BuildPlan, material: Material, on_progress: Progress) -> None:
    losses: list[float] = []

    def watch(step: Step) -> None:
        losses.append(step.loss)
        if len(losses) == _STEPS_A_POINT:
            with (plan.work / "base.jsonl").open("a", encoding="utf-8") as points:
                mean = sum(losses) / len(losses)
                points.write(json.dumps({"tokens": step.tokens, "loss": round(mean, 4)}) + "\n")
            losses.clear()
        on_progress("base", step.tokens, step.total, f"loss {step.loss:.2f}")

    torch.set_num_threads(plan.threads)
    tokenizer = load_tokenizer(plan.work / "tokenizer")
    model = new_model(tokenizer, plan.shape, plan.pretraining.seed)
    pretrain(model, tokenizer, Corpus(material), plan.pretraining, plan.work / "base", watch)
    _replace(plan.work / "base", plan.base)
    _note(plan, "base", _points(plan.work / "base.jsonl"))


def _points(path: Path) -> list[dict[str, float]]:
    """The points of a curve; where a resumed training did a part again, the last telling counts."""
    points: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        point = json.loads(line)
        points = {tokens: one for tokens, one in points.items() if tokens < point["tokens"]}
        points[point["tokens"]] = point
    return list(points.values())


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
    _note(plan, "sft", _log_history(plan.work / "sft"))


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
    await asyncio.to_thread(_ship_expert, plan, merged)


def _ship_expert(plan: BuildPlan, merged: Path) -> None:
    """Put the merged model in its place, in half precision and with the base's tokenizer."""
    save_halved(LlamaForCausalLM.from_pretrained(merged, dtype=torch.float32), merged)
    load_tokenizer(plan.base).save_pretrained(merged)
    _replace(merged, plan.expert)


def _pairs(plan: BuildPlan, material: Material) -> None:
    spoken = load_spoken(plan.data)
    write_pairs(make_pairs(material, spoken, plan.seed, plan.repeats), plan.pairs)
    # Hand-written answers are too improbable to so small a model (logp -143 at the start): trained
    # on them it unlearned to copy. It learns the style from answers that it can already give.
    talked = machine_spoken(material, plan.seed)
    write_pairs(make_pairs(material, talked, plan.seed, plan.repeats), _talked_pairs(plan))
    write_json_lines(make_held_out_pairs(plan.data, spoken, plan.seed), plan.held_out_pairs)


def _talked_pairs(plan: BuildPlan) -> Path:
    return plan.work / "talked.jsonl"


async def _dpo(plan: BuildPlan, on_progress: Progress, train: Trainer) -> None:
    def watch(progress: TrainingProgress) -> None:
        on_progress("dpo", progress.steps, progress.total)

    dataset, made = plan.work / "preferences", plan.work / "dpo"
    write_dataset_info(dataset, "shoes_dpo", str(_talked_pairs(plan).resolve()), ranking=True)
    keys = recipe(
        "dpo",
        {
            "model_name_or_path": str(plan.expert.resolve()),
            "dataset": "shoes_dpo",
            "dataset_dir": str(dataset.resolve()),
            "output_dir": str(made.resolve()),
            **plan.dpo_changes,
        },
    )
    await train("train", keys, plan.work / "dpo-run", watch, plan.threads)
    history = _log_history(made)
    check_first_reward(history[0] if history else {})
    _note(plan, "dpo", history)
    await asyncio.to_thread(_ship_adapter, plan, made)


def _ship_adapter(plan: BuildPlan, made: Path) -> None:
    """Put the adapter in its place, in half precision and without this machine's paths."""
    fresh = plan.adapter.with_name(plan.adapter.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    config = json.loads((made / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = plan.expert.name
    # The modules come as a set, in an order of their own every time.
    config["target_modules"] = sorted(config["target_modules"])
    written = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (fresh / "adapter_config.json").write_text(written, encoding="utf-8")
    weights = load_file(made / "adapter_model.safetensors")
    halved = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(halved, fresh / "adapter_model.safetensors", {"format": "pt"})
    shutil.rmtree(plan.adapter, ignore_errors=True)
    fresh.replace(plan.adapter)


def _embedder(plan: BuildPlan) -> None:
    train_embedder(plan.data, plan.embedder, plan.embedding)


def _log_history(output: Path) -> list[dict[str, float]]:
    """What LLaMA-Factory logged at each point: step, loss, and DPO's rewards."""
    try:
        state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    kept = ("step", "loss", "rewards/accuracies", "rewards/margins", "rewards/chosen",
            "rewards/rejected", "logps/chosen")  # fmt: skip
    return [
        {key: round(point[key], 5) for key in kept if key in point}
        for point in state["log_history"]
        if "loss" in point
    ]


def _note_minutes(plan: BuildPlan, step: str, minutes: float) -> None:
    _note(plan, "minutes", {**_read_history(plan).get("minutes", {}), step: round(minutes, 1)})


def _note(plan: BuildPlan, name: str, what: object) -> None:
    """Keep this part of the history; the parts of other steps stay."""
    if what:
        text = json.dumps({**_read_history(plan), name: what}, indent=1)
        plan.history.parent.mkdir(parents=True, exist_ok=True)
        plan.history.write_text(text + "\n", encoding="utf-8")


def _read_history(plan: BuildPlan) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(plan.history.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read


def _texts(material: Material) -> list[str]:
    """What the tokenizer learns its words from: everything that training shows, in order."""
    texts = [f"{entry.title}\n{entry.text}" for entry in material.entries.values()]
    texts += [question.text for question in material.questions]
    texts += [*SYSTEM.values(), *phrases.REFUSED_EN, *phrases.ELSEWHERE_EN]
    texts += [*OPENERS["en"], *CLOSERS["en"]]
    return texts


@dataclass(frozen=True, slots=True)
class _State:
    """Which step was finished with which inputs, in one JSON file; and the minutes of each so far.

    What an interrupted step has taken counts when it is finished later on.
    """

    path: Path

    def done(self, step: str) -> str | None:
        found = self._read().get(step)
        return found if isinstance(found, str) else None

    def finish(self, step: str, inputs: str) -> None:
        self._write(step, inputs)

    @contextmanager
    def counting(self, inputs: str) -> Iterator[Callable[[], float]]:
        """Count a step with these inputs, however it ends; what it gives tells the whole."""
        started = time.monotonic()
        try:
            yield lambda: self._minutes(inputs)
        finally:
            spent = self._minutes(inputs) + (time.monotonic() - started) / 60
            self._write(_MINUTES, {inputs: spent})

    def _minutes(self, inputs: str) -> float:
        return float(self._read().get(_MINUTES, {}).get(inputs, 0.0))

    def _write(self, key: str, value: object) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({**self._read(), key: value}, indent=2), encoding="utf-8")
        fresh.replace(self.path)

    def _read(self) -> dict[str, Any]:
        try:
            read = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # No state, or half of one: everything is made again, which is slow but right.
            return {}
        return read if isinstance(read, dict) else {}


def _digest_of_data(plan: BuildPlan) -> str:
    entries = json.loads((plan.data / "knowledge_base.json").read_text(encoding="utf-8"))
    read = [[(key, row[key]) for key in sorted(row.keys() - _SEARCH_ONLY)] for row in entries]
    names = ("questions.jsonl", "eval/held_out_entries.json")
    return _digest(repr(read), *(plan.data / name for name in names))


def _settings(plan: BuildPlan, step: str) -> str:
    """The part of the plan that decides this step's result."""
    parts: dict[str, object] = {
        "base": (plan.shape, plan.pretraining),
        "rows": (plan.seed, plan.repeats),
        "sft": sorted(plan.sft_changes.items()),
        "pairs": (plan.seed, plan.repeats),
        "dpo": sorted(plan.dpo_changes.items()),
        "embedder": plan.embedding,
    }
    return repr(parts.get(step))


def _inputs(plan: BuildPlan, step: str) -> list[Path]:
    """The files that decide this step's result, besides those of the steps before it."""
    code = [_CODE / name for name in _INPUTS[step]]
    return [*code, *(plan.data / name for name in _DATA.get(step, ()))]


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
