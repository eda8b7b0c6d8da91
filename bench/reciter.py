"""A model without a model: it answers with the beginning of the first document in its prompt."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence

from core.knowledge import sentences
from core.messages import ChatMessage
from core.model import Piece, Sampling

_FIRST_DOCUMENT = re.compile(r"<doc 1 [^\n]*>\n(.*?)\n</doc>", re.DOTALL)
# About what tokenizers make of text: a word of Latin letters, one or two characters of the rest.
_TOKEN = re.compile(r"\s*[A-Za-z0-9]+|[^A-Za-z0-9]{1,2}")
_SENTENCES = 2


class Reciter:
    """Answers at once, token by token; `prompt` is what it was asked last."""

    def __init__(self) -> None:
        self.prompt: tuple[ChatMessage, ...] = ()

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """The recited text; it ends with "stop"."""
        self.prompt = tuple(prompt)
        *pieces, last = recited(prompt[-1].content)
        for piece in pieces:
            yield Piece(piece)
        yield Piece(last, "stop")


def recited(question: str) -> list[str]:
    """The first sentences of the first document in a prompt's last message, cut into tokens."""
    found = _FIRST_DOCUMENT.search(question)
    text = found[1] if found else question
    return _TOKEN.findall(" ".join(sentences(text)[:_SENTENCES]))
