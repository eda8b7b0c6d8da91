"""Who may open a conversation, and which photos are found in it."""

from __future__ import annotations

from pathlib import Path

from bots.web.chat_routes import may_enter, photos_of
from core.messages import Platform, UserMessage
from tests.bots.desks import open_desk


async def test_a_message_put_aside_belongs_to_its_sender_alone(tmp_path: Path) -> None:
    message = UserMessage("m", Platform.WEB, "c", "web:ann", "canvas?", (b"jpeg",))
    async with open_desk(tmp_path) as desk:
        await desk.inbox.put(message)
        letter = await desk.inbox.lease()
        assert letter is not None
        await desk.inbox.dead(letter)
        assert await may_enter(desk, "c", "web:ann")
        assert not await may_enter(desk, "c", "web:bob")
        assert await photos_of(desk, "c", "m") == [b"jpeg"]


async def test_a_conversation_without_messages_is_anybodys(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        assert await may_enter(desk, "c", "web:ann")
