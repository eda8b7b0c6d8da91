"""Figures in texts: numbers in digits and in words, Chinese and English, with their units."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from decimal import Decimal

UNITS = {
    "毫米": "mm", "厘米": "cm", "公分": "cm", "米": "m", "公里": "km", "千米": "km",
    "克": "g", "千克": "kg", "公斤": "kg", "小时": "h", "分钟": "min", "秒": "s",
    "天": "day", "周": "week", "个月": "month", "月": "month", "年": "year", "岁": "year",
    "度": "°c", "℃": "°c", "°c": "°c", "焦耳": "j", "焦": "j", "码": "size", "号": "size",
    "mm": "mm", "millimetre": "mm", "millimeter": "mm", "cm": "cm", "centimetre": "cm",
    "centimeter": "cm", "m": "m", "metre": "m", "meter": "m", "km": "km", "kilometre": "km",
    "kilometer": "km", "g": "g", "gram": "g", "kg": "kg", "kilogram": "kg", "hour": "h",
    "h": "h", "minute": "min", "min": "min", "second": "s", "day": "day", "week": "week",
    "month": "month", "year": "year", "j": "j", "joule": "j", "inch": "inch", "inches": "inch",
    "英寸": "inch", "size": "size",
    "%": "%", "percent": "%", "倍": "x", "times": "x",
}  # fmt: skip
_UNIT = "|".join(sorted((re.escape(unit) for unit in UNITS), key=len, reverse=True))
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:[./]\d+)?)"
_QUANTITY = re.compile(
    rf"(?P<first>{_NUMBER})(?:\s*(?:[-–—~～到至]|to|and|or|或)\s*(?P<last>{_NUMBER}))?"
    rf"\s*(?P<unit>(?:{_UNIT})s?(?![a-z]))?",
    re.IGNORECASE,
)
DIGITS = "一二三四五六七八九两"
_HAN_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2}
_HAN_PLACES = {"十": 10, "百": 100, "千": 1000, "万": 10_000}
# A lone 十, 百 or 一 is part of too many words (十分, 百搭, 一般), so it needs a unit behind it.
_HAN_NUMBER = re.compile(
    rf"[{DIGITS}](?:[十百万]|千(?![米克]))(?:[零十百万{DIGITS}]|千(?![米克]))*"
    rf"|十[{DIGITS}]|[十半{DIGITS}](?=\s*(?:{_UNIT}))"
)
ENGLISH_NUMBERS = {
    "half": "0.5", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
    "fifteen": "15", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60",
    "ninety": "90", "hundred": "100",
}  # fmt: skip
_ENGLISH = "|".join(ENGLISH_NUMBERS)
_ENGLISH_NUMBER = re.compile(
    rf"\b(?P<word>{_ENGLISH})[\s-]+(?:an?\s+)?(?=(?:{_UNIT})s?\b)", re.IGNORECASE
)
Quantity = tuple[str, str]
"""A number as it is written at its shortest, and its unit; "" for none."""


def holds(known: Collection[Quantity], value: str, unit: str) -> bool:
    """Whether these figures hold one; without a unit any of the same value will do."""
    if unit:
        return (value, unit) in known or (value, "") in known
    return any(value == other for other, _ in known)


def quantities(text: str) -> set[Quantity]:
    """(number, unit) pairs of a text; a range gives its unit to both ends, "" means no unit."""
    found: set[Quantity] = set()
    # NFKC would make 81/2 of 8½.
    text = re.sub(r"(\d*)½", lambda match: f"{match[1] or 0}.5", text)
    text = unicodedata.normalize("NFKC", text)
    text = _HAN_NUMBER.sub(lambda match: _han_value(match.group()), text)
    text = _ENGLISH_NUMBER.sub(lambda match: f"{ENGLISH_NUMBERS[match['word'].casefold()]} ", text)
    for match in _QUANTITY.finditer(text):
        spelled = (match["unit"] or "").casefold()
        unit = UNITS.get(spelled) or UNITS.get(spelled.removesuffix("s"), "")
        found.add((_canonical(match["first"]), unit))
        if match["last"]:
            found.add((_canonical(match["last"]), unit))
    return found


def _canonical(number: str) -> str:
    """One spelling for 1,000 and 1000, for 25.0 and 25; a fraction stays as it is."""
    return number if "/" in number else f"{Decimal(number.replace(',', '')).normalize():f}"


def _han_value(text: str) -> str:
    """A Chinese numeral in digits: 半 0.5, 十二 12, 三百 300, 一万二千 12000."""
    if text == "半":
        return "0.5"
    total = section = current = 0
    for char in text:
        if char in _HAN_DIGITS:
            current = _HAN_DIGITS[char]
        elif char == "万":
            total, section, current = (total + section + current) * _HAN_PLACES[char], 0, 0
        else:
            section, current = section + (current or 1) * _HAN_PLACES[char], 0
    return str(total + section + current)
