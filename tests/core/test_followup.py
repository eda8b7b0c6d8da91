"""Follow-ups: what goes on from an earlier question, and what stands alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from core.followup import (
    Resolved,
    choices,
    chosen,
    points_back,
    resolve,
    still_offered,
)
from core.messages import ImageTag, Outcome, Passage, Platform, Reply, Source, Turn

DATA = Path(__file__).parent.parent.parent / "data"
BLUE = ImageTag("蓝色", "blue", "颜色", 0.9)


def turn(
    question: str = "切尔西靴是什么？",
    *,
    outcome: Outcome = Outcome.ANSWERED,
    source: str = "",
    passage: str = "",
    suggestions: tuple[str, ...] = (),
    tags: tuple[ImageTag, ...] = (),
) -> Turn:
    reply = Reply(
        id="r", conversation_id="c", text="…", outcome=outcome, language="zh",
        sources=(Source("1", source, "", ""),) if source else (), suggestions=suggestions,
        tags=tags,
    )  # fmt: skip
    passages = (Passage("1", passage, "", "", "", "zh"),) if passage else ()
    return Turn(reply, "m", "u", Platform.WEB, question, question, (), passages, {}, 0.0)


FOLLOW_UPS = (
    """
那它防水吗|它防水吗？|那双呢|这双能下水吗|这双鞋适合跑马拉松吗|帆布的呢？|那女款呢|怎么洗？|为什么
怎么保养？|要怎么搭配|防水吗|会掉色吗|能机洗吗|怎么选比较好
那种鞋底耐磨吗|这款适合跑步吗|还有别的颜色吗|那冬天能穿吗|刚才说的那种鞋贵吗|它们有什么区别
what about suede?|How do I clean them?|Is it waterproof?|Can I wash it in the machine?
and in winter?|Does it stretch?|Are they good for running?|Why?|Do these come in wide sizes?
Can I wear them to the office?|Is that one better?|Which of them is lighter?|how long do they last?
""".strip()
    .replace("\n", "|")
    .split("|")
)


@pytest.mark.parametrize("text", FOLLOW_UPS)
def test_a_follow_up_points_back(text: str) -> None:
    assert points_back(text)


@pytest.mark.parametrize(
    "text",
    [
        "那种没带子的皮鞋叫什么",
        "麂皮怎么保养",
        "白色的会掉色吗",
        "Is it safe to wash canvas shoes?",
        "My boots are wet, can I dry them on the heater?",
        "Who owns Converse these days?",
    ],
)
def test_a_question_with_its_own_subject_stands_alone(text: str) -> None:
    assert not points_back(text)


@pytest.mark.parametrize("file", ["questions.jsonl", "eval/retrieval.jsonl"])
def test_questions_that_stand_alone_are_left_alone(file: str) -> None:
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    wrong = [question for question in questions if points_back(question)]
    assert len(wrong) <= 0.02 * len(questions), wrong


def test_without_earlier_turns_nothing_changes() -> None:
    assert resolve("它防水吗", (), (BLUE,)) == Resolved("它防水吗", "它防水吗", (BLUE,))


def test_a_follow_up_is_searched_with_the_last_topic_and_photo() -> None:
    turns = (turn(source="切尔西靴", tags=(BLUE,)),)
    assert resolve("那它防水吗", turns, ()) == Resolved(
        "那它防水吗", "切尔西靴 那它防水吗", (BLUE,), topic="切尔西靴"
    )


def test_a_new_photo_replaces_the_last_one() -> None:
    red = ImageTag("红色", "red", "颜色", 0.9)
    assert resolve("它防水吗", (turn(source="靴", tags=(BLUE,)),), (red,)).tags == (red,)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("不是，我问的是帆布鞋怎么洗", "帆布鞋怎么洗"),
        ("我说的是麂皮鞋", "麂皮鞋"),
        ("不对，我是想问洞洞鞋会不会缩水", "洞洞鞋会不会缩水"),
        ("No, I meant canvas shoes", "canvas shoes"),
        ("no, I was asking about suede", "suede"),
        ("我是说它防水吗", "德训鞋 它防水吗"),
        # What only looks like it.
        ("不是真皮的鞋怎么洗", "不是真皮的鞋怎么洗"),
        ("我说不清楚脚有多宽", "我说不清楚脚有多宽"),
        ("I asked my mother for boots", "I asked my mother for boots"),
    ],
)
def test_what_was_meant_instead_is_searched_without_that_it_was_meant(
    text: str, query: str
) -> None:
    assert resolve(text, (turn("德训鞋是什么", source="德训鞋"),), ()).query == query


@pytest.mark.parametrize(
    "text",
    ["这双能下水吗", "这鞋怎么洗？", "那这双呢", "这个是什么材质", "Are these ok for rain?",
     "What about this pair?"],
)  # fmt: skip
def test_a_question_about_its_own_new_photo_takes_nothing_from_before(text: str) -> None:
    red = ImageTag("红色", "red", "颜色", 0.9)
    turns = (turn(source="切尔西靴", tags=(BLUE,)),)
    assert resolve(text, turns, (red,)) == Resolved(text, text, (red,))


def test_the_same_photo_again_keeps_the_topic() -> None:
    turns = (turn(source="切尔西靴", tags=(BLUE,)),)
    assert resolve("这双防水吗", turns, (BLUE,)).query == "切尔西靴 这双防水吗"


def test_a_photo_that_a_caller_hands_over_again_keeps_the_topic() -> None:
    told = replace(turn("切尔西靴是什么？"), photo_again=True)
    assert resolve("这双防水吗", (told, turn("鞋底呢")), (BLUE,)).query == "鞋底呢 这双防水吗"


def test_a_season_does_not_point_at_the_photo() -> None:
    turns = (turn(source="Chelsea boots"),)
    resolved = resolve("Can I wear them this winter?", turns, (BLUE,))
    assert resolved.query == "Chelsea boots Can I wear them this winter?"


def test_without_a_photo_this_pair_is_the_one_before() -> None:
    turns = (turn(source="Chelsea boots", tags=(BLUE,)),)
    resolved = resolve("Is this pair waterproof?", turns, ())
    assert resolved == Resolved(
        "Is this pair waterproof?",
        "Chelsea boots Is this pair waterproof?",
        (BLUE,),
        topic="Chelsea boots",
    )


def test_a_question_that_stands_alone_leaves_topic_and_photo_behind() -> None:
    text = "帆布鞋怎么洗？"
    assert resolve(text, (turn(source="切尔西靴", tags=(BLUE,)),), ()) == Resolved(text, text)


def test_the_topic_is_never_what_a_refused_question_found() -> None:
    turns = (turn(source="切尔西靴"), turn("鞋价", outcome=Outcome.REFUSED, passage="鞋盒"))
    assert resolve("它防水吗", turns, ()).query == "切尔西靴 它防水吗"


def test_what_was_offered_for_a_follow_up_is_not_the_topic() -> None:
    offered = turn("那防水的呢", outcome=Outcome.CLARIFY, passage="防水喷雾")
    turns = (turn(source="切尔西靴"), replace(offered, query="切尔西靴 那防水的呢"))
    assert resolve("它怎么洗", turns, ()).topic == "切尔西靴"
    asked = turn("防水", outcome=Outcome.CLARIFY, passage="防水喷雾")
    assert resolve("它怎么洗", (turn(source="切尔西靴"), asked), ()).topic == "防水"


@pytest.mark.parametrize(
    "text", ["第二个", "2", "B", "二", "the second one", "麂皮清洁", "麂皮清洁吧"]
)
def test_a_suggestion_is_picked_by_place_or_name(text: str) -> None:
    last = turn("怎么洗", outcome=Outcome.CLARIFY, suggestions=("麂皮", "麂皮清洁", "鞋垫"))
    assert resolve(text, (last,), ()) == Resolved("怎么洗 麂皮清洁", "麂皮清洁", ())


def test_yes_picks_the_only_suggestion() -> None:
    assert chosen("对的", ("麂皮",)) == "麂皮"
    assert chosen("对的", ("麂皮", "鞋垫")) is None


def clarified(
    question: str, shown: str = "", *suggestions: str, tags: tuple[ImageTag, ...] = ()
) -> Turn:
    return turn(
        question, outcome=Outcome.CLARIFY, source=shown, suggestions=suggestions, tags=tags,
        passage=shown,
    )  # fmt: skip


def test_a_name_picks_what_was_offered_beside_what_was_shown() -> None:
    last = clarified("怎么洗", "麂皮", "鞋垫", "软木")
    assert resolve("鞋垫", (last,), ()) == Resolved("怎么洗 鞋垫", "鞋垫", ())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("不是这个", ("鞋垫", "软木")),
        ("不是", ("鞋垫", "软木")),
        ("不对！", ("鞋垫", "软木")),
        ("no", ("鞋垫", "软木")),
        ("That's not what I meant.", ("鞋垫", "软木")),
        ("不是麂皮", ("鞋垫", "软木")),
        ("不是《鞋垫》", ("麂皮", "软木")),
        ("都不是", ()),
        ("neither", ()),
        ("none of these", ()),
        ("麂皮不是很贵吗", None),
        ("鞋垫", None),
        ("软木防水吗", None),
        ("是的", None),
    ],
)
def test_a_no_leaves_what_else_was_offered(text: str, left: tuple[str, ...] | None) -> None:
    assert still_offered(text, (clarified("怎么洗", "麂皮", "鞋垫", "软木"),)) == left


def test_a_no_to_a_mere_choice_is_to_all_of_it() -> None:
    assert still_offered("不是", (clarified("怎么洗", "", "鞋垫", "软木"),)) == ()
    assert still_offered("不是鞋垫", (clarified("怎么洗", "", "鞋垫", "软木"),)) == ("软木",)
    assert still_offered("不是", (turn("怎么洗", source="麂皮"),)) is None
    assert still_offered("不是", ()) is None


def test_what_is_picked_after_a_no_answers_the_question_asked_before() -> None:
    shown = clarified("怎么洗", "麂皮", "鞋垫", "软木", tags=(BLUE,))
    denied = replace(clarified("不是这个", "", "鞋垫", "软木"), query="", passages=())
    assert resolve("软木", (shown, denied), ()) == Resolved("怎么洗 软木", "软木", (BLUE,))
    assert still_offered("不是鞋垫", (shown, denied)) == ("软木",)


def test_only_a_choice_without_anything_shown_waits_for_a_yes() -> None:
    assert choices((clarified("怎么洗", "", "鞋垫", "软木"),)) == ("鞋垫", "软木")
    assert choices((clarified("怎么洗", "麂皮", "鞋垫"),)) == ()
    assert choices((turn(source="麂皮"),)) == ()
    assert choices(()) == ()


@pytest.mark.parametrize(
    ("question", "shown", "topic"),
    [
        ("鞋跟总往下掉", "过膝靴", "鞋跟总往下掉"),
        ("洞洞鞋能穿去爬山吗", "洞洞鞋", "洞洞鞋"),
        ("牛津配什么裤子", "牛津鞋", "牛津鞋"),
        ("Do my suede boots stretch?", "Suede", "Suede"),
        ("那它怎么清洗", "帆布鞋清洗", ""),
    ],
)
def test_what_was_shown_and_nobody_named_is_no_topic(question: str, shown: str, topic: str) -> None:
    asked = clarified(question, shown, tags=(BLUE,))
    resolved = resolve("那它防水吗", (asked,), ())
    assert (resolved.topic, resolved.tags) == (topic, (BLUE,))
    assert resolved.query == f"{topic} 那它防水吗".strip()


@pytest.mark.parametrize("text", ["就是这个，谢谢", "是的", "yes", "谢谢"])
def test_what_a_person_agreed_to_is_the_topic(text: str) -> None:
    agreed = replace(turn(text), query="")
    turns = (clarified("鞋跟总往下掉", "过膝靴"), agreed)
    assert resolve("那它防水吗", turns, ()).topic == "过膝靴"


@pytest.mark.parametrize(
    "text", ["和板鞋比呢", "跟板鞋有什么区别", "比板鞋好吗", "compared to skate shoes?"]
)
def test_a_comparison_without_its_first_side_is_with_the_topic(text: str) -> None:
    resolved = resolve(text, (turn(source="德训鞋"),), ())
    assert resolved == Resolved(f"德训鞋 {text}", f"德训鞋 {text}", (), "德训鞋")


@pytest.mark.parametrize("text", ["跟腱疼穿什么鞋", "跟高多少比较舒服", "和服配什么鞋"])
def test_what_only_begins_like_a_comparison_stands_alone(text: str) -> None:
    assert not points_back(text)


@pytest.mark.parametrize("text", ["第三个", "", "都不是"])
def test_what_was_not_offered_is_not_picked(text: str) -> None:
    assert chosen(text, ("麂皮", "鞋垫")) is None


@pytest.mark.parametrize("text", ["是什么颜色", "它是什么颜色？", "What colour is it?"])
def test_what_a_photo_shows_may_be_asked_later(text: str) -> None:
    """Also after an answer, and after a greeting in between."""
    photo = turn("", outcome=Outcome.CLARIFY, tags=(BLUE,))
    washed = turn("怎么洗", source="帆布鞋清洗", tags=(BLUE,))
    thanks = replace(turn("谢谢"), query="")
    for turns in ((photo,), (photo, washed), (photo, thanks), (photo, washed, thanks)):
        assert resolve(text, turns, ()) == Resolved(text, text, (BLUE,))


def test_what_else_an_answer_is_about_is_no_matter_of_the_photo() -> None:
    answered = turn("帆布鞋怎么洗", source="帆布鞋清洗", tags=(BLUE,))
    assert resolve("它是什么材质", (answered,), ()).topic == "帆布鞋清洗"
    refused = turn("它流行吗", outcome=Outcome.REFUSED, tags=(BLUE,))
    assert resolve("这是什么鞋", (refused,), ()) == Resolved("这是什么鞋", "这是什么鞋", (BLUE,))


def test_small_talk_between_a_question_and_its_follow_up_changes_nothing() -> None:
    asked = turn(source="切尔西靴", tags=(BLUE,))
    for outcome in (Outcome.ANSWERED, Outcome.REFUSED):
        talk = replace(turn("谢谢", outcome=outcome), query="")
        assert resolve("它防水吗", (asked, talk), ()) == resolve("它防水吗", (asked,), ())


def test_a_colour_asked_after_another_topic_is_not_the_photos() -> None:
    turns = (turn("", outcome=Outcome.CLARIFY, tags=(BLUE,)), turn(source="德训鞋"))
    assert resolve("是什么颜色", turns, ()).tags == ()


@pytest.mark.parametrize(
    "text", ["照片里的鞋是什么颜色", "图里那双适合跑步吗", "Is the one in the photo warm?"]
)
def test_who_names_the_photo_asks_about_the_last_one(text: str) -> None:
    turns = (turn("", outcome=Outcome.CLARIFY, tags=(BLUE,)), turn(source="德训鞋"))
    assert resolve(text, turns, ()).tags == (BLUE,)


def test_words_after_a_bare_photo_are_about_it() -> None:
    last = turn("", outcome=Outcome.CLARIFY, tags=(BLUE,))
    assert resolve("怎么搭配裤子", (last,), ()).tags == (BLUE,)
