"""Signs that somebody is steering the feedback: too many thumbs, one name or topic everywhere."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from training.pairs import PreferencePair
from training.verdicts import Verdict

DAY = 86_400.0
MOST_THUMBS_A_DAY = 20
# One name in more of the better answers than this, where the rejected ones do without it.
MOST_NAMED = 0.05
FEWEST_PAIRS = 20
FEWEST_NAMED = 3
# A topic asked about so many times as often as in the month before, and often at that.
JUMP = 3.0
MOST_OF_A_WEEK = 0.2
_WEEK, _MONTH = 7 * DAY, 30 * DAY
_FEWEST_A_WEEK, _FEWEST_A_MONTH = 10, 30
_NAME = re.compile(
    r"(?<![A-Za-z])(?:[A-Z][A-Za-z0-9&'-]*[A-Z0-9][\w&'-]*|[A-Za-z][A-Za-z0-9&'-]{2,})"
)
_SENTENCE = re.compile(r"(?:^|[.!?:。！？：]\s*|[\"“])$")


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something odd, and the pairs that an operator should look at because of it."""

    sentence: str
    pairs: frozenset[str]


def alarms(
    pairs: Sequence[PreferencePair],
    verdicts: Iterable[Verdict],
    now: float,
    pairs_per_person: int,
) -> list[Alarm]:
    """Everything odd about the open pairs and the thumbs behind them.

    Where the settings take more pairs of a person than `MOST_THUMBS_A_DAY`, so many thumbs are not
    odd either.
    """
    most = max(MOST_THUMBS_A_DAY, pairs_per_person)
    thumbs = Counter(one.user_id for one in verdicts if now - DAY < one.created_at <= now)
    floods = {person: count for person, count in thumbs.most_common() if count > most}
    return [*_floods(pairs, floods), *_names(pairs), *_topics(pairs, now)]


def _floods(pairs: Sequence[PreferencePair], floods: Mapping[str, int]) -> Iterator[Alarm]:
    for person, count in floods.items():
        theirs = frozenset(pair.id for pair in pairs if pair.user_id == person)
        yield Alarm(f"one person gave {count} thumbs within a day", theirs)


def _names(pairs: Sequence[PreferencePair]) -> Iterator[Alarm]:
    """Names that the better answers add, in too many pairs of all."""
    if len(pairs) < FEWEST_PAIRS:
        return
    naming: defaultdict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        for name in names(pair.chosen) - names(pair.rejected):
            naming[name].add(pair.id)
    for name, ids in _largest(naming):
        if len(ids) >= FEWEST_NAMED and len(ids) > MOST_NAMED * len(pairs):
            share = f"{len(ids)} of {len(pairs)} better answers"
            yield Alarm(f"{share} bring in the name {name!r}", frozenset(ids))


def _topics(pairs: Sequence[PreferencePair], now: float) -> Iterator[Alarm]:
    """Topics that are in far more of the last week's pairs than of the month before."""
    recent = [pair for pair in pairs if pair.created_at > now - _WEEK]
    earlier = [pair for pair in pairs if now - _WEEK - _MONTH < pair.created_at <= now - _WEEK]
    if len(recent) < _FEWEST_A_WEEK or len(earlier) < _FEWEST_A_MONTH:
        return
    before = Counter(map(topic_of, earlier))
    about: defaultdict[str, set[str]] = defaultdict(set)
    for pair in recent:
        about[topic_of(pair)].add(pair.id)
    for topic, ids in _largest(about):
        share, usual = len(ids) / len(recent), before[topic] / len(earlier)
        if topic and share >= MOST_OF_A_WEEK and share > JUMP * usual:
            yield Alarm(
                f"{share:.0%} of the week's pairs are about {topic!r}, {usual:.0%} were before",
                frozenset(ids),
            )


def topic_of(pair: PreferencePair) -> str:
    """The topic of the passage that was found first, "" for none."""
    return pair.passages[0].topic if pair.passages else ""


def names(text: str) -> set[str]:
    """Latin words in a Chinese text; in an English one those that are spelled like a name."""
    chinese = any("\u3400" <= char <= "\u9fff" for char in text)
    found = set()
    for match in _NAME.finditer(text):
        word = match.group()
        first = bool(_SENTENCE.search(text[: match.start()]))
        marked = any(char.isupper() or char.isdigit() for char in word[first:])
        if chinese or marked:
            found.add(word.casefold())
    return found


def _largest(groups: Mapping[str, set[str]]) -> list[tuple[str, set[str]]]:
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
