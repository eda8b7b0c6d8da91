"""What was deleted from SQLite leaves its files, too: its log, and the corners of its pages.

With `secure_delete` SQLite overwrites what is deleted, but its log (the WAL) keeps the pages as
they were until it begins anew, and a page whose rows have moved can keep a copy where they stood.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import sqlalchemy as sa
import structlog

log = structlog.get_logger()

# Less than others wait for their turn to write: nobody's message is refused because we wait.
_PATIENCE_MS = 1000
# Writing such a file anew takes half a second, in which nothing else is written.
REWRITTEN_BYTES = 64 * 1024 * 1024


def wipe(engine: sa.Engine, *, rewrite: bool) -> bool:
    """Empty the log, and `rewrite` a file that is small enough; whether nothing was in the way.

    Somebody who reads meanwhile, such as a backup, keeps the log from being emptied.
    """
    with closing(engine.raw_connection()) as pooled:
        connection = pooled.driver_connection
        assert isinstance(connection, sqlite3.Connection)
        (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")
        try:
            if rewrite and _size(connection) <= REWRITTEN_BYTES:
                connection.execute("VACUUM")
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as exc:
            log.info("not_wiped", problem=str(exc))
            return False
        finally:
            connection.execute(f"PRAGMA busy_timeout={usual}")
    return not busy


def _size(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(page_bytes)
