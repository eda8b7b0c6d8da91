"""The command line: reads the settings, opens things, and hands them to each other."""

from __future__ import annotations

import asyncio
import errno
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import datetime
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
    backed_up,
    on_disk,
    open_tracing,
    open_vision,
    photo_limits,
    take_up,
    use_settings,
    with_profile,
)
from core.printing import Json, err, out, print_json, print_rows
from core.running import run
from core.settings import Settings
from core.spelling import CONVERSATION
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
    serve,
    train,
)
from training.commands import inbox as inbox_commands

if TYPE_CHECKING:
    from bots.opening import OpenFront
    from bots.terminal import Expert
    from core.doctor import Probe
    from core.expert import Opened
    from core.inbox import Inbox
    from core.messages import ImageTag, Platform
    from core.redis_link import RedisLink
    from core.store import Store

# Modules that load torch are imported where they are needed: `solemate --help` takes no second.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A shoe expert to chat with, that gets better from its users' thumbs.",
)
log = structlog.get_logger()


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr and exit status 1."""
    try:
        sys.exit(app(prog_name="solemate", standalone_mode=False))
    except SolemateError as exc:
        _complain(str(exc))
    except typer.Abort:
        _complain("Stopped; nothing was done.")
    except typer.TyperException as exc:
        _complain_of_usage(exc)
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
    if conversation is not None and not CONVERSATION.fits(conversation):
        raise ConfigError(f"--conversation must be {CONVERSATION.words}, not {conversation!r:.80}.")
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


app.command()(serve.serve)


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
    models: Annotated[
        bool, typer.Option("--models", help="Keep merged models above 1 GB, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Back up the database, adapters and secrets into one checked file, while all runs."""
    from core.backup import back_up, backups_of

    settings: Settings = context.obj
    with err.status("Backing up…"):
        place, target = backed_up(settings), folder or backups_of(settings.state)
        made = run(back_up(place, target, keep_days=keep_days, models=models))
    if as_json:
        print_json({**asdict(made), "file": str(made.file)})
        return
    out.print(f"{made.file} holds {made.files} files in {made.size / 1e6:.1f} MB, read again.")
    for one in made.left_out:
        out.print(
            f"{one.folder} ({one.bytes / 1e9:.1f} GB) is left out: `solemate train export` makes "
            f"it again from {one.adapter}. --models keeps it, too."
        )
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
        done = run(restore_from(backed_up(context.obj), file))
    if as_json:
        print_json({**asdict(done), "set_aside": [str(folder) for folder in done.set_aside]})
        return
    out.print(f"Restored {done.files} files; {done.erased_again} people were erased again.")
    if done.set_aside:
        lies = " and ".join(str(folder) for folder in done.set_aside)
        out.print(f"What was there lies in {lies}: delete it when all is well.")
    for one in done.left_out:
        out.print(
            f"{one.folder} was not in the backup: make it again with `solemate train export "
            f"--adapter {one.adapter} --output {one.folder}`."
        )
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
    ("inbox", inbox_commands.group),
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


@asynccontextmanager
async def some_expert(settings: Settings) -> AsyncIterator[Expert]:
    """Whoever can answer: the solemate that is running, or one made for this question."""
    from core.ports import answers_at

    if await answers_at(settings.web.address):
        from bots.remote import RemoteExpert

        async with RemoteExpert(settings.web.address) as expert:
            yield expert
        return
    with err.status("Starting the model…"):
        from core.expert import open_expert
        from training.opening import embedded_server

        stack = AsyncExitStack()
        opened = await stack.enter_async_context(open_expert(settings, embedded_server))
    async with stack:
        if not opened.registry.complete:
            from core.doctor import warn_of_models

            await warn_of_models(settings)
        yield opened.engine


# --- what the commands do ---


async def _up(settings: Settings) -> None:
    from bots.feeds import Feeds
    from bots.notices import Telling
    from bots.opening import open_lanes
    from core.expert import open_expert
    from core.inbox import Inbox
    from core.notices import Notices
    from core.policy import note_policy, starter
    from core.ports import listening
    from core.presence import Presence
    from training.opening import embedded_server, open_training

    platforms = _platforms(settings)
    async with AsyncExitStack() as stack:
        with err.status("Starting the model…"):
            # The page's port is ours before anything slow begins, and until all has ended.
            listener = stack.enter_context(
                listening(settings.web.host, settings.web.port, "SOLEMATE__WEB__PORT")
            )
            opened = await stack.enter_async_context(
                open_expert(settings, embedded_server, upgrade=True)
            )
            await note_policy(opened.store, settings, who=starter())
            await opened.vision.warm()
        await warn_of_others(settings, opened.link, complete=opened.registry.complete)
        tracing = stack.enter_context(open_tracing(settings, "solemate"))
        owner = uuid.uuid4().hex
        inbox = Inbox(opened.store, owner=owner, depth=settings.limits.lane_depth)
        # What a killed solemate left leased need not wait for its leases to run out.
        presence = None
        if opened.store.exclusive:
            await inbox.take_over()
        else:
            presence = Presence(opened.store, settings.database.address, owner)
        fronts = {
            platform: await stack.enter_async_context(open_front(opened, inbox))
            for platform, open_front in platforms.items()
        }
        feeds = Feeds()
        lanes = open_lanes(settings, opened, inbox, feeds, fronts, tracing)
        notices = Notices(opened.store) if settings.feedback.tell_people else None
        loop = await stack.enter_async_context(open_training(settings, opened.store))
        intakes = {platform: front.intake(lanes) for platform, front in fronts.items()}
        # The page's packages take a second to import, which the port need not wait for.
        from bots.web.opening import open_desk, open_web

        desk = open_desk(settings, opened, inbox, lanes, feeds, notices)
        server = open_web(settings, opened, desk, intakes)
        if presence is not None:
            await stack.enter_async_context(presence.running())
        async with lanes.running(), asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(_chores(settings, opened, inbox))]
            background += [tasks.create_task(intake.run()) for intake in intakes.values()]
            if notices is not None:
                tellers = {platform: front.teller for platform, front in fronts.items()}
                telling = Telling(notices, opened.store, tellers)
                background.append(tasks.create_task(telling.run()))
            if loop is not None:
                background.append(tasks.create_task(loop.schedule.run()))
            address = settings.web.public_url or settings.web.address
            out.print(f"Solemate is ready: [bold]{address}[/bold]  (Ctrl-C stops)")
            await server.serve(sockets=[listener])
            for task in background:
                task.cancel()


def _platforms(settings: Settings) -> dict[Platform, OpenFront]:
    """What opens the chat platforms that are switched on."""
    from core.messages import Platform

    found: dict[Platform, OpenFront] = {}
    if settings.secrets.TELEGRAM_BOT_TOKEN is not None:
        from bots.telegram import opening as telegram

        found[Platform.TELEGRAM] = partial(telegram.open_front, settings, telegram.hook(settings))
    if settings.secrets.SLACK_BOT_TOKEN is not None:
        from bots.slack import opening as slack

        found[Platform.SLACK] = partial(slack.open_front, settings)
    return found


async def warn_of_others(
    settings: Settings, link: RedisLink | None, *, complete: bool = True
) -> None:
    """Say what is wrong with servers that we do not start; people are answered without them.

    Also with our own, where the answers are not `complete` without the adapter.
    """
    from core.doctor import examine_redis, warn_of, warn_of_models

    if link is not None:
        warn_of(await examine_redis(link))
    if not (settings.model.embedded and complete):
        await warn_of_models(settings)


def _probes(settings: Settings) -> dict[str, Probe]:
    """What looks at the platforms that are switched on, and at where runs go."""
    from training.opening import examine_serving, examine_training, serves_here

    probes: dict[str, Probe] = {}
    if settings.secrets.TELEGRAM_BOT_TOKEN is not None:
        from bots.telegram import opening as telegram

        probes["telegram"] = partial(telegram.examine, settings)
    if settings.secrets.SLACK_BOT_TOKEN is not None:
        from bots.slack import opening as slack

        probes["slack"] = partial(slack.examine, settings)
    if serves_here(settings):
        probes["serving"] = partial(examine_serving, settings)
    probes["training"] = partial(examine_training, settings)
    return probes


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
    from core.backup import delete_upgrade_backups
    from training.opening import forget_erased_people

    try:
        await inbox.forget_done(older_than_seconds=7 * 86400)
        await store.forget_older_than(time.time() - settings.privacy.keep_days * 86400)
        await forget_erased_people(settings, store)
        await store.wipe()
        await asyncio.to_thread(delete_upgrade_backups, settings.state)
    except (StoreError, OSError) as exc:
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


def _complain_of_usage(exc: typer.TyperException) -> NoReturn:
    """Say what is wrong with the command line; whoever gave no command at all has read the help."""
    if not (words := exc.format_message()):
        sys.exit(1)
    context: typer.Context | None = getattr(exc, "ctx", None)
    command = context.command_path if context else "solemate"
    ended = words if words.endswith((".", "?")) else f"{words}."
    _complain(f"{ended} See `{command} --help`.")


def _photo_bytes(path: Path, settings: Settings) -> bytes:
    from core.errors import ImageRejected

    try:
        with path.open("rb") as file:
            return file.read(settings.vision.max_bytes + 1)
    except OSError as exc:
        raise ImageRejected(
            f"The photo {str(path)!r} cannot be read: {exc.strerror}.", code="photo_broken"
        ) from exc


if __name__ == "__main__":
    main()
