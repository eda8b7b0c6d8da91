"""Opens the engine's parts from the settings: index, eyes, options, and what they need."""

from __future__ import annotations

import fcntl
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
import typer

from core.errors import ConfigError, SolemateError, StoreError
from core.logs import configure_logs
from core.printing import err
from core.settings import Settings, at_root, load_settings
from core.tracing import Tracing

if TYPE_CHECKING:
    from core.backup import Place
    from core.colours import ColourVision
    from core.engine import Options
    from core.index import IndexFolder
    from core.leader import Leader
    from core.messages import Platform
    from core.photos import PhotoLimits
    from core.privacy import Pseudonyms
    from core.redis_link import RedisLink
    from core.retrieval import Retriever, Snapshot
    from core.store import Store
    from core.vision import ClipVision

# Modules that load torch are imported where they are needed: `solemate --help` takes no second.

log = structlog.get_logger()
OnDisk = tuple[str, int]


def use_settings(context: typer.Context, config: Path | None, profile: str | None) -> Settings:
    """Read the settings, hand them to the command, and log as they say."""
    settings = load_settings(config, profile=profile)
    configure_logs(
        settings.logging.level, at_root(settings.logging.file) if settings.logging.file else None
    )
    context.obj = settings
    return settings


def with_profile(context: typer.Context, profile: str | None) -> Settings:
    """The settings, read again where the command itself names a profile."""
    if profile is not None:
        return use_settings(context, context.find_root().params["config"], profile)
    settings: Settings = context.obj
    return settings


@contextmanager
def open_tracing(settings: Settings, service: str) -> Iterator[Tracing]:
    """Where the spans of this process go, which calls itself `service`; sent on leaving."""
    wanted = settings.tracing
    if not wanted.endpoint:
        yield Tracing()
        return
    try:
        from core.otlp import OtlpTracing
    except ImportError as exc:
        raise ConfigError(
            f"tracing.endpoint is set, and {exc.name!r} is not installed: install the extra "
            '`tracing`, or set tracing.endpoint = "".'
        ) from exc
    tracing = OtlpTracing(wanted.endpoint, service, wanted.share)
    try:
        yield tracing
    finally:
        tracing.close()


def open_store(
    settings: Settings,
    *,
    exclusive: bool = True,
    link: RedisLink | None = None,
    upgrade: bool = False,
) -> Store:
    """The database, to be opened with `async with`; `link` remembers the last rounds beside it.

    With `upgrade` tables of an older version are backed up and brought to ours; else refused.
    """
    from core.rounds import Rounds
    from core.store import Store

    rounds = None
    if link is not None:
        kept = settings.conversation
        rounds = Rounds(link, rounds=kept.rounds, expire_seconds=kept.expire_minutes * 60)
    return Store(
        settings.database.address,
        exclusive=exclusive,
        rounds=rounds,
        before_upgrade=partial(_back_up_old_tables, settings) if upgrade else None,
    )


def backed_up(settings: Settings) -> Place:
    """What a backup is made of, and restored to."""
    from core.backup import Place

    return Place(settings.database.address, settings.state)


def _back_up_old_tables(settings: Settings) -> None:
    """Keep what the older program can read: only with it there is a way back."""
    from core.backup import back_up_before_upgrade

    place = backed_up(settings)
    try:
        kept = f"a backup of them is in {back_up_before_upgrade(place).file}"
    except StoreError as exc:
        if place.kind == "sqlite":
            raise
        # Whoever looks after a PostgreSQL may have backups without our having pg_dump.
        kept = f"without a backup: {str(exc).rstrip('.')}"
    log.warning("tables_are_old", kept=kept)
    sentence = f"The database's tables are of an older solemate, and are upgraded: {kept}."
    err.print(sentence, style="yellow", markup=False)


def open_link(settings: Settings) -> RedisLink | None:
    """The connection to Redis, to be closed; None where there is none."""
    from core.redis_link import RedisLink

    if not settings.redis.url:
        return None
    password = settings.secrets.REDIS_PASSWORD
    return RedisLink(settings.redis.url, password.get_secret_value() if password else "")


def open_leader(settings: Settings, platform: Platform) -> Leader | None:
    """Who takes a platform's messages in, of several replicas; None where there is only one."""
    if not settings.database.url.startswith("postgresql"):
        return None
    from core.leader import Leader

    return Leader(settings.database.address, platform)


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
        history_rounds=model.history_rounds,
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
        open_embedder(
            _named_model(wanted.embedding_model, "retrieval.embedding_model"), wanted.device
        ),
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
        CrossEncoderReranker(_named_model(wanted.reranker, "retrieval.reranker"), wanted.device)
        if wanted.reranker
        else None
    )
    return folder, Retriever(await load_snapshot(settings, folder), options, reranker)


async def load_snapshot(settings: Settings, folder: IndexFolder) -> Snapshot:
    """The index as it is on disk now, with the calibration that was fitted to it."""
    from core.calibration import calibration_for
    from core.retrieval import Snapshot

    index = await folder.load()
    file = calibration_file(settings)
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
    file = calibration_file(settings)
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
        load_clip(_named_model(wanted.model, "vision.model"), wanted.device),
        groups,
        max_tags=wanted.max_tags,
        min_score=wanted.min_score,
        cache=settings.state / "vision",
    )


def photo_limits(settings: Settings) -> PhotoLimits:
    """How large a photo may be."""
    from core.photos import PhotoLimits

    return PhotoLimits(max_bytes=settings.vision.max_bytes, max_pixels=settings.vision.max_pixels)


def model_address(settings: Settings) -> tuple[str, int]:
    """The host and port of `model.base_url`; of the first of several."""
    address = urlsplit(settings.model.replicas[0])
    usual = 443 if address.scheme == "https" else 80
    return address.hostname or "127.0.0.1", address.port or usual


def expert_folder(settings: Settings) -> Path:
    """The model that the embedded server serves; `ConfigError` where the folder holds none."""
    folder = at_root(settings.model.expert)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ConfigError(
            f"model.expert = {settings.model.expert!r} holds no model: run `solemate models "
            "build`, get the folder from the repository again, or name another."
        )
    return folder


def model_name(name: str) -> str:
    """A folder of the project as a full path; a hub name as it is."""
    return str(at_root(name)) if name and at_root(name).exists() else name


def is_hub_name(name: str) -> bool:
    """Whether a model that is no folder here may be one of a hub, (`OWNER/`)`NAME`, and no path."""
    return name.count("/") <= 1 and not name.startswith((".", "/", "data/"))


def _named_model(name: str, key: str) -> str:
    """As `model_name`; `ConfigError` for a path to nothing, which no hub need be asked for."""
    if name and not at_root(name).exists() and not is_hub_name(name):
        raise ConfigError(
            f"{key} = {name!r} is neither a folder here nor a hub's OWNER/NAME: correct it, "
            'or set it to "" to do without.'
        )
    return model_name(name)


def calibration_file(settings: Settings) -> Path:
    """Where `kb calibrate` keeps what it found."""
    return settings.state / "calibration.json"


def pseudonyms(settings: Settings) -> Pseudonyms:
    """What people of chat platforms are called in the store: the same as long as its folder."""
    from core.privacy import Pseudonyms

    return Pseudonyms(secret(settings.state / "people-secret").encode())


def secret(file: Path) -> str:
    """A random secret that lives as long as its file, which is made where there is none.

    Replicas that begin together on one folder get the same one.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with (file.parent / ".making-secrets").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                _make_secret(file)
    return file.read_text("utf-8")


def _make_secret(file: Path) -> None:
    """Write it, so that nobody reads half of it."""
    work = file.with_name(f".{file.name}")
    work.unlink(missing_ok=True)
    work.touch(mode=0o600)
    work.write_text(secrets.token_urlsafe(32), "utf-8")
    work.replace(file)


def own_command(*arguments: str) -> list[str]:
    """This program with these arguments and the settings of this process, for a child."""
    return [sys.executable, "-m", "solemate", *_chosen_settings(), *arguments]


def _chosen_settings() -> list[str]:
    kept: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if argument.startswith(("--config=", "--profile=")):
            kept.append(argument)
        elif argument in ("--config", "--profile"):
            kept += [argument, next(arguments)]
    return kept
