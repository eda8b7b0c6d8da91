"""Greetings, thanks and goodbyes: answered by hand, because no passage is about them."""

from __future__ import annotations

import re

_KINDS = {
    "greeting": re.compile(
        r"(你好|您好|嗨|哈喽|在吗|在不在|早上好|上午好|下午好|晚上好|你是谁|你叫什么(名字)?|你能做什么|你会什么|"
        r"hi|hello|hey|good (morning|afternoon|evening)|who are you|what can you do|help)"
        r"( there| solemate)?[呀啊吗呢]?",
        re.IGNORECASE,
    ),
    "thanks": re.compile(
        r"(谢谢|多谢|感谢|谢啦|谢了|辛苦了|明白了|懂了|知道了|thanks|thank you|thx|cheers|got it)"
        r"(你|您|啦|了|哦| a lot| so much| very much)*",
        re.IGNORECASE,
    ),
    "goodbye": re.compile(
        r"(再见|拜拜|回头见|下次聊|bye|goodbye|bye bye|see you)(啦|了| later)?", re.IGNORECASE
    ),
}
_PUNCTUATION = re.compile(r"[\s。．.!！?？~～,，、…]+")


def small_talk(text: str) -> str | None:
    """The key of the sentence that answers this greeting, thanks or goodbye, or None.

    Of several, as in "谢谢，再见", the last one counts.
    """
    parts = [part for part in _PUNCTUATION.split(text.strip()) if part]
    plain = " ".join(parts)
    for kind, pattern in _KINDS.items():
        if plain and pattern.fullmatch(plain):
            return kind
    if 1 < len(parts) <= 3:
        kinds = [small_talk(part) for part in parts]
        return kinds[-1] if all(kinds) else None
    return None


def has_words(text: str) -> bool:
    """Whether there is anything to search for: a letter or a digit in any script."""
    return any(char.isalnum() for char in text)
