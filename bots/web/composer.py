"""The box where a person writes and adds photos, and sends both as one message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui
from nicegui.events import GenericEventArguments

from bots.web.person import Person
from core.engine import MAX_PHOTOS

_WORDS = (
    "ask_placeholder",
    "send",
    "stop",
    "add_photo",
    "remove_photo",
    "photo_preview",
    "drop_photo",
    "photo_large",
    "failed",
    "not_sent",
)


class Composer(ui.element, component="composer.js"):
    """Sends a message to `POST /page/messages`, and says so once it has been committed.

    The browser names the message before it sends it, so that a repeat is the same message. Text
    stays in the box until the server has it, and survives a reload of the page.
    """

    def __init__(
        self,
        person: Person,
        conversation_id: str,
        *,
        max_photo_bytes: int,
        on_asked: Callable[[str], Awaitable[None]],
        on_stop: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_asked` hears the id of each message that was taken in."""
        super().__init__()
        self.props["conversation"] = conversation_id
        self.props["words"] = {
            **{key: person.words(key) for key in _WORDS},
            "photo_many": person.words("photo_many", limit=MAX_PHOTOS),
        }
        self.props["maxPhotos"] = MAX_PHOTOS
        self.props["maxPhotoBytes"] = max_photo_bytes
        self.props["answering"] = False

        async def asked(event: GenericEventArguments) -> None:
            await on_asked(str(event.args))

        self.on("asked", asked)
        self.on("stop", lambda _: on_stop())

    def show_answering(self, answering: bool) -> None:
        """Offer to stop, or to send."""
        self.props["answering"] = answering

    def ask(self, text: str, message_id: str) -> None:
        """Send this text as the person's own; the same id is sent once."""
        self.run_method("ask", text, message_id)

    def take_back(self, message_id: str) -> None:
        """Put a message that got no answer back into the box, if that is empty."""
        self.run_method("takeBack", message_id)
