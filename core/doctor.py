"""`solemate doctor`: looks at everything an answer needs, and says what to do where it is ill."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import platform
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import structlog
from sqlalchemy.engine import make_url

from core.backup import reading, run_tool
from core.database import SAFE_SQLITE, check_tables, newest_revision, revision_of, revisions
from core.device import cards
from core.errors import (
    AdapterRejected,
    ConfigError,
    RedisUnavailable,
    SolemateError,
    StoreError,
)
from core.knowledge import load_knowledge
from core.lora import check_adapter
from core.messages import Adapter
from core.opening import expert_folder, is_hub_name, open_link
from core.ports import health_at, port_is_free
from core.printing import err
from core.redis_link import RedisLink
from core.registry import live_adapter
from core.routes import last_route, registered
from core.settings import Settings, at_root
from core.store import Store
from core.tags import load_tags

log = structlog.get_logger()

ENOUGH_BYTES = 1_000_000_000
# https://www.postgresql.org/support/versioning/
OLDEST_POSTGRES = 14
# Of several in one place, one is enough.
_PACKAGES = (
    ("torch",),
    ("transformers",),
    ("sentence-transformers",),
    ("openai",),
    ("faiss-cpu", "faiss-gpu"),
    ("nicegui",),
)
_NOT_SERVED = (httpx.HTTPError, ValueError, KeyError, TypeError)


class Health(StrEnum):
    """How a part is: fine, fine for now, or in the way of an answer."""

    OK = "ok"
    WARNING = "warning"
    ILL = "ill"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one part; `advice` says what to do unless it is fine."""

    part: str
    health: Health
    found: str
    advice: str = ""


Probe = Callable[[], Awaitable[Finding]]


async def examine(settings: Settings, probes: Mapping[str, Probe] | None = None) -> list[Finding]:
    """Look at every part; never raises for an ill one.

    `probes` look at parts that are not known here. One that raises `ConfigError` has an ill part.
    """
    found = [finding async for finding in _findings(settings)]
    return found + [await _probed(part, probe) for part, probe in (probes or {}).items()]


async def _probed(part: str, probe: Probe) -> Finding:
    try:
        return await probe()
    except ConfigError as exc:
        return Finding(part, Health.ILL, "not set up", str(exc))


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    yield _python()
    yield _packages()
    yield _sqlite(settings)
    yield _disk(settings.state)
    yield await _store(settings)
    if settings.database.url.startswith("postgresql"):
        yield await asyncio.to_thread(_backup, settings)
    if link := open_link(settings):
        async with link:
            yield await examine_redis(link)
    if settings.tracing.endpoint:
        yield await _tracing(settings)
    yield await asyncio.to_thread(_knowledge, settings)
    yield await asyncio.to_thread(_tags, settings)
    yield _embedder(settings)
    yield _vision(settings)
    yield await asyncio.to_thread(_device, settings)
    for finding in await examine_models(settings):
        yield finding
    yield await _page(settings)


async def examine_models(settings: Settings) -> list[Finding]:
    """Look at each model server, and at its adapter."""
    found = []
    live = await asyncio.to_thread(_live, settings)
    for url in settings.model.replicas:
        adapter = live if isinstance(live, Finding) else await _adapter(settings, url, live)
        found += [await _model(settings, url), adapter]
    return found


async def warn_of_models(settings: Settings) -> None:
    """Say what is wrong with model servers that we do not start; until they answer we quote."""
    for finding in await examine_models(settings):
        warn_of(finding)


def warn_of(finding: Finding) -> None:
    """Say what is ill, if anything: it is in nobody's way yet, and may be well before it is."""
    if finding.advice:
        log.warning("not_well", part=finding.part, found=finding.found, advice=finding.advice)
        sentence = f"{finding.part}: {finding.found}. {finding.advice}"
        err.print(sentence, style="yellow", markup=False)


def _python() -> Finding:
    return Finding("python", Health.OK, platform.python_version())


def _packages() -> Finding:
    versions, missing = [], []
    for names in _PACKAGES:
        found = [f"{name} {version}" for name in names if (version := _version(name))]
        versions += found
        missing += [] if found else [" or ".join(names)]
    if missing:
        return Finding("packages", Health.ILL, f"missing: {', '.join(missing)}", "Run `make env`.")
    return Finding("packages", Health.OK, ", ".join(versions))


def _version(package: str) -> str:
    """The installed version, "" without one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _sqlite(settings: Settings) -> Finding:
    version = sqlite3.sqlite_version
    if settings.database.url.startswith("sqlite") and sqlite3.sqlite_version_info < SAFE_SQLITE:
        return Finding(
            "sqlite",
            Health.WARNING,
            version,
            "Older than 3.51.3, which mends a WAL bug between two writers; solemate keeps to one.",
        )
    return Finding("sqlite", Health.OK, version)


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:.1f} GB free under {existing}"
    if free < ENOUGH_BYTES:
        return Finding("disk", Health.ILL, found, "Make room: the database needs 1 GB to be safe.")
    return Finding("disk", Health.OK, found)


async def _store(settings: Settings) -> Finding:
    """Open the database as `up` does, unless a running solemate holds it or its tables are old."""
    address, where = settings.database.address, settings.database.url.rpartition("@")[2]
    # PostgreSQL lets others in; beside a SQLite file's one writer nobody can try to write.
    running = await health_at(settings.web.address) if address.startswith("sqlite") else None
    if running is not None:
        return _store_in_use(running)
    try:
        if old := await asyncio.to_thread(_old_tables, address):
            advice = "`solemate up` brings them up to date, after a `solemate backup` of its own."
            return Finding("store", Health.WARNING, old, advice)
        async with Store(address) as store:
            server = await store.run(lambda connection: connection.dialect.server_version_info)
    except SolemateError as exc:
        return Finding("store", Health.ILL, "cannot be opened", str(exc))
    version = int(server[0]) if server and address.startswith("postgresql") else OLDEST_POSTGRES
    if version < OLDEST_POSTGRES:
        advice = "Nobody mends it any more: upgrade it."
        return Finding("store", Health.WARNING, f"PostgreSQL {version} at {where}", advice)
    return Finding("store", Health.OK, where)


def _store_in_use(running: Mapping[str, Any]) -> Finding:
    """What the solemate that has the database says of it."""
    if "store" in _unwell(running, "down"):
        advice = "Its log says why: is the disk full?"
        return Finding("store", Health.ILL, "the running solemate cannot use it", advice)
    return Finding("store", Health.OK, "in use by the running solemate")


def _unwell(running: Mapping[str, Any], *conditions: str) -> list[str]:
    """The parts that a running solemate calls so."""
    parts = running.get("parts", {})
    return [name for name, part in parts.items() if part.get("status") in conditions]


def _old_tables(address: str) -> str:
    """What is to be said of a database that an older solemate has written, "" of any other."""
    file = make_url(address).database
    if address.startswith("sqlite") and not (file and Path(file).exists()):
        return ""
    with reading(address) as connection:
        found = revision_of(connection)
    newest = newest_revision()
    if not found or found == newest or found not in revisions():
        return ""
    return f"its tables are of version {found}, this program's of {newest}"


def _backup(settings: Settings) -> Finding:
    """Whether `solemate backup` could dump the database: older programs refuse newer servers."""
    try:
        version = run_tool("pg_dump", "--version").split()[2]
    except StoreError as exc:
        advice = f"`solemate backup` needs it. {exc}"
        return Finding("backup", Health.WARNING, "pg_dump cannot be used", advice)
    server = None
    # The store's own line says that it is away.
    with suppress(StoreError), reading(settings.database.address) as connection:
        server = connection.dialect.server_version_info
    if server and int(version.partition(".")[0]) < int(server[0]):
        advice = f"Install PostgreSQL's client programs of version {server[0]} or newer."
        found = f"pg_dump {version} cannot back up PostgreSQL {server[0]}"
        return Finding("backup", Health.WARNING, found, advice)
    return Finding("backup", Health.OK, f"pg_dump {version}")


async def examine_redis(link: RedisLink) -> Finding:
    """Whether Redis takes what is written there."""
    where = link.url.rpartition("@")[2].removeprefix("redis://")
    try:
        await link.check()
    except RedisUnavailable as exc:
        advice = (
            f"{exc} Check redis.url and REDIS_PASSWORD; meanwhile each process counts limits "
            "for itself."
        )
        return Finding("redis", Health.WARNING, f"{where} cannot be used", advice)
    return Finding("redis", Health.OK, where)


async def _tracing(settings: Settings) -> Finding:
    """Whether spans would arrive; answers do not need them, and go on without."""
    endpoint = settings.tracing.endpoint
    if find_spec("opentelemetry") is None:
        advice = 'Install the extra `tracing`, or set tracing.endpoint = "": `up` does not start.'
        return Finding("tracing", Health.ILL, "opentelemetry is not installed", advice)
    advice = "Start the collector, or correct tracing.endpoint; answers are given without it."
    headers = {"Content-Type": "application/x-protobuf"}
    try:
        async with httpx.AsyncClient(timeout=5) as client:
            # An empty message is a request with no spans.
            address = f"{endpoint.rstrip('/')}/v1/traces"
            answer = await client.post(address, content=b"", headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL):
        return Finding("tracing", Health.WARNING, f"no answer from {endpoint}", advice)
    if not answer.is_success:
        found = f"{endpoint} answers {answer.status_code}"
        advice = f"It has to take OTLP over HTTP, as collectors do on port 4318. {advice}"
        return Finding("tracing", Health.WARNING, found, advice)
    return Finding("tracing", Health.OK, endpoint)


def _knowledge(settings: Settings) -> Finding:
    try:
        chunks = load_knowledge(at_root(settings.retrieval.knowledge))
    except SolemateError as exc:
        return Finding("knowledge", Health.ILL, "cannot be read", str(exc))
    return Finding("knowledge", Health.OK, f"{len(chunks)} chunks")


def _tags(settings: Settings) -> Finding:
    try:
        groups = load_tags(at_root(settings.vision.tags))
    except SolemateError as exc:
        return Finding("tags", Health.ILL, "cannot be read", str(exc))
    count = sum(len(group.tags) for group in groups)
    return Finding("tags", Health.OK, f"{count} tags in {len(groups)} groups")


def _embedder(settings: Settings) -> Finding:
    name = settings.retrieval.embedding_model
    return _folder_or_hub("embeddings", name, "words only", "retrieval.embedding_model")


def _vision(settings: Settings) -> Finding:
    name = settings.vision.model
    found = "colours only: style and pattern need a CLIP model"
    return _folder_or_hub("vision", name, found, "vision.model")


def _folder_or_hub(part: str, name: str, without: str, key: str) -> Finding:
    """A model named in the settings: a folder here, something of a hub, or nothing."""
    if not name:
        return Finding(part, Health.OK, without)
    if at_root(name).is_dir():
        return Finding(part, Health.OK, name)
    if is_hub_name(name):
        if _is_cached(name):
            return Finding(part, Health.OK, f"{name}, downloaded before")
        return Finding(
            part,
            Health.WARNING,
            f"{name} of a model hub is not here yet",
            "Downloaded at first use; a machine without a network needs its folder instead.",
        )
    return Finding(part, Health.ILL, f"{name} is no folder", f"Correct {key}, or empty it.")


def _is_cached(name: str) -> bool:
    """Whether a hub model lies in the cache, with all of its weights; nobody is asked."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return isinstance(config, str) and _has_weights(Path(config).parent)


def _has_weights(folder: Path) -> bool:
    """Whether a download has ended: one that was cut leaves an index, and links to nothing."""
    for kind in ("model.safetensors", "pytorch_model.bin"):
        if (folder / kind).is_file():
            return True
        index = folder / f"{kind}.index.json"
        if index.is_file():
            files = set(json.loads(index.read_bytes())["weight_map"].values())
            return all((folder / one).is_file() for one in files)
    return False


def _device(settings: Settings) -> Finding:
    """Whether there is a card where the settings want one."""
    wanted = {
        "retrieval.device": settings.retrieval.device,
        "vision.device": settings.vision.device,
    }
    keys = [key for key, device in wanted.items() if device.startswith("cuda")]
    if not keys:
        return Finding("device", Health.OK, "the CPU, as the settings say")
    found = cards()
    if not found:
        return Finding(
            "device",
            Health.ILL,
            "PyTorch sees no NVIDIA card",
            f'Install the driver and a PyTorch for CUDA, or set {" and ".join(keys)} to "cpu".',
        )
    if not _version("faiss-gpu"):
        advice = "Vectors are searched on the CPU: install faiss-gpu in place of faiss-cpu."
        return Finding("device", Health.WARNING, f"{', '.join(found)}, without faiss-gpu", advice)
    return Finding("device", Health.OK, ", ".join(found))


async def _model(settings: Settings, url: str) -> Finding:
    try:
        names = await _served(settings, url)
    except httpx.HTTPStatusError as exc:
        advice = "Check MODEL_API_KEY and model.base_url."
        return Finding("model", Health.ILL, f"{url} answers {exc.response.status_code}", advice)
    except _NOT_SERVED:
        return _model_at_rest(settings, url)
    if settings.model.base_model not in names:
        return Finding(
            "model",
            Health.ILL,
            f"{url} serves {', '.join(names) or 'nothing'}",
            f"It must serve model.base_model, which is {settings.model.base_model!r}.",
        )
    if not await _is_admitted(settings, url):
        known = settings.secrets.MODEL_ADMIN_KEY is not None
        found = "refuses our admin key" if known else "wants a key for adapters, which we lack"
        advice = (
            f"{'Check' if known else 'Set'} MODEL_ADMIN_KEY, here and for `solemate serve`: "
            "without it no adapter can be given to this server."
        )
        return Finding("model", Health.WARNING, f"{url} {found}", advice)
    return Finding("model", Health.OK, f"{url} serves {', '.join(names)}")


async def _is_admitted(settings: Settings, url: str) -> bool:
    """Whether the key that loads adapters is taken; nothing is loaded or unloaded to find out."""
    key = settings.secrets.model_keys[1] or settings.secrets.model_keys[0]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    nobody = {"lora_name": "an adapter that nobody has"}
    async with httpx.AsyncClient(timeout=5, headers=headers) as client:
        with suppress(httpx.HTTPError):
            answer = await client.post(f"{url}/unload_lora_adapter", json=nobody)
            return answer.status_code not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return True


async def _served(settings: Settings, url: str) -> list[str]:
    """The names that a model server can be asked for; raises one of `_NOT_SERVED`."""
    headers = {}
    if settings.secrets.MODEL_API_KEY:
        headers["Authorization"] = f"Bearer {settings.secrets.MODEL_API_KEY.get_secret_value()}"
    async with httpx.AsyncClient(timeout=5) as client:
        answer = await client.get(f"{url}/models", headers=headers)
        answer.raise_for_status()
        return [model["id"] for model in answer.json()["data"]]


def _model_at_rest(settings: Settings, url: str) -> Finding:
    """Nobody answers at the model's address: fine when `solemate up` is to start it."""
    if not settings.model.embedded:
        advice = "Start the model server, or correct model.base_url."
        return Finding("model", Health.ILL, f"no answer from {url}", advice)
    try:
        expert_folder(settings)
    except ConfigError as exc:
        return Finding("model", Health.ILL, "nothing to start", str(exc))
    return Finding("model", Health.OK, f"{settings.model.expert}, started when it is needed")


def _live(settings: Settings) -> Adapter | Finding | None:
    """The adapter that should answer, by the last promotion or by the settings."""
    try:
        default = live_adapter(settings.model)
    except ConfigError as exc:
        return Finding("adapter", Health.ILL, f"{settings.model.adapter} is no name", str(exc))
    address = settings.database.address
    file = make_url(address).database
    if address.startswith("sqlite") and not (file and Path(file).exists()):
        return default
    try:
        with reading(address) as connection:
            route = last_route(connection) if check_tables(connection) else None
            known = registered(connection, [route.live]) if route else {}
    except StoreError as exc:
        found = "who answers people is not known"
        return Finding("adapter", Health.WARNING, found, str(exc))
    if route is None or (default is not None and route.live == default.name):
        return default
    if route.live and route.live not in known:
        advice = "`solemate adapters list` shows those that there are: promote one of them."
        return Finding("adapter", Health.WARNING, f"nobody registered {route.live}", advice)
    return known.get(route.live)


async def _adapter(settings: Settings, url: str, adapter: Adapter | None) -> Finding:
    """Whether the adapter answers. Without it the base model does, so it is never in the way."""
    if adapter is None:
        return Finding("adapter", Health.OK, "none: the model answers as it is")
    served: list[str] = []
    with suppress(*_NOT_SERVED):
        served = await _served(settings, url)
    if adapter.name in served:
        return Finding("adapter", Health.OK, f"{url} has {adapter.name}")
    mend, others = 'Mend model.adapter_path, or set model.adapter = "".', "the model"
    if adapter.name != settings.model.adapter:
        mend = "Promote another, or go back with `solemate adapters rollback`."
        others = "the one before it, or the model,"
    without = f"Without {adapter.name} {others} answers."
    if adapter.path is None:
        advice = f'Start that server with it, or set model.adapter = "". {without}'
        return Finding("adapter", Health.WARNING, f"{url} has no {adapter.name}", advice)
    here = await asyncio.to_thread(adapter.path.is_dir)
    if settings.model.embedded or here:
        # The shipped server has one model, whatever the adapter was trained on.
        expert = str(at_root(settings.model.expert))
        fitted = replace(adapter, base_model=expert) if settings.model.embedded else adapter
        try:
            await asyncio.to_thread(check_adapter, fitted)
        except AdapterRejected as exc:
            found = f"{adapter.name} cannot be used"
            return Finding("adapter", Health.WARNING, found, f"{exc} {mend} {without}")
    if not here:
        found = f"{adapter.name} of {adapter.base_model}: no folder {adapter.path} here"
        advice = f"It has to be there on the model server's machine. {mend} {without}"
        return Finding("adapter", Health.WARNING, found, advice)
    if served:
        advice = f"Its log says why, or `solemate up` loads it. {without}"
        return Finding("adapter", Health.WARNING, f"{url} has not loaded {adapter.name}", advice)
    return Finding("adapter", Health.OK, f"{adapter.name}, loaded when it is needed")


async def _page(settings: Settings) -> Finding:
    address = settings.web.address
    if (running := await health_at(address)) is not None:
        found = f"solemate is running at {address}"
        if down := _unwell(running, "down"):
            advice = f"It answers nobody: see {address}/health, and its log."
            return Finding("page", Health.ILL, f"{found}, without {', '.join(down)}", advice)
        return Finding("page", Health.OK, found)
    if port_is_free(settings.web.host, settings.web.port):
        return Finding("page", Health.OK, f"{address} is free")
    return Finding(
        "page",
        Health.ILL,
        f"port {settings.web.port} is taken by another program",
        "Choose another with SOLEMATE__WEB__PORT.",
    )
