"""Who answers, as the store keeps it: the last row of `routes`, and one audit row for each."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.audit import append
from core.messages import Adapter
from core.tables import adapters, routes
from core.transactions import lock

State = Literal["copying", "ready", "canary", "live", "retired", "rolled_back", "erased"]
"""What has become of a registered adapter; `ready` has passed its gate and answers nobody yet.

`erased` is gone for good: somebody in its data was erased, and so were its files.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """`live` answers everybody but the share of people that `canary` gets; "" is the base model.

    `previous` was live before: it stays loaded, so that a rollback takes no longer than a row.
    """

    live: str
    previous: str = ""
    canary: str = ""
    share: float = 0.0
    routed_at: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that have to be loaded, the most wanted first."""
        wanted = (self.live, self.canary, self.previous)
        return tuple(dict.fromkeys(name for name in wanted if name))

    def trying(self, canary: str, share: float) -> Route:
        """The same with this share of people on a canary."""
        return replace(self, canary=canary, share=share)

    def promoting(self, name: str) -> Route:
        """Everybody on this adapter, and no canary."""
        previous = self.previous if name == self.live else self.live
        return Route(name, previous)

    def back(self) -> Route:
        """Without the canary; without one, back on what was live before."""
        if self.canary:
            return replace(self, canary="", share=0.0)
        return Route(self.previous)


def draws_canary(key: bytes, route: Route, user_id: str) -> bool:
    """Whether this person is among the canary's: the same people as long as it runs, and more.

    Keyed, so that nobody can choose a name that is drawn.
    """
    return bool(route.canary) and is_drawn(key, f"{route.canary}\0{user_id}", route.share)


def is_drawn(key: bytes, what: str, share: float) -> bool:
    """Whether this is in the share that is drawn: always the same of it with this key."""
    drawn = hmac.digest(key, what.encode(), hashlib.sha256)
    return int.from_bytes(drawn[:8]) < share * 2**64


def last_route(connection: Connection) -> Route | None:
    """The route that counts; None while nobody was ever promoted, and the settings decide."""
    row = connection.execute(sa.select(routes).order_by(routes.c.id.desc()).limit(1)).one_or_none()
    if row is None:
        return None
    return Route(row.live, row.previous, row.canary, row.share, row.routed_at)


def lock_routes(connection: Connection) -> None:
    """Let nobody else change the route until this transaction ends."""
    lock(connection, "routes")


def change_route(
    connection: Connection,
    before: Route,
    after: Route,
    *,
    subject: str,
    who: str,
    why: str,
    now: float,
) -> None:
    """Commit who answers from now on, and that `who` decided it: one row in each table.

    `subject` is the adapter that it is about, `why` a word or two; figures and names only.
    """
    changed = {**asdict(after), "routed_at": now}
    connection.execute(sa.insert(routes).values(changed))
    append(
        connection,
        who=who,
        subject=subject,
        before=_standing(before, subject),
        after=_standing(after, subject),
        at=now,
        detail={"why": why, "before": asdict(before), "after": changed},
    )


def set_state(connection: Connection, names: Iterable[str], state: State) -> None:
    """Note what has become of these adapters; names that were never registered are passed over."""
    which = adapters.c.name.in_(list(names))
    connection.execute(sa.update(adapters).where(which).values(state=state))


def registered(connection: Connection, names: Iterable[str]) -> dict[str, Adapter]:
    """Those of the adapters that are registered, by name."""
    query = sa.select(adapters).where(adapters.c.name.in_(list(names)))
    return {
        row.name: Adapter(row.name, Path(row.path), row.base, row.digest)
        for row in connection.execute(query)
    }


def _standing(route: Route, name: str) -> str:
    if name == route.canary:
        return f"canary {route.share:.0%}"
    if name == route.live:
        return "live"
    return "previous" if name == route.previous else "ready"
