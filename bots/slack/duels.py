"""Two answers in one message, and the buttons that pick the better one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slack_sdk.web.async_client import AsyncWebClient

from bots.buttons import Pick
from bots.courier import Courier
from bots.slack.blocks import Block, duel_buttons, markdown, section
from bots.slack.feedback import Press
from bots.slack.people import People
from bots.slack.place import place_from
from bots.slack.talk import Talk
from bots.slack.text import rendered
from core.duels import Duel, Duels
from core.errors import NotFound
from core.messages import Language, Side, Wish
from core.store import Store
from core.wording import say


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Shows duels and takes what people pick; in channels they alone see them."""

    duels: Duels | None
    client: AsyncWebClient
    courier: Courier
    store: Store
    people: People
    talk: Talk

    def reaches(self, conversation_id: str, user_id: str) -> bool:
        """Whether the person can be shown something: in a channel they have to be known by now."""
        place = place_from(conversation_id)
        return place.is_direct or self.people.user_of(user_id) is not None

    async def show(self, duel: Duel) -> None:
        """Post both answers with their buttons."""
        language = await self.store.chosen_language(duel.user_id) or duel.a.language
        user = self.people.user_of(duel.user_id) or ""
        words, blocks = say("duel_question", language), _side_by_side(duel, language)
        blocks += duel_buttons(duel.id, language)
        self.talk.say(place_from(duel.conversation_id), user, words, blocks)

    async def on_pick(self, press: Press, pick: Pick) -> None:
        """Commit what was picked, then show it."""
        if self.duels is None:
            return
        try:
            duel = await self.duels.decide(pick.duel_id, press.person.id, pick.side)
        except NotFound:
            return
        self.talk.errands.run(self._show_pick(press, duel))

    async def on_switch_off(self, press: Press) -> None:
        """Commit that this person does not want to compare."""
        await self.store.wish(press.person.id, Wish.DUELS, on=False)
        self.talk.errands.run(self._confirm(press))

    async def _show_pick(self, press: Press, duel: Duel) -> None:
        language = await self.people.language_for(press.person)
        place, words = place_from(duel.conversation_id), say("duel_thanks", language)
        if not place.is_direct or not press.post:
            # What one person alone sees cannot be changed.
            self.talk.say(place, press.person.user, words)
            return
        chosen = f"✓ {_picked(duel.picked, language)}\n{words}"
        await self._update(press, words, [*_side_by_side(duel, language), section(chosen)])

    async def _confirm(self, press: Press) -> None:
        words = say("duel_off_done", await self.people.language_for(press.person))
        if press.channel.startswith("D") and press.post:
            await self._update(press, words, [section(words)])
            return
        await self.courier.deliver(
            press.channel,
            lambda: self.client.chat_postEphemeral(
                channel=press.channel, user=press.person.user, text=words
            ),
            repeatable=False,
        )

    async def _update(self, press: Press, words: str, blocks: Sequence[Block]) -> None:
        await self.courier.deliver(
            "chat.update",
            lambda: self.client.chat_update(
                channel=press.channel, ts=press.post, text=words, blocks=list(blocks)
            ),
            repeatable=True,
        )


def _side_by_side(duel: Duel, language: Language) -> list[Block]:
    blocks = [section(say("duel_question", language))]
    for letter, answer in (("A", duel.a), ("B", duel.b)):
        blocks += [section(letter), *map(markdown, rendered(answer))]
    return blocks


def _picked(side: Side | None, language: Language) -> str:
    if side is None or side is Side.SAME:
        return say("duel_same", language)
    return say("duel_pick", language, side=side.upper())
