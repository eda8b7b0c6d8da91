"""Has people asked in their chat which of two answers is better; whoever calls does not wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bots.errands import Errands
from core.duels import Duel, Duels
from core.messages import Reply, UserMessage


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks after answers and thumbs down; never with `duels` None.

    `reaches` tells by conversation and person whether somebody can be asked there, before another
    answer is written; `show` shows a duel to them alone.
    """

    duels: Duels | None
    errands: Errands
    reaches: Callable[[str, str], bool]
    show: Callable[[Duel], Awaitable[None]]

    def after_answer(self, message: UserMessage, reply: Reply) -> None:
        """Ask about the answer that a message got, if that is its turn."""
        if self.duels is not None and self.reaches(message.conversation_id, message.user_id):
            self.errands.run(self._ask(self.duels.after_answer(reply.id)))

    def after_dislike(self, reply: Reply, user_id: str) -> None:
        """Ask about an answer that this person did not like, if that is its turn."""
        if self.duels is not None and self.reaches(reply.conversation_id, user_id):
            self.errands.run(self._ask(self.duels.after_dislike(reply.id, user_id)))

    async def _ask(self, made: Awaitable[Duel | None]) -> None:
        if (duel := await made) is not None:
            await self.show(duel)
