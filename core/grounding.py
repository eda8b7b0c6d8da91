"""Does an answer stand on its passages? Which sentence stands on which?

Two questions asked of every answer: does it hold a number, size or name that its passages do not
(then the passage is quoted instead), and which passages did it really use (those are its sources).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_

from core.copying import Originals
from core.knowledge import sentences
from core.manner import in_talk, is_small_word
from core.messages import Passage
from core.polarity import Polarity
from core.quantities import DIGITS, ENGLISH_NUMBERS, UNITS, Quantity, holds, quantities

# A passage counts as used where it holds this part of a sentence's shingles, and nearly as much
# as the passage that holds most.
MIN_OVERLAP = 0.45
_NEARLY = 0.9
# A sentence of so many shingles is said where so large a share of them is.
_FEWEST, _WHOLE = 3, 0.7

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-+.'’][A-Za-z0-9]+)*")
_NAME_PART = re.compile(r"[-+.'’]")
_MARK = re.compile(r"[A-Z0-9]")
_HAN = re.compile(r"[\u3400-\u9fff]")
# Without one of these a text has no figures.
_COUNTED = re.compile(rf"[\d½半十{DIGITS}]|{'|'.join(ENGLISH_NUMBERS)}", re.IGNORECASE)
_SENTENCE_START = re.compile(r"[.!?:\n“\"]\s*")
_REFUSAL = re.compile(
    r"(资料|知识|文档)(里|中|库里|库中)?(都)?(并)?(没有|没提|未提|没写|找不到|不包含)"
    r"|我(也|还|真|暂时)?不(知道|清楚|了解)|^(抱歉，|对不起，)?不(知道|清楚|了解)[。！]?$"
    r"|(没有|未)(找到|查到)相关|无法回答"
    r"|\b(I|documents|notes|passages|sources) (do|did)(n['’]t| not) "
    r"(know|cover|say|mention|hold|contain|have)\b"
    r"|\bnot ((covered|mentioned|found) )?(in|by) (my|the) (documents|notes|passages)\b"
    r"|\bI (cannot|can['’]t) (answer|find)\b",
    re.IGNORECASE,
)

# From this support on a model copies: each sentence has its figures from one passage.
_COPIES = 0.5
# Fewer English words than this are the question's own, not a passage's.
_ENOUGH_WORDS = 15

# What comes after a title that an answer opens with: "About suede: …", "麂皮嘛，…".
_OPENED = re.compile(r"[嘛啊呢]?\s*[，：:]|, right:")
# An answer that opens in this way says a title there.
_NAMES_FIRST = re.compile(
    r"(?:哈喽|嗨|您好)，(?:说[到起]|关于)?[^，。：]{1,40}(?:[嘛啊]，|：)|(?:嗨，)?说起[^，。：]{1,40}，"
    r"|(?:So, |About )[^:]{1,80}: |[^:]{1,80}, right: "
)


@dataclass(frozen=True, slots=True)
class _Holdings:
    """What a text holds; `title` (casefolded) is its first line where it has more of them.

    `spoken` are its shingles in spoken words.
    """

    title: str
    quantities: frozenset[Quantity]
    names: frozenset[str]
    shingles: frozenset[str]
    spoken: frozenset[str]
    polarity: Polarity

    @classmethod
    def of(cls, text: str) -> _Holdings:
        title, _, rest = text.partition("\n")
        return cls(
            title.casefold() if rest else "",
            frozenset(quantities(text)),
            frozenset(_names(text)) | frozenset(_words(text)),
            frozenset(shingles(text)),
            frozenset(shingles(in_talk(text))),
            Polarity.of(text),
        )


# The same passages are found again and again; what people write is not kept.
_of_passage = lru_cache(maxsize=4096)(_Holdings.of)


@dataclass(frozen=True, slots=True)
class Ground:
    """Everything an answer may say: the passages, the question and the tags it was given."""

    quantities: frozenset[Quantity]
    names: frozenset[str]
    shingles: frozenset[str]
    min_support: float
    polarity: Polarity
    titles: dict[str, frozenset[str]]
    """The shingles of the passage that a title (casefolded) is of."""
    figures: tuple[frozenset[Quantity], ...]
    shares: tuple[frozenset[str], ...]
    """What each passage and the rest holds, figures and shingles, for a model that copies."""
    originals: Originals
    """What a model that copies copies from."""

    @classmethod
    def of(cls, passages: Iterable[str], min_support: float, *, also: Iterable[str] = ()) -> Ground:
        """The ground made of passages and of what `also` may be said: the question, the tags.

        A passage's first line is its title where it has more of them. A sentence of the answer must
        share `min_support` of its shingles with them: 0.3 only catches text from nowhere, since
        paraphrases stay well above it. What the passages deny may not be said, nor the contrary;
        questions deny nothing.
        """
        passages, copying = list(passages), copies(min_support)
        held, beside = [_of_passage(one) for one in passages], _Holdings.of("\n".join(also))
        known = [*held, beside]
        return cls(
            frozenset().union(*(one.quantities for one in known)),
            frozenset().union(*(one.names for one in known)),
            frozenset().union(*(one.shingles for one in known)),
            min_support,
            reduce(or_, (one.polarity for one in held), Polarity.of("")),
            {one.title: one.shingles for one in held if one.title},
            tuple(one.quantities | beside.quantities for one in held if copying),
            tuple(one.shingles | one.spoken | beside.shingles for one in held if copying),
            Originals.of(passages if copying else ()),
        )

    def unsupported(self, text: str, *, finished: bool = True, known: int = 0) -> str | None:
        """The first number, size, name or sentence of `text` that stands on nothing, or None.

        What the passages say the other way round stands on nothing, too. A last sentence that is
        not `finished` is only looked at for figures, names and denials; those that end within the
        first `known` characters are not looked at again.
        """
        if _COUNTED.search(text, known):
            for value, unit in quantities(text):
                if not holds(self.quantities, value, unit):
                    return value
        for name in self._strange_names(text, known):
            return name
        for word in self._strange_words(text, known, finished=finished):
            return word
        turned = self.polarity.turned(text, finished=finished, known=known)
        whole = sentences(text)
        ended = whole if finished else whole[:-1]
        if not (turned or ended) or is_refusal(text):
            return None
        if turned:
            return turned
        for sentence in ended:
            opened = self._opened(sentence)
            parts = shingles(opened[1] if opened and self.shares else sentence)
            figured = bool(self.shares and _COUNTED.search(sentence))
            if (len(parts) <= 4 and not figured) or not self._speaks_the_language_of(sentence):
                continue
            known = max((len(parts & one) for one in self.shares or (self.shingles,)), default=0)
            if known < self.min_support * len(parts):
                return sentence
            if self._is_of_another(sentence) or self._mixes_figures(sentence):
                return sentence
            if self.shares and (slip := self._slip(sentence)):
                return slip
        return None

    def _mixes_figures(self, sentence: str) -> bool:
        """Whether no passage holds all figures of the sentence: 27 cm of one, 260 of another."""
        wanted = quantities(sentence)
        return bool(self.figures) and not any(
            all(holds(known, *one) for one in wanted) for known in self.figures
        )

    def _slip(self, sentence: str) -> str | None:
        """What a copying model says otherwise than its passages: a title, or what comes after."""
        opened = self._opened(sentence)
        if opened is None and self.titles and (named := _NAMES_FIRST.match(sentence)):
            return named.group()
        return self.originals.slip(opened[1] if opened else sentence)

    def _opened(self, sentence: str) -> tuple[str, str] | None:
        """The passage's title (casefolded) that a sentence opens with, and what comes after it."""
        folded = sentence.casefold()
        opened = [
            (title, folded[match.end() :])
            for title in self.titles
            if (at := folded.find(title)) >= 0 and (match := _OPENED.match(folded, at + len(title)))
        ]
        return max(opened, key=lambda one: len(one[0]), default=None)

    def _is_of_another(self, sentence: str) -> bool:
        """Whether a sentence that opens with a passage's title goes on with another's words."""
        opened = self._opened(sentence)
        if opened is None:
            return False
        title, rest = opened
        parts = shingles(rest)
        shares = {one: len(parts & held) / max(1, len(parts)) for one, held in self.titles.items()}
        own = shares[title]
        return len(parts) > 4 and own < self.min_support <= max(shares.values())

    def _speaks_the_language_of(self, sentence: str) -> bool:
        """False for a translation: an English sentence over Chinese passages shares no word."""
        if _HAN.search(sentence):
            return any(_HAN.match(part) for part in self.shingles)
        return sum(part.isascii() for part in self.shingles) >= _ENOUGH_WORDS

    def _strange_names(self, text: str, known: int) -> Iterator[str]:
        """Latin words in Chinese text, and capitalised or digit-bearing words in English text.

        An English sentence's first word is capitalised anyway, so it only counts with a capital
        or digit further on, as in GORE-TEX.
        """
        chinese = bool(_HAN.search(text))
        if chinese and not _HAN.search(text, 0, known):
            # It has only now become Chinese.
            known = 0
        fresh = [match for match in _NAME.finditer(text) if match.end() > known]
        if not fresh:
            return
        starts = sentence_starts(text)
        for match in fresh:
            word = match.group()
            if text[: match.start()].rstrip()[-1:].isdigit() and word.casefold() in UNITS:
                continue
            inner = word[1:] if match.start() in starts else word
            named = chinese or _is_marked(inner)
            # Who copies a passage does not speak of itself.
            ours = ("I", "I'm") if self.shares else ("I", "I'm", "Solemate")
            if named and not self._knows_name(word) and word not in ours:
                yield word

    def _strange_words(self, text: str, known: int, *, finished: bool) -> Iterator[str]:
        """English words that a copying model has from nowhere: "strugle", "it't", "Gon'tec".

        Over a passage in another language every word is new. A last word that may still grow is
        left for later, and one that ended where `known` does is looked at now.
        """
        if not self.shares or _HAN.search(text) or not self._speaks_the_language_of(text):
            return
        for match in _NAME.finditer(text):
            ended = finished or match.end() < len(text)
            if ended and match.end() >= known and not self._knows_word(match.group().casefold()):
                yield match.group()

    def _knows_word(self, word: str) -> bool:
        """Whether a passage or the question has the word or all its parts, or it is a small one."""
        if is_small_word(word) or self._holds_word(word):
            return True
        owner, mark, rest = word.replace("’", "'").partition("'")
        if mark:
            return rest in ("s", "re", "ll", "") and self._holds_word(owner)
        parts = word.split("-")
        return len(parts) > 1 and all(is_small_word(one) or self._holds_word(one) for one in parts)

    def _holds_word(self, word: str) -> bool:
        return bool({word, f"{word}s", word.removesuffix("s")} & self.names)

    def _knows_name(self, word: str) -> bool:
        """Whether the word is known, or each part of it that could be a name: GORE-TEX-lined."""
        parts = [part for part in _NAME_PART.split(word) if _is_marked(part)] or [word]
        return any(
            all(name in self.names or name.removesuffix("s") in self.names for name in names)
            for names in ([word.casefold()], [part.casefold() for part in parts])
        )


def copies(min_support: float) -> bool:
    """Whether so much support is asked of a model that it is one that copies its passages."""
    return min_support >= _COPIES


def shingles(text: str) -> set[str]:
    """Pairs of neighbouring Han characters, and Latin words without their ending."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    runs = re.findall(r"[\u3400-\u9fff]+", folded)
    pairs = {run[i : i + 2] for run in runs for i in range(len(run) - 1)}
    return pairs | {word[:5] for word in _words(folded) if len(word) > 2}


def used_passages(answer: str, passages: Sequence[Passage]) -> list[Passage]:
    """The passages that the answer's sentences were taken from, in the order of first use."""
    parts = [(passage, shingles(f"{passage.title}\n{passage.text}")) for passage in passages]
    used: dict[str, Passage] = {}
    for sentence in sentences(answer):
        wanted = shingles(sentence)
        if not wanted:
            continue
        shares = [len(wanted & held) / len(wanted) for _, held in parts]
        best = max(shares, default=0.0)
        for (passage, _), share in zip(parts, shares, strict=True):
            if share >= MIN_OVERLAP and share >= best * _NEARLY:
                used.setdefault(passage.id, passage)
    return list(used.values())


def says_a_sentence(answer: str, passages: Sequence[Passage]) -> bool:
    """Whether at least one of the passages' sentences is said (nearly) whole."""
    said = shingles(answer)
    return any(
        len(parts) >= _FEWEST and len(parts & said) >= _WHOLE * len(parts)
        for passage in passages
        for sentence in sentences(passage.text)
        if (parts := shingles(sentence))
    )


def stands_on_one(answer: str, passages: Sequence[Passage]) -> bool:
    """Whether one passage has (nearly) as much of each sentence as any other has.

    What a model that copies takes from two passages is said of the wrong thing. Sentences that no
    passage has are left out; there must be others.
    """
    parts = [shingles(f"{passage.title}\n{passage.text}") for passage in passages]
    common: set[int] | None = None
    for sentence in sentences(answer):
        wanted = shingles(sentence)
        shares = [len(wanted & held) / max(1, len(wanted)) for held in parts]
        best = max(shares, default=0.0)
        if best >= MIN_OVERLAP:
            held_by = {place for place, share in enumerate(shares) if share >= best * _NEARLY}
            common = held_by if common is None else common & held_by
    return bool(common)


def sentence_starts(text: str) -> set[int]:
    return {len(text) - len(text.lstrip())} | {
        match.end() for match in _SENTENCE_START.finditer(text)
    }


def is_refusal(text: str) -> bool:
    """Whether a model's answer says that it does not know (and little else)."""
    return len(text) <= 200 and bool(_REFUSAL.search(text))


def _names(text: str) -> Iterator[str]:
    for match in _NAME.finditer(text):
        yield match.group().casefold()


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.casefold())


def _is_marked(word: str) -> bool:
    return bool(_MARK.search(word))
