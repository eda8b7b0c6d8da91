"""What is found for a question, in which language, and whether it is worth an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core.calibration import DEFAULT_LEXICAL as DEFAULT
from core.calibration import Calibration
from core.embedding import Embedder
from core.index import Index, Recipe
from core.knowledge import Chunk
from core.messages import ImageTag, Language
from core.retrieval import Query, Relevance, RetrievalOptions, Retriever, Snapshot
from core.terms import Analyzer, load_lexicon
from tests.core.documents import OPTIONS, LetterEmbedder


def chunk(name: str, title: str, text: str, lang: Language = "zh") -> Chunk:
    return Chunk(name, title, text, "test", "", lang)


CLOGS = chunk("clogs", "洞洞鞋", "洞洞鞋是带孔的发泡鞋，怕高温暴晒。")
CLOGS_EN = chunk("clogs.en", "Foam clogs", "Foam clogs shrink in strong heat.", "en")
LACES = chunk("laces", "鞋带", "鞋带可以拆下来用温水手洗。")
SUEDE = chunk("suede", "麂皮", "麂皮要用软毛刷顺着一个方向刷。")
BLUE = chunk("blue", "蓝色", "蓝色的鞋配米色裤子。")
ALL = (CLOGS, CLOGS_EN, LACES, SUEDE, BLUE)


@pytest.fixture
def analyzer(tmp_path: Path) -> Analyzer:
    path = tmp_path / "synonyms.txt"
    path.write_text("洞洞鞋, foam clog\n鞋带, lace\n麂皮, suede\n洗, wash\n", "utf-8")
    return Analyzer(load_lexicon(path))


@pytest.fixture
def letters() -> LetterEmbedder:
    return LetterEmbedder()


def retriever(
    analyzer: Analyzer,
    chunks: Sequence[Chunk] = ALL,
    *,
    embedder: Embedder | None = None,
    options: RetrievalOptions | None = None,
    reranker: object = None,
) -> Retriever:
    index = Index.of(Recipe(analyzer, embedder, "cpu"), chunks)
    return Retriever(Snapshot(index, DEFAULT), options or OPTIONS, reranker)  # type: ignore[arg-type]


def test_what_is_a_setting_has_no_default_of_its_own() -> None:
    wanted = {field.name for field in fields(RetrievalOptions) if field.default is MISSING}
    assert wanted == {field.name for field in fields(RetrievalOptions)} - {"depth"}


async def test_a_clear_question_is_answered_by_its_passage(analyzer: Analyzer) -> None:
    found = await retriever(analyzer).search(Query("洞洞鞋怕高温吗？"))
    assert found.relevance is Relevance.ANSWER
    assert found.passages[0].id == "clogs"
    assert 0 < found.passages[0].score <= 1


@pytest.mark.parametrize(
    ("topic", "relevance", "found"),
    [
        ("麂皮", Relevance.ANSWER, ["suede"]),
        ("什么是麂皮？", Relevance.ANSWER, ["suede"]),
        ("蓝色", Relevance.CLARIFY, ["laces"]),
        ("", Relevance.CLARIFY, ["laces"]),
    ],
)
async def test_a_follow_up_that_is_not_surely_about_another_topic_is_about_the_last(
    analyzer: Analyzer, topic: str, relevance: Relevance, found: list[str]
) -> None:
    never_sure = replace(DEFAULT, answer_from=2.0, clarify_from=0.0)
    index = Index.of(Recipe(analyzer, None, "cpu"), ALL)
    searched = Retriever(Snapshot(index, never_sure), OPTIONS)
    got = await searched.search(Query("软毛刷还是温水？手洗", topic=topic))
    assert (got.relevance, sorted(one.id for one in got.passages)) == (relevance, found)


@pytest.mark.parametrize(
    ("text", "relevance"),
    [
        ("麂皮 那它哪个牌子最好？", Relevance.REFUSE),
        ("麂皮 那顺着什么方向刷？", Relevance.ANSWER),
        ("麂皮 还有呢？", Relevance.ANSWER),
        ("麂皮 And which brand is popular?", Relevance.ANSWER),
    ],
)
async def test_what_a_follow_up_asks_and_its_topic_has_no_word_of_is_refused(
    analyzer: Analyzer, text: str, relevance: Relevance
) -> None:
    always = replace(DEFAULT, answer_from=0.0, clarify_from=0.0)
    index = Index.of(Recipe(analyzer, None, "cpu"), ALL)
    searched = Retriever(Snapshot(index, always), OPTIONS)
    assert (await searched.search(Query(text, topic="麂皮"))).relevance is relevance


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("脚长 26 cm 穿几码", ["26"]),
        ("脚长 27 厘米穿几码", ["27"]),
        ("脚长 29 cm 穿几码", []),
        ("脚长怎么换鞋码", ["26", "27"]),
        ("44 码是多少脚长", ["26", "27"]),
    ],
)
async def test_an_entry_on_one_figure_is_not_found_for_another(
    analyzer: Analyzer, text: str, found: list[str]
) -> None:
    sizes = [chunk(f"{n}", f"脚长 {n} cm 的鞋码", f"对应国标 {n}0，旧鞋码大约。") for n in (26, 27)]
    ranking = await retriever(analyzer, sizes).rank(Query(text))
    assert sorted(hit.chunk.id for hit in ranking.hits) == found


async def test_the_figure_of_a_follow_up_replaces_the_topics(analyzer: Analyzer) -> None:
    sizes = [chunk(f"{n}", f"脚长 {n} cm 的鞋码", f"对应国标 {n}0，旧鞋码大约。") for n in (26, 27)]
    topic = "脚长 26 cm 的鞋码"
    for text, found in (("那 27 呢", ["27"]), ("那 29 呢", []), ("那 26 公分呢", ["26"])):
        ranking = await retriever(analyzer, sizes).rank(Query(f"{topic} {text}", topic=topic))
        assert [hit.chunk.id for hit in ranking.hits] == found


ALWAYS = replace(DEFAULT, answer_from=0.0, clarify_from=0.0)
NEVER_SURE = replace(DEFAULT, answer_from=2.0, clarify_from=0.0)


def judging(calibration: Calibration, chunks: Sequence[Chunk], top_k: int = 3) -> Retriever:
    index = Index.of(Recipe(Analyzer(), None, "cpu"), chunks)
    return Retriever(Snapshot(index, calibration), replace(OPTIONS, top_k=top_k))


async def test_what_is_compared_is_given_both_and_nothing_else() -> None:
    chunks = [*ALL, chunk("nubuck", "磨砂皮", "磨砂皮比麂皮结实。")]
    got = await judging(NEVER_SURE, chunks).search(Query("麂皮和磨砂皮有什么区别"))
    assert (got.relevance, got.compares) == (Relevance.ANSWER, True)
    assert sorted(one.id for one in got.passages) == ["nubuck", "suede"]
    got = await judging(NEVER_SURE, chunks).search(Query("麂皮比磨砂皮结实吗"))
    assert (got.relevance, got.compares) == (Relevance.CLARIFY, False)


@pytest.mark.parametrize(
    ("calibration", "text", "relevance", "found"),
    [
        (NEVER_SURE, "那鞋带呢", Relevance.CLARIFY, ["laces"]),
        (ALWAYS, "那鞋带呢", Relevance.ANSWER, ["laces"]),
        (ALWAYS, "那它的鞋带贵吗", Relevance.CLARIFY, ["laces"]),
        (ALWAYS, "那软毛刷呢", Relevance.ANSWER, ["suede"]),
    ],
)
async def test_a_follow_up_goes_over_to_the_entry_that_it_names(
    calibration: Calibration, text: str, relevance: Relevance, found: list[str]
) -> None:
    searched = judging(calibration, ALL, top_k=1)
    got = await searched.search(Query(f"麂皮 {text}", topic="麂皮"))
    assert (got.relevance, [one.id for one in got.passages]) == (relevance, found)


EN = (
    chunk("suede.en", "Suede", "Brush suede with a soft brush.", "en"),
    chunk("bootlaces.en", "Bootlaces", "Bootlaces are washed by hand.", "en"),
)


async def test_a_follow_up_in_english_goes_over_as_well() -> None:
    text = "Suede what about bootlaces?"
    got = await judging(NEVER_SURE, EN, top_k=2).search(Query(text, language="en", topic="Suede"))
    assert (got.relevance, [one.id for one in got.passages]) == (
        Relevance.CLARIFY,
        ["bootlaces.en"],
    )


@pytest.mark.parametrize(
    ("topic", "text", "language", "relevance", "found"),
    [
        ("麂皮", "what about bootlaces?", "en", Relevance.CLARIFY, ["bootlaces.en"]),
        ("Suede", "那鞋带呢", "zh", Relevance.CLARIFY, ["laces"]),
        ("麂皮", "is a brush good for it?", "en", Relevance.ANSWER, ["suede.en"]),
        ("麂皮", "and how much does it cost?", "en", Relevance.REFUSE, []),
        ("Suede", "那它流行吗", "zh", Relevance.REFUSE, []),
    ],
)
async def test_a_follow_up_may_change_the_language(
    topic: str, text: str, language: Language, relevance: Relevance, found: list[str]
) -> None:
    searched = judging(NEVER_SURE, [*ALL, *EN], top_k=1)
    got = await searched.search(Query(f"{topic} {text}", language=language, topic=topic))
    assert (got.relevance, [one.id for one in got.passages]) == (relevance, found)


async def test_words_that_an_entry_is_asked_with_do_not_keep_a_follow_up_there() -> None:
    suede = replace(SUEDE, keywords=("鞋带",))
    got = await judging(NEVER_SURE, [suede, LACES]).search(Query("麂皮 那鞋带呢", topic="麂皮"))
    assert (got.relevance, [one.id for one in got.passages]) == (Relevance.CLARIFY, ["laces"])


async def test_a_photo_loses_nothing_that_the_words_alone_find() -> None:
    red = ImageTag("红色", "red", "colour", 0.9)
    searched = judging(replace(DEFAULT, answer_from=2.0, clarify_from=0.5), ALL)
    tagged = await searched.rank(Query("鞋带怎么洗", (red, ImageTag("帆布", "canvas", "x", 0.9))))
    words = Query("鞋带怎么洗")
    assert tagged.relevance is Relevance.REFUSE
    assert (await searched.rank(words)).relevance is Relevance.CLARIFY
    got = await searched.search(replace(words, tags=(red, ImageTag("帆布", "canvas", "x", 0.9))))
    assert got.relevance is Relevance.CLARIFY


async def test_what_says_what_a_follow_up_asks_comes_before_the_topics_own_passage() -> None:
    chunks = [SUEDE, chunk("rain", "雨天穿鞋", "少穿浅色鞋。"), BLUE]
    for text, order in (("那雨天", ["rain", "suede"]), ("那软毛刷", ["suede"])):
        got = await judging(ALWAYS, chunks).search(Query(f"麂皮 {text}", topic="麂皮"))
        assert [one.id for one in got.passages] == order


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("那它防水吗", ["canvas"]),
        ("那它能泡水吗", ["washing"]),
        ("那它流行吗", []),
        ("那鞋垫要拆吗", ["washing"]),
    ],
)
async def test_another_entry_about_the_same_thing_says_what_a_follow_up_asks(
    text: str, found: list[str]
) -> None:
    chunks = [
        chunk("washing", "帆布鞋清洗", "先拆鞋垫，用温水和软毛刷顺着布纹刷，不要泡水。"),
        chunk("canvas", "帆布鞋", "帆布透气，但不防水，下雨天容易湿透。"),
        chunk("spray", "防水喷雾", "防水喷雾让皮面不防水的鞋也能防水。"),
    ]
    topic = "帆布鞋清洗"
    got = await judging(ALWAYS, chunks).search(Query(f"{topic} {text}", topic=topic))
    assert [one.id for one in got.passages][:1] == found
    assert (got.relevance is Relevance.ANSWER) is bool(found)


@pytest.mark.parametrize(
    ("text", "tag", "relevance"),
    [
        ("这双用软毛刷吗", ImageTag("麂皮", "suede", "material", 0.9), Relevance.ANSWER),
        (
            "这双用软毛刷吗",
            ImageTag("麂皮", "suede", "material", 0.5, sure=False),
            Relevance.CLARIFY,
        ),
        ("这双流行吗", ImageTag("麂皮", "suede", "material", 0.9), Relevance.CLARIFY),
        ("这双用软毛刷吗", ImageTag("蓝色", "blue", "colour", 0.9), Relevance.CLARIFY),
    ],
)
async def test_what_the_photo_surely_shows_answers_where_it_says_what_is_asked(
    text: str, tag: ImageTag, relevance: Relevance
) -> None:
    got = await judging(NEVER_SURE, ALL).search(Query(text, (tag,)))
    assert got.relevance is relevance
    if relevance is Relevance.ANSWER:
        assert [one.id for one in got.passages] == ["suede"]


async def test_what_the_topic_does_not_say_is_offered_where_a_title_has_it() -> None:
    chunks = [SUEDE, chunk("spray", "防水喷雾使用", "喷两遍。"), chunk("wool", "羊毛", "不防水。")]
    got = await judging(ALWAYS, chunks).search(Query("麂皮 那它防水吗", topic="麂皮"))
    assert (got.relevance, got.lacking) == (Relevance.CLARIFY, "麂皮")
    assert [one.id for one in got.passages] == ["spray"]
    got = await judging(ALWAYS, chunks).search(Query("麂皮 那它流行吗", topic="麂皮"))
    assert (got.relevance, got.lacking) == (Relevance.REFUSE, "")


async def test_what_only_shares_a_character_with_a_follow_up_says_nothing_of_it() -> None:
    chunks = [chunk("washing", "帆布鞋清洗", "用温水和软毛刷顺着布纹刷。")]
    got = await judging(ALWAYS, chunks).search(Query("帆布鞋清洗 那它防水吗", topic="帆布鞋清洗"))
    assert got.relevance is Relevance.REFUSE


async def test_a_word_that_stands_everywhere_singles_nothing_out() -> None:
    laces = [chunk(f"l{n}", f"第 {n} 双", f"鞋带系法之{n}") for n in range(20)]
    assert (await judging(ALWAYS, laces).search(Query("鞋带？"))).relevance is Relevance.CLARIFY
    assert (await judging(ALWAYS, laces[:10]).search(Query("鞋带？"))).relevance is Relevance.ANSWER
    named = [*laces, chunk("lace", "鞋带", "一根绳子。")]
    got = await judging(ALWAYS, named).search(Query("鞋带？"))
    assert (got.relevance, [one.id for one in got.passages]) == (Relevance.ANSWER, ["lace"])


@pytest.mark.parametrize(
    ("text", "likely"), [("洞洞鞋怕高温吗？", True), ("今天出门晒到的太阳", False), ("鞋？", False)]
)
async def test_what_is_asked_back_and_likely_enough_is_worth_showing(
    analyzer: Analyzer, text: str, likely: bool
) -> None:
    unsure = replace(DEFAULT, answer_from=2.0, clarify_from=0.0)
    laces = [chunk(f"l{n}", f"第 {n} 双", f"鞋带系法之{n}") for n in range(20)]
    index = Index.of(Recipe(analyzer, None, "cpu"), [*ALL, *laces])
    searched = Retriever(Snapshot(index, unsure), OPTIONS)
    got, ranking = await searched.search(Query(text)), await searched.rank(Query(text))
    assert (got.relevance, got.likely) == (Relevance.CLARIFY, likely)
    assert ranking.shows(ranking.hits[0], ranking.relevance) == likely
    assert not ranking.shows(ranking.hits[0], Relevance.ANSWER)


async def test_beside_what_is_shown_only_the_likely_is_offered(
    analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsure = replace(DEFAULT, answer_from=2.0, clarify_from=0.0)
    index = Index.of(Recipe(analyzer, None, "cpu"), ALL)
    searched, query = Retriever(Snapshot(index, unsure), OPTIONS), Query("洞洞鞋怕高温吗？")
    best, second, third = (await searched.rank(query)).hits[:3]
    assert best.probability > second.probability >= third.probability
    for share, offered in ((0.0, [best, second, third]), (0.99, [best])):
        monkeypatch.setattr("core.retrieval._WORTH_OFFERING", share)
        found = await searched.search(query)
        assert [one.id for one in found.passages] == [one.chunk.id for one in offered]


async def test_a_word_that_all_have_makes_none_of_them_likely() -> None:
    laces = [chunk(f"l{n}", f"第 {n} 双", f"鞋带系法之{n}") for n in range(20)]
    got = await judging(ALWAYS, laces).search(Query("鞋带？"))
    assert got.passages[0].score > 0.2
    assert not got.likely


async def test_a_colour_seen_does_not_single_out_what_the_words_do_not() -> None:
    chunks = [chunk(f"l{n}", f"第 {n} 双", f"鞋带系法之{n}") for n in range(20)]
    chunks += [chunk("black", "黑色", "黑色鞋带百搭。"), chunk("wash", "鞋带清洗", "鞋带手洗。")]
    searched = judging(ALWAYS, chunks)
    black, suede = (
        ImageTag("黑色", "black", "colour", 0.9),
        ImageTag("麂皮", "suede", "material", 0.9),
    )
    got = await searched.search(Query("这双的鞋带？", (black,)))
    assert (got.relevance, got.passages[0].id) == (Relevance.CLARIFY, "wash")
    got = await searched.search(Query("这双的鞋带？", (black, suede)))
    assert got.relevance is Relevance.ANSWER


async def test_a_keyword_that_only_one_entry_has_names_it() -> None:
    welt = replace(chunk("welt", "固特异沿条", "一圈皮条，工艺复杂。"), keywords=("固特异",))
    resole = chunk("resole", "固特异鞋换底", "固特异鞋可以换底，固特异鞋很耐穿。")
    ranking = await judging(ALWAYS, [welt, resole]).rank(Query("固特异是什么"))
    assert [(hit.chunk.id, hit.named) for hit in ranking.hits] == [
        ("welt", True),
        ("resole", False),
    ]
    both = [welt, replace(resole, keywords=("固特异",))]
    ranking = await judging(ALWAYS, both).rank(Query("固特异是什么"))
    assert not any(hit.named for hit in ranking.hits)


async def test_an_entry_is_found_by_the_questions_that_it_answers(analyzer: Analyzer) -> None:
    asked = replace(SUEDE, questions=("翻毛的那种沾了灰咋整", "毛毛的皮怎么弄干净"))
    chunks = [asked if one is SUEDE else one for one in ALL]
    query = Query("沾了灰咋整")
    assert (await retriever(analyzer).search(query)).relevance is Relevance.REFUSE
    found = await retriever(analyzer, chunks).search(query)
    assert (found.relevance, found.passages[0].id) == (Relevance.ANSWER, "suede")


@pytest.mark.parametrize("asked", ["那它防水吗", "那它怕水吗"])
async def test_what_people_ask_is_not_what_an_entry_says(asked: str) -> None:
    topic = replace(CLOGS, questions=(asked,))
    searched = judging(ALWAYS, [topic, BLUE])
    found = await searched.search(Query(f"洞洞鞋 {asked}", topic="洞洞鞋"))
    assert found.relevance is Relevance.REFUSE


@pytest.mark.parametrize("text", ["今天的股票行情", "", "🙂", "？？？", "\x00\x07"])
async def test_what_has_nothing_to_do_with_shoes_is_refused(analyzer: Analyzer, text: str) -> None:
    found = await retriever(analyzer).search(Query(text))
    assert found.relevance is Relevance.REFUSE
    assert found.passages == ()


@pytest.mark.parametrize(("text", "best"), [("洞洞鞋", "clogs"), ("foam clogs", "clogs.en")])
async def test_the_twin_in_the_language_of_the_question_is_given_alone(
    analyzer: Analyzer, text: str, best: str
) -> None:
    ranking = await retriever(analyzer).rank(Query(text))
    assert ranking.hits[0].chunk.id == best
    entries = [hit.chunk.entry for hit in ranking.hits]
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize(
    ("text", "best", "named"),
    [
        ("漆皮是什么？", "patent", True),
        ("漆皮怕热吗", "patent-care", False),
        ("What is a welt?", "welt", True),
        ("Tell me about welts", "welt", True),
        ("How are welted shoes resoled?", "resoling", False),
    ],
)
async def test_what_a_question_names_by_its_whole_title_comes_first(
    text: str, best: str, named: bool
) -> None:
    chunks = [
        chunk("patent", "漆皮", "一种表面很亮的皮革，做工复杂，常见于礼服鞋，怕刮也怕冷。"),
        chunk("patent-care", "漆皮护理", "漆皮护理用软布，漆皮怕高温，漆皮别打油。"),
        chunk("welt", "Welt", "A strip of leather that runs around the edge of an upper.", "en"),
        chunk("resoling", "Resoling welted shoes", "Welted shoes: the welt holds, welt on.", "en"),
    ]
    search = retriever(Analyzer(), chunks)
    ranking = await search.rank(Query(text))
    assert ranking.hits[0].chunk.id == best
    assert [hit.chunk.id for hit in ranking.hits if hit.named] == ([best] if named else [])


async def test_who_asks_for_a_thing_by_its_name_is_given_its_passage_alone() -> None:
    chunks = [
        chunk("patent", "漆皮", "一种表面很亮的皮革。漆皮怕热。"),
        chunk("care", "漆皮护理", "漆皮怕热，漆皮用软布擦。"),
        chunk("suede", "麂皮", "麂皮要用软毛刷顺着一个方向刷。"),
    ]
    sure = replace(DEFAULT, answer_from=0.0, clarify_from=0.0)
    index = Index.of(Recipe(Analyzer(), None, "cpu"), chunks)
    search = Retriever(Snapshot(index, sure), OPTIONS)
    assert [one.id for one in (await search.search(Query("漆皮是什么"))).passages] == ["patent"]
    assert len((await search.search(Query("漆皮怕热吗"))).passages) == 2


async def test_an_english_question_falls_back_to_the_chinese_passage(analyzer: Analyzer) -> None:
    ranking = await retriever(analyzer).rank(Query("How do I wash laces?"))
    assert ranking.hits[0].chunk.id == "laces"


async def test_a_chosen_language_overrides_the_texts_own(analyzer: Analyzer) -> None:
    ranking = await retriever(analyzer).rank(Query("洞洞鞋", language="en"))
    assert ranking.hits[0].chunk.id == "clogs.en"


async def test_a_tag_helps_as_much_as_it_is_sure(analyzer: Analyzer) -> None:
    search = retriever(analyzer)

    async def score(sure: float) -> float:
        tag = ImageTag("蓝色", "blue", "颜色", sure)
        hits = (await search.rank(Query("麂皮", (tag,)))).hits
        by_id = {hit.chunk.id: hit.signals.coverage for hit in hits}
        return by_id.get("blue", 0.0)

    assert 0 < await score(0.2) < await score(0.9)
    ranking = await search.rank(Query("麂皮", (ImageTag("蓝色", "blue", "颜色", 0.5),)))
    assert ranking.hits[0].chunk.id == "suede"


async def test_a_colour_seen_counts_less_than_a_kind_of_shoe(analyzer: Analyzer) -> None:
    search = retriever(analyzer)

    async def coverage(group: str) -> float:
        hits = (await search.rank(Query("麂皮", (ImageTag("蓝色", "blue", group, 0.9),)))).hits
        return {hit.chunk.id: hit.signals.coverage for hit in hits}["blue"]

    assert 0 < await coverage("colour") < await coverage("type")


@pytest.mark.parametrize("fusion", ["weighted", "rrf"])
async def test_both_legs_are_fused(analyzer: Analyzer, letters: Embedder, fusion: str) -> None:
    options = replace(OPTIONS, fusion=fusion)  # type: ignore[arg-type]
    search = retriever(analyzer, embedder=letters, options=options)
    ranking = await search.rank(Query("鞋带可以拆下来用温水手洗"))
    assert ranking.hits[0].chunk.id == "laces"
    assert ranking.hits[0].signals.cosine > 0.9


async def test_the_dense_leg_finds_what_shares_no_word(letters: Embedder) -> None:
    chunks = [chunk("a", "x", "abcdefgh", "en"), chunk("b", "x", "stuvwxyz", "en")]
    search = retriever(Analyzer(), chunks, embedder=letters)
    ranking = await search.rank(Query("hgfedcba"))
    assert ranking.hits[0].chunk.id == "a"


async def test_depth_does_not_change_with_the_number_given(analyzer: Analyzer) -> None:
    one = retriever(analyzer, options=replace(OPTIONS, top_k=1))
    three = retriever(analyzer, options=replace(OPTIONS, top_k=3))
    query = Query("鞋")
    first, second = await one.rank(query), await three.rank(query)
    assert [hit.chunk.id for hit in first.hits] == [hit.chunk.id for hit in second.hits]


async def test_a_reranker_has_the_last_word(analyzer: Analyzer) -> None:
    class LikesSuede:
        def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.array([0.9 if "麂皮" in text else 0.1 for text in texts], np.float32)

    ranking = await retriever(analyzer, reranker=LikesSuede()).rank(Query("鞋带 麂皮 刷"))
    assert ranking.hits[0].chunk.id == "suede"


async def test_a_reranker_sees_what_is_not_listed_without_it(analyzer: Analyzer) -> None:
    class LikesTheLongest:
        def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.array([len(text) / 1000 for text in texts], np.float32)

    laces = [chunk(f"laces-{n}", f"第 {n} 双", "鞋带" + "很长" * n) for n in range(40)]
    listed = await retriever(analyzer, laces).rank(Query("鞋带"))
    assert "laces-39" not in [hit.chunk.id for hit in listed.hits]
    ranking = await retriever(analyzer, laces, reranker=LikesTheLongest()).rank(Query("鞋带"))
    assert ranking.hits[0].chunk.id == "laces-39"


async def test_a_minimum_refuses_more_than_the_calibration(analyzer: Analyzer) -> None:
    options = replace(OPTIONS, min_relevance=1.0)
    found = await retriever(analyzer, options=options).search(Query("鞋带 颜色"))
    assert found.relevance is Relevance.REFUSE


async def test_an_empty_knowledge_base_refuses(analyzer: Analyzer) -> None:
    found = await retriever(analyzer, ()).search(Query("洞洞鞋"))
    assert found.relevance is Relevance.REFUSE


@pytest.mark.parametrize(
    "text", ["鞋带" * 50_000, "\u202eאבג 鞋带 abc\u202c", "\ud800鞋带", "鞋带\x00" * 9, "👟鞋带👟"]
)
async def test_hostile_questions_are_searched_all_the_same(
    analyzer: Analyzer, letters: Embedder, text: str
) -> None:
    ranking = await retriever(analyzer, embedder=letters).rank(Query(text))
    assert ranking.hits[0].chunk.id == "laces"


async def test_searches_under_way_finish_on_the_snapshot_they_began_with(
    analyzer: Analyzer,
) -> None:
    search = retriever(analyzer, [LACES])
    other = Snapshot(Index.of(Recipe(analyzer, None, "cpu"), [SUEDE, CLOGS]), DEFAULT)
    own = search.snapshot

    async def ask() -> None:
        for _ in range(40):
            ids = {hit.chunk.id for hit in (await search.rank(Query("鞋带 麂皮 洞洞鞋"))).hits}
            assert ids in ({"laces"}, {"suede", "clogs"})

    async def swap() -> None:
        for turn in range(40):
            search.use(other if turn % 2 else own)
            await asyncio.sleep(0)

    await asyncio.gather(ask(), ask(), swap())


async def test_a_lower_rank_is_never_called_likelier(analyzer: Analyzer) -> None:
    hits = (await retriever(analyzer).rank(Query("鞋带 洞洞鞋 麂皮"))).hits
    chances = [hit.probability for hit in hits]
    assert chances == sorted(chances, reverse=True)
