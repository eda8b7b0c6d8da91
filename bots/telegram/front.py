"""Telegram's parts, opened and put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from telegram import Bot
from telegram.request import HTTPXRequest

from bots.courier import Courier
from bots.duels import Asking
from bots.errands import Errands
from bots.lanes import Lanes
from bots.telegram.calls import Limits, Rates, chat_of, read_error
from bots.telegram.commands import Commands, Privacy, publish_commands
from bots.telegram.duels import Comparisons
from bots.telegram.feedback import Verdicts
from bots.telegram.intake import Intake
from bots.telegram.notices import TelegramTeller
from bots.telegram.people import Guests, People
from bots.telegram.photos import Photos
from bots.telegram.polling import Polling, Rhythm
from bots.telegram.show import Answers, Pace
from bots.telegram.talk import Talk
from bots.telegram.updates import Updates
from bots.telegram.webhook import Hook, Webhook
from bots.telegram.wire import PollRequest
from core.duels import Duels
from core.engine import Engine
from core.errors import ConfigError
from core.inbox import Inbox
from core.leader import Lead, alone
from core.posts import Posts
from core.privacy import Pseudonyms
from core.store import Store

# An album's photos come one by one within about a second.
ALBUM_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Access:
    """How Telegram is reached, and who is talked to; `ConfigError` for what is no bot's token."""

    token: str
    base_url: str
    base_file_url: str
    guests: Guests

    def __post_init__(self) -> None:
        number, colon, _ = self.token.partition(":")
        if not (colon and number.isdecimal()):
            raise ConfigError(
                "TELEGRAM_BOT_TOKEN is no bot's token: BotFather's begin with a number and a colon."
            )

    @property
    def bot_id(self) -> int:
        """The bot's number, which its token begins with."""
        return int(self.token.partition(":")[0])


@dataclass(frozen=True, slots=True)
class Host:
    """What takes messages in, and what people are told about it; `live` names who answers."""

    lanes: Lanes
    engine: Engine
    privacy: Privacy
    live: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Telegram:
    """A connection to Telegram.

    `answers` is what the lanes show with, `photos.prepare` what completes their messages.
    """

    bot: Bot
    bot_id: int
    polls: PollRequest
    errands: Errands
    talk: Talk
    store: Store
    inbox: Inbox
    posts: Posts
    comparisons: Comparisons
    asking: Asking
    answers: Answers
    photos: Photos
    people: People
    guests: Guests
    album_seconds: float

    @property
    def teller(self) -> TelegramTeller:
        """What tells people what they did not ask for."""
        return TelegramTeller(self.bot_id, self.talk, self.people.names)

    def polling(self, host: Host, *, lead: Lead = alone, rhythm: Rhythm | None = None) -> Polling:
        """The loop that fetches messages; run it while the lanes are running."""
        return Polling(
            self.bot,
            self.polls,
            self.intake(host),
            host.lanes,
            begin=self._publish,
            lead=lead,
            rhythm=rhythm,
        )

    def webhook(self, host: Host, hook: Hook) -> Webhook:
        """What Telegram posts messages to; run it while the lanes are running."""
        return Webhook(self.bot, hook, self.intake(host), begin=self._publish)

    def intake(self, host: Host) -> Intake:
        """What commits updates, from wherever they come."""
        verdicts = Verdicts(
            self.bot_id,
            host.engine,
            self.store,
            self.posts,
            self.people,
            host.lanes.metrics,
            self.talk,
            self.asking,
        )
        commands = Commands(
            self.bot,
            self.store,
            self.inbox,
            self.posts,
            host.lanes,
            self.answers,
            self.talk,
            self.people,
            self.guests,
            host.privacy,
            host.live,
        )
        updates = Updates(
            bot=self.bot,
            bot_id=self.bot_id,
            store=self.store,
            inbox=self.inbox,
            engine=host.engine,
            lanes=host.lanes,
            answers=self.answers,
            talk=self.talk,
            verdicts=verdicts,
            comparisons=self.comparisons,
            commands=commands,
            guests=self.guests,
            people=self.people,
            photos=self.photos,
            album_seconds=self.album_seconds,
        )
        return Intake(self.bot_id, self.inbox, updates.take, updates.give_up)

    def _publish(self) -> None:
        self.errands.run(publish_commands(self.bot, sorted(self.guests.operators)))


@asynccontextmanager
async def open_telegram(
    access: Access,
    *,
    store: Store,
    inbox: Inbox,
    pseudonyms: Pseudonyms,
    max_photo_bytes: int,
    duels: Duels | None = None,
    album_seconds: float = ALBUM_SECONDS,
    courier: Courier | None = None,
    pace: Pace | None = None,
) -> AsyncIterator[Telegram]:
    """Everything that talks to Telegram; nothing is sent or fetched before it is used.

    Close it after the lanes have drained: they show their last answers through it.
    """
    # A pool of its own, so that a dead poll can be thrown away without any answer.
    polls = PollRequest(connection_pool_size=1)
    bot = Bot(
        access.token,
        base_url=access.base_url,
        base_file_url=access.base_file_url,
        request=HTTPXRequest(connect_timeout=10, read_timeout=20, pool_timeout=10),
        get_updates_request=polls,
    )
    errands, patient = Errands(), courier or _courier()
    people, talk = People(store, pseudonyms), Talk(bot, patient, errands)
    posts = Posts(store)
    comparisons = Comparisons(duels, store, people, talk)
    asking = Asking(duels, errands, comparisons.reaches, comparisons.show)
    try:
        async with errands.running():
            yield Telegram(
                bot=bot,
                bot_id=access.bot_id,
                polls=polls,
                errands=errands,
                talk=talk,
                store=store,
                inbox=inbox,
                posts=posts,
                comparisons=comparisons,
                asking=asking,
                answers=Answers(bot, posts, patient, asking, people.names, pace=pace),
                photos=Photos(bot, max_photo_bytes),
                people=people,
                guests=access.guests,
                album_seconds=album_seconds,
            )
    finally:
        await polls.shutdown()
        await bot.request.shutdown()


def _courier() -> Courier:
    return Courier(read_error, limits=Limits(Rates()), sharing=chat_of)
