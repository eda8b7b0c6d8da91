"""Asks models for answers to the same cases, and says what the answers are worth, in figures."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from core.errors import AnswerIncomplete, AnswerUnsupported
from core.grounding import Ground, is_refusal, shingles
from core.guard import guarded
from core.knowledge import sentences
from core.messages import Passage
from core.model import Piece, Sampling
from core.quantities import quantities
from training.eval_sets import Case, spread
from training.lineup import Label, Lineup, Served
from training.scores import bleu_4, rouge_l
from training.spoken import is_spoken

AT_ONCE = 8
"""Questions that a model is asked at the same time."""
EXAMPLES = 10

# An answer quotes the right passage when this part of what it says is the passage's, and this part
# of at least one of the passage's sentences is said; parts are counted in shingles.
_QUOTES = 0.7
# A text goes round in circles when it holds the same run of this many characters this often.
_RUN, _OFTEN = 10, 3

Watch = Callable[[Label, int, int], None]
"""Hears of a model, how many answers are wanted of it, and how many it has given."""

T = TypeVar("T")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Asking:
    """How models are asked; `min_support` is the engine's, for what its guard would show."""

    sampling: Sampling
    min_support: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a case, and what the engine would have shown of it.

    `quoted` is true where the engine's guard stops the answer and a passage stands in its place.
    A server sends a token a piece, so that pieces are counted as `tokens`.
    """

    case: Case
    text: str
    shown: str
    quoted: bool
    tokens: int
    first_token_seconds: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the answers to a group of cases; None where no case of the group has the figure.

    BLEU-4 and ROUGE-L go from 0 to 100, the others are shares. Cases with an answer have the first
    five and `spoken` and `characters`: `facts_kept` is the part of the right passage's numbers and
    title that is said, `right` means that the answer quotes the right passage and invents nothing,
    `refused_wrongly` that it says it does not know. `invented` is an answer with a number, size or
    name that stands nowhere in its prompt; `after_guard` is the same of what the engine would
    show, `quoted` how often that is a passage in place of the answer.
    """

    group: str
    n: int
    bleu_4: float | None
    rouge_l: float | None
    facts_kept: float | None
    right: float | None
    refused_wrongly: float | None
    refused_rightly: float | None
    invented: float
    after_guard: float
    quoted: float
    looping: float
    spoken: float | None
    characters: float | None


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model answered, asked several questions at a time.

    `tokens_per_second` is None where pieces of an answer are not the model's tokens.
    """

    answers_per_second: float
    tokens_per_second: float | None
    first_token_ms: float

    @classmethod
    def of(cls, waits: Sequence[float | None], seconds: float, tokens: int | None = None) -> Speed:
        """The speed of so many answers in `seconds`, from the seconds each first word took."""
        return cls(
            answers_per_second=len(waits) / seconds,
            tokens_per_second=None if tokens is None else tokens / seconds,
            first_token_ms=1000 * (mean(waits) or 0.0),
        )


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the answer to it."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's figures, over all cases and by group."""

    label: Label
    model: str
    overall: Figures
    speed: Speed
    groups: tuple[Figures, ...]
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        """The overall figures and the speed beside each other, the groups below."""
        return {
            "model": self.model,
            **asdict(self.overall),
            **asdict(self.speed),
            "groups": [asdict(one) for one in self.groups],
            "examples": [asdict(one) for one in self.examples],
        }


async def measure(
    lineup: Lineup, labels: Sequence[Label], cases: Sequence[Case], asking: Asking, watch: Watch
) -> list[Measured]:
    """Ask each of these models every case, one model after the other.

    Raises `ModelUnavailable` when a server cannot be asked; an answer that is empty or breaks off
    is the model's own failing and counts as what it is.
    """
    measured = []
    async with aclosing(lineup.models(labels)) as models:
        async for served in models:
            started = time.perf_counter()
            answers = await at_once(
                cases, partial(_answer, served, asking), partial(watch, served.label, len(cases))
            )
            seconds = time.perf_counter() - started
            measured.append(await asyncio.to_thread(_measured, served, answers, seconds))
    return measured


async def at_once(
    items: Sequence[T], work: Callable[[T], Awaitable[Result]], on_done: Callable[[int], None]
) -> list[Result]:
    """The work's results in the order of the items, `AT_ONCE` under way at a time.

    `on_done` hears how many are done. The first error ends the others.
    """
    places = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def one(item: T) -> Result:
        nonlocal done
        async with places:
            result = await work(item)
        done += 1
        on_done(done)
        return result

    try:
        async with asyncio.TaskGroup() as tasks:
            begun = [tasks.create_task(one(item)) for item in items]
    except ExceptionGroup as group:
        # What went wrong first is what the caller can mend.
        raise group.exceptions[0] from None
    return [task.result() for task in begun]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that there are; None where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


async def _answer(served: Served, asking: Asking, case: Case) -> Answer:
    started = time.perf_counter()
    first: float | None = None
    pieces: list[Piece] = []
    shown: str | None = None
    stream = served.chat.stream(case.prompt, served.name, asking.sampling)
    # The engine quotes a passage in place of what breaks off, as of what is not to be trusted.
    with suppress(AnswerIncomplete, AnswerUnsupported):
        async with aclosing(stream):
            async for piece in stream:
                if first is None and piece.text:
                    first = time.perf_counter() - started
                pieces.append(piece)
        shown = await _guarded(pieces, _ground(case, asking.min_support))
    return Answer(
        case=case,
        text="".join(piece.text for piece in pieces),
        shown=_quote(case) if shown is None else shown,
        quoted=shown is None,
        tokens=sum(bool(piece.text) for piece in pieces),
        first_token_seconds=first,
    )


async def _guarded(pieces: Sequence[Piece], ground: Ground) -> str:
    """What the engine would show; raises `AnswerUnsupported` where its guard stops the answer."""

    async def again() -> AsyncGenerator[Piece, None]:
        for piece in pieces:
            yield piece

    async with aclosing(guarded(again(), ground)) as safe:
        return "".join([piece.text async for piece in safe])


def _quote(case: Case) -> str:
    """The passage that the engine shows where it cannot trust the model."""
    return case.passages[0].text if case.passages else ""


def _ground(case: Case, min_support: float) -> Ground:
    texts = (f"{one.title}\n{one.text}" for one in case.passages)
    return Ground.of(texts, min_support, also=(case.question,))


def _measured(served: Served, answers: Sequence[Answer], seconds: float) -> Measured:
    verdicts = [_verdict(answer) for answer in answers]
    groups = dict.fromkeys(answer.case.group for answer in answers)
    return Measured(
        label=served.label,
        model=served.name,
        overall=_figures("all", verdicts),
        speed=Speed.of(
            [one.first_token_seconds for one in answers],
            seconds,
            sum(one.tokens for one in answers),
        ),
        groups=tuple(
            _figures(group, [one for one in verdicts if one.group == group]) for group in groups
        ),
        examples=tuple(Example(one.case.question, one.text) for one in spread(answers, EXAMPLES)),
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """One answer's figures; None is left out of the means."""

    group: str
    bleu_4: float | None
    rouge_l: float | None
    facts_kept: float | None
    right: bool | None
    refused_wrongly: bool | None
    refused_rightly: bool | None
    invented: bool
    after_guard: bool
    quoted: bool
    looping: bool
    spoken: bool | None
    characters: int | None


def _verdict(answer: Answer) -> _Verdict:
    case, text = answer.case, answer.text
    right = case.right.passage() if case.right else None
    refused = is_refusal(text)
    invented = _invents(case, text)
    return _Verdict(
        group=case.group,
        bleu_4=bleu_4(text, case.reference) if right else None,
        rouge_l=rouge_l(text, case.reference) if right else None,
        facts_kept=facts_kept(text, right) if right else None,
        right=not (refused or invented) and quotes(text, right) if right else None,
        refused_wrongly=refused if right else None,
        refused_rightly=None if right else refused,
        invented=invented,
        after_guard=_invents(case, answer.shown),
        quoted=answer.quoted,
        looping=loops(text),
        spoken=is_spoken(text, case.lang) if right else None,
        characters=len(text) if right else None,
    )


def facts_kept(text: str, passage: Passage) -> float:
    """The share of a passage's facts, its numbers with their units and its title, in a text."""
    numbers = quantities(passage.text)
    kept = len(numbers & quantities(text)) + (passage.title.casefold() in text.casefold())
    return kept / (len(numbers) + 1)


def quotes(text: str, passage: Passage) -> bool:
    """Whether a text says at least one sentence of a passage, and little besides the passage."""
    said, held = shingles(text), shingles(f"{passage.title}\n{passage.text}")
    if not said or len(said & held) < _QUOTES * len(said):
        return False
    parts = [shingles(sentence) for sentence in sentences(passage.text)]
    return any(part and len(said & part) >= _QUOTES * len(part) for part in parts)


def loops(text: str) -> bool:
    """Whether a text says the same again and again."""
    runs = Counter(text[start : start + _RUN] for start in range(len(text) - _RUN + 1))
    return any(count >= _OFTEN for count in runs.values())


def _invents(case: Case, text: str) -> bool:
    """Whether a sentence holds a number, size or name that stands nowhere, as the guard sees it.

    Each sentence by itself: in a Chinese one every Latin word is a name, in an English one not.
    """
    # Without a share to reach, nothing but numbers, sizes and names is looked at.
    ground = _ground(case, min_support=0.0)
    return any(ground.unsupported(sentence) is not None for sentence in sentences(text))


def _figures(group: str, verdicts: Sequence[_Verdict]) -> Figures:
    return Figures(
        group=group,
        n=len(verdicts),
        bleu_4=mean(one.bleu_4 for one in verdicts),
        rouge_l=mean(one.rouge_l for one in verdicts),
        facts_kept=mean(one.facts_kept for one in verdicts),
        right=mean(one.right for one in verdicts),
        refused_wrongly=mean(one.refused_wrongly for one in verdicts),
        refused_rightly=mean(one.refused_rightly for one in verdicts),
        invented=mean(one.invented for one in verdicts) or 0.0,
        after_guard=mean(one.after_guard for one in verdicts) or 0.0,
        quoted=mean(one.quoted for one in verdicts) or 0.0,
        looping=mean(one.looping for one in verdicts) or 0.0,
        spoken=mean(one.spoken for one in verdicts),
        characters=mean(one.characters for one in verdicts),
    )
