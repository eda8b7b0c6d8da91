"""Backups: one checked file, made while everything runs.

A backup is a ZIP with the database as it was at one moment, the adapters and secrets of the state
folder, the SFT that those adapters stand on, and a `manifest.json` that names each file with its
SHA-256. What can be made again (index, caches, logs, a large merged model) and the datasets of
runs, which hold people's texts, stay out.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sqlite3
import subprocess
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import IO, Annotated, Literal

import sqlalchemy as sa
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.engine import make_url

from core.errors import DataError, NotFound, StoreError
from core.tables import tombstones

log = structlog.get_logger()

KEPT = ("adapters", "calibration.json", "*-secret")
"""What is kept of the state folder: what cannot be made again, and what names people.

A restore exchanges it. What is kept of `RUNS` besides is only put where it is missing.
"""
RUNS = "runs"
MODEL_BYTES = 1 << 30
"""A larger merged model is left out unless it is asked for: its SFT adapter makes it again."""
KEPT_DAYS = 30.0
"""How long backups are kept that are made by themselves: each night, and before an upgrade.

An erased person's words are in the older ones, and after so many days in none.
"""
KEPT_UPGRADES = 3
"""So many of those before an upgrade: one that fails is tried, and backed up, at each start."""
LAST_BACKUP = "last-backup"
"""A file of the state folder that is touched after each backup, for whoever watches their age."""
STATE = "state"
"""The folder inside a backup that holds what was kept of the state folder."""

DUMP = "database.dump"
"""What `pg_dump` wrote, in a backup and in what a restore sets aside."""
SCRATCH_SCHEMA = "solemate_restoring"
"""Where a restore prepares PostgreSQL's tables; it stays behind only where one was killed."""

_UPGRADE = "-upgrade"
_MANIFEST = "manifest.json"
_EXPORT = "export.yaml"
_MERGED_FROM = re.compile(r"^adapter_name_or_path: (.+)$", re.MULTILINE)
_DATABASES = {"sqlite": "database.sqlite", "postgresql": DUMP}
_ROWS = re.compile(r"COPY \S+ \((.*)\) FROM stdin;")
_CHUNK = 1 << 20

Kind = Literal["sqlite", "postgresql"]


@dataclass(frozen=True, slots=True)
class Place:
    """What is backed up and restored: the database at `url`, and the state folder."""

    url: str
    state: Path

    @property
    def kind(self) -> Kind:
        """Which of the two databases it is."""
        return "sqlite" if self.url.startswith("sqlite") else "postgresql"

    @property
    def file(self) -> Path:
        """SQLite's file."""
        return Path(make_url(self.url).database or "")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Annotated[int, Field(ge=0)]
    sha256: str


class Manifest(BaseModel):
    """What a backup holds; `tombstones` says who had been erased, by pseudonym, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    made_at: float
    kind: Kind
    revision: str
    tombstones: dict[str, float]
    files: dict[str, _Entry]

    @property
    def database(self) -> str:
        """The database's file in the backup."""
        return _DATABASES[self.kind]


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A backup that was made, and checked; `deleted` older ones are gone.

    `left_out` are the merged models that are not in it.
    """

    file: Path
    size: int
    files: int
    deleted: int
    left_out: tuple[Merged, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model, which `solemate train export` made of an SFT `adapter`; paths as strings.

    "" where nothing tells which adapter it was.
    """

    folder: str
    adapter: str
    bytes: int


async def back_up(
    place: Place,
    folder: Path,
    *,
    keep_days: float | None = None,
    models: bool = False,
    now: float | None = None,
) -> BackedUp:
    """Write a backup into `folder` while others use the database, and read it again to check it.

    With `keep_days`, older backups there are deleted; with `models`, merged models are kept however
    large. Raises `NotFound` without a database, `StoreError` when it is damaged or cannot be read,
    `DataError` when the file came out wrong.
    """
    return await asyncio.to_thread(make_backup, place, folder, keep_days, models, now)


def merged_models(state: Path) -> list[Merged]:
    """What was exported in the state folder; `bytes` is 0 for a model that is not there."""
    found = []
    for export in sorted(state.absolute().glob(f"{RUNS}/export-*")):
        model, recipe = export / "model", export / _EXPORT
        told = _MERGED_FROM.search(recipe.read_text("utf-8")) if recipe.is_file() else None
        size = sum(file.stat().st_size for file in model.glob("*") if file.is_file())
        found.append(Merged(str(model), told[1].strip("'\"") if told else "", size))
    return found


def check_backup(file: Path) -> Manifest:
    """Read a backup to its last byte; raises `DataError` when anything is not as it was written."""
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = read_manifest(archive)
            for name, entry in manifest.files.items():
                with archive.open(name) as source:
                    if _copy(source, None) != entry:
                        raise DataError(f"{name!r} in the backup {str(file)!r} was changed.")
            return manifest
    except FileNotFoundError:
        raise NotFound(f"There is no backup {str(file)!r}.") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as exc:
        raise DataError(f"The backup {str(file)!r} is damaged: {exc}. Take another one.") from exc
    except ValidationError as exc:
        problem = exc.errors(include_url=False)[0]["msg"]
        raise DataError(
            f"{str(file)!r} is no backup of ours, or one of a newer solemate: {problem}."
        ) from exc


def read_manifest(archive: zipfile.ZipFile) -> Manifest:
    """The manifest of an open backup; `DataError` when it names what no backup of ours holds."""
    manifest = Manifest.model_validate_json(archive.read(_MANIFEST))
    for name in manifest.files:
        if name != manifest.database and not _is_kept(name):
            raise DataError(f"The backup holds {name!r}, which does not belong into one.")
    if manifest.database not in manifest.files:
        raise DataError(f"The backup does not hold its database, {manifest.database!r}.")
    return manifest


def backups_in(folder: Path) -> list[Path]:
    """The backups in a folder, by their names' moments."""
    return sorted(folder.glob("solemate-*.zip"))


def back_up_before_upgrade(place: Place, *, now: float | None = None) -> BackedUp:
    """A backup in the state folder whose name says what it is for; earlier ones make room for it.

    Raises what `back_up` does.
    """
    made = make_backup(place, backups_of(place.state), now=now, suffix=_UPGRADE)
    return replace(made, deleted=delete_upgrade_backups(place.state, now=now))


def delete_upgrade_backups(state: Path, *, now: float | None = None) -> int:
    """Delete backups before upgrades that are too old or too many; how many. Others stay."""
    at = time.time() if now is None else now
    return _delete_old(backups_of(state), at, KEPT_DAYS, suffix=_UPGRADE, most=KEPT_UPGRADES)


def backups_of(state: Path) -> Path:
    """The folder that backups are made in where no other is named."""
    return state / "backups"


def check_sqlite(connection: sqlite3.Connection) -> None:
    """Raise `StoreError` when a SQLite database is damaged."""
    found = connection.execute("PRAGMA integrity_check").fetchone()[0]
    orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    if found != "ok" or orphan:
        what = found if found != "ok" else f"a row of {orphan[0]!r} belongs to nothing"
        raise StoreError(f"The database is damaged: {what}. Restore a backup.")


def read_tombstones(url: str) -> Mapping[str, float]:
    """Who was erased, by pseudonym, and when; `StoreError` when the database cannot be read."""
    with reading(url) as connection:
        # The first versions erased nobody.
        if not sa.inspect(connection).has_table(tombstones.name):
            return {}
        rows = connection.execute(sa.select(tombstones.c.user_id, tombstones.c.erased_at))
        return {row.user_id: row.erased_at for row in rows}


@contextmanager
def reading(url: str) -> Iterator[sa.Connection]:
    """A connection beside the store, to look something up before the store can be opened."""
    engine = sa.create_engine(url, hide_parameters=True)
    try:
        with engine.connect() as connection:
            yield connection
    except sa.exc.DBAPIError as exc:
        raise StoreError(f"The database cannot be read: {exc.orig}.") from exc
    finally:
        engine.dispose()


def postgres_url(url: str, schema: str) -> str:
    """The database's URL with the tables of another schema; it holds the password."""
    address = make_url(url).update_query_dict({"options": f"-csearch_path={schema}"})
    return address.render_as_string(hide_password=False)


def postgres_tool(url: str, program: str, *options: str) -> None:
    """Run one of PostgreSQL's programs on the database; `StoreError` with its complaint."""
    with _without_password(make_url(url)) as address:
        run_tool(program, "--no-password", f"--dbname={address}", *options)


def run_tool(program: str, *options: str) -> str:
    """What one of PostgreSQL's programs prints; `StoreError` with what it complains about."""
    try:
        done = subprocess.run([program, *options], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise StoreError(
            f"{program} is not installed. Install PostgreSQL's client programs, of the server's "
            "version or newer."
        ) from None
    if done.returncode:
        complaint = done.stderr.strip() or f"exit {done.returncode}"
        raise StoreError(f"{program} failed: {complaint}")
    return done.stdout


def tombstones_in_dump(dump: Path) -> Mapping[str, float]:
    """Who had been erased, by pseudonym, and when, in what `pg_dump` wrote."""
    told = run_tool(
        "pg_restore", "--data-only", f"--table={tombstones.name}", "--file=-", str(dump)
    )
    found, columns = {}, None
    for line in told.splitlines():
        if head := _ROWS.match(line):
            columns = [name.strip() for name in head[1].split(",")]
        elif line == r"\.":
            columns = None
        elif columns is not None:
            row = dict(zip(columns, line.split("\t"), strict=True))
            found[row["user_id"]] = float(row["erased_at"])
    return found


@contextmanager
def _without_password(address: sa.URL) -> Iterator[str]:
    """The address as libpq takes it; its password is in a file: arguments are everybody's to read.

    https://www.postgresql.org/docs/current/libpq-pgpass.html
    """
    plain = sa.URL.create(
        "postgresql",
        username=address.username,
        host=address.host,
        port=address.port,
        database=address.database,
        query=address.query,
    )
    if not address.password:
        yield plain.render_as_string()
        return
    with NamedTemporaryFile("w", prefix="solemate-", encoding="utf-8") as file:
        password = str(address.password).replace("\\", r"\\").replace(":", r"\:")
        file.write(f"*:*:*:*:{password}\n")
        file.flush()
        yield plain.update_query_dict({"passfile": file.name}).render_as_string()


def stamp(at: float) -> str:
    """A moment (Unix seconds) in a file's name."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%d-%H%M%S")


def sync(path: Path) -> None:
    """Have a file, or a folder's own entries, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_backup(
    place: Place,
    folder: Path,
    keep_days: float | None = None,
    models: bool = False,
    now: float | None = None,
    suffix: str = "",
) -> BackedUp:
    """What `back_up` does, for whoever is on a thread of its own; its name ends in `suffix`."""
    at = time.time() if now is None else now
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / f"solemate-{stamp(at)}{suffix}.zip"
    # It holds people's words and the secret of their pseudonyms: nobody else's to read, and on
    # the disk that was chosen for it from the first byte.
    with TemporaryDirectory(prefix=".solemate-", dir=folder) as scratch:
        snapshot = Path(scratch) / _DATABASES[place.kind]
        part = Path(scratch) / file.name
        # The database first: an adapter is on the disk before its row is, and never changes.
        revision, erased = (_copy_sqlite if place.kind == "sqlite" else _dump)(place, snapshot)
        merged = merged_models(place.state)
        without = tuple(
            one for one in merged if one.bytes > MODEL_BYTES and one.adapter and not models
        )
        kept = [*_kept_files(place.state), *_kept_runs(place.state, merged, without)]
        _write(part, place, [(snapshot.name, snapshot), *kept], revision, erased, at)
        manifest = check_backup(part)
        part.replace(file)
    sync(folder)
    place.state.mkdir(parents=True, exist_ok=True)
    (place.state / LAST_BACKUP).touch()
    deleted = 0 if keep_days is None else _delete_old(folder, at, keep_days)
    log.info("backed_up", backup=file.name, files=len(manifest.files), deleted=deleted)
    return BackedUp(file, file.stat().st_size, len(manifest.files), deleted, without)


def _copy_sqlite(place: Place, snapshot: Path) -> tuple[str, Mapping[str, float]]:
    """SQLite's online backup, without what has been deleted; its revision and tombstones."""
    if not place.file.exists():
        raise NotFound(f"There is no database {str(place.file)!r}, so there is nothing to back up.")
    try:
        # Read-only, so that the program's own connection stays the only one that writes.
        source = sqlite3.connect(f"{place.file.resolve().as_uri()}?mode=ro", uri=True)
        with closing(source), closing(sqlite3.connect(snapshot)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            check_sqlite(copy)
            # Deleted words would stay readable in the file's free pages.
            copy.execute("VACUUM")
            revision = copy.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    except sqlite3.Error as exc:
        raise StoreError(f"The database {str(place.file)!r} cannot be copied: {exc}.") from exc
    return revision, read_tombstones(f"sqlite:///{snapshot}")


def _dump(place: Place, snapshot: Path) -> tuple[str, Mapping[str, float]]:
    """`pg_dump` in its own format; the database's revision and tombstones."""
    # Read first: who is erased while the dump is written is in the next backup's tombstones.
    erased = read_tombstones(place.url)
    with reading(place.url) as connection:
        query = sa.text("SELECT version_num FROM alembic_version")
        revision: str = connection.execute(query).scalar_one()
    dump(place.url, snapshot)
    return revision, erased


def dump(url: str, file: Path) -> None:
    """Have `pg_dump` write the database to `file`, without what a killed restore left in it."""
    without = f"--exclude-schema={SCRATCH_SCHEMA}"
    plain = ("--format=custom", "--no-owner", "--no-acl", without)
    postgres_tool(url, "pg_dump", *plain, f"--file={file}")


def _write(
    part: Path,
    place: Place,
    kept: Iterable[tuple[str, Path]],
    revision: str,
    erased: Mapping[str, float],
    at: float,
) -> None:
    entries: dict[str, _Entry] = {}
    part.touch(mode=0o600)
    with part.open("wb") as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, file in kept:
                # An adapter that was retired a moment ago is none that answers.
                with suppress(FileNotFoundError):
                    entries[name] = _add(archive, name, file)
            manifest = Manifest(
                made_at=at,
                kind=place.kind,
                revision=revision,
                tombstones=dict(erased),
                files=entries,
            )
            archive.writestr(_MANIFEST, manifest.model_dump_json(indent=2))
        raw.flush()
        os.fsync(raw.fileno())


def kept_entries(state: Path) -> Iterator[Path]:
    """What is kept of a state folder, each as its path in it: an adapter's folder, a secret."""
    for pattern in KEPT:
        for kept in sorted(state.glob(pattern)):
            # What is hidden among adapters is what a restore sets aside, or was about to put there.
            entries = kept.glob("[!.]*") if kept.is_dir() else [kept]
            yield from (entry.relative_to(state) for entry in sorted(entries))


def _kept_files(state: Path) -> Iterator[tuple[str, Path]]:
    for entry in kept_entries(state):
        kept = state / entry
        for file in sorted(kept.rglob("*")) if kept.is_dir() else [kept]:
            if file.is_file() and not file.is_symlink():
                yield f"{STATE}/{file.relative_to(state).as_posix()}", file


def _kept_runs(
    state: Path, merged: Sequence[Merged], without: Sequence[Merged]
) -> Iterator[tuple[str, Path]]:
    """SFT adapters, the models merged from them, and the recipes that tell which is whose.

    Checkpoints stay out, and whatever lies outside of the state folder.
    """
    runs = state.absolute() / RUNS
    trained = {*runs.glob("sft-*/adapter"), *(Path(one.adapter) for one in merged if one.adapter)}
    folders = {Path(one.folder) for one in merged if one not in without} | trained
    files = {file for folder in folders for file in folder.glob("*")}
    files |= {folder.parent / "train.yaml" for folder in trained}
    files |= {Path(one.folder).with_name(_EXPORT) for one in merged}
    for file in sorted(files):
        if file.is_relative_to(runs) and file.is_file() and not file.is_symlink():
            yield f"{STATE}/{RUNS}/{file.relative_to(runs).as_posix()}", file


def _is_kept(name: str) -> bool:
    parts = PurePosixPath(name).parts
    ours = len(parts) > 1 and parts[0] == STATE and ".." not in parts
    return ours and any(PurePosixPath(parts[1]).match(pattern) for pattern in (*KEPT, RUNS))


def _add(archive: zipfile.ZipFile, name: str, file: Path) -> _Entry:
    with file.open("rb") as source:
        info = zipfile.ZipInfo.from_file(file, name, strict_timestamps=False)
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w", force_zip64=True) as target:
            return _copy(source, target)


def _copy(source: IO[bytes], target: IO[bytes] | None) -> _Entry:
    """Copy, or only read where there is no `target`; how much there was, and its hash."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return _Entry(size=size, sha256=digest.hexdigest())


def _delete_old(
    folder: Path, now: float, days: float, *, suffix: str = "", most: int | None = None
) -> int:
    """Delete what is older than so many days, and all but the newest so many; how many.

    Only backups whose names end in `suffix`.
    """
    first = f"solemate-{stamp(now - days * 86400)}"
    found = [file for file in backups_in(folder) if file.stem.endswith(suffix)]
    spare = found[:-most] if most else []
    old = {*spare, *(file for file in found if file.stem < first)}
    for file in old:
        file.unlink(missing_ok=True)
    return len(old)
