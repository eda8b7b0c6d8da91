"""Text to and from Slack: the model's markdown as Slack's, with nothing alive in it.

Slack reads `<!channel>`, `<@U1>` and `<url|words>` wherever it takes formatting, in `markdown` too,
so everything is escaped that no hand of ours wrote
(https://docs.slack.dev/messaging/formatting-message-text). A blank without width keeps names of
emoji and of groups from being followed, and an address is shown only where it stands in a passage
that the answer used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from bots.markup import Span, Style, Styled, split, styled, with_sources
from core.messages import Language, Reply
from core.wording import say

# A `markdown` block holds 12,000 characters, and escaping makes five of one at most.
LIMIT = 2400
NO_WIDTH = "\u200b"

_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_MARKS = re.compile(r"([\\*_`~\[\]])")
_NAME = re.compile(r"([:@])(?=[\w+'-])")
# An address has no blank and no quote in it, and one of these; what is before it may touch it.
_RUN = re.compile(r"[^\s<>\"'()\x7f-\U0010ffff]+")
_ADDRESS = re.compile(
    r"://|www\.|mailto:|[a-z0-9]\.(?:com|net|org|io|cn|co|info|biz|app|dev|xyz|shop|top|site|link|ru"
    r"|de|uk|ly|gl)(?![\w-])",
    re.IGNORECASE | re.ASCII,
)
_BEFORE_ADDRESS = ",;|=*_~`[]{}"
_AFTER_ADDRESS = ".,:;!?"
_EDGES = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)

# In what Slack sends: <@U1>, <#C1|general>, <!here>, <https://a.b|words>.
_REFERENCE = re.compile(r"<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>")

# What may still become part of a style, an address or a word when more text comes.
_BARE_BULLET = re.compile(r"(?:^|\n)[ \t]*[-+*]\s*\Z")
_MAY_OPEN = re.compile(r"^\s*#.*|[*`\[].*")


def rendered(reply: Reply) -> list[str]:
    """The answer with its sources as markdown for Slack, in pieces of one message each."""
    allowed = [f"{source.title}\n{source.text}\n{source.source}" for source in reply.sources]
    whole = with_sources(styled(reply.text), reply.sources, reply.language)
    return [_markdown(piece, allowed, reply.language) for piece in split(whole, LIMIT)]


def so_far(text: str, language: Language) -> str:
    """What of a growing answer can be shown, as markdown that more text only adds to.

    It never goes beyond the first message, nor beyond the first address: whether that may be
    shown is known at the end.
    """
    pieces = split(styled(_settled(text)), LIMIT)
    return _markdown(pieces[0], (), language) if pieces else ""


def escaped(text: str) -> str:
    """Words of ours, or of whoever, with nothing in them that Slack would follow."""
    return _inert(text).translate(_ENTITIES)


def plain(text: str, bot_user: str) -> str:
    """What a person wrote, as they see it, without our name."""

    def words(found: re.Match[str]) -> str:
        kind, target, label = found.groups()
        if kind == "@" and target == bot_user:
            return ""
        if kind:
            # A group's or a broadcast's target has its kind before it: `subteam^S1`, `date^1`.
            return label or f"{'#' if kind == '#' else '@'}{target.partition('^')[0]}"
        return label or target.removeprefix("mailto:")

    text = _REFERENCE.sub(words, text)
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(entity, char)
    return text.strip()


def _settled(text: str) -> str:
    """The beginning of a text whose look no further text can change."""
    for start, _ in _addresses(text):
        text = text[:start]
        break
    # Where a block of code ends is not known before it has ended.
    text = text.partition("```")[0]
    done, border, last = text.rpartition("\n")
    settled = done + border + _without_last_word(_MAY_OPEN.sub("", last))
    return _BARE_BULLET.sub("", settled)


def _without_last_word(line: str) -> str:
    """The line up to its last blank or character of a script without blanks."""
    end = len(line)
    while end and "!" <= line[end - 1] <= "~":
        end -= 1
    return line[:end]


def _markdown(piece: Styled, allowed: Sequence[str], language: Language) -> str:
    """A piece of text in Slack's markdown."""
    out, at = [], 0
    for span in sorted(piece.spans, key=lambda one: one.start):
        if span.start < at:
            continue
        out.append(_plain(piece.text[at : span.start], allowed, language))
        end = span.start + span.length
        out.append(_in_style(span, piece.text[span.start : end], allowed, language))
        at = end
    out.append(_plain(piece.text[at:], allowed, language))
    return "".join(out)


def _in_style(span: Span, text: str, allowed: Sequence[str], language: Language) -> str:
    match span.style:
        case "code":
            return f"`{_verbatim(text, allowed, language)}`"
        case "pre":
            return f"```\n{_verbatim(text, allowed, language)}\n```"
        case "sources":
            words = _plain(text, allowed, language)
            return "\n".join(f"> {line}" for line in words.split("\n"))
        case style:
            return _emphasised(style, text, allowed, language)


def _emphasised(style: Style, text: str, allowed: Sequence[str], language: Language) -> str:
    """Marks that CommonMark sees: it wants a letter inside of both, also in `**注意：**不要`."""
    mark = "**" if style == "bold" else "*"
    edges = _EDGES.match(text)
    assert edges is not None, "it matches everything"
    before, words, after = (_plain(part, allowed, language) for part in edges.groups())
    return f"{before}{mark}{words}{mark}{after}" if words else before + after


def _plain(text: str, allowed: Sequence[str], language: Language) -> str:
    return _MARKS.sub(r"\\\1", _known_addresses(text, allowed, language)).translate(_ENTITIES)


def _verbatim(text: str, allowed: Sequence[str], language: Language) -> str:
    return _known_addresses(text, allowed, language).replace("`", "'").translate(_ENTITIES)


def _known_addresses(text: str, allowed: Iterable[str], language: Language) -> str:
    """The inert text, without addresses that stand in none of the allowed texts."""
    out, at = [], 0
    for start, end in _addresses(text):
        address = text[start:end]
        known = any(address in one for one in allowed)
        out += [_inert(text[at:start])]
        out += [address if known else say("address_left_out", language)]
        at = end
    return "".join([*out, _inert(text[at:])])


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    """Where addresses begin and end, in order; a stretch without a blank holds one at most."""
    for run in _RUN.finditer(text):
        words = run[0]
        found = _ADDRESS.search(words)
        if found is None:
            continue
        start = max(words.rfind(char, 0, found.start() + 1) for char in _BEFORE_ADDRESS) + 1
        # A bare name ends by itself, unless a path follows it.
        has_path = not found[0][-1].isalpha() or words[found.end() : found.end() + 1] in tuple(
            "/:?#"
        )
        end = len(words) if has_path else found.end()
        yield run.start() + start, run.start() + len(words[:end].rstrip(_AFTER_ADDRESS))


def _inert(text: str) -> str:
    return _NAME.sub(rf"\1{NO_WIDTH}", text)
