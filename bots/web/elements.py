"""Plain HTML for the page: an element with text and attributes, and the drawings on it."""

from __future__ import annotations

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

_DRAWINGS = {
    "plus": "M12 5v14M5 12h14",
    "menu": "M4 7h16M4 12h16M4 17h10",
    "close": "M6 6l12 12M18 6L6 18",
    "bin": "M4.5 7h15M9.5 7V4.8h5V7M6.5 7l.9 12.2h9.2L17.5 7M10 10.8v5M14 10.8v5",
    "copy": "M9 9h10.5v10.5H9zM15 9V4.5H4.5V15H9",
    "up": "M7.2 10.8v8.7H4v-8.7zM7.2 10.8l3.9-7.3c1.6 0 2.5 1.1 2.3 2.6l-.5 3.4h4.9c1.4 0 2.4 1.2 "
    "2.1 2.6l-1.2 5.6a2.3 2.3 0 0 1-2.2 1.8H7.2",
    "down": "M16.8 13.2V4.5H20v8.7zM16.8 13.2l-3.9 7.3c-1.6 0-2.5-1.1-2.3-2.6l.5-3.4H6.2c-1.4 0"
    "-2.4-1.2-2.1-2.6l1.2-5.6a2.3 2.3 0 0 1 2.2-1.8h9.3",
    "theme": "M12 4.2a7.8 7.8 0 1 0 0 15.6zM12 4.2a7.8 7.8 0 0 1 0 15.6",
    "book": "M5 5.2c2.6-.8 5-.5 7 1 2-1.5 4.4-1.8 7-1v12.6c-2.6-.8-5-.5-7 1-2-1.5-4.4-1.8-7-1z"
    "M12 6.2v12.6",
    "chevron": "M9 6l6 6-6 6",
    "arrow_down": "M12 5v13M6 12.5l6 6 6-6",
    "quote": "M9.8 7C7 8 5.4 10.2 5.4 13.4V17h4.8v-4.6H7.9c.1-1.8.9-3 2.7-3.7z"
    "M18.4 7c-2.8 1-4.4 3.2-4.4 6.4V17h4.8v-4.6h-2.3c.1-1.8.9-3 2.7-3.7z",
    "scales": "M12 4.5v15M7.5 19.5h9M5 7.2l7-1.4 7 1.4M5 7.2l-2.6 6.3a2.9 2.9 0 0 0 5.2 0zM19 7.2"
    "l-2.6 6.3a2.9 2.9 0 0 0 5.2 0z",
    "cap": "M12 5.5L2.5 10l9.5 4.5 9.5-4.5zM6.5 12v4.2c3.4 2.4 7.6 2.4 11 0V12M21.5 10v5",
    "globe": "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM4 12h16M12 4c2.3 2.3 3.4 5 3.4 8s-1.1 5.7-3.4 "
    "8c-2.3-2.3-3.4-5-3.4-8S9.7 6.3 12 4z",
}

LOGO = (
    '<svg viewBox="0 0 64 64" xmlns="http://www.w3.org/2000/svg" aria-hidden="true">'
    '<defs><linearGradient id="hide" x1="0" y1="0" x2="1" y2="1">'
    '<stop offset="0" stop-color="#d9794c"/><stop offset="1" stop-color="#a3431f"/>'
    "</linearGradient></defs>"
    '<rect width="64" height="64" rx="17" fill="url(#hide)"/>'
    '<path d="M12.5 22.5c2.3 2.6 6 3.6 9.8 2.3l3.9-3.2c1-.8 2.4-.6 3.2.4 4.3 5.6 9.3 '
    "9.3 15.9 10.9 4.6 1.1 7.2 3.5 7.2 7.6H12.2c-1.2-6.1-1.1-12.1.3-18z"
    '" fill="#fffaf5"/>'
    '<path d="M12 44.3h40.6c-.3 3.1-2.3 4.9-5.4 4.9H16.6c-2.7 0-4.3-1.7-4.6-4.9z" '
    'fill="#ffd9c2"/>'
    '<path d="M30.3 28.7l-4.1 3.2M34.6 32.6l-3.9 3.3" stroke="#b4532a" stroke-width="2.6" '
    'stroke-linecap="round" fill="none"/></svg>'
)


class Tag(TextElement):
    """An HTML element. Text and attribute values reach the browser as text, never as HTML."""

    def __init__(
        self, name: str, text: str = "", /, *, classes: str = "", **attributes: str
    ) -> None:
        """`aria_label="…"` becomes the attribute `aria-label`, `class` is given as `classes`."""
        super().__init__(tag=name, text=text)
        self.classes(classes)
        self.props.update({key.replace("_", "-"): value for key, value in attributes.items()})


class Button(Tag):
    """A button with a drawing, text, or both; one with a drawing alone needs an `aria_label`."""

    def __init__(
        self, text: str = "", *, icon: str = "", classes: str = "", **attributes: str
    ) -> None:
        super().__init__("button", classes=classes, **{"type": "button", **attributes})
        with self:
            if icon:
                drawing(icon)
            if text:
                Tag("span", text)
        if "aria_label" in attributes:
            self.props["title"] = attributes["aria_label"]


def drawing(name: str) -> None:
    """A line drawing in the colour of the text around it; hidden from screen readers."""
    ui.html(
        '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7" '
        'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">'
        f'<path d="{_DRAWINGS[name]}"/></svg>',
        sanitize=False,
        tag="span",
    ).classes("icon")


def logo() -> None:
    """Solemate's mark."""
    ui.html(LOGO, sanitize=False, tag="span").classes("logo")
