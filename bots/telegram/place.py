"""Where on Telegram a conversation takes place, and the names it has outside Telegram."""

from __future__ import annotations

from dataclasses import dataclass

from telegram import Message

from core.messages import UserMessage

_PREFIX = "telegram"


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

    @property
    def chat(self) -> str:
        """The chat's name in the store."""
        return f"{_PREFIX}:{self.bot_id}:{self.chat_id}"

    @property
    def name(self) -> str:
        """The place's name in the store, the topic included."""
        return f"{self.chat}:{self.thread_id}"

    def conversation_id(self, start: int) -> str:
        """The conversation that began here with the message `start`, or with the chat itself."""
        return f"{self.name}:{start}"


def place_of(bot_id: int, message: Message) -> Place:
    """Where a message was sent."""
    # Replies in groups without topics carry a thread's number, too.
    thread = message.message_thread_id if message.is_topic_message else None
    return Place(bot_id, message.chat.id, thread or 0)


def place_from(conversation_id: str) -> Place:
    """The place of a conversation of ours."""
    _, bot_id, chat_id, thread_id, _ = conversation_id.split(":")
    return Place(int(bot_id), int(chat_id), int(thread_id))


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
