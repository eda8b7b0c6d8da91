"""Slack's parts, opened and put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from slack_sdk.web.async_client import AsyncWebClient
from starlette.routing import BaseRoute, Route

from bots.courier import Courier
from bots.duels import Asking
from bots.errands import Errands
from bots.lanes import Lanes
from bots.slack.app import build_app
from bots.slack.calls import read_error
from bots.slack.door import PATH, Door
from bots.slack.duels import Comparisons
from bots.slack.events import Events
from bots.slack.feedback import Verdicts
from bots.slack.files import Files, open_http, origins_for
from bots.slack.home import Home, Privacy
from bots.slack.notices import SlackTeller
from bots.slack.people import Guests, Me, People
from bots.slack.reading import Reading
from bots.slack.show import Answers, Pace
from bots.slack.socket import Rhythm, Socket, Status, for_ever
from bots.slack.talk import Talk
from core.duels import Duels
from core.engine import Engine
from core.errors import ConfigError
from core.inbox import Inbox
from core.leader import Lead, alone
from core.messages import UserMessage
from core.posts import Posts
from core.privacy import Pseudonyms, erase
from core.store import Store

CALL_SECONDS = 20.0

Mode = Literal["socket", "http"]


@dataclass(frozen=True, slots=True)
class Access:
    """How Slack is reached, how it reaches us, and who is talked to."""

    bot_token: str = field(repr=False)
    app_token: str = field(repr=False)
    signing_secret: str = field(repr=False)
    base_url: str
    mode: Mode
    guests: Guests
    max_photo_bytes: int
    expire_seconds: float


@dataclass(frozen=True, slots=True)
class Intake:
    """What takes things in: a socket, or `routes` that the web server opens; run it either way.

    `status` says how it goes.
    """

    status: Status
    routes: Sequence[BaseRoute]
    _client: AsyncWebClient
    _socket: Socket | None
    _me: Me
    _rhythm: Rhythm
    _lead: Lead

    async def run(self) -> None:
        """Learn who we are, then take in what comes, for ever."""
        await for_ever(self._step, self.status, self._rhythm.first_pause_seconds)

    async def _step(self) -> None:
        if not self._me.known.is_set():
            answer = await self._client.auth_test()
            self._me.bot_id = str(answer.get("bot_id") or "")
            self._me.bot_user = str(answer["user_id"])
            self._me.known.set()
        if self._socket is not None:
            await self._lead(self._connected)
        self.status.well()
        # The web server brings what comes.
        await asyncio.Event().wait()

    async def _connected(self) -> None:
        assert self._socket is not None
        await self._socket.run(self.status)


@dataclass(frozen=True, slots=True)
class Slack:
    """A connection to Slack: `answers` is what the lanes show with, `reading` what they read."""

    access: Access
    session: aiohttp.ClientSession
    client: AsyncWebClient
    courier: Courier
    errands: Errands
    store: Store
    inbox: Inbox
    posts: Posts
    people: People
    me: Me
    talk: Talk
    comparisons: Comparisons
    asking: Asking
    answers: Answers
    reading: Reading

    @property
    def teller(self) -> SlackTeller:
        """What tells people what they did not ask for."""
        return SlackTeller(self.talk)

    def intake(
        self,
        lanes: Lanes,
        engine: Engine,
        *,
        privacy: Privacy,
        lead: Lead = alone,
        rhythm: Rhythm | None = None,
    ) -> Intake:
        """What takes things in; run it while the lanes are running.

        A socket is held while `lead` lets us.
        """
        verdicts = Verdicts(
            self.client,
            engine,
            self.store,
            self.posts,
            lanes.metrics,
            self.talk,
            self.people,
            self.asking,
        )

        async def forget(user_id: str) -> None:
            await self._forget(user_id, lanes)

        events = Events(
            me=self.me,
            client=self.client,
            store=self.store,
            inbox=self.inbox,
            engine=engine,
            lanes=lanes,
            answers=self.answers,
            talk=self.talk,
            verdicts=verdicts,
            comparisons=self.comparisons,
            home=Home(self.client, self.store, self.people, privacy, forget),
            guests=self.access.guests,
            people=self.people,
            max_photo_bytes=self.access.max_photo_bytes,
        )
        access, rhythm = self.access, rhythm or Rhythm()
        app = build_app(access.base_url, self.session, self.me, events)
        status, socket, routes = Status(), None, tuple[BaseRoute, ...]()
        if access.mode == "http":
            door = Door(app, access.signing_secret, status.touch)
            routes = (Route(PATH, door.receive, methods=["POST"]),)
        else:
            socket = Socket(app, self.client, access.app_token, rhythm=rhythm)
        return Intake(status, routes, self.client, socket, self.me, rhythm, lead)

    async def _forget(self, user_id: str, lanes: Lanes) -> None:
        """Delete all about the person; what is being answered ends, and is not stored."""
        under_way = await self.inbox.pending_of(user_id)
        # Slack waits for us: that no deleted word stays readable in the file is seen to later.
        await erase(self.store, user_id, wipe=False)
        self.errands.run(self._forget_the_rest(under_way, lanes))

    async def _forget_the_rest(self, under_way: Sequence[UserMessage], lanes: Lanes) -> None:
        """Forget where the last answers are shown, when they have ended."""
        for message in under_way:
            await lanes.stop(message.conversation_id, message.id)
        for message in under_way:
            await self.answers.over(message.conversation_id, message.id)
            await self.posts.forget(message.conversation_id, message.id)
        await self.store.wipe(rewrite=True)


@asynccontextmanager
async def open_slack(
    access: Access,
    *,
    store: Store,
    inbox: Inbox,
    pseudonyms: Pseudonyms,
    duels: Duels | None = None,
    courier: Courier | None = None,
    pace: Pace | None = None,
) -> AsyncIterator[Slack]:
    """Everything that talks to Slack; nothing is sent or fetched before it is used.

    Close it after the lanes have drained: they show their last answers through it. Raises
    `ConfigError` where a secret that the mode needs is missing or is another one's.
    """
    check_access(access)
    errands, patient = Errands(), courier or Courier(read_error)
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, open_http() as http:
        client = AsyncWebClient(
            access.bot_token,
            base_url=access.base_url,
            session=session,
            # By itself it repeats what may have arrived; the courier does not.
            retry_handlers=[],
        )
        people, me, posts = People(client, store, pseudonyms), Me(), Posts(store)
        files = Files(http, access.bot_token, origins_for(access.base_url), access.max_photo_bytes)
        reading = Reading(client, store, files, people, me, access.expire_seconds)
        talk = Talk(client, patient, errands)
        comparisons = Comparisons(duels, client, patient, store, people, talk)
        asking = Asking(duels, errands, comparisons.reaches, comparisons.show)
        answers = Answers(client, posts, patient, people, asking, pace=pace)
        async with errands.running():
            yield Slack(
                access,
                session,
                client,
                patient,
                errands,
                store,
                inbox,
                posts,
                people,
                me,
                talk,
                comparisons,
                asking,
                answers,
                reading,
            )


def check_access(access: Access) -> None:
    """Raise `ConfigError` where a secret that the mode needs is missing or is another one's."""
    if not access.bot_token.startswith("xoxb-"):
        raise ConfigError(
            "SLACK_BOT_TOKEN is no bot's token: those begin with xoxb- (OAuth & Permissions)."
        )
    if access.mode == "socket" and not access.app_token.startswith("xapp-"):
        raise ConfigError(
            "Socket Mode needs SLACK_APP_TOKEN, which begins with xapp- (Basic Information, "
            'App-Level Tokens); or set slack.mode = "http".'
        )
    if access.mode == "http" and not access.signing_secret:
        raise ConfigError(
            "The HTTP mode needs SLACK_SIGNING_SECRET (Basic Information, App Credentials); "
            'or set slack.mode = "socket".'
        )
