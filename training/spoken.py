"""An entry said the way people talk: the same facts in the same order, in spoken words.

Machine-made, and so of few kinds: the base model and a part of the SFT rows meet them, because
DPO can only move probability between answers that the model already gives. For the same reason
DPO of the shipped model learns from them; hand-written talk (`data/spoken.jsonl`) is for larger
models, and for measuring.
"""

from __future__ import annotations

import random
import re

from core.messages import Language
from training.material import Entry

OPENERS: dict[Language, tuple[str, ...]] = {
    "zh": ("哈喽，{t}嘛，", "哈喽，说到{t}嘛，", "嗨，{t}啊，", "嗨，说起{t}，"),
    "en": ("Hey! So, {t}: ", "Hey! About {t}: ", "Hi there! {t}, right: ", "Hi there! So, {t}: "),
}
CLOSERS: dict[Language, tuple[str, ...]] = {
    "zh": ("哦～", "啦～", "呢～", "哈～"),
    "en": (" Hope that helps!", " That's it!", " Easy!", " Enjoy!"),
}
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
_OPENED: dict[Language, re.Pattern[str]] = {
    "zh": re.compile(r"^(?:哈喽|嗨|嘿|诶|哎)"),
    "en": re.compile(r"^(?:hey|hi there|hiya)\b", re.IGNORECASE),
}
_CLOSED: dict[Language, re.Pattern[str]] = {
    "zh": re.compile(r"[啦哦呢呀哈喔嘛哟][～~！!。]*$"),
    "en": re.compile(r"!$"),
}


def is_spoken(text: str, lang: Language) -> bool:
    """Whether an answer opens like talk (`哈喽`, `Hey`) or ends like it (`哦～`, an "!")."""
    text = text.strip()
    return bool(_OPENED[lang].search(text) or _CLOSED[lang].search(text))


def spoken(dice: random.Random, title: str, said: str, lang: Language) -> str:
    """What `said` says about `title`, in talk: an opener, spoken words, a closer."""
    words = said
    for written, talk in _SAID[lang]:
        words = re.sub(written, talk, words)
    if lang == "zh":
        words = re.sub(rf"^{re.escape(title)}(?:指的)?是", "就是", words).rstrip("。")
    opener = dice.choice(OPENERS[lang]).format(t=title)
    return f"{opener}{words}{dice.choice(CLOSERS[lang])}"


def spoken_entry(dice: random.Random, entry: Entry) -> str:
    """The whole entry in talk."""
    return spoken(dice, entry.title, entry.text, entry.lang)
