"""The audit: who changed what, row by row, each row sealed with the one before it.

A row's digest is the SHA-256 of its own fields and of the digest before it, so that whoever changes
or removes a row later breaks every seal from there on. Cutting rows off the end leaves a chain that
is whole: `verify` returns the last digest, to be kept where the database's owner cannot write.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.store import Store
from core.tables import audit
from core.transactions import lock

log = structlog.get_logger()

_FIELDS = ("at", "who", "subject", "before", "after", "detail")
# What the first row's seal holds in place of a digest before it.
_START = "0" * 64


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change: `subject` went from `before` to `after`; `detail` holds hashes and figures."""

    id: int
    at: float
    who: str
    subject: str
    before: str
    after: str
    detail: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What the chain says: how many rows, the last digest, and the first row that does not fit."""

    rows: int
    digest: str
    broken: int | None = None

    @property
    def whole(self) -> bool:
        """Whether every row is as it was written."""
        return self.broken is None


def append(
    connection: Connection,
    *,
    who: str,
    subject: str,
    before: str,
    after: str,
    at: float,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add a row in the transaction of the change itself: both are committed, or neither.

    `detail` is for ids, hashes and figures; a person's text never belongs here.
    """
    # Two rows sealed with the same digest before them would fork the chain.
    lock(connection, "audit")
    row = {
        "at": at,
        "who": who,
        "subject": subject,
        "before": before,
        "after": after,
        "detail": dict(detail or {}),
    }
    last = sa.select(audit.c.digest).order_by(audit.c.id.desc()).limit(1)
    digest = _seal(connection.execute(last).scalar() or _START, row)
    connection.execute(sa.insert(audit).values(**row, digest=digest))
    # A second place that remembers the chain's end.
    log.info("audit", subject=subject, before=before, after=after, digest=digest[:16])


async def audit_of(store: Store, subject: str) -> list[AuditRow]:
    """What happened to a run, an adapter or another subject, the first change first."""
    query = sa.select(audit).where(audit.c.subject == subject).order_by(audit.c.id)
    rows = await store.run(lambda connection: connection.execute(query).all())
    return [AuditRow(**row._mapping) for row in rows]


async def verify(store: Store) -> Verified:
    """Check every seal; `broken` names the first row that was changed, or follows a missing one."""

    def work(connection: Connection) -> Verified:
        digest, count = _START, 0
        for row in connection.execute(sa.select(audit).order_by(audit.c.id)):
            count += 1
            digest = _seal(digest, row._mapping)
            if digest != row.digest:
                return Verified(count, row.digest, row.id)
        return Verified(count, digest)

    return await store.run(work)


def _seal(before: str, row: Mapping[Any, Any]) -> str:
    """The digest of a row that follows the one with the digest `before`."""
    text = json.dumps(
        [before, *(row[name] for name in _FIELDS)],
        ensure_ascii=False,
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).hexdigest()
