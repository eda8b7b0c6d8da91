"""Who may talk to the bot in Slack, what people are called in the store, and what they read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import aiohttp
import structlog
from slack_sdk.errors import SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from core.messages import Language, Platform
from core.privacy import Pseudonyms
from core.store import Store

log = structlog.get_logger()

MOST_REMEMBERED = 10_000


@dataclass(slots=True)
class Me:
    """Who we are in Slack; nobody yet before Slack has been asked."""

    bot_user: str = ""
    bot_id: str = ""
    known: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Guests:
    """Whom the bot talks to; an empty set is everybody, operators are always talked to."""

    teams: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()

    def welcome(self, user: str, team: str, channel: str) -> bool:
        """Whether this person of that workspace is talked to here; "" is no channel at all.

        Direct messages take place in no channel that could be listed.
        """
        if user in self.operators:
            return True
        direct = not channel or channel.startswith("D")
        return (not self.teams or team in self.teams) and (
            direct or not self.channels or channel in self.channels
        )


@dataclass(frozen=True, slots=True)
class Person:
    """A person: `id` in the store, `user` in Slack."""

    id: str
    user: str


@dataclass(frozen=True, slots=True)
class People:
    """People as the store knows them, and what is remembered of them while we run."""

    client: AsyncWebClient
    store: Store
    pseudonyms: Pseudonyms
    _users: dict[str, str] = field(default_factory=dict)
    _locales: dict[str, Language] = field(default_factory=dict)

    def meet(self, user: str) -> Person:
        """The person with this id in Slack; whose pseudonym it is, is remembered for a while."""
        person = Person(self.pseudonyms.of(Platform.SLACK, user), user)
        self._users.pop(person.id, None)
        self._users[person.id] = user
        if len(self._users) > MOST_REMEMBERED:
            del self._users[next(iter(self._users))]
        return person

    def user_of(self, user_id: str) -> str | None:
        """A person's id in Slack; None when they were last met before a restart."""
        return self._users.get(user_id)

    async def language_for(self, person: Person) -> Language:
        """The language the person chose, else that of their Slack."""
        return await self.store.chosen_language(person.id) or await self.language_of_app(person)

    async def language_of_app(self, person: Person) -> Language:
        """The language of ours that the person's Slack is set to, English for all others."""
        if (known := self._locales.get(person.user)) is not None:
            return known
        try:
            answer = await self.client.users_info(user=person.user, include_locale=True)
        except (SlackClientError, aiohttp.ClientError, TimeoutError) as exc:
            log.info("locale_unknown", error=type(exc).__name__)
            return "en"
        locale = str((answer.get("user") or {}).get("locale") or "")
        language: Language = "zh" if locale.startswith("zh") else "en"
        if len(self._locales) < MOST_REMEMBERED:
            self._locales[person.user] = language
        return language
