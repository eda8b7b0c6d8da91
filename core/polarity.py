"""Does an answer deny what its passages say, or say what they deny?

A small model loses a 不 or says it twice, and the sentence still shares nearly every word with its
passage. So the places between words are compared: where the same words stand around one in the
passages, and a denial between them in only one of the two, the answer has been turned round.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

# "Is it or is it not" asks, and denies nothing: 是不是, 合不合脚.
_ASKED = re.compile(r"([\u3400-\u9fff])不(?=\1)")
_NO = "\u2205"
_DENIAL = re.compile(
    r"不太?|没有?|无(?=[法需须])|(?:请|切)?勿|切忌|避免"
    r"|(?<![差特分区级性类识个告离辨])别"
    r"|\b(?:not|never|cannot)\b|n['’]t\b"
)
_WORD = re.compile(rf"{_NO}|[\u3400-\u9fff]|[a-z0-9]+|[^\s\w]")
_SENTENCE_END = re.compile(r"[。！？.!?\n]")
# So many words make a place, half of them before it where the sentence has them; a Han character
# counts as one.
_AROUND = 4

Place = tuple[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Polarity:
    """The places where texts deny something once, twice, and not at all."""

    plain: frozenset[Place]
    denied: frozenset[Place]
    doubled: frozenset[Place]

    def __or__(self, other: Polarity) -> Polarity:
        """What either says and denies."""
        return Polarity(
            self.plain | other.plain, self.denied | other.denied, self.doubled | other.doubled
        )

    @classmethod
    def of(cls, text: str) -> Polarity:
        """What `text` says and denies, in Chinese and English."""
        places = list(_places(text, finished=True))
        return cls(
            frozenset(place for place, denials in places if denials == 0),
            frozenset(place for place, denials in places if denials == 1),
            frozenset(place for place, denials in places if denials > 1),
        )

    def turned(self, text: str, *, finished: bool = True, known: int = 0) -> str | None:
        """The first words of `text` that these texts only have the other way round, or None.

        A denial said twice in a row is an accident unless they say it so. The last words of a text
        that is not `finished` are left out: they may still become others. The first `known`
        characters were looked at before, as a text that was not finished.
        """
        # Each new character makes at most one place, beside those that were left out.
        fresh = len(text) - known + _AROUND
        for place, denials in _places(text, finished=finished, last=fresh):
            if denials > 1:
                wrong = place not in self.doubled
            elif denials == 1:
                wrong = place in self.plain and place not in self.denied
            else:
                wrong = place in self.denied and place not in self.plain
            if wrong:
                return " ".join(place[1])
        return None


def _places(text: str, *, finished: bool, last: int | None = None) -> Iterator[tuple[Place, int]]:
    """Each place as the words around it, and how many denials stand there.

    At least the `last` ones of the text; None are all.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    *whole, ending = _SENTENCE_END.split(_DENIAL.sub(f" {_NO} ", _ASKED.sub(r"\1", folded)))
    for sentence in whole:
        yield from _places_of(sentence, finished=True, last=last)
    yield from _places_of(ending, finished=finished, last=last)


def _places_of(sentence: str, *, finished: bool, last: int | None) -> Iterator[tuple[Place, int]]:
    words: list[str] = []
    denials = [0]
    for word in _WORD.findall(sentence):
        if word == _NO:
            denials[-1] += 1
        else:
            words.append(word)
            denials.append(0)
    if len(words) < _AROUND // 2:
        return
    for at in range(0 if last is None else max(0, len(denials) - last), len(denials)):
        start = max(0, at - _AROUND // 2)
        if start + _AROUND > len(words):
            if not finished:
                return
            start = max(0, len(words) - _AROUND)
        yield (at - start, tuple(words[start : start + _AROUND])), denials[at]
