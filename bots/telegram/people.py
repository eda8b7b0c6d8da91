"""Who may talk to the bot, and in which language it talks to them."""

from __future__ import annotations

from dataclasses import dataclass

from telegram import User

from bots.telegram.place import Place, user_id_of
from core.messages import Language
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


async def language_for(store: Store, user: User) -> Language:
    """The language the person chose, else that of their Telegram."""
    chosen = await store.chosen_language(user_id_of(user.id))
    return chosen or language_of_app(user)


def language_of_app(user: User) -> Language:
    """The language of ours that the person's Telegram is set to, English for all others."""
    return "zh" if (user.language_code or "").startswith("zh") else "en"
