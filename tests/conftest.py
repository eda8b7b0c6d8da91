"""Databases for tests, and a log in a file.

What talks to the store is shown a SQLite file and a PostgreSQL database.

Without a PostgreSQL on this machine its half is skipped; where CI is set that is a failure.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
import redis
import sqlalchemy as sa
import stamina
import stamina.instrumentation
import structlog

from core.database import migrate
from core.logs import CHATTY, configure_logs
from core.store import Store

POSTGRES = os.environ.get("TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


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
        missing(f"no PostgreSQL answers at {POSTGRES}")
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


class RedisServer:
    """A Redis of our own, which can be away."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; it remembers nothing from before."""
        options = ("--port", str(self.port), "--save", "", "--bind", "127.0.0.1")
        self._process = subprocess.Popen(
            [self._program, *options, "--dir", str(self._folder)], stdout=subprocess.DEVNULL
        )
        client = self.client()
        for attempt in stamina.retry_context(on=redis.RedisError, attempts=None, timeout=60):
            with attempt:
                client.ping()
        client.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis with nothing in it."""
    program = shutil.which("redis-server")
    if program is None:
        missing("redis-server is not installed")
    server = RedisServer(program, tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """Logs go to a file; afterwards logging is as it was."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    path = tmp_path / "logs" / "solemate.log"
    logging.captureWarnings(False)
    configure_logs("info", path)
    yield path
    logging.captureWarnings(False)
    for handler in root.handlers:
        handler.close()
    root.handlers[:], level = before
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    stamina.instrumentation.set_on_retry_hooks(None)
    structlog.reset_defaults()
