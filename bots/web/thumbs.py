"""Two thumbs under an answer, and what may follow a thumb down: a reason, a better answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog
from nicegui import ui
from nicegui.events import GenericEventArguments

from bots.web.desk import Desk
from bots.web.elements import Button, Tag
from bots.web.person import Person
from core.errors import SolemateError
from core.messages import Feedback, Rating, Reason, Reply

log = structlog.get_logger()

MOST_CHARACTERS = "4000"


class Thumbs:
    """A person's verdict on a reply: shown as it is stored, and stored with every press."""

    def __init__(
        self,
        desk: Desk,
        person: Person,
        reply: Reply,
        verdict: Feedback | None,
        on_dislike: Callable[[], Awaitable[None]],
    ) -> None:
        """Put the two buttons into the row that is open, and the note beside them.

        `on_dislike` hears of a thumb down once it is stored.
        """
        self._desk = desk
        self._person = person
        self._reply = reply
        self._verdict = verdict
        self._on_dislike = on_dislike
        self._buttons = {
            Rating.UP: self._button(Rating.UP, "up", "thumb_up"),
            Rating.DOWN: self._button(Rating.DOWN, "down", "thumb_down"),
        }
        self._note = Tag("span", classes="note", role="status")
        self._chips: dict[Reason, Button] = {}
        self._form: Tag | None = None
        self._place: ui.element | None = None
        self._show_rating()

    def place_form(self, *, about_photo: bool) -> None:
        """Say where the form goes: into the element that is open. Photos have a reason more."""
        self._place = Tag("div")
        self._reasons = [
            reason for reason in Reason if about_photo or reason is not Reason.WRONG_PHOTO
        ]

    def _button(self, rating: Rating, icon: str, key: str) -> Button:
        button = Button(icon=icon, classes="tool", aria_label=self._person.words(key))

        async def press(_: GenericEventArguments) -> None:
            await self._press(rating)

        return button.on("click", press, args=[])

    async def _press(self, rating: Rating) -> None:
        if not await self._store(Feedback(self._reply.id, self._person.user_id, rating)):
            return
        if rating is Rating.DOWN and self._form is None:
            self._open_form()
            await self._on_dislike()
        elif rating is Rating.UP:
            self._close_form()

    async def _store(self, verdict: Feedback) -> bool:
        """Commit a verdict and show it; false, with a sentence, when it could not be stored."""
        try:
            await self._desk.rate(verdict)
            self._verdict = await self._desk.store.verdict(verdict.reply_id, verdict.user_id)
        except SolemateError as exc:
            log.error("rating_failed", reply=verdict.reply_id, error=type(exc).__name__)
            self._note.text = self._person.words("not_stored")
            return False
        self._note.text = self._person.words("feedback_thanks")
        self._show_rating()
        return True

    def _show_rating(self) -> None:
        for rating, button in self._buttons.items():
            pressed = self._verdict is not None and self._verdict.rating is rating
            button.props["aria-pressed"] = str(pressed).lower()
        for reason, chip in self._chips.items():
            chosen = self._verdict is not None and self._verdict.reason is reason
            chip.props["aria-pressed"] = str(chosen).lower()

    def _open_form(self) -> None:
        assert self._place is not None
        words = self._person.words
        with self._place, Tag("form", classes="why", aria_label=words("why_down")) as self._form:
            with Tag("div", classes="why-head"):
                Tag("p", words("why_down"), classes="why-title")
                Button(icon="close", classes="tool", aria_label=words("skip")).on(
                    "click", self._close_form, args=[]
                )
            with Tag("div", classes="chips", role="group", aria_label=words("why_down")):
                self._chips = {reason: self._chip(reason) for reason in self._reasons}
            Tag(
                "textarea",
                self._verdict.correction if self._verdict else "",
                name="correction",
                rows="3",
                maxlength=MOST_CHARACTERS,
                placeholder=words("what_instead"),
                aria_label=words("what_instead"),
            )
            with Tag("div", classes="why-foot"):
                Button(words("skip"), classes="button plain").on("click", self._close_form, args=[])
                Button(words("submit"), classes="button main-action", type="submit")
        self._form.on(
            "submit",
            self._submit,
            js_handler="(e) => { e.preventDefault(); emit(e.target.elements.correction.value) }",
        )
        self._form.on("keydown.escape", self._close_form, args=[])
        self._show_rating()

    def _chip(self, reason: Reason) -> Button:
        async def choose(_: GenericEventArguments) -> None:
            await self._store(replace(self._down(), reason=reason))

        chip = Button(self._person.words(f"reason_{reason}"), classes="chip")
        return chip.on("click", choose, args=[])

    async def _submit(self, event: GenericEventArguments) -> None:
        correction = str(event.args).strip()
        if not correction or await self._store(replace(self._down(), correction=correction)):
            self._close_form()

    def _down(self) -> Feedback:
        return Feedback(self._reply.id, self._person.user_id, Rating.DOWN)

    def _close_form(self) -> None:
        if self._form is not None:
            self._form.delete()
        self._form, self._chips = None, {}
