"""The slash commands, and the buttons they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

import structlog
from telegram import (
    Bot,
    BotCommand,
    BotCommandScopeChat,
    CallbackQuery,
    Message,
    MessageEntity,
    User,
)
from telegram.error import BadRequest

from bots.lanes import Lanes
from bots.telegram import keyboards
from bots.telegram.people import Guests, People
from bots.telegram.place import Place
from bots.telegram.show import Answers
from bots.telegram.talk import Talk
from core.corrections import correction_words, corrections_of
from core.engine import MAX_PHOTOS
from core.figures import Period, count_since, count_waiting
from core.inbox import Inbox
from core.messages import Language, Outcome, Rating, UserMessage, Wish
from core.posts import Posts
from core.privacy import erase
from core.store import Store
from core.wording import say

log = structlog.get_logger()

Command = Literal["start", "help", "new", "language", "settings", "privacy", "forget"]
COMMANDS: tuple[Command, ...] = get_args(Command)
# What a person taught, and figures for operators; only where nobody else reads.
STATS = "stats"
MOST_CORRECTIONS = 5
# Whose Telegram is set to neither reads English.
LANGUAGE_CODES: tuple[tuple[Language, str | None], ...] = (("en", None), ("zh", "zh"))


async def publish_commands(bot: Bot, operators: Sequence[int]) -> None:
    """Tell Telegram which commands there are: in English to everyone, in Chinese to Chinese."""
    for language, code in LANGUAGE_CODES:
        await bot.set_my_commands(_described(language, COMMANDS), language_code=code)
    for operator in operators:
        await publish_for_operator(bot, operator)


async def publish_for_operator(bot: Bot, operator: int) -> None:
    """Put one command more into the menu of an operator's private chat, if there is one yet."""
    scope = BotCommandScopeChat(operator)
    try:
        for language, code in LANGUAGE_CODES:
            theirs = _described(language, (*COMMANDS, STATS))
            await bot.set_my_commands(theirs, scope=scope, language_code=code)
    except BadRequest as exc:
        log.info("operator_unknown", problem=exc.message)


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
    """Carries commands out; `live` names who answers: an adapter, or the base model."""

    bot: Bot
    store: Store
    inbox: Inbox
    posts: Posts
    lanes: Lanes
    answers: Answers
    talk: Talk
    people: People
    guests: Guests
    privacy: Privacy
    live: Callable[[], str]

    async def run(self, name: str, message: Message, user: User, place: Place) -> None:
        """Carry one out; an unknown one is answered with the help."""
        language = await self.people.language_for(user)
        match name:
            case "new":
                names = self.people.names
                await self.store.start_anew(names.place(place), message.message_id)
                self.talk.say(place, say("new_started", language))
            case "language":
                keyboard = keyboards.languages(language)
                self.talk.say(place, say("language_question", language), keyboard=keyboard)
            case "settings" if place.is_group:
                self.talk.say(place, say("settings_private", language))
            case "settings":
                wishes = await self.store.wishes_of(self.people.id_of(user))
                keyboard = keyboards.wishes(wishes, language)
                self.talk.say(place, say("settings", language), keyboard=keyboard)
            case "privacy":
                self.talk.say(place, self._privacy(language))
            case "forget":
                keyboard = keyboards.really_forget(user.id, language)
                self.talk.say(place, say("forget_confirm", language), keyboard=keyboard)
            case "start":
                words = f"{say('greeting', language)}\n\n{_help(language)}"
                self.talk.say(place, words)
                if user.id in self.guests.operators and not place.is_group:
                    self.talk.errands.run(publish_for_operator(self.bot, user.id))
            case "stats" if not place.is_group:
                words = await self._taught(self.people.id_of(user), language)
                if user.id in self.guests.operators:
                    figures = await self._figures(datetime.now().astimezone(), language)
                    words = f"{figures}\n\n{words}"
                self.talk.say(place, words)
            case _:
                self.talk.say(place, _help(language))

    async def on_press(self, query: CallbackQuery, place: Place) -> None:
        """Take a press of a button that a command showed."""
        data, user = query.data or "", query.from_user
        number = query.message.message_id if query.message else 0
        notice = ""
        if data.startswith(keyboards.LANGUAGE):
            words = await self._choose_language(user, data.removeprefix(keyboards.LANGUAGE))
            self.talk.change_text(place, number, words)
        elif chosen := keyboards.wish_in(data):
            await self._wish(user, *chosen, place, number)
        elif data.startswith(keyboards.FORGET):
            language = await self.people.language_for(user)
            if data == keyboards.forget_data(user.id, really=True):
                await self._forget(self.people.id_of(user))
                self.talk.change_text(place, number, say("forgotten", language))
            elif data == keyboards.forget_data(user.id, really=False):
                self.talk.change_text(place, number, say("not_forgotten", language))
            else:
                notice = say("not_your_button", language)
        self.talk.notice(query.id, notice)

    async def _choose_language(self, user: User, chosen: str) -> str:
        """Commit the choice; what to say about it."""
        user_id = self.people.id_of(user)
        choices: dict[str, Language | None] = {"zh": "zh", "en": "en", "auto": None}
        with suppress(KeyError):
            await self.store.choose_language(user_id, choices[chosen])
        follows = await self.store.chosen_language(user_id) is None
        key = "language_follows" if follows else "language_chosen"
        return say(key, await self.people.language_for(user))

    async def _wish(self, user: User, which: Wish, on: bool, place: Place, number: int) -> None:
        """Commit a switch, and show how they stand."""
        user_id = self.people.id_of(user)
        await self.store.wish(user_id, which, on=on)
        language = await self.people.language_for(user)
        keyboard = keyboards.wishes(await self.store.wishes_of(user_id), language)
        self.talk.change_keyboard(place, number, keyboard)

    async def _forget(self, user_id: str) -> None:
        """Delete all about the person; what is being answered ends, and is not stored."""
        under_way = await self.inbox.pending_of(user_id)
        await erase(self.store, user_id)
        if under_way:
            self.talk.errands.run(self._forget_last_posts(under_way))

    async def _forget_last_posts(self, under_way: Sequence[UserMessage]) -> None:
        """Forget where the last answers are shown, when they have ended."""
        for message in under_way:
            await self.lanes.stop(message.conversation_id, message.id)
        for message in under_way:
            await self.answers.over(message)
            await self.posts.forget(message.conversation_id, message.id)

    async def _taught(self, user_id: str, language: Language) -> str:
        """What became of the person's corrections."""
        found = await corrections_of(self.store, user_id, limit=MOST_CORRECTIONS)
        lines = [correction_words(one, language) for one in found]
        return "\n\n".join(
            [say("home_corrections", language), *(lines or [say("home_no_corrections", language)])]
        )

    async def _figures(self, now: datetime, language: Language) -> str:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        today = await count_since(self.store, midnight.timestamp())
        week = await count_since(self.store, (now - timedelta(days=7)).timestamp())
        waiting = await count_waiting(self.store)
        return say(
            "stats",
            language,
            today=_period(today, language),
            week=_period(week, language),
            waiting=waiting.waiting,
            dead=waiting.dead,
            live=self.live(),
        )

    def _privacy(self, language: Language) -> str:
        training = "privacy_trains" if self.privacy.trains else "privacy_trains_not"
        days = self.privacy.keep_days
        return say("privacy", language, days=days, training=say(training, language))


def _period(period: Period, language: Language) -> str:
    answers = {f"{outcome}": period.answers[outcome] for outcome in Outcome}
    return say(
        "stats_period",
        language,
        people=period.people,
        total=sum(period.answers.values()),
        up=period.ratings[Rating.UP],
        down=period.ratings[Rating.DOWN],
        **answers,
    )


def _help(language: Language) -> str:
    return say("chat_commands", language, photos=MAX_PHOTOS)


def _described(language: Language, names: Sequence[str]) -> list[BotCommand]:
    return [BotCommand(name, say(f"command_{name}", language)) for name in names]
