"""Nobody who asks for a price gets anything else for it; who asks for something else, does."""

from __future__ import annotations

import json

import pytest

from core.messages import Passage
from core.prices import asks_a_price, name_a_price
from core.settings import at_root


@pytest.mark.parametrize(
    "question",
    [
        "这双鞋今天卖多少钱？",
        "AJ1多少钱",
        "帆布鞋一般什么价？",
        "价格大概多少",
        "这双几块钱",
        "How much are Air Jordans?",
        "how much is this pair today",
        "How much do white sneakers cost?",
        "What does resoling cost?",
        "What's the resale price of Travis Scott Dunks?",
    ],
)
def test_a_price_is_asked_for(question: str) -> None:
    assert asks_a_price(question)


@pytest.mark.parametrize(
    "question",
    [
        "当伴娘那天穿的高跟，花多少钱合适",
        "推荐一双 500 块以内的跑鞋",
        "平价鞋值得买吗？",
        "How much is half a UK size?",
        "How much room do I leave in front of the toes?",
        "How much wear is too much?",
    ],
)
def test_something_else_is_asked_for(question: str) -> None:
    assert not asks_a_price(question)


@pytest.mark.parametrize("name", ["questions.jsonl", "eval/golden.jsonl", "eval/retrieval.jsonl"])
def test_no_question_that_has_an_answer_here_asks_for_a_price(name: str) -> None:
    lines = at_root(f"data/{name}").read_text("utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    assert [question for question in questions if asks_a_price(question)] == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("这双鞋售价 399 元。", True),
        ("换底一双 1.5 万日元起。", True),
        ("The pair costs $120.", True),
        ("Resoling takes about 80 euros.", True),
        ("鞋底厚 30 mm，重 250 g。", False),
        ("便宜的鞋容易开胶。", False),
    ],
)
def test_an_amount_of_money_is_a_price(text: str, named: bool) -> None:
    assert name_a_price([Passage("1", "鞋", text, "", "", "zh")]) is named
