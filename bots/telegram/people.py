"""Who may talk to the bot, what people are called in the store, and which language they read."""

from __future__ import annotations

from dataclasses import dataclass

from telegram import User

from bots.telegram.place import Names, Place
from core.messages import Language, Platform
from core.privacy import Pseudonyms
from core.store import Store


@dataclass(frozen=True, slots=True)
class Guests:
    """Whom the bot talks to: everyone, unless one of the first two sets names somebody."""

    users: frozenset[int] = frozenset()
    chats: frozenset[int] = frozenset()
    operators: frozenset[int] = frozenset()

    def welcome(self, user_id: int, place: Place) -> bool:
        """Whether this person is talked to in this place."""
        if not self.users and not self.chats:
            return True
        return user_id in self.users | self.operators or place.chat_id in self.chats


@dataclass(frozen=True, slots=True)
class People:
    """People as the store knows them."""

    store: Store
    pseudonyms: Pseudonyms

    @property
    def names(self) -> Names:
        """What the store calls the places where they talk."""
        return Names(self.pseudonyms)

    def id_of(self, user: User) -> str:
        """The person's name in the store."""
        return self.pseudonyms.of(Platform.TELEGRAM, str(user.id))

    async def language_for(self, user: User) -> Language:
        """The language the person chose, else that of their Telegram."""
        return await self.store.chosen_language(self.id_of(user)) or language_of_app(user)


def language_of_app(user: User) -> Language:
    """The language of ours that the person's Telegram is set to, English for all others."""
    return "zh" if (user.language_code or "").startswith("zh") else "en"
