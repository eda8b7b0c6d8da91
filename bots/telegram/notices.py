"""Tells people on Telegram what they taught, in their private chat."""

from __future__ import annotations

from dataclasses import dataclass

from bots.telegram.place import Names
from bots.telegram.talk import Talk
from core.errors import ConfigError
from core.notices import Notice


@dataclass(frozen=True, slots=True)
class TelegramTeller:
    """A bot can write to whoever has written to it, and not to whoever wrote to another."""

    bot_id: int
    talk: Talk
    names: Names

    def is_private(self, conversation_id: str) -> bool:
        """Whether it is a person's own chat with this bot."""
        try:
            place = self.names.where(conversation_id)
        except ConfigError:
            # Sealed with another key: nobody there can be reached.
            return False
        return not place.is_group and place.bot_id == self.bot_id

    async def tell(self, conversation_id: str, notice: Notice) -> None:
        """Say it there."""
        await self.talk.send(self.names.where(conversation_id), notice.words)
