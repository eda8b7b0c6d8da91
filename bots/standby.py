"""Takes a platform's messages in while it is our turn, where one of several replicas does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.routing import BaseRoute

from bots.bot import Intake, Status
from core.leader import Lead, Leader, alone


def led(leader: Leader | None, intake: Callable[[Lead], Intake]) -> Intake:
    """What takes messages in while `leader` lets it; without one there are no others."""
    return intake(alone) if leader is None else Standby(intake(leader.run), leader)


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


@dataclass(frozen=True, slots=True)
class Standby:
    """An intake that stands by while another replica's takes messages in."""

    inner: Intake
    leader: Leader

    @property
    def status(self) -> StandbyStatus:
        """How it goes; well, too, where others do it."""
        return StandbyStatus(self.inner.status, self.leader)

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """What the web server opens for the platform to call."""
        return self.inner.routes

    async def run(self) -> None:
        """Take messages in for ever, when it is our turn."""
        await self.inner.run()
