"""What an answer may say: figures, names and sentences of its passages, and which were used."""

import pytest

from core.grounding import Ground, is_refusal, says_a_sentence, stands_on_one, used_passages
from core.messages import Passage
from core.quantities import quantities

ZH = "帆布鞋洗后要晾两天，水温不超过 30 度，鞋底厚 25 毫米，GORE-TEX 内衬可以防水。"
EN = "Let canvas shoes dry for two days after washing. The sole is 25 mm thick and made of EVA."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("25 毫米", {("25", "mm")}),
        ("25mm", {("25", "mm")}),
        ("２５ＭＭ", {("25", "mm")}),
        ("25.0 millimetres", {("25", "mm")}),
        ("20 到 30 分钟", {("20", "min"), ("30", "min")}),
        ("20–30 minutes", {("20", "min"), ("30", "min")}),
        ("二十到三十分钟", {("20", "min"), ("30", "min")}),
        ("十二个月", {("12", "month")}),
        ("晾两天", {("2", "day")}),
        ("two days", {("2", "day")}),
        ("a two-week break", {("2", "week")}),
        ("half a size", {("0.5", "size")}),
        ("大半码", {("0.5", "size")}),
        ("US 8½", {("8.5", "")}),
        ("1,000 km", {("1000", "km")}),
        ("38，39，40 码", {("38", ""), ("39", ""), ("40", "size")}),
        ("三百五十克", {("350", "g")}),
        ("二十千克", {("20", "kg")}),
        ("一万二千步", {("12000", "")}),
        ("百搭，十分好穿，千万别晒", set()),
    ],
)
def test_quantities_are_read_in_both_languages(text: str, found: set[tuple[str, str]]) -> None:
    assert quantities(text) == found


@pytest.mark.parametrize(
    ("answer", "invented"),
    [
        ("帆布鞋要晾三天。", "3"),
        ("水温不超过 40 度。", "40"),
        ("鞋底厚 25 厘米。", "25"),
        ("水温 20 到 30 度。", "20"),
        ("要晾十二天。", "12"),
        ("内衬是 Sympatex。", "Sympatex"),
        ("资料里没有提到，但一般要 500 元。", "500"),
    ],
)
def test_invented_figures_and_names_are_caught_in_chinese(answer: str, invented: str) -> None:
    assert Ground.of([ZH], 0.3).unsupported(answer) == invented


@pytest.mark.parametrize(
    ("answer", "invented"),
    [
        ("Let canvas shoes dry for three days.", "3"),
        ("The sole is 25 cm thick.", "25"),
        ("The sole is made of Vibram rubber.", "Vibram"),
        ("The documents do not say, but the sole is 40 mm.", "40"),
    ],
)
def test_invented_figures_and_names_are_caught_in_english(answer: str, invented: str) -> None:
    assert Ground.of([EN], 0.3).unsupported(answer) == invented


@pytest.mark.parametrize(
    ("ground", "answer"),
    [
        (ZH, "帆布鞋洗完晾 2 天，水温别超过 30 度。"),
        (ZH, "鞋底 25mm 厚，Gore-Tex 内衬防水。"),
        (ZH, "资料里没有提到价格，我不能乱说。"),
        (EN, "After washing, canvas shoes should dry for 2 days."),
        (EN, "The EVA-made sole is 25 millimetres thick."),
        (EN, "My notes do not cover that."),
    ],
)
def test_a_paraphrase_or_refusal_passes(ground: str, answer: str) -> None:
    assert Ground.of([ground], 0.3).unsupported(answer) is None


def test_what_the_passages_deny_is_not_said() -> None:
    ground = Ground.of(["一字拖没有后跟固定，不适合跑步。"], 0.3, also=["一字拖适合跑步吗"])
    assert ground.unsupported("一字拖没有后跟固定，适合跑步。") == "定 , 适 合"
    assert ground.unsupported("一字拖没有后跟固定，不适合跑步。") is None
    assert ground.unsupported("一字拖不适合跑步。") is None


SUEDE = "Suede\nSuede is brushed in one direction with a soft brush, and never with water."
CLEANING = (
    "Cleaning suede\nRub small marks with an eraser, and let wet spots dry slowly in the shade."
)


@pytest.mark.parametrize(
    ("answer", "caught"),
    [
        ("So, Cleaning suede: Rub small marks with an eraser, and let wet spots dry.", False),
        ("So, Cleaning suede: Suede is brushed in one direction with a soft brush.", True),
        ("About suede: rub small marks with an eraser, and let wet spots dry slowly.", True),
        ("For suede, rub small marks with an eraser, and let wet spots dry slowly.", False),
    ],
)
def test_an_answer_that_opens_with_one_title_says_what_that_passage_says(
    answer: str, caught: bool
) -> None:
    assert (Ground.of([SUEDE, CLEANING], 0.7).unsupported(answer) is not None) is caught


@pytest.mark.parametrize(
    ("answer", "caught"),
    [
        ("您好，关于综合训练鞋：综合训练鞋是兼顾举铁和跳箱的健身鞋。", False),
        ("哈喽，说到综合训练鞋嘛，就是兼顾举铁和跳箱的健身鞋哦～", False),
        ("嗨，说起综合训练鞋，就是兼顾举铁和跳箱的健身鞋哦～", False),
        ("综合训练鞋是兼顾举铁和跳箱的健身鞋。", False),
        ("哈喽，说到鞋合训练鞋嘛，就是兼顾举铁和跳箱的健身鞋哦～", True),
        ("您好，关于训练鞋：综合训练鞋是兼顾举铁和跳箱的健身鞋。", True),
    ],
)
def test_a_model_that_copies_names_what_its_passages_are_called(answer: str, caught: bool) -> None:
    passage = "综合训练鞋\n综合训练鞋是兼顾举铁和跳箱的健身鞋。"
    assert (Ground.of([passage], 0.7).unsupported(answer) is not None) is caught


WELT = (
    "Goodyear welt\nGoodyear welting stitches the upper and insole rib to a strip called the welt, "
    "then stitches the outsole to that welt. It is not glued, and on ice it is not enough."
)


@pytest.mark.parametrize(
    ("answer", "strange"),
    [
        ("So, Goodyear welt: Gon'tec welting stitches the upper.", "Gon'tec"),
        ("Goodyear welting stitches the upper and isesce insole rib.", "isesce"),
        ("White welting stitches the upper and insole rib.", "White"),
        ("Hey! On ice it't enough.", "it't"),
        ("Dat't glued.", "Dat't"),
        ("Hey! It isn't glued, and that's not enough. That's it!", None),
        ("The welt's strip mustn't stitch the uppers. Hope that helps!", None),
        ("Goodyear-welt stitches: the insole-rib.", None),
    ],
)
def test_a_model_that_copies_has_its_words_from_its_passages(
    answer: str, strange: str | None
) -> None:
    also = ["Does it stitch?"]
    found = list(Ground.of([WELT], 0.7, also=also)._strange_words(answer, 0, finished=True))
    assert found == ([strange] if strange else [])
    assert not list(Ground.of([WELT], 0.3, also=also)._strange_words(answer, 0, finished=True))


def test_a_word_that_may_still_grow_is_no_strange_one_yet() -> None:
    ground = Ground.of([WELT], 0.7)
    assert ground.unsupported("The stru", finished=False) is None
    # It had been shown as far as it was then, and turned out to be no more than that.
    assert ground.unsupported("The stru is", finished=False, known=8) == "stru"
    assert ground.unsupported("The stru", finished=True) == "stru"


def test_a_model_that_copies_speaks_of_no_solemate() -> None:
    said = "水印就是 Solemate，皮鞋上的水印多半是局部打湿后留下的边界。"
    passage = "水印\n皮鞋上的水印多半是局部打湿后干得不均匀留下的边界。"
    assert Ground.of([passage], 0.7).unsupported(said) == "Solemate"
    assert Ground.of([passage], 0.3).unsupported("我是 Solemate。") is None


def test_an_answer_says_a_sentence_or_only_words_of_one() -> None:
    text = "Stability running shoes suit overpronation because the inner side is firmer."
    stability = Passage("s", "Shoes for overpronation", text, "", "", "en")
    empty = "Shoes for overpronation: On running shoes suit overpronation. Hope that helps!"
    assert not says_a_sentence(empty, [stability])
    assert says_a_sentence(f"Hey! {text}", [stability])
    assert not says_a_sentence("", [stability])


SIZES = [
    "脚长 26 cm 的鞋码\n脚长 26 cm 对应国标 260，旧鞋码是 42 码。",
    "脚长 27 cm 的鞋码\n脚长 27 cm 对应国标 270，旧鞋码是 44 码。",
]


@pytest.mark.parametrize(
    ("answer", "mixed"),
    [
        ("脚长 27 cm 对应国标 260，旧鞋码是 44 码。", True),
        ("脚长 27 cm 对应国标 270，旧鞋码是 44 码。", False),
        ("脚长 27 cm 对应国标 270 哦。脚长 26 cm 对应国标 260，旧鞋码是 42 码。", False),
        ("脚长 27 cm 对应国标 270，旧鞋码是 42 码，比问的 45 码小。", True),
        ("您好，关于脚长 27 cm 的鞋码：脚长 27 cm 对应国标 270，旧鞋码是 44 码。", False),
    ],
)
def test_a_model_that_copies_has_a_sentences_figures_from_one_passage(
    answer: str, mixed: bool
) -> None:
    copied = Ground.of(SIZES, 0.5, also=["45 码穿多大？比 45 码小吗？"])
    assert (copied.unsupported(answer) is not None) is mixed
    retold = Ground.of(SIZES, 0.3, also=["45 码穿多大？比 45 码小吗？"])
    assert retold.unsupported(answer) is None


def test_a_sentence_is_of_one_passage_where_a_model_copies() -> None:
    other = "乐福鞋\n乐福鞋是没有鞋带的一脚蹬皮鞋，鞋面有横带或流苏装饰。"
    mixed = "帆布鞋用软刷蘸温水刷洗，鞋面有横带或流苏装饰。"
    canvas = "帆布鞋\n帆布鞋用软刷蘸温水刷洗，阴凉处晾干。"
    assert Ground.of([canvas, other], 0.7).unsupported(mixed) == mixed
    assert Ground.of([canvas, other], 0.3).unsupported(mixed) is None
    whole = "帆布鞋用软刷蘸温水刷洗，阴凉处晾干。"
    assert Ground.of([canvas, other], 0.7).unsupported(whole) is None
    assert (
        Ground.of([canvas, other], 0.7).unsupported("帆布鞋用软刷蘸温水刷一洗，阴凉处晾干。")
        == "一"
    )


def test_an_answer_stands_on_one_passage_or_is_pieced_together() -> None:
    canvas = Passage("canvas", "帆布鞋", "帆布鞋用软刷蘸温水刷洗。阴凉处晾干。", "", "", "zh")
    suede = Passage("suede", "麂皮", "麂皮要用橡皮擦擦掉污渍。不能沾水。", "", "", "zh")
    twin = Passage("twin", "帆布鞋面", "帆布鞋用软刷蘸温水刷洗。会褪色。", "", "", "zh")
    passages = [canvas, suede, twin]
    assert stands_on_one("你好！帆布鞋用软刷蘸温水刷洗。阴凉处晾干。", passages)
    assert not stands_on_one("帆布鞋用软刷蘸温水刷洗。麂皮要用橡皮擦擦掉污渍。", passages)
    assert not stands_on_one("今天天气很好。", passages)
    assert not stands_on_one("", passages)
    assert not stands_on_one("阴凉处晾干。", [])


def test_a_sentence_from_nowhere_is_caught() -> None:
    sentence = "皮鞋需要每周涂抹鞋油并且用马毛刷抛光。"
    assert Ground.of([ZH], 0.3).unsupported(sentence) == sentence


@pytest.mark.parametrize(
    "text",
    [
        "您好，资料里没有提到这一点，我不能乱说。",
        "Sorry, my documents do not cover that.",
        "Sorry, that is not in my documents, so I will not guess.",
        "I don’t know.",
        "我不清楚。",
    ],
)
def test_a_refusal_is_known(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "EVA does not hold water.",
        "Wear is not covered by the warranty.",
        "不知道尺码时，看鞋内标签。",
        "Slides do not have a heel strap.",
    ],
)
def test_an_answer_with_a_negation_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_only_passages_that_were_used_are_sources() -> None:
    canvas = Passage("canvas", "帆布鞋", "帆布鞋用软刷蘸温水刷洗，阴凉处晾干。", "", "", "zh")
    suede = Passage("suede", "麂皮", "麂皮要用橡皮擦擦掉污渍，不能沾水。", "", "", "zh")
    assert used_passages("帆布鞋用软刷蘸温水刷洗。", [suede, canvas]) == [canvas]
    both = "麂皮不能沾水，用橡皮擦擦掉污渍。帆布鞋在阴凉处晾干。"
    assert used_passages(both, [canvas, suede]) == [suede, canvas]
    assert used_passages("今天天气很好。", [canvas, suede]) == []
