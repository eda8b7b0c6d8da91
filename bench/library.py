"""Knowledge bases of any size, made of the shipped one's sentences put together anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.dense import DenseIndex
from core.embedding import unit
from core.index import Index, Recipe
from core.knowledge import Chunk, sentences
from core.lexical import LexicalIndex

SENTENCES = 3
# What is added to the lexical index at a time: all terms of a large library fill the memory.
_BATCH = 10_000


@dataclass(frozen=True)
class Grown:
    """An index, and the terms of each of its passages as a list, for other search engines."""

    index: Index
    tokens: list[list[str]]


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    terms: Counter[str]


def grown(recipe: Recipe, chunks: Sequence[Chunk], size: int) -> Grown:
    """A library of `size` passages, each with the title of one chunk and sentences of others.

    Terms and vectors of a passage are the sums of its sentences': the same numbers of them as
    if it had been analysed, in a fraction of the time.
    """
    pool = [
        _Sentence(text, Counter(recipe.analyzer.passage("", text)))
        for chunk in chunks
        for text in sentences(chunk.text)
    ]
    titles = [Counter(recipe.analyzer.passage(chunk.title, "")) for chunk in chunks]
    random = np.random.default_rng(0)
    picks = random.integers(0, len(pool), (size, SENTENCES))
    heads = random.integers(0, len(chunks), size)
    lexical, tokens = LexicalIndex.empty(), []
    for start in range(0, size, _BATCH):
        terms = [
            _sum([titles[head], *(pool[place].terms for place in row)])
            for head, row in zip(
                heads[start : start + _BATCH], picks[start : start + _BATCH], strict=True
            )
        ]
        lexical = lexical.with_passages(terms)
        tokens += [list(one) for one in terms]
    passages = tuple(
        _chunk(number, chunks[head], [pool[place].text for place in row])
        for number, (head, row) in enumerate(zip(heads, picks, strict=True))
    )
    keys = np.arange(size, dtype=np.int64)
    index = Index(recipe, passages, ("",) * size, keys, lexical, _dense(recipe, pool, picks, keys))
    return Grown(index, tokens)


def _sum(parts: Sequence[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def _chunk(number: int, like: Chunk, texts: Sequence[str]) -> Chunk:
    return Chunk(f"p{number}", like.title, " ".join(texts), like.source, like.topic, like.lang)


def _dense(
    recipe: Recipe,
    pool: Sequence[_Sentence],
    picks: NDArray[np.int64],
    keys: NDArray[np.int64],
) -> DenseIndex | None:
    if recipe.embedder is None:
        return None
    vectors = recipe.embedder.encode_documents([one.text for one in pool])
    return DenseIndex.build(keys, unit(vectors[picks].sum(axis=1)), recipe.device)
