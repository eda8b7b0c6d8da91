"""What the chat page asks for beside itself: take a message in, show a photo, its own files."""

from __future__ import annotations

import re
from pathlib import Path

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile

from bots.web.desk import Desk
from bots.web.http import Refused, error_response, explain, is_foreign, plain_shape
from bots.web.person import Person, has_visited, language_of_browser, person_of
from core.engine import MAX_PHOTOS
from core.errors import ImageRejected, MessageRejected, NotFound, SolemateError
from core.messages import Platform, UserMessage
from core.smalltalk import has_words
from core.wording import apology, say

log = structlog.get_logger()

# What a form's other fields and its boundaries may add to the photos.
FORM_BYTES = 1_000_000
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_FILES = {
    "chat.css": "text/css; charset=utf-8",
    "chat.js": "text/javascript; charset=utf-8",
}
_NO_PAGE = (
    '<!doctype html><html lang="{}"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width">'
    '<meta name="color-scheme" content="light dark"><title>{}</title>'
    '<body style="font: 1.1rem/1.6 sans-serif; margin: 20vh auto; width: fit-content">'
    '<p>{}</p><a href="/">{}</a></body></html>'
)


def is_id(name: str) -> bool:
    """Whether a text can name a message or a conversation."""
    return bool(_ID.fullmatch(name))


async def may_enter(desk: Desk, conversation_id: str, user_id: str) -> bool:
    """Whether a conversation is this person's, or nobody's yet."""
    owner = await desk.store.owner_of(conversation_id)
    if owner is None:
        messages = await unanswered(desk, conversation_id)
        owner = messages[0].user_id if messages else user_id
    return owner == user_id


def chat_routes(desk: Desk, origins: frozenset[str]) -> APIRouter:
    """The routes under `/page`; they belong on NiceGUI's app, whose cookie names the person.

    Messages are taken from our own page alone, which `origins` and wherever else it is shown have.
    """
    routes = APIRouter(prefix="/page", include_in_schema=False)
    most_bytes = MAX_PHOTOS * desk.photo_limits.max_bytes + FORM_BYTES

    @routes.post("/messages")
    async def take_message(request: Request) -> Response:
        person = person_of(request)
        try:
            _check_sender(request, origins)
            _check_size(request, most_bytes)
            message = await _to_user_message(request, person)
            if not await may_enter(desk, message.conversation_id, person.user_id):
                raise NotFound(f"There is no conversation {message.conversation_id!r}.")
            await desk.ask(message)
        except SolemateError as exc:
            log.info("message_refused", error=type(exc).__name__)
            return JSONResponse({"sentence": apology(exc, person.language)}, exc.status)
        return JSONResponse({"id": message.id}, 202)

    @routes.get("/photos/{conversation_id}/{message_id}/{position}")
    async def show_photo(
        request: Request, conversation_id: str, message_id: str, position: int
    ) -> Response:
        user_id = person_of(request).user_id
        photos: list[bytes] = []
        if await may_enter(desk, conversation_id, user_id):
            photos = await photos_of(desk, conversation_id, message_id)
        if not 0 <= position < len(photos):
            return Response(status_code=404)
        headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
        return Response(photos[position], media_type="image/jpeg", headers=headers)

    @routes.get("/files/{name}")
    async def show_file(name: str) -> Response:
        if name not in _FILES:
            return Response(status_code=404)
        headers = {"Cache-Control": "no-cache"}
        return FileResponse(Path(__file__).parent / name, media_type=_FILES[name], headers=headers)

    return routes


def no_page(request: Request) -> Response:
    """The answer at an address that has nothing: a page for a browser, a problem for a program."""
    if "text/html" not in request.headers.get("accept", ""):
        return error_response(explain(Refused(404, "no_route"), request), plain_shape)
    language = language_of_browser(request)
    words = (say(key, language) for key in ("page_title", "no_page", "to_chat"))
    return HTMLResponse(_NO_PAGE.format(language, *words), 404)


async def unanswered(desk: Desk, conversation_id: str) -> list[UserMessage]:
    """Messages that wait for their answer, and those that were put aside without one."""
    waiting = await desk.inbox.pending(conversation_id)
    dead = await desk.inbox.dead_letters(conversation_id)
    return [*waiting, *(letter.message for letter in dead)]


async def photos_of(desk: Desk, conversation_id: str, message_id: str) -> list[bytes]:
    """A message's photos as safe JPEGs, whether it is answered, waits, or got an apology."""
    for message in await unanswered(desk, conversation_id):
        if message.id == message_id:
            return list(message.images)
    return await desk.store.photos_of(conversation_id, message_id)


def _check_sender(request: Request, origins: frozenset[str]) -> None:
    """Refuse what does not come from a page of ours that this browser was shown."""
    if is_foreign(request, origins):
        raise Refused(403, "foreign_page", origin=request.headers["origin"][:100])
    if not has_visited(request):
        raise Refused(403, "no_cookie")


def _check_size(request: Request, most_bytes: int) -> None:
    length = int(request.headers.get("content-length") or most_bytes + 1)
    if length > most_bytes:
        raise ImageRejected(
            f"The form has {length} bytes; the limit is {most_bytes}.",
            code="photo_large",
            status=413,
        )


async def _to_user_message(request: Request, person: Person) -> UserMessage:
    async with request.form(max_files=4 * MAX_PHOTOS) as form:
        parts = form.getlist("photos")
        photos = [await part.read() for part in parts if isinstance(part, UploadFile)]
        text, message_id, conversation_id = (
            str(form.get(name, "")) for name in ("text", "id", "conversation")
        )
    for name in (message_id, conversation_id):
        if not is_id(name):
            raise MessageRejected(f"The id {name!r} is not usable.", code="failed")
    return UserMessage(
        id=message_id,
        platform=Platform.WEB,
        conversation_id=conversation_id,
        user_id=person.user_id,
        text=text,
        images=tuple(photos),
        # The question's own language is answered; where it has no words, the page's is.
        language=None if has_words(text) else person.language,
    )
