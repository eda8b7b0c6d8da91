"""Thumbs, emoji, reasons and better answers: committed first, then acknowledged."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import structlog
from slack_sdk.web.async_client import AsyncWebClient

from bots.buttons import THUMBS, Thumb, Why
from bots.duels import Asking
from bots.metrics import Metrics
from bots.slack.blocks import answers_in, ask_why, reason_form
from bots.slack.people import People, Person
from bots.slack.place import Place, place_from
from bots.slack.talk import Talk
from core.engine import Engine
from core.errors import NotFound
from core.messages import Feedback, Platform, Rating, Turn
from core.posts import Posts
from core.store import Store
from core.wording import say

log = structlog.get_logger()

_EMOJI = {
    "+1": Rating.UP,
    "thumbsup": Rating.UP,
    "-1": Rating.DOWN,
    "thumbsdown": Rating.DOWN,
}
assert set(_EMOJI.values()) == set(THUMBS)


@dataclass(frozen=True, slots=True)
class Press:
    """A button was pressed under an answer; the trigger opens a form for a few seconds.

    `post` is the message it stands under, "" for one that only this person sees.
    """

    person: Person
    channel: str
    trigger: str
    post: str = ""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Turns presses, reactions and forms into feedback."""

    client: AsyncWebClient
    engine: Engine
    store: Store
    posts: Posts
    metrics: Metrics
    talk: Talk
    people: People
    asking: Asking

    async def on_press(self, press: Press, data: Thumb | Why) -> None:
        """Commit a thumb; then thank for it, or open the form that asks what was wrong."""
        if isinstance(data, Why):
            await self._on_why(press, data.reply_id)
            return
        feedback = Feedback(data.reply_id, press.person.id, data.rating)
        turn = await self._rate(feedback, press.channel)
        if turn is None:
            return
        if data.rating is Rating.UP:
            self.talk.errands.run(self._tell(turn, press.person, "feedback_thanks"))
        else:
            self.talk.errands.run(self._open_form(turn, press))
            self.asking.after_dislike(turn.reply, press.person.id)

    async def on_reaction(self, team: str, person: Person, event: dict[str, Any]) -> None:
        """Commit a 👍 or 👎 that was put on an answer, or take back one that was taken off.

        The later of the two counts, whichever comes first.
        """
        # A skin tone follows the name: `+1::skin-tone-2`.
        rating = _EMOJI.get(str(event.get("reaction")).partition("::")[0])
        item = event.get("item") or {}
        channel = str(item.get("channel"))
        if rating is None or item.get("type") != "message":
            return
        room = Place(team, channel, "").room
        reply_id = await self.posts.reply_of(room, str(item.get("ts")), "answer")
        if reply_id is None:
            return
        thumb, at = Feedback(reply_id, person.id, rating, by_reaction=True), _moment(event)
        if event["type"] == "reaction_removed":
            await self.store.withdraw(thumb, at)
            return
        turn = await self._rate(thumb, channel, reacted_at=at)
        if turn is not None and rating is Rating.DOWN:
            self.talk.errands.run(self._offer_form(turn, person))
            self.asking.after_dislike(turn.reply, person.id)

    async def on_form(self, person: Person, view: dict[str, Any]) -> None:
        """Commit the reason and the better answer that a person gave."""
        reason, correction = answers_in(view)
        reply_id = str(view.get("private_metadata"))
        if reason is None and not correction:
            return
        feedback = Feedback(reply_id, person.id, Rating.DOWN, reason, correction=correction)
        turn = await self._turn(reply_id)
        # Only whoever could press the thumb was shown the form.
        if turn is None or await self.store.verdict(reply_id, person.id) is None:
            return
        # It may have been turned since.
        if not await self._dislikes(reply_id, person):
            self.talk.errands.run(self._tell(turn, person, "not_your_thumb"))
        elif await self._rate(feedback) is not None and correction:
            self.talk.errands.run(self._tell(turn, person, "correction_thanks"))

    async def _on_why(self, press: Press, reply_id: str) -> None:
        """Open the form for whoever put a 👎 on the answer, and has not taken it off since."""
        turn = await self._turn(reply_id, press.channel)
        if turn is None:
            return
        if await self._dislikes(reply_id, press.person):
            self.talk.errands.run(self._open_form(turn, press))
        else:
            self.talk.errands.run(self._tell(turn, press.person, "not_your_thumb"))

    async def _dislikes(self, reply_id: str, person: Person) -> bool:
        """Whether the person's verdict is a thumb down, which alone has a reason."""
        verdict = await self.store.verdict(reply_id, person.id)
        return verdict is not None and verdict.rating is Rating.DOWN

    async def _rate(
        self, feedback: Feedback, channel: str | None = None, *, reacted_at: float | None = None
    ) -> Turn | None:
        """Commit a verdict on an answer that was given in this channel; None without such a one.

        None as well for an emoji that has been taken off since.
        """
        turn = await self._turn(feedback.reply_id, channel)
        if turn is None:
            return None
        try:
            if not await self.engine.rate(feedback, reacted_at=reacted_at):
                return None
        except NotFound:
            return None
        self.metrics.rated(feedback.rating)
        return turn

    async def _turn(self, reply_id: str, channel: str | None = None) -> Turn | None:
        """The turn with this answer, if it was given in this channel.

        A button's value is what a client sends: it may name any reply.
        """
        try:
            turn = await self.store.turn(reply_id)
        except NotFound:
            return None
        if turn.platform is not Platform.SLACK or channel not in (None, _place(turn).channel):
            return None
        return turn

    async def _tell(self, turn: Turn, person: Person, words: str) -> None:
        language = await self.people.language_for(person)
        self.talk.say(_place(turn), person.user, say(words, language))

    async def _open_form(self, turn: Turn, press: Press) -> None:
        # The trigger is good for three seconds: no time to ask Slack for a language.
        language = await self.store.chosen_language(press.person.id) or turn.reply.language
        form = reason_form(turn.reply, language)
        await self.client.views_open(trigger_id=press.trigger, view=form)

    async def _offer_form(self, turn: Turn, person: Person) -> None:
        """A reaction brings no trigger for a form, so a button has to bring it."""
        language = await self.people.language_for(person)
        words, blocks = say("feedback_thanks", language), ask_why(turn.reply.id, language)
        self.talk.say(_place(turn), person.user, words, blocks)


def _moment(event: dict[str, Any]) -> float:
    """When it happened by Slack's clock, to the microsecond; now where that is not said."""
    try:
        return float(event["event_ts"])
    except (KeyError, TypeError, ValueError):
        return time.time()


def _place(turn: Turn) -> Place:
    return place_from(turn.reply.conversation_id)
