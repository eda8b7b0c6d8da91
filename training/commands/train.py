"""`solemate train sft|dpo|kto|export`: one run by LLaMA-Factory, with a progress bar."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import ConfigError, SolemateError
from core.opening import with_profile
from core.printing import Json, err, out, print_json
from core.running import run
from core.settings import ROOT, Settings
from training.commands.runs import begin_run

if TYPE_CHECKING:
    from training.train import Stage, TrainingPlan

group = typer.Typer(no_args_is_help=True, help="One training run by LLaMA-Factory.")

RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="Which model; default: training.recipe.")
]
BaseModelName = Annotated[
    str, typer.Option("--model", help="Start from this folder or hub name instead.")
]
Dataset = Annotated[
    Path | None, typer.Option("--dataset", help="Rows to train on; default: data/'s.")
]
Output = Annotated[Path | None, typer.Option("--output", help="Where the result goes.")]
FromFeedback = Annotated[
    bool,
    typer.Option("--from-feedback", help="A run on people's accepted pairs, gate and all."),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Of a run with a gate: stay until it needs somebody.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run; start nothing.")]
Profile = Annotated[
    str | None, typer.Option("--profile", help="A file of deploy/profiles/, as before `train`.")
]


@group.command("sft")
def train_sft(
    context: typer.Context,
    recipe: RecipeName = None,
    model: BaseModelName = "",
    dataset: Dataset = None,
    output: Output = None,
    gated: Annotated[
        bool, typer.Option("--gated", help="A run that merges the model and judges it, too.")
    ] = False,
    wait: Wait = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Teach a model to answer from passages: a LoRA adapter from data/shoes.jsonl."""
    settings = with_profile(context, profile)
    if gated:
        if model or dataset or output:
            raise ConfigError(
                "--gated trains the recipe's model on data/shoes.jsonl, into a folder of the run's "
                "own: leave --model, --dataset and --output out."
            )
        run(begin_run(settings, "sft", recipe, wait=wait, dry_run=dry_run, as_json=as_json))
        return
    plan = _plan(settings, "sft", recipe, model, output, dataset=dataset)
    run(_train(settings, plan, dry_run, as_json))


@group.command("dpo")
def train_dpo(
    context: typer.Context,
    recipe: RecipeName = None,
    model: BaseModelName = "",
    dataset: Dataset = None,
    output: Output = None,
    from_feedback: FromFeedback = False,
    wait: Wait = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Teach the merged SFT model which answers people prefer: an adapter from shoes_dpo.jsonl."""
    settings = with_profile(context, profile)
    if from_feedback:
        if model or dataset or output:
            raise ConfigError(
                "--from-feedback trains on the accepted pairs, into a folder of the run's own: "
                "leave --model, --dataset and --output out."
            )
        run(begin_run(settings, "dpo", recipe, wait=wait, dry_run=dry_run, as_json=as_json))
        return
    plan = _plan(settings, "dpo", recipe, model, output, dataset=dataset)
    run(_train(settings, plan, dry_run, as_json))


@group.command("kto")
def train_kto(
    context: typer.Context,
    recipe: RecipeName = None,
    wait: Wait = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Teach the merged SFT model from thumbs alone, where nobody said what would be better."""
    settings = with_profile(context, profile)
    run(begin_run(settings, "kto", recipe, wait=wait, dry_run=dry_run, as_json=as_json))


@group.command("export")
def train_export(
    context: typer.Context,
    recipe: RecipeName = None,
    model: BaseModelName = "",
    adapter: Annotated[
        Path | None, typer.Option(help="Its folder; default: the last SFT's.")
    ] = None,
    output: Output = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Merge an SFT adapter into its model: what is served, and what DPO starts from."""
    settings = with_profile(context, profile)
    plan = _plan(settings, "export", recipe, model, output, adapter=adapter)
    run(_train(settings, plan, dry_run, as_json))


def _plan(
    settings: Settings,
    stage: Stage,
    recipe: str | None,
    model: str,
    output: Path | None,
    *,
    dataset: Path | None = None,
    adapter: Path | None = None,
) -> TrainingPlan:
    from training.train import plan_training

    return plan_training(
        stage,
        settings.state / "runs",
        datetime.now(),
        recipe_name=recipe or settings.training.recipe,
        model=model,
        adapter=adapter,
        dataset=dataset,
        output=output,
        python=settings.training.python,
    )


async def _train(settings: Settings, plan: TrainingPlan, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        _show_plan(plan, as_json)
        return
    made = await _with_progress(settings, plan)
    if as_json:
        print_json({"stage": plan.stage, "recipe": plan.recipe, "output": str(made)})
    else:
        out.print(f"The {'model' if plan.stage == 'export' else 'adapter'} is in {made}.")


def _show_plan(plan: TrainingPlan, as_json: bool) -> None:
    """What would run, on stdout; what is still missing, on stderr."""
    from training.llamafactory import to_yaml
    from training.train import check_plan

    if as_json:
        print_json(
            {
                "stage": plan.stage,
                "recipe": plan.recipe,
                "output": str(plan.output),
                "keys": plan.keys,
                "command_line": plan.command_line,
            }
        )
    else:
        typer.echo(f"{to_yaml(plan.keys)}\ncd {ROOT} && {shlex.join(plan.command_line)}")
    try:
        check_plan(plan)
    except SolemateError as exc:
        err.print(f"It cannot start yet. {exc}", style="yellow", markup=False, soft_wrap=True)


async def _with_progress(settings: Settings, plan: TrainingPlan) -> Path:
    from training.commands.progress import training_bar
    from training.train import run_training

    with training_bar(plan.stage) as show:
        return await run_training(plan, show, timeout_minutes=settings.training.timeout_minutes)
