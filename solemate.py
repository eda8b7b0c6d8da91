"""The command line: reads the settings, opens things, and hands them to each other."""

from __future__ import annotations

import asyncio
import errno
import json
import secrets
import shlex
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.errors import ConfigError, SolemateError, StoreError
from core.logs import configure_logs
from core.settings import ROOT, Settings, at_root, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bots.bot import Bot
    from bots.lanes import Lanes
    from bots.telegram.front import Telegram
    from bots.telegram.polling import Polling
    from bots.terminal import Expert
    from bots.web.desk import Desk
    from core.colours import ColourVision
    from core.engine import Engine, Options
    from core.inbox import Inbox
    from core.index import Index, IndexFolder
    from core.model import OpenAIChatModel
    from core.photos import PhotoLimits
    from core.registry import Registry
    from core.retrieval import Retriever, Snapshot
    from core.store import Store
    from core.vision import ClipVision, Vision
    from training.eval_report import Report
    from training.eval_sets import Case
    from training.evaluate import Measured
    from training.lineup import Label, Lineup
    from training.servers.embedded import ServerOptions
    from training.train import Stage, TrainingPlan

# Modules that load torch are imported where they are needed: `solemate --help` takes no second.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A shoe expert to chat with, that gets better from its users' thumbs.",
)
# Without `emoji=False` a title or a file that holds ":x:" would show a cross.
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)
log = structlog.get_logger()

T = TypeVar("T")
OnDisk = tuple[str, int]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class ServeEngine(StrEnum):
    """What can compute a served model's answers."""

    EMBEDDED = "embedded"


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr and exit status 1."""
    try:
        app()
    except SolemateError as exc:
        _complain(str(exc))
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        _complain(f"{exc.strerror}: {exc.filename or 'the disk'!s}. Make room, or fix its rights.")
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback()
def read_settings(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings laid over config.toml.")] = None,
    profile: Annotated[str | None, typer.Option(help="A file of deploy/profiles/.")] = None,
) -> None:
    """Read the settings before any command runs."""
    settings = load_settings(config, profile=profile)
    configure_logs(
        settings.logging.level, at_root(settings.logging.file) if settings.logging.file else None
    )
    context.obj = settings


# --- talking to the expert ---


@app.command()
def up(context: typer.Context) -> None:
    """Start everything: model server, engine, chat page and API; Ctrl-C stops."""
    _run(_up(context.obj))


@app.command()
def ask(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="The question.")],
    photo: Annotated[list[Path] | None, typer.Option(help="A photo to ask about.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Go on with this one.")] = None,
    as_json: Json = False,
) -> None:
    """Ask one question; starts what it needs when nothing is running."""
    if len(photo or ()) > 1:
        raise ConfigError("Ask about one photo at a time: give --photo once.")
    images = tuple(_photo_bytes(path, context.obj) for path in photo or ())
    _run(_ask(context.obj, text, images, conversation, as_json))


@app.command()
def chat(context: typer.Context) -> None:
    """Talk to the expert on the terminal; + and - rate the last answer."""
    _run(_chat(context.obj))


@app.command()
def tag(
    context: typer.Context,
    photos: Annotated[list[Path], typer.Argument(help="Photos to look at.")],
    as_json: Json = False,
) -> None:
    """Show what vision sees in photos, with scores."""
    _run(_tag(context.obj, photos, as_json))


@app.command()
def serve(
    context: typer.Context,
    engine: Annotated[ServeEngine, typer.Option(help="What computes.")] = ServeEngine.EMBEDDED,
    host: Annotated[str | None, typer.Option(help="Default: model.base_url's.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: model.base_url's.")] = None,
    model: Annotated[Path | None, typer.Option(help="Default: model.expert.")] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of a LoRA adapter; default: model.adapter's."),
    ] = None,
) -> None:
    """Serve a model with LoRA adapters through an OpenAI-compatible API."""
    assert engine is ServeEngine.EMBEDDED
    from training.servers.embedded import ServerOptions
    from training.servers.embedded import serve as serve_embedded

    settings: Settings = context.obj
    default_host, default_port = _model_address(settings)
    key = settings.secrets.MODEL_API_KEY
    options = ServerOptions(
        model=model or at_root(settings.model.expert),
        served_name=settings.model.base_model,
        host=host or default_host,
        port=port or default_port,
        adapters=dict(_named_folder(one) for one in adapter or ()),
        api_key=key.get_secret_value() if key else "",
    )
    # An adapter that is asked for here has to be right; the settings' one is left out if it is not.
    named = adapter is not None or model is not None
    _run(serve_embedded(options) if named else _serve_with_adapter(settings, options))


@app.command()
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check everything an answer needs, and say what to do about it."""
    from core.doctor import Health, examine

    findings = _run(examine(context.obj))
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        colours = {Health.OK: "green", Health.WARNING: "yellow", Health.ILL: "red"}
        table = Table("part", "health", "found", "what to do")
        for one in findings:
            found, advice = escape(one.found), escape(one.advice)
            table.add_row(one.part, one.health, found, advice, style=colours[one.health])
        out.print(table)
    if any(finding.health is Health.ILL for finding in findings):
        raise typer.Exit(1)


# --- knowledge, data, figures, models ---

kb = typer.Typer(no_args_is_help=True, help="The knowledge base and its index.")
data = typer.Typer(no_args_is_help=True, help="The data files.")
evaluation = typer.Typer(no_args_is_help=True, help="Figures on held-out data.")
models = typer.Typer(no_args_is_help=True, help="The shipped models.")
train = typer.Typer(no_args_is_help=True, help="One training run by LLaMA-Factory.")
for name, group in (
    *(("kb", kb), ("data", data), ("eval", evaluation), ("models", models)),
    ("train", train),
):
    app.add_typer(group, name=name)

CALIBRATION_QUESTIONS = ("data/questions.jsonl", "data/unanswerable.jsonl")
QUESTIONS = ("data/eval/retrieval.jsonl", "data/eval/unanswerable.jsonl")
PAIRS = "data/eval/dpo.jsonl"
GOLDEN = "data/eval/golden.jsonl"


@kb.command()
def build(context: typer.Context) -> None:
    """Index the knowledge base; nothing is done when the index holds it already."""
    _, retriever = _run(open_retriever(context.obj))
    out.print(f"The index holds {len(retriever.snapshot.index)} chunks.")


@kb.command()
def add(
    context: typer.Context,
    knowledge: Annotated[Path, typer.Argument(help="A JSON file like knowledge_base.json.")],
) -> None:
    """Add a knowledge file to the index, or replace what came from it before."""
    index = _run(_kb_folder(context.obj, lambda folder: folder.add(knowledge)))
    out.print(f"The index holds {len(index)} chunks. Calibrate with `solemate kb calibrate`.")


@kb.command()
def remove(
    context: typer.Context,
    origin: Annotated[str, typer.Argument(help="The file's name, as `kb list` shows it.")],
) -> None:
    """Take everything that came from a file out of the index."""
    index = _run(_kb_folder(context.obj, lambda folder: folder.remove(origin)))
    out.print(f"The index holds {len(index)} chunks.")


@kb.command("list")
def list_chunks(context: typer.Context, as_json: Json = False) -> None:
    """List what is indexed."""
    _, retriever = _run(open_retriever(context.obj))
    index = retriever.snapshot.index
    rows = [
        {
            "id": chunk.id,
            "title": chunk.title,
            "topic": chunk.topic,
            "lang": chunk.lang,
            "source": chunk.source,
            "file": origin,
        }
        for chunk, origin in zip(index.chunks, index.origins, strict=True)
    ]
    _print_rows(rows, as_json)


@kb.command()
def search(
    context: typer.Context,
    question: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    knowledge: Annotated[Path | None, typer.Option(help="Search this file instead.")] = None,
    batch: Annotated[
        Path | None, typer.Option(help='JSON lines {"id", "question"} to rank.')
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what retrieval finds for a question, or for a file of questions."""
    if (question is None) == (batch is None):
        raise ConfigError("Give a question, or --batch with a file of questions; not both.")
    _run(_search(context.obj, question, knowledge, batch, as_json))


@kb.command()
def calibrate(
    context: typer.Context,
    questions: Annotated[
        list[Path] | None, typer.Option(help="Question files; default: those of data/.")
    ] = None,
    wrong: Annotated[
        float, typer.Option(min=0, max=1, help="Of what has no answer, the share that may get one.")
    ] = 0.3,
    refused: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Of what has no answer, the share to refuse; we ask back the rest."
        ),
    ] = 0.25,
    as_json: Json = False,
) -> None:
    """Fit to this knowledge base when to answer, ask back and refuse."""
    files = questions or [at_root(name) for name in CALIBRATION_QUESTIONS]
    _run(_calibrate(context.obj, files, wrong, refused, as_json))


@kb.command("eval")
@evaluation.command("retrieval")
def evaluate_retrieval(
    context: typer.Context,
    questions: Annotated[
        list[Path] | None, typer.Option(help="Question files; default: data/eval/.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure recall and refusals on held-out questions."""
    files = questions or [at_root(name) for name in QUESTIONS]
    _run(_evaluate_retrieval(context.obj, files, as_json))


@evaluation.command("vision")
def evaluate_photos(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Photos with a labels.jsonl.")],
    as_json: Json = False,
) -> None:
    """Measure colour names on labelled photos."""
    from core.photo_eval import evaluate_vision, load_labelled

    settings: Settings = context.obj
    found = evaluate_vision(open_vision(settings), load_labelled(folder), photo_limits(settings))
    _print_rows([asdict(_run(found))], as_json)


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


@evaluation.command("sft")
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
    found = _run(_evaluate_sft(settings, lineup, 0 if all_of_them else limit))
    _show_report(settings, found, output or settings.state / "eval" / "sft.json", as_json)


@evaluation.command("dpo")
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
    found = _run(
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


@evaluation.command("golden")
def evaluate_golden(
    context: typer.Context,
    base_url: BaseUrl = None,
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
    lineup = _lineup(settings, base_url, {"sft": sft, "dpo": dpo}, adapter)
    found = _run(_evaluate_golden(settings, lineup, rows or at_root(GOLDEN), failures))
    _show_report(settings, found, output or settings.state / "eval" / "golden.json", as_json)


@data.command()
def report(context: typer.Context, as_json: Json = False) -> None:
    """Check every data file and count what is in it."""
    from training.report import inspect_data, render

    found = inspect_data(at_root("data"), at_root(context.obj.vision.tags))
    if as_json:
        _print_json(found.to_json())
    else:
        out.print(render(found))
    if not found.ok:
        raise typer.Exit(1)


@models.command("build")
def build_shipped(context: typer.Context) -> None:
    """Make every shipped model from data/; goes on where it was interrupted."""
    _run(_build_models(context.obj))


# --- training ---

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
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run; start nothing.")]
Profile = Annotated[
    str | None, typer.Option("--profile", help="A file of deploy/profiles/, as before `train`.")
]


@train.command("sft")
def train_sft(
    context: typer.Context,
    recipe: RecipeName = None,
    model: BaseModelName = "",
    dataset: Dataset = None,
    output: Output = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Teach a model to answer from passages: a LoRA adapter from data/shoes.jsonl."""
    settings = _with_profile(context, profile)
    plan = _plan(settings, "sft", recipe, model, output, dataset=dataset)
    _run(_train(settings, plan, dry_run, as_json))


@train.command("dpo")
def train_dpo(
    context: typer.Context,
    recipe: RecipeName = None,
    model: BaseModelName = "",
    dataset: Dataset = None,
    output: Output = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Teach the merged SFT model which answers people prefer: an adapter from shoes_dpo.jsonl."""
    settings = _with_profile(context, profile)
    plan = _plan(settings, "dpo", recipe, model, output, dataset=dataset)
    _run(_train(settings, plan, dry_run, as_json))


@train.command("export")
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
    settings = _with_profile(context, profile)
    plan = _plan(settings, "export", recipe, model, output, adapter=adapter)
    _run(_train(settings, plan, dry_run, as_json))


# --- opening things ---


@dataclass(frozen=True)
class Opened:
    """What a running expert is made of."""

    store: Store
    index: IndexFolder
    retriever: Retriever
    vision: ClipVision | ColourVision
    model: OpenAIChatModel
    registry: Registry
    engine: Engine


@asynccontextmanager
async def open_expert(settings: Settings) -> AsyncIterator[Opened]:
    """Open the store, the index, the eyes and the model, and put the engine on top."""
    from core.engine import Engine
    from core.registry import Registry, live_adapter
    from core.store import Store

    live = live_adapter(settings.model)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(settings.database.address))
        index, retriever = await open_retriever(settings)
        vision = open_vision(settings)
        model = await stack.enter_async_context(open_model(settings))
        registry = Registry(model, settings.model.base_model, live)
        await stack.enter_async_context(registry.reconciling())
        engine = Engine(
            store=store,
            retriever=retriever,
            vision=vision,
            model=model,
            choose_adapter=registry.choose,
            report_missing=registry.report_missing,
            options=engine_options(settings),
        )
        yield Opened(store, index, retriever, vision, model, registry, engine)


def engine_options(settings: Settings) -> Options:
    """How the engine answers."""
    from core.engine import Options
    from core.model import Sampling
    from core.prompt import Budget, estimate_tokens

    model = settings.model
    return Options(
        base_model=model.base_model,
        sampling=Sampling(
            max_tokens=model.max_tokens,
            temperature=model.temperature,
            repetition_penalty=model.repetition_penalty,
        ),
        budget=Budget(model.context_tokens - model.max_tokens, estimate_tokens),
        photo_limits=photo_limits(settings),
        max_characters=settings.conversation.max_characters,
        rounds=settings.conversation.rounds,
        expire_seconds=settings.conversation.expire_minutes * 60,
        min_support=model.min_support,
        rewrite=settings.retrieval.rewrite,
    )


async def open_retriever(settings: Settings) -> tuple[IndexFolder, Retriever]:
    """The index of the knowledge base, built when it is not, and a retriever on it."""
    from core.embedding import open_embedder
    from core.index import IndexFolder, Recipe
    from core.reranker import CrossEncoderReranker
    from core.retrieval import RetrievalOptions, Retriever
    from core.terms import Analyzer, load_lexicon

    wanted = settings.retrieval
    recipe = Recipe(
        Analyzer(load_lexicon(at_root("data/synonyms.txt"))),
        open_embedder(_model_name(wanted.embedding_model), wanted.device),
        wanted.device,
    )
    folder = IndexFolder(settings.state / "index", recipe)
    await folder.build(at_root(wanted.knowledge))
    options = RetrievalOptions(
        top_k=wanted.top_k,
        dense_weight=wanted.dense_weight,
        fusion=wanted.fusion,
        min_relevance=wanted.min_relevance,
    )
    reranker = (
        CrossEncoderReranker(_model_name(wanted.reranker), wanted.device)
        if wanted.reranker
        else None
    )
    return folder, Retriever(await load_snapshot(settings, folder), options, reranker)


async def load_snapshot(settings: Settings, folder: IndexFolder) -> Snapshot:
    """The index as it is on disk now, with the calibration that was fitted to it."""
    from core.calibration import calibration_for
    from core.retrieval import Snapshot

    index = await folder.load()
    file = _calibration_file(settings)
    return Snapshot(index, calibration_for(file, index.digest, dense=index.dense is not None))


async def take_up(
    settings: Settings, folder: IndexFolder, retriever: Retriever, used: OnDisk
) -> OnDisk:
    """Search the index and the calibration on disk where they are not those in use any more.

    What cannot be read, or was made with other synonyms, leaves the ones in use.
    """
    newest = used
    try:
        newest = on_disk(settings, folder)
        if newest != used:
            retriever.use(await load_snapshot(settings, folder))
    except SolemateError as exc:
        log.warning("index_not_taken_up", problem=str(exc), advice="restart solemate")
    return newest


def on_disk(settings: Settings, folder: IndexFolder) -> OnDisk:
    """Names the index and the calibration on disk; changes when either does."""
    file = _calibration_file(settings)
    return folder.version, file.stat().st_mtime_ns if file.exists() else 0


def open_vision(settings: Settings) -> ClipVision | ColourVision:
    """CLIP when the settings name a model; else the colour namer, which needs none."""
    from core.tags import load_tags

    wanted = settings.vision
    groups = load_tags(at_root(wanted.tags))
    if not wanted.model:
        from core.colours import ColourVision

        return ColourVision(groups, max_tags=wanted.max_tags)
    from core.clip import load_clip
    from core.vision import ClipVision

    return ClipVision(
        load_clip(_model_name(wanted.model), wanted.device),
        groups,
        max_tags=wanted.max_tags,
        min_score=wanted.min_score,
        cache=settings.state / "vision",
    )


def photo_limits(settings: Settings) -> PhotoLimits:
    """How large a photo may be."""
    from core.photos import PhotoLimits

    return PhotoLimits(max_bytes=settings.vision.max_bytes, max_pixels=settings.vision.max_pixels)


@asynccontextmanager
async def open_model(settings: Settings) -> AsyncIterator[OpenAIChatModel]:
    """A client of the model server; starts the embedded one when nobody serves at its address."""
    from core.model import OpenAIChatModel

    key = settings.secrets.MODEL_API_KEY
    async with OpenAIChatModel(
        settings.model.base_url,
        key.get_secret_value() if key else "",
        base_model=settings.model.base_model,
        first_token_seconds=settings.model.first_token_seconds,
        deadline_seconds=settings.model.deadline_seconds,
    ) as model:
        if not settings.model.embedded or await _is_served(settings, model):
            yield model
            return
        from training.servers.process import model_server

        async with model_server(
            [sys.executable, "-m", "solemate", *_same_settings(), "serve"],
            healthy=model.healthy,
            log_file=settings.state / "model-server.log",
        ):
            yield model


async def _is_served(settings: Settings, model: OpenAIChatModel) -> bool:
    """Whether our model is served already; `ConfigError` when something else has its port."""
    from core.errors import ModelUnavailable
    from core.ports import port_is_free

    wanted = settings.model
    with suppress(ModelUnavailable):
        if wanted.base_model in await model.models():
            return True
    host, port = _model_address(settings)
    if not port_is_free(host, port):
        raise ConfigError(
            f"Something at {wanted.base_url!r} does not serve the model {wanted.base_model!r}. "
            "Stop it, or choose another port with SOLEMATE__MODEL__BASE_URL."
        )
    return False


@asynccontextmanager
async def some_expert(settings: Settings) -> AsyncIterator[Expert]:
    """Whoever can answer: the solemate that is running, or one made for this question."""
    from core.doctor import answers_at

    if await answers_at(settings.web.address):
        from bots.remote import RemoteExpert

        async with RemoteExpert(settings.web.address) as expert:
            yield expert
        return
    with err.status("Starting the model…"):
        stack = AsyncExitStack()
        opened = await stack.enter_async_context(open_expert(settings))
    async with stack:
        yield opened.engine


# --- what the commands do ---


async def _up(settings: Settings) -> None:
    import uvicorn

    from bots.feeds import Feeds
    from bots.lanes import Allowance, Lanes, Limits
    from bots.web.desk import Desk
    from core.inbox import Inbox
    from core.messages import Platform
    from core.ports import listening

    async with AsyncExitStack() as stack:
        with err.status("Starting the model…"):
            # The page's port is ours before anything slow begins, and until all has ended.
            listener = stack.enter_context(
                listening(settings.web.host, settings.web.port, "SOLEMATE__WEB__PORT")
            )
            opened = await stack.enter_async_context(open_expert(settings))
            await opened.vision.warm()
        limits = settings.limits
        inbox = Inbox(opened.store, owner=uuid.uuid4().hex, depth=limits.lane_depth)
        if opened.store.exclusive:
            # What a killed solemate left leased need not wait for its leases to run out.
            await inbox.take_over()
        feeds = Feeds()
        bots: dict[Platform, Bot] = dict.fromkeys(
            (Platform.WEB, Platform.API, Platform.TERMINAL), feeds
        )
        telegram = await _open_telegram(stack, settings, opened.store, inbox)
        if telegram is not None:
            bots[Platform.TELEGRAM] = telegram.answers
        lanes = Lanes(
            inbox=inbox,
            store=opened.store,
            engine=opened.engine,
            bots=bots,
            limits=Limits(
                Allowance(
                    limits.messages_per_minute, limits.photos_per_minute, limits.messages_per_day
                )
            ),
            width=limits.lanes,
        )
        desk = Desk(
            opened.store,
            inbox,
            opened.engine,
            lanes,
            feeds,
            photo_limits(settings),
            settings.conversation.expire_minutes * 60,
        )
        polling = None if telegram is None else _polling(settings, telegram, lanes, opened.engine)
        server = uvicorn.Server(
            uvicorn.Config(
                _web(settings, opened, desk, polling),
                log_config=None,
                # Whoever calls could write another address into them, and escape its limits.
                proxy_headers=False,
                timeout_graceful_shutdown=5,
            )
        )
        async with lanes.running(), asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(_chores(settings, opened, inbox))]
            if polling is not None:
                background.append(tasks.create_task(polling.run()))
            address = settings.web.public_url or settings.web.address
            out.print(f"Solemate is ready: [bold]{address}[/bold]  (Ctrl-C stops)")
            await server.serve(sockets=[listener])
            for task in background:
                task.cancel()


async def _open_telegram(
    stack: AsyncExitStack, settings: Settings, store: Store, inbox: Inbox
) -> Telegram | None:
    """The connection to Telegram, open as long as `stack`; None without a token."""
    token = settings.secrets.TELEGRAM_BOT_TOKEN
    if token is None:
        return None
    from bots.telegram.front import Access, open_telegram
    from bots.telegram.people import Guests

    chosen = settings.telegram
    guests = Guests(
        frozenset(chosen.allowed_users),
        frozenset(chosen.allowed_chats),
        frozenset(chosen.operators),
    )
    access = Access(token.get_secret_value(), chosen.base_url, chosen.base_file_url, guests)
    return await stack.enter_async_context(open_telegram(access, store=store, inbox=inbox))


def _polling(settings: Settings, telegram: Telegram, lanes: Lanes, engine: Engine) -> Polling:
    """What takes Telegram's messages in."""
    from bots.telegram.commands import Privacy

    return telegram.polling(
        lanes,
        engine,
        privacy=Privacy(settings.privacy.keep_days, settings.privacy.train_on_chats),
        max_photo_bytes=settings.vision.max_bytes,
    )


def _web(settings: Settings, opened: Opened, desk: Desk, polling: Polling | None) -> FastAPI:
    """The API with the chat page on it."""
    from bots.web.api import ApiOptions, create_api
    from bots.web.chat import mount_chat
    from bots.web.health import Condition, PartHealth, adapter_health

    async def model() -> PartHealth:
        if await opened.model.healthy():
            return PartHealth()
        advice = "The model server does not answer: passages are quoted meanwhile."
        return PartHealth(Condition.DEGRADED, advice)

    async def index() -> PartHealth:
        return PartHealth(figures={"chunks": len(opened.retriever.snapshot.index)})

    async def vision() -> PartHealth:
        only = "Colours only: style and pattern need a CLIP model."
        return PartHealth(detail=only if opened.vision.colours_only else "")

    async def adapter() -> PartHealth:
        return await adapter_health(opened.registry)

    parts = {"index": index, "vision": vision, "model": model, "adapter": adapter}
    if polling is not None:
        status = polling.status

        async def telegram() -> PartHealth:
            now = time.monotonic()
            problem = status.complaint(now)
            condition = Condition.DEGRADED if problem else Condition.OK
            quiet = round(status.quiet_seconds(now), 1)
            return PartHealth(condition, problem, {"quiet_seconds": quiet})

        parts["telegram"] = telegram
    app = create_api(
        desk,
        parts=parts,
        options=ApiOptions(
            model_name=settings.model.base_model,
            max_tokens=settings.model.max_tokens,
            public_url=settings.web.public_url or settings.web.address,
            allowed_origins=tuple(settings.web.allowed_origins),
        ),
    )
    mount_chat(
        app,
        desk,
        storage_secret=_secret(settings.state / "page-secret"),
    )
    return app


async def _chores(settings: Settings, opened: Opened, inbox: Inbox) -> None:
    """Take up a rebuilt index within seconds; forget what is too old every hour."""
    used, forget_at = on_disk(settings, opened.index), 0.0
    while True:
        used = await take_up(settings, opened.index, opened.retriever, used)
        if time.monotonic() >= forget_at:
            await forget(settings, opened.store, inbox)
            forget_at = time.monotonic() + 3600
        await asyncio.sleep(2)


async def forget(settings: Settings, store: Store, inbox: Inbox) -> None:
    """Delete what is too old; a disk that is full now may have room the next time."""
    try:
        await inbox.forget_done(older_than_seconds=7 * 86400)
        await store.forget_older_than(time.time() - settings.privacy.keep_days * 86400)
    except StoreError as exc:
        log.warning("nothing_forgotten", problem=str(exc))


async def _serve_with_adapter(settings: Settings, options: ServerOptions) -> None:
    """Serve with the settings' adapter, or without it when it cannot be used.

    A server that `up` starts again and again must come up whatever has become of the adapter.
    """
    from core.errors import AdapterRejected
    from core.registry import check_adapter, live_adapter
    from training.servers.embedded import serve as serve_embedded

    live = live_adapter(settings.model)
    if live is not None and live.path is not None:
        try:
            check_adapter(live)
            await serve_embedded(replace(options, adapters={live.name: live.path}))
            return
        except AdapterRejected as exc:
            log.warning("adapter_left_out", adapter=live.name, problem=str(exc))
    await serve_embedded(options)


async def _ask(
    settings: Settings,
    text: str,
    images: tuple[bytes, ...],
    conversation: str | None,
    as_json: bool,
) -> None:
    from bots.terminal import ask as ask_expert
    from bots.terminal import to_json, to_user_message

    message = to_user_message(text, conversation_id=conversation, images=images)
    async with some_expert(settings) as expert:
        reply = await ask_expert(expert, message, Console(quiet=True) if as_json else out)
    if as_json:
        typer.echo(to_json(reply))


async def _chat(settings: Settings) -> None:
    from bots.terminal import chat as chat_with

    async with some_expert(settings) as expert:
        await chat_with(expert, out, out.input)


async def _tag(settings: Settings, photos: Sequence[Path], as_json: bool) -> None:
    from core.photos import open_photo

    vision = open_vision(settings)
    results = []
    for path in photos:
        photo = open_photo(_photo_bytes(path, settings), photo_limits(settings))
        results.append((path, await vision.tags(photo)))
    if as_json:
        _print_json(
            [{"photo": str(path), "tags": [asdict(tag) for tag in tags]} for path, tags in results]
        )
        return
    table = Table("photo", "group", "tag", "score", "sure")
    for path, tags in results:
        for one in tags:
            sure = "yes" if one.sure else "about"
            named = escape(f"{one.name} {one.phrase}")
            table.add_row(escape(path.name), escape(one.group), named, f"{one.score:.0%}", sure)
        if not tags:
            table.add_row(escape(path.name), "", "nothing certain", "", "")
    out.print(table)
    if vision.colours_only:
        out.print("Only colours can be told here; set vision.model to a CLIP model for the rest.")


async def _kb_folder(settings: Settings, work: Callable[[IndexFolder], Awaitable[Index]]) -> Index:
    folder, _ = await open_retriever(settings)
    return await work(folder)


async def _search(
    settings: Settings,
    question: str | None,
    knowledge: Path | None,
    batch: Path | None,
    as_json: bool,
) -> None:
    from core.retrieval import Query
    from core.retrieval_eval import load_questions, search_batch

    retriever = await _retriever_over(settings, knowledge)
    if batch is not None:
        for line in await search_batch(retriever, load_questions(batch)):
            _print_json(asdict(line))
        return
    ranking = await retriever.rank(Query(question or ""))
    rows = [
        {
            "id": hit.chunk.id,
            "title": hit.chunk.title,
            "score": round(hit.score, 4),
            "probability": round(hit.probability, 4),
        }
        for hit in ranking.hits[:10]
    ]
    if as_json:
        _print_json({"outcome": ranking.relevance, "results": rows})
        return
    _print_rows(rows, as_json)
    out.print(f"outcome: {ranking.relevance} (confidence {ranking.confidence:.2f})")


async def _retriever_over(settings: Settings, knowledge: Path | None) -> Retriever:
    """A retriever over the knowledge base, or over one file that is not to be kept."""
    _, retriever = await open_retriever(settings)
    if knowledge is None:
        return retriever
    from core.index import Index
    from core.knowledge import load_knowledge
    from core.retrieval import Snapshot

    index = Index.of(retriever.snapshot.index.recipe, load_knowledge(knowledge), knowledge.name)
    return retriever.on(Snapshot(index, retriever.snapshot.calibration))


async def _calibrate(
    settings: Settings, questions: Sequence[Path], wrong: float, refused: float, as_json: bool
) -> None:
    from core.calibration import to_json
    from core.index import write_atomically
    from core.retrieval_eval import calibrate as fit
    from core.retrieval_eval import load_questions

    _, retriever = await open_retriever(settings)
    asked = [question for file in questions for question in load_questions(file)]
    with err.status(f"Asking {len(asked)} questions…"):
        found = await fit(retriever, asked, wrong, refused)
    write_atomically(_calibration_file(settings), to_json(found))
    assert found.point is not None
    _print_rows([asdict(found.point)], as_json)


async def _evaluate_retrieval(settings: Settings, questions: Sequence[Path], as_json: bool) -> None:
    from core.retrieval_eval import evaluate, load_questions

    _, retriever = await open_retriever(settings)
    asked = [question for file in questions for question in load_questions(file)]
    with err.status(f"Asking {len(asked)} questions…"):
        found = await evaluate(retriever, asked)
    if as_json:
        _print_json(asdict(found))
        return
    figures = asdict(found)
    for rows in [value for value in figures.values() if isinstance(value, (list, tuple))]:
        _print_rows(list(rows), as_json)
    _print_rows([{k: v for k, v in figures.items() if isinstance(v, float)}], as_json)


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
        command=[sys.executable, "-m", "solemate", *_same_settings(), "serve"],
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
    from training.eval_sets import PairRow, pair_cases, read_all
    from training.lineup import LABELS
    from training.rewards import Candidate, measure_rewards

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
    from tempfile import TemporaryDirectory

    from core.engine import Engine
    from core.store import Store
    from training.eval_report import golden_report
    from training.eval_sets import read_all
    from training.golden_eval import GoldenRow, measure_golden
    from training.lineup import Served
    from training.material import load_entries

    labels = _there(lineup, ("sft", "dpo"))
    rows = read_all(rows_file, GoldenRow)
    _, retriever = await open_retriever(settings)
    options = engine_options(settings)
    options = replace(options, sampling=replace(options.sampling, temperature=0.0))
    with TemporaryDirectory() as folder, err.status("Starting the first model…") as status:
        async with Store(f"sqlite:///{folder}/golden.db") as store:

            def engine_of(served: Served, eyes: Vision) -> Engine:
                async def choose(_user_id: str) -> str:
                    return served.name

                return Engine(
                    store=store,
                    retriever=retriever,
                    vision=eyes,
                    model=served.chat,
                    choose_adapter=choose,
                    options=replace(options, base_model=served.name),
                )

            results = await measure_golden(
                lineup,
                labels,
                rows,
                load_entries(at_root("data/knowledge_base.json")),
                open_vision(settings),
                engine_of,
                lambda label, wanted, done: status.update(f"{label}: {done} of {wanted} answers"),
            )
    return golden_report(results, failures=failures)


def _show_report(settings: Settings, found: Report, path: Path, as_json: bool) -> None:
    """Print a report, and keep it: its JSON in `path`, its picture beside it."""
    from training.charts import load_history

    found.save(path, load_history(at_root("data/embedded/history.json")))
    if as_json:
        _print_json(found.models)
        return
    for table in found.tables:
        out.print(table)
    out.print(f"The figures are in {path}, a picture is beside it.", markup=False, soft_wrap=True)


async def _build_models(settings: Settings) -> None:
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from training.build import BuildPlan, build_models

    plan = BuildPlan(data=at_root("data"), work=settings.state / "models")
    columns = (
        *Progress.get_default_columns(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err) as progress:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int, note: str = "") -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total, note=note)
            progress.update(tasks[step], completed=done, total=total, note=note)

        made = await build_models(plan, show)
    out.print(f"The served model is in {made}.")


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
        _print_json({"stage": plan.stage, "recipe": plan.recipe, "output": str(made)})
    else:
        out.print(f"The {'model' if plan.stage == 'export' else 'adapter'} is in {made}.")


def _show_plan(plan: TrainingPlan, as_json: bool) -> None:
    """What would run, on stdout; what is still missing, on stderr."""
    from training.llamafactory import to_yaml
    from training.train import check_plan

    if as_json:
        _print_json(
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
    from rich.progress import Progress, TimeElapsedColumn

    from training.llamafactory import TrainingProgress
    from training.train import run_training

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(plan.stage, total=None)

        def show(done: TrainingProgress) -> None:
            progress.update(task, completed=done.steps, total=done.total)

        return await run_training(plan, show, timeout_minutes=settings.training.timeout_minutes)


# --- small things ---


def _with_profile(context: typer.Context, profile: str | None) -> Settings:
    """The settings, read again where the command itself names a profile."""
    if profile is not None:
        read_settings(context, context.find_root().params["config"], profile)
    settings: Settings = context.obj
    return settings


def _complain(sentence: str) -> NoReturn:
    err.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _print_rows(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Rows with the same keys as a table, or as a JSON list."""
    if as_json:
        _print_json(rows)
        return
    table = Table(*(rows[0] if rows else ("nothing",)))
    for row in rows:
        table.add_row(
            *(
                f"{value:.3f}" if isinstance(value, float) else escape(str(value))
                for value in row.values()
            )
        )
    out.print(table)


def _model_address(settings: Settings) -> tuple[str, int]:
    """The host and port of `model.base_url`."""
    address = urlsplit(settings.model.base_url)
    usual = 443 if address.scheme == "https" else 80
    return address.hostname or "127.0.0.1", address.port or usual


def _model_name(name: str) -> str:
    """A folder of the project as a full path; a hub name as it is."""
    return str(at_root(name)) if name and at_root(name).exists() else name


def _calibration_file(settings: Settings) -> Path:
    return settings.state / "calibration.json"


def _same_settings() -> list[str]:
    """The options of this process that choose its settings, for a child."""
    kept: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if argument.startswith(("--config=", "--profile=")):
            kept.append(argument)
        elif argument in ("--config", "--profile"):
            kept += [argument, next(arguments)]
    return kept


def _photo_bytes(path: Path, settings: Settings) -> bytes:
    from core.errors import ImageRejected

    try:
        with path.open("rb") as file:
            return file.read(settings.vision.max_bytes + 1)
    except OSError as exc:
        raise ImageRejected(
            f"The photo {str(path)!r} cannot be read: {exc.strerror}.", code="photo_broken"
        ) from exc


def _named_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise ConfigError(f"{text!r} is no adapter; write NAME=FOLDER.")
    return name, Path(folder)


def _secret(file: Path) -> str:
    """A random secret that lives as long as the state folder: signs the page's cookies."""
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(32), "utf-8")
        return file.read_text("utf-8")


if __name__ == "__main__":
    main()
