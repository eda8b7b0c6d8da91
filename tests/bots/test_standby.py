"""An intake of one replica among several: it complains only while it is its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.routing import BaseRoute, Route

from bots.bot import Intake
from bots.standby import led
from core.leader import Lead, Leader, alone


@dataclass
class Complaint:
    complaint: str = "The platform does not answer."
    quiet_seconds: float = 7.0


@dataclass
class Taking:
    """An intake that remembers what it was given to take messages in by."""

    lead: Lead
    status: Complaint = field(default_factory=Complaint)
    routes: Sequence[BaseRoute] = ()
    runs: int = 0

    async def run(self) -> None:
        self.runs += 1


def test_without_other_replicas_an_intake_is_itself() -> None:
    taking = led(None, Taking)
    assert isinstance(taking, Taking)
    assert taking.lead is alone


async def test_an_intake_of_several_takes_messages_in_by_the_leader() -> None:
    made: list[Taking] = []

    def intake(lead: Lead) -> Intake:
        made.append(Taking(lead, routes=(Route("/here", lambda request: None),)))
        return made[0]

    leader = Leader("postgresql://nowhere/solemate", "telegram")
    taking = led(leader, intake)
    await taking.run()
    assert made[0].lead == leader.run
    assert made[0].runs == 1
    assert taking.routes == made[0].routes


def test_what_another_replica_takes_in_is_none_of_our_complaints() -> None:
    leader = Leader("postgresql://nowhere/solemate", "telegram")
    status = led(leader, Taking).status
    assert (status.complaint, status.quiet_seconds) == ("", 0.0)
    leader.problem = "The database is away."
    assert status.complaint == "The database is away."
    leader.leads = True
    assert (status.complaint, status.quiet_seconds) == ("The platform does not answer.", 7.0)
