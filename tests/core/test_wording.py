"""Every sentence exists in both languages with the same blanks; languages are told apart."""

import json
import re
from pathlib import Path
from string import Formatter

import pytest

from core.errors import (
    AnswerIncomplete,
    Busy,
    ImageRejected,
    MessageRejected,
    SolemateError,
    StoreError,
)
from core.language import language_of
from core.messages import ImageTag, Language, Passage
from core.opening import open_retriever
from core.retrieval import Query, Relevance
from core.settings import load_settings
from core.smalltalk import _KINDS
from core.wording import (
    SENTENCES,
    apology,
    ask_back,
    closest,
    describe_photo,
    photo_differs,
    say,
)

CODE = re.compile(r'(?:\bcode ?=|Refused\(\d{3},) ?"(\w+)"')
DATA = Path(__file__).parents[2] / "data"
BLUE = ImageTag("蓝色", "blue", "颜色", 0.9)
MAYBE = ImageTag("板鞋", "skate shoe", "类型", 0.5, sure=False)


def blanks(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("key", SENTENCES)
def test_a_sentence_renders_in_both_languages_with_the_same_blanks(key: str) -> None:
    assert set(SENTENCES[key]) == {"zh", "en"}
    assert blanks(SENTENCES[key]["zh"]) == blanks(SENTENCES[key]["en"])
    values = dict.fromkeys(blanks(SENTENCES[key]["zh"]), "7")
    assert say(key, "zh", **values).strip()
    assert say(key, "en", **values).strip()


def test_all_small_talk_has_a_sentence() -> None:
    assert set(_KINDS) <= set(SENTENCES)


def test_values_are_not_formats() -> None:
    assert "{x}" in say("answered_by", "en", adapter="{x}")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("帆布鞋怎么洗？", "zh"),
        ("How do I wash canvas shoes?", "en"),
        ("GORE-TEX 防水吗", "zh"),
        ("Air Force 1 怎么洗", "zh"),
        ("What does 德训鞋 mean in English please?", "en"),
        ("鞋の推荐有吗", "zh"),
        ("42？", "zh"),
        ("靴の防水スプレーはどうやって使いますか", None),
        ("운동화는 어떻게 빨아요?", None),
        ("Как мыть кеды?", None),
        ("كيف أغسل الحذاء؟", None),
        ("wash canvas كيف أغسل الحذاء", None),
        ("Wie wasche ich Leinenschuhe?", None),
        ("Sind Chelsea Boots wasserdicht?", None),
        ("Comment laver des chaussures en toile ?", None),
        ("¿Cómo lavo las zapatillas de lona?", None),
        ("Come lavare le scarpe di tela?", None),
        ("Como lavar tênis de lona?", None),
        ("Hoe was ik canvas schoenen?", None),
        ("Jak prać buty płócienne?", None),
        ("Bez ayakkabı nasıl yıkanır?", None),
        ("Le Coq Sportif sizing?", "en"),
        ("La Sportiva or Hermès?", "en"),
        ("Are Hermès sandals from La Rive any good?", "en"),
        ("What does Schuhe und Stiefel mean in English?", "en"),
        ("Nike Air Force 1 和 Stan Smith 哪个好？", "zh"),
        ("New Balance 550 跟 Adidas Samba 怎么选", "zh"),
        ("Converse All Star 和 Vans Old Skool 的区别", "zh"),
        ("Timberland Premium Waterproof 防水吗", "zh"),
        ("On Cloudmonster 和 Hoka Clifton 哪个适合扁平足", "zh"),
        ("La Sportiva Solution 和 Scarpa Instinct 哪个合脚", "zh"),
        ("The North Face Vectiv 是什么鞋", "zh"),
        ("Dr. Martens made in England 值得买吗", "zh"),
        ("Air Jordan 1 Retro High OG 尺码", "zh"),
        ("我的 Red Wing Iron Ranger 要不要 resole", "zh"),
        ("How do I clean 帆布鞋?", "en"),
        ("What is 反绒皮?", "en"),
        ("Is 德训鞋 good for running?", "en"),
        ("Can I put 麂皮 in the washing machine", "en"),
        ("what 鞋 should I wear for 面试", "en"),
        ("difference between 牛津鞋 and 德比鞋?", "en"),
        ("Nike Air Force 1 と Stan Smith はどっちがいい？", None),
        ("Nike Air Force 1 vs Adidas Stan Smith どっち？", None),
        ("Nike Air Max と New Balance の違いは？", None),
        ("Nike Air Max と New Balance の使用方法", None),
        ("Nike Air Force 1 이랑 Stan Smith 중에 뭐가 좋아?", None),
        ("Nike Air Force 1 или Stan Smith?", None),
        ("Quelle est la différence entre Nike et Adidas ?", None),
        ("Wie reinige ich 帆布鞋?", None),
        ("What does the word кеды mean?", "en"),
        ("What shoes does Onitsuka (オニツカ) make?", "en"),
        ("GORE-TEX?", "en"),
        ("suede", "en"),
    ],
)
def test_the_language_of_a_text(text: str, language: str | None) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("file", ["questions.jsonl", "unanswerable.jsonl", "eval/retrieval.jsonl"])
def test_no_question_in_our_languages_is_taken_for_a_foreign_one(file: str) -> None:
    lines = (DATA / file).read_text("utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    assert [question for question in questions if language_of(question) is None] == []


@pytest.mark.parametrize("key", ["other_language", "no_words"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_who_may_read_neither_language_best_is_told_in_both(key: str, language: Language) -> None:
    sentence = say(key, language)
    halves = sentence.split(" / ")
    assert sorted(language_of(half) or "" for half in halves) == ["en", "zh"]
    assert "\n" not in sentence


def test_choices_are_listed_as_people_say_them() -> None:
    assert ask_back(["A"], "zh") == "你想问的是《A》吗？"
    assert ask_back(["A"], "en") == "Do you mean “A”?"
    assert ask_back(["A"], "zh", instead=True) == "那你想问的是《A》吗？"
    assert ask_back(["A", "B"], "zh", instead=True) == "那你想问的是《A》，还是《B》？"
    zh = "你想问的是哪一个：《麂皮》、《PU 底》，还是《C》？"
    assert ask_back(["麂皮", "PU 底", "C"], "zh") == zh
    assert ask_back(["A", "B", "C"], "en") == "Which one do you mean: “A”, “B”, or “C”?"


@pytest.mark.parametrize(
    ("others", "language", "ending"),
    [
        (["麂皮", "EVA 发泡"], "zh", "要是你问的是《麂皮》或《EVA 发泡》，跟我说一声就行。"),
        (["suede", "cork"], "en", "If you meant “suede” or “cork”, just say so."),
        ([], "zh", "要是问的不是这个，换个说法再问我一次吧。"),
        ([], "en", "If that is not what you meant, ask me again in other words."),
    ],
)
def test_what_is_likely_meant_is_shown_with_what_else_may_be(
    others: list[str], language: Language, ending: str
) -> None:
    text = closest(Passage("1", "Title", "The text.", "s", "", language), others, language)
    said, quoted, last = text.split("\n\n")
    assert "Title" in said
    assert (quoted, last) == ("“The text.”", ending)


def test_a_photo_is_described_with_doubts_and_limits() -> None:
    text = describe_photo((BLUE, MAYBE), "en", colours_only=True)
    assert "blue, possibly skate shoe" in text
    assert say("photo_limits", "en") in text


def test_a_photo_without_a_sure_colour_says_so() -> None:
    assert describe_photo((), "zh", colours_only=False).startswith(say("photo_unseen", "zh"))


def test_words_that_differ_from_the_photo_are_named() -> None:
    assert photo_differs(BLUE, "red", "en").endswith("I go by the red you mention. ")


def test_a_guess_that_differs_is_hedged_once() -> None:
    assert (
        photo_differs(MAYBE, "乐福鞋", "zh")
        == f"照片里看起来是{MAYBE.name}，我按你说的乐福鞋来回答。"
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Busy("Too many.", retry_after_seconds=2.2), say("busy", "en", seconds=3)),
        (
            MessageRejected("Long.", code="text_long", length=500, limit=400),
            say("text_long", "en", length=500, limit=400),
        ),
        (ImageRejected("HEIC.", code="photo_heic"), say("photo_heic", "en")),
        (StoreError("Full."), say("not_saved", "en")),
        (AnswerIncomplete("Cut."), say("unavailable", "en")),
        (SolemateError("Odd."), say("failed", "en")),
    ],
)
def test_an_error_is_told_in_a_sentence_of_ours(error: SolemateError, sentence: str) -> None:
    assert apology(error, "en") == sentence


@pytest.mark.parametrize("package", ["core", "bots"])
def test_every_code_that_an_error_names_has_a_sentence(package: str) -> None:
    files = (Path(__file__).parents[2] / package).rglob("*.py")
    named = {code for file in files for code in CODE.findall(file.read_text("utf-8"))}
    assert named
    assert named <= set(SENTENCES)


async def test_every_example_has_an_answer_in_its_own_language(tmp_path: Path) -> None:
    settings = load_settings(environment={"SOLEMATE__DATABASE__FOLDER": str(tmp_path)})
    _, retriever = await open_retriever(settings)
    examples = [key for key in SENTENCES if key.startswith("example_")]
    assert len(examples) == 4
    for key in examples:
        for language, text in SENTENCES[key].items():
            found = await retriever.search(Query(text))
            assert found.relevance is Relevance.ANSWER, text
            assert found.passages[0].lang == language, text
