"""The terminal shows an answer as it grows, and rates the last one."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

import pytest
from rich.cells import cell_len
from rich.console import Console

from bots.terminal import ask, chat, to_json, to_user_message
from core.errors import MessageRejected, StoreError
from core.messages import (
    Delta,
    Done,
    Event,
    Feedback,
    ImageTag,
    Outcome,
    Rating,
    Replaced,
    Reply,
    Seen,
    Source,
    UserMessage,
)
from core.wording import say

BLUE = ImageTag("蓝色", "blue", "colour", 0.8)


class FakeExpert:
    """Says the same events for every message, and remembers what it got."""

    def __init__(self, *events: Event | Exception) -> None:
        self.events = events
        self.messages: list[UserMessage] = []
        self.feedback: list[Feedback] = []

    async def answer(self, message: UserMessage) -> AsyncGenerator[Event, None]:
        self.messages.append(message)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event

    async def rate(self, feedback: Feedback) -> None:
        self.feedback.append(feedback)


def reply(text: str = "阴干。", outcome: Outcome = Outcome.ANSWERED) -> Reply:
    source = Source("canvas", "帆布鞋清洗", "洗后阴干。", "written for this project")
    return Reply("r1", "c1", text, outcome, "zh", sources=(source,), tags=(BLUE,))


def console() -> Console:
    return Console(file=io.StringIO(), width=100, color_system=None)


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def unwrapped(text: str) -> str:
    return text.replace("\n", "")


def typed(*lines: str) -> Callable[[str], Awaitable[str]]:
    left: Iterator[str] = iter(lines)

    async def read(_prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


async def test_an_answer_is_shown_with_tags_and_sources() -> None:
    on = console()
    expert = FakeExpert(Seen((BLUE,)), Delta("阴"), Delta("干。"), Done(reply()))
    await ask(expert, to_user_message("怎么洗？"), on)
    assert "阴干。" in shown(on)
    assert "蓝色 80%" in shown(on)
    assert "照片里我看到：蓝色。" in shown(on)
    assert "帆布鞋清洗" in shown(on)


QUOTE = "“洗后阴干。”"
WITHDRAWN = (Delta("用 90 度"), Replaced(QUOTE), Done(reply(QUOTE, Outcome.QUOTED)))


def terminal(height: int = 25, kind: str = "xterm") -> Console:
    return Console(
        file=io.StringIO(), width=20, height=height, force_terminal=True, _environ={"TERM": kind}
    )


def screen(on: Console) -> list[str]:
    """The lines that a person sees in the end, as a terminal makes them of what was written."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[\d;]*[A-Za-z]|[\s\S]", shown(on)):
        match piece:
            case "\n":
                row, column = row + 1, 0
            case "\r":
                column = 0
            case "\x1b[2K":
                lines[row] = ""
            case "\x1b[1A":
                row -= 1
            case _ if piece.startswith("\x1b"):
                assert piece.endswith("m")
            case _:
                if column + cell_len(piece) > on.width:
                    row, column = row + 1, 0
                    lines += [""] * (row == len(lines))
                lines[row] += piece
                column += cell_len(piece)
        lines += [""] * (row == len(lines))
    return lines


async def test_a_file_gets_only_the_text_that_stands_in_the_end() -> None:
    on = console()
    await ask(FakeExpert(*WITHDRAWN), to_user_message("怎么洗？"), on)
    assert "90" not in shown(on)
    assert shown(on).count(QUOTE) == 1


@pytest.mark.parametrize(
    "withdrawn", ["用 90 度", "用 90 度的水煮" * 9, "一二三四五六七八九十" * 2]
)
async def test_a_terminal_clears_a_text_that_is_withdrawn(withdrawn: str) -> None:
    on = terminal()
    pieces = [Delta(char) for char in withdrawn]
    await ask(FakeExpert(Seen((BLUE,)), *pieces, *WITHDRAWN[1:]), to_user_message("怎么洗？"), on)
    assert screen(on)[:2] == ["[蓝色 80%]", QUOTE]


@pytest.mark.parametrize(("height", "kind"), [(3, "xterm"), (25, "dumb")])
async def test_what_a_terminal_cannot_clear_is_marked(height: int, kind: str) -> None:
    on = terminal(height, kind)
    events = (Delta("用 90 度的水煮" * 9), *WITHDRAWN[1:])
    await ask(FakeExpert(*events), to_user_message("怎么洗？"), on)
    text = re.sub(r"\x1b\[\d*m|\n", "", shown(on))
    assert text.index("90") < text.index(say("withdrawn", "zh")) < text.index(QUOTE)
    assert text.count(QUOTE) == 1


async def test_a_stored_reply_without_pieces_is_shown_whole() -> None:
    on = console()
    await ask(FakeExpert(Done(reply())), to_user_message("怎么洗？"), on)
    assert "阴干。" in shown(on)


async def test_what_looks_like_markup_is_printed_as_it_is() -> None:
    on = console()
    text = "[bold]阴干"
    await ask(FakeExpert(Delta(text), Done(reply(text))), to_user_message("怎么洗？"), on)
    assert "[bold]阴干" in shown(on)


async def test_a_conversation_keeps_its_id_and_rates_the_last_answer() -> None:
    expert = FakeExpert(Delta("阴干。"), Done(reply()))
    await chat(expert, console(), typed("怎么洗？", "- 要先用温水", "那晒呢", ""))
    assert len({message.conversation_id for message in expert.messages}) == 1
    assert expert.feedback == [Feedback("r1", "terminal", Rating.DOWN, correction="要先用温水")]


async def test_commands_are_no_questions() -> None:
    on, expert = console(), FakeExpert(Delta("阴干。"), Done(reply()))
    help_zh = say("chat_help", "zh")
    lines = (
        "怎么洗？",
        "/help",
        "/new",
        "/nwe",
        "那晒呢",
        "/home/shoe.jpg 是什么鞋",
        "/quit",
        "鞋",
    )
    await chat(expert, on, typed(*lines))
    assert [one.text for one in expert.messages] == [lines[0], lines[4], lines[5]]
    first, second, third = (one.conversation_id for one in expert.messages)
    assert first != second == third
    assert unwrapped(shown(on)).count(help_zh) == 2
    assert say("chat_unknown", "en", command="/nwe") in shown(on)


async def test_a_rejected_line_is_explained_and_the_conversation_goes_on() -> None:
    on = console()
    expert = FakeExpert(MessageRejected("It is too long.", code="text_long"))
    await chat(expert, on, typed("鞋", "鞋"))
    assert shown(on).count("It is too long.") == 2


async def test_a_thumb_that_was_not_stored_is_told_and_can_be_given_again() -> None:
    class FullExpert(FakeExpert):
        async def rate(self, feedback: Feedback) -> None:
            await super().rate(feedback)
            raise StoreError("The disk is full.")

    on, expert = console(), FullExpert(Delta("阴干。"), Done(reply()))
    await chat(expert, on, typed("怎么洗？", "+", "+"))
    assert len(expert.feedback) == 2
    assert shown(on).count("The disk is full.") == 2
    assert say("feedback_thanks", "zh") not in shown(on)


def test_json_holds_what_was_promised() -> None:
    found = json.loads(to_json(reply()))
    assert {"answer", "sources", "tags", "adapter", "outcome", "timings"} <= set(found)
    assert found["sources"][0]["id"] == "canvas"
