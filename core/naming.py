"""What a question calls by name: the entries that it sets side by side, or goes over to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from core.terms import normalize, subject_words

_COMPARES = re.compile(
    r"区别|差别|差异|分别是|区分|分不清|不同|不一样|对比|相比|比较|还是|哪个|哪种|哪双|[和跟与].+比"
    r"|\bvs\b|\bversus\b|\bdiffer|\bcompare|\bor\b|\bthan\b|\bbetween\b"
)
_GOES_OVER = re.compile(
    r"^[^它他她]+呢\W*$|^(and|or|what about|how about)\b(?!.*\b(it|its|they|them|their)\b)"
)
# What a title's name is without: 牛津鞋 is asked for as 牛津, "Oxford shoes" as "an Oxford".
_KIND_ZH = re.compile(r"[鞋靴]$")
_KINDS_EN = frozenset(subject_words("shoe boot sneaker leather"))
# What is said of many things is not what they have in common.
_ASPECTS_ZH = re.compile(
    r"清[洗洁]|护理|保养|鞋码|防水|尺码|童鞋|运动鞋|皮鞋|怎么|选购|搭配|配鞋|颜色|收纳|鞋底|鞋面|鞋垫"
)
_ASPECTS_EN = frozenset(
    subject_words("size sizes clean cleaning care fit child children women men foot feet sole new")
)
# A single character names nothing.
_SHORTEST = 2


def compared(text: str, titles: Sequence[str]) -> tuple[int, ...]:
    """Which two titles a question compares, by their places in `titles`; () where it does not.

    The longest names are taken first, so that 小牛皮 is not 牛皮 as well.
    """
    asked = normalize(text)
    if not _COMPARES.search(asked):
        return ()
    stems = set(subject_words(text))
    found: list[int] = []
    for length, place, name in sorted(_names(titles), reverse=True):
        if isinstance(name, str):
            named = length >= _SHORTEST and name in asked
            asked = asked.replace(name, "\n") if named else asked
        else:
            named = bool(name) and name <= stems
            stems -= name if named else set()
        if named and place not in found:
            found.append(place)
    return tuple(sorted(found[:2])) if len(found) > 1 else ()


def goes_over(text: str) -> bool:
    """Whether a follow-up asks the same of something else: "那漆皮的呢", "what about canvas?"."""
    return bool(_GOES_OVER.search(normalize(text)))


def is_called(title: str, text: str) -> bool:
    """Whether all that a text says stands in a title: "那漆皮的呢?" in 漆皮护理."""
    words, whole = subject_words(text), normalize(title).replace(" ", "")
    stems = subject_words(title)
    return bool(words) and all(
        word in stems or (not word.isascii() and len(word) >= _SHORTEST and word in whole)
        for word in words
    )


def names(text: str, title: str) -> bool:
    """Whether a title's name stands in a text: 洞洞鞋 in 洞洞鞋能爬山吗."""
    asked, stems = normalize(text).replace(" ", ""), set(subject_words(text))
    return any(
        length >= _SHORTEST and name in asked
        if isinstance(name, str)
        else bool(name) and name <= stems
        for length, _, name in _names([title])
    )


def related(title: str, topic: str) -> bool:
    """Whether two titles are about the same thing: 帆布鞋清洗 and 帆布鞋, not 帆布鞋 and 帆船鞋."""
    one, other = normalize(title).replace(" ", ""), normalize(topic).replace(" ", "")
    if one.isascii() != other.isascii():
        return False
    if one.isascii():
        shared = frozenset(subject_words(title)) & frozenset(subject_words(topic))
        return bool(shared - _KINDS_EN - _ASPECTS_EN)
    match = SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
    name = _ASPECTS_ZH.sub("", one[match.a : match.a + match.size])
    return len(_KIND_ZH.sub("", name)) >= _SHORTEST


def _names(titles: Sequence[str]) -> Iterator[tuple[int, int, str | frozenset[str]]]:
    """Each title's name with its length: characters in Chinese, a set of stems in English."""
    for place, title in enumerate(titles):
        whole = normalize(title).replace(" ", "")
        if whole.isascii():
            name = frozenset(subject_words(title)) - _KINDS_EN
            yield len(name), place, name
        else:
            yield len(whole), place, whole
            if (short := _KIND_ZH.sub("", whole)) != whole:
                yield len(short), place, short
