"""How a question and its answer look on the page, from the first word to the last verdict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nicegui import ui

from bots.web.desk import Desk
from bots.web.duel_panel import DuelPanel
from bots.web.elements import Button, Tag, drawing, logo
from bots.web.person import Person
from bots.web.sources import show_sources
from bots.web.thumbs import Thumbs
from core.duels import Duel
from core.messages import (
    Delta,
    Done,
    Event,
    Feedback,
    Found,
    ImageTag,
    Outcome,
    Queued,
    Replaced,
    Reply,
    Seen,
)
from core.wording import tag_words


@dataclass(frozen=True, slots=True)
class Asked:
    """A person's message as the page shows it; `photos` are the addresses of its pictures."""

    message_id: str
    text: str
    photos: tuple[str, ...] = ()


class Question:
    """What the person wrote, their photos, and what was recognised on them."""

    def __init__(self, asked: Asked, person: Person) -> None:
        self._asked = asked
        self._person = person
        with Tag("div", classes="question", role="article", aria_label=person.words("you")):
            if asked.photos:
                with Tag("div", classes="photos"):
                    for address in asked.photos:
                        with Tag("a", href=address, target="_blank"):
                            Tag("img", src=address, alt=person.words("your_photo"))
                self._tags = Tag("div", classes="tags", aria_label=person.words("seen"))
            if asked.text:
                Tag("p", asked.text, classes="bubble", dir="auto")

    @property
    def has_photos(self) -> bool:
        return bool(self._asked.photos)

    def show_tags(self, tags: Sequence[ImageTag]) -> None:
        """Put what was seen under the photo; without a photo the tags are an earlier one's."""
        if not self.has_photos:
            return
        self._tags.clear()
        with self._tags:
            for tag in tags:
                Tag("span", tag_words(tag, self._person.language), classes="tag")


class Answer:
    """What the expert says: first that it works, then text as it comes, then all that belongs."""

    def __init__(
        self,
        desk: Desk,
        person: Person,
        question: Question,
        *,
        on_choice: Callable[[str, str], None],
        on_dislike: Callable[[Answer], Awaitable[None]],
        announce: Callable[[str], None],
    ) -> None:
        """`on_choice` hears a suggestion that was pressed, and the message id it is sent with.

        `on_dislike` hears of a thumb down once it is stored.
        """
        self._desk = desk
        self._person = person
        self._question = question
        self._on_choice = on_choice
        self._on_dislike = on_dislike
        self._announce = announce
        self._said = ""
        self.reply: Reply | None = None
        label = person.words("answer")
        with Tag("div", classes="answer", role="article", aria_label=label):
            logo()
            with Tag("div", classes="answer-body") as self._body:
                self._show_status()
                self._text = Tag("p", classes="prose", dir="auto")
        self._suggestions: ui.element | None = None

    def show(self, event: Event) -> None:
        """Show one step of the answer."""
        match event:
            case Queued(number):
                self._doing.text = self._person.words("in_line", number=number)
                self._announce(self._doing.text)
            case Seen(tags):
                self._question.show_tags(tags)
                self._doing.text = self._person.words("searching")
            case Found():
                pass
            case Delta(text):
                self._say(self._said + text)
            case Replaced(text):
                self._doing.text = self._first_step
                self._say(text)
            case Done(reply):
                self._announce(reply.text)
                self.finish(reply)

    def finish(self, reply: Reply, verdict: Feedback | None = None) -> None:
        """Show the whole reply with sources, suggestions and thumbs."""
        self.reply = reply
        self._question.show_tags(reply.tags)
        self._body.clear()
        with self._body:
            self._show_text(reply)
            if reply.sources:
                show_sources(reply.sources, self._person)
            if reply.suggestions:
                self._offer(reply)
            self._show_tools(reply, verdict)

    def compare(self, duel: Duel) -> None:
        """Ask under the answer which of two is better."""
        with self._body:
            DuelPanel(self._desk, self._person, duel)

    def fail(self, sentence: str) -> None:
        """Say why there is no answer."""
        self._announce(sentence)
        self._body.clear()
        with self._body:
            Tag("p", sentence, classes="problem")

    def retire(self) -> None:
        """The conversation has moved on: its suggestions are no longer offered."""
        if self._suggestions is not None:
            self._suggestions.delete()
            self._suggestions = None

    @property
    def _first_step(self) -> str:
        return self._person.words("reading_photo" if self._question.has_photos else "searching")

    def _show_status(self) -> None:
        with Tag("div", classes="status") as self._status:
            with Tag("span", classes="dots", aria_hidden="true"):
                for _ in range(3):
                    Tag("i")
            self._doing = Tag("span", self._first_step)

    def _say(self, text: str) -> None:
        self._said = text
        self._text.text = text
        self._text.classes(add="growing")
        self._status.set_visibility(not text)

    def _show_text(self, reply: Reply) -> None:
        said, quote = reply.text, ""
        if reply.outcome is Outcome.QUOTED:
            said, _, quote = reply.text.partition("\n\n")
        Tag("p", said, classes="prose", dir="auto")
        if quote:
            with Tag("blockquote", classes="quote"):
                drawing("quote")
                Tag("p", quote.strip("“”"), dir="auto")

    def _offer(self, reply: Reply) -> None:
        self._suggestions = Tag("div", classes="choices", role="group")
        with self._suggestions:
            for number, suggestion in enumerate(reply.suggestions):
                choice_button(suggestion, f"{reply.id}-{number}", self._on_choice)

    def _show_tools(self, reply: Reply, verdict: Feedback | None) -> None:
        words = self._person.words
        with Tag("div", classes="tools"):
            Button(
                icon="copy",
                classes="tool",
                aria_label=words("copy"),
                data_action="copy",
                data_text=reply.text,
                data_done=words("copied"),
            )
            thumbs = Thumbs(
                self._desk, self._person, reply, verdict, lambda: self._on_dislike(self)
            )
            if reply.adapter and reply.outcome is not Outcome.QUOTED:
                Tag("span", words("answered_by", adapter=reply.adapter), classes="adapter")
        thumbs.place_form(about_photo=bool(reply.tags))


def choice_button(text: str, message_id: str, on_choice: Callable[[str, str], None]) -> None:
    """A question that sends itself when it is pressed."""
    button = Button(text, classes="choice")
    button.on("click", lambda _: on_choice(text, message_id), args=[])
