"""Two answers side by side, in more than one message where they are long; buttons pick the better.

In a group all can read them, but only whoever asked can pick: a duel replies to their question.
"""

from __future__ import annotations

from dataclasses import dataclass

from telegram import CallbackQuery

from bots.buttons import Pick
from bots.markup import Span, Styled, split, styled, with_sources
from bots.telegram import keyboards
from bots.telegram.entities import entities_of
from bots.telegram.people import People
from bots.telegram.place import Place, number_in
from bots.telegram.show import LIMIT
from bots.telegram.talk import Talk
from core.duels import Duel, Duels
from core.errors import NotFound
from core.messages import Language, Wish
from core.store import Store
from core.wording import say


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Shows duels and takes what people pick."""

    duels: Duels | None
    store: Store
    people: People
    talk: Talk

    @staticmethod
    def reaches(_conversation_id: str, _user_id: str) -> bool:
        """Whoever can ask can be asked."""
        return True

    async def show(self, duel: Duel) -> None:
        """Send both answers, with the buttons under their end."""
        language = await self.store.chosen_language(duel.user_id) or duel.a.language
        place = self.people.names.where(duel.conversation_id)
        question = (await self.store.turn(duel.reply_id)).message_id if place.is_group else ""
        keyboard = keyboards.duel(duel, language, can_switch_off=not place.is_group)
        pieces = split(_side_by_side(duel, language), LIMIT)
        for position, piece in enumerate(pieces):
            await self.talk.send(
                place,
                piece.text,
                entities=entities_of(piece),
                markup=keyboard if position == len(pieces) - 1 else None,
                reply_to=None if position else number_in(question),
            )

    async def on_pick(self, query: CallbackQuery, pick: Pick, place: Place) -> None:
        """Commit what was picked, then acknowledge it and mark the button."""
        language = await self.people.language_for(query.from_user)
        duel = await self._decide(pick, self.people.id_of(query.from_user))
        refusal = "duel_of_another" if place.is_group else "not_found"
        self.talk.notice(query.id, say("duel_thanks" if duel else refusal, language))
        if duel is not None and query.message is not None:
            keyboard = keyboards.picked(duel, language)
            self.talk.change_keyboard(place, query.message.message_id, keyboard)

    async def on_switch_off(self, query: CallbackQuery, place: Place) -> None:
        """Commit that this person does not want to compare; take the buttons away."""
        language = await self.people.language_for(query.from_user)
        await self.store.wish(self.people.id_of(query.from_user), Wish.DUELS, on=False)
        self.talk.notice(query.id, say("duel_off_done", language))
        # No duel in a group has this button: what is pressed there is none of ours.
        if query.message is not None and not place.is_group:
            self.talk.change_keyboard(place, query.message.message_id, None)

    async def _decide(self, pick: Pick, user_id: str) -> Duel | None:
        try:
            return await self.duels.decide(pick.duel_id, user_id, pick.side) if self.duels else None
        except NotFound:
            return None


def _side_by_side(duel: Duel, language: Language) -> Styled:
    whole = Styled(say("duel_question", language))
    for letter, answer in (("A", duel.a), ("B", duel.b)):
        whole += Styled("\n\n") + Styled(letter, (Span("bold", 0, 1),)) + Styled("\n")
        whole += styled(answer.text)
    return with_sources(whole, duel.sources, language)
