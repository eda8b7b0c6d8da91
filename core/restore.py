"""The way back from a backup: database and state in their place again, and erased people erased.

All that can fail comes first: the backup is laid out beside what it replaces, on the same disks,
and the erased are erased in it. Then names are exchanged, the database's last, and taken back where
one cannot be. A restore that was killed is completed by the next.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import sqlalchemy as sa
import structlog
from filelock import FileLock, Timeout
from pydantic import ValidationError

from core import audit
from core.backup import (
    DUMP,
    STATE,
    Manifest,
    Merged,
    Place,
    backups_in,
    check_backup,
    kept_entries,
    merged_models,
    read_manifest,
    read_tombstones,
    reading,
    stamp,
    sync,
    tombstones_in_dump,
)
from core.database import revisions
from core.errors import DataError, SolemateError, StoreError
from core.privacy import erase
from core.restored_database import RESTORED_DATABASES, RestoredDatabase
from core.store import Store

log = structlog.get_logger()

_SCRATCH = ".restore-"
_REPLACED = "replaced-"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did; `set_aside` are the folders with what was there before, if anything was.

    `erased_again` people had been erased since the backup. `audit_whole` is whether the restored
    audit is as it was written. `left_out` are merged models that are not in the backup, nor here.
    """

    made_at: float
    files: int
    erased_again: int
    audit_whole: bool
    set_aside: tuple[Path, ...]
    left_out: tuple[Merged, ...]


async def restore(place: Place, file: Path, *, now: float | None = None) -> Restored:
    """Put the database and the state of a backup in their place; nothing may be running on them.

    What was there is set aside in the state folder, or in the folder of it that is a mount. Whoever
    was erased since the backup, as the database that was there, those that were set aside or a
    backup beside `file` know, is erased again before the restored one is used. Raises `DataError`
    for a backup that is damaged or of the other kind of database, `StoreError` while the database
    is in use, when a newer solemate made the backup, or when something is in the way: then what
    was there is still there.
    """
    at = time.time() if now is None else now
    manifest = await asyncio.to_thread(check_backup, file)
    _check_fits(manifest, place)
    with ExitStack() as stack:
        await asyncio.to_thread(_take, place, stack)
        with _nothing_replaced():
            erased = await asyncio.to_thread(_erased_since, place, file, manifest)
            made = stack.enter_context(ExitStack())
            aside = _new_aside(place.state, at, made)
            state = await asyncio.to_thread(_State, place.state, aside, stack)
            await asyncio.to_thread(state.extract, file, manifest)
            copy = state.scratch / manifest.database
            database = RESTORED_DATABASES[place.kind](place, copy, aside, stack)
            await asyncio.to_thread(database.load)
            # Of older tables the backup itself is what is kept.
            async with Store(database.url, exclusive=False, before_upgrade=lambda: None) as store:
                for user_id, moment in erased.items():
                    await erase(store, user_id, now=moment, who="restore", wipe=False)
                verified = await audit.verify(store)
            await asyncio.to_thread(database.prepare)
        made.pop_all()
        # Not on a thread: whoever cancels it meanwhile waits until it is done, or taken back.
        _exchange(state, database, aside)
    log.info("restored", backup=file.name, erased_again=len(erased), audit_whole=verified.whole)
    return Restored(
        made_at=manifest.made_at,
        files=len(manifest.files),
        erased_again=len(erased),
        audit_whole=verified.whole,
        set_aside=state.set_aside(),
        left_out=tuple(one for one in merged_models(place.state) if one.adapter and not one.bytes),
    )


def _exchange(state: _State, database: RestoredDatabase, aside: Path) -> None:
    """Exchange state and database, or neither."""
    with ExitStack() as undo:
        try:
            state.exchange(undo)
            database.exchange()
        except (OSError, sa.exc.SQLAlchemyError, SolemateError) as exc:
            again = "Restore again once nothing is in the way."
            try:
                undo.close()
            except OSError as stuck:
                raise StoreError(
                    f"The restore broke off ({exc}), and not all could be put back ({stuck}): what "
                    f"was there lies in {str(aside)!r}. {again}"
                ) from exc
            raise StoreError(
                f"The restore broke off ({exc}). What was there is in its place again, and a copy "
                f"of the database lies in {str(aside)!r}. {again}"
            ) from exc
        undo.pop_all()


class _State:
    """What a backup keeps of the state folder, on its way back.

    Each folder's entries are exchanged within it: it may be a mount, which cannot be renamed, and
    from which nothing can be moved elsewhere in one step.
    """

    def __init__(self, state: Path, aside: Path, stack: ExitStack) -> None:
        """`stack` takes away what is not needed any more. `OSError` where we may not write."""
        state.mkdir(parents=True, exist_ok=True)
        self._state = state
        self._aside = aside
        self._stack = stack
        self._scratches: dict[str, Path] = {}
        self.scratch = self._scratch_in("")

    def extract(self, file: Path, manifest: Manifest) -> None:
        """Lay the backup's files out, each on the disk that it belongs on."""
        for name in {path.parts[0] for path in kept_entries(self._state) if len(path.parts) > 1}:
            self._scratch_in(name)
        with zipfile.ZipFile(file) as archive:
            for name in manifest.files:
                target = self._laid_out(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                target.chmod(archive.getinfo(name).external_attr >> 16 & 0o777 or 0o600)
                sync(target)

    def exchange(self, undo: ExitStack) -> None:
        """Exchange what backups keep; an adapter that is younger than the backup is set aside."""
        for folder, scratch in self._scratches.items():
            place, fresh = self._state / folder, scratch / STATE
            if present := self._present(folder):
                aside = self._aside_of(folder)
                for entry in present:
                    _move(place / entry, aside / entry, undo)
            # A run is never changed: one that is there is the backup's, or holds more.
            for source, target in list(_missing(fresh, place)):
                _move(source, target, undo)
            # Not every network's file system has this for folders.
            with suppress(OSError):
                sync(place)

    def set_aside(self) -> tuple[Path, ...]:
        """The folders that hold what was there."""
        folders = dict.fromkeys([self._aside, *(self._own_aside(one) for one in self._scratches)])
        return tuple(folder for folder in folders if folder.is_dir())

    def _laid_out(self, name: str) -> Path:
        path = PurePosixPath(name)
        if path.parts[0] != STATE:
            return self.scratch / name
        _, *parts = path.parts
        folder = parts.pop(0) if len(parts) > 1 else ""
        return self._scratch_in(folder) / STATE / Path(*parts)

    def _scratch_in(self, folder: str) -> Path:
        """A folder in this one, for what will be renamed into it."""
        if folder not in self._scratches:
            place = self._state / folder
            place.mkdir(exist_ok=True)
            for left in place.glob(f"{_SCRATCH}*"):
                shutil.rmtree(left)
            scratch = TemporaryDirectory(prefix=_SCRATCH, dir=place, ignore_cleanup_errors=True)
            self._scratches[folder] = Path(self._stack.enter_context(scratch))
        return self._scratches[folder]

    def _present(self, folder: str) -> list[str]:
        entries = (path.parts for path in kept_entries(self._state))
        if folder:
            return sorted({parts[1] for parts in entries if parts[0] == folder})
        return sorted(parts[0] for parts in entries if len(parts) == 1)

    def _aside_of(self, folder: str) -> Path:
        """Where the entries of this folder can be renamed to."""
        aside = self._aside / folder
        probe = self._scratches[folder] / "probe"
        probe.mkdir(exist_ok=True)
        aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            probe.replace(aside / probe.name)
        except OSError:
            aside.rmdir()
            aside = self._own_aside(folder)
            aside.mkdir(exist_ok=True, mode=0o700)
        else:
            (aside / probe.name).rmdir()
        return aside

    def _own_aside(self, folder: str) -> Path:
        # Hidden, so that nobody takes it for an adapter.
        return self._state / folder / f".{self._aside.name}" if folder else self._aside


def _entries(fresh: Path, place: Path) -> Iterator[tuple[Path, Path]]:
    for entry in sorted(fresh.iterdir()) if fresh.exists() else ():
        yield entry, place / entry.name


def _missing(fresh: Path, place: Path) -> Iterator[tuple[Path, Path]]:
    """What a folder lacks of the fresh one."""
    for entry, there in _entries(fresh, place):
        if not there.exists():
            yield entry, there
        elif entry.is_dir():
            yield from _missing(entry, there)


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    source.replace(target)
    undo.callback(target.replace, source)


@contextmanager
def _nothing_replaced() -> Iterator[None]:
    """Have an error say that what was there is as it was."""
    try:
        yield
    except (OSError, sa.exc.SQLAlchemyError) as exc:
        problem = str(exc).rstrip(".")
        raise StoreError(f"The restore cannot begin: {problem}. Nothing was replaced.") from exc
    except StoreError as exc:
        raise StoreError(f"{str(exc).rstrip('.')}. Nothing was replaced.") from exc


def _new_aside(state: Path, at: float, made: ExitStack) -> Path:
    """A folder that is not there yet; what comes to lie in it goes again unless `made` is kept."""
    aside = state / f"{_REPLACED}{stamp(at)}"
    number = 1
    while aside.exists():
        number += 1
        aside = state / f"{_REPLACED}{stamp(at)}-{number}"
    made.callback(shutil.rmtree, aside, ignore_errors=True)
    return aside


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
    for found in (
        _present(place),
        *(_replaced(place, folder) for folder in sorted(place.state.glob(f"{_REPLACED}*"))),
        *(_told_by(other) for other in backups_in(file.parent)),
    ):
        for user_id, moment in found.items():
            known[user_id] = max(moment, known.get(user_id, 0.0))
    return {
        user_id: moment
        for user_id, moment in known.items()
        if moment > manifest.tombstones.get(user_id, 0.0)
    }


def _present(place: Place) -> Mapping[str, float]:
    """The tombstones of the database that is to be replaced; an SQLite file may be beyond reading.

    A PostgreSQL that cannot be asked must not bring anybody back: `StoreError`.
    """
    if place.kind == "postgresql":
        return read_tombstones(place.url)
    if not place.file.exists():
        return {}
    try:
        return read_tombstones(place.url)
    except StoreError as exc:
        log.warning("tombstones_unreadable", problem=str(exc))
        return {}


def _replaced(place: Place, folder: Path) -> Mapping[str, float]:
    """The tombstones of a database that an earlier restore, finished or not, set aside here."""
    dumped, file = folder / DUMP, folder / place.file.name
    try:
        if dumped.exists():
            return tombstones_in_dump(dumped)
        return read_tombstones(f"sqlite:///{file}") if file.is_file() else {}
    except (OSError, ValueError, StoreError) as exc:
        log.warning("set_aside_unreadable", folder=folder.name, error=type(exc).__name__)
        return {}


def _told_by(file: Path) -> Mapping[str, float]:
    try:
        with zipfile.ZipFile(file) as archive:
            return read_manifest(archive).tombstones
    except (OSError, zipfile.BadZipFile, KeyError, ValidationError, SolemateError) as exc:
        log.warning("backup_unreadable", backup=file.name, error=type(exc).__name__)
        return {}
