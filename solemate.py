"""The command line: reads the settings, opens things, and hands them to each other."""

from __future__ import annotations

import asyncio
import errno
import json
import secrets
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
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
from core.settings import Settings, at_root, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bots.terminal import Expert
    from bots.web.desk import Desk
    from core.engine import Engine
    from core.inbox import Inbox
    from core.index import Index, IndexFolder
    from core.model import OpenAIChatModel
    from core.photos import PhotoLimits
    from core.retrieval import Retriever, Snapshot
    from core.store import Store
    from core.vision import Vision

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
        list[str] | None, typer.Option(help="NAME=FOLDER of a LoRA adapter to load.")
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
    _run(serve_embedded(options))


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
for name, group in (("kb", kb), ("data", data), ("eval", evaluation), ("models", models)):
    app.add_typer(group, name=name)

CALIBRATION_QUESTIONS = ("data/questions.jsonl", "data/unanswerable.jsonl")
QUESTIONS = ("data/eval/retrieval.jsonl", "data/eval/unanswerable.jsonl")


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


# --- opening things ---


@dataclass(frozen=True)
class Opened:
    """What a running expert is made of."""

    store: Store
    index: IndexFolder
    retriever: Retriever
    vision: Vision
    model: OpenAIChatModel
    engine: Engine


@asynccontextmanager
async def open_expert(settings: Settings) -> AsyncIterator[Opened]:
    """Open the store, the index, the eyes and the model, and put the engine on top."""
    from core.engine import Engine, Options
    from core.model import Sampling
    from core.prompt import Budget, estimate_tokens
    from core.store import Store

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(settings.database.address))
        index, retriever = await open_retriever(settings)
        vision = open_vision(settings)
        model = await stack.enter_async_context(open_model(settings))
        sampling = Sampling(
            max_tokens=settings.model.max_tokens,
            temperature=settings.model.temperature,
            repetition_penalty=settings.model.repetition_penalty,
        )
        room = settings.model.context_tokens - settings.model.max_tokens

        async def choose_adapter(_user_id: str) -> str:
            return settings.model.base_model

        engine = Engine(
            store=store,
            retriever=retriever,
            vision=vision,
            model=model,
            choose_adapter=choose_adapter,
            options=Options(
                base_model=settings.model.base_model,
                sampling=sampling,
                budget=Budget(room, estimate_tokens),
                photo_limits=photo_limits(settings),
                max_characters=settings.conversation.max_characters,
                rounds=settings.conversation.rounds,
                expire_seconds=settings.conversation.expire_minutes * 60,
                min_support=settings.model.min_support,
                rewrite=settings.retrieval.rewrite,
            ),
        )
        yield Opened(store, index, retriever, vision, model, engine)


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


def open_vision(settings: Settings) -> Vision:
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
        limits = settings.limits
        inbox = Inbox(opened.store, owner=uuid.uuid4().hex, depth=limits.lane_depth)
        if opened.store.exclusive:
            # What a killed solemate left leased need not wait for its leases to run out.
            await inbox.take_over()
        feeds = Feeds()
        lanes = Lanes(
            inbox=inbox,
            store=opened.store,
            engine=opened.engine,
            bots=dict.fromkeys((Platform.WEB, Platform.API, Platform.TERMINAL), feeds),
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
        server = uvicorn.Server(
            uvicorn.Config(
                _web(settings, opened, desk),
                log_config=None,
                timeout_graceful_shutdown=5,
            )
        )
        async with lanes.running(), asyncio.TaskGroup() as tasks:
            chores = tasks.create_task(_chores(settings, opened, inbox))
            address = settings.web.public_url or settings.web.address
            out.print(f"Solemate is ready: [bold]{address}[/bold]  (Ctrl-C stops)")
            await server.serve(sockets=[listener])
            chores.cancel()


def _web(settings: Settings, opened: Opened, desk: Desk) -> FastAPI:
    """The API with the chat page on it."""
    from bots.web.api import ApiOptions, create_api
    from bots.web.chat import mount_chat
    from bots.web.health import Condition, PartHealth

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

    app = create_api(
        desk,
        parts={"index": index, "vision": vision, "model": model},
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


# --- small things ---


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
