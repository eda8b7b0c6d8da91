"""What comes from Telegram: questions go to the inbox, verdicts to the store, commands are run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from telegram import Bot, CallbackQuery, Message, MessageEntity, Update, User
from telegram.error import TelegramError

from bots.buttons import from_data
from bots.lanes import Lanes
from bots.telegram.commands import COMMANDS, Commands, command_in
from bots.telegram.feedback import Verdicts
from bots.telegram.people import Guests, language_for, language_of_app
from bots.telegram.photos import FETCH_SECONDS, fetch, photos_in
from bots.telegram.place import Place, message_id_of, place_of, user_id_of
from bots.telegram.talk import Talk
from core.engine import MAX_PHOTOS, Engine
from core.errors import Busy, ImageRejected, MessageRejected
from core.messages import Language, Platform, UserMessage
from core.store import Store
from core.wording import apology, say

log = structlog.get_logger()

MOST_STRANGERS = 10_000


@dataclass(frozen=True, slots=True)
class Updates:
    """Takes updates; when `take` returns, what they mean is committed."""

    bot: Bot
    bot_id: int
    store: Store
    engine: Engine
    lanes: Lanes
    talk: Talk
    verdicts: Verdicts
    commands: Commands
    guests: Guests
    max_photo_bytes: int
    _told: set[tuple[int, int]] = field(default_factory=set)

    async def take(self, updates: Sequence[Update]) -> None:
        """Take one update, or those that bring an album's photos.

        Raises `StoreError` when nothing can be committed: then they have to come again.
        """
        first = updates[0]
        if first.callback_query is not None:
            await self._on_press(first.callback_query)
        elif first.message_reaction is not None:
            reaction = first.message_reaction
            place = Place(self.bot_id, reaction.chat.id)
            if reaction.user is not None and self.guests.welcome(reaction.user.id, place):
                await self.verdicts.on_reaction(reaction)
        elif first.message is not None:
            await self._on_messages([one.message for one in updates if one.message is not None])

    async def _on_press(self, query: CallbackQuery) -> None:
        if query.message is None:
            self.talk.notice(query.id)
            return
        message = query.message
        place = (
            place_of(self.bot_id, message)
            if isinstance(message, Message)
            else Place(self.bot_id, message.chat.id)
        )
        if not self.guests.welcome(query.from_user.id, place):
            words = say("stranger", await language_for(self.store, query.from_user))
            self.talk.notice(query.id, words)
            return
        press = from_data(query.data or "")
        if press is None:
            await self.commands.on_press(query, place)
        else:
            await self.verdicts.on_press(query, press, place)

    async def _on_messages(self, messages: Sequence[Message]) -> None:
        first = messages[0]
        user, place = first.from_user, place_of(self.bot_id, first)
        if user is None or user.is_bot or not any(self._is_for_us(one) for one in messages):
            return
        if not self.guests.welcome(user.id, place):
            await self._send_away(user, place)
        elif (command := command_in(first, self._username)) is not None:
            await self.commands.run(command, first, user, place)
        elif not await self.verdicts.on_correction(first, user, place):
            await self._on_question(messages, user, place)

    async def _on_question(self, messages: Sequence[Message], user: User, place: Place) -> None:
        """Commit a question to the inbox; what cannot be taken is told at once."""
        language = await language_for(self.store, user)
        text, photos = self._text(messages), photos_in(messages)
        if not text and not photos:
            if messages[0].effective_attachment is not None or place.is_group:
                self.talk.say(place, say("text_or_photo", language))
            return
        try:
            if len(photos) > MAX_PHOTOS:
                raise MessageRejected(
                    f"The album has {len(photos)} photos; the limit is {MAX_PHOTOS}.",
                    code="photo_many",
                    limit=MAX_PHOTOS,
                )
            fetching = (
                fetch(self.bot, one, max_bytes=self.max_photo_bytes, seconds=FETCH_SECONDS)
                for one in photos
            )
            images = tuple(await asyncio.gather(*fetching))
            message = await self._to_user_message(messages[0], user, place, text, images)
            self.engine.check(message)
            await self.lanes.submit(message)
        except (MessageRejected, ImageRejected, Busy) as exc:
            self.talk.say(place, apology(exc, language))
        except (TelegramError, TimeoutError) as exc:
            log.warning("photo_not_fetched", error=type(exc).__name__)
            self.talk.say(place, say("photo_not_fetched", language))

    async def _to_user_message(
        self, first: Message, user: User, place: Place, text: str, images: tuple[bytes, ...]
    ) -> UserMessage:
        user_id = user_id_of(user.id)
        start = await self.store.last_start(place.name, first.message_id)
        conversation = place.conversation_id(start)
        language: Language | None = await self.store.chosen_language(user_id)
        wordless = not any(char.isalpha() for char in text)
        if language is None and wordless and not await self.store.history(conversation, rounds=1):
            # A photo alone speaks no language, and no conversation has shown one yet.
            language = language_of_app(user)
        return UserMessage(
            id=message_id_of(first),
            platform=Platform.TELEGRAM,
            conversation_id=conversation,
            user_id=user_id,
            text=text,
            images=images,
            language=language,
        )

    async def _send_away(self, user: User, place: Place) -> None:
        """Say once that we do not know this person."""
        key = (user.id, place.chat_id)
        if key in self._told or len(self._told) >= MOST_STRANGERS:
            return
        self._told.add(key)
        self.talk.say(place, say("stranger", await language_for(self.store, user)))

    @property
    def _username(self) -> str:
        return self.bot.username

    def _is_for_us(self, message: Message) -> bool:
        """Whether a message is meant for the bot: in groups only where it says so."""
        if message.chat.id > 0:
            return True
        replied = message.reply_to_message
        if replied is not None and replied.from_user is not None:
            # A topic's first message is what all others there reply to.
            is_topic = replied.forum_topic_created is not None
            if replied.from_user.id == self.bot_id and not is_topic:
                return True
        return command_in(message, self._username) in COMMANDS or self._mentioned(message)

    def _mentioned(self, message: Message) -> bool:
        kinds: list[str | None] = [MessageEntity.MENTION, MessageEntity.TEXT_MENTION]
        found = message.parse_entities(kinds) | message.parse_caption_entities(kinds)
        return any(
            words.lower() == f"@{self._username}".lower()
            or (entity.user is not None and entity.user.id == self.bot_id)
            for entity, words in found.items()
        )

    def _text(self, messages: Sequence[Message]) -> str:
        """What was written, in the message or under a photo, without the bot's name."""
        texts = (one.text or one.caption or "" for one in messages)
        mention = re.compile(rf"@{re.escape(self._username)}\b", re.IGNORECASE)
        return "\n".join(mention.sub("", text).strip() for text in texts).strip()
