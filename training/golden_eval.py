"""The golden set: fixed questions through the whole engine, each with what its answer must hold."""

from __future__ import annotations

import asyncio
import io
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from core.engine import Engine
from core.grounding import is_refusal
from core.messages import (
    Done,
    ImageTag,
    Outcome,
    Platform,
    Reply,
    Turn,
    UserMessage,
)
from core.opening import engine_options, open_retriever
from core.settings import Settings
from core.store import Store
from core.tags import COLOUR, TagGroup
from core.vision import SURE, Vision
from training.eval_sets import spread
from training.evaluate import EXAMPLES, Example, Speed, Watch, at_once, mean
from training.lineup import Label, Lineup, Served
from training.material import Entry
from training.rows import GoldenRow
from training.scores import bleu_4, rouge_l
from training.sft_rows import framed_answer

EngineOf = Callable[[Served, Vision], Engine]
"""Makes an engine that asks this model and sees with these eyes."""

_DIGITS = str.maketrans("０１２３４５６７８９\u3000", "0123456789 ")
# White space beside anything but a Latin letter says nothing: 42 码 is 42码, 25 mm is 25mm.
_IDLE_SPACE = re.compile(r"(?<![a-z])\s+|\s+(?![a-z])")


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer of the whole engine to a row, and what is wrong with it."""

    row: GoldenRow
    reply: Reply
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def by_model(self) -> bool:
        """Whether the text is the model's own, neither a quote nor said by hand."""
        return self.reply.outcome is Outcome.ANSWERED and bool(self.reply.adapter)


@dataclass(frozen=True, slots=True)
class Share:
    """Shares of a kind's or a language's rows: those passed, and those the model answered."""

    name: str
    n: int
    passed: float
    by_model: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that did not pass."""

    id: str
    kind: str
    question: str
    outcome: str
    answer: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Golden:
    """A model's result; BLEU-4 and ROUGE-L are of the rows with an entry, against that entry.

    `characters` is the mean length of the answers that are the model's own; `speed` is of the
    whole engine, several questions at a time.
    """

    label: Label
    model: str
    overall: Share
    bleu_4: float | None
    rouge_l: float | None
    characters: float | None
    kinds: tuple[Share, ...]
    languages: tuple[Share, ...]
    speed: Speed
    examples: tuple[Example, ...]
    failures: tuple[Failure, ...]

    def to_json(self) -> dict[str, Any]:
        """The overall shares and the speed beside each other, the others below."""
        found = asdict(self)
        del found["label"], found["overall"], found["speed"]
        return {**asdict(self.overall), **asdict(self.speed), **found}


@asynccontextmanager
async def open_engines(settings: Settings) -> AsyncIterator[EngineOf]:
    """Engines as the settings make them, at temperature 0, on a store that is thrown away."""
    _, retriever = await open_retriever(settings)
    options = engine_options(settings)
    options = replace(options, sampling=replace(options.sampling, temperature=0.0))
    with TemporaryDirectory() as folder:
        async with Store(f"sqlite:///{folder}/golden.db") as store:

            def engine_of(served: Served, eyes: Vision) -> Engine:
                async def choose(_user_id: str) -> str:
                    return served.name

                return Engine(
                    store=store,
                    retriever=retriever,
                    vision=eyes,
                    model=served.chat,
                    choose_adapter=choose,
                    options=replace(options, base_model=served.name),
                )

            yield engine_of


async def measure_golden(
    lineup: Lineup,
    labels: Sequence[Label],
    rows: Sequence[GoldenRow],
    entries: Mapping[str, Entry],
    groups: Sequence[TagGroup],
    engine_of: EngineOf,
    watch: Watch,
) -> list[Golden]:
    """Put every row to the engine with each of these models, one model after the other.

    Photos are not looked at: a row names its own tags, of these groups.
    """
    results = []
    async with aclosing(lineup.models(labels)) as models:
        async for served in models:
            check = partial(_check, served, groups, engine_of)
            started = time.perf_counter()
            checked = await at_once(rows, check, partial(watch, served.label, len(rows)))
            seconds = time.perf_counter() - started
            results.append(await asyncio.to_thread(_golden, served, checked, entries, seconds))
    return results


def problems_with(row: GoldenRow, reply: Reply) -> tuple[str, ...]:
    """What is wrong with an answer; nothing where it is as it must be."""
    text = reply.text
    lacking = [
        f"lacks {' / '.join(alternatives)}"
        for alternatives in row.must
        if not any(says(text, one) for one in alternatives)
    ]
    forbidden = [f"holds {one!r}" for one in row.must_not if says(text, one)]
    refused = reply.outcome is Outcome.REFUSED or is_refusal(reply.text)
    talking = ["is no refusal"] if row.kind == "refusal" and not refused else []
    return (*lacking, *forbidden, *talking)


def says(text: str, words: str) -> bool:
    """Whether the words occur in a text, whatever the capitals, full-width digits and spaces.

    A number is a whole one: 13 cm does not say 3 cm. Words with white space at an end mean it.
    """
    folded = _folded if words != words.strip() else _tight
    start = r"(?<!\d)(?<!\d\.)" if words[:1].isdecimal() else ""
    end = r"(?!\.?\d)" if words[-1:].isdecimal() else ""
    return bool(re.search(f"{start}{re.escape(folded(words))}{end}", folded(text)))


def _tight(text: str) -> str:
    return _IDLE_SPACE.sub("", _folded(text))


def _folded(text: str) -> str:
    return re.sub(r"\s+", " ", text.translate(_DIGITS)).casefold()


@dataclass(frozen=True, slots=True)
class _Told:
    """Eyes that see what a row says, in whatever photo they are shown."""

    groups: Sequence[TagGroup]
    row: GoldenRow

    @property
    def colours_only(self) -> bool:
        return False

    async def tags(self, photo: Image.Image) -> tuple[ImageTag, ...]:
        return tuple(
            ImageTag(one.name, one.phrase, self._group(one.name), one.score, one.score >= SURE)
            for one in self.row.tags
        )

    def _group(self, name: str) -> str:
        known = {tag.name: tag.group for group in self.groups for tag in group.tags}
        return known.get(name, COLOUR)


async def _check(
    served: Served, groups: Sequence[TagGroup], engine_of: EngineOf, row: GoldenRow
) -> Checked:
    engine = engine_of(served, _Told(groups, row))
    message = UserMessage(
        id=uuid.uuid4().hex,
        platform=Platform.API,
        conversation_id=uuid.uuid4().hex,
        user_id="golden",
        text=row.question,
        images=(_grey_photo(),) if row.tags else (),
    )
    reply: Reply | None = None
    async with aclosing(engine.answer(message, history=_turns(row))) as events:
        async for event in events:
            if isinstance(event, Done):
                reply = event.reply
    assert reply is not None
    return Checked(row, reply, problems_with(row, reply))


def _turns(row: GoldenRow) -> list[Turn]:
    """The rounds of a row's history, as the store would have kept them."""
    return [
        Turn(
            reply=Reply("", "", answer.content, Outcome.ANSWERED, row.lang),
            message_id="",
            user_id="golden",
            platform=Platform.API,
            question=question.content,
            query=question.content,
            prompt=(),
            passages=(),
            sampling={},
            asked_at=time.time(),
        )
        for question, answer in zip(row.history[::2], row.history[1::2], strict=True)
    ]


def _grey_photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()


def _golden(
    served: Served, checked: Sequence[Checked], entries: Mapping[str, Entry], seconds: float
) -> Golden:
    pairs = [
        (one.reply.text, framed_answer(entry.title, entry.text, entry.lang))
        for one in checked
        if (entry := entries.get(one.row.entry or ""))
    ]
    examples = spread(checked, EXAMPLES)
    return Golden(
        label=served.label,
        model=served.name,
        overall=_share("all", checked),
        bleu_4=mean(bleu_4(*pair) for pair in pairs),
        rouge_l=mean(rouge_l(*pair) for pair in pairs),
        characters=mean(len(one.reply.text) for one in checked if one.by_model),
        kinds=_shares(checked, lambda row: row.kind),
        languages=_shares(checked, lambda row: row.lang),
        # Where no model was asked, no first token was waited for.
        speed=Speed.of([one.reply.timings.first_token or None for one in checked], seconds),
        examples=tuple(Example(one.row.question, one.reply.text) for one in examples),
        failures=tuple(_failure(one) for one in checked if not one.passed),
    )


def _shares(checked: Sequence[Checked], key: Callable[[GoldenRow], str]) -> tuple[Share, ...]:
    names = dict.fromkeys(key(one.row) for one in checked)
    return tuple(_share(name, (one for one in checked if key(one.row) == name)) for name in names)


def _share(name: str, checked: Iterable[Checked]) -> Share:
    members = list(checked)
    return Share(
        name,
        len(members),
        mean(one.passed for one in members) or 0.0,
        mean(one.by_model for one in members) or 0.0,
    )


def _failure(one: Checked) -> Failure:
    row, reply = one.row, one.reply
    return Failure(row.id, row.kind, row.question, reply.outcome, reply.text, one.problems)
