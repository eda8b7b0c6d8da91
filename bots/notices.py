"""Tells people in their chats what the model has learned from them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from core.messages import Platform
from core.notices import Notice, Notices
from core.store import Store

log = structlog.get_logger()

LOOK_SECONDS = 60.0


class Teller(Protocol):
    """A platform on which people can be told something that they did not ask for."""

    def is_private(self, conversation_id: str) -> bool:
        """Whether a conversation is one where only this person reads, and we can write."""
        ...

    async def tell(self, conversation_id: str, notice: Notice) -> None:
        """Say it there."""
        ...


class Telling:
    """Looks now and then who is to be told; whoever has no private chat with us is left for later.

    Pages tell by themselves, when somebody comes.
    """

    def __init__(self, notices: Notices, store: Store, tellers: Mapping[Platform, Teller]) -> None:
        self._notices = notices
        self._store = store
        self._tellers = tellers

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            for platform, teller in self._tellers.items():
                try:
                    await self.tell_all(platform, teller)
                # The outermost handler: a platform that is away must not end anybody's answers.
                except Exception:
                    log.exception("not_told", platform=platform)
            await asyncio.sleep(LOOK_SECONDS)

    async def tell_all(self, platform: Platform, teller: Teller) -> None:
        """Tell everybody on a platform who is to be told now."""
        for user_id in await self._notices.people(platform):
            known = await self._store.conversations_of(user_id)
            chat = next((name for name, _ in known if teller.is_private(name)), None)
            if chat is None:
                continue
            if (notice := await self._notices.take(user_id)) is not None:
                try:
                    await teller.tell(chat, notice)
                # They may have blocked us; the others are told all the same.
                except Exception:
                    log.exception("person_not_told", platform=platform)
