"""Searching knowledge bases of growing size; `bm25s` shows what the terms themselves cost."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

import bm25s

from bench.expert import Expert
from bench.figures import Figure, median
from bench.library import grown
from core.index import Index
from core.retrieval import Query, Retriever, question_terms

PART = "search"


@dataclass
class _Library:
    """One size: three ways to search it, and the seconds that each question took."""

    index: Index
    lexical: Retriever
    fused: Retriever
    reference: Any
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, expert: Expert, size: int) -> _Library:
        library = grown(expert.recipe, expert.index.chunks, size)
        index = library.index
        without_vectors = replace(index, recipe=replace(index.recipe, embedder=None), dense=None)
        # It talks at debug level, whatever the root logger says.
        logging.getLogger("bm25s").setLevel(logging.ERROR)
        reference = bm25s.BM25(k1=1.2, b=0.75)
        reference.index(library.tokens, show_progress=False)
        return cls(index, expert.retriever(without_vectors), expert.retriever(index), reference)

    async def ask(self, text: str) -> None:
        """Search in every way."""
        query = Query(text)
        started = time.perf_counter()
        await self.lexical.search(query)
        self._note("lexical", started)
        started = time.perf_counter()
        await self.fused.search(query)
        self._note("fused", started)
        terms = question_terms(self.index.recipe.analyzer, query)
        known = [term for term in terms if term in self.index.lexical.vocabulary]
        started = time.perf_counter()
        self.index.lexical.scores(terms)
        self._note("scores", started)
        started = time.perf_counter()
        self.reference.get_scores(known)
        self._note("reference", started)

    def median(self, way: str) -> float:
        """Seconds, without the first question."""
        return median(self.seconds[way][1:])

    def _note(self, way: str, started: float) -> None:
        self.seconds.setdefault(way, []).append(time.perf_counter() - started)


async def measure(expert: Expert) -> list[Figure]:
    """Milliseconds at the smallest size, and what the larger ones take of that."""
    libraries = {size: _Library.of(expert, size) for size in expert.effort.sizes}
    for question in expert.some_questions(expert.effort.searches + 1):
        for library in libraries.values():
            await library.ask(question)
    first, *larger = libraries
    figures = []
    for way in ("lexical", "fused"):
        base = libraries[first].median(way)
        figures.append(Figure(PART, f"{way}, {first:,} passages, p50", 1000 * base, "ms"))
        figures += [
            Figure(PART, f"{way}, {size:,} / {first:,}", libraries[size].median(way) / base, "×")
            for size in larger
        ]
    return figures + [
        Figure(
            PART,
            f"lexical scores / bm25s on the same terms, {size:,}",
            library.median("scores") / library.median("reference"),
            "×",
        )
        for size, library in libraries.items()
    ]
