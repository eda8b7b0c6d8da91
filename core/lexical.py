"""BM25 over an inverted index in numpy arrays that grows and shrinks without being rebuilt.

An index is immutable: `with_passages` and `without_rows` return a new one, so that a search which
is under way keeps the one it started with. Scores follow Robertson and Zaragoza, "The
Probabilistic Relevance Framework: BM25 and Beyond" (2009), with Lucene's never-negative inverse
document frequency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Bm25:
    """How fast repeated terms saturate (`k1`) and how much long passages pay (`b`)."""

    k1: float = 1.2
    b: float = 0.75


@dataclass(frozen=True, slots=True)
class Match:
    """How well each passage meets a question: arrays with one float a passage.

    `scores` is BM25, 0 where no term is shared; `covered` the summed worth (weight times inverse
    document frequency) of the question's terms that occur; `ideal` the worth of all its terms.
    `central` is 1 where the question holds the commonest word of the passages, 0 where no word of
    theirs: how much it is about what they are about.
    """

    scores: Floats
    covered: Floats
    ideal: float
    central: float


@dataclass(frozen=True)
class LexicalIndex:
    """Postings sorted by term: those of term t are at `starts[t]:starts[t + 1]`.

    `rows` says in which passage a posting is, `counts` how often; `lengths` is one float a passage.
    """

    vocabulary: Mapping[str, int]
    starts: NDArray[np.int64]
    rows: Integers
    counts: Floats
    lengths: Floats
    bm25: Bm25 = Bm25()

    @classmethod
    def empty(cls, bm25: Bm25 | None = None) -> LexicalIndex:
        """An index of nothing."""
        return cls(
            {},
            np.zeros(1, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.float32),
            np.zeros(0, np.float32),
            bm25 or Bm25(),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def scores(self, question: Mapping[str, float]) -> Match:
        """Score every passage for a question (term -> weight)."""
        known = {n: w for term, w in question.items() if (n := self.vocabulary.get(term, -1)) >= 0}
        unknown = sum(question.values()) - sum(known.values())
        terms = np.fromiter(known, np.int64, len(known))
        worths = np.fromiter(known.values(), np.float32, len(known)) * self._idf[terms]
        postings = [slice(self.starts[term], self.starts[term + 1]) for term in terms]
        rows = np.concatenate([self.rows[:0], *(self.rows[part] for part in postings)])
        impacts = np.concatenate([self._impacts[:0], *(self._impacts[part] for part in postings)])
        worth = np.repeat(worths, [part.stop - part.start for part in postings])
        scores = np.bincount(rows, worth * impacts, len(self)).astype(np.float32)
        covered = np.bincount(rows, worth, len(self)).astype(np.float32)
        ideal = float(worths.sum()) + unknown * float(_idf(len(self), 0))
        central = float(self._shares[terms].max(initial=0.0))
        return Match(scores, covered, ideal, central)

    def in_more_than(self, most: float, terms: Iterable[str]) -> bool:
        """Whether more than `most` passages hold all of these terms; False for no terms."""
        numbers = [self.vocabulary.get(term, -1) for term in terms]
        if not numbers or min(numbers) < 0:
            return False
        rows = [self.rows[self.starts[number] : self.starts[number + 1]] for number in numbers]
        # Most questions have a word that few passages hold.
        return len(min(rows, key=len)) > most and len(reduce(np.intersect1d, rows)) > most

    def with_passages(self, passages: Sequence[Mapping[str, float]]) -> LexicalIndex:
        """This index and, in the rows after its last, `passages` (term -> count)."""
        vocabulary = dict(self.vocabulary)
        terms, rows, counts = _flatten(passages, vocabulary, first_row=len(self))
        order = np.argsort(terms, kind="stable")
        added = np.bincount(terms, minlength=len(vocabulary))
        old = np.zeros(len(vocabulary), np.int64)
        old[: len(self.vocabulary)] = np.diff(self.starts)
        starts = _starts(old + added)
        # Behind the old postings of its term each new one finds its place.
        old_at = _places(old, starts[:-1])
        new_at = _places(added, starts[:-1] + old)
        return LexicalIndex(
            vocabulary,
            starts,
            _merged(self.rows, old_at, rows[order], new_at),
            _merged(self.counts, old_at, counts[order], new_at),
            np.concatenate([self.lengths, _lengths(passages)]),
            self.bm25,
        )

    def without_rows(self, gone: Iterable[int]) -> LexicalIndex:
        """This index less some rows; the rows behind them move up."""
        kept = np.ones(len(self), bool)
        kept[list(gone)] = False
        alive = kept[self.rows]
        terms = np.repeat(np.arange(len(self.vocabulary)), np.diff(self.starts))[alive]
        moved = (np.cumsum(kept) - 1).astype(np.int32)
        return LexicalIndex(
            self.vocabulary,
            _starts(np.bincount(terms, minlength=len(self.vocabulary))),
            moved[self.rows[alive]],
            self.counts[alive],
            self.lengths[kept],
            self.bm25,
        )

    @cached_property
    def _shares(self) -> Floats:
        """A term's document frequency over the highest of its script; 0 for parts of words."""
        frequencies = np.diff(self.starts).astype(np.float32)
        terms = list(self.vocabulary)
        whole = np.array([term[0] not in "@~" for term in terms], bool)
        latin = np.array([term.isascii() for term in terms], bool)
        shares = np.zeros(len(terms), np.float32)
        for script in (whole & latin, whole & ~latin):
            shares[script] = frequencies[script] / max(1.0, frequencies[script].max(initial=0))
        return shares

    @cached_property
    def _idf(self) -> Floats:
        return np.asarray(_idf(len(self), np.diff(self.starts)), np.float32)

    @cached_property
    def _impacts(self) -> Floats:
        """Each posting's share of its term's score: the saturated count."""
        k1, b = self.bm25.k1, self.bm25.b
        average = float(self.lengths.mean()) if len(self) else 1.0
        norms = k1 * (1 - b + b * self.lengths / max(average, 1e-9))
        return (self.counts / (self.counts + norms[self.rows])).astype(np.float32)


def _idf(passages: int, holding: int | NDArray[np.int64]) -> Any:
    return np.log1p((passages - holding + 0.5) / (holding + 0.5))


def _flatten(
    passages: Sequence[Mapping[str, float]], vocabulary: dict[str, int], first_row: int
) -> tuple[NDArray[np.int64], Integers, Floats]:
    """Term number, row and count of every posting; new terms are added to `vocabulary`."""
    terms = [vocabulary.setdefault(term, len(vocabulary)) for one in passages for term in one]
    sizes = [len(one) for one in passages]
    rows = np.repeat(np.arange(first_row, first_row + len(passages), dtype=np.int32), sizes)
    counts = np.fromiter((count for one in passages for count in one.values()), np.float32)
    return np.asarray(terms, np.int64), rows, counts


def _lengths(passages: Sequence[Mapping[str, float]]) -> Floats:
    return np.asarray([sum(one.values()) for one in passages], np.float32)


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _places(sizes: NDArray[np.int64], firsts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a sorted list of postings goes when term t's begin at `firsts[t]`."""
    return np.repeat(firsts - _starts(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))


def _merged(
    old: NDArray[Any], old_at: NDArray[np.int64], new: NDArray[Any], new_at: NDArray[np.int64]
) -> NDArray[Any]:
    merged = np.empty(len(old) + len(new), old.dtype)
    merged[old_at] = old
    merged[new_at] = new
    return merged
