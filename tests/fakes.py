"""Stand-ins for what talks to the world: they answer from memory and remember what was asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from core.errors import ModelUnavailable
from core.messages import ChatMessage, ImageTag
from core.model import Piece, Sampling
from core.retrieval import Query, Relevance, Retrieved
from core.tags import TagGroup


@dataclass(frozen=True)
class Asked:
    """One call of `FakeChatModel.stream`."""

    prompt: tuple[ChatMessage, ...]
    adapter: str
    sampling: Sampling


@dataclass
class FakeChatModel:
    """Gives its answers in order, the last one again and again; an exception is raised instead.

    A string is streamed word by word and ends with "stop"; a list of pieces is sent as it is,
    with an exception among them raised at its place.
    """

    answers: Iterable[str | Exception | Sequence[Piece | Exception]] = ("Yes.",)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._answers = list(self.answers)

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        self.asked.append(Asked(tuple(prompt), adapter, sampling))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        for piece in _pieces(answer):
            if isinstance(piece, Exception):
                raise piece
            yield piece


def _pieces(answer: str | Exception | Sequence[Piece | Exception]) -> Sequence[Piece | Exception]:
    if isinstance(answer, Exception):
        return [answer]
    if not isinstance(answer, str):
        return answer
    words = answer.split(" ")
    spaced = [word + " " for word in words[:-1]] + words[-1:]
    return [*(Piece(word) for word in spaced[:-1]), Piece(spaced[-1], "stop")]


@dataclass
class HeldChatModel(FakeChatModel):
    """Says its first word only when `gate` is set; `waiting` is set when it has been asked."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        try:
            self.waiting.set()
            await self.gate.wait()
            async for piece in super().stream(prompt, adapter, sampling):
                yield piece
        finally:
            self.left.set()


class FalteringChatModel(FakeChatModel):
    """Says a word of its answer a second, and never comes to its end."""

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        async for piece in super().stream(prompt, adapter, sampling):
            if piece.finish_reason is None:
                yield piece
                await asyncio.sleep(1)
        await asyncio.Event().wait()


@dataclass
class FakeRetriever:
    """Finds what is filed under the first of its words that the question has; else nothing."""

    found: Mapping[str, Retrieved]
    queries: list[Query] = field(default_factory=list)

    async def search(self, query: Query) -> Retrieved:
        self.queries.append(query)
        words = (word for word in self.found if word in query.text.lower())
        return next((self.found[word] for word in words), Retrieved(Relevance.REFUSE))


@dataclass
class FakeVision:
    """Sees the same tags in every photo."""

    seen: tuple[ImageTag, ...] = (ImageTag("白色", "white", "colour", 0.9),)
    groups: Sequence[TagGroup] = ()
    colours_only: bool = True

    async def tags(self, photo: Image) -> tuple[ImageTag, ...]:
        return self.seen


class RetellingModel:
    """Retells the first document; with the gate closed it waits after the first half."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False
        self.prompts: list[Sequence[ChatMessage]] = []

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        if self.away:
            raise ModelUnavailable("The model server is away.")
        document = re.search(r"<doc 1 [^\n]*\n(.*?)\n</doc>", prompt[-1].content, re.DOTALL)
        assert document is not None
        text = document[1].replace("‹", "<")
        pieces = [text[start : start + 6] for start in range(0, len(text), 6)]
        for number, piece in enumerate(pieces):
            if number == len(pieces) // 2:
                await self.gate.wait()
            yield Piece(piece)
        yield Piece("", "stop")
