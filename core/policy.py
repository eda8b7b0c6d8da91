"""The settings that decide what is learned and who answers, and who changed them when."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.audit import append, audit_of
from core.settings import Settings
from core.store import Store
from core.tables import audit
from core.transactions import lock

log = structlog.get_logger()

SUBJECT = "settings"
"""What the audit calls them."""
_DECIDING = {
    "feedback": None,
    "training": None,
    "privacy": None,
    "model": {"base_model", "expert", "adapter", "adapter_path"},
}
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Change:
    """A setting was `before` and has been `after` since `at`, when `who` started solemate."""

    at: float
    who: str
    setting: str
    before: Any
    after: Any


def policy_of(settings: Settings) -> dict[str, Any]:
    """Each of them by its full name; of an address, which may hold a password, the digest."""
    found: dict[str, Any] = {}
    for section, names in _DECIDING.items():
        values = getattr(settings, section).model_dump(mode="json", include=names)
        found |= dict(_flat(section, values))
    return found


async def note_policy(
    store: Store, settings: Settings, *, who: str, now: float | None = None
) -> tuple[str, ...]:
    """Have the audit say what has changed since it last did; the changed settings' names.

    The first time there is nothing to compare with, and all of them are written down.
    """
    after = policy_of(settings)
    at = time.time() if now is None else now

    def work(connection: Connection) -> tuple[str, ...]:
        # Of replicas that start together one writes it down.
        lock(connection, SUBJECT)
        before = _last(connection)
        if before == after:
            return ()
        names = sorted(name for name in before | after if before.get(name) != after.get(name))
        append(
            connection,
            who=who[:64],
            subject=SUBJECT,
            before=_digest(before) if before else "",
            after=_digest(after),
            at=at,
            detail={
                "changed": {name: [before.get(name), after.get(name)] for name in names if before},
                "values": after,
            },
        )
        return tuple(names) if before else ()

    changed = await store.run(work)
    if changed:
        log.info("settings_changed", names=list(changed))
    return changed


async def policy_changes(store: Store) -> list[Change]:
    """Every change of one of them, the first one first."""
    return [
        Change(row.at, row.who, name, before, after)
        for row in await audit_of(store, SUBJECT)
        for name, (before, after) in row.detail["changed"].items()
    ]


def starter() -> str:
    """Whose program this is, and on which machine; a container's user may have no name."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"user {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def _last(connection: Connection) -> dict[str, Any]:
    query = sa.select(audit.c.detail).where(audit.c.subject == SUBJECT)
    detail = connection.execute(query.order_by(audit.c.id.desc()).limit(1)).scalar()
    values: dict[str, Any] = detail["values"] if detail else {}
    return values


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, _told(value)


def _told(value: Any) -> Any:
    if isinstance(value, str) and "://" in value:
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:_DIGITS]}"
    return value


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_DIGITS]
