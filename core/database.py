"""A database as the store uses it: how it is connected to, and which version its tables have.

SQLite and PostgreSQL alike, by SQLAlchemy; what they spell differently stands here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from core.errors import StoreError

log = structlog.get_logger()
# https://www.sqlite.org/wal.html#walresetbug: older libraries can corrupt a WAL that two
# connections write or checkpoint at once.
SAFE_SQLITE = (3, 51, 3)

_MIGRATION_LOCK = 0x501E3A7E
# Connections to PostgreSQL: so many transactions run at once.
CONNECTIONS = 8
# A server that has vanished without a word is noticed after so many seconds.
_SILENCE_SECONDS = 15


def open_database(url: sa.URL) -> sa.Engine:
    """An engine whose connections lose nothing that was acknowledged, and show no texts."""
    # Parameters are people's texts, which no error message and no log may hold.
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "postgresql":
        connect = {
            "connect_timeout": 5,
            "keepalives_idle": _SILENCE_SECONDS // 3,
            "keepalives_interval": _SILENCE_SECONDS // 3,
            "keepalives_count": 2,
            "tcp_user_timeout": _SILENCE_SECONDS * 1000,
        }
        options |= {"pool_pre_ping": True, "pool_size": CONNECTIONS, "connect_args": connect}
    engine = sa.create_engine(url, **options)
    if url.get_backend_name() == "sqlite":
        if sqlite3.sqlite_version_info < SAFE_SQLITE:
            log.warning(
                "old_sqlite",
                version=sqlite3.sqlite_version,
                advice="3.51.3 or newer mends a WAL bug; one writer avoids it",
            )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_immediate)
    else:
        sa.event.listen(engine, "connect", _prepare_postgresql)
    return engine


def not_opened(url: sa.URL, failure: sa.exc.DatabaseError) -> StoreError:
    """What is to be said of a database that cannot be opened, and what to do about it."""
    if url.get_backend_name() != "sqlite":
        advice = "Start its server, or mend SOLEMATE__DATABASE__URL."
    elif isinstance(failure, sa.exc.OperationalError):
        advice = "Make room on its disk, or fix its rights."
    else:
        advice = "Put a backup in its place with `solemate restore`, or move it away."
    problem = str(failure.orig).strip().rstrip(".")
    return StoreError(
        f"The database {url.render_as_string()!r} cannot be opened: {problem}. {advice}"
    )


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not begin transactions by itself, or BEGIN IMMEDIATE comes too late.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "busy_timeout=5000",
        "foreign_keys=ON",
        # What was erased must not stay readable in free pages; not every SQLite is built so.
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_postgresql(connection: psycopg.Connection[Any], _record: object) -> None:
    # A server may be set to acknowledge before it has written; stricter settings stay.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def migrate(engine: sa.Engine, before_upgrade: Callable[[], None] | None = None) -> None:
    """Make the tables; bring older ones to our version once `before_upgrade` has returned.

    `StoreError` when they are newer than we are, or older and there is no `before_upgrade`: a
    program of their own version may be running on them.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Two processes that start together migrate one after the other.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        found = revision_of(connection)
        if found == newest_revision():
            return
        if found and before_upgrade is not None and found in revisions():
            before_upgrade()
        else:
            check_tables(connection)
        config = _migrations()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if found:
            log.info("tables_upgraded", before=found, after=revision_of(connection))


def revision_of(connection: Connection) -> str:
    """The version of the tables, "" where there are none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def check_tables(connection: Connection) -> bool:
    """Whether there are tables; `StoreError` when they are of another version than the program's.

    For whoever looks beside a running solemate, perhaps an older one: nothing is changed.
    """
    found, newest = revision_of(connection), newest_revision()
    if found and found != newest:
        old = found in revisions()
        advice = (
            "`solemate up` backs the database up and brings them up to date; stop the older one "
            "first."
            if old
            else "Upgrade the program here, or restore the backup made before the upgrade."
        )
        raise StoreError(
            f"The database's tables are of {'an older' if old else 'a newer'} solemate (version "
            f"{found}, this program's is {newest}). {advice}"
        )
    return bool(found)


def newest_revision() -> str:
    """The version of the tables that this program works with."""
    head = ScriptDirectory.from_config(_migrations()).get_current_head()
    assert head is not None
    return head


def revisions() -> frozenset[str]:
    """The versions of the tables that this program knows."""
    scripts = ScriptDirectory.from_config(_migrations())
    return frozenset(script.revision for script in scripts.walk_revisions())


def _migrations() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upsert(
    connection: Connection,
    table: sa.Table,
    row: Mapping[str, Any],
    *,
    key: tuple[str, ...],
    update: tuple[str, ...] = (),
) -> bool:
    """INSERT … ON CONFLICT (key): change the columns in `update`, or nothing without any.

    Whether a row was written.
    """
    statement = _upsert_statement(connection.dialect.name, table, key, update)
    # PostgreSQL returns the new row's number, and its rows are not counted unless asked for.
    options = {"preserve_rowcount": True}
    return connection.execute(statement, dict(row), execution_options=options).rowcount > 0


@lru_cache
def _upsert_statement(
    dialect: str, table: sa.Table, key: tuple[str, ...], update: tuple[str, ...]
) -> sqlite.Insert | postgresql.Insert:
    # Building the statement costs more than running it, so each is built once.
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement: sqlite.Insert | postgresql.Insert = insert(table)
    changes = {name: statement.excluded[name] for name in update}
    if not changes:
        return statement.on_conflict_do_nothing(index_elements=list(key))
    return statement.on_conflict_do_update(index_elements=list(key), set_=changes)
