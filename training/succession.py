"""May a newly merged model take the served one's place? Both are asked the same, and compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from core.lora import weights_digest
from core.messages import Adapter
from core.settings import Settings, at_root
from core.store import Store
from training.dataset import load_frozen
from training.eval_sets import spread
from training.evaluate import mean
from training.gate import (
    Compared,
    GateFigure,
    GateResult,
    Trained,
    file_figure,
    length_figure,
    question_figures,
    training_figures,
)
from training.lineup import Label, Remote, Served, serving
from training.merged import merge
from training.runs import Run
from training.scores import bleu_4, rouge_l
from training.seal import check_seal
from training.trial import (
    answers_of,
    ask_questions,
    live_on_base,
    prompt_of,
    rows_in,
    server_command,
)

# The served model may have been taught the very rows that are held out from this one.
MOST_WORSE = 2.0
_HELD_OUT = 60
_BEFORE: Label = "sft"


@dataclass(frozen=True, slots=True)
class Successor:
    """Two servers, one after the other: the served model with its adapter, and the new one."""

    settings: Settings
    live: Adapter | None
    merged: Path
    log_file: Path

    def missing(self, labels: Sequence[Label]) -> dict[Label, str]:
        """None of them."""
        return {}

    async def models(self, labels: Sequence[Label]) -> AsyncGenerator[Served, None]:
        """The served model alone ("sft"), as it answers people ("live"), and the new one."""
        wanted = self.settings.model
        before: dict[Label, str] = {
            label: wanted.base_model for label in labels if label != "candidate"
        }
        options = ["--model", str(at_root(wanted.expert))]
        if self.live is not None and self.live.path is not None and "live" in before:
            before["live"] = "live"
            options += ["--adapter", f"live={self.live.path}"]
        new: dict[Label, str] = {one: wanted.base_model for one in labels if one == "candidate"}
        for names, words in ((before, options), (new, ["--model", str(self.merged)])):
            if names:
                async with aclosing(self._of_one(names, words)) as models:
                    async for served in models:
                        yield served

    async def _of_one(
        self, names: Mapping[Label, str], options: Sequence[str]
    ) -> AsyncGenerator[Served, None]:
        api_key, _ = self.settings.secrets.model_keys
        command = [*server_command(self.settings), *options]
        async with (
            serving(command, self.log_file, api_key) as url,
            aclosing(Remote(url, names, api_key).models(list(names))) as models,
        ):
            async for served in models:
                yield served


async def judge_successor(settings: Settings, store: Store, run: Run) -> GateResult:
    """Merge what the run has trained, and ask the model beside the served one.

    Never passed without an operator: a new model has to be put in its place by hand. Raises
    `AdapterRejected` and `TrainingFailed` where there is nothing whole to judge.
    """
    seal = await asyncio.to_thread(check_seal, run.output, run=run.id, dataset=run.dataset)
    limits = settings.training.gate
    # Of rewards SFT has none.
    figures = training_figures(run.output)[1:]
    figures.append(file_figure(Trained(run.output, seal.base, seal.base), limits))
    by_hand = GateFigure(
        "adoption", None, "an operator's word", None, "adapters of the model before end with it"
    )
    if GateResult(tuple(figures)).verdict == "failed":
        return GateResult(tuple(figures))
    plan = await merge(settings, run)
    if not settings.model.embedded:
        note = "serve it beside the other, and compare them by `solemate eval golden --base-url`"
        figures.append(GateFigure("G4 golden", None, "≥ live's", None, note))
        return GateResult((*figures, by_hand))
    live = await live_on_base(settings, store)
    lineup = Successor(settings, live, plan.output, run.attempt / "gate" / "model-server.log")
    figures += await _held_out_figures(settings, run, lineup)
    questions = await ask_questions(settings, lineup)
    compared = Compared(
        asked=0,
        changed=0,
        won=0,
        drawn=0,
        lost=0,
        golden=questions.passed,
        refusals=questions.refusals,
        probes=questions.probes,
        questions=questions.count,
        drift=None,
    )
    figures += [*question_figures(compared, limits), length_figure(compared, limits), by_hand]
    return GateResult(tuple(figures))


async def _held_out_figures(settings: Settings, run: Run, lineup: Successor) -> list[GateFigure]:
    """BLEU-4 and ROUGE-L on rows that it was not taught, beside the served model's."""
    frozen = await asyncio.to_thread(load_frozen, settings.state / "datasets" / run.dataset[:16])
    chats = [prompt_of(row["messages"]) for row in rows_in(frozen.folder / "held_out.jsonl")]
    chosen = spread(chats, _HELD_OUT)
    if not chosen:
        note = "no rows were held out: too few to spare any"
        return [GateFigure("held-out ROUGE-L", None, "≥ the served model's", None, note)]
    answers = await answers_of(
        settings, lineup, [chat[:-1] for chat in chosen], (_BEFORE, "candidate")
    )
    same = weights_digest(at_root(settings.model.expert)) == weights_digest(lineup.merged)
    figures = [
        GateFigure("differs from served", float(not same), "other weights", not same),
    ]
    for name, score in (("BLEU-4", bleu_4), ("ROUGE-L", rouge_l)):
        values = {
            label: mean(
                score(said, chat[-1].content) for said, chat in zip(told, chosen, strict=True)
            )
            or 0.0
            for label, told in answers.items()
        }
        new, old = values["candidate"], values[_BEFORE]
        limit = f"≥ the served model's {old:.1f} − {MOST_WORSE:g}"
        note = f"{len(chosen)} held-out rows"
        figures.append(
            GateFigure(f"held-out {name}", new, limit, new >= old - MOST_WORSE, note, old)
        )
    return figures
