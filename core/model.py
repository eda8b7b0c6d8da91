"""The model as the rest sees it: continues a conversation, and is served with its adapters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from core.messages import ChatMessage

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model picks words; temperature 0 always takes the likeliest, penalty 1 is none."""

    max_tokens: int
    temperature: float
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bit of an answer; only the last one has a `finish_reason`.

    `stop` means that the model ended by itself, `length` that it was cut.
    """

    text: str
    finish_reason: FinishReason | None = None


class ChatModel(Protocol):
    """Anything that can continue a conversation."""

    def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """The answer piece by piece; raises `ModelUnavailable` unless it ends as it should."""
        ...


@dataclass(frozen=True, slots=True)
class Survey:
    """The names that some server can be asked for, and those that need be loaded on none.

    `servers` says by its base URL what each has that can be asked: one may have refused an adapter.
    """

    anywhere: frozenset[str]
    everywhere: frozenset[str]
    servers: Mapping[str, frozenset[str]] = field(default_factory=dict)


class ModelServer(ChatModel, Protocol):
    """A model that is served, by one server or several, with adapters that come and go."""

    async def models(self) -> list[str]:
        """The names that can be asked for: the base model and every loaded adapter."""
        ...

    async def survey(self) -> Survey:
        """The same, and which of them every server has."""
        ...

    async def load_adapter(self, name: str, path: Path) -> None:
        """Make the LoRA adapter in `path`, a folder on the server's disk, answer as `name`."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; raises `NotFound` when it is not known."""
        ...

    async def health(self) -> dict[str, bool]:
        """Whether each server answers, by its base URL."""
        ...

    async def healthy(self) -> bool:
        """Whether questions can be asked at all."""
        ...
