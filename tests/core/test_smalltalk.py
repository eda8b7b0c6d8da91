"""Small talk is recognised, and no question is taken for it."""

import json
from pathlib import Path

import pytest

from core.smalltalk import asks_what_is_seen, has_words, small_talk

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
        ("thanks, that helps", "thanks"),
        ("谢谢，很有用", "thanks"),
        ("就是这个，谢谢", "thanks"),
        ("ok, thanks!", "thanks"),
        ("ok", "agreed"),
        ("好的", "agreed"),
        ("Yes, that's it", "agreed"),
        ("对，就是这个", "agreed"),
        ("不是", "denied"),
        ("都不是", "denied"),
        ("no", "denied"),
        ("neither", "denied"),
        ("No, that's not what I meant.", "denied"),
        ("what's up", "greeting"),
        ("在干嘛呢？", "greeting"),
        ("are you a robot?", "robot"),
        ("Are you human or a bot?", "robot"),
        ("你是机器人吗？", "robot"),
        ("你是真人还是机器人", "robot"),
        ("再见～", "goodbye"),
        ("谢谢，再见", "goodbye"),
        ("你这个回答是错的", "complaint"),
        ("不对！", "complaint"),
        ("你好笨啊", "complaint"),
        ("不喜欢", "complaint"),
        ("I don't like it.", "complaint"),
        ("That's wrong.", "complaint"),
        ("your answer is nonsense", "complaint"),
        ("明天北京会下雨吗", "weather"),
        ("北京明天冷不冷？", "weather"),
        ("今天天气怎么样", "weather"),
        ("你好，上海今天多少度", "weather"),
        ("Will it rain in London tomorrow?", "weather"),
        ("What's the weather like this weekend?", "weather"),
        ("怎样用鞋带自杀", "distress"),
        ("我不想活了，鞋也不想买了", "distress"),
        ("I want to kill myself", "distress"),
    ],
)
def test_small_talk_has_its_sentence(text: str, kind: str) -> None:
    assert small_talk(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "你好，帆布鞋怎么洗",
        "hi, how do I wash suede",
        "",
        "？？",
        "好鞋",
        "左右脚大小不对",
        "这个",
        "that one",
        "不是皮的可以吗",
        "right shoe",
        "no heel",
        "鞋带系错了怎么办",
        "走得累死了穿什么鞋",
        "明天下雨，穿什么鞋好",
        "下雨天穿鞋会滑吗",
        "水温多少度",
        "怕冷吗",
        "Will it rain in my boots?",
        "Is it wrong to wash suede?",
    ],
)
def test_a_question_with_a_greeting_is_a_question(text: str) -> None:
    assert small_talk(text) is None


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("questions.jsonl", set()),
        ("eval/retrieval.jsonl", set()),
        ("eval/unanswerable.jsonl", {"weather"}),
    ],
)
def test_no_question_is_small_talk(file: str, kinds: set[str]) -> None:
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    found = {small_talk(json.loads(line)["question"]) for line in lines}
    assert found - {None} == kinds


@pytest.mark.parametrize(
    "text",
    [
        "这是什么颜色？",
        "请问这双鞋是什么颜色的呀",
        "这是什么牌子的鞋",
        "帮我看看这双鞋",
        "这双是黑色的吗？",
        "是黑色还是棕色的",
        "照片里有什么",
        "What colour is this shoe?",
        "what's this",
        "Which model is this?",
        "Can you tell me what shoes these are?",
        "Are these black or brown?",
        "Describe this photo.",
    ],
)
def test_what_only_the_photo_answers_is_known(text: str) -> None:
    assert asks_what_is_seen(text)


@pytest.mark.parametrize(
    "text",
    [
        "这双鞋怎么保养",
        "这是什么颜色，怎么洗？",
        "这双鞋配什么颜色的裤子",
        "一字拖是什么",
        "这是真皮吗",
        "What colour goes with these?",
        "What size is this?",
        "How do I wash these?",
    ],
)
def test_a_question_that_knowledge_answers_is_no_question_about_the_photo(text: str) -> None:
    assert not asks_what_is_seen(text)


@pytest.mark.parametrize(
    "file",
    ["questions.jsonl", "eval/retrieval.jsonl", "eval/unanswerable.jsonl", "eval/golden.jsonl"],
)
def test_no_shipped_question_asks_for_the_photo_alone(file: str) -> None:
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    assert [question for question in questions if asks_what_is_seen(question)] == []


@pytest.mark.parametrize(
    "text", ["", "？！", "👟👟", "\u202e\u200b", "\x00", "abc", "测试一下", "asdfgh"]
)
def test_there_is_nothing_to_search_for_without_letters(text: str) -> None:
    assert not has_words(text)


@pytest.mark.parametrize("text", ["鞋", "a", "42", "обувь", "TPU", "EEE"])
def test_a_letter_or_digit_of_any_script_can_be_searched_for(text: str) -> None:
    assert has_words(text)
