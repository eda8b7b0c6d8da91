"""An entry said the way people talk: the same facts in the same order, in spoken words.

Machine-made, and so of few kinds: the base model and a part of the SFT rows meet them, because
DPO can only move probability between answers that the model already gives. For the same reason
DPO of the shipped model learns from them; hand-written talk (`data/spoken.jsonl`) is for larger
models, and for measuring.
"""

from __future__ import annotations

import random
import re

from core.manner import in_talk
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
    words = in_talk(said, lang)
    if lang == "zh":
        words = re.sub(rf"^{re.escape(title)}(?:指的)?是", "就是", words).rstrip("。")
    opener = dice.choice(OPENERS[lang]).format(t=title)
    return f"{opener}{words}{dice.choice(CLOSERS[lang])}"


def spoken_entry(dice: random.Random, entry: Entry) -> str:
    """The whole entry in talk."""
    return spoken(dice, entry.title, entry.text, entry.lang)
