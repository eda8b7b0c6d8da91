"""Telephone, mail, card and order numbers leave a text; sizes, norms and years stay."""

from __future__ import annotations

import json
import random
import re

import pytest

from core.messages import ChatMessage
from core.prompt import build_prompt
from core.settings import at_root
from tests.training.feedback_world import PASSAGE, QUESTION
from tests.training.personal_texts import KINDS, about_shoes
from training.personal_data import scrub, scrub_prompt


# Of a thousand texts of every kind; what is less written down in one way is missed more often.
@pytest.mark.parametrize(
    ("kind", "least"),
    [
        *(("phone", 0.98), ("mail", 0.98), ("card", 0.98)),
        *(("identity", 0.95), ("address", 0.95), ("order", 0.95)),
    ],
)
def test_most_of_a_thousand_texts_leave_nothing(kind: str, least: float) -> None:
    dice = random.Random(7)
    make, sentences = KINDS[kind]
    texts = [dice.choice(sentences).format(make(dice)) for _ in range(1000)]
    # The sentences around it hold no figure.
    left = [text for text in texts if re.search(r"[\d@]", scrub(text).text)]
    assert len(left) <= (1 - least) * len(texts), [(one, scrub(one).text) for one in left[:5]]


def test_of_a_thousand_sentences_about_shoes_hardly_one_is_touched() -> None:
    dice = random.Random(7)
    texts = [about_shoes(dice) for _ in range(1000)]
    touched = [text for text in texts if scrub(text).text != text]
    assert len(touched) <= 0.005 * len(texts), touched[:5]


def test_nothing_of_the_knowledge_base_is_taken_for_somebodys() -> None:
    entries = json.loads(at_root("data/knowledge_base.json").read_text("utf-8"))
    touched = [one["content"] for one in entries if scrub(one["content"]).kinds]
    assert touched == []


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("发到ann@mail.example，卡号4244143437906536", "发到[email]，卡号[card]"),
        ("我的order 12345678，寄12 Baker Street", "我的order [order]，寄[address]"),
    ],
)
def test_chinese_words_need_no_space_before_personal_data(text: str, scrubbed: str) -> None:
    assert scrub(text).text == scrubbed


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("订单号 SF1234567890123 到哪了", "order"),
        ("my order no. A12345678 is late", "order"),
        ("快递单号：YT8812345678901", "order"),
        ("身份证11010519491231002X", "account"),
        ("加我微信 shoe_lover88", "account"),
        ("write to @shoe_lover on telegram", "account"),
        ("微信号：shoelover", "account"),
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
        "574 和 990v5、EU 42、265 mm、US 9.5、CW2288-111 都还在",
        "平时走路 42 号够吗，逛街 43 号会不会大",
        "sizes 16 43 40 42.5 and two Nike Court shoes",
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
