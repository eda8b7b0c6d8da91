"""Text for the base model: plain entries, and reading exercises made by machine without end.

An exercise is a few documents and requests that each ask for one document or one sentence of them.
The names, the documents around the right one and the wording change every time, so that only
reading helps. All of it is in the base's own form (`查：… 得：…`, or `聊：… 答：…` where the answer
is to be talk), never in the form of a chat.
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
from training.spoken import spoken
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


Place = tuple[int, int]


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
class Request:
    """What is asked and its answer; `place` is where the answer is found, if it is anywhere.

    A place is the document, counted from 0, and the sentence in it. `talk` asks for an answer in
    spoken words.
    """

    text: str
    answer: str
    place: Place | None = None
    talk: bool = False


@dataclass(frozen=True, slots=True)
class Exercise:
    """Documents, then independent requests: for `whole` documents or for sentences of them."""

    documents: tuple[Document, ...]
    requests: tuple[Request, ...]
    lang: Language
    whole: bool = False

    @property
    def reading(self) -> str:
        """The part that every request sees."""
        return "\n".join(
            f"<doc {number} {document.title}>\n{document.text}\n</doc>"
            for number, document in enumerate(self.documents, 1)
        )


def request_text(request: Request) -> str:
    """A request as the base reads it, up to where its answer starts."""
    return f"\n聊：{request.text}\n答：" if request.talk else f"\n查：{request.text}\n得："


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request before it is known how it is to be answered; `numbers` are sentences, from 0."""

    text: str
    document: int
    numbers: tuple[int, ...]


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
    refusals: float = 0.12
    english: float = 0.3
    whole: float = 0.55
    talk: float = 0.2

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
        """Documents of random characters or words, asked for by some words of one sentence."""
        lang = self._language(dice)
        documents = tuple(self._nonsense_document(dice, lang) for _ in range(dice.randint(2, 3)))
        asked = self._ask_some(dice, documents, dice.randint(5, 8), self._pieces)
        return self._finished(dice, documents, asked, lang, lambda: self._random_words(dice, lang))

    def mixture(self, dice: random.Random) -> Exercise:
        """Sentences of many entries under invented names, asked for by some of their words."""
        lang = self._language(dice)
        pool = self._sentences[lang]
        documents = tuple(
            Document(
                self._name(dice, lang),
                tuple(dice.choice(pool) for _ in range(dice.randint(2, 4))),
                _JOINT[lang],
            )
            for _ in range(dice.randint(2, 3))
        )
        asked = self._ask_some(dice, documents, dice.randint(4, 6), self._pieces)
        return self._finished(
            dice, documents, asked, lang, lambda: self._words_of_another(dice, lang)
        )

    def invented(self, dice: random.Random) -> Exercise:
        """Entries about things that do not exist, from grammars, asked for by what is said."""
        documents: list[Document] = []
        asked: list[_Asked] = []
        for place in range(dice.randint(2, 3)):
            name = self._name(dice, "zh")
            grammars = dice.sample(phrases.GRAMMARS, dice.randint(2, 4))
            said = tuple(_fill(dice, dice.choice(templates), name) for templates, _ in grammars)
            documents.append(Document(name, said))
            for number, (_, requests) in enumerate(grammars if place == 0 else grammars[:1]):
                text = _framed(dice, dice.choice(requests).format(t=name), "zh")
                asked.append(_Asked(text, place, (number,)))
        return self._finished(
            dice,
            tuple(documents),
            asked,
            "zh",
            lambda: dice.choice(dice.choice(phrases.GRAMMARS)[1]).format(t=self._name(dice, "zh")),
        )

    def real(self, dice: random.Random, rename: bool = False) -> Exercise:
        """Entries of the knowledge base with the questions written for them.

        With `rename` every title is swapped for an invented one, in the question as well: what
        was learned by heart about the old name is then of no use.
        """
        lang = self._language(dice)
        entries = self.neighbours(dice, dice.choice(self._by_lang[lang]), dice.randint(1, 2))
        titles = [entry.title for entry in entries] if rename else []
        names = self.invented_names(dice, titles, lang)
        documents = tuple(_renamed(entry, names) for entry in entries)
        asked: list[_Asked] = []
        for place, (entry, document) in enumerate(zip(entries, documents, strict=True)):
            about = [
                _Asked(
                    swapped(self.reworded(dice, question), names),
                    place,
                    tuple(number - 1 for number in question.answer),
                )
                for question in self._questions[entry.id]
            ]
            about += [
                _Asked(self._by_words(dice, document, number, self._pieces), place, (number,))
                for number in range(len(document.sentences))
            ]
            asked += about if place == 0 else dice.sample(about, 1)
        return self._finished(
            dice, documents, asked, lang, lambda: self._question_of_another(dice, entries)
        )

    def invented_names(
        self, dice: random.Random, titles: Sequence[str], lang: Language
    ) -> dict[str, str]:
        """A name that does not exist for each of the titles, no two alike."""
        names: dict[str, str] = {}
        for title in titles:
            while (name := self._name(dice, lang)) in names.values():
                continue
            names[title] = name
        return names

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

    def _language(self, dice: random.Random) -> Language:
        return "en" if dice.random() < self.english else "zh"

    def _nonsense_document(self, dice: random.Random, lang: Language) -> Document:
        said = []
        for _ in range(dice.randint(2, 4)):
            clauses = [self._random_words(dice, lang) for _ in range(dice.choice((1, 1, 2)))]
            said.append("，".join(clauses) + "。" if lang == "zh" else ", ".join(clauses) + ".")
        return Document(self._name(dice, lang), tuple(said), _JOINT[lang])

    def _random_words(self, dice: random.Random, lang: Language) -> str:
        if lang == "zh":
            return _random_word(dice, 3, 8)
        return " ".join(dice.choice(self._english_words) for _ in range(dice.randint(3, 7)))

    @cached_property
    def _english_words(self) -> list[str]:
        said = " ".join(self._sentences["en"])
        return sorted({word.strip(",.;:!?()") for word in said.split()} - {""})

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

    def _ask_some(
        self,
        dice: random.Random,
        documents: Sequence[Document],
        count: int,
        pieces: Callable[[random.Random, str], list[str]],
    ) -> list[_Asked]:
        """Ask for some sentences of the documents by their words."""
        return [
            _Asked(self._by_words(dice, documents[place], number, pieces), place, (number,))
            for place, number in _some_sentences(dice, documents, count)
        ]

    def _by_words(
        self,
        dice: random.Random,
        document: Document,
        number: int,
        pieces: Callable[[random.Random, str], list[str]],
    ) -> str:
        """Ask for sentence `number` (from 0) by one to three of its words."""
        sentence = document.sentences[number]
        found = pieces(dice, sentence.replace(document.title, ""))
        chosen = dice.sample(found, min(len(found), dice.randint(1, 3)))
        chinese = document.joint == ""
        frames = phrases.KEYWORD_ZH if chinese else phrases.KEYWORD_EN
        words = (dice.choice(("", "、", "，", " ")) if chinese else " ").join(chosen)
        if chinese and dice.random() < 0.3:
            words = _with_synonyms(dice, words)
        return dice.choice(frames).format(t=document.title, k=words)

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
        asked: Sequence[_Asked],
        lang: Language,
        elsewhere: Callable[[], str],
    ) -> Exercise:
        """The exercise, with some requests that no document answers in place of some others."""
        whole = dice.random() < self.whole
        kept = dice.sample(asked, min(len(asked), _MOST_WHOLE if whole else len(asked)))
        nothing = phrases.NOTHING_ZH if lang == "zh" else phrases.NOTHING_EN
        requests = tuple(
            Request(elsewhere(), nothing)
            if dice.random() < self.refusals
            else self._answered(dice, one, documents[one.document], whole, lang)
            for one in kept
        )
        return Exercise(documents, requests, lang, whole)

    def _answered(
        self, dice: random.Random, asked: _Asked, document: Document, whole: bool, lang: Language
    ) -> Request:
        numbers = range(len(document.sentences)) if whole else asked.numbers
        said = document.joint.join(document.sentences[number] for number in numbers)
        talk = dice.random() < self.talk
        answer = (
            spoken(dice, document.title, said, lang)
            if talk
            else answer_text(document.title, said, lang)
        )
        return Request(asked.text, answer, (asked.document, asked.numbers[0]), talk)


_JOINT: dict[Language, str] = {"zh": "", "en": " "}
_MOST_WHOLE = 4  # requests for whole documents in one exercise: their answers are long


def answer_text(title: str, said: str, lang: Language) -> str:
    """An answer names its document first, then quotes: choosing in two steps is easier."""
    return f"关于{title}：{said}" if lang == "zh" else f"About {title}: {said}"


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


def _renamed(entry: Entry, names: dict[str, str]) -> Document:
    title = names.get(entry.title, entry.title)
    said = tuple(swapped(sentence, names) for sentence in entry.sentences)
    return Document(title, said, entry.joint)


def swapped(text: str, names: dict[str, str]) -> str:
    """The text with every name that is a key replaced, whatever its case."""
    for old, new in names.items():
        text = re.sub(re.escape(old), new.replace("\\", r"\\"), text, flags=re.IGNORECASE)
    return text


def _some_sentences(
    dice: random.Random, documents: Sequence[Document], count: int
) -> Iterator[Place]:
    """Places to ask about: every sentence of the first document, and some of the others.

    A retriever puts the right document first most of the time, so that is where most answers are.
    """
    first, *others = (
        [(place, number) for number in range(len(document.sentences))]
        for place, document in enumerate(documents)
    )
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
