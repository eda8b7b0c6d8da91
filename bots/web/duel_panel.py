"""Two answers side by side, and the question which of them is better."""

from __future__ import annotations

import structlog
from nicegui.events import GenericEventArguments

from bots.web.desk import Desk
from bots.web.elements import Button, Tag
from bots.web.person import Person
from bots.web.sources import show_sources
from core.duels import Duel
from core.errors import SolemateError
from core.messages import Reply, Side, Wish

log = structlog.get_logger()


class DuelPanel:
    """A duel in the element that is open; gone is the question once it is answered."""

    def __init__(self, desk: Desk, person: Person, duel: Duel) -> None:
        self._desk = desk
        self._person = person
        self._duel = duel
        words = person.words
        with Tag("section", classes="duel", aria_label=words("duel_question")) as self._panel:
            Tag("p", words("duel_question"), classes="duel-question")
            with Tag("div", classes="duel-sides"):
                self._sides = {
                    side: self._show_side(side, answer)
                    for side, answer in ((Side.A, duel.a), (Side.B, duel.b))
                }
            if duel.sources:
                show_sources(duel.sources, person)
            with Tag("div", classes="duel-foot") as self._foot:
                self._button("duel_same", Side.SAME, "button plain")
                Button(words("duel_off"), classes="button plain").on(
                    "click", self._switch_off, args=[]
                )
            self._note = Tag("span", classes="note", role="status")

    def _show_side(self, side: Side, answer: Reply) -> tuple[Tag, Button]:
        with Tag("div", classes="duel-side", role="group", aria_label=side.upper()) as place:
            Tag("span", side.upper(), classes="duel-letter", aria_hidden="true")
            Tag("p", answer.text, classes="prose", dir="auto")
            button = self._button("duel_pick", side, "button")
        return place, button

    def _button(self, key: str, side: Side, classes: str) -> Button:
        async def pick(_: GenericEventArguments) -> None:
            await self._pick(side)

        words = self._person.words(key, side=side.upper())
        return Button(words, classes=classes).on("click", pick, args=[])

    async def _pick(self, side: Side) -> None:
        assert self._desk.duels is not None, "somebody has made this duel"
        try:
            duel = await self._desk.duels.decide(self._duel.id, self._person.user_id, side)
        except SolemateError as exc:
            self._complain(exc)
            return
        self._close("duel_thanks")
        if duel.picked in self._sides:
            self._sides[duel.picked][0].classes(add="picked")

    async def _switch_off(self, _: GenericEventArguments) -> None:
        try:
            await self._desk.store.wish(self._person.user_id, Wish.DUELS, on=False)
        except SolemateError as exc:
            self._complain(exc)
            return
        self._close("duel_off_done")

    def _close(self, key: str) -> None:
        """Ask no more."""
        for _, button in self._sides.values():
            button.delete()
        self._foot.delete()
        self._note.text = self._person.words(key)

    def _complain(self, error: SolemateError) -> None:
        log.error("pick_failed", duel=self._duel.id, error=type(error).__name__)
        self._note.text = self._person.words("not_stored")
