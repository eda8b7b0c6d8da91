"""Who sits before the page: the browser's id, and the language the person chose or prefers."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from core.messages import Language
from core.wording import say

LANGUAGE_COOKIE = "solemate_language"
_VISITED = "visited"


@dataclass(frozen=True, slots=True)
class Person:
    """A browser and its language; `user_id` is `web:` and the id in its signed cookie."""

    user_id: str
    language: Language

    def words(self, key: str, **values: object) -> str:
        """A sentence of `core/wording.py` in the person's language."""
        return say(key, self.language, **values)


def person_of(request: Request) -> Person:
    """The person behind a request that passed NiceGUI's session middleware."""
    return Person(f"web:{request.session['id']}", language_of_browser(request))


def remember_visit(request: Request) -> None:
    """Note in the signed cookie that this browser was shown the page."""
    request.session[_VISITED] = True


def has_visited(request: Request) -> bool:
    """Whether a request brings the cookie of a browser that was shown the page."""
    return _VISITED in request.session


def language_of_browser(request: Request) -> Language:
    """The language that was chosen on the page, else the one that the browser prefers."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    accepted = preferred(request.headers.get("accept-language", ""))
    return _known(chosen or "") or accepted or "en"


def preferred(accept_language: str) -> Language | None:
    """The language of ours that an Accept-Language header (RFC 9110, 12.5.4) likes best, if any."""
    wishes: list[tuple[float, Language]] = []
    for wish in accept_language.split(","):
        name, _, quality = wish.strip().partition(";q=")
        if language := _known(name):
            wishes.append((_quality(quality), language))
    return max(wishes, key=lambda wish: wish[0], default=(0.0, None))[1]


def _known(name: str) -> Language | None:
    match name.strip().lower().partition("-")[0]:
        case "zh":
            return "zh"
        case "en":
            return "en"
        case _:
            return None


def _quality(text: str) -> float:
    try:
        return float(text or 1)
    except ValueError:
        return 0.0
