"""Answers that turn their passages round, and the same words said another way."""

import pytest

from core.polarity import Polarity

TEXTS = Polarity.of(
    "一字拖没有后跟固定，不适合跑步或长时间走路。它穿脱方便，适合居家。它不防水，级别不高。\n"
    "The upper is not waterproof, so do not machine wash it. It dries quickly in the shade. "
    "跑步不得不换鞋，别不系鞋带。"
)


@pytest.mark.parametrize(
    "answer",
    [
        "一字拖没有后跟固定，适合跑步或长时间走路。",
        "一字拖后跟固定，不适合跑步。",
        "它穿脱不方便，适合居家。",
        "它防水，级别不高。",
        "没有后跟固定，别不适合跑步哦～",
        "没有后跟固定，别别选它。",
        "The upper is waterproof, so do not machine wash it.",
        "Hey! The upper is not waterproof, so do machine wash it.",
        "It doesn't dry quickly. It never dries quickly in the shade.",
    ],
)
def test_an_answer_that_turns_its_passage_round_is_caught(answer: str) -> None:
    assert TEXTS.turned(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "一字拖没有后跟固定，不太适合跑步或长时间走路哦～",
        "一字拖没后跟固定，所以跑步别穿它。",
        "它穿脱方便，适合居家；适不适合跑步呢？",
        "级别不高，它不防水。",
        "跑步不得不换鞋，别不系鞋带。",
        "The upper isn't waterproof, so don't machine wash it.",
        "It dries quickly in the shade, never in the sun.",
        "",
        "不",
        "别",
    ],
)
def test_the_same_said_another_way_passes(answer: str) -> None:
    assert TEXTS.turned(answer) is None


def test_words_that_may_go_on_are_not_judged_yet() -> None:
    begun = "一字拖没有后跟固定，适"
    assert TEXTS.turned(begun, finished=False) is None
    assert TEXTS.turned(f"{begun}合跑步", finished=False)
