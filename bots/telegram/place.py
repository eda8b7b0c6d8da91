"""Where on Telegram a conversation takes place, and the names it has outside Telegram."""

from __future__ import annotations

import re
from dataclasses import dataclass

from telegram import Message

from core.messages import UserMessage
from core.privacy import Pseudonyms
from core.renaming import Renaming

_PREFIX = "telegram"
# Before a number that is sealed.
_SEALED = "p"
_OPEN = re.compile(rf"({_PREFIX}:\d+:)(\d+)((?::.*)?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A chat, or one topic of it, as one of our bots sees it; `thread_id` is 0 outside topics."""

    bot_id: int
    chat_id: int
    thread_id: int = 0

    @property
    def is_group(self) -> bool:
        """Whether several people may read here: Telegram gives groups negative numbers."""
        return self.chat_id < 0


@dataclass(frozen=True, slots=True)
class Names:
    """What the store calls places, which can be read again.

    A private chat has its person's number: it is sealed, and whoever has the store alone learns
    from it no more than from the person's pseudonym.
    """

    pseudonyms: Pseudonyms

    def chat(self, place: Place) -> str:
        """The chat's name in the store."""
        chat = place.chat_id if place.is_group else _SEALED + self.pseudonyms.seal(place.chat_id)
        return f"{_PREFIX}:{place.bot_id}:{chat}"

    def place(self, place: Place) -> str:
        """The place's name in the store, the topic included."""
        return f"{self.chat(place)}:{place.thread_id}"

    def conversation(self, place: Place, start: int) -> str:
        """The conversation that began there with the message `start`, or with the chat itself."""
        return f"{self.place(place)}:{start}"

    def where(self, conversation_id: str) -> Place:
        """The place of a conversation of ours."""
        _, bot_id, chat, thread_id, _ = conversation_id.split(":")
        is_sealed = chat.startswith(_SEALED)
        chat_id = self.pseudonyms.unseal(chat.removeprefix(_SEALED)) if is_sealed else int(chat)
        return Place(int(bot_id), chat_id, int(thread_id))

    @property
    def sealing(self) -> Renaming:
        """What seals the numbers that older versions of us have stored openly."""
        settled = (f"{_PREFIX}:%:{_SEALED}%", f"{_PREFIX}:%:-%")
        return Renaming(f"{_PREFIX}:", settled, self._sealed)

    def _sealed(self, name: str) -> str:
        """A name of a chat, a place or a conversation as it is today."""
        parts = _OPEN.fullmatch(name)
        if parts is None:
            return name
        return f"{parts[1]}{_SEALED}{self.pseudonyms.seal(int(parts[2]))}{parts[3]}"


def place_of(bot_id: int, message: Message) -> Place:
    """Where a message was sent."""
    # Replies in groups without topics carry a thread's number, too.
    thread = message.message_thread_id if message.is_topic_message else None
    return Place(bot_id, message.chat.id, thread or 0)


def message_id_of(message: Message) -> str:
    """A message's id in its conversation; the photos of an album are one message."""
    return f"album-{message.media_group_id}" if message.media_group_id else str(message.message_id)


def number_of(message: UserMessage) -> int | None:
    """The number of the Telegram message that can be replied to; None for an album."""
    return number_in(message.id)


def number_in(message_id: str) -> int | None:
    """The number in a message's id in its conversation; None for an album.

    Photos that came too late for their album are named after the first of them.
    """
    number = message_id.removeprefix("album-").partition("-")[2] or message_id
    return int(number) if number.isdecimal() else None
