"""The slash commands, and the buttons they show."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

from telegram import Bot, BotCommand, CallbackQuery, Message, MessageEntity, User

from bots.lanes import Lanes
from bots.telegram import keyboards
from bots.telegram.people import language_for
from bots.telegram.place import Place, user_id_of
from bots.telegram.show import Answers
from bots.telegram.talk import Talk
from core.engine import MAX_PHOTOS
from core.inbox import Inbox
from core.messages import Language
from core.store import Store
from core.wording import say

Command = Literal["start", "help", "new", "language", "privacy", "forget"]
COMMANDS: tuple[Command, ...] = get_args(Command)


async def publish_commands(bot: Bot) -> None:
    """Tell Telegram which commands there are: in English to everyone, in Chinese to Chinese."""
    await bot.set_my_commands(_described("en"))
    await bot.set_my_commands(_described("zh"), language_code="zh")


def command_in(message: Message, username: str) -> str | None:
    """The command a message begins with, without its slash; None when it is for another bot."""
    first = message.entities[0] if message.entities else None
    if first is None or first.type != MessageEntity.BOT_COMMAND or first.offset:
        return None
    name, _, addressee = message.parse_entity(first).removeprefix("/").partition("@")
    return name.lower() if addressee.lower() in ("", username.lower()) else None


@dataclass(frozen=True, slots=True)
class Privacy:
    """What a person is told about their data."""

    keep_days: int
    trains: bool


@dataclass(frozen=True, slots=True)
class Commands:
    """Carries commands out."""

    store: Store
    inbox: Inbox
    lanes: Lanes
    answers: Answers
    talk: Talk
    privacy: Privacy

    async def run(self, name: str, message: Message, user: User, place: Place) -> None:
        """Carry one out; an unknown one is answered with the help."""
        language = await language_for(self.store, user)
        match name:
            case "new":
                await self.store.start_anew(place.name, message.message_id)
                self.talk.say(place, say("new_started", language))
            case "language":
                keyboard = keyboards.languages(language)
                self.talk.say(place, say("language_question", language), keyboard=keyboard)
            case "privacy":
                self.talk.say(place, self._privacy(language))
            case "forget":
                keyboard = keyboards.really_forget(language)
                self.talk.say(place, say("forget_confirm", language), keyboard=keyboard)
            case "start":
                words = f"{say('greeting', language)}\n\n{_help(language)}"
                self.talk.say(place, words)
            case _:
                self.talk.say(place, _help(language))

    async def on_press(self, query: CallbackQuery, place: Place) -> None:
        """Take a press of a button that a command showed."""
        data, user_id = query.data or "", user_id_of(query.from_user.id)
        number = query.message.message_id if query.message else 0
        if data.startswith(keyboards.LANGUAGE):
            await self._choose_language(user_id, data.removeprefix(keyboards.LANGUAGE))
            language = await language_for(self.store, query.from_user)
            follows = await self.store.chosen_language(user_id) is None
            key = "language_follows" if follows else "language_chosen"
            self.talk.change_text(place, number, say(key, language))
        elif data == f"{keyboards.FORGET}yes":
            language = await language_for(self.store, query.from_user)
            self.talk.errands.run(self._forget(user_id, place, number, language))
        elif data == f"{keyboards.FORGET}no":
            language = await language_for(self.store, query.from_user)
            self.talk.change_text(place, number, say("not_forgotten", language))
        self.talk.notice(query.id)

    async def _choose_language(self, user_id: str, chosen: str) -> None:
        choices: dict[str, Language | None] = {"zh": "zh", "en": "en", "auto": None}
        with suppress(KeyError):
            await self.store.choose_language(user_id, choices[chosen])

    async def _forget(self, user_id: str, place: Place, number: int, language: Language) -> None:
        """Delete the person's private conversations; answers under way end before that."""
        private = Place(place.bot_id, int(user_id.rpartition(":")[2])).chat
        found = {one for one, _ in await self.store.conversations_of(user_id, limit=100_000)}
        # A first question under way has no conversation in the store yet.
        found |= await self.inbox.conversations_waiting(f"{private}:")
        for conversation in found:
            if conversation.startswith(f"{private}:"):
                await self._forget_conversation(conversation)
        self.talk.change_text(place, number, say("forgotten", language))

    async def _forget_conversation(self, conversation: str) -> None:
        waiting = await self.inbox.pending(conversation)
        await self.store.delete_conversation(conversation)
        for message in waiting:
            self.lanes.stop(conversation, message.id)
            await self.answers.over(conversation, message.id)
        # What was under way is stored when it ends.
        await self.store.delete_conversation(conversation)

    def _privacy(self, language: Language) -> str:
        training = "privacy_trains" if self.privacy.trains else "privacy_trains_not"
        days = self.privacy.keep_days
        return say("privacy", language, days=days, training=say(training, language))


def _help(language: Language) -> str:
    return say("chat_commands", language, photos=MAX_PHOTOS)


def _described(language: Language) -> list[BotCommand]:
    return [BotCommand(name, say(f"command_{name}", language)) for name in COMMANDS]
