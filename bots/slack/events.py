"""What comes from Slack: questions go to the inbox, verdicts to the store, the rest is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import structlog
from slack_sdk.web.async_client import AsyncWebClient

from bots.buttons import Pick, Thumb, Why, from_data
from bots.lanes import Lanes
from bots.slack.blocks import DUEL_OFF_ACTION
from bots.slack.duels import Comparisons
from bots.slack.feedback import Press, Verdicts
from bots.slack.files import has_files, photos_in
from bots.slack.home import FORGET_ACTION, LANGUAGE_ACTION, WISHES_ACTION, Home
from bots.slack.people import Guests, Me, People, Person
from bots.slack.place import Place
from bots.slack.show import Answers
from bots.slack.talk import Talk
from bots.slack.text import plain
from bots.told import Told
from core.engine import Engine
from core.errors import Busy, ImageRejected, MessageRejected, SolemateError, StoreError
from core.inbox import Inbox
from core.messages import Language, Platform, UserMessage
from core.privacy import erased_at
from core.store import Store
from core.wording import apology, say

log = structlog.get_logger()

Json = dict[str, Any]

DAY_SECONDS = 86_400.0
# What of all that is called a message a person says: not an edit, a deletion, somebody who joins.
_SAID = (None, "file_share", "thread_broadcast")
_EXAMPLES = ("example_1", "example_2", "example_3")


@dataclass(frozen=True, slots=True)
class Events:
    """Takes what Slack hands over; when a method returns, what it means is committed.

    All raise `StoreError` when nothing can be committed: then Slack has to hand it over again.
    """

    me: Me
    client: AsyncWebClient
    store: Store
    inbox: Inbox
    engine: Engine
    lanes: Lanes
    answers: Answers
    talk: Talk
    verdicts: Verdicts
    comparisons: Comparisons
    home: Home
    guests: Guests
    people: People
    max_photo_bytes: int
    _told: Told = field(default_factory=Told)
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def on_event(self, body: Json) -> None:
        """Take an event; kinds that we do not know mean nothing."""
        event, team = body["event"], str(body.get("team_id"))
        user = event.get("user")
        if not isinstance(user, str) or event.get("bot_id") or user == self.me.bot_user:
            return
        person = self.people.meet(user)
        match event["type"]:
            case "message" | "app_mention":
                await self._on_message(event, team, person)
            case "reaction_added" | "reaction_removed":
                channel = str((event.get("item") or {}).get("channel"))
                if self.guests.welcome(user, _team_of(event, team), channel):
                    taking = self.verdicts.on_reaction(team, person, event)
                    await self._once(team, f"event-{body.get('event_id')}", taking)
            case "app_home_opened":
                self.talk.errands.run(self._show_home(event, _team_of(event, team), person))
            case _:
                pass

    async def on_action(self, body: Json) -> None:
        """Take a press of a button, or a choice from a list."""
        user, action = body["user"], body["actions"][0]
        team = str((body.get("team") or {}).get("id"))
        person = self.people.meet(str(user["id"]))
        channel = str((body.get("channel") or {}).get("id") or "")
        if not self.guests.welcome(person.user, str(user.get("team_id") or team), channel):
            return
        key = f"action-{person.user}-{action.get('action_id')}-{action.get('action_ts')}"
        press = Press(person, channel, str(body.get("trigger_id")), _post_in(body))
        await self._once(team, key[:128], self._act(press, action))

    async def on_form(self, body: Json) -> None:
        """Take a form that was sent."""
        user, view = body["user"], body["view"]
        team = str((body.get("team") or {}).get("id"))
        person = self.people.meet(str(user["id"]))
        if self.guests.welcome(person.user, str(user.get("team_id") or team), ""):
            key = f"form-{person.user}-{view.get('id')}"
            await self._once(team, key[:128], self.verdicts.on_form(person, view))

    async def _on_message(self, event: Json, team: str, person: Person) -> None:
        if event.get("subtype") not in _SAID or not isinstance(event.get("ts"), str):
            return
        own = str(event["ts"])
        place = Place(team, str(event["channel"]), str(event.get("thread_ts") or own))
        if not await self._is_for_us(event, place, person):
            return
        if not self.guests.welcome(person.user, _team_of(event, team), place.channel):
            self._send_away(place, person)
            return
        if float(own) < await erased_at(self.store, person.id):
            return
        key = f"message-{place.channel}-{own}"
        # A mention comes twice, as a mention and as a message, and both may come at once.
        async with self._turns.setdefault(key, asyncio.Lock()):
            if await self.inbox.knows(Platform.SLACK, place.conversation_id, own):
                return
            if await self._unseen(team, key):
                await self._on_question(event, place, person, key)

    async def _on_question(self, event: Json, place: Place, person: Person, key: str) -> None:
        """Commit a question to the inbox; what cannot be taken is told, once."""
        try:
            message = await self._to_user_message(event, place, person)
            if not message.text and not message.photo_count:
                raise MessageRejected("There is neither text nor photo.", code="text_or_photo")
            self.engine.check(message)
            behind = await self.lanes.behind(message)
            if await self.lanes.submit(message, sent_at=float(message.id)) and behind:
                self.talk.errands.run(self.answers.announce(message, behind + 1))
        except (MessageRejected, ImageRejected, Busy) as exc:
            await self._note(place.team, key)
            seconds = exc.retry_after_seconds if isinstance(exc, Busy) else 0.0
            if self._told.first((exc.code, person.id), seconds=seconds):
                self.talk.errands.run(self._refuse(exc, place, person))

    async def _to_user_message(self, event: Json, place: Place, person: Person) -> UserMessage:
        """Raises `ImageRejected` for a photo that is too large."""
        text = plain(str(event.get("text") or ""), self.me.bot_user)
        if not text and has_files(event) and not photos_in(event, self.max_photo_bytes):
            raise MessageRejected("The file is no photo.", code="text_or_photo")
        return UserMessage(
            id=str(event["ts"]),
            platform=Platform.SLACK,
            conversation_id=place.conversation_id,
            user_id=person.id,
            text=text,
            language=await self.store.chosen_language(person.id),
            files=photos_in(event, self.max_photo_bytes),
        )

    async def _is_for_us(self, event: Json, place: Place, person: Person) -> bool:
        """Whether we are spoken to: directly, by name, or in a thread that asked us."""
        text = str(event.get("text") or "")
        if place.is_direct or event["type"] == "app_mention" or f"<@{self.me.bot_user}>" in text:
            return True
        # Whoever talks to somebody else there does not talk to us.
        if place.thread == event["ts"] or "<@" in text or "<!" in text:
            return False
        conversation = place.conversation_id
        turn = await self.store.answered(Platform.SLACK, conversation, place.thread)
        if turn is not None:
            return turn.user_id == person.id
        waiting = await self.inbox.pending(conversation)
        return any(one.id == place.thread and one.user_id == person.id for one in waiting)

    async def _act(self, press: Press, action: Json) -> None:
        person = press.person
        match action.get("action_id"):
            case str(one) if one == LANGUAGE_ACTION:
                choice = (action.get("selected_option") or {}).get("value")
                await self.home.choose_language(person, str(choice))
                self.talk.errands.run(self.home.show(person))
            case str(one) if one == WISHES_ACTION:
                options = action.get("selected_options") or []
                await self.home.choose_wishes(person, {str(one["value"]) for one in options})
                self.talk.errands.run(self.home.show(person))
            case str(one) if one == FORGET_ACTION:
                await self._forget(person)
            case str(one) if one == DUEL_OFF_ACTION:
                await self.comparisons.on_switch_off(press)
            case _:
                match from_data(str(action.get("value") or "")):
                    case Pick() as pick:
                        await self.comparisons.on_pick(press, pick)
                    case Thumb() | Why() as data:
                        await self.verdicts.on_press(press, data)
                    case None:
                        pass

    async def _forget(self, person: Person) -> None:
        """Delete all about the person, and show it on their Home; so, too, when that failed."""
        try:
            chosen = await self.store.chosen_language(person.id)
            await self.home.forget(person.id)
        except StoreError:
            self.talk.errands.run(self.home.show_not_forgotten(person))
            raise
        self.talk.errands.run(self.home.show_forgotten(person, chosen))

    async def _once(self, team: str, key: str, taking: Awaitable[None]) -> None:
        """Take what did not come before, and note that it came once it is taken."""
        async with self._turns.setdefault(key, asyncio.Lock()):
            if not await self._unseen(team, key):
                _drop(taking)
                return
            await taking
            await self._note(team, key)

    async def _unseen(self, team: str, key: str) -> bool:
        return bool(await self.inbox.unseen(Platform.SLACK, f"slack:{team}", [key]))

    async def _note(self, team: str, key: str) -> None:
        await self.inbox.note_seen(Platform.SLACK, f"slack:{team}", [key])

    async def _refuse(self, error: SolemateError, place: Place, person: Person) -> None:
        language = await self.people.language_for(person)
        self.talk.say(place, person.user, apology(error, language))

    def _send_away(self, place: Place, person: Person) -> None:
        """Say once that we do not know this person."""
        if self._told.first(("stranger", person.id, place.channel), seconds=DAY_SECONDS):
            self.talk.errands.run(self._tell_stranger(place, person))

    async def _tell_stranger(self, place: Place, person: Person) -> None:
        language = await self.people.language_of_app(person)
        self.talk.say(place, person.user, say("stranger", language))

    async def _show_home(self, event: Json, team: str, person: Person) -> None:
        if event.get("tab") == "messages":
            await self._suggest(str(event.get("channel")), person)
        elif self.guests.welcome(person.user, team, ""):
            await self.home.show(person)
        else:
            await self.home.show_stranger(person)

    async def _suggest(self, channel: str, person: Person) -> None:
        """Offer questions to whoever opens the empty chat."""
        language: Language = await self.people.language_for(person)
        prompts = [
            {"title": say(one, language), "message": say(one, language)} for one in _EXAMPLES
        ]
        await self.client.assistant_threads_setSuggestedPrompts(
            channel_id=channel, title=say("examples", language), prompts=prompts
        )


def _team_of(event: Json, team: str) -> str:
    """The workspace a person belongs to: in a shared channel not always the one it is in."""
    return str(event.get("user_team") or event.get("source_team") or event.get("team") or team)


def _post_in(body: Json) -> str:
    """The message that a pressed button stands under, "" for one that only the person sees."""
    container = body.get("container") or {}
    return "" if container.get("is_ephemeral") else str(container.get("message_ts") or "")


def _drop(taking: Awaitable[None]) -> None:
    if asyncio.iscoroutine(taking):
        taking.close()
