"""Lets a model's answer through piece by piece, as far as it stands on its passages."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator

from core.errors import AnswerUnsupported
from core.grounding import Ground, sentence_starts
from core.knowledge import sentences
from core.model import Piece
from core.quantities import DIGITS, ENGLISH_NUMBERS, UNITS

_HAN = re.compile(r"[\u3400-\u9fff]")
# What may still grow into another number, unit or name when the next piece comes.
_FIGURE = rf"[\d½半十{DIGITS}][\d.,/½零半十百千万{DIGITS}]*"
_UNIT_START = "|".join(
    sorted({re.escape(unit[:end]) for unit in UNITS for end in range(1, len(unit) + 1)})
)
_UNFINISHED = re.compile(
    rf"(?:{_FIGURE}(?:\s*(?:[-–—~～到至或]|to|and|or)\s*(?:{_FIGURE})?)?\s*"
    rf"(?:[A-Za-z°℃%％]*|{_UNIT_START})"
    rf"|\b(?:{'|'.join(ENGLISH_NUMBERS)})(?:[\s-]+[A-Za-z.,]*){{0,2}}"
    r"|[A-Za-z0-9.,/%°+\-–~'’]+)$",
    re.IGNORECASE,
)
# Hardly ever is it longer; where it is, all of the sentence is searched.
_NEAR_THE_END = 40
_SMALL_WORD = re.compile(r"[A-Za-z][a-z]+|[AaI]")
_BEFORE_A_WORD = ' \n(“"'

# A syllable said four times in a row, eight blanks or other marks, or a phrase three times: the
# model has lost its way.
_SYLLABLES, _SYLLABLE_TIMES = range(1, 9), 4
_SAME = 8
# What a line or a table is drawn with.
_LINES = "-—–_=*.·…~～|"
_PHRASES, _PHRASE_TIMES = range(9, 81), 3
# Nor is a clause of so many characters, its mark included, said twice in a row.
_CLAUSES, _CLAUSE_END = range(7, 41), ",，、;；:："
# Nor is a sentence of so many characters said twice, whatever comes before and after it in talk.
_SENTENCE = 12
_TALK = re.compile(r"^(?:[^：:]{0,40}?[嘛啊]，|[^:]{0,80}: )|[哦啦呢哈～~。！!.\s]+$")


async def guarded(
    pieces: AsyncIterator[Piece], ground: Ground, *, english: bool = False
) -> AsyncGenerator[Piece, None]:
    """Pass a model's pieces on; raise `AnswerUnsupported` before an invented one is shown.

    A number or name is held back until it cannot grow any more, and so is any Latin word unless
    the answer is to be in `english`, where most words are no names. A refusal has no passage to
    stand on, but its figures and names are looked at all the same.
    """
    text = ""
    shown = settled = 0
    async for piece in pieces:
        text += piece.text
        finished = piece.finish_reason is not None
        ready = len(text) if finished else _ready(text, settled, english=english)
        if ready <= shown and not finished:
            continue
        begins = _last_sentence(text[:ready], settled)
        ended = finished or begins > settled
        # A sentence is looked at whole when it has ended, and as far as it is new before that.
        known = 0 if ended else shown - settled
        if ground.unsupported(text[settled:ready], finished=finished, known=known) is not None:
            raise AnswerUnsupported("The model's answer holds something its passages do not.")
        if any(_loops(text, end) for end in range(shown + 1, ready + 1)):
            raise AnswerUnsupported("The model says the same again and again.")
        if ended and _says_twice(text[:ready], finished=finished):
            raise AnswerUnsupported("The model says a sentence twice.")
        yield Piece(text[shown:ready], piece.finish_reason)
        settled, shown = begins, ready


def _ready(text: str, settled: int, *, english: bool) -> int:
    """How much of the text may be shown: up to what may still become another figure or name."""
    near = max(settled, len(text) - _NEAR_THE_END)
    unfinished = _UNFINISHED.search(text, near)
    if unfinished is not None and unfinished.start() == near:
        unfinished = _UNFINISHED.search(text, settled)
    if unfinished is None:
        return len(text)
    start = unfinished.start()
    if english and not _HAN.search(text) and _is_plain(text[settled:], start - settled):
        return len(text)
    return start


def _is_plain(text: str, start: int) -> bool:
    """Whether the text from `start` on is the beginning of an English word that names nothing yet.

    A name would need a capital or a digit further on, and a piece that brings one is held back: at
    most a few small letters before it are shown.
    """
    word = text[start:]
    if not _SMALL_WORD.fullmatch(word) or text[:start][-1:] not in _BEFORE_A_WORD:
        return False
    if word[0].isupper() and start not in sentence_starts(text):
        return False
    return not any(number.startswith(word.casefold()) for number in ENGLISH_NUMBERS)


def _last_sentence(text: str, start: int) -> int:
    """Where the last sentence of `text` begins that begins at or after `start`."""
    last = sentences(text[start:])[-1:]
    return text.rindex(last[0]) if last else start


def _says_twice(text: str, *, finished: bool) -> bool:
    """Whether a whole sentence that is no mere exclamation stands in the text twice."""
    whole = sentences(text)
    ended = (_TALK.sub("", one) for one in (whole if finished else whole[:-1]))
    said = [one for one in ended if len(one) >= _SENTENCE]
    return len(set(said)) < len(said)


def _loops(text: str, end: int) -> bool:
    """Whether the text up to `end` ends in the same syllable or phrase, said too often in a row."""
    ends_in = text[end - 1]
    for length in _SYLLABLES:
        if end > length and text[end - 1 - length] == ends_in:
            said = text[end - length : end]
            if _repeats(text, end, length, _SYLLABLE_TIMES) and _is_said(said):
                return True
    clauses = _CLAUSES if ends_in in _CLAUSE_END else ()
    if any(_repeats(text, end, one, 2) and _is_said(text[end - one : end]) for one in clauses):
        return True
    last = text[max(0, end - _SAME) : end]
    if end >= _SAME and (last.isspace() or (len(set(last)) == 1 and last[0] not in _LINES)):
        return True
    # A phrase that is said again shows in its last letters, which can be found quickly.
    shortest, longest = _PHRASES[0], _PHRASES[-1]
    ending = text[max(0, end - shortest) : end]
    place = end
    while (place := text.rfind(ending, max(0, end - shortest - longest), place - 1)) >= 0:
        length = end - shortest - place
        if length in _PHRASES and _repeats(text, end, length, _PHRASE_TIMES):
            return True
        place += shortest
    return False


def _is_said(text: str) -> bool:
    """Whether it is letters and what stands between them: no figures, of which lists are made."""
    return any(map(str.isalpha, text)) and not any(map(str.isdigit, text))


def _repeats(text: str, end: int, length: int, times: int) -> bool:
    """Whether the text up to `end` ends in `length` characters that stand there `times` times."""
    start = end - length * times
    return start >= 0 and text[start : end - length] == text[start + length : end]
