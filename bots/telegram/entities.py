"""Styled text as Telegram wants it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from telegram import MessageEntity, User
from telegram.constants import MessageEntityType
from telegram.error import BadRequest

from bots.markup import Style, Styled, utf16_length

log = structlog.get_logger()
T = TypeVar("T")

_ENTITIES: dict[Style, str] = {
    "bold": MessageEntityType.BOLD,
    "italic": MessageEntityType.ITALIC,
    "code": MessageEntityType.CODE,
    "pre": MessageEntityType.PRE,
    "sources": MessageEntityType.EXPANDABLE_BLOCKQUOTE,
}


def entities_of(piece: Styled) -> Sequence[MessageEntity]:
    """The piece's spans as Telegram wants them: counted in UTF-16 units."""
    entities = [MessageEntity(_ENTITIES[s.style], s.start, s.length) for s in piece.spans]
    if not entities:
        return ()
    return MessageEntity.adjust_message_entities_to_utf_16(piece.text, entities)


def mention(user: User) -> MessageEntity:
    """What makes a text that begins with the person's name mention them; not all have a @name."""
    length = utf16_length(user.full_name)
    return MessageEntity(MessageEntityType.TEXT_MENTION, 0, length, user=user)


async def styled_or_plain(
    entities: Sequence[MessageEntity], call: Callable[[Sequence[MessageEntity]], Awaitable[T]]
) -> T:
    """Call with the entities; once more without them where Telegram cannot read them."""
    try:
        return await call(entities)
    except BadRequest as exc:
        if not entities or "entit" not in exc.message.lower():
            raise
        log.warning("entities_refused", problem=exc.message)
    return await call(())
