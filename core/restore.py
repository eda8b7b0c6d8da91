"""The way back from a backup: database and state in their place again, and erased people erased."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import sqlalchemy as sa
import structlog
from filelock import FileLock, Timeout
from pydantic import ValidationError

from core import audit
from core.backup import (
    KEPT,
    STATE,
    Kind,
    Manifest,
    Place,
    backups_in,
    check_backup,
    check_sqlite,
    postgres_tool,
    read_manifest,
    read_tombstones,
    reading,
    stamp,
    sync,
)
from core.database import revisions
from core.errors import DataError, SolemateError, StoreError
from core.privacy import erase
from core.store import Store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did; `set_aside` holds what was there before, None where nothing was.

    `erased_again` people had been erased since the backup. `audit_whole` is whether the restored
    audit is as it was written.
    """

    made_at: float
    files: int
    erased_again: int
    audit_whole: bool
    set_aside: Path | None


async def restore(place: Place, file: Path, *, now: float | None = None) -> Restored:
    """Put the database and the state of a backup in their place; nothing may be running on them.

    What was there is set aside in the state folder. Whoever was erased since the backup, as the
    database that was there or a backup beside `file` knows, is erased again before the restored
    one is used. Raises `DataError` for a backup that is damaged or of the other kind of database,
    `StoreError` while the database is in use or when a newer solemate made the backup.
    """
    at = time.time() if now is None else now
    manifest = await asyncio.to_thread(check_backup, file)
    _check_fits(manifest, place)
    aside = place.state / f"replaced-{stamp(at)}"
    with ExitStack() as stack:
        await asyncio.to_thread(_take, place, stack)
        erased = await asyncio.to_thread(_erased_since, place, file, manifest)
        place.state.mkdir(parents=True, exist_ok=True)
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix=".restore-", dir=place.state)))
        await asyncio.to_thread(_extract, file, manifest, scratch)
        database = _DATABASES[place.kind](place, scratch / manifest.database, aside)
        await asyncio.to_thread(database.load)
        async with Store(database.url, exclusive=False) as store:
            for user_id, moment in erased.items():
                await erase(store, user_id, now=moment, who="restore", wipe=False)
            verified = await audit.verify(store)
        await asyncio.to_thread(database.finish)
        await asyncio.to_thread(_put_state, scratch / STATE, place.state, aside)
    log.info("restored", backup=file.name, erased_again=len(erased), audit_whole=verified.whole)
    return Restored(
        made_at=manifest.made_at,
        files=len(manifest.files),
        erased_again=len(erased),
        audit_whole=verified.whole,
        set_aside=aside if aside.exists() else None,
    )


class _Database(Protocol):
    """A database on its way back: `load` fills what `url` names, where the store then mends it.

    `finish` makes that the database of the place.
    """

    url: str

    def load(self) -> None: ...

    def finish(self) -> None: ...


class _Sqlite:
    """The copy is mended beside the database, and takes its place in one step."""

    def __init__(self, place: Place, copy: Path, aside: Path) -> None:
        self._file = place.file
        self._copy = copy
        self._aside = aside
        self.url = f"sqlite:///{copy}"

    def load(self) -> None:
        """Nothing is left to do: the copy is a database as it is."""

    def finish(self) -> None:
        with closing(sqlite3.connect(self._copy)) as copy:
            copy.execute("PRAGMA journal_mode=DELETE")
            # What was erased again would stay readable in the file's free pages.
            copy.execute("VACUUM")
            check_sqlite(copy)
        beside = self._file.with_name(f"{self._file.name}.restoring")
        shutil.move(self._copy, beside)
        sync(beside)
        if self._file.exists():
            self._set_aside()
        beside.replace(self._file)
        sync(self._file.parent)

    def _set_aside(self) -> None:
        self._aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A database that is being replaced may well be beyond reading.
        with suppress(sqlite3.Error), closing(sqlite3.connect(self._file)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for suffix in ("-wal", "-shm"):
            part = self._file.with_name(self._file.name + suffix)
            if part.exists():
                shutil.move(part, self._aside / part.name)
        # Copied, not moved: at every moment there is a database in its place.
        shutil.copy2(self._file, self._aside / self._file.name)


class _Postgres:
    """What is there is dumped first; then the backup is loaded in one transaction."""

    def __init__(self, place: Place, copy: Path, aside: Path) -> None:
        self._copy = copy
        self._aside = aside
        self.url = place.url

    def load(self) -> None:
        self._aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = self._aside / self._copy.name
        postgres_tool(
            self.url, "pg_dump", "--format=custom", "--no-owner", "--no-acl", f"--file={kept}"
        )
        kept.chmod(0o600)
        # Tables that came after the backup would be in the way of the migrations that make them.
        with reading(self.url) as connection:
            there = sa.MetaData()
            there.reflect(connection)
            there.drop_all(connection)
            connection.commit()
        postgres_tool(
            self.url,
            "pg_restore",
            "--single-transaction",
            "--exit-on-error",
            "--no-owner",
            "--no-acl",
            str(self._copy),
        )

    def finish(self) -> None:
        """Nothing is left to do: it was mended where it is."""


_DATABASES: Mapping[Kind, Callable[[Place, Path, Path], _Database]] = {
    "sqlite": _Sqlite,
    "postgresql": _Postgres,
}


def _check_fits(manifest: Manifest, place: Place) -> None:
    if manifest.kind != place.kind:
        raise DataError(
            f"The backup is of a {manifest.kind} database, and database.url names one of "
            f"{place.kind}. Restore it with a database.url of its own kind."
        )
    if manifest.revision not in revisions():
        raise StoreError(
            f"The backup was made by a newer solemate (its tables are {manifest.revision!r}); "
            "upgrade the program first."
        )


def _take(place: Place, stack: ExitStack) -> None:
    """Keep every other solemate away until `stack` closes; `StoreError` when one is there."""
    if place.kind == "postgresql":
        _check_alone(place)
        return
    place.file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{place.file}.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"A solemate is using {str(place.file)!r}. Stop it first.") from None
    stack.callback(lock.release)


def _check_alone(place: Place) -> None:
    others = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    with reading(place.url) as connection:
        count = connection.execute(others).scalar_one()
    if count:
        raise StoreError(
            f"The database has {count} other connections. Stop every solemate that uses it first."
        )


def _erased_since(place: Place, file: Path, manifest: Manifest) -> dict[str, float]:
    """Who was erased after the backup was made; those before then are erased in it."""
    known: dict[str, float] = {}
    for found in (_present(place), *(_told_by(other) for other in backups_in(file.parent))):
        for user_id, moment in found.items():
            known[user_id] = max(moment, known.get(user_id, 0.0))
    return {
        user_id: moment
        for user_id, moment in known.items()
        if moment > manifest.tombstones.get(user_id, 0.0)
    }


def _present(place: Place) -> Mapping[str, float]:
    """The tombstones of the database that is to be replaced, where it can be read."""
    if place.kind == "sqlite" and not place.file.exists():
        return {}
    try:
        return read_tombstones(place.url)
    except StoreError as exc:
        log.warning("tombstones_unreadable", problem=str(exc))
        return {}


def _told_by(file: Path) -> Mapping[str, float]:
    try:
        with zipfile.ZipFile(file) as archive:
            return read_manifest(archive).tombstones
    except (OSError, zipfile.BadZipFile, KeyError, ValidationError, SolemateError) as exc:
        log.warning("backup_unreadable", backup=file.name, error=type(exc).__name__)
        return {}


def _extract(file: Path, manifest: Manifest, scratch: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for name in manifest.files:
            target = Path(archive.extract(name, scratch))
            target.chmod(archive.getinfo(name).external_attr >> 16 & 0o777 or 0o600)


def _put_state(restored: Path, state: Path, aside: Path) -> None:
    """Exchange what backups keep; an adapter that is younger than the backup is set aside."""
    present = [entry for pattern in KEPT for entry in state.glob(pattern)]
    for entry in present:
        aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        entry.replace(aside / entry.name)
    for entry in sorted(restored.iterdir()) if restored.exists() else ():
        entry.replace(state / entry.name)
    sync(state)
