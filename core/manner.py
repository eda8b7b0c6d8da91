"""Written words and what people say instead: the manner that the shipped adapter has learned.

Pairs to train it are made with these words, and its answers are compared with their passages under
them, so that a spoken word is not taken for a slip.
"""

from __future__ import annotations

import re

from core.messages import Language

# Written words and what people say instead; the longer one first where one begins another. A
# group in front keeps the place where the word is safe: `避免` is an advice at a clause's start.
_SAID: dict[Language, tuple[tuple[str, str], ...]] = {
    "zh": (
        (r"(^|[，。；])避免", r"\1别"),
        (r"(^|[，。；])请(?!问)", r"\1记得"),
        (r"(^|[，。；])若", r"\1要是"),
        (r"(^|[，。；])如果", r"\1要是"),
        (r"(^|[，。；])(?:因此|因而)", r"\1所以"),
        (r"(^|[，。；])此外", r"\1另外"),
        (r"(^|[，。；])否则", r"\1不然"),
        (r"(^|[，。；])以免", r"\1免得"),
        (r"(^|[，。；])由于", r"\1因为"),
        (r"(^|[，。；])建议", r"\1最好"),
        (r"不建议", "不太建议"),
        (r"不宜", "不适合"),
        (r"不要", "别"),
        (r"无法", "没法"),
        (r"通常", "一般"),
        (r"十分|非常", "特别"),
        (r"较为", "比较"),
        (r"即可", "就行"),
        (r"以及", "还有"),
        (r"大约", "大概"),
        (r"(?<!不)需要(?=[\u4e00-\u9fff])", "得"),
        (r"应(?=选|先|该)", "要"),
        (r"要该", "应该"),
    ),
    "en": (
        (r"\bdo not\b", "don't"),
        (r"\bDo not\b", "Don't"),
        (r"\bdoes not\b", "doesn't"),
        (r"\bis not\b", "isn't"),
        (r"\bare not\b", "aren't"),
        (r"\bcannot\b", "can't"),
        (r"\bit is\b", "it's"),
        (r"\bIt is\b", "It's"),
        (r"\bwill not\b", "won't"),
        (r"\bshould not\b", "shouldn't"),
        (r"\bthey are\b", "they're"),
        (r"\bThey are\b", "They're"),
        (r"\bapproximately\b", "about"),
        (r"\btherefore\b", "so"),
        (r"\bTherefore\b", "So"),
    ),
}


# What talk adds of its own in English, and the small words that hold any sentence together: a model
# that copies has every other word from its passages.
_SMALL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    hey hi hello there so about right hope that helps it easy enjoy
    a an the and or but nor if than then as because while when where which who what how why
    i you he she it we they me him her us them my your his its our their this that these those
    is are was were be been being do does did has have had can could may might must shall should
    will would need not no yes never only also too very more most less least just even still once
    at by for from in into of off on onto out over to under up down with without per
    all any both each few many much one other some such same own here again ever
        """,
    )
)
_CONTRACTION = re.compile(r"([a-z]+?)(n't|'(?:s|re|ve|ll|d|m))")
_NEGATED = re.compile(
    r"are|ca|could|did|do|does|had|has|have|is|might|must|need|should|was|were|wo|would"
)


def is_small_word(word: str) -> bool:
    """Whether an English word (casefolded) belongs to talk and to no subject: don't, that's."""
    word = word.replace("’", "'")
    short = _CONTRACTION.fullmatch(word)
    if short is None:
        return word in _SMALL_WORDS
    if short[2] == "n't":
        return bool(_NEGATED.fullmatch(short[1]))
    return short[1] in _SMALL_WORDS


def in_talk(text: str, lang: Language | None = None) -> str:
    """The text in spoken words, of one language or of both."""
    for one in _SAID if lang is None else (lang,):
        for written, talk in _SAID[one]:
            text = re.sub(written, talk, text)
    return text
