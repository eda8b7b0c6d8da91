"""Texts that are the same, or nearly: what normalising and shingles say about a pair."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

# Two texts are nearly the same where they share this part of their three-character shingles.
NEAR = 0.7
# Beyond this part of shared shingles two answers differ in nothing that anybody would see.
TOO_ALIKE = 0.9
_SHINGLE = 3
_NOT = re.compile(
    r"不(?!错|过|同|仅|但|妨|少|管)|没(?!错)|勿|别(?!的|人)|无法|\b(?:not|never|no|cannot)\b|n['’]t\b",
    re.I,
)
_FIGURE = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts by their place in the list, `first` < `second`; `overlap` is Jaccard's, 0 to 1."""

    first: int
    second: int
    overlap: float


def normalised(text: str) -> str:
    """Letters and digits only, in one width and case: what is left when punctuation is ignored."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isalnum())


def shingles(text: str) -> frozenset[str]:
    """Every three neighbouring characters of the normalised text; a shorter text is one shingle."""
    plain = normalised(text)
    return frozenset(
        plain[start : start + _SHINGLE] for start in range(max(1, len(plain) - _SHINGLE + 1))
    )


def near_pairs(texts: Sequence[str], near: float = NEAR) -> list[Pair]:
    """Pairs that share at least `near` of their shingles, equal ones included, in order.

    Texts that differ in a figure are different texts: "24 cm" and "25 cm" ask for two answers.
    No pair is missed: two sets that overlap so much share one of their rarest shingles (prefix
    filtering, Chaudhuri et al., "A Primitive Operator for Similarity Joins", 2006).
    """
    parts = [shingles(text) for text in texts]
    figures = [_FIGURE.findall(text) for text in texts]
    frequency = Counter(part for one in parts for part in one)
    holders: defaultdict[str, list[int]] = defaultdict(list)
    found = []
    for second, part in enumerate(parts):
        rarest = sorted(part, key=lambda one: (frequency[one], one))
        prefix = rarest[: len(rarest) - ceil(near * len(rarest)) + 1]
        for first in sorted({holder for one in prefix for holder in holders[one]}):
            if figures[first] != figures[second]:
                continue
            overlap = len(parts[first] & part) / len(parts[first] | part)
            if overlap >= near:
                found.append(Pair(first, second, overlap))
        for one in prefix:
            holders[one].append(second)
    return found


def alike(one: str, other: str, share: float) -> bool:
    """Whether two texts share so much of their shingles, and all their figures."""
    return bool(near_pairs((one, other), share))


def says_the_same(one: str, other: str) -> bool:
    """Whether two answers differ in nothing that matters: no word, no figure, no "not"."""
    if normalised(one) == normalised(other):
        return True
    return alike(one, other, TOO_ALIKE) and denies(one) == denies(other)


def denies(text: str) -> bool:
    """Whether a text denies more often than not: a "not" more or less turns its sense around."""
    return len(_NOT.findall(text)) % 2 == 1
