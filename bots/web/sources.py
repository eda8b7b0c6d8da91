"""What an answer stands on, folded up under it."""

from __future__ import annotations

from collections.abc import Sequence

from bots.web.elements import Tag, drawing
from bots.web.person import Person
from core.messages import Source


def show_sources(sources: Sequence[Source], person: Person) -> None:
    """Put the sources into the element that is open."""
    with Tag("details", classes="sources"):
        with Tag("summary"):
            drawing("book")
            Tag("span", person.words("sources", count=len(sources)))
            drawing("chevron")
        with Tag("ol"):
            for source in sources:
                with Tag("li"):
                    Tag("strong", source.title, dir="auto")
                    Tag("p", source.text, dir="auto")
                    Tag("small", source.source)
