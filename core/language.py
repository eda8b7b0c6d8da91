"""Which language a text is written in."""

from __future__ import annotations

import unicodedata

from core.messages import Language


def language_of(text: str) -> Language | None:
    """Chinese, English, or None for a text written in another script.

    Chinese wins wherever a fifth of the letters are Han characters, so that "GORE-TEX 防水吗" is
    a Chinese question. Japanese kana, Hangul, Cyrillic and the like are neither.
    """
    letters = [char for char in text if char.isalpha()]
    if not letters:
        return "zh"
    scripts = [unicodedata.name(char, "").split(" ")[0] for char in letters]
    han = scripts.count("CJK")
    latin = sum(name in ("LATIN", "FULLWIDTH") for name in scripts)
    if len(letters) - han - latin > len(letters) * 0.3:
        return None
    return "zh" if han * 5 >= len(letters) else "en"
