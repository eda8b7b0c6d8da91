"""Small things said in chats besides answers."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from telegram import (
    Bot,
    ForceReply,
    InlineKeyboardMarkup,
    LinkPreviewOptions,
    Message,
    MessageEntity,
    ReplyParameters,
)
from telegram.error import BadRequest

from bots.courier import Call, Courier
from bots.errands import Errands
from bots.telegram.entities import styled_or_plain
from bots.telegram.place import Place

log = structlog.get_logger()

# What Telegram would fetch for a preview tells a stranger's server what was said here.
NO_PREVIEW = LinkPreviewOptions(is_disabled=True)


class Talk:
    """Says short things in a chat."""

    def __init__(self, bot: Bot, courier: Courier, errands: Errands) -> None:
        self.errands = errands
        self._bot = bot
        self._courier = courier

    def say(self, place: Place, text: str, *, keyboard: InlineKeyboardMarkup | None = None) -> None:
        """Say it soon; whoever calls does not wait."""
        self.errands.run(self.send(place, text, markup=keyboard))

    async def send(
        self,
        place: Place,
        text: str,
        *,
        entities: Sequence[MessageEntity] = (),
        markup: InlineKeyboardMarkup | ForceReply | None = None,
        reply_to: int | None = None,
    ) -> Message:
        """Say it now, as a reply to a message where one is named."""
        reply = (
            ReplyParameters(reply_to, allow_sending_without_reply=True)
            if reply_to is not None
            else None
        )

        async def call(styles: Sequence[MessageEntity]) -> Message:
            return await self._bot.send_message(
                place.chat_id,
                text,
                entities=styles,
                message_thread_id=place.thread_id or None,
                reply_markup=markup,
                reply_parameters=reply,
                link_preview_options=NO_PREVIEW,
            )

        async def deliver(styles: Sequence[MessageEntity]) -> Message:
            return await self._courier.deliver(place.chat_id, lambda: call(styles), repeatable=True)

        return await styled_or_plain(entities, deliver)

    def notice(self, query_id: str, text: str = "") -> None:
        """Tell Telegram that a press was taken, with a line for the person."""
        self.errands.run(self._bot.answer_callback_query(query_id, text or None))

    def change_keyboard(
        self, place: Place, message_id: int, keyboard: InlineKeyboardMarkup | None
    ) -> None:
        """Put other buttons under a message of ours."""

        async def call() -> object:
            return await self._bot.edit_message_reply_markup(
                place.chat_id, message_id, reply_markup=keyboard
            )

        self.errands.run(self._change(place, call))

    def change_text(self, place: Place, message_id: int, text: str) -> None:
        """Replace a message of ours, its buttons included."""

        async def call() -> object:
            return await self._bot.edit_message_text(text, place.chat_id, message_id)

        self.errands.run(self._change(place, call))

    async def _change(self, place: Place, call: Call[object]) -> None:
        try:
            await self._courier.deliver(place.chat_id, call, repeatable=True)
        except BadRequest as exc:
            # It says so already, or the person has deleted it.
            log.info("nothing_changed", problem=exc.message)
