"""The command line: reads the settings, opens things, and hands them to each other."""

from __future__ import annotations

import asyncio
import errno
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.errors import ConfigError, SolemateError, StoreError
from core.opening import (
    engine_options,
    expert_folder,
    model_address,
    on_disk,
    open_link,
    open_retriever,
    open_store,
    open_tracing,
    open_vision,
    photo_limits,
    pseudonyms,
    same_settings,
    secret,
    take_up,
    use_settings,
    with_profile,
)
from core.printing import Json, err, out, print_json, print_rows
from core.running import run
from core.settings import Settings
from training.commands import (
    adapters,
    data,
    demo,
    evaluation,
    kb,
    models,
    pairs,
    person,
    runs,
    train,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bots.bot import Bot, Intake, Prepare, Status
    from bots.lanes import Lanes
    from bots.notices import Teller
    from bots.slack import front as slack_front
    from bots.telegram.front import Access, Telegram
    from bots.telegram.polling import Polling
    from bots.telegram.webhook import Hook, Webhook
    from bots.terminal import Expert
    from bots.web.desk import Desk
    from bots.web.health import HealthCheck
    from core.backup import Place
    from core.colours import ColourVision
    from core.doctor import Finding, Probe
    from core.duels import Duels
    from core.engine import Engine
    from core.inbox import Inbox
    from core.index import IndexFolder
    from core.leader import Lead, Leader
    from core.messages import ImageTag, Platform
    from core.model import ModelServer, OpenAIChatModel
    from core.presence import Presence
    from core.redis_link import RedisLink
    from core.registry import Registry
    from core.retrieval import Retriever
    from core.store import Store
    from core.vision import ClipVision
    from training.loop import Loop
    from training.servers.embedded import ServerOptions

# Modules that load torch are imported where they are needed: `solemate --help` takes no second.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A shoe expert to chat with, that gets better from its users' thumbs.",
)
log = structlog.get_logger()


class ServeEngine(StrEnum):
    """What can compute a served model's answers."""

    EMBEDDED = "embedded"
    VLLM = "vllm"
    LLAMAFACTORY = "llamafactory"


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


# --- talking to the expert ---


@app.callback()
def read_settings(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings laid over config.toml.")] = None,
    profile: Annotated[str | None, typer.Option(help="A file of deploy/profiles/.")] = None,
) -> None:
    """Read the settings before any command runs."""
    use_settings(context, config, profile)


@app.command()
def up(context: typer.Context) -> None:
    """Start everything: model server, engine, chat page and API; Ctrl-C stops, twice at once."""
    run(_up(context.obj))


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
    run(_ask(context.obj, text, images, conversation, as_json))


@app.command()
def chat(context: typer.Context) -> None:
    """Talk to the expert on the terminal; + and - rate the last answer."""
    run(_chat(context.obj))


@app.command()
def tag(
    context: typer.Context,
    photos: Annotated[list[Path], typer.Argument(help="Photos to look at.")],
    as_json: Json = False,
) -> None:
    """Show what vision sees in photos, with scores."""
    run(_tag(context.obj, photos, as_json))


@app.command()
def serve(
    context: typer.Context,
    engine: Annotated[ServeEngine, typer.Option(help="What computes.")] = ServeEngine.EMBEDDED,
    host: Annotated[str | None, typer.Option(help="Default: model.base_url's.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: model.base_url's.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A folder; default: model.expert, or the recipe's merged SFT model."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of a LoRA adapter; default: those that answer people."),
    ] = None,
    python: Annotated[
        Path | None, typer.Option(help="An interpreter that has vLLM; default: .venv-vllm's.")
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Show vLLM's or LLaMA-Factory's command and stop.")
    ] = False,
    extra: Annotated[
        list[str] | None, typer.Argument(help="After --: options of vLLM or LLaMA-Factory.")
    ] = None,
) -> None:
    """Serve a model with LoRA adapters through an OpenAI-compatible API."""
    settings: Settings = context.obj
    default_host, default_port = model_address(settings)
    adapters_ = None if adapter is None else dict(_named_folder(one) for one in adapter)
    host, port = host or default_host, port or default_port
    if engine is not ServeEngine.EMBEDDED:
        from training.commands import serve as engines

        wanted = engines.Wanted(
            host, port, model or "", adapters_, python, only_print, tuple(extra or ())
        )
        by_vllm = engine is ServeEngine.VLLM
        run((engines.serve_vllm if by_vllm else engines.serve_llamafactory)(settings, wanted))
        return
    if only_print or extra:
        raise ConfigError("The embedded engine runs in this process: no command, no more options.")
    from training.servers.embedded import ServerOptions
    from training.servers.embedded import serve as serve_embedded

    options = ServerOptions(
        model=Path(model) if model else expert_folder(settings),
        served_name=settings.model.base_model,
        host=host,
        port=port,
        adapters=adapters_ or {},
        api_key=settings.secrets.model_keys[0],
        tracing=context.with_resource(open_tracing(settings, "solemate-model")),
    )
    # An adapter that is asked for here has to be right; the settings' one is left out if it is not.
    named = adapter is not None or model is not None
    run(serve_embedded(options) if named else _serve_with_adapter(settings, options))


@app.command()
def doctor(
    context: typer.Context,
    as_json: Json = False,
    profile: Annotated[
        str | None, typer.Option(help="A file of deploy/profiles/, as before `doctor`.")
    ] = None,
) -> None:
    """Check everything an answer needs, and say what to do about it; nothing is downloaded."""
    from core.doctor import Health, examine

    settings = with_profile(context, profile)
    findings = run(examine(settings, _probes(settings)))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        colours = {Health.OK: "green", Health.WARNING: "yellow", Health.ILL: "red"}
        table = Table("part", "health", "found", "what to do")
        for one in findings:
            found, advice = escape(one.found), escape(one.advice)
            table.add_row(one.part, one.health, found, advice, style=colours[one.health])
        out.print(table)
    if any(finding.health is Health.ILL for finding in findings):
        raise typer.Exit(1)


@app.command()
def backup(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Where to; default: backups in the state folder.")
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(min=0, help="Delete backups there that are older than this.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Back up the database, adapters and secrets into one checked file, while all runs."""
    from core.backup import back_up

    settings: Settings = context.obj
    with err.status("Backing up…"):
        place, target = _backed_up(settings), folder or settings.state / "backups"
        made = run(back_up(place, target, keep_days=keep_days))
    if as_json:
        print_json({**asdict(made), "file": str(made.file)})
        return
    out.print(f"{made.file} holds {made.files} files in {made.size / 1e6:.1f} MB, read again.")
    if folder is None:
        out.print("It lies on the disk that it is to save you from losing: copy it elsewhere.")


@app.command()
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A backup.")],
    check: Annotated[bool, typer.Option("--check", help="Only read it to its end.")] = False,
    as_json: Json = False,
) -> None:
    """Put a backup in place of the database and state; whoever was erased since stays erased."""
    from core.backup import check_backup
    from core.restore import restore as restore_from

    if check:
        manifest = check_backup(file)
        made_at = datetime.fromtimestamp(manifest.made_at).astimezone()
        found = {"made_at": made_at.isoformat(timespec="seconds"), "files": len(manifest.files)}
        print_rows([found], as_json)
        return
    with err.status("Restoring…"):
        done = run(restore_from(_backed_up(context.obj), file))
    if as_json:
        print_json({**asdict(done), "set_aside": str(done.set_aside) if done.set_aside else None})
        return
    out.print(f"Restored {done.files} files; {done.erased_again} people were erased again.")
    if done.set_aside is not None:
        out.print(f"What was there lies in {done.set_aside}: delete it when all is well.")
    if not done.audit_whole:
        err.print("The backup's audit has been changed since it was written.", style="red")


# --- knowledge and figures ---

for name, group in (
    ("kb", kb.group),
    ("data", data.group),
    ("eval", evaluation.group),
    ("models", models.group),
    ("pairs", pairs.group),
    ("person", person.group),
    ("runs", runs.group),
    ("train", train.group),
    ("adapters", adapters.group),
):
    app.add_typer(group, name=name)
app.command("demo-loop")(demo.demo_loop)
evaluation.group.command("retrieval")(kb.evaluate_retrieval)


@evaluation.group.command("vision")
def evaluate_photos(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Photos with a labels.jsonl.")],
    as_json: Json = False,
) -> None:
    """Measure colour names on labelled photos."""
    from core.photo_eval import evaluate_vision, load_labelled

    settings: Settings = context.obj
    found = evaluate_vision(open_vision(settings), load_labelled(folder), photo_limits(settings))
    print_rows([asdict(run(found))], as_json)


# --- opening things ---


@dataclass(frozen=True)
class Opened:
    """What a running expert is made of."""

    store: Store
    link: RedisLink | None
    index: IndexFolder
    retriever: Retriever
    vision: ClipVision | ColourVision
    model: ModelServer
    registry: Registry
    engine: Engine
    duels: Duels | None


@asynccontextmanager
async def open_expert(settings: Settings) -> AsyncIterator[Opened]:
    """Open the store, the index, the eyes and the model, and put the engine on top."""
    from core.duels import Duels
    from core.engine import Engine
    from core.registry import Registry, live_adapter
    from core.second_answers import SecondAnswers

    live = live_adapter(settings.model)
    async with AsyncExitStack() as stack:
        if link := open_link(settings):
            await stack.enter_async_context(link)
        store = await stack.enter_async_context(open_store(settings, link=link))
        index, retriever = await open_retriever(settings)
        vision = open_vision(settings)
        model = await stack.enter_async_context(open_model(settings))
        key = secret(settings.state / "routing-secret").encode()
        registry = Registry(model, settings.model.base_model, live, store=store, key=key)
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
        duels = None
        if settings.privacy.train_on_chats:
            duels = Duels(
                store,
                SecondAnswers(model, settings.model.min_support),
                settings.feedback.duels,
                route=lambda: registry.route,
                key=key,
            )
        yield Opened(store, link, index, retriever, vision, model, registry, engine, duels)


@asynccontextmanager
async def open_model(settings: Settings) -> AsyncIterator[ModelServer]:
    """A client of the model servers; starts the embedded one when nobody serves at its address."""
    from core.replicas import Replicas

    wanted = settings.model
    if len(wanted.replicas) > 1:
        if wanted.embedded:
            raise ConfigError(
                "model.base_url lists several servers, and model.embedded starts one only: set "
                "model.embedded = false and start them yourself."
            )
        clients = {url: _client(settings, url) for url in wanted.replicas}
        async with Replicas(clients, wanted.base_model) as replicas:
            yield replicas
        return
    async with _client(settings, wanted.replicas[0]) as model:
        if not wanted.embedded or await _is_served(settings, model):
            yield model
            return
        expert_folder(settings)
        from training.servers.process import model_server

        async with model_server(
            [sys.executable, "-m", "solemate", *same_settings(), "serve"],
            healthy=model.healthy,
            log_file=settings.state / "model-server.log",
        ):
            yield model


def _client(settings: Settings, url: str) -> OpenAIChatModel:
    from core.model import OpenAIChatModel

    key, admin_key = settings.secrets.model_keys
    return OpenAIChatModel(
        url,
        key,
        admin_key=admin_key,
        base_model=settings.model.base_model,
        first_token_seconds=settings.model.first_token_seconds,
        deadline_seconds=settings.model.deadline_seconds,
    )


async def _is_served(settings: Settings, model: OpenAIChatModel) -> bool:
    """Whether our model is served already; `ConfigError` when something else has its port."""
    from core.errors import ModelUnavailable
    from core.ports import port_is_free

    wanted = settings.model
    with suppress(ModelUnavailable):
        if wanted.base_model in await model.models():
            return True
    host, port = model_address(settings)
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
    from bots.feeds import Feeds
    from bots.lanes import Allowance, Lanes, Limits
    from bots.notices import Telling
    from bots.web.desk import Desk
    from bots.web.server import web_server
    from core.inbox import Inbox
    from core.messages import Platform
    from core.notices import Notices
    from core.policy import note_policy, starter
    from core.ports import listening
    from core.presence import Presence

    hook = _telegram_hook(settings)
    async with AsyncExitStack() as stack:
        with err.status("Starting the model…"):
            # The page's port is ours before anything slow begins, and until all has ended.
            listener = stack.enter_context(
                listening(settings.web.host, settings.web.port, "SOLEMATE__WEB__PORT")
            )
            opened = await stack.enter_async_context(open_expert(settings))
            await note_policy(opened.store, settings, who=starter())
            await opened.vision.warm()
        if not settings.model.embedded:
            await _tell_of_models(settings)
        tracing = stack.enter_context(open_tracing(settings, "solemate"))
        limits = settings.limits
        owner = uuid.uuid4().hex
        inbox = Inbox(opened.store, owner=owner, depth=limits.lane_depth)
        # What a killed solemate left leased need not wait for its leases to run out.
        presence = None
        if opened.store.exclusive:
            await inbox.take_over()
        else:
            presence = Presence(opened.store, settings.database.address, owner)
        feeds = Feeds()
        bots: dict[Platform, Bot] = dict.fromkeys(
            (Platform.WEB, Platform.API, Platform.TERMINAL), feeds
        )
        prepare: dict[Platform, Prepare] = {}
        tellers: dict[Platform, Teller] = {}
        telegram = await _open_telegram(stack, settings, opened, inbox)
        if telegram is not None:
            bots[Platform.TELEGRAM] = telegram.answers
            prepare[Platform.TELEGRAM] = telegram.photos.prepare
            tellers[Platform.TELEGRAM] = telegram.teller
        slack = await _open_slack(stack, settings, opened, inbox)
        if slack is not None:
            bots[Platform.SLACK] = slack.answers
            prepare[Platform.SLACK] = slack.reading.prepare
            tellers[Platform.SLACK] = slack.teller
        lanes = Lanes(
            inbox=inbox,
            store=opened.store,
            engine=opened.engine,
            bots=bots,
            limits=Limits(
                Allowance(
                    limits.messages_per_minute, limits.photos_per_minute, limits.messages_per_day
                ),
                opened.link,
            ),
            width=limits.lanes,
            prepare=prepare,
            tracing=tracing,
        )
        notices = Notices(opened.store) if settings.feedback.tell_people else None
        desk = Desk(
            opened.store,
            inbox,
            opened.engine,
            lanes,
            feeds,
            photo_limits(settings),
            settings.conversation.expire_minutes * 60,
            opened.duels,
            notices,
        )
        loop = await _open_loop(stack, settings, opened.store)
        intakes: dict[Platform, Intake] = {}
        leaders = _leaders(settings)
        if telegram is not None:
            lead = _lead(leaders, Platform.TELEGRAM)
            intakes[Platform.TELEGRAM] = _telegram_calls(
                settings, telegram, lanes, opened, hook, lead
            )
        if slack is not None:
            lead = _lead(leaders, Platform.SLACK)
            intakes[Platform.SLACK] = _slack_intake(settings, slack, lanes, opened.engine, lead)
        server = web_server(
            _web(settings, opened, desk, intakes, leaders),
            trusted_proxies=[str(one) for one in settings.web.trusted_proxies],
        )
        if presence is not None:
            await stack.enter_async_context(_shown(presence))
        async with lanes.running(), asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(_chores(settings, opened, inbox))]
            background += [tasks.create_task(intake.run()) for intake in intakes.values()]
            if notices is not None:
                telling = Telling(notices, opened.store, tellers)
                background.append(tasks.create_task(telling.run()))
            if loop is not None:
                background.append(tasks.create_task(loop.schedule.run()))
            address = settings.web.public_url or settings.web.address
            out.print(f"Solemate is ready: [bold]{address}[/bold]  (Ctrl-C stops)")
            await server.serve(sockets=[listener])
            for task in background:
                task.cancel()


async def _tell_of_models(settings: Settings) -> None:
    """Say what is wrong with model servers that we do not start; until they answer we quote."""
    from core.doctor import examine_models

    for finding in await examine_models(settings):
        _warn_of(finding)


def _warn_of(finding: Finding) -> None:
    """Say what is ill, if anything: it is in nobody's way yet, and may be well before it is."""
    if finding.advice:
        log.warning("not_well", part=finding.part, found=finding.found, advice=finding.advice)
        sentence = f"{finding.part}: {finding.found}. {finding.advice}"
        err.print(sentence, style="yellow", markup=False)


@asynccontextmanager
async def _shown(presence: Presence) -> AsyncIterator[None]:
    """Be there for other replicas, from before the first answer until after the last one."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(presence.run())
        await presence.shown.wait()
        yield
        task.cancel()


def _leaders(settings: Settings) -> dict[Platform, Leader]:
    """Who takes a platform's messages in, where one of several replicas does."""
    if not settings.database.url.startswith("postgresql"):
        return {}
    from core.leader import Leader
    from core.messages import Platform

    called = {Platform.TELEGRAM: settings.telegram.mode, Platform.SLACK: settings.slack.mode}
    return {
        platform: Leader(settings.database.address, platform)
        for platform, mode in called.items()
        if mode in ("polling", "socket")
    }


def _lead(leaders: Mapping[Platform, Leader], platform: Platform) -> Lead:
    from core.leader import alone

    return leaders[platform].run if platform in leaders else alone


async def _open_loop(stack: AsyncExitStack, settings: Settings, store: Store) -> Loop | None:
    """What trains on people's thumbs, open as long as `stack`; None where it is not installed."""
    try:
        from training.loop import opened_loop
    except ImportError as exc:
        log.warning("no_training", missing=exc.name, advice="install the extra `train`")
        return None
    if settings.training.launcher == "ray":
        _warn_of(await _examine_training(settings))
    return await stack.enter_async_context(opened_loop(settings, store))


async def _open_telegram(
    stack: AsyncExitStack, settings: Settings, opened: Opened, inbox: Inbox
) -> Telegram | None:
    """The connection to Telegram, open as long as `stack`; None without a token."""
    access = _telegram_access(settings)
    if access is None:
        return None
    from bots.telegram.front import open_telegram

    return await stack.enter_async_context(
        open_telegram(
            access,
            store=opened.store,
            inbox=inbox,
            pseudonyms=pseudonyms(settings),
            max_photo_bytes=settings.vision.max_bytes,
            duels=opened.duels,
        )
    )


def _telegram_access(settings: Settings) -> Access | None:
    """How Telegram is reached; None without a token."""
    token, chosen = settings.secrets.TELEGRAM_BOT_TOKEN, settings.telegram
    if token is None:
        return None
    from bots.telegram.front import Access
    from bots.telegram.people import Guests

    guests = Guests(
        frozenset(chosen.allowed_users),
        frozenset(chosen.allowed_chats),
        frozenset(chosen.operators),
    )
    return Access(token.get_secret_value(), chosen.base_url, chosen.base_file_url, guests)


def _probes(settings: Settings) -> dict[str, Probe]:
    """What looks at the platforms that are switched on, and at where runs go."""
    probes: dict[str, Probe] = {}
    if settings.secrets.TELEGRAM_BOT_TOKEN is not None:
        probes["telegram"] = lambda: _examine_telegram(settings)
    if settings.secrets.SLACK_BOT_TOKEN is not None:
        probes["slack"] = lambda: _examine_slack(settings)
    probes["training"] = lambda: _examine_training(settings)
    return probes


async def _examine_training(settings: Settings) -> Finding:
    if settings.training.launcher == "ray":
        from training.ray_probe import examine_cluster

        return await examine_cluster(settings)
    from training.local_probe import examine_here

    return await asyncio.to_thread(examine_here, settings)


async def _examine_slack(settings: Settings) -> Finding:
    from bots.slack.probe import examine_slack

    access = _slack_access(settings)
    assert access is not None, "there is a token"
    return await examine_slack(access)


async def _examine_telegram(settings: Settings) -> Finding:
    from bots.telegram.probe import examine_telegram

    access = _telegram_access(settings)
    assert access is not None, "there is a token"
    return await examine_telegram(access, _telegram_hook(settings))


def _telegram_hook(settings: Settings) -> Hook | None:
    """Where Telegram is to call us; None where we poll, and without a token."""
    chosen, secrets_ = settings.telegram, settings.secrets
    if secrets_.TELEGRAM_BOT_TOKEN is None or chosen.mode != "webhook":
        return None
    from bots.telegram.webhook import PATH, check_hook

    secret = secrets_.TELEGRAM_WEBHOOK_SECRET
    return check_hook(
        chosen.webhook_url or f"{settings.web.public_url.rstrip('/')}{PATH}",
        secret.get_secret_value() if secret else "",
        official=chosen.base_url.startswith("https://api.telegram.org/"),
    )


def _telegram_calls(
    settings: Settings,
    telegram: Telegram,
    lanes: Lanes,
    opened: Opened,
    hook: Hook | None,
    lead: Lead,
) -> Polling | Webhook:
    """What takes Telegram's messages in."""
    from bots.telegram.commands import Privacy
    from bots.telegram.front import Host

    def live() -> str:
        adapter = opened.registry.live
        return adapter.name if adapter else settings.model.base_model

    host = Host(
        lanes,
        opened.engine,
        Privacy(settings.privacy.keep_days, settings.privacy.train_on_chats),
        live,
    )
    return telegram.polling(host, lead=lead) if hook is None else telegram.webhook(host, hook)


async def _open_slack(
    stack: AsyncExitStack, settings: Settings, opened: Opened, inbox: Inbox
) -> slack_front.Slack | None:
    """The connection to Slack, open as long as `stack`; None without a token."""
    access = _slack_access(settings)
    if access is None:
        return None
    from bots.slack.front import open_slack

    return await stack.enter_async_context(
        open_slack(
            access,
            store=opened.store,
            inbox=inbox,
            pseudonyms=pseudonyms(settings),
            duels=opened.duels,
        )
    )


def _slack_access(settings: Settings) -> slack_front.Access | None:
    """How Slack is reached; None without a token."""
    chosen, kept = settings.slack, settings.secrets
    if kept.SLACK_BOT_TOKEN is None:
        return None
    from bots.slack.front import Access
    from bots.slack.people import Guests

    return Access(
        bot_token=kept.SLACK_BOT_TOKEN.get_secret_value(),
        app_token=kept.SLACK_APP_TOKEN.get_secret_value() if kept.SLACK_APP_TOKEN else "",
        signing_secret=(
            kept.SLACK_SIGNING_SECRET.get_secret_value() if kept.SLACK_SIGNING_SECRET else ""
        ),
        base_url=chosen.base_url,
        mode=chosen.mode,
        guests=Guests(
            frozenset(chosen.allowed_teams),
            frozenset(chosen.allowed_channels),
            frozenset(chosen.operators),
        ),
        max_photo_bytes=settings.vision.max_bytes,
        expire_seconds=settings.conversation.expire_minutes * 60,
    )


def _slack_intake(
    settings: Settings, slack: slack_front.Slack, lanes: Lanes, engine: Engine, lead: Lead
) -> Intake:
    """What takes Slack's messages in."""
    from bots.slack.home import Privacy

    privacy = Privacy(settings.privacy.keep_days, settings.privacy.train_on_chats)
    return slack.intake(lanes, engine, privacy=privacy, lead=lead)


def _web(
    settings: Settings,
    opened: Opened,
    desk: Desk,
    intakes: Mapping[Platform, Intake],
    leaders: Mapping[Platform, Leader],
) -> FastAPI:
    """The API with the chat page on it."""
    from bots.standby import StandbyStatus
    from bots.web.api import ApiOptions, create_api
    from bots.web.chat import mount_chat
    from bots.web.health import PartHealth, adapter_health, model_health, redis_health

    async def model() -> PartHealth:
        return model_health(await opened.model.health())

    async def index() -> PartHealth:
        return PartHealth(figures={"chunks": len(opened.retriever.snapshot.index)})

    async def vision() -> PartHealth:
        only = "Colours only: style and pattern need a CLIP model."
        return PartHealth(detail=only if opened.vision.colours_only else "")

    async def adapter() -> PartHealth:
        return await adapter_health(opened.registry)

    parts: dict[str, HealthCheck] = {
        "index": index,
        "vision": vision,
        "model": model,
        "adapter": adapter,
    }
    if opened.link is not None:
        parts["redis"] = partial(redis_health, opened.link)
    for platform, intake in intakes.items():
        status: Status = intake.status
        if leader := leaders.get(platform):
            status = StandbyStatus(status, leader)
        parts[platform] = _watched(desk, platform, status)
    desk.lanes.metrics.watch_route(lambda: opened.registry.route)
    desk.lanes.metrics.watch_machine(settings.state)
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
    for intake in intakes.values():
        # Before the page, whose application takes every other path.
        app.router.routes += intake.routes
    mount_chat(
        app,
        desk,
        storage_secret=secret(settings.state / "page-secret"),
    )
    return app


def _watched(desk: Desk, platform: Platform, status: Status) -> HealthCheck:
    """A platform's health check; its figures are shown from now on, too."""
    from bots.web.health import PartHealth, intake_health

    desk.lanes.metrics.watch_platform(
        platform, lambda: status.complaint, lambda: status.quiet_seconds
    )

    async def check() -> PartHealth:
        return intake_health(status)

    return check


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
    from training.adapters import Adapters

    try:
        await inbox.forget_done(older_than_seconds=7 * 86400)
        await store.forget_older_than(time.time() - settings.privacy.keep_days * 86400)
        trained = Adapters(store, settings.state / "adapters", settings.model.adapter)
        await trained.retire_flagged(now=time.time())
        await _forget_datasets(settings, store)
    except StoreError as exc:
        log.warning("nothing_forgotten", problem=str(exc))


async def _forget_datasets(settings: Settings, store: Store) -> None:
    """Delete what people who were erased said from the files of past runs."""
    try:
        from training.loop import datasets_folder, operators_runs
        from training.steps import forget_erased
    except ImportError:
        # Nothing is trained here.
        return
    await forget_erased(operators_runs(settings, store), datasets_folder(settings))


async def _serve_with_adapter(settings: Settings, options: ServerOptions) -> None:
    """Serve with the settings' adapter, or without it when it cannot be used.

    A server that `up` starts again and again must come up whatever has become of the adapter.
    """
    from core.errors import AdapterRejected
    from core.lora import check_adapter
    from core.registry import live_adapter
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
    from bots.keyboard import typed_line
    from bots.terminal import chat as chat_with

    async with some_expert(settings) as expert:
        await chat_with(expert, out, partial(typed_line, out))


async def _tag(settings: Settings, photos: Sequence[Path], as_json: bool) -> None:
    from core.errors import ImageRejected
    from core.photos import open_photo

    vision = open_vision(settings)
    results: list[tuple[Path, tuple[ImageTag, ...]]] = []
    problems: list[str] = []
    for path in photos:
        try:
            photo = open_photo(_photo_bytes(path, settings), photo_limits(settings))
        except ImageRejected as exc:
            problems.append(f"{path}: {exc}" if len(photos) > 1 else str(exc))
        else:
            results.append((path, await vision.tags(photo)))
    if as_json:
        print_json(
            [{"photo": str(path), "tags": [asdict(tag) for tag in tags]} for path, tags in results]
        )
    elif results:
        out.print(_tag_table(results))
        if vision.colours_only:
            out.print("Only colours can be told here; set vision.model to a CLIP model for more.")
    if problems:
        _complain("\n".join(problems))


def _tag_table(results: Sequence[tuple[Path, Sequence[ImageTag]]]) -> Table:
    table = Table("photo", "group", "tag", "score", "sure")
    for path, tags in results:
        for one in tags:
            sure = "yes" if one.sure else "about"
            named = escape(f"{one.name} {one.phrase}")
            table.add_row(escape(path.name), escape(one.group), named, f"{one.score:.0%}", sure)
        if not tags:
            table.add_row(escape(path.name), "", "nothing certain", "", "")
    return table


# --- small things ---


def _complain(sentence: str) -> NoReturn:
    err.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _photo_bytes(path: Path, settings: Settings) -> bytes:
    from core.errors import ImageRejected

    try:
        with path.open("rb") as file:
            return file.read(settings.vision.max_bytes + 1)
    except OSError as exc:
        raise ImageRejected(
            f"The photo {str(path)!r} cannot be read: {exc.strerror}.", code="photo_broken"
        ) from exc


def _backed_up(settings: Settings) -> Place:
    from core.backup import Place

    return Place(settings.database.address, settings.state)


def _named_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise ConfigError(f"{text!r} is no adapter; write NAME=FOLDER.")
    return name, Path(folder)


if __name__ == "__main__":
    main()
