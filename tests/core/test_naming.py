"""What a question calls by name: things to compare, and what a follow-up goes over to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.naming import compared, goes_over, is_called, related

DATA = Path(__file__).parent.parent.parent / "data"
TITLES = ("牛津鞋", "德比鞋", "小牛皮", "牛皮", "切尔西靴", "Oxford shoes", "Derby shoes", "Suede")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("牛津鞋和德比鞋有什么区别", ["牛津鞋", "德比鞋"]),
        ("德比和牛津，哪个更正式？", ["牛津鞋", "德比鞋"]),
        ("切尔西靴跟牛津鞋比呢", ["牛津鞋", "切尔西靴"]),
        ("小牛皮好不好，和别的比较", []),
        ("小牛皮和牛皮有什么不同", ["小牛皮", "牛皮"]),
        ("牛津鞋怎么保养，配德比的鞋油吗", []),
        ("What is the difference between an Oxford and a Derby?", ["Oxford shoes", "Derby shoes"]),
        ("OXFORDS VS DERBY SHOES", ["Oxford shoes", "Derby shoes"]),
        ("Are Oxfords made of suede?", []),
        ("Is a boot better than a shoe?", []),
        ("", []),
    ],
)
def test_things_to_compare_are_found_by_their_names(text: str, named: list[str]) -> None:
    assert [TITLES[place] for place in compared(text, TITLES)] == named


def test_few_questions_about_one_thing_are_taken_for_comparisons() -> None:
    """Eval questions ask about one entry; where two titles stand in one, both are wanted."""
    entries = json.loads((DATA / "knowledge_base.json").read_text("utf-8"))
    titles = [entry["title"] for entry in entries]
    lines = (DATA / "eval" / "retrieval.jsonl").read_text("utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    wrong = [question for question in questions if compared(question, titles)]
    assert len(wrong) <= 0.02 * len(questions), wrong


@pytest.mark.parametrize(
    "text", ["那漆皮的呢？", "那 27 呢", "帆布的呢", "what about canvas?", "And nubuck?"]
)
def test_a_follow_up_goes_over_to_something_else(text: str) -> None:
    assert goes_over(text)


@pytest.mark.parametrize("text", ["那它防水吗", "那它呢", "怎么洗", "And do they stretch?", "why?"])
def test_a_follow_up_about_the_same_thing_does_not(text: str) -> None:
    assert not goes_over(text)


@pytest.mark.parametrize(
    ("title", "text", "called"),
    [
        ("漆皮护理", "那漆皮的呢", True),
        ("鞋带清洗", "那鞋带呢", True),
        ("Cleaning canvas", "what about canvas?", True),
        ("Canvas sneakers", "and for canvas?", True),
        ("漆皮护理", "那皮的呢", False),
        ("漆皮护理", "那绒面的呢", False),
        ("Cleaning canvas", "and suede?", False),
        ("漆皮护理", "呢", False),
    ],
)
def test_an_entry_is_called_what_a_follow_up_says(title: str, text: str, called: bool) -> None:
    assert is_called(title, text) is called


@pytest.mark.parametrize(
    ("title", "topic", "same"),
    [
        ("帆布鞋", "帆布鞋清洗", True),
        ("麂皮", "麂皮清洁", True),
        ("麂皮防水", "麂皮清洁", True),
        ("帆船鞋", "帆布鞋", False),
        ("麂皮清洁", "网面鞋清洁", False),
        ("一字拖", "Slides", False),
        ("Cleaning suede", "Suede", True),
        ("Cleaning suede", "Cleaning canvas shoes", False),
        ("Children's shoe sizes", "Adult shoe sizes", False),
    ],
)
def test_titles_are_about_the_same_thing_or_say_the_same_of_others(
    title: str, topic: str, same: bool
) -> None:
    assert related(title, topic) is same
