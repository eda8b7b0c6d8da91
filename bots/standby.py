"""How a platform is where another replica takes its messages in."""

from __future__ import annotations

from dataclasses import dataclass

from bots.bot import Status
from core.leader import Leader


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    """The platform's own status while we lead; until then all is well without it."""

    inner: Status
    leader: Leader

    @property
    def complaint(self) -> str:
        """What the operator should know, "" while all is well."""
        return self.inner.complaint if self.leader.leads else self.leader.problem

    @property
    def quiet_seconds(self) -> float:
        """How long ago the platform was last heard from; 0 where others listen to it."""
        return self.inner.quiet_seconds if self.leader.leads else 0.0
