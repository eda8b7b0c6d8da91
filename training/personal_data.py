"""Personal data in texts -> blanks: mail and postal addresses, telephone, card and other numbers.

Only people's own words are looked at; the documents in a prompt are the shop's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from core.messages import ChatMessage
from training.rows import split_question

# Where the people who ask are likely to have their telephones; +… is understood anywhere.
_REGIONS = ("CN", "US", "GB", "DE", "FR", "JP", "ES")
# Chinese puts no space between words and numbers: what may not stand beside one is Latin only.
_LEFT, _RIGHT = r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_-])"
_NUMBERED = r"(?:编?号码?|\s*(?:number|no\b\.?|id\b|code))*\s*(?:是|为|is)?[\s:：#＃]*"
_CODE = r"(?P<it>(?=[A-Z_-]{0,12}\d)[A-Z0-9](?:[A-Z0-9_-]|\s(?=\d)){4,30})"
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    # Names of all alphabets that put spaces between words: Latin, Greek, Cyrillic.
    (
        "email",
        re.compile(r"[A-Za-z0-9À-\u052f_.+-]+\s?[@＠]\s?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"),
    ),
    (
        "order",
        re.compile(
            r"(?:订单|单号|快递|运单|物流|(?<![A-Z])(?:order|tracking|parcel|invoice))"
            rf"{_NUMBERED}{_CODE}",
            re.IGNORECASE,
        ),
    ),
    (
        "order",
        re.compile(
            r"(?P<it>(?<![\d.-])(?:\d{8,}|[#＃]\d{4,}))\s*(?:这个|那个|这|的)?(?:订单|快递|包裹|单子)"
        ),
    ),
    # What couriers and big shops write on parcels.
    ("order", re.compile(rf"{_LEFT}(?:SF|YT|JD[A-Z]*|ZTO|STO|EMS|1Z)\d[A-Z0-9]{{9,17}}{_RIGHT}")),
    ("order", re.compile(rf"{_LEFT}\d{{3}}-\d{{7}}-\d{{7}}{_RIGHT}")),
    (
        "account",
        re.compile(
            r"(?:微信|会员|账号|护照|身份证|证件"
            r"|(?<![A-Z])(?:wechat|weixin|vx|qq|member(?:ship)?|account|passport|telegram"
            r"|id (?:card|number)))"
            rf"{_NUMBERED}{_CODE}",
            re.IGNORECASE,
        ),
    ),
    (
        "account",
        re.compile(
            r"(?:微信号?|(?<![A-Z])(?:wechat|vx)(?: id)?)\s*(?:[:：是]|is)\s*"
            r"(?P<it>[A-Z][\w-]{5,19})",
            re.IGNORECASE | re.ASCII,
        ),
    ),
    (
        "account",
        re.compile(
            rf"{_LEFT}(?P<it>[A-Z]{{0,2}}\d{{7,17}}[\dX])\s*(?:是|is)\s*(?:我的|my\b)",
            re.IGNORECASE,
        ),
    ),
    ("account", re.compile(r"(?<![A-Za-z0-9_.@])@[A-Za-z]\w{4,}", re.ASCII)),
    # An identity card, a bank account: no figure about shoes is so long.
    ("number", re.compile(rf"{_LEFT}\d{{11,18}}[\dXx]{_RIGHT}")),
    # A number of the American social security.
    ("number", re.compile(rf"{_LEFT}\d{{3}}-\d{{2}}-\d{{4}}{_RIGHT}")),
    (
        "number",
        re.compile(
            rf"{_LEFT}[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]{{4}}){{3,7}}(?: ?[A-Z0-9]{{1,3}})?{_RIGHT}"
        ),
    ),
    ("phone", re.compile(r"(?<!\d)1[3-9]\d(?:[ -]?\d{4}){2}(?!\d)")),
    ("phone", re.compile(r"\+\d{1,3}(?:[ .()-]{0,2}\d){8,12}(?!\d)")),
    (
        "address",
        re.compile(
            # Who walks or shops in a size 42 has told no address.
            r"[\u4e00-\u9fff]{2,30}(?:(?<![走跑赶])路|(?<!逛)街|大道|巷|弄|胡同)"
            r"(?:[东南西北中一二三四五六七八九十]{1,2}[段路巷弄])?\s*\d+\s*号"
            r"(?:[\u4e00-\u9fff\d]{0,12}(?:楼|室|单元|栋|层)\s*\d*)*"
        ),
    ),
    (
        "address",
        re.compile(
            r"[\u4e00-\u9fff]{2,30}\d{1,3}\s*(?:栋|幢|座|号楼)\s*(?:\d{1,2}\s*单元)?\s*\d{2,4}室?"
        ),
    ),
    (
        "address",
        re.compile(
            rf"{_LEFT}\d{{1,5}}[A-Za-z]?,? (?:(?:[A-Z][a-z]+|\d{{1,3}}(?:st|nd|rd|th)) ){{1,3}}"
            r"(?:(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd)\b\.?"
            # Shoes are called after courts and places, too; what goes on is no address.
            r"|(?:Court|Ct|Way|Place|Pl|Terrace|Square|Close|Crescent|Highway)(?= *(?:[.,;!?]|$)))"
            r"(?:,? (?:Apt|Unit|Suite)\.? ?\w+)?(?:, [A-Z][A-Za-z ]+, [A-Z]{2} \d{5}\b)?"
        ),
    ),
    (
        "address",
        re.compile(
            r"\b[A-ZÄÖÜ][a-zäöüß]+(?:straße|strasse|str\.|weg|platz|allee)\s\d{1,4}[a-z]?\b"
        ),
    ),
    ("address", re.compile(r"\b\d{1,4},? (?:rue|avenue|boulevard|place) [\w' -]{3,30}", re.I)),
    ("address", re.compile(r"\b(?:[Cc]alle|[Aa]venida) [\w ]{3,30}?,? \d{1,4}\b")),
)
_FEWEST_DIGITS = 8
# Sizes in a row; a national number in pairs begins with a 0.
_SIZES = re.compile(r"[1-9]\d?(?:\D+[1-9]\d?)+")
_CARD = re.compile(
    rf"{_LEFT}\d{{4}}[ -]?"
    rf"(?:\d{{4}}[ -]?\d{{4}}[ -]?\d{{1,4}}(?:[ -]?\d{{1,3}})?|\d{{6}}[ -]?\d{{5}}){_RIGHT}"
)


BLANK = re.compile(r"\[(email|phone|card|order|account|number|address)\]")
"""What stands where personal data was."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A text without personal data, and the kinds that it held."""

    text: str
    kinds: tuple[str, ...] = ()


def scrub(text: str) -> Scrubbed:
    """Put `[phone]`, `[email]`, … in the place of personal data."""
    kinds: list[str] = []
    for start, end, kind in sorted(_found(text), reverse=True):
        text = f"{text[:start]}[{kind}]{text[end:]}"
        kinds.append(kind)
    return Scrubbed(text, tuple(dict.fromkeys(reversed(kinds))))


def scrub_prompt(prompt: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The prompt with people's own words scrubbed: the history and the question at its end.

    A prompt without personal data stays as it is, byte for byte.
    """
    if not prompt:
        return ()
    *earlier, last = prompt
    before, question = split_question(last.content)
    return (
        *(message if message.role == "system" else _scrubbed(message) for message in earlier),
        replace(last, content=before + scrub(question).text),
    )


def _scrubbed(message: ChatMessage) -> ChatMessage:
    return replace(message, content=scrub(message.content).text)


def _found(text: str) -> list[tuple[int, int, str]]:
    """Where personal data stands, without overlaps; the first kind to claim a place has it."""
    taken: list[tuple[int, int, str]] = []
    for start, end, kind in (*_cards(text), *_phones(text), *_by_pattern(text)):
        if all(end <= other[0] or other[1] <= start for other in taken):
            taken.append((start, end, kind))
    return taken


def _by_pattern(text: str) -> Iterator[tuple[int, int, str]]:
    for kind, pattern in _PATTERNS:
        group = "it" if "it" in pattern.groupindex else 0
        for match in pattern.finditer(text):
            yield *match.span(group), kind


def _cards(text: str) -> Iterator[tuple[int, int, str]]:
    for match in _CARD.finditer(text):
        if _passes_luhn(match.group()):
            yield *match.span(), "card"


def _passes_luhn(text: str) -> bool:
    """Whether the last digit checks the others, as on every bank card (ISO/IEC 7812-1)."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _phones(text: str) -> Iterator[tuple[int, int, str]]:
    if sum(char.isdigit() for char in text) < _FEWEST_DIGITS:
        return
    # Of the extra `train`; where nothing is trained adapters and people are looked after, too.
    import phonenumbers

    for region in _REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            digits = sum(char.isdigit() for char in match.raw_string)
            if digits >= _FEWEST_DIGITS and not _SIZES.fullmatch(match.raw_string):
                yield match.start, match.end, "phone"
