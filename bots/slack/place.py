"""Where in Slack a conversation takes place, and the name it has outside Slack."""

from __future__ import annotations

from dataclasses import dataclass

_PREFIX = "slack"


@dataclass(frozen=True, slots=True)
class Place:
    """A thread of a channel; a message that stands alone may become the root of one."""

    team: str
    channel: str
    thread: str

    @property
    def is_direct(self) -> bool:
        """Whether only one person reads here besides us: Slack's ids tell."""
        return self.channel.startswith("D")

    @property
    def room(self) -> str:
        """The channel's name in the store."""
        return f"{_PREFIX}:{self.team}:{self.channel}"

    @property
    def conversation_id(self) -> str:
        """The conversation of this thread."""
        return f"{self.room}:{self.thread}"


def place_from(conversation_id: str) -> Place:
    """The place of a conversation of ours."""
    _, team, channel, thread = conversation_id.split(":")
    return Place(team, channel, thread)
