"""Small talk is recognised, and no question is taken for it."""

import json
from pathlib import Path

import pytest

from core.smalltalk import has_words, small_talk

DATA = Path(__file__).parent.parent.parent / "data"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("你好", "greeting"),
        ("您好！在吗？", "greeting"),
        ("Hello there!", "greeting"),
        ("what can you do?", "greeting"),
        ("谢谢你", "thanks"),
        ("Thanks a lot", "thanks"),
        ("再见～", "goodbye"),
        ("谢谢，再见", "goodbye"),
    ],
)
def test_small_talk_has_its_sentence(text: str, kind: str) -> None:
    assert small_talk(text) == kind


@pytest.mark.parametrize(
    "text", ["你好，帆布鞋怎么洗", "hi, how do I wash suede", "", "？？", "好鞋"]
)
def test_a_question_with_a_greeting_is_a_question(text: str) -> None:
    assert small_talk(text) is None


@pytest.mark.parametrize(
    "file", ["questions.jsonl", "eval/retrieval.jsonl", "eval/unanswerable.jsonl"]
)
def test_no_question_is_small_talk(file: str) -> None:
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    assert [question for question in questions if small_talk(question)] == []


@pytest.mark.parametrize("text", ["", "？！", "👟👟", "\u202e\u200b", "\x00"])
def test_there_is_nothing_to_search_for_without_letters(text: str) -> None:
    assert not has_words(text)


@pytest.mark.parametrize("text", ["鞋", "a", "42", "обувь"])
def test_a_letter_or_digit_of_any_script_can_be_searched_for(text: str) -> None:
    assert has_words(text)
