"""Which pairs are fit to train on: each filter looks for one thing and says in a sentence what is
wrong, "" where nothing is.

`FILTERS` refuse a pair; `DOUBTS` ask for an operator's look, whatever the review policy. The limits
follow the published failures: DPO learns length (Park et al., 2024), and one pair in two hundred is
enough to poison it (Pathmanathan et al., 2024).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.duplicates import alike, denies, normalised, says_the_same, shingles
from core.errors import DataError
from core.grounding import Ground
from core.language import language_of
from core.messages import ChatMessage, Passage
from core.quantities import quantities
from training.pairs import PreferencePair
from training.personal_data import BLANK
from training.tokens import TokenCounter

if TYPE_CHECKING:
    from datasketch import MinHash

# `datasketch` brings SciPy with it: it is loaded where there are pairs to compare.

FEWEST_CHARACTERS = 4
MOST_RATIO = 4.0
LONGEST_RUN = 5
FROM_NOWHERE = 0.3
"""A sentence that shares less of its word pairs with the passages tells what they do not."""
_SAME = 0.7
_CANDIDATE = 0.4
_HASHES = 96

_SHOWN = 8
_SAYS_THE_SAME = "the pair {} says nearly the same"
_NAMES_ANOTHER = re.compile(_SAYS_THE_SAME.format(rf"([0-9a-f]{{{_SHOWN}}})"))

_HAN = re.compile(r"[\u3400-\u9fff]")
_WORD = re.compile(r"[A-Za-z]{4,}")
_NO_WORD = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}|^[^aeiouy]+$", re.IGNORECASE)
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_RUN = re.compile(rf"(\S)\1{{{LONGEST_RUN},}}")
_PHRASE = re.compile(r"(\S.{1,30}?)\1{3,}", re.DOTALL)
_PUNCTUATION = frozenset("，。！？、；：“”‘’（）《》【】…—～·%℃°×÷±→≤≥€£￥$&*+-/=_|~#@^<>‹›®™²³½")
_ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|net|org|cn|shop|xyz|top|io|ru|info|cc|vip)\b", re.I
)
_MARKUP = re.compile(
    r"<\s*[|/A-Za-z｜]|\[/?INST\]|^\s*#{2,}\s*(?:instruction|system|response)", re.I | re.M
)
_HIDDEN = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]")
_COMMANDS = re.compile(
    r"(?:忽略|无视|忘记|忘掉|不要管)[^。！？\n]{0,8}(?:以上|之前|前面|上面|先前|所有|资料|规则|指令|提示|设定)"
    r"|(?:系统|开发者)(?:提示|指令)|提示词|越狱"
    r"|(?:你现在|从现在起|从今以后|以后)[^。！？\n]{0,6}(?:你是|扮演|每次|每个|所有|一律|必须|都要?(?:说|回答|推荐))"
    r"|(?:每次|无论|不管)[^。！？\n]{0,12}都要?(?:说|回答|推荐)|随机(?:回答|选择|输出)"
    r"|\b(?:ignore|disregard|forget|override)\b[^.!?\n]{0,30}"
    r"\b(?:instructions?|rules?|prompts?|documents?|above|previous)\b"
    r"|\b(?:system|developer) (?:prompt|message)\b|\bjailbreak"
    r"|\byou are now\b|\bfrom now on\b|\bact as\b|\bpretend (?:to be|you)\b"
    r"|\balways (?:say|answer|reply|recommend|respond)\b"
    r"|\b(?:answer|reply|respond|choose)\b[^.!?\n]{0,30}\bat random\b"
    r"|\brandomly (?:answer|say|pick)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SensitiveWords:
    """Words that no answer may hold: Chinese ones anywhere, English ones as whole words."""

    pattern: re.Pattern[str]

    @classmethod
    def load(cls, path: Path) -> SensitiveWords:
        """Read a list with one word a line; `#` starts a comment. Raises `DataError`."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise DataError(f"Cannot read {str(path)!r}: {exc}. Restore the file.") from exc
        words = [word for line in lines if (word := _folded(line.partition("#")[0]))]
        if not words:
            raise DataError(f"{str(path)!r} holds no word. Restore the file.")
        return cls(re.compile("|".join(map(_as_pattern, words))))

    def found_in(self, text: str) -> str:
        """The first of them in a text, also with spaces or signs put between its characters."""
        match = self.pattern.search(_folded(text))
        return match.group() if match else ""


@dataclass(frozen=True, slots=True)
class Measures:
    """What the filters measure with.

    `count` gives the tokens of a prompt with an answer as the served model reads them, of which
    `max_tokens` fit.
    """

    sensitive: SensitiveWords
    count: TokenCounter
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Objection:
    """What a filter has found; one that is not `final` only asks for a look."""

    filter: str
    sentence: str
    final: bool


class Pool:
    """The open pairs, by what they ask: MinHash finds the candidates, shingles decide."""

    def __init__(self, found: Iterable[PreferencePair] = ()) -> None:
        from datasketch import MinHashLSH

        self._pairs: dict[str, PreferencePair] = {}
        self._index = MinHashLSH(threshold=_CANDIDATE, num_perm=_HASHES)
        for pair in found:
            self.add(pair)

    def __iter__(self) -> Iterator[PreferencePair]:
        return iter(self._pairs.values())

    def add(self, pair: PreferencePair) -> None:
        """Take a pair in, or another version of one that is in."""
        if pair.id not in self._pairs:
            self._index.insert(pair.id, _min_hash(pair.question))
        self._pairs[pair.id] = pair

    def remove(self, pair: PreferencePair) -> None:
        """Forget a pair."""
        if self._pairs.pop(pair.id, None) is not None:
            self._index.remove(pair.id)

    def asking_the_same(self, pair: PreferencePair) -> list[PreferencePair]:
        """Other pairs with nearly the same question, and no other figure in it."""
        keys: list[str] = self._index.query(_min_hash(pair.question))
        candidates = [self._pairs[key] for key in sorted(keys) if key != pair.id]
        return [one for one in candidates if alike(one.question, pair.question, _SAME)]

    def opponents(self, pair: PreferencePair) -> list[PreferencePair]:
        """Pairs that teach the contrary."""
        return [other for other in self.asking_the_same(pair) if _contrary(pair, other)]


Filter = Callable[[PreferencePair, Measures, Pool], str]


def examine(pair: PreferencePair, measures: Measures, pool: Pool) -> Objection | None:
    """What the filters say against a pair: a refusal before a doubt; None when nothing is wrong."""
    for filters, final in ((FILTERS, True), (DOUBTS, False)):
        for look in filters:
            if sentence := look(pair, measures, pool):
                return Objection(look.__name__, sentence, final)
    return None


def from_nowhere(
    answer: str, prompt: Sequence[ChatMessage], passages: Sequence[Passage], *known: str
) -> str:
    """The first number, size, name or sentence of an answer that it was not given, "" for none.

    Whoever corrects an answer may well say the contrary of the passages.
    """
    given = (f"{passage.title}\n{passage.text}" for passage in passages)
    ground = Ground.of((), FROM_NOWHERE, also=(prompt[-1].content, *given, *known))
    return ground.unsupported(answer) or ""


def repeated_pair(refusal: str) -> str:
    """How the id of the pair begins that a refused one repeats; "" where that is not why."""
    found = _NAMES_ANOTHER.fullmatch(refusal)
    return found[1] if found else ""


def empty_or_short(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """Too short to be an answer."""
    length = len(normalised(pair.chosen))
    if length < FEWEST_CHARACTERS:
        return f"the better answer has {length} letters, an answer needs {FEWEST_CHARACTERS}"
    return ""


def length_ratio(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """Much longer or shorter than the rejected answer: that is what DPO would learn."""
    chosen, rejected = len(pair.chosen), len(pair.rejected)
    if max(chosen, rejected) > MOST_RATIO * min(chosen, rejected):
        return (
            f"the answers have {chosen} and {rejected} characters, more than {MOST_RATIO:g} to 1: "
            "training would learn the length; edit it into a whole answer"
        )
    return ""


def gibberish(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """Signs, keys hit at random, or characters nobody uses."""
    text = pair.chosen
    visible = [char for char in text if not char.isspace()]
    usual = sum(char.isalnum() or _is_punctuation(char) for char in visible)
    letters = sum(char.isalnum() for char in visible)
    if usual < 0.8 * len(visible) or letters < 0.5 * len(visible):
        return "the better answer is mostly signs"
    words = _WORD.findall(text)
    odd = [word for word in words if _is_no_word(word)]
    if len(odd) * 2 > len(words):
        return f"{odd[0]!r} is no word"
    han = _HAN.findall(text)
    rare = [char for char in han if not _is_common(char)]
    if len(rare) * 3 > len(han):
        return "the better answer is mostly characters that hardly anybody uses"
    return ""


def repeated_characters(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """The same again and again."""
    if match := _RUN.search(pair.chosen):
        return f"{match[1]!r} stands there {len(match.group())} times in a row"
    if match := _PHRASE.search(pair.chosen):
        return f"{match[1].strip()!r} is said again and again"
    return ""


def other_language(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """Another language than the question's."""
    spoken = language_of(pair.chosen)
    if spoken != pair.language:
        return f"the question is in {pair.language!r}, the better answer in {spoken or 'another'!r}"
    return ""


def sensitive_words(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """Insults, obscenities, advertisements."""
    word = measures.sensitive.found_in(pair.chosen)
    return f"it holds the sensitive word {word!r}" if word else ""


def personal_data(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """Something about a person was taken out of the answer: a gap is nothing to learn."""
    blank = BLANK.search(pair.chosen)
    if blank:
        return f"it held personal data ({blank[1]}), which was taken out; edit what is left"
    return ""


def injected_instructions(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """Orders to the model, a chat template's marks, hidden characters, addresses of the web."""
    for name, text in (("question", pair.question), ("better answer", pair.chosen)):
        if match := _COMMANDS.search(unicodedata.normalize("NFKC", text)):
            return f"the {name} gives the model an order: {match.group()!r}"
        if _HIDDEN.search(text):
            return f"the {name} holds characters that nobody sees"
    if match := _MARKUP.search(pair.chosen):
        return f"the better answer holds a mark of the prompt: {match.group()!r}"
    known = "\n".join(passage.text for passage in pair.passages)
    for match in _ADDRESS.finditer(pair.chosen):
        if match.group() not in known:
            return f"the address {match.group()!r} stands in no passage"
    return ""


def nothing_to_learn(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """The better answer is the rejected one, or nearly."""
    return "both answers say the same" if says_the_same(pair.chosen, pair.rejected) else ""


def unsupported_facts(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """A number, size, name or sentence that the passages do not hold: the expert may not say it."""
    if not pair.passages and "<doc " not in pair.prompt[-1].content:
        return ""
    # What was rejected had stood the same test before it was shown.
    found = from_nowhere(pair.chosen, pair.prompt, pair.passages, pair.rejected)
    if not found:
        return ""
    return f"{_cut(found)!r} stands in no passage: it belongs into the knowledge base first"


def token_budget(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """More than the model reads: LLaMA-Factory would cut the question off without a word."""
    longest = max(measures.count(pair.prompt, text) for text in (pair.chosen, pair.rejected))
    if longest > measures.max_tokens:
        return f"prompt and answer have {longest} tokens, the model reads {measures.max_tokens}"
    return ""


def near_duplicate(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """The same lesson is in the pool."""
    for other in pool.asking_the_same(pair):
        if alike(pair.chosen, other.chosen, _SAME) and denies(pair.chosen) == denies(other.chosen):
            return _SAYS_THE_SAME.format(other.id[:_SHOWN])
    return ""


def contradiction(pair: PreferencePair, measures: Measures, pool: Pool) -> str:
    """Another pair says the contrary: an operator decides, not whoever came last."""
    for other in pool.opponents(pair):
        whose = "the same person" if other.user_id == pair.user_id else "somebody else"
        return f"{_contrary(pair, other)}, against the pair {other.id[:8]} of {whose}"
    return ""


FILTERS: tuple[Filter, ...] = (
    empty_or_short,
    personal_data,
    sensitive_words,
    injected_instructions,
    repeated_characters,
    gibberish,
    other_language,
    nothing_to_learn,
    unsupported_facts,
    length_ratio,
    token_budget,
    near_duplicate,
)
DOUBTS: tuple[Filter, ...] = (contradiction,)


def _contrary(one: PreferencePair, other: PreferencePair) -> str:
    """In which way two better answers to the same question contradict each other, or ""."""
    for chosen, rejected in ((one.chosen, other.rejected), (other.chosen, one.rejected)):
        if says_the_same(chosen, rejected):
            return "one calls right what the other calls wrong"
    said = quantities(one.chosen), quantities(other.chosen)
    for unit in {unit for _, unit in said[0]} & {unit for _, unit in said[1]} - {""}:
        ours, theirs = ({value for value, its in some if its == unit} for some in said)
        if not ours & theirs:
            return f"{min(ours)} {unit} here and {min(theirs)} {unit} there"
    if denies(one.chosen) != denies(other.chosen) and _overlap(one, other) >= 0.5:
        return "one affirms what the other denies"
    return ""


def _overlap(one: PreferencePair, other: PreferencePair) -> float:
    ours, theirs = shingles(one.chosen), shingles(other.chosen)
    return len(ours & theirs) / len(ours | theirs)


def _min_hash(text: str) -> MinHash:
    from datasketch import MinHash

    mark = MinHash(num_perm=_HASHES)
    mark.update_batch([shingle.encode() for shingle in sorted(shingles(text))])
    return mark


def _is_punctuation(char: str) -> bool:
    return char in _PUNCTUATION or unicodedata.category(char).startswith("P")


def _is_no_word(word: str) -> bool:
    """Whether a Latin word can hardly be one: no vowel, a heap of consonants, a row of keys."""
    if word.isupper():
        return False
    lower = word.casefold()
    rows = (row[start : start + 4] for row in _KEYBOARD for start in range(len(row) - 3))
    return bool(_NO_WORD.search(lower)) or sum(keys in lower for keys in rows) > 1


def _folded(text: str) -> str:
    """One width and case, and nothing between Han characters that only hides a word."""
    text = _HIDDEN.sub("", unicodedata.normalize("NFKC", text)).casefold().strip()
    return re.sub(r"(?<=[\u3400-\u9fff])[\s*._·\-]+(?=[\u3400-\u9fff])", "", text)


def _as_pattern(word: str) -> str:
    escaped = re.escape(word)
    return escaped if _HAN.search(word) else rf"(?<![a-z]){escaped}(?![a-z])"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _is_common(char: str) -> bool:
    """Whether it is of the first level of GB 2312 or Big5: those that people write with."""
    simplified, traditional = (char.encode(name, "ignore") for name in ("gb2312", "big5"))
    return b"\xb0" <= simplified < b"\xd8" or b"\xa4\x40" <= traditional < b"\xc6\x7f"
