"""A store with people who are answered by a live adapter and a canary, and rate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.messages import Feedback, Outcome, Platform, Rating, Reply, Timings, Turn, Winner
from core.store import Store
from core.tables import adapters, duels
from training.adapters import Adapters

DAY = 86_400.0
START = 1_000 * DAY


@dataclass
class World:
    """Turns, thumbs and duels, at the moments that a test gives them."""

    store: Store
    registry: Adapters
    count: int = 0
    replies: list[str] = field(default_factory=list)

    @classmethod
    async def made(cls, store: Store, folder: Path) -> World:
        """With two registered adapters, `old` live and `new` ready."""
        rows = [
            {"name": name, "path": str(folder / name), "base": "expert", "digest": name}
            | {"manifest": {}, "state": "ready", "created_at": 0.0}
            for name in ("old", "new", "newer")
        ]
        await store.run(lambda connection: connection.execute(sa.insert(adapters), rows))
        return cls(store, Adapters(store, folder, "old"))

    async def answer(
        self,
        adapter: str,
        at: float,
        *,
        person: str = "",
        failure: str = "",
        seconds: float = 1.0,
    ) -> str:
        """One answer; its reply's id."""
        self.count += 1
        reply = Reply(
            id=f"reply-{self.count}",
            conversation_id=f"conversation-{self.count}",
            text="A quote." if failure else "An answer.",
            outcome=Outcome.QUOTED if failure else Outcome.ANSWERED,
            language="en",
            adapter="" if failure else adapter,
            complete=not failure,
            timings=Timings(model=seconds),
        )
        turn = Turn(
            reply=reply,
            message_id=f"message-{self.count}",
            user_id=person or f"person-{self.count}",
            platform=Platform.WEB,
            question="?",
            query="?",
            prompt=(),
            passages=(),
            sampling={},
            asked_at=at,
            asked=adapter,
            failure=failure,
        )
        await self.store.add_turn(turn)
        return reply.id

    async def rated(self, adapter: str, at: float, *thumbs: Rating, person: str = "") -> None:
        """Each thumb by a person of its own, unless one is named, on an answer of its own."""
        for thumb in thumbs:
            name = person or f"person-{self.count + 1}"
            reply = await self.answer(adapter, at, person=name)
            await self.store.add_feedback(Feedback(reply, name, thumb), now=at + 1)

    async def duelled(
        self,
        at: float,
        first: str,
        second: str,
        *winners: Winner,
        person: str = "",
        decided_at: float = 0.0,
    ) -> None:
        """Duels between an answer and the one shown beside it."""
        for winner in winners:
            reply = await self.answer(first, at)
            row = {"id": f"duel-{self.count}", "reply_id": reply, "text": "Another."}
            name = person or f"person-{self.count}"
            more = {"user_id": name, "adapter": second, "winner": winner}
            await self._insert(
                {**row, **more, "created_at": at, "decided_at": decided_at or at + 1}
            )

    async def _insert(self, row: dict[str, object]) -> None:
        def work(connection: Connection) -> None:
            connection.execute(sa.insert(duels).values(row))

        await self.store.run(work)


def thumbs(up: int, down: int) -> Sequence[Rating]:
    """So many up, then so many down."""
    return [Rating.UP] * up + [Rating.DOWN] * down
