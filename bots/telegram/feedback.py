"""Thumbs, reasons and better answers: committed first, then acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from telegram import (
    CallbackQuery,
    ForceReply,
    Message,
    MessageEntity,
    MessageReactionUpdated,
    ReactionType,
    ReactionTypeEmoji,
    User,
)

from bots.buttons import THUMBS, Thumb, Why
from bots.duels import Asking
from bots.metrics import Metrics
from bots.telegram import keyboards
from bots.telegram.entities import mention
from bots.telegram.people import People
from bots.telegram.place import Place
from bots.telegram.talk import Talk
from core.engine import Engine
from core.errors import NotFound
from core.messages import Feedback, Language, Platform, Rating, Turn
from core.posts import Post, Posts
from core.privacy import erased_at
from core.store import Store
from core.wording import say

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Turns presses, reactions and corrections into feedback."""

    bot_id: int
    engine: Engine
    store: Store
    posts: Posts
    people: People
    metrics: Metrics
    talk: Talk
    asking: Asking

    async def on_press(self, query: CallbackQuery, press: Thumb | Why, place: Place) -> None:
        """Commit a press of a button under an answer, then acknowledge it."""
        language = await self.people.language_for(query.from_user)
        user_id = self.people.id_of(query.from_user)
        if isinstance(press, Why) and not await self._dislikes(press.reply_id, user_id):
            # In a group the reasons stand where all can press them.
            self.talk.notice(query.id, say("not_your_thumb", language))
            return
        turn = await self._take(press, user_id, place)
        if turn is None:
            self.talk.notice(query.id, say("not_found", language))
            return
        self.talk.notice(query.id, say("feedback_thanks", language))
        if query.message is None:
            return
        number = query.message.message_id
        if isinstance(press, Thumb):
            self._show_verdict(place, number, turn, press.rating, language)
            if press.rating is Rating.DOWN:
                self.asking.after_dislike(turn.reply, user_id)
            return
        chosen = None if place.is_group else Rating.DOWN
        self.talk.change_keyboard(place, number, keyboards.thumbs(press.reply_id, chosen))
        if press.reason is not None:
            asking = self._ask_correction(place, number, turn, query.from_user, language)
            self.talk.errands.run(asking)

    async def on_reaction(self, reaction: MessageReactionUpdated, update: int) -> None:
        """Commit a 👍 or 👎 that was put on an answer, and take back one that was taken off.

        The later of the two counts, whichever comes first; `update` is the number Telegram gave
        it. What the person said by a button, or in words, stays as it is.
        """
        before, after = _ratings_in(reaction.old_reaction), _ratings_in(reaction.new_reaction)
        user = reaction.user
        if before == after or user is None or await self._is_old(reaction, user):
            return
        chat = Place(self.bot_id, reaction.chat.id)
        number = str(reaction.message_id)
        reply_id = await self.posts.reply_of(self.people.names.chat(chat), number, "answer")
        if reply_id is None:
            return
        user_id = self.people.id_of(user)
        at = _moment(reaction, update)
        for rating in before - after:
            await self.store.withdraw(Feedback(reply_id, user_id, rating, by_reaction=True), at)
        thumbs = [
            Feedback(reply_id, user_id, rating, by_reaction=True) for rating in after - before
        ]
        counted = [one.rating for one in thumbs if await self._rate(one, chat, reacted_at=at)]
        turn = await self._turn(reply_id, chat)
        if turn is None:
            return
        verdict = await self.store.verdict(reply_id, user_id)
        posts = await self.posts.of(turn.reply.conversation_id, turn.message_id)
        language = await self.people.language_for(user)
        rating_now = verdict.rating if verdict else None
        self._show_verdict(chat, int(posts[-1].id), turn, rating_now, language)
        if Rating.DOWN in counted:
            self.asking.after_dislike(turn.reply, user_id)

    async def on_correction(self, message: Message, user: User, place: Place) -> bool:
        """Commit what we should have said, if the message replies to our asking for it."""
        asked = message.reply_to_message
        if asked is None:
            return False
        number = str(asked.message_id)
        reply_id = await self.posts.reply_of(self.people.names.chat(place), number, "correction")
        if reply_id is None:
            return False
        language, user_id = await self.people.language_for(user), self.people.id_of(user)
        if place.is_group and not await self._dislikes(reply_id, user_id):
            self.talk.say(place, say("not_your_thumb", language))
            return True
        correction = (message.text or message.caption or "").strip()
        if not correction:
            self.talk.say(place, say("correction_words", language))
            return True
        feedback = Feedback(reply_id, user_id, Rating.DOWN, correction=correction)
        turn = await self._rate(feedback, place)
        self.talk.say(place, say("correction_thanks" if turn else "not_found", language))
        return True

    async def _take(self, press: Thumb | Why, user_id: str, place: Place) -> Turn | None:
        """Commit what a press says; the turn that it is about, None without one here."""
        match press:
            case Thumb(rating, reply_id):
                return await self._rate(Feedback(reply_id, user_id, rating), place)
            case Why(None, reply_id):
                return await self._turn(reply_id, place)
            case Why(reason, reply_id):
                return await self._rate(Feedback(reply_id, user_id, Rating.DOWN, reason), place)

    async def _dislikes(self, reply_id: str, user_id: str) -> bool:
        """Whether the person's verdict is a thumb down, which alone has a reason."""
        verdict = await self.store.verdict(reply_id, user_id)
        return verdict is not None and verdict.rating is Rating.DOWN

    async def _rate(
        self, feedback: Feedback, place: Place, *, reacted_at: float | None = None
    ) -> Turn | None:
        """Commit a verdict on an answer that was given in this chat; None without such a one.

        None as well for an emoji that has been taken off since.
        """
        turn = await self._turn(feedback.reply_id, place)
        if turn is None:
            return None
        try:
            if not await self.engine.rate(feedback, reacted_at=reacted_at):
                return None
        except NotFound:
            return None
        self.metrics.rated(feedback.rating)
        return turn

    async def _turn(self, reply_id: str, place: Place) -> Turn | None:
        """The turn with this answer, if it was given in this chat.

        A button's data is what the person's app sends: it may name any reply.
        """
        try:
            turn = await self.store.turn(reply_id)
        except NotFound:
            return None
        if turn.platform is not Platform.TELEGRAM:
            return None
        where = self._place_of(turn)
        return turn if (where.bot_id, where.chat_id) == (place.bot_id, place.chat_id) else None

    def _place_of(self, turn: Turn) -> Place:
        return self.people.names.where(turn.reply.conversation_id)

    async def _is_old(self, reaction: MessageReactionUpdated, user: User) -> bool:
        """Whether the person has had everything forgotten since."""
        erased = await erased_at(self.store, self.people.id_of(user))
        return reaction.date.timestamp() < int(erased)

    def _show_verdict(
        self, place: Place, number: int, turn: Turn, rating: Rating | None, language: Language
    ) -> None:
        """Mark the thumb, and ask why it went down; in groups nobody's thumb is marked."""
        chosen = None if place.is_group else rating
        keyboard = (
            keyboards.thumbs_and_reasons(turn.reply, language, chosen)
            if rating is Rating.DOWN
            else keyboards.thumbs(turn.reply.id, chosen)
        )
        self.talk.change_keyboard(place, number, keyboard)

    async def _ask_correction(
        self, place: Place, number: int, turn: Turn, user: User, language: Language
    ) -> None:
        """Ask under the answer what we should have said; the reply to this is the correction.

        In a group it opens for whom it mentions, and not for whoever wrote what it replies to: that
        was us.
        """
        words, mentions = say("ask_correction", language), tuple[MessageEntity, ...]()
        if place.is_group:
            words = say("ask_correction_of", language, name=user.full_name)
            mentions = (mention(user),)
        asked = await self.talk.send(
            self._place_of(turn),
            words,
            entities=mentions,
            markup=ForceReply(
                selective=place.is_group, input_field_placeholder=say("correction_hint", language)
            ),
            reply_to=number,
        )
        post = Post(self.people.names.chat(place), str(asked.message_id), "correction")
        await self.posts.add(turn.reply.conversation_id, turn.message_id, post)


def _moment(reaction: MessageReactionUpdated, update: int) -> float:
    """When it happened: Telegram counts whole seconds, and numbers what happens in one in order."""
    return reaction.date.timestamp() + update % 1_000_000 / 1_000_000


def _ratings_in(reactions: Sequence[ReactionType]) -> set[Rating]:
    """The thumbs among a person's emoji on a message."""
    signs = {one.emoji for one in reactions if isinstance(one, ReactionTypeEmoji)}
    return {rating for rating, sign in THUMBS.items() if sign in signs}
