"""The databases of a backup on their way back: what is needed is made ready, and then exchanged."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from core.backup import (
    SCRATCH_SCHEMA,
    Kind,
    Place,
    check_sqlite,
    dump,
    postgres_tool,
    postgres_url,
    reading,
    run_tool,
    sync,
)
from core.database import revision_of
from core.errors import DataError, StoreError

_LOCK_SECONDS = 10


class RestoredDatabase(Protocol):
    """A database on its way back: `load` fills what `url` names, where the store then mends it.

    `prepare` does all that can fail, and `exchange` makes that the database of the place, in one
    step.
    """

    url: str

    def load(self) -> None: ...

    def prepare(self) -> None: ...

    def exchange(self) -> None: ...


class _Sqlite:
    """The copy is mended beside the database, and takes its place in one step."""

    def __init__(self, place: Place, copy: Path, aside: Path, stack: ExitStack) -> None:
        self._file = place.file
        self._beside = self._file.with_name(f"{self._file.name}.restoring")
        self._copy = copy
        self._aside = aside
        self.url = f"sqlite:///{copy}"
        stack.callback(self._beside.unlink, missing_ok=True)

    def load(self) -> None:
        """Nothing is left to do: the copy is a database as it is."""

    def prepare(self) -> None:
        with closing(sqlite3.connect(self._copy)) as copy:
            copy.execute("PRAGMA journal_mode=DELETE")
            # What was erased again would stay readable in the file's free pages.
            copy.execute("VACUUM")
            check_sqlite(copy)
        shutil.move(self._copy, self._beside)
        sync(self._beside)
        if self._file.exists():
            self._set_aside()

    def exchange(self) -> None:
        parts = [part for part in self._parts() if part.exists()]
        try:
            # A log of the old file would be taken for one of the new.
            for part in parts:
                part.unlink()
            self._beside.replace(self._file)
        except OSError:
            for part in parts:
                shutil.copy2(self._aside / part.name, part)
            raise
        sync(self._file.parent)

    def _set_aside(self) -> None:
        self._aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A database that is being replaced may well be beyond reading.
        with suppress(sqlite3.Error), closing(sqlite3.connect(self._file)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for part in (self._file, *self._parts()):
            if part.exists():
                shutil.copy2(part, self._aside / part.name)

    def _parts(self) -> list[Path]:
        return [self._file.with_name(self._file.name + suffix) for suffix in ("-wal", "-shm")]


class _Postgres:
    """The backup is loaded into a schema of its own, whose tables take the others' place.

    That is one transaction: at every moment the database is the old one or the new one. What is
    there is dumped before.
    """

    def __init__(self, place: Place, copy: Path, aside: Path, stack: ExitStack) -> None:
        self._url = place.url
        self._copy = copy
        self._aside = aside
        self._stack = stack
        self.url = postgres_url(place.url, SCRATCH_SCHEMA)

    def load(self) -> None:
        with reading(self._url) as connection:
            schema = sa.inspect(connection).default_schema_name
            assert schema
            connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {SCRATCH_SCHEMA} CASCADE"))
            connection.execute(sa.text(f"CREATE SCHEMA {SCRATCH_SCHEMA}"))
            connection.commit()
        self._stack.callback(self._drop_scratch)
        script = self._copy.with_suffix(".sql")
        scratch = self._copy.with_suffix(".scratch.sql")
        plain = ("--no-owner", "--no-acl", f"--schema={schema}")
        run_tool("pg_restore", *plain, f"--file={script}", str(self._copy))
        _rename_schema(script, scratch, schema)
        script.unlink()
        postgres_tool(
            self.url,
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--single-transaction",
            "--set=ON_ERROR_STOP=1",
            # The context of a complaint is somebody's words.
            "--set=VERBOSITY=terse",
            f"--file={scratch}",
        )
        scratch.unlink()
        with reading(self.url) as connection:
            if not revision_of(connection):
                raise DataError(f"The backup holds no tables of ours in the schema {schema!r}.")

    def prepare(self) -> None:
        self._aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = self._aside / self._copy.name
        dump(self._url, kept)
        kept.chmod(0o600)
        sync(kept)

    def exchange(self) -> None:
        with reading(self._url) as connection:
            # Whoever has come in the meantime would be waited for without an end.
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
            there, fresh = sa.MetaData(), sa.inspect(connection).get_table_names(SCRATCH_SCHEMA)
            schema = sa.inspect(connection).default_schema_name
            assert schema
            # Tables that came after the backup go as well: migrations make them again.
            there.reflect(connection)
            there.drop_all(connection)
            quote = connection.dialect.identifier_preparer.quote
            for name in fresh:
                move = f"ALTER TABLE {SCRATCH_SCHEMA}.{quote(name)} SET SCHEMA {quote(schema)}"
                connection.execute(sa.text(move))
            connection.execute(sa.text(f"DROP SCHEMA {SCRATCH_SCHEMA}"))
            connection.commit()

    def _drop_scratch(self) -> None:
        # It may be the server that has gone; the next restore drops it, too.
        with suppress(StoreError), reading(self._url) as connection:
            connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {SCRATCH_SCHEMA} CASCADE"))
            connection.commit()


def _rename_schema(script: Path, target: Path, schema: str) -> None:
    """Copy what `pg_restore` wrote, with its tables in the scratch schema and its rows alike."""
    named = re.compile(rf'(?<![\w"])"?{re.escape(schema)}"?\.'.encode())
    among_rows = False
    with script.open("rb") as source, target.open("wb") as copy:
        for line in source:
            if among_rows:
                among_rows = line.rstrip(b"\r\n") != rb"\."
                copy.write(line)
                continue
            among_rows = line.startswith(b"COPY ") and line.rstrip().endswith(b"FROM stdin;")
            copy.write(named.sub(f"{SCRATCH_SCHEMA}.".encode(), line))


RESTORED_DATABASES: Mapping[Kind, Callable[[Place, Path, Path, ExitStack], RestoredDatabase]] = {
    "sqlite": _Sqlite,
    "postgresql": _Postgres,
}
"""By kind, of a place: made of a copy from the backup, and the folder for what was there."""
