"""Does a model that copies slip? What it says differs from what it copies, where it must not.

A small model loses a character, says one twice, or writes one for another: 鞋垫一风 for 鞋垫通风,
"Doon't". Or it jumps, and gives one figure to what another is of: "6 is 39.5 and 40.5" where 7 is
40.5. The sentence shares nearly all of its words with the passage, and nothing else is wrong with
it. So it is laid beside the sentence that it retells, both in spoken words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise

from core.knowledge import sentences
from core.manner import in_talk

_TOKEN = re.compile(r"[\u3400-\u9fff]|[a-z0-9]+(?:[.,][0-9]+)*|'")
_HAN = re.compile(r"[\u3400-\u9fff]")
_FIGURE = re.compile(r"\d")
_DENIALS = frozenset("不别没勿无") | {"not", "no", "never"}
# "Don't" and "do not" are the same words.
_SHORT_FORMS = (
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\bcan't\b"), "can not"),
    (re.compile(r"\bcannot\b"), "can not"),
    (re.compile(r"(?<=\w)n't\b"), " not"),
    (re.compile(r"(?<=\w)'re\b"), " are"),
    (re.compile(r"(?<=\b(?:it|he))'s\b|(?<=\b(?:that|what))'s\b|(?<=\bthere)'s\b"), " is"),
)
# "麂皮嘛，就是…" says what "麂皮是…" says.
_INTRODUCED = re.compile(r"[嘛啊]?，就是|^就是")
# From this share of a sentence's words on it is a copy of another.
_COPY = 0.7
# A slip is at most so long, in English words and in Chinese characters, what is lost shorter; and
# it has so much of the copy on both sides.
_LONGEST, _LOST = {False: 2, True: 4}, {False: 0, True: 2}
_AROUND = {False: 2, True: 3}


@dataclass(frozen=True, slots=True)
class Originals:
    """The sentences of passages, each as the words that it consists of."""

    sentences: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, passages: Sequence[str]) -> Originals:
        """Of whole passages; a title on a line of its own is a sentence, too."""
        return cls(tuple(words for text in passages for words in _sentences_of(text)))

    def slip(self, sentence: str) -> str | None:
        """The first words that a near copy has otherwise than its original; None for no slip.

        A sentence with a figure is a near copy or a slip: nothing else says what the figure is of.
        """
        said = _words(sentence)
        original = max(self.sentences, key=lambda one: _shared(said, one), default=())
        figures = [word for word in said if _FIGURE.search(word)]
        if not said or _shared(said, original) < _COPY * len(said):
            return figures[0] if figures and self.sentences else None
        for gap in _gaps(original, said):
            if gap.is_slip:
                return "".join(gap.here) or "".join(gap.there)
        return None


@dataclass(frozen=True, slots=True)
class _Gap:
    """What stands `here` and `there` between two copied runs of `before` and `after` words.

    None where the sentence begins or ends there.
    """

    here: Sequence[str]
    there: Sequence[str]
    before: int | None
    after: int | None

    @property
    def is_slip(self) -> bool:
        """Whether it brings a figure, loses one on the way, or is short and closely surrounded."""
        if any(_FIGURE.search(word) for word in self.here):
            return True
        inside = self.before is not None and self.after is not None
        if inside and any(_FIGURE.search(word) for word in self.there):
            return True
        # Nor is it said with a "not" what the original says without one.
        if inside and _denies(self.here) != _denies(self.there):
            return True
        han = any(_HAN.match(word) for word in (*self.here, *self.there))
        around = (size for size in (self.before, self.after) if size is not None)
        if any(size < _AROUND[han] for size in around):
            return False
        # Talk begins and ends in words of its own, and a clause that is left out is no slip.
        if self.after is None or (self.before is None and not (self.here and self.there)):
            return False
        longest = _LONGEST if self.here else _LOST
        return max(len(self.here), len(self.there)) <= longest[han]


def _denies(words: Sequence[str]) -> bool:
    return not _DENIALS.isdisjoint(words)


def _gaps(original: Sequence[str], said: Sequence[str]) -> Iterator[_Gap]:
    """Where a copy differs from its original."""
    matched = SequenceMatcher(None, original, said, autojunk=False).get_matching_blocks()
    first = matched[0]
    if first.a or first.b:
        yield _Gap(said[: first.b], original[: first.a], None, first.size or None)
    for one, following in pairwise(matched):
        here = said[one.b + one.size : following.b]
        there = original[one.a + one.size : following.a]
        if here or there:
            yield _Gap(here, there, one.size, following.size or None)


@lru_cache(maxsize=4096)
def _sentences_of(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(_words(sentence) for sentence in sentences(text))


def _shared(said: Sequence[str], original: Sequence[str]) -> int:
    held = set(original)
    return sum(word in held for word in said)


def _words(text: str) -> tuple[str, ...]:
    if _HAN.search(text):
        text = _INTRODUCED.sub("是", in_talk(text, "zh"))
    text = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    if not _HAN.search(text):
        text = in_talk(text, "en")
        for short, long in _SHORT_FORMS:
            text = short.sub(long, text)
    return tuple(_TOKEN.findall(text))
