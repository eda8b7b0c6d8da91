"""Tells people in Slack what they taught, in their direct messages."""

from __future__ import annotations

from dataclasses import dataclass

from bots.slack.place import place_from
from bots.slack.talk import Talk
from core.notices import Notice


@dataclass(frozen=True, slots=True)
class SlackTeller:
    """Says it in the thread where the person last talked to us alone."""

    talk: Talk

    def is_private(self, conversation_id: str) -> bool:
        """Whether it is a direct message."""
        return place_from(conversation_id).is_direct

    async def tell(self, conversation_id: str, notice: Notice) -> None:
        """Say it there."""
        self.talk.say(place_from(conversation_id), "", notice.words)
