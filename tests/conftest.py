"""Databases for tests: what talks to the store is shown a SQLite file and a PostgreSQL database.

Without a PostgreSQL on this machine its half is skipped; where CI is set that is a failure.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
import sqlalchemy as sa

from core.store import Store, migrate

POSTGRES = "postgresql://postgres@127.0.0.1:5432"


def missing(what: str) -> NoReturn:
    """Skip a test for what this machine lacks; fail it where nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@dataclass
class Postgres:
    """A server, and a template with the newest tables: a copy of it is made in no time."""

    server: psycopg.Connection[tuple[object, ...]]
    name: str
    copies: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def database(self) -> str:
        """The URL of a fresh database with the newest tables, and nothing in them."""
        copy = f"{self.name}_{next(self.numbers)}"
        self.server.execute(f"CREATE DATABASE {copy} TEMPLATE {self.name}")
        self.copies.append(copy)
        return self.url(copy)

    def drop(self, *names: str) -> None:
        for name in names:
            self.server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @staticmethod
    def url(name: str) -> str:
        return f"{POSTGRES.replace('postgresql:', 'postgresql+psycopg:')}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    try:
        server = psycopg.connect(f"{POSTGRES}/postgres", autocommit=True, connect_timeout=2)
    except psycopg.OperationalError:
        missing("no PostgreSQL answers on 127.0.0.1:5432")
    with server:
        found = Postgres(server, f"solemate_test_{server.info.backend_pid}")
        found.drop(found.name)
        server.execute(f"CREATE DATABASE {found.name}")
        engine = sa.create_engine(found.url(found.name))
        migrate(engine)
        engine.dispose()
        yield found
        found.drop(found.name)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """An empty PostgreSQL database."""
    yield postgres.database()
    postgres.drop(postgres.copies.pop())


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty database of either kind."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """The store on an empty database of either kind."""
    async with Store(store_url) as opened:
        yield opened
