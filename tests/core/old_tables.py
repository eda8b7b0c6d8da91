"""Databases that another version of the program has left."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

from core.database import revision_of
from core.store import Store
from core.tables import conversations

MIGRATIONS = Path(__file__).parents[2] / "core" / "migrations"


def alembic(connection: Connection) -> Config:
    """Alembic as it finds our migrations, on this connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


async def make_older_tables(url: str, version: str = "-1") -> None:
    """A database as the version before ours, or another, left it, with one conversation."""
    row = {"id": "c1", "platform": "web", "user_id": "ann", "title": "", "created_at": 1.0}

    def work(connection: Connection) -> None:
        connection.execute(sa.insert(conversations).values(**row, updated_at=1.0))
        command.downgrade(alembic(connection), version)

    async with Store(url) as store:
        await store.run(work)


async def make_newer_tables(url: str) -> None:
    """A database as a version after ours left it."""
    newer = sa.text("UPDATE alembic_version SET version_num = '9999'")
    async with Store(url) as store:
        await store.run(lambda connection: connection.execute(newer))


def state_of(url: str) -> tuple[str, int]:
    """The version of the tables, and how many conversations there are."""
    count = sa.select(sa.func.count()).select_from(conversations)
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return revision_of(connection), connection.execute(count).scalar_one()
    finally:
        engine.dispose()
