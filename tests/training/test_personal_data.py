"""Telephone, mail, card and order numbers leave a text; sizes, norms and years stay."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from core.messages import ChatMessage
from core.prompt import build_prompt
from tests.training.feedback_world import PASSAGE, QUESTION
from training.personal_data import scrub, scrub_prompt

SENTENCES = (
    "我的联系方式是 {}，谢谢",
    "please write to {} tomorrow",
    "Bitte melden Sie sich unter {} bei mir",
    "contactez-moi au {} merci",
    "mi contacto es {} gracias",
)


def luhn(prefix: str, length: int, dice: random.Random) -> str:
    """A card number whose last digit fits."""
    digits = [int(char) for char in prefix]
    digits += [dice.randrange(10) for _ in range(length - len(digits) - 1)]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[::-1][::2]]
    plain = digits[::-1][1::2]
    return "".join(map(str, digits)) + str(-(sum(doubled) + sum(plain)) % 10)


def phone(dice: random.Random) -> str:
    number = f"{dice.randrange(10**8):08d}"
    return dice.choice(
        (
            f"1{dice.choice('3578')}{dice.randrange(10)}{number}",
            f"138 {number[:4]} {number[4:]}",
            f"+86 139 {number[:4]} {number[4:]}",
            f"(415) 555-{number[:4]}",
            f"+1 212-555-{number[:4]}",
            f"+49 151 {number}",
            f"+33 6 {number[:2]} {number[2:4]} {number[4:6]} {number[6:]}",
            f"+34 612 {number[:3]} {number[3:6]}",
        )
    )


def mail(dice: random.Random) -> str:
    name = "".join(dice.choice("abcdefgh0123._") for _ in range(8)).strip("._") or "ann"
    return f"{name}x@{dice.choice(('mail.example', 'qq.com', 'web.de', 'orange.fr'))}"


def card(dice: random.Random) -> str:
    plain = luhn(dice.choice(("4", "51", "62", "6011")), 16, dice)
    spaced = " ".join(plain[start : start + 4] for start in range(0, 16, 4))
    return dice.choice((plain, spaced, spaced.replace(" ", "-")))


@pytest.mark.parametrize("make", [phone, mail, card])
def test_at_least_98_of_100_are_found(make: Callable[[random.Random], str]) -> None:
    dice = random.Random(7)
    secrets = [make(dice) for _ in range(300)]
    texts = [dice.choice(SENTENCES).format(secret) for secret in secrets]
    left = [
        secret for secret, text in zip(secrets, texts, strict=True) if secret in scrub(text).text
    ]
    assert len(left) <= 0.02 * len(secrets), left[:5]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("订单号 SF1234567890123 到哪了", "order"),
        ("my order no. A12345678 is late", "order"),
        ("快递单号：YT8812345678901", "order"),
        ("身份证11010519491231002X", "account"),
        ("加我微信 shoe_lover88", "account"),
        ("write to @shoe_lover on telegram", "account"),
        ("IBAN DE89 3704 0044 0532 0130 00", "number"),
        ("寄到北京市朝阳区建国路88号3单元", "address"),
        ("I live at 12 Baker Street", "address"),
        ("Ich wohne in der Lindenstraße 12", "address"),
    ],
)
def test_other_kinds_leave_a_blank(text: str, kind: str) -> None:
    found = scrub(text)
    assert found.kinds == (kind,)
    assert f"[{kind}]" in found.text


@pytest.mark.parametrize(
    "text",
    [
        "EN ISO 20345:2022，GB 20099-2006，ASTM F2413-18",
        "sizes 36 37 38 39 40 41 42 43",
        "240 245 250 255 260 mm，脚长 23.5 24 24.5 25 25.5 26 厘米",
        "EU 36, 37, 38.5, 39; US 5, 6, 7.5; UK 4.5",
        "Nike CW2288-111 and 315122-111 from 2023",
        "230/1.5 到 280/2.5，10000 mm 防水，5000 g 透湿",
        "1990 2000 2010 2020",
        "an order of 12 shoes, 订单里有 12345 双",
        "Mix 30 degrees, 1:10, 2024-11-22 10:30",
    ],
)
def test_what_is_said_about_shoes_stays(text: str) -> None:
    assert scrub(text).text == text


def test_scrubbing_twice_changes_nothing() -> None:
    once = scrub("打 13812345678 或写 a@b.com").text
    assert scrub(once).text == once


def test_only_peoples_words_in_a_prompt_are_scrubbed() -> None:
    hotline = "售后热线 400-810-8888，邮箱 shop@shoes.example。"
    history = [ChatMessage("user", "我是 13812345678"), ChatMessage("assistant", "您好")]
    passage = type(PASSAGE)("p", "售后", hotline, "written", "shop", "zh")
    prompt = build_prompt(
        "回我 13912345678，怎么退货？", language="zh", passages=(passage,), history=history
    )
    scrubbed = scrub_prompt(prompt)
    assert hotline in scrubbed[-1].content
    assert scrubbed[0] == prompt[0]
    assert scrubbed[1].content == "我是 [phone]"
    assert scrubbed[-1].content.endswith("问题：回我 [phone]，怎么退货？")


def test_a_prompt_without_personal_data_stays_byte_for_byte() -> None:
    prompt = build_prompt(QUESTION, language="zh", passages=(PASSAGE,))
    assert scrub_prompt(prompt) == prompt
    assert scrub_prompt(()) == ()
