"""Held-out questions -> the cases that models are compared on, the same ones every time.

Three kinds come from `data/eval/`: other phrasings for entries that were trained on, phrasings for
entries that no training ever saw, and questions that the passages at hand do not answer. A fourth,
the held-out preference pairs, brings its own prompts.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from core.errors import DataError
from core.messages import ChatMessage, Language, Passage
from core.prompt import Budget, build_prompt
from core.retrieval_eval import Question, load_questions
from training.material import Entry, load_entries, load_material
from training.rows import PairRow, question_in
from training.sft_rows import framed_answer

RETRIEVAL = Path("eval") / "retrieval.jsonl"
UNANSWERABLE = Path("eval") / "unanswerable.jsonl"
KNOWLEDGE = Path("knowledge_base.json")

_DOCUMENT = re.compile(r"^<doc \d+ ([^\n]*)>\n(.*?)\n</doc>$", re.DOTALL | re.MULTILINE)
_LANGUAGES: tuple[Language, ...] = ("zh", "en")

Find = Callable[[str], Awaitable[Sequence[Passage]]]
"""Ranks passages for a question, the best first, and more of them than a prompt takes."""

T = TypeVar("T")


class Kind(StrEnum):
    """What a case asks of a model."""

    TRAINED = "trained"
    UNSEEN = "unseen"
    UNANSWERABLE = "unanswerable"
    TAKEN_OUT = "taken out"
    PAIRS = "pairs"


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt, and what a good answer to it says.

    `right` is the entry that answers; None where the passages hold no answer, so that a refusal
    is right.
    """

    kind: Kind
    lang: Language
    question: str
    passages: tuple[Passage, ...]
    prompt: tuple[ChatMessage, ...]
    right: Entry | None = None
    reference: str = ""

    @property
    def group(self) -> str:
        """The kind and language, as the tables call them."""
        return f"{self.kind} {self.lang}"


@dataclass(frozen=True, slots=True)
class SetOptions:
    """How prompts are made, and how many: `limit` a group, 0 for all there are."""

    top_k: int
    budget: Budget
    limit: int = 60


async def load_cases(data: Path, find: Find, options: SetOptions) -> list[Case]:
    """Every kind of case from `data/eval/`, grouped by kind and language.

    Passages are the first `top_k` that `find` returns; where the right entry is not among those
    that the budget lets the model see, it takes the place of the last. For a question whose entry
    is taken out they are the others that `find` returns. Raises `DataError` for bad files.
    """
    entries = load_entries(data / KNOWLEDGE)
    trained = load_material(data).entries
    held_out = load_questions(data / RETRIEVAL)
    maker = _Maker(entries, find, options)
    kinds = (
        (Kind.TRAINED, [one for one in held_out if one.entry in trained], maker.answerable),
        (Kind.UNSEEN, [one for one in held_out if one.entry not in trained], maker.answerable),
        (Kind.UNANSWERABLE, load_questions(data / UNANSWERABLE), maker.refusable),
        (Kind.TAKEN_OUT, held_out, maker.refusable),
    )
    return [
        await make(kind, question)
        for kind, questions, make in kinds
        for lang in _LANGUAGES
        for question in spread(_of(questions, lang), options.limit)
    ]


def pair_cases(data: Path, pairs: Sequence[PairRow], limit: int) -> list[Case]:
    """Cases from the pairs' own prompts, `limit` a language; their reference is what was chosen."""
    entries = load_entries(data / KNOWLEDGE)
    return [
        _pair_case(pair, entries)
        for lang in _LANGUAGES
        for pair in spread([one for one in pairs if one.lang == lang], limit)
    ]


def spread(items: Sequence[T], limit: int) -> list[T]:
    """`limit` of the items, evenly from the first to the last; all of them for 0."""
    if not 0 < limit < len(items):
        return list(items)
    return [items[place * len(items) // limit] for place in range(limit)]


@dataclass(frozen=True, slots=True)
class _Maker:
    entries: Mapping[str, Entry]
    find: Find
    options: SetOptions

    async def answerable(self, kind: Kind, question: Question) -> Case:
        entry = _known(self.entries, question.entry, question.text)
        found = await self.find(question.text)
        passages, prompt = self._read(question.text, entry.lang, found, entry.passage())
        reference = framed_answer(entry.title, entry.text, entry.lang)
        return Case(kind, entry.lang, question.text, passages, prompt, entry, reference)

    async def refusable(self, kind: Kind, question: Question) -> Case:
        assert question.lang is not None
        found = await self.find(question.text)
        others = [one for one in found if _stem(one.id) != _stem(question.entry)]
        passages, prompt = self._read(question.text, question.lang, others, None)
        return Case(kind, question.lang, question.text, passages, prompt)

    def _read(
        self, text: str, lang: Language, found: Sequence[Passage], right: Passage | None
    ) -> tuple[tuple[Passage, ...], tuple[ChatMessage, ...]]:
        """The first passages that fit, `right` among them, and the prompt that they make."""
        for count in range(self.options.top_k, 0, -1):
            passages = tuple(found[:count])
            if right is not None and right.id not in {one.id for one in passages}:
                passages = (*passages[: count - 1], right)
            prompt = build_prompt(text, language=lang, passages=passages)
            budget = self.options.budget
            if prompt == build_prompt(text, language=lang, passages=passages, budget=budget):
                break
        return passages, prompt


def _of(questions: Sequence[Question], lang: Language) -> list[Question]:
    """Those of a language, style by style: spread evenly, each style keeps its share."""
    return sorted((one for one in questions if one.lang == lang), key=lambda one: one.group)


def _pair_case(pair: PairRow, entries: Mapping[str, Entry]) -> Case:
    history = [
        message
        for asked, answered in pair.history
        for message in (ChatMessage("user", asked), ChatMessage("assistant", answered))
    ]
    prompt = (ChatMessage("system", pair.system), *history, ChatMessage("user", pair.prompt))
    return Case(
        Kind.PAIRS,
        pair.lang,
        question_in(pair.prompt),
        tuple(_passages(pair.prompt, entries)),
        prompt,
        _known(entries, pair.entry, pair.prompt),
        pair.chosen,
    )


def _passages(prompt: str, entries: Mapping[str, Entry]) -> Iterator[Passage]:
    """The documents in a prompt; those of the knowledge base are known again by their text."""
    by_text = {entry.text: entry.passage() for entry in entries.values()}
    for title, text in _DOCUMENT.findall(prompt):
        yield by_text.get(text) or Passage("", title, text, "", "", "")


def _known(entries: Mapping[str, Entry], name: str, asked: str) -> Entry:
    if name not in entries:
        raise DataError(f"{asked!r} is about {name!r}, which {KNOWLEDGE} lacks. Mend one of them.")
    return entries[name]


def _stem(name: str) -> str:
    """What an entry's chunks and its twin in the other language share."""
    return name.partition("#")[0].removesuffix(".en")
