"""The nouns that travel between a bot, the engine and the store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

Language = Literal["zh", "en"]
Role = Literal["system", "user", "assistant"]


class Platform(StrEnum):
    """Where a message came from."""

    WEB = "web"
    API = "api"
    TERMINAL = "terminal"
    TELEGRAM = "telegram"
    SLACK = "slack"


class Outcome(StrEnum):
    """How a question ended.

    `ANSWERED` is the model's own text, `CLARIFY` a "did you mean", `REFUSED` a polite "I do not
    know", `QUOTED` a passage word for word because the model was away or not to be trusted.
    """

    ANSWERED = "answered"
    CLARIFY = "clarify"
    REFUSED = "refused"
    QUOTED = "quoted"


class Rating(StrEnum):
    """A thumb."""

    UP = "up"
    DOWN = "down"


class Reason(StrEnum):
    """Why a thumb went down."""

    WRONG_FACTS = "wrong_facts"
    DID_NOT_ANSWER = "did_not_answer"
    TONE = "tone"
    WRONG_PHOTO = "wrong_photo"
    OTHER = "other"


class Winner(StrEnum):
    """Which answer of a duel is better: the reply itself, the one beside it, or neither."""

    FIRST = "first"
    SECOND = "second"
    NEITHER = "neither"


class Side(StrEnum):
    """Which answer of a duel is better as the person sees them, or that they are about the same."""

    A = "a"
    B = "b"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class UserMessage:
    """What a person sent: text, photos (bytes as received, untrusted), or both.

    `id` names the message on its platform: a message that comes twice has the same one.
    `files` are addresses of photos that its platform keeps until its turn comes.
    `language` is what the person chose; without it the text decides.
    """

    id: str
    platform: Platform
    conversation_id: str
    user_id: str
    text: str
    images: tuple[bytes, ...] = ()
    language: Language | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    files: tuple[str, ...] = ()

    @property
    def photo_count(self) -> int:
        """How many photos came with it, fetched or not."""
        return len(self.images) + len(self.files)


@dataclass(frozen=True, slots=True)
class ImageTag:
    """One thing seen in a photo: `name` as in the tag file, `phrase` its English, `score` 0 to 1.

    `sure` is false where the tag is a guess that the answer has to hedge ("about", "可能").
    """

    name: str
    phrase: str
    group: str
    score: float
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk of the knowledge base that was found; `score` is the calibrated relevance, 0 to 1."""

    id: str
    title: str
    text: str
    source: str
    topic: str
    lang: str
    score: float = 0.0

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the text's SHA-256: which wording the answer saw."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One role and its content in a prompt."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that the answer really used."""

    id: str
    title: str
    text: str
    source: str

    @classmethod
    def of(cls, passage: Passage) -> Self:
        """The passage as a source."""
        return cls(passage.id, passage.title, passage.text, passage.source)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent in each step of one answer; `total` includes the model, `own` does not."""

    vision: float = 0.0
    retrieval: float = 0.0
    first_token: float = 0.0
    model: float = 0.0
    total: float = 0.0

    @property
    def own(self) -> float:
        """Seconds that were not spent waiting for the model."""
        return max(0.0, self.total - self.model)


@dataclass(frozen=True, slots=True)
class Reply:
    """What we answered.

    `adapter` names the model or LoRA adapter that wrote the text ("" when no model did).
    `complete` is true only for an answer the model finished by itself: anything else is never
    trained on. `suggestions` are the titles offered by a `CLARIFY`.
    """

    id: str
    conversation_id: str
    text: str
    outcome: Outcome
    language: Language
    sources: tuple[Source, ...] = ()
    tags: tuple[ImageTag, ...] = ()
    suggestions: tuple[str, ...] = ()
    adapter: str = ""
    complete: bool = True
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its reply as the store remembers them, with the prompt exactly as sent.

    `question` is the person's own text, `query` what was searched (tags woven in, topic carried
    over). `sampling` is what the model was asked with. `photo_again` is true where a caller, who
    remembers the conversation for us, hands over this turn's photo again with the next message.
    `asked` is the model or adapter that was asked, also where a passage stands in place of its
    answer; `failure` then names the error.
    """

    reply: Reply
    message_id: str
    user_id: str
    platform: Platform
    question: str
    query: str
    prompt: tuple[ChatMessage, ...]
    passages: tuple[Passage, ...]
    sampling: dict[str, Any]
    asked_at: float
    photo_again: bool = False
    asked: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained LoRA: `name` is what a model server is asked for to have it answer.

    `path` is its folder on the model server's disk, None where that server has it by itself.
    `base_model` is the model it belongs to: a folder, or a name where the weights lie elsewhere.
    `digest` is the SHA-256 that its files had when it was registered, "" where it never was.
    """

    name: str
    path: Path | None
    base_model: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One person's verdict on one reply; the last one counts.

    One given by an emoji on the message goes when the emoji is taken off.
    """

    reply_id: str
    user_id: str
    rating: Rating
    reason: Reason | None = None
    comment: str = ""
    correction: str = ""
    by_reaction: bool = False


class Wish(StrEnum):
    """Something that a person can switch off: being asked, being told."""

    DUELS = "duels"
    TELL = "tell"


@dataclass(frozen=True, slots=True)
class Wishes:
    """Whether a person wants to compare answers, and to be told what we learned from them."""

    duels: bool = True
    tell: bool = True


@dataclass(frozen=True, slots=True)
class Queued:
    """Others are answered first: this message is the `number`th."""

    number: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The photo has been read: what is in it."""

    tags: Sequence[ImageTag]


@dataclass(frozen=True, slots=True)
class Found:
    """Retrieval is done; the model is being asked."""

    passages: Sequence[Passage]


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """Throw away the text shown so far: this one stands in its place."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete and stored; `reply.text` is what counts."""

    reply: Reply


Event = Queued | Seen | Found | Delta | Replaced | Done
