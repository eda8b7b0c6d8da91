"""The chat page at `/`: a person's conversations, and one of them with its answers as they grow.

Nothing here makes an answer. The page commits a message and follows its feed, so that an answer
goes on when the tab closes and is found again, whole or growing, when the page comes back.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Mapping
from contextlib import aclosing

import structlog
from fastapi import FastAPI, Request, Response
from nicegui import Client, ui
from nicegui import app as pages
from nicegui.events import GenericEventArguments

from bots.web.chat_message import Answer, Asked, Question, choice_button
from bots.web.chat_routes import chat_routes, is_id, may_enter, no_page, photos_of, unanswered
from bots.web.composer import Composer
from bots.web.desk import Desk
from bots.web.elements import LOGO, Button, Tag, drawing, logo
from bots.web.person import LANGUAGE_COOKIE, Person, person_of, remember_visit
from core.duels import Duel
from core.errors import SolemateError
from core.inbox import DeadLetter
from core.messages import Platform, Turn, Wish, Wishes
from core.wording import apology

log = structlog.get_logger()

RECONNECT_SECONDS = 30.0
COOKIE_SECONDS = 365 * 24 * 3600
_EXAMPLES = ("example_1", "example_2", "example_3", "example_4")
_HTML_LANGUAGE = {"zh": "zh-CN", "en": "en"}
_HEAD = (
    '<script>document.documentElement.lang = "{language}"</script>'
    '<script src="page/files/chat.js"></script>'
    '<link rel="stylesheet" href="page/files/chat.css">'
)


def mount_chat(
    app: FastAPI, desk: Desk, *, storage_secret: str, origins: frozenset[str] = frozenset()
) -> None:
    """Put the chat page on `app`, at `/`; once a process, after the app's other routes.

    `origins` are where people see the page, as far as that is known.
    `storage_secret` signs the cookie that names a person: a new one makes everybody a stranger to
    their conversations.
    """
    pages.include_router(chat_routes(desk, origins))

    @pages.exception_handler(404)
    async def not_there(request: Request, _exc: Exception) -> Response:
        return no_page(request)

    @ui.page("/", reconnect_timeout=RECONNECT_SECONDS)
    async def chat_page(client: Client, request: Request, c: str = "") -> None:
        person = person_of(request)
        remember_visit(request)
        try:
            known = is_id(c) and await may_enter(desk, c, person.user_id)
            conversation_id = c if known else uuid.uuid4().hex
            await ChatPage(client, desk, person, conversation_id).build()
        except SolemateError as exc:
            log.error("page_failed", error=type(exc).__name__)
            client.content.clear()
            Tag("p", person.words("page_failed"), classes="page-failed", role="alert")

    ui.run_with(
        app,
        title="Solemate",
        favicon=LOGO,
        storage_secret=storage_secret,
        session_middleware_kwargs={"max_age": COOKIE_SECONDS, "same_site": "lax"},
        reconnect_timeout=RECONNECT_SECONDS,
        tailwind=False,
        show_welcome_message=False,
    )


class ChatPage:
    """One tab: the conversation it shows and the answers it follows."""

    def __init__(
        self,
        client: Client,
        desk: Desk,
        person: Person,
        conversation_id: str,
    ) -> None:
        self._client = client
        self._desk = desk
        self._person = person
        self._conversation_id = conversation_id
        self._shown: set[str] = set()
        self._following: list[str] = []
        self._last: Answer | None = None
        self._welcome: Tag | None = None
        self._duels: Mapping[str, Duel] = {}

    async def build(self) -> None:
        """Show the page as the store knows it; what is under way follows on connection."""
        words = self._person.words
        ui.add_head_html(_HEAD.format(language=_HTML_LANGUAGE[self._person.language]))
        ui.page_title(words("page_title"))
        said = await self._said()
        wishes = await self._desk.store.wishes_of(self._person.user_id)
        if self._desk.duels is not None:
            self._duels = await self._desk.duels.waiting(
                self._conversation_id, self._person.user_id
            )
        with Tag("div", classes="shell", data_reconnecting=words("reconnecting")):
            self._build_sidebar(wishes)
            with Tag("div", classes="main"):
                self._build_topbar()
                self._build_thread()
                self._build_dock()
        self._build_confirmation()
        self._live = Tag("div", classes="unseen", aria_live="polite", role="status")
        await self._list_conversations()
        for one in said:
            await (self._show_turn(one) if isinstance(one, Turn) else self._show_dead(one))
        if not said:
            self._build_welcome()
        await self._tell()
        self._client.on_connect(self._catch_up)

    def _build_sidebar(self, wishes: Wishes) -> None:
        words = self._person.words
        with Tag("aside", classes="sidebar", id="conversations", aria_label=words("conversations")):
            with Tag("div", classes="brand"):
                logo()
                Tag("span", "Solemate")
                Button(
                    icon="close",
                    classes="tool narrow-only",
                    aria_label=words("close"),
                    data_action="drawer",
                )
            with Tag("a", classes="new", href="?", data_action="new"):
                drawing("plus")
                Tag("span", words("new_conversation"))
            with Tag("nav", aria_label=words("conversations")):
                self._list = Tag("ul")
            with Tag("div", classes="settings"):
                self._build_settings(wishes)
        Tag("div", classes="scrim", data_action="drawer", aria_hidden="true")

    def _build_settings(self, wishes: Wishes) -> None:
        other = "en" if self._person.language == "zh" else "zh"
        Button(
            self._person.words("language"),
            icon="globe",
            classes="setting",
            data_action="language",
            data_cookie=f"{LANGUAGE_COOKIE}={other}",
            lang=_HTML_LANGUAGE[other],
        )
        Button(
            self._person.words("dark_mode"), icon="theme", classes="setting", data_action="theme"
        )
        if self._desk.duels is not None:
            self._build_switch(Wish.DUELS, "scales", on=wishes.duels)
        if self._desk.notices is not None:
            self._build_switch(Wish.TELL, "cap", on=wishes.tell)

    def _build_switch(self, wish: Wish, icon: str, *, on: bool) -> None:
        """A setting that is on or off, and stored with every press."""
        state = {"on": on}
        words = self._person.words(f"wish_{wish}")
        button = Button(words, icon=icon, classes="setting", role="switch")

        def show() -> None:
            button.props["aria-checked"] = str(state["on"]).lower()

        async def press(_: GenericEventArguments) -> None:
            try:
                await self._desk.store.wish(self._person.user_id, wish, on=not state["on"])
            except SolemateError as exc:
                self._complain("not_stored", exc)
                return
            state["on"] = not state["on"]
            show()

        show()
        button.on("click", press, args=[])

    def _build_topbar(self) -> None:
        words = self._person.words
        with Tag("header", classes="topbar narrow-only"):
            Button(
                icon="menu",
                classes="tool",
                aria_label=words("conversations"),
                aria_controls="conversations",
                data_action="drawer",
            )
            with Tag("div", classes="brand"):
                logo()
                Tag("span", "Solemate")
            with Tag(
                "a",
                classes="tool",
                href="?",
                aria_label=words("new_conversation"),
                data_action="new",
            ):
                drawing("plus")

    def _build_thread(self) -> None:
        label = self._person.words("conversation")
        with (
            Tag("div", classes="thread", tabindex="0", role="region", aria_label=label),
            Tag("div", classes="column") as self._thread,
        ):
            pass

    def _build_welcome(self) -> None:
        words = self._person.words
        with self._thread, Tag("section", classes="welcome") as self._welcome:
            logo()
            Tag("h1", words("welcome"))
            Tag("p", words("welcome_more"), classes="lead")
            with Tag("div", classes="examples", role="group", aria_label=words("examples")):
                for key in _EXAMPLES:
                    choice_button(words(key), f"{self._conversation_id}-{key}", self._ask)

    def _build_dock(self) -> None:
        words = self._person.words
        with Tag("div", classes="dock"):
            Button(
                icon="arrow_down",
                classes="to-end",
                aria_label=words("to_end"),
                data_action="to-end",
            )
            self._composer = Composer(
                self._person,
                self._conversation_id,
                max_photo_bytes=self._desk.photo_limits.max_bytes,
                on_asked=self._on_asked,
                on_stop=self._on_stop,
            )
            Tag("p", words("fine_print"), classes="fine-print")

    async def _tell(self) -> None:
        """Tell the person what they taught, the first time that they come after it was learned."""
        notices = self._desk.notices
        if notices is None or (notice := await notices.take(self._person.user_id)) is None:
            return
        with self._thread:
            Tag("p", notice.words, classes="taught", role="status", dir="auto")

    def _build_confirmation(self) -> None:
        words = self._person.words
        with (
            Tag("dialog", classes="confirm", id="forget", aria_labelledby="forget-question"),
            Tag("form", method="dialog"),
        ):
            Tag("p", words("delete_confirm"), id="forget-question")
            with Tag("div", classes="why-foot"):
                Button(words("cancel"), classes="button plain", type="submit")
                Button(words("delete"), classes="button danger", type="submit").on(
                    "click",
                    self._on_forget,
                    js_handler='() => emit(document.getElementById("forget").dataset.conversation)',
                )

    async def _list_conversations(self) -> None:
        known = await self._desk.store.conversations_of(self._person.user_id)
        self._list.clear()
        with self._list:
            for conversation_id, title in known:
                self._list_conversation(conversation_id, title or self._person.words("only_photo"))

    def _list_conversation(self, conversation_id: str, title: str) -> None:
        with Tag("li"):
            link = Tag("a", title, href=f"?c={conversation_id}", dir="auto")
            if conversation_id == self._conversation_id:
                link.props["aria-current"] = "page"
            Button(
                icon="bin",
                classes="tool",
                aria_label=self._person.words("delete_conversation"),
                aria_haspopup="dialog",
                data_action="forget",
                data_conversation=conversation_id,
            )

    async def _said(self) -> list[Turn | DeadLetter]:
        """The conversation so far, oldest first, with what was put aside after an apology."""
        turns = await self._desk.conversation(self._conversation_id)
        answered = {turn.message_id for turn in turns}
        letters = await self._desk.inbox.dead_letters(self._conversation_id)
        dead = [letter for letter in letters if letter.message.id not in answered]
        return sorted((*turns, *dead), key=_moment)

    async def _show_dead(self, letter: DeadLetter) -> None:
        answer = await self._open_exchange(letter.message.id, letter.message.text)
        answer.fail(self._person.words("failed"))

    async def _show_turn(self, turn: Turn) -> None:
        answer = await self._open_exchange(turn.message_id, turn.question)
        verdict = await self._desk.store.verdict(turn.reply.id, self._person.user_id)
        answer.finish(turn.reply, verdict)
        if duel := self._duels.get(turn.reply.id):
            answer.compare(duel)

    async def _open_exchange(self, message_id: str, text: str) -> Answer:
        """Put a question and the place for its answer at the end of the thread."""
        self._shown.add(message_id)
        photos = await photos_of(self._desk, self._conversation_id, message_id)
        asked = Asked(
            message_id,
            text,
            tuple(
                f"page/photos/{self._conversation_id}/{message_id}/{position}"
                for position in range(len(photos))
            ),
        )
        if self._last is not None:
            self._last.retire()
        with self._thread:
            question = Question(asked, self._person)
            self._last = Answer(
                self._desk,
                self._person,
                question,
                on_choice=self._ask,
                on_dislike=self._compare_disliked,
                announce=self._announce,
            )
        return self._last

    async def _catch_up(self) -> None:
        """Show what is under way, or has ended, and is not on the page yet; on every connection.

        An answer may end after the page was made and before its browser has connected. What is
        waiting is asked for first: what ends in between is among the others then.
        """
        waiting = await self._desk.inbox.pending(self._conversation_id)
        for one in await self._said():
            await self._on_asked(one.message_id if isinstance(one, Turn) else one.message.id)
        await asyncio.gather(*(self._on_asked(message.id) for message in waiting))

    async def _on_asked(self, message_id: str) -> None:
        """Show a message that was taken in, and its answer while it is made."""
        if message_id in self._shown:
            return
        self._shown.add(message_id)
        try:
            await self._show_exchange(message_id)
        except SolemateError as exc:
            self._complain("page_failed", exc)

    async def _show_exchange(self, message_id: str) -> None:
        text = await self._question_text(message_id)
        if text is None:
            return
        if self._welcome is not None:
            self._welcome.delete()
            self._welcome = None
        answer = await self._open_exchange(message_id, text)
        self._following.append(message_id)
        self._composer.show_answering(True)
        await self._follow(message_id, answer)
        if self._client.is_deleted:
            return
        self._following.remove(message_id)
        self._composer.show_answering(bool(self._following))
        await self._list_conversations()
        if self._desk.duels is not None and answer.reply is not None:
            await self._compare(answer, self._desk.duels.after_answer(answer.reply.id))

    async def _compare_disliked(self, answer: Answer) -> None:
        if self._desk.duels is not None and answer.reply is not None:
            made = self._desk.duels.after_dislike(answer.reply.id, self._person.user_id)
            await self._compare(answer, made)

    async def _compare(self, answer: Answer, made: Awaitable[Duel | None]) -> None:
        """Show a duel when it has come about; where it fails, nobody has missed anything."""
        try:
            duel = await made
        except SolemateError as exc:
            log.info("no_duel", error=type(exc).__name__)
            return
        if duel is not None and not self._client.is_deleted:
            answer.compare(duel)

    async def _question_text(self, message_id: str) -> str | None:
        # A message can fail before the browser says that it was taken.
        for message in await unanswered(self._desk, self._conversation_id):
            if message.id == message_id:
                return message.text
        turn = await self._desk.store.answered(Platform.WEB, self._conversation_id, message_id)
        return turn.question if turn is not None else None

    async def _follow(self, message_id: str, answer: Answer) -> None:
        """Show an answer's events until it ends, or until the tab is gone."""
        events = self._desk.follow(Platform.WEB, self._conversation_id, message_id)
        try:
            async with aclosing(events):
                async for event in events:
                    if self._client.is_deleted:
                        return
                    answer.show(event)
        except SolemateError as exc:
            log.info("answer_missing", message=message_id, error=type(exc).__name__)
            answer.fail(apology(exc, self._person.language))
            self._composer.take_back(message_id)

    def _ask(self, text: str, message_id: str) -> None:
        self._composer.ask(text, message_id)

    async def _on_stop(self) -> None:
        try:
            for message_id in self._following[:1]:
                await self._desk.lanes.stop(self._conversation_id, message_id)
        except SolemateError as exc:
            self._complain("not_saved", exc)

    async def _on_forget(self, event: GenericEventArguments) -> None:
        """Delete a conversation, if it is this person's."""
        conversation_id = str(event.args)
        try:
            if not await may_enter(self._desk, conversation_id, self._person.user_id):
                return
            await self._desk.forget(conversation_id)
            if conversation_id == self._conversation_id:
                self._client.open("/")
            else:
                await self._list_conversations()
        except SolemateError as exc:
            self._complain("not_saved", exc)

    def _complain(self, key: str, error: SolemateError) -> None:
        """Say on the page that something beside an answer went wrong."""
        log.error("page_failed", error=type(error).__name__)
        if not self._client.is_deleted:
            with self._thread:
                ui.notify(self._person.words(key), type="negative", position="top")

    def _announce(self, text: str) -> None:
        """Let a screen reader say it once the person pauses."""
        self._live.text = text


def _moment(one: Turn | DeadLetter) -> float:
    return one.asked_at if isinstance(one, Turn) else one.at
