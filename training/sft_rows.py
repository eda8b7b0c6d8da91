"""Knowledge and questions -> the SFT rows of `data/shoes.jsonl`, in LLaMA-Factory's Alpaca format.

The prompt of every row is what `core.prompt.build_prompt` makes of the same passages, tags and
history: the model is taught in exactly the words in which it will be asked. Answers quote: one
constant frame, the title, and the whole passage that answers. So small a model can find the right
passage and say it without a slip; told to choose among its sentences, it often chose wrong.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from core.errors import DataError
from core.messages import ChatMessage, ImageTag, Language, Passage
from core.prompt import build_prompt
from training import phrases
from training.corpus import Corpus, answer_text
from training.material import Entry, Question
from training.spoken import spoken_entry

LEAST_ROWS = 3_000


@dataclass(frozen=True, slots=True)
class Row:
    """One training example: the prompt as chat messages, and the answer. `kind` is for reports.

    `entry` is the id of the entry that answers, "" if there is none or are two.
    """

    prompt: tuple[ChatMessage, ...]
    output: str
    kind: str
    entry: str = ""

    def alpaca(self) -> dict[str, str | list[list[str]]]:
        """The columns instruction, input, output, system and history."""
        system, *rounds, asked = self.prompt
        history = [
            [first.content, second.content]
            for first, second in zip(rounds[::2], rounds[1::2], strict=True)
        ]
        return {
            "instruction": asked.content,
            "input": "",
            "output": self.output,
            "system": system.content,
            "history": history,
        }


@dataclass(frozen=True, slots=True)
class Shares:
    """How many rows of each other kind there are to one plain question with its passages.

    `talked` are such questions answered in talk: few, so that talk is not what the model does by
    itself, but enough that DPO finds it there (reference figures: 10 to 30 of 100 rows).
    """

    refused: float = 0.15
    followed: float = 0.06
    photographed: float = 0.06
    compared: float = 0.04
    greeted: float = 0.015
    talked: float = 0.5


def framed_answer(title: str, said: str, lang: Language) -> str:
    """The frame of every answer: which entry it is about, then that entry's own words."""
    return f"{'您好，' if lang == 'zh' else ''}{answer_text(title, said, lang)}"


def make_rows(
    corpus: Corpus, seed: int, repeats: int = 2, shares: Shares | None = None
) -> list[Row]:
    """Rows for every question of the material, `repeats` times in other company and wording.

    The same material and seed give the same rows in the same order. Every trainable entry is the
    answer of at least `repeats` rows.
    """
    shares = shares or Shares()
    maker = RowMaker(corpus, random.Random(seed))
    rows = [
        maker.answered(question, reworded=turn > 0)
        for turn in range(repeats)
        for question in corpus.material.questions
    ]
    kinds: tuple[tuple[Callable[[], Row], float], ...] = (
        (maker.refused, shares.refused),
        (maker.followed, shares.followed),
        (maker.photographed, shares.photographed),
        (maker.compared, shares.compared),
        (maker.greeted, shares.greeted),
        (maker.talked, shares.talked),
    )
    single = len(rows)
    for make, share in kinds:
        rows += [make() for _ in range(round(single * share))]
    rows = list(dict.fromkeys(rows))  # there are few ways to say hello
    maker.dice.shuffle(rows)
    return rows


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Write the rows as JSON lines; how many there were.

    Raises `DataError` when there are fewer than `LEAST_ROWS`: too few to train on.
    """
    lines = [json.dumps(row.alpaca(), ensure_ascii=False) for row in rows]
    if len(lines) < LEAST_ROWS:
        raise DataError(
            f"Only {len(lines)} training rows, {LEAST_ROWS} are needed: add questions to "
            "data/questions.jsonl."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(lines)


@dataclass
class RowMaker:
    """Makes one row at a time; the same dice make the same rows."""

    corpus: Corpus
    dice: random.Random

    def answered(self, question: Question, *, reworded: bool) -> Row:
        """The question among confusable passages, answered with the right one."""
        entry = self._entry(question)
        asked = self.corpus.reworded(self.dice, question) if reworded else question.text
        prompt = build_prompt(asked, language=entry.lang, passages=self._company([entry]))
        return Row(prompt, _answer(entry), "answered", entry.id)

    def talked(self) -> Row:
        """A question that is answered the way people talk."""
        row = self.answered(self.dice.choice(self.corpus.material.questions), reworded=True)
        entry = self.corpus.material.entries[row.entry]
        return Row(row.prompt, spoken_entry(self.dice, entry), "talked", entry.id)

    def refused(self) -> Row:
        """Wrong passages, a matter that passages never hold, another field, or no passages."""
        kinds = {
            self._wrong_passages: 0.5,
            self._beyond_passages: 0.25,
            self._another_field: 0.2,
            self._no_passages: 0.05,
        }
        lang = self._some_language()
        asked, passages = self.dice.choices(list(kinds), list(kinds.values()))[0](lang)
        refusals = phrases.REFUSED_ZH if lang == "zh" else phrases.REFUSED_EN
        prompt = build_prompt(asked, language=lang, passages=passages)
        return Row(prompt, self.dice.choice(refusals), "refused")

    def followed(self) -> Row:
        """A second question that says "it" for what the first one named."""
        first, second = self._pair_about_one_entry()
        entry = self._entry(first)
        company = self._company([entry])
        asked = with_pronoun(second.text, entry)
        if asked is None:
            # Dice of its own, so that all other rows stay as they are.
            dice = random.Random(f"{first.text}\n{second.text}\n{company}")
            return RowMaker(self.corpus, dice).followed()
        history = (
            ChatMessage("user", first.text),
            ChatMessage("assistant", _first_sentence(entry)),
        )
        prompt = build_prompt(asked, language=entry.lang, passages=company, history=history)
        return Row(prompt, _answer(entry), "followed", entry.id)

    def photographed(self) -> Row:
        """A question with what was seen in a photo; the answer says so before it quotes."""
        question = self.dice.choice(self.corpus.material.questions)
        entry = self._entry(question)
        tags = self._tags()
        prompt = build_prompt(
            question.text, language=entry.lang, passages=self._company([entry]), tags=tags
        )
        said = _seen(tags, entry.lang) + _answer(entry)
        return Row(prompt, said, "photographed", entry.id)

    def compared(self) -> Row:
        """Two kinds of shoe or material set side by side: the first sentence of each."""
        lang = self._some_language()
        one, other = self.dice.sample(self._comparable[lang], 2)
        frames = phrases.COMPARE_ZH if lang == "zh" else phrases.COMPARE_EN
        asked = self.dice.choice(frames).format(a=_spoken_title(one), b=_spoken_title(other))
        prompt = build_prompt(asked, language=lang, passages=self._company([one, other]))
        second = _first_sentence(other).removeprefix("您好，")
        return Row(prompt, f"{_first_sentence(one)}{one.joint}{second}", "compared")

    def greeted(self) -> Row:
        """Small talk."""
        lang = self._some_language()
        said, answer = self.dice.choice(phrases.TALK_ZH if lang == "zh" else phrases.TALK_EN)
        return Row(build_prompt(said, language=lang), answer, "greeted")

    @cached_property
    def _comparable(self) -> dict[str, list[Entry]]:
        """Entries that say what something is, and so can be set beside one another."""
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.corpus.material.entries.values():
            if entry.sentences[0].lower().startswith(f"{_spoken_title(entry)}{_IS[entry.lang]}"):
                groups[entry.lang].append(entry)
        return groups

    @cached_property
    def _by_lang(self) -> dict[str, list[Question]]:
        groups: dict[str, list[Question]] = defaultdict(list)
        for question in self.corpus.material.questions:
            groups[self._entry(question).lang].append(question)
        return groups

    @cached_property
    def _by_entry(self) -> dict[str, list[Question]]:
        groups: dict[str, list[Question]] = defaultdict(list)
        for question in self.corpus.material.questions:
            groups[question.entry].append(question)
        return groups

    def _wrong_passages(self, lang: Language) -> tuple[str, list[Passage]]:
        """A question about another entry; seldom a colloquial one.

        A colloquial question hardly names its matter: refusing many of them would teach to refuse
        whatever is worded freely.
        """
        passages = self._company([self._some_entry(lang)])
        known = {passage.id for passage in passages}
        while True:
            question = self.dice.choice(self._by_lang[lang])
            welcome = question.style == "plain" or self.dice.random() < 0.3
            if question.entry not in known and welcome:
                return self.corpus.reworded(self.dice, question), passages

    def _beyond_passages(self, lang: Language) -> tuple[str, list[Passage]]:
        entry = self._some_entry(lang)
        frames = phrases.BEYOND_ZH if lang == "zh" else phrases.BEYOND_EN
        return self.dice.choice(frames).format(t=_spoken_title(entry)), self._company([entry])

    def _another_field(self, lang: Language) -> tuple[str, list[Passage]]:
        asked = self.dice.choice(phrases.ELSEWHERE_ZH if lang == "zh" else phrases.ELSEWHERE_EN)
        return asked, self._company([self._some_entry(lang)])

    def _no_passages(self, lang: Language) -> tuple[str, list[Passage]]:
        return self._another_field(lang)[0], []

    def _company(self, wanted: Sequence[Entry]) -> list[Passage]:
        """The wanted entries before confusable ones, as retrieval mostly has them; 2 or 3."""
        others = self.corpus.neighbours(self.dice, wanted[0], 3)[1:]
        count = self.dice.choices((2, 3), (0.25, 0.75))[0]
        known = {entry.id for entry in wanted}
        company = [*wanted, *(entry for entry in others if entry.id not in known)][:count]
        if self.dice.random() > _FIRST:
            self.dice.shuffle(company)
        return [entry.passage() for entry in company]

    def _entry(self, question: Question) -> Entry:
        return self.corpus.material.entries[question.entry]

    def _some_entry(self, lang: Language) -> Entry:
        return self._entry(self.dice.choice(self._by_lang[lang]))

    def _some_language(self) -> Language:
        return "en" if self.dice.random() < 0.22 else "zh"

    def _pair_about_one_entry(self) -> tuple[Question, Question]:
        """Two questions with different answers about one entry; the second names it."""
        while True:
            second = self.dice.choice(self.corpus.material.questions)
            if self._entry(second).title.lower() not in second.text.lower():
                continue
            others = [
                question
                for question in self._by_entry[second.entry]
                if question.answer != second.answer
            ]
            if others:
                return self.dice.choice(others), second

    def _tags(self) -> tuple[ImageTag, ...]:
        chosen = self.dice.sample(phrases.TAGS, self.dice.choices((1, 2), (0.75, 0.25))[0])
        sure = self.dice.random() < 0.6
        return tuple(
            ImageTag(name, phrase, "colour", self.dice.uniform(0.4, 0.99), sure)
            for name, phrase in chosen
        )


# Of this share of the prompts the right passage is first for sure, and of the rest by chance: so
# small a model hardly learns which passage is meant, and one trained without the habit of trusting
# the first quoted the right one less often (42 instead of 68 of 100 Chinese questions).
_FIRST = 0.7
_IS: dict[Language, str] = {"zh": "是", "en": " "}


def _answer(entry: Entry) -> str:
    return framed_answer(entry.title, entry.text, entry.lang)


def _first_sentence(entry: Entry) -> str:
    return framed_answer(entry.title, entry.sentences[0], entry.lang)


def _seen(tags: Sequence[ImageTag], lang: Language) -> str:
    if lang == "zh":
        names = "、".join(tag.name for tag in tags)
        return f"照片里{'' if tags[0].sure else '可能'}是{names}。"
    names = " and ".join(tag.phrase for tag in tags)
    return f"The photo shows {'' if tags[0].sure else 'about '}{names}. "


def with_pronoun(text: str, entry: Entry) -> str | None:
    """The question with a pronoun for the entry's title; None where none can stand for it.

    One can where the title is a whole noun phrase, as subject or object: not in "leopard print
    shoes", not in "徒步选什么成分的羊毛袜". Which places those are is told by the words around.
    """
    if entry.lang == "zh":
        title = re.escape(entry.title)
        for place in (rf"^{title}(?={_AFTER_ZH})", rf"{_BEFORE_ZH}{title}(?={_END_ZH})"):
            if re.search(place, text):
                return f"那{text.replace(entry.title, '它', 1)}"
        return None
    found = re.search(
        rf"\b(?P<before>{_SUBJECT_EN}|{_OBJECT_EN}) (?:an? |the )?{re.escape(entry.title)}"
        rf"(?=\?|{_AFTER_EN})",
        text,
        re.IGNORECASE,
    )
    if found is None:
        return None
    before = found["before"]
    pronoun = _pronoun_en(before.lower(), entry.title)
    return f"{text[: found.start()]}{before} {pronoun}{text[found.end() :]}"


# The words between which a title is the subject or an object, with nothing before that qualifies
# it and nothing after that it qualifies.
_SUBJECT_EN = "is|are|do|does|should|can"
_OBJECT_EN = "about|with|between|in|choose|wear|hide|have|uses?|causes?"
_AFTER_EN = (
    r" (?:for|like|made|used|measured|produced|worked out|come from|mean|need|do|be|be \w+"
    r"|have|stay|shine|protect|measure|differ)\b"
)
_AFTER_ZH = (
    r"(?:是(?!什么原因)|有|的(?!鞋(?![底面头眼耳带跟帮身舌垫筒])|靴|人)|和|跟(?!部)|为什么|为何|适合|能|可以"
    r"|会|比|指的|一般|主要|最|往下|穿|靠|怕|怎么(?:补救|系|拉|选)|用(?:什么|来)|应该(?!什么)|该选)"
)
_BEFORE_ZH = "(?:[能该要买]|[^可适]穿|为什么放|没有|预防|判断|检查|常用|需要买)"
_END_ZH = "(?:？|吗|够|稳|就)"


def _pronoun_en(before: str, title: str) -> str:
    """`it`, `they` or `them`: the verb tells the number, or else the title does."""
    plural = {"is": False, "does": False, "are": True, "do": True}.get(before, _is_plural(title))
    if not plural:
        return "it"
    return "they" if re.fullmatch(_SUBJECT_EN, before) else "them"


def _is_plural(title: str) -> bool:
    head = re.split(r" (?:of|for|on|in) ", title)[0]
    return head.endswith("s") and not head.endswith(("ss", "is", "us"))


def _spoken_title(entry: Entry) -> str:
    return entry.title if entry.lang == "zh" else entry.title.lower()
