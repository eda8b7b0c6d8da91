"""The terminal: one question (`ask`) or a conversation (`chat`), streamed as it is written."""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol, get_args

from rich.cells import cell_len
from rich.console import Console
from rich.control import Control
from rich.markup import escape
from rich.segment import ControlType
from rich.text import Text

from core.errors import SolemateError
from core.messages import (
    Delta,
    Done,
    Event,
    Feedback,
    Found,
    Language,
    Outcome,
    Platform,
    Queued,
    Rating,
    Replaced,
    Reply,
    Seen,
    UserMessage,
)
from core.wording import photo_seen, say

# What begins like a folder is none.
_COMMAND = re.compile(r"/\w*")
_MARKS = {"+": Rating.UP, "-": Rating.DOWN}

Read = Callable[[str], Awaitable[str]]
"""Shows a prompt and gives the line that is typed; raises `EOFError` at the end of the input."""


class Expert(Protocol):
    """Whoever answers: the engine in this process, or a running solemate."""

    def answer(self, message: UserMessage) -> AsyncGenerator[Event, None]: ...

    async def rate(self, feedback: Feedback) -> object: ...


def to_user_message(
    text: str, *, conversation_id: str | None = None, images: tuple[bytes, ...] = ()
) -> UserMessage:
    """A line typed on the terminal as a message; a new conversation unless one is named."""
    return UserMessage(
        id=uuid.uuid4().hex,
        platform=Platform.TERMINAL,
        conversation_id=conversation_id or uuid.uuid4().hex,
        user_id="terminal",
        text=text,
        images=images,
    )


async def ask(expert: Expert, message: UserMessage, console: Console) -> Reply:
    """Show one answer while it is made, with tags and sources, and return it."""
    answer = _Answer(console)
    reply: Reply | None = None
    async with aclosing(expert.answer(message)) as events:
        async for event in events:
            match event:
                case Seen(tags) if tags:
                    names = ", ".join(f"{tag.name} {tag.score:.0%}" for tag in tags)
                    console.print(Text(f"[{names}]", style="dim"))
                case Delta(text):
                    answer.add(text)
                case Replaced(text):
                    answer.withdraw()
                    answer.add(text)
                case Queued() | Seen() | Found():
                    pass
                case Done(done):
                    reply = done
    assert reply is not None
    answer.end(reply)
    _print_sources(reply, console)
    return reply


async def chat(expert: Expert, console: Console, read: Read) -> None:
    """Talk until `/quit`, an empty line or the end of input; `+` and `-` rate the last answer."""
    for style, key in (("bold", "greeting"), ("dim", "chat_help")):
        _say_in_both(console, key, style)
    conversation = uuid.uuid4().hex
    last: Reply | None = None
    while (line := await _line(read)) and line != "/quit":
        mark, _, correction = line.partition(" ")
        if _COMMAND.fullmatch(mark):
            if mark == "/new":
                conversation, last = uuid.uuid4().hex, None
            key = {"/new": "new_started", "/help": "chat_help"}.get(mark, "chat_unknown")
            _say_in_both(console, key, "dim", command=mark)
            continue
        try:
            if mark in _MARKS and last is not None:
                verdict = Feedback(last.id, "terminal", _MARKS[mark], correction=correction.strip())
                await expert.rate(verdict)
                console.print(Text(say("feedback_thanks", last.language), style="dim"))
                continue
            message = to_user_message(line, conversation_id=conversation)
            last = await ask(expert, message, console)
        except SolemateError as exc:
            console.print(Text(str(exc), style="red"))


def to_json(reply: Reply) -> str:
    """The reply as `ask --json` prints it, on one line."""
    result: dict[str, Any] = {
        "answer": reply.text,
        "sources": [dataclasses.asdict(source) for source in reply.sources],
        "tags": [dataclasses.asdict(tag) for tag in reply.tags],
        "adapter": reply.adapter,
        "outcome": reply.outcome,
        "timings": {name: round(value, 4) for name, value in _seconds(reply).items()},
        "suggestions": list(reply.suggestions),
        "language": reply.language,
        "complete": reply.complete,
        "conversation": reply.conversation_id,
        "id": reply.id,
    }
    return json.dumps(result, ensure_ascii=False)


class _Answer:
    """An answer as it grows on a terminal; a file or a pipe gets only what stands in the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._grows = console.is_terminal
        self._printed = ""
        self._withdrawn = False

    def add(self, text: str) -> None:
        """Print the next piece, where it can still be taken back."""
        if not self._grows or self._withdrawn:
            return
        with self._console.capture() as captured:
            self._console.print(Text(text), end="")
        self._printed += captured.get()
        self._console.out(captured.get(), end="", highlight=False)

    def withdraw(self) -> None:
        """Clear what was printed; where part of it has left the screen, it is marked at the end."""
        if not self._printed:
            return
        rows = _rows(self._printed, self._console.width)
        if rows > self._console.height or self._console.is_dumb_terminal:
            self._withdrawn = True
            return
        clear = (ControlType.ERASE_IN_LINE, 2)
        above = [step for _ in range(rows - 1) for step in ((ControlType.CURSOR_UP, 1), clear)]
        self._console.control(Control(ControlType.CARRIAGE_RETURN, clear, *above))
        self._printed = ""

    def end(self, reply: Reply) -> None:
        """Print what is still missing of the stored reply, and end the line."""
        if self._withdrawn:
            self._console.print(Text(f"\n\n{say('withdrawn', reply.language)}\n", style="dim"))
        if self._withdrawn or not self._printed:
            self._console.print(Text(reply.text), end="")
        self._console.print()


def _rows(text: str, width: int) -> int:
    """How many rows of a terminal the text takes, which breaks lines only where they are full."""
    rows, column = 1, 0
    for char in text:
        cells = cell_len(char)
        if char == "\n" or column + cells > width:
            rows, column = rows + 1, 0
        column += cells if char != "\n" else 0
    return rows


def _seconds(reply: Reply) -> dict[str, float]:
    return dataclasses.asdict(reply.timings) | {"own": reply.timings.own}


def _say_in_both(console: Console, key: str, style: str, **values: object) -> None:
    for language in get_args(Language):
        console.print(Text(say(key, language, **values), style=style))


async def _line(read: Read) -> str:
    try:
        return (await read("\n> ")).strip()
    except EOFError:
        return ""


def _print_sources(reply: Reply, console: Console) -> None:
    if reply.tags:
        console.print(f"[dim]{escape(photo_seen(reply.tags, reply.language))}[/dim]")
    for source in reply.sources:
        if reply.outcome is not Outcome.QUOTED:
            console.print(f"[dim]· {escape(source.title)} ({escape(source.source)})[/dim]")
