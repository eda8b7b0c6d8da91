"""An adapter on trial: measured beside its base and the live adapter, where nobody is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from core.errors import AdapterRejected, AnswerIncomplete, NotFound
from core.lora import check_adapter
from core.messages import Adapter, ChatMessage
from core.opening import engine_options, own_command
from core.registry import live_adapter
from core.routes import registered
from core.settings import Settings, at_root
from core.store import Store
from core.tags import load_tags
from training.adapters import Adapters
from training.dataset import Frozen, load_frozen
from training.eval_sets import pair_cases, spread
from training.evaluate import at_once
from training.gate import Compared, Instruments, Passed, Trained
from training.golden_eval import Golden, measure_golden, open_engines
from training.launchers import standing_back
from training.lineup import Label, Lineup, Remote, Served, serving
from training.material import load_entries
from training.ray_jobs import open_launcher
from training.rewards import Candidate, Rewards, measure_frozen
from training.rows import GoldenRow, PairRow, read_all
from training.runs import Run
from training.scores import rouge_l
from training.seal import check_seal

GOLDEN = "data/eval/golden.jsonl"
PROBES = "data/eval/probes.jsonl"
USUAL_PROMPTS = "data/eval/dpo.jsonl"

log = structlog.get_logger()

_TAUGHT, _HELD_OUT, _USUAL = 20, 100, 15
# A rounding of ROUGE-L, and no difference that anybody would see.
_ALIKE = 1.0
_SMALL_BYTES = 1 << 30

Prompt = Sequence[ChatMessage]


@dataclass(frozen=True, slots=True)
class Pair:
    """A held-out prompt and the two answers that people told apart."""

    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What is judged, and what measures it."""

    trained: Trained
    instruments: Instruments


class Trials:
    """Makes the instruments for a run's adapter."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    async def of(self, run: Run) -> Trial:
        """The trial of what a run has trained; raises `AdapterRejected` where that is not whole."""
        frozen = await asyncio.to_thread(
            load_frozen, self._settings.state / "datasets" / run.dataset[:16]
        )
        seal = await asyncio.to_thread(check_seal, run.candidate, run=run.id, dataset=run.dataset)
        model = self._settings.model
        served_base = str(at_root(model.expert)) if model.embedded else seal.base
        live = await live_on_base(self._settings, self._store)
        return Trial(
            Trained(run.candidate, seal.base, served_base, run.stage == "dpo"),
            Instruments(
                rewards=lambda: self._rewards(run, frozen, seal.base, run.candidate),
                live_rewards=lambda: self._live_rewards(run, frozen, seal.base, live),
                compare=lambda: self._compare(run, frozen, seal.base, live),
            ),
        )

    async def _rewards(
        self, run: Run, frozen: Frozen, base: str, adapter: Path, name: str = "candidate"
    ) -> Rewards | None:
        pairs = frozen.manifest.count("held_out")
        if run.stage != "dpo" or not pairs:
            return None
        return await measure_frozen(
            pairs,
            Candidate(Path(base), adapter, run.recipe, self._settings.training.python),
            run.attempt / "gate" / name,
            dataset=(frozen.folder, "held_out"),
            launcher=open_launcher(self._settings),
            name=f"{run.id}-{run.attempts}-gate-{name}",
        )

    async def _live_rewards(
        self, run: Run, frozen: Frozen, base: str, live: Adapter | None
    ) -> Rewards | None:
        if live is None or live.path is None or not live.path.is_dir():
            return None
        return await self._rewards(run, frozen, base, live.path, "live")

    async def _compare(self, run: Run, frozen: Frozen, base: str, live: Adapter | None) -> Compared:
        settings = self._settings
        pairs = spread(_held_out(frozen), _HELD_OUT)
        taught = spread(_taught(frozen), _TAUGHT)
        usual = _usual_prompts()
        asked = [*taught, *(pair.prompt for pair in pairs)]
        async with self._beside_each_other(run, live) as lineup:
            answers = await answers_of(settings, lineup, asked)
            own = await answers_of(settings, lineup, usual, ("candidate",))
            questions = await ask_questions(settings, lineup)
        drift = await asyncio.to_thread(
            drift_from, Path(base), run.candidate, list(zip(usual, own["candidate"], strict=True))
        )
        before, new = answers["live"][len(taught) :], answers["candidate"][len(taught) :]
        outcomes = [_outcome(*one) for one in zip(pairs, before, new, strict=True)]
        return Compared(
            asked=len(asked),
            changed=sum(
                one != other
                for one, other in zip(answers["candidate"], answers["sft"], strict=True)
            ),
            won=outcomes.count(1),
            drawn=outcomes.count(0),
            lost=outcomes.count(-1),
            golden=questions.passed,
            refusals=questions.refusals,
            probes=questions.probes,
            questions=questions.count,
            drift=drift,
        )

    @asynccontextmanager
    async def _beside_each_other(self, run: Run, live: Adapter | None) -> AsyncIterator[Lineup]:
        """A server that has base, live adapter and candidate, as they will be served."""
        wanted = self._settings.model
        api_key, admin_key = self._settings.secrets.model_keys
        base = wanted.base_model
        if wanted.embedded:
            names: dict[Label, str] = {"sft": base, "live": base, "candidate": "candidate"}
            options = ["--model", str(at_root(wanted.expert))]
            options += ["--adapter", f"candidate={run.candidate}"]
            if live is not None and live.path is not None:
                names["live"] = "live"
                options += ["--adapter", f"live={live.path}"]
            command = server_command(self._settings)
            log_file = run.attempt / "gate" / "model-server.log"
            async with serving([*command, *options], log_file, api_key) as url:
                yield Remote(url, names, api_key)
            return
        name = f"{run.id}-{run.attempts}-{run.candidate.name}-on-trial"
        served = live.name if live is not None else base
        labels: dict[Label, str] = {"sft": base, "live": served, "candidate": name}
        lineup = Remote(wanted.replicas[0], labels, api_key, admin_key)
        async with lineup.client() as server:
            if name not in await server.models():
                await server.load_adapter(name, run.candidate)
            try:
                yield lineup
            finally:
                with suppress(NotFound):
                    await server.unload_adapter(name)


def server_command(settings: Settings) -> list[str]:
    """What serves models on trial; whoever answers people goes first."""
    return [*standing_back(settings.training.nice), *own_command("serve")]


async def live_on_base(settings: Settings, store: Store) -> Adapter | None:
    """The adapter that answers, None for the base model.

    One that was trained on a model that is served no more answers nobody either.
    """
    default = live_adapter(settings.model)
    adapters = Adapters(store, Path(), default.name if default else "")
    route = await adapters.route()
    found = await store.run(lambda connection: registered(connection, [route.live]))
    live = default if default and route.live == default.name else found.get(route.live)
    if live is None or live.path is None or not (settings.model.embedded and live.path.is_dir()):
        return live
    served = replace(live, base_model=str(at_root(settings.model.expert)))
    try:
        await asyncio.to_thread(check_adapter, served)
    except AdapterRejected as exc:
        log.warning("live_adapter_left_out", adapter=live.name, problem=str(exc))
        return None
    return live


@dataclass(frozen=True, slots=True)
class Questions:
    """What live adapter and candidate made of the golden questions and the probes."""

    passed: Mapping[str, Passed]
    refusals: frozenset[str]
    probes: frozenset[str]
    count: int


async def ask_questions(settings: Settings, lineup: Lineup) -> Questions:
    """Put the golden questions and the probes to both, as the engine would."""
    rows, probes = _questions(settings)
    async with open_engines(settings) as engine_of:
        golden = await measure_golden(
            lineup,
            ("live", "candidate"),
            [*rows, *probes],
            load_entries(at_root(settings.retrieval.knowledge)),
            load_tags(at_root(settings.vision.tags)),
            engine_of,
            lambda label, wanted, done: None,
        )
    names = [row.id for row in (*rows, *probes)]
    return Questions(
        {one.label: _passed(one, names) for one in golden},
        frozenset(row.id for row in rows if row.kind == "refusal"),
        frozenset(row.id for row in probes),
        len(rows),
    )


def drift_from(base: Path, adapter: Path, said: Sequence[tuple[Prompt, str]]) -> float | None:
    """How far an adapter has moved from its base: nats per token of its own answers, on average.

    The Kullback-Leibler divergence of its next-token distributions from the base model's. None
    where the base is not on this disk, or too large to be read beside all else.
    """
    sizes = [file.stat().st_size for file in base.glob("*.safetensors")]
    if not sizes or sum(sizes) > _SMALL_BYTES:
        return None
    import torch

    from training.servers.language_model import load_model
    from training.servers.lora import RowAdapters, read_adapter

    model = load_model(base)
    weights = read_adapter(adapter, model.network, base)
    rows = RowAdapters(model.network)
    total, tokens = 0.0, 0
    for prompt, answer in said:
        before = model.encode([asdict(message) for message in prompt])
        after = model.tokenizer.encode(answer, add_special_tokens=False)
        whole = torch.tensor([[*before, *after]])[:, : model.context]
        with torch.inference_mode(), rows.applied([None, weights]):
            logits = model.network(whole.repeat(2, 1)).logits[:, len(before) - 1 : -1]
        theirs, ours = torch.log_softmax(logits.float(), dim=-1)
        total += float((ours.exp() * (ours - theirs)).sum())
        tokens += ours.shape[0]
    return total / tokens if tokens else None


async def answers_of(
    settings: Settings,
    lineup: Lineup,
    prompts: Sequence[Prompt],
    labels: Sequence[Label] = ("sft", "live", "candidate"),
) -> Mapping[Label, list[str]]:
    """What each model says to each prompt, always taking the likeliest word."""
    sampling = replace(engine_options(settings).sampling, temperature=0.0)

    async def ask(served: Served, prompt: Prompt) -> str:
        text = ""
        # What breaks off or is empty is an answer as well: a bad one.
        with suppress(AnswerIncomplete):
            async with aclosing(served.chat.stream(prompt, served.name, sampling)) as pieces:
                async for piece in pieces:
                    text += piece.text
        return text.strip()

    found: dict[Label, list[str]] = {}
    async with aclosing(lineup.models(labels)) as models:
        async for served in models:
            found[served.label] = await at_once(prompts, partial(ask, served), lambda done: None)
    return found


def _outcome(pair: Pair, before: str, new: str) -> int:
    """1 where the new answer is more like the one that people prefer, -1 where it is less so."""
    gain = _likeness(new, pair) - _likeness(before, pair)
    return 0 if abs(gain) < _ALIKE else (1 if gain > 0 else -1)


def _likeness(answer: str, pair: Pair) -> float:
    return rouge_l(answer, pair.chosen) - rouge_l(answer, pair.rejected)


def _held_out(frozen: Frozen) -> list[Pair]:
    """The pairs that nothing was trained on; KTO's single answers are none."""
    if frozen.manifest.stage != "dpo":
        return []
    return [
        Pair(prompt_of(row["messages"]), row["chosen"]["content"], row["rejected"]["content"])
        for row in rows_in(frozen.folder / "held_out.jsonl")
    ]


def _taught(frozen: Frozen) -> list[Prompt]:
    """The prompts that it was trained on; people's come before the anchors."""
    rows = rows_in(frozen.folder / "train.jsonl")[: frozen.manifest.count("train")]
    prompts = [prompt_of(row["messages"]) for row in rows]
    # KTO's rows end with the answer.
    return [prompt[:-1] if prompt[-1].role == "assistant" else prompt for prompt in prompts]


def _usual_prompts() -> list[Prompt]:
    """Everyday questions with their passages, which nobody corrected."""
    pairs = read_all(at_root(USUAL_PROMPTS), PairRow)
    return [case.prompt for case in pair_cases(at_root("data"), pairs, _USUAL)]


def _questions(settings: Settings) -> tuple[list[GoldenRow], list[GoldenRow]]:
    rows = read_all(at_root(GOLDEN), GoldenRow)
    probes = read_all(at_root(PROBES), GoldenRow)
    return spread(rows, settings.training.gate.golden_rows), probes


def _passed(found: Golden, names: Sequence[str]) -> Passed:
    failed = {failure.id for failure in found.failures}
    return Passed(frozenset(names) - failed, found.characters)


def prompt_of(messages: Sequence[Mapping[str, str]]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(**message) for message in messages)  # type: ignore[arg-type]


def rows_in(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
