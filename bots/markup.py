"""Simple markdown and a list of sources -> text with styled spans, in pieces a platform takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.messages import Language, Source
from core.wording import say

Style = Literal["bold", "italic", "code", "pre", "sources"]

# CommonMark does not see the emphasis in `**注意：**不要暴晒`, because a letter follows the closing
# stars and punctuation precedes them; in Chinese that is how people and models write.
_INLINE = re.compile(
    r"`(?P<code>[^`\n]+)`"
    r"|\*\*(?=\S)(?P<bold>[^\n]+?)(?<=\S)\*\*"
    r"|(?<![\w*])\*(?=[^\s*])(?P<italic>[^*\n]+?)(?<=[^\s*])\*(?![\w*])"
    # A model's link leads anywhere: its words stay, its address goes.
    r"|!?\[(?P<link>[^\]\n]*)\]\([^()\s]*\)"
)
_FENCE = re.compile(r"^```[^\n]*\n(.*?)(?:^```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$")
_BULLET = re.compile(r"^(\s*)[-*+][ \t]+")
# Where a text is best parted, the best first.
_BORDERS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"[。！？]|[.!?] "),
    re.compile(" "),
)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text in one style; `start` and `length` count characters."""

    style: Style
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Styled:
    """Plain text and the spans in it."""

    text: str
    spans: tuple[Span, ...] = ()

    def __add__(self, other: Styled) -> Styled:
        moved = (Span(s.style, s.start + len(self.text), s.length) for s in other.spans)
        return Styled(self.text + other.text, (*self.spans, *moved))

    def part(self, start: int, end: int) -> Styled:
        """The text from `start` to `end` without blanks around it, with what is styled in it."""
        piece = self.text[start:end]
        start += len(piece) - len(piece.lstrip())
        end = start + len(piece.strip())
        spans = []
        for span in self.spans:
            first, last = max(span.start, start), min(span.start + span.length, end)
            if first < last:
                spans.append(Span(span.style, first - start, last - first))
        return Styled(self.text[start:end], tuple(spans))


def styled(markdown: str) -> Styled:
    """The markdown's text without its marks, and the styles they stood for."""
    markdown, at = markdown.strip(), 0
    whole = Styled("")
    for fence in _FENCE.finditer(markdown):
        code = fence[1].rstrip("\n")
        whole += _lines(markdown[at : fence.start()]) + _in_style("pre", code)
        at = fence.end()
    whole += _lines(markdown[at:])
    return whole.part(0, len(whole.text))


def with_sources(answer: Styled, sources: Sequence[Source], language: Language) -> Styled:
    """The answer with the titles of its sources under it; never without a character.

    An empty link and a picture are all that some answers consist of.
    """
    answer = answer if answer.text.strip() else Styled("…")
    if not sources:
        return answer
    titles = dict.fromkeys(
        f"{source.title} · {source.source}" if source.source else source.title for source in sources
    )
    lines = [say("sources", language, count=len(titles)), *(f"• {title}" for title in titles)]
    return answer + Styled("\n\n") + _in_style("sources", "\n".join(lines))


def split(whole: Styled, limit: int) -> list[Styled]:
    """The text in pieces of at most `limit` UTF-16 units: between paragraphs, else lines, else
    sentences, else words, and only a longer word is parted. Nothing is lost but blanks between.
    """
    pieces, start = [], 0
    while start < len(whole.text):
        end = _end_of_piece(whole.text, start, limit)
        piece = whole.part(start, end)
        if piece.text:
            pieces.append(piece)
        start = end
    return pieces


def utf16_length(text: str) -> int:
    """How many UTF-16 units the text has, as Telegram counts."""
    return len(text) + sum(char > "\uffff" for char in text)


def _end_of_piece(text: str, start: int, limit: int) -> int:
    furthest = _furthest(text, start, limit)
    if furthest == len(text):
        return furthest
    for border in _BORDERS:
        # A border near the start would leave a message of a few words.
        ends = [found.end() for found in border.finditer(text, start, furthest)]
        if ends and ends[-1] - start > (furthest - start) // 4:
            return ends[-1]
    return furthest


def _furthest(text: str, start: int, limit: int) -> int:
    """The end of the longest stretch from `start` that `limit` UTF-16 units hold."""
    end, units = start, 0
    while end < len(text):
        units += utf16_length(text[end])
        if units > limit:
            break
        end += 1
    return end


def _lines(text: str) -> Styled:
    lines = [_line(line) for line in text.split("\n")]
    whole = lines[0]
    for line in lines[1:]:
        whole += Styled("\n") + line
    return whole


def _line(line: str) -> Styled:
    if heading := _HEADING.match(line):
        return _in_style("bold", _inline(heading[1]).text)
    return _inline(_BULLET.sub(r"\1• ", line))


def _inline(text: str) -> Styled:
    whole, at = Styled(""), 0
    for found in _INLINE.finditer(text):
        whole += Styled(text[at : found.start()])
        kind, inner = next((k, v) for k, v in found.groupdict().items() if v is not None)
        match kind:
            case "code":
                whole += _in_style("code", inner)
            case "bold":
                whole += _in_style("bold", _inline(inner).text)
            case "italic":
                whole += _in_style("italic", _inline(inner).text)
            case _:
                whole += Styled(inner)
        at = found.end()
    return whole + Styled(text[at:])


def _in_style(style: Style, text: str) -> Styled:
    return Styled(text, (Span(style, 0, len(text)),) if text else ())
