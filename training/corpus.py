"""Text for the base model: plain entries, and reading exercises made by machine without end.

An exercise is a few documents and requests that each ask for one sentence of them. The names, the
documents around the right one and the wording change every time, so that only reading helps. All
of it is in the base's own form (`查：… 得：…`), never in the form of a chat.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from core.messages import Language
from training import phrases
from training.material import Entry, Material, Question
from training.tokenizer import common_characters

_TRIVIAL = re.compile(r"[，。、；：！？,.;:!?\s]")
_STOP_ZH = frozenset(
    "的了是在和也就都而与或把被让给用从到对等它这那不要会能可以及其时后前上下中一个种"
)
_STOP_EN = frozenset(
    re.findall(
        r"\w+",
        "a an the is are of to and or in on for with it its at by as be so do not that this they "
        "from you your can if but than then them their has have more most",
    )
)


@dataclass(frozen=True, slots=True)
class Document:
    """A titled text, as sentences."""

    title: str
    sentences: tuple[str, ...]
    joint: str = ""

    @property
    def text(self) -> str:
        """The sentences as one paragraph."""
        return self.joint.join(self.sentences)


@dataclass(frozen=True, slots=True)
class Exercise:
    """Documents, then independent requests with their answers."""

    documents: tuple[Document, ...]
    pairs: tuple[tuple[str, str], ...]
    lang: Language

    @property
    def reading(self) -> str:
        """The part that every request sees."""
        return "\n".join(
            f"<doc {number} {document.title}>\n{document.text}\n</doc>"
            for number, document in enumerate(self.documents, 1)
        )


def request_text(request: str) -> str:
    """A request as the base reads it, up to where its answer starts."""
    return f"\n查：{request}\n得："


@dataclass(frozen=True, slots=True)
class _Stage:
    """The share of each kind of exercise; shares need not add up to one."""

    nonsense: float
    mixture: float
    invented: float
    renamed: float
    real: float


def stage_at(progress: float) -> _Stage:
    """The mixture of exercises after this share of the training: copying first, shoes later."""
    early = _Stage(nonsense=0.5, mixture=0.25, invented=0.1, renamed=0.1, real=0.05)
    late = _Stage(nonsense=0.06, mixture=0.2, invented=0.08, renamed=0.16, real=0.5)
    ease = min(1.0, max(0.0, (progress - 0.1) / 0.3))
    return _Stage(
        *(
            getattr(early, name) * (1 - ease) + getattr(late, name) * ease
            for name in ("nonsense", "mixture", "invented", "renamed", "real")
        )
    )


@dataclass
class Corpus:
    """Makes exercises from the material; the same seed of `random` gives the same ones."""

    material: Material
    refusals: float = 0.1

    def exercise(self, dice: random.Random, progress: float) -> Exercise:
        """One exercise for this point of the training (0 at its start, 1 at its end)."""
        stage = stage_at(progress)
        makers: tuple[tuple[Callable[[random.Random], Exercise], float], ...] = (
            (self.nonsense, stage.nonsense),
            (self.mixture, stage.mixture),
            (self.invented, stage.invented),
            (lambda dice: self.real(dice, rename=True), stage.renamed),
            (self.real, stage.real),
        )
        maker = dice.choices([one for one, _ in makers], [share for _, share in makers])[0]
        return maker(dice)

    def plain(self, dice: random.Random) -> str:
        """An entry as plain text, for the language itself."""
        entry = dice.choice(self._entries)
        return f"{entry.title}\n{entry.text}"

    def nonsense(self, dice: random.Random) -> Exercise:
        """Documents of random characters, asked for by some of the characters of one sentence."""
        documents = tuple(self._nonsense_document(dice) for _ in range(dice.randint(2, 3)))
        pairs = tuple(
            self._ask_words(dice, document, number, _random_pieces)
            for document, number in _some_sentences(dice, documents, dice.randint(5, 8))
        )
        return self._finished(dice, documents, pairs, "zh", lambda: _random_word(dice, 2, 4))

    def mixture(self, dice: random.Random) -> Exercise:
        """Sentences of many entries under invented names, asked for by some of their words."""
        lang: Language = "en" if dice.random() < 0.25 else "zh"
        pool = self._sentences[lang]
        documents = tuple(
            Document(
                self._name(dice, lang),
                tuple(dice.choice(pool) for _ in range(dice.randint(2, 4))),
                "" if lang == "zh" else " ",
            )
            for _ in range(dice.randint(2, 3))
        )
        pairs = tuple(
            self._ask_words(dice, document, number, self._pieces)
            for document, number in _some_sentences(dice, documents, dice.randint(4, 6))
        )
        return self._finished(
            dice, documents, pairs, lang, lambda: self._words_of_another(dice, lang)
        )

    def invented(self, dice: random.Random) -> Exercise:
        """Entries about things that do not exist, from grammars, asked for by what is said."""
        documents, pairs = [], []
        for place in range(dice.randint(2, 3)):
            name = self._name(dice, "zh")
            grammars = dice.sample(phrases.GRAMMARS, dice.randint(2, 4))
            said = tuple(_fill(dice, dice.choice(templates), name) for templates, _ in grammars)
            document = Document(name, said)
            documents.append(document)
            about = list(zip(said, grammars, strict=True))
            for sentence, (_, requests) in about if place == 0 else about[:1]:
                request = _framed(dice, dice.choice(requests).format(t=name), "zh")
                pairs.append((request, answer_text(name, sentence)))
        dice.shuffle(pairs)
        return self._finished(
            dice,
            tuple(documents),
            tuple(pairs),
            "zh",
            lambda: dice.choice(dice.choice(phrases.GRAMMARS)[1]).format(t=self._name(dice, "zh")),
        )

    def real(self, dice: random.Random, rename: bool = False) -> Exercise:
        """Entries of the knowledge base with the questions written for them.

        With `rename` every title is swapped for an invented one, in the question as well: what
        was learned by heart about the old name is then of no use.
        """
        lang: Language = "en" if dice.random() < 0.22 else "zh"
        entries = self.neighbours(dice, dice.choice(self._by_lang[lang]), dice.randint(1, 2))
        names = {e.title: self._name(dice, lang) for e in entries} if rename else {}
        documents = tuple(_renamed(entry, names) for entry in entries)
        pairs = []
        for place, (entry, document) in enumerate(zip(entries, documents, strict=True)):
            asked = [
                (_swapped(self.reworded(dice, question), names), _answer(document, question.answer))
                for question in self._questions[entry.id]
            ]
            asked += [
                self._ask_words(dice, document, number, self._pieces)
                for number in range(len(document.sentences))
            ]
            pairs += asked if place == 0 else dice.sample(asked, 1)
        dice.shuffle(pairs)
        return self._finished(
            dice, documents, tuple(pairs), lang, lambda: self._question_of_another(dice, entries)
        )

    def neighbours(self, dice: random.Random, entry: Entry, count: int) -> list[Entry]:
        """`entry` and `count` others of its language, mostly of its topic."""
        same = self._by_topic[entry.lang, entry.topic]
        chosen = [entry]
        while len(chosen) <= count:
            pool = same if dice.random() < 0.75 else self._by_lang[entry.lang]
            other = dice.choice(pool)
            if other not in chosen:
                chosen.append(other)
        return chosen

    def reworded(self, dice: random.Random, question: Question) -> str:
        """The question with a synonym, another frame or a slip of the finger now and then."""
        text = question.text
        if question.lang == "zh" and dice.random() < 0.35:
            text = _with_synonyms(dice, text)
        if dice.random() < 0.35:
            text = _framed(dice, text, question.lang)
        if dice.random() < 0.12:
            text = with_typo(dice, text)
        return text

    @cached_property
    def _entries(self) -> list[Entry]:
        return list(self.material.entries.values())

    @cached_property
    def _by_lang(self) -> dict[str, list[Entry]]:
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in self._entries:
            groups[entry.lang].append(entry)
        return groups

    @cached_property
    def _by_topic(self) -> dict[tuple[str, str], list[Entry]]:
        groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self._entries:
            groups[entry.lang, entry.topic].append(entry)
        return groups

    @cached_property
    def _questions(self) -> dict[str, list[Question]]:
        groups: dict[str, list[Question]] = defaultdict(list)
        for question in self.material.questions:
            groups[question.entry].append(question)
        return groups

    @cached_property
    def _sentences(self) -> dict[str, list[str]]:
        return {
            lang: [sentence for entry in entries for sentence in entry.sentences]
            for lang, entries in self._by_lang.items()
        }

    def _nonsense_document(self, dice: random.Random) -> Document:
        said = []
        for _ in range(dice.randint(2, 4)):
            clauses = (_random_word(dice, 3, 8) for _ in range(dice.choice((1, 1, 2))))
            said.append("，".join(clauses) + "。")
        return Document(self._name(dice, "zh"), tuple(said))

    def _name(self, dice: random.Random, lang: Language) -> str:
        if lang == "en":
            word = "".join(
                dice.choice("bdfgklmnprstvz") + dice.choice("aeiou")
                for _ in range(dice.randint(2, 3))
            )
            return f"{word.capitalize()} {dice.choice(phrases.NAME_ENDINGS_EN)}"
        if dice.random() < 0.3:
            return dice.choice(self._by_lang["zh"]).title
        return _random_word(dice, 1, 3) + dice.choice(phrases.NAME_ENDINGS)

    def _ask_words(
        self,
        dice: random.Random,
        document: Document,
        number: int,
        pieces: Callable[[random.Random, str], list[str]],
    ) -> tuple[str, str]:
        """Ask for sentence `number` (from 0) by one to three of its words."""
        sentence = document.sentences[number]
        found = pieces(dice, sentence.replace(document.title, ""))
        chosen = dice.sample(found, min(len(found), dice.randint(1, 3)))
        chinese = document.joint == ""
        frames = phrases.KEYWORD_ZH if chinese else phrases.KEYWORD_EN
        words = (dice.choice(("", "、", "，", " ")) if chinese else " ").join(chosen)
        if chinese and dice.random() < 0.3:
            words = _with_synonyms(dice, words)
        request = dice.choice(frames).format(t=document.title, k=words)
        return request, answer_text(document.title, sentence, document.joint)

    def _pieces(self, dice: random.Random, sentence: str) -> list[str]:
        if re.search(r"[\u4e00-\u9fff]", sentence):
            return _random_pieces(dice, sentence)
        words = [w.strip(",.;:!?()") for w in sentence.split()]
        return [w for w in words if w and w.lower() not in _STOP_EN] or words

    def _words_of_another(self, dice: random.Random, lang: Language) -> str:
        sentence = dice.choice(self._sentences[lang])
        found = self._pieces(dice, sentence)
        return (" " if lang == "en" else "").join(dice.sample(found, min(len(found), 2)))

    def _question_of_another(self, dice: random.Random, entries: Sequence[Entry]) -> str:
        known = {entry.id for entry in entries}
        while True:
            question = dice.choice(self.material.questions)
            if question.lang == entries[0].lang and question.entry not in known:
                return self.reworded(dice, question)

    def _finished(
        self,
        dice: random.Random,
        documents: tuple[Document, ...],
        pairs: tuple[tuple[str, str], ...],
        lang: Language,
        elsewhere: Callable[[], str],
    ) -> Exercise:
        """The exercise, with some requests that no document answers in place of some others."""
        nothing = phrases.NOTHING_ZH if lang == "zh" else phrases.NOTHING_EN
        mixed = tuple(
            (elsewhere(), nothing) if dice.random() < self.refusals else pair for pair in pairs
        )
        return Exercise(documents, mixed, lang)


def answer_text(title: str, sentence: str, joint: str = "") -> str:
    """An answer names its document first, then quotes: choosing in two steps is easier."""
    return f"关于{title}：{sentence}" if joint == "" else f"About {title}: {sentence}"


def with_typo(dice: random.Random, text: str) -> str:
    """The text with two neighbours swapped, one character lost, or one twice."""
    if len(text) < 4:
        return text
    at = dice.randrange(1, len(text) - 2)
    return dice.choice(
        (
            text[:at] + text[at + 1] + text[at] + text[at + 2 :],
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
        )
    )


def _answer(document: Document, numbers: Sequence[int]) -> str:
    said = document.joint.join(document.sentences[number - 1] for number in numbers)
    return answer_text(document.title, said, document.joint)


def _renamed(entry: Entry, names: dict[str, str]) -> Document:
    title = names.get(entry.title, entry.title)
    said = tuple(_swapped(sentence, names) for sentence in entry.sentences)
    return Document(title, said, entry.joint)


def _swapped(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = re.sub(re.escape(old), new.replace("\\", r"\\"), text, flags=re.IGNORECASE)
    return text


def _some_sentences(
    dice: random.Random, documents: Sequence[Document], count: int
) -> Iterator[tuple[Document, int]]:
    """Places to ask about: every sentence of the first document, and some of the others.

    A retriever puts the right document first most of the time, so that is where most answers are.
    """
    first, *others = ([(d, number) for number in range(len(d.sentences))] for d in documents)
    rest = [place for places in others for place in places]
    chosen = first + dice.sample(rest, min(len(rest), max(1, count - len(first))))
    dice.shuffle(chosen)
    yield from chosen


def _fill(dice: random.Random, template: str, name: str) -> str:
    def slot(match: re.Match[str]) -> str:
        return name if match[1] == "t" else dice.choice(phrases.SLOTS[match[1]])

    return re.sub(r"\{(\w+)\}", slot, template)


def _framed(dice: random.Random, text: str, lang: Language) -> str:
    if lang == "en":
        return dice.choice(phrases.LEADS_EN) + text + dice.choice(phrases.TAILS_EN)
    return dice.choice(phrases.LEADS_ZH) + text.rstrip("？?。") + dice.choice(phrases.TAILS_ZH)


def _with_synonyms(dice: random.Random, text: str) -> str:
    """Each word that has synonyms is replaced by one of them, one time in two."""

    def other(match: re.Match[str]) -> str:
        return dice.choice(_GROUP_OF[match[0]]) if dice.random() < 0.5 else match[0]

    return _SYNONYM.sub(other, text)


_GROUP_OF = {word: group for group in reversed(phrases.SYNONYMS) for word in group}
_SYNONYM = re.compile(
    "|".join(re.escape(word) for word in sorted(_GROUP_OF, key=len, reverse=True) if len(word) > 1)
)
_CHARACTERS = common_characters()


def _random_word(dice: random.Random, least: int, most: int) -> str:
    return "".join(dice.choice(_CHARACTERS) for _ in range(dice.randint(least, most)))


def _random_pieces(dice: random.Random, sentence: str) -> list[str]:
    """Cut a Chinese sentence into pieces of 2 to 4 characters that do not cross punctuation."""
    pieces = []
    for clause in _TRIVIAL.split(sentence):
        start = dice.randrange(2) if len(clause) > 3 else 0
        while start < len(clause):
            size = dice.randint(2, 4)
            piece = clause[start : start + size].strip("".join(_STOP_ZH))
            if piece:
                pieces.append(piece)
            start += size
    return pieces or [sentence]
