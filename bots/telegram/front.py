"""Telegram's parts, opened and put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from telegram import Bot
from telegram.request import HTTPXRequest

from bots.lanes import Lanes
from bots.telegram.commands import Commands, Privacy
from bots.telegram.courier import Courier
from bots.telegram.feedback import Verdicts
from bots.telegram.people import Guests
from bots.telegram.polling import Polling, Rhythm
from bots.telegram.show import Answers, Pace
from bots.telegram.talk import Errands, Talk
from bots.telegram.updates import Updates
from core.engine import Engine
from core.errors import ConfigError
from core.inbox import Inbox
from core.store import Store


@dataclass(frozen=True, slots=True)
class Access:
    """How Telegram is reached, and who is talked to."""

    token: str
    base_url: str
    base_file_url: str
    guests: Guests


@dataclass(frozen=True, slots=True)
class Telegram:
    """A connection to Telegram: `answers` is what the lanes show with."""

    bot: Bot
    bot_id: int
    polls: HTTPXRequest
    courier: Courier
    errands: Errands
    store: Store
    inbox: Inbox
    answers: Answers
    guests: Guests

    def polling(
        self,
        lanes: Lanes,
        engine: Engine,
        *,
        privacy: Privacy,
        max_photo_bytes: int,
        rhythm: Rhythm | None = None,
    ) -> Polling:
        """The loop that takes messages in; run it while the lanes are running."""
        talk = Talk(self.bot, self.courier, self.errands)
        updates = Updates(
            bot=self.bot,
            bot_id=self.bot_id,
            store=self.store,
            engine=engine,
            lanes=lanes,
            talk=talk,
            verdicts=Verdicts(self.bot_id, engine, self.store, self.inbox, lanes.metrics, talk),
            commands=Commands(self.store, self.inbox, lanes, self.answers, talk, privacy),
            guests=self.guests,
            max_photo_bytes=max_photo_bytes,
        )
        return Polling(self.bot, self.polls, updates.take, self.errands, rhythm=rhythm)


@asynccontextmanager
async def open_telegram(
    access: Access,
    *,
    store: Store,
    inbox: Inbox,
    courier: Courier | None = None,
    pace: Pace | None = None,
) -> AsyncIterator[Telegram]:
    """Everything that talks to Telegram; nothing is sent or fetched before it is used.

    Close it after the lanes have drained: they show their last answers through it.
    """
    number, colon, _ = access.token.partition(":")
    if not (colon and number.isdecimal()):
        raise ConfigError(
            "TELEGRAM_BOT_TOKEN is no bot's token: BotFather's begin with a number and a colon."
        )
    # A pool of its own, so that a dead poll can be thrown away without any answer.
    polls = HTTPXRequest(connection_pool_size=1)
    bot = Bot(
        access.token,
        base_url=access.base_url,
        base_file_url=access.base_file_url,
        request=HTTPXRequest(connect_timeout=10, read_timeout=20, pool_timeout=10),
        get_updates_request=polls,
    )
    errands, patient = Errands(), courier or Courier()
    answers = Answers(bot, inbox, patient, pace=pace)
    try:
        async with errands.running():
            yield Telegram(
                bot,
                int(number),
                polls,
                patient,
                errands,
                store,
                inbox,
                answers,
                access.guests,
            )
    finally:
        await polls.shutdown()
        await bot.request.shutdown()
