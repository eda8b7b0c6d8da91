"""What comes from Telegram: questions go to the inbox, verdicts to the store, commands are run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from telegram import Bot, CallbackQuery, Message, MessageEntity, Update, User

from bots.buttons import Pick, Thumb, Why, from_data
from bots.lanes import Lanes
from bots.telegram.commands import COMMANDS, Commands, command_in
from bots.telegram.duels import Comparisons
from bots.telegram.feedback import Verdicts
from bots.telegram.keyboards import DUELS_OFF
from bots.telegram.people import Guests, People, language_of_app
from bots.telegram.photos import Photos, photo_in
from bots.telegram.place import Place, message_id_of, place_of
from bots.telegram.show import Answers
from bots.telegram.talk import Talk
from bots.told import Told
from core.engine import MAX_PHOTOS, Engine
from core.errors import Busy, ImageRejected, MessageRejected, StoreError
from core.inbox import Inbox
from core.messages import Language, Platform, UserMessage
from core.privacy import erased_at
from core.store import Store
from core.wording import apology, say

log = structlog.get_logger()

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Updates:
    """Takes updates; when `take` returns, what they mean is committed.

    An album is answered when no photo of it has come for `album_seconds`.
    """

    bot: Bot
    bot_id: int
    store: Store
    inbox: Inbox
    engine: Engine
    lanes: Lanes
    answers: Answers
    talk: Talk
    verdicts: Verdicts
    comparisons: Comparisons
    commands: Commands
    guests: Guests
    people: People
    photos: Photos
    album_seconds: float
    _told: Told = field(default_factory=Told)

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
                await self.verdicts.on_reaction(reaction, first.update_id)
        elif first.message is not None:
            await self._on_messages([one.message for one in updates if one.message is not None])

    async def give_up(self, updates: Sequence[Update], problem: str) -> None:
        """Put aside updates that `take` cannot digest; whoever waits for an answer is told.

        Raises `StoreError` like `take`.
        """
        first = updates[0]
        try:
            message = await self._waiting_for([one.message for one in updates if one.message])
        except StoreError:
            raise
        # Whatever made the update fail may do so here as well.
        except Exception:
            log.exception("nobody_told", update=first.update_id)
            message = None
        if message is not None:
            await self.inbox.bury(message, problem)
            return
        if (query := first.callback_query) is not None:
            self.talk.notice(query.id, say("failed", language_of_app(query.from_user)))
        event = f"update-{first.update_id}"
        await self.inbox.bury_event(Platform.TELEGRAM, f"telegram:{self.bot_id}", event, problem)

    async def _waiting_for(self, messages: Sequence[Message]) -> UserMessage | None:
        """What a person waits for who sent these; None where nobody does."""
        if not messages:
            return None
        first = messages[0]
        user, place = first.from_user, place_of(self.bot_id, first)
        if user is None or user.is_bot or not self.guests.welcome(user.id, place):
            return None
        if not await self._are_for_us(messages, place) or await self._is_erased(first, user):
            return None
        user_id = self.people.id_of(user)
        return UserMessage(
            id=message_id_of(first),
            platform=Platform.TELEGRAM,
            conversation_id=await self._conversation(first, place),
            user_id=user_id,
            text=self._text(first),
            language=await self.store.chosen_language(user_id),
        )

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
            words = say("stranger", await self.people.language_for(query.from_user))
            self.talk.notice(query.id, words)
            return
        match from_data(query.data or ""):
            case Pick() as pick:
                await self.comparisons.on_pick(query, pick, place)
            case Thumb() | Why() as press:
                await self.verdicts.on_press(query, press, place)
            case None if query.data == DUELS_OFF:
                await self.comparisons.on_switch_off(query, place)
            case None:
                await self.commands.on_press(query, place)

    async def _on_messages(self, messages: Sequence[Message]) -> None:
        first = messages[0]
        user, place = first.from_user, place_of(self.bot_id, first)
        if user is None or user.is_bot or not await self._are_for_us(messages, place):
            return
        if await self._is_erased(first, user):
            return
        if not self.guests.welcome(user.id, place):
            await self._send_away(user, place)
        elif (command := command_in(first, self.bot.username)) is not None:
            # What somebody else has once commanded is not what this person wants.
            if first.forward_origin is None:
                await self.commands.run(command, first, user, place)
        elif not await self.verdicts.on_correction(first, user, place):
            await self._on_question(messages, user, place)

    async def _on_question(self, messages: Sequence[Message], user: User, place: Place) -> None:
        """Commit a question to the inbox; what cannot be taken is told at once."""
        language = await self.people.language_for(user)
        try:
            parts = [await self._to_user_message(one, user, place) for one in messages]
            photos = sum(part.photo_count for part in parts)
            if not photos and not any(part.text for part in parts):
                if messages[0].effective_attachment is not None or place.is_group:
                    self.talk.say(place, say("text_or_photo", language))
                return
            if photos > MAX_PHOTOS:
                raise MessageRejected(
                    f"The album has {photos} photos; the limit is {MAX_PHOTOS}.",
                    code="photo_many",
                    limit=MAX_PHOTOS,
                )
            for message, part in zip(messages, parts, strict=True):
                await self._submit(message, part)
        except Busy as exc:
            if self._told.first(("busy", user.id), seconds=exc.retry_after_seconds):
                self.talk.say(place, apology(exc, language))
        except (MessageRejected, ImageRejected) as exc:
            self.talk.say(place, apology(exc, language))

    async def _submit(self, message: Message, part: UserMessage) -> None:
        """Commit a question, or a photo of an album, and say so where it has to wait."""
        self.engine.check(part)
        behind = await self.lanes.behind(part)
        if await self._commit(message, part) and behind:
            self.talk.errands.run(self.answers.announce(part, behind + 1))

    async def _commit(self, message: Message, part: UserMessage) -> bool:
        """Whether a question has come with it that was not here before."""
        sent_at = message.date.timestamp()
        if not message.media_group_id:
            return await self.lanes.submit(part, sent_at=sent_at)
        number, hold = str(message.message_id), self.album_seconds
        known = await self.inbox.knows(part.platform, part.conversation_id, part.id)
        joined = await self.lanes.join(part, number, hold_seconds=hold, sent_at=sent_at)
        return joined and not known

    async def _to_user_message(self, message: Message, user: User, place: Place) -> UserMessage:
        """Raises `ImageRejected` for a photo that is too large."""
        text, photo, user_id = self._text(message), photo_in(message), self.people.id_of(user)
        if photo is not None:
            self.photos.check(photo)
        conversation = await self._conversation(message, place)
        language: Language | None = await self.store.chosen_language(user_id)
        wordless = not any(char.isalpha() for char in text)
        if language is None and wordless and not await self.store.history(conversation, rounds=1):
            # A photo alone speaks no language, and no conversation has shown one yet.
            language = language_of_app(user)
        return UserMessage(
            id=message_id_of(message),
            platform=Platform.TELEGRAM,
            conversation_id=conversation,
            user_id=user_id,
            text=text,
            files=() if photo is None else (photo.file_id,),
            language=language,
        )

    async def _conversation(self, message: Message, place: Place) -> str:
        names = self.people.names
        start = await self.store.last_start(names.place(place), message.message_id)
        return names.conversation(place, start)

    async def _is_erased(self, message: Message, user: User) -> bool:
        """Whether a person had all deleted after they sent this."""
        # Telegram counts whole seconds.
        return message.date.timestamp() < int(await erased_at(self.store, self.people.id_of(user)))

    async def _send_away(self, user: User, place: Place) -> None:
        """Say once that we do not know this person."""
        if self._told.first(("stranger", user.id, place.chat_id), seconds=DAY_SECONDS):
            self.talk.say(place, say("stranger", await self.people.language_for(user)))

    async def _are_for_us(self, messages: Sequence[Message], place: Place) -> bool:
        """Whether a message is meant for the bot: in groups only where it says so.

        Of an album only one photo does; the others may come later.
        """
        if not place.is_group or any(self._is_addressed(message) for message in messages):
            return True
        if messages[0].media_group_id is None:
            return False
        conversation = await self._conversation(messages[0], place)
        return await self.inbox.knows(Platform.TELEGRAM, conversation, message_id_of(messages[0]))

    def _is_addressed(self, message: Message) -> bool:
        """Whether a message in a group replies to the bot, is a command, or mentions it."""
        replied = message.reply_to_message
        if replied is not None and replied.from_user is not None:
            # A topic's first message is what all others there reply to.
            is_topic = replied.forum_topic_created is not None
            if replied.from_user.id == self.bot_id and not is_topic:
                return True
        return command_in(message, self.bot.username) in COMMANDS or self._mentioned(message)

    def _mentioned(self, message: Message) -> bool:
        kinds: list[str | None] = [MessageEntity.MENTION, MessageEntity.TEXT_MENTION]
        found = message.parse_entities(kinds) | message.parse_caption_entities(kinds)
        return any(
            words.lower() == f"@{self.bot.username}".lower()
            or (entity.user is not None and entity.user.id == self.bot_id)
            for entity, words in found.items()
        )

    def _text(self, message: Message) -> str:
        """What was written, in the message or under a photo, without the bot's name."""
        mention = re.compile(rf"@{re.escape(self.bot.username)}\b", re.IGNORECASE)
        return mention.sub("", message.text or message.caption or "").strip()
