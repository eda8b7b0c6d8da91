"""`solemate eval sft|dpo|golden`: base, SFT and DPO side by side on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import ConfigError
from core.opening import engine_options, open_retriever, own_command
from core.printing import Json, err, out, print_json
from core.running import run
from core.settings import Settings, at_root

if TYPE_CHECKING:
    from training.eval_report import Report
    from training.eval_sets import Case
    from training.evaluate import Measured
    from training.lineup import Label, Lineup

group = typer.Typer(no_args_is_help=True, help="Figures on held-out data.")

PAIRS = "data/eval/dpo.jsonl"
GOLDEN = "data/eval/golden.jsonl"

BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="Ask this server, not the shipped models.")
]
BaseName = Annotated[str | None, typer.Option("--base", help="The base's name on --base-url.")]
SftName = Annotated[str | None, typer.Option("--sft", help="SFT's name on --base-url.")]
DpoName = Annotated[str | None, typer.Option("--dpo", help="DPO's name on --base-url.")]
AdapterFolder = Annotated[
    Path | None, typer.Option("--adapter", help="DPO's folder; default: model.adapter_path.")
]
Limit = Annotated[int, typer.Option(min=0, help="Questions of each group and language; 0 for all.")]
AllOfThem = Annotated[bool, typer.Option("--all", help="The same as --limit 0.")]
EvalOutput = Annotated[
    Path | None, typer.Option("--output", help="The JSON file; a picture goes beside it.")
]


@group.command("sft")
def evaluate_sft(
    context: typer.Context,
    base_url: BaseUrl = None,
    base: BaseName = None,
    sft: SftName = None,
    dpo: DpoName = None,
    adapter: AdapterFolder = None,
    limit: Limit = 60,
    all_of_them: AllOfThem = False,
    output: EvalOutput = None,
    as_json: Json = False,
) -> None:
    """Compare base, SFT and DPO on held-out questions: BLEU-4, ROUGE-L, facts, refusals, speed."""
    settings: Settings = context.obj
    lineup = _lineup(settings, base_url, {"base": base, "sft": sft, "dpo": dpo}, adapter)
    found = run(_evaluate_sft(settings, lineup, 0 if all_of_them else limit))
    _show_report(settings, found, output or settings.state / "eval" / "sft.json", as_json)


@group.command("dpo")
def evaluate_dpo(
    context: typer.Context,
    base_url: BaseUrl = None,
    base: BaseName = None,
    sft: SftName = None,
    dpo: DpoName = None,
    adapter: AdapterFolder = None,
    recipe: Annotated[
        str | None, typer.Option(help="What DPO was trained with; default: training.recipe.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Held-out pairs; default: data/eval/.")] = None,
    limit: Limit = 60,
    all_of_them: AllOfThem = False,
    output: EvalOutput = None,
    as_json: Json = False,
) -> None:
    """Measure DPO on held-out pairs: reward accuracy and margin, and how the answers changed.

    With --base-url rewards are measured only where --adapter names the folder: they need weights.
    """
    settings: Settings = context.obj
    lineup = _lineup(settings, base_url, {"base": base, "sft": sft, "dpo": dpo}, adapter)
    weights = adapter or (None if base_url else at_root(settings.model.adapter_path))
    found = run(
        _evaluate_dpo(
            settings,
            lineup,
            pairs or at_root(PAIRS),
            weights,
            recipe or settings.training.recipe,
            0 if all_of_them else limit,
        )
    )
    _show_report(settings, found, output or settings.state / "eval" / "dpo.json", as_json)


@group.command("golden")
def evaluate_golden(
    context: typer.Context,
    base_url: BaseUrl = None,
    base: BaseName = None,
    sft: SftName = None,
    dpo: DpoName = None,
    adapter: AdapterFolder = None,
    rows: Annotated[Path | None, typer.Option(help="Golden rows; default: data/eval/.")] = None,
    failures: Annotated[bool, typer.Option("--failures", help="List what failed.")] = False,
    output: EvalOutput = None,
    as_json: Json = False,
) -> None:
    """Put the golden set to the whole engine: facts, refusals, photos, follow-ups, format."""
    settings: Settings = context.obj
    lineup = _lineup(settings, base_url, {"base": base, "sft": sft, "dpo": dpo}, adapter)
    found = run(_evaluate_golden(settings, lineup, rows or at_root(GOLDEN), failures))
    _show_report(settings, found, output or settings.state / "eval" / "golden.json", as_json)


def _lineup(
    settings: Settings,
    base_url: str | None,
    names: dict[Label, str | None],
    adapter: Path | None,
) -> Lineup:
    """The models to compare: those of a running server by name, else the shipped ones."""
    from training.lineup import Remote, Shipped

    key = settings.secrets.MODEL_API_KEY
    api_key = key.get_secret_value() if key else ""
    named = {label: name for label, name in names.items() if name}
    if bool(base_url) != bool(named):
        raise ConfigError(
            "--base-url and names go together: name the models that the server has with --base, "
            "--sft or --dpo. Without any of them the shipped models are compared."
        )
    if base_url:
        return Remote(base_url, named, api_key)
    return Shipped(
        base=at_root("data/embedded/base"),
        expert=at_root(settings.model.expert),
        adapter=adapter or at_root(settings.model.adapter_path),
        command=own_command("serve"),
        served_name=settings.model.base_model,
        log_file=settings.state / "eval" / "model-server.log",
        api_key=api_key,
    )


def _there(lineup: Lineup, labels: Sequence[Label]) -> list[Label]:
    """The models that can be compared; says which are left out, and why."""
    from core.errors import NotFound

    missing = lineup.missing(labels)
    if len(missing) == len(labels):
        raise NotFound(f"No model is there to be measured. {' '.join(missing.values())}")
    for sentence in missing.values():
        err.print(sentence, style="yellow", markup=False, soft_wrap=True)
    return [label for label in labels if label not in missing]


async def _evaluate_sft(settings: Settings, lineup: Lineup, limit: int) -> Report:
    from core.messages import Passage
    from core.retrieval import Query
    from training.eval_report import sft_report
    from training.eval_sets import SetOptions, load_cases
    from training.lineup import LABELS

    labels = _there(lineup, LABELS)
    _, retriever = await open_retriever(settings)

    async def find(question: str) -> list[Passage]:
        return [hit.passage for hit in (await retriever.rank(Query(question))).hits]

    options = SetOptions(settings.retrieval.top_k, engine_options(settings).budget, limit)
    with err.status("Finding passages…"):
        cases = await load_cases(at_root("data"), find, options)
    return sft_report(await _measure(settings, lineup, labels, cases))


async def _evaluate_dpo(
    settings: Settings,
    lineup: Lineup,
    pairs_file: Path,
    adapter: Path | None,
    recipe: str,
    limit: int,
) -> Report:
    from training.eval_report import dpo_report
    from training.eval_sets import pair_cases
    from training.lineup import LABELS
    from training.rewards import Candidate, measure_rewards
    from training.rows import PairRow, read_all

    labels = _there(lineup, LABELS)
    pairs = read_all(pairs_file, PairRow)
    cases = pair_cases(at_root("data"), pairs, limit)
    measured = await _measure(settings, lineup, labels, cases)
    if adapter is None or "dpo" not in labels:
        return dpo_report(measured, None)
    candidate = Candidate(at_root(settings.model.expert), adapter, recipe, settings.training.python)
    with err.status(f"Rewards of {len(pairs)} pairs…"):
        rewards = await measure_rewards(pairs, candidate, settings.state / "eval" / "rewards")
    return dpo_report(measured, rewards)


async def _measure(
    settings: Settings, lineup: Lineup, labels: Sequence[Label], cases: Sequence[Case]
) -> list[Measured]:
    from training.evaluate import Asking, measure

    sampling = replace(engine_options(settings).sampling, temperature=0.0)
    with err.status("Starting the first model…") as status:
        return await measure(
            lineup,
            labels,
            cases,
            Asking(sampling, settings.model.min_support),
            lambda label, wanted, done: status.update(f"{label}: {done} of {wanted} answers"),
        )


async def _evaluate_golden(
    settings: Settings, lineup: Lineup, rows_file: Path, failures: bool
) -> Report:
    from core.tags import load_tags
    from training.eval_report import golden_report
    from training.golden_eval import measure_golden, open_engines
    from training.lineup import LABELS
    from training.material import load_entries
    from training.rows import GoldenRow, read_all

    labels = _there(lineup, LABELS)
    rows = read_all(rows_file, GoldenRow)
    with err.status("Starting the first model…") as status:
        async with open_engines(settings) as engine_of:
            results = await measure_golden(
                lineup,
                labels,
                rows,
                load_entries(at_root("data/knowledge_base.json")),
                load_tags(at_root(settings.vision.tags)),
                engine_of,
                lambda label, wanted, done: status.update(f"{label}: {done} of {wanted} answers"),
            )
    return golden_report(results, failures=failures)


def _show_report(settings: Settings, found: Report, path: Path, as_json: bool) -> None:
    """Print a report, and keep it: its JSON in `path`, its picture beside it."""
    from training.charts import load_history

    found.save(path, load_history(at_root("data/embedded/history.json")))
    if as_json:
        print_json(found.models)
        return
    for table in found.tables:
        out.print(table)
    out.print(f"The figures are in {path}, a picture is beside it.", markup=False, soft_wrap=True)
