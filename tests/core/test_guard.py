"""How a model's answer is let through: what it invents is never shown, loops are cut short."""

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import AnswerUnsupported
from core.grounding import Ground
from core.guard import guarded
from core.model import Piece

ZH = "帆布鞋洗后要晾两天，水温不超过 30 度，鞋底厚 25 毫米，GORE-TEX 内衬可以防水。"
EN = "Let canvas shoes dry for two days after washing. The sole is 25 mm thick and made of EVA."
TURNED = "一字拖没有后跟固定，不适合跑步。Slides do not have a heel strap."


async def stream(texts: Iterable[str]) -> AsyncIterator[Piece]:
    whole = list(texts)
    for text in whole[:-1]:
        yield Piece(text)
    yield Piece(whole[-1], "stop")


async def shown(pieces: list[str], ground: str) -> tuple[str, bool]:
    """What a person saw of an answer, and whether it was let through to its end."""
    return await let_through(pieces, Ground.of([ground], 0.3), english=ground == EN)


async def let_through(pieces: list[str], ground: Any, *, english: bool = False) -> tuple[str, bool]:
    text = ""
    try:
        async for piece in guarded(stream(pieces), ground, english=english):
            text += piece.text
    except AnswerUnsupported:
        return text, False
    return text, True


async def test_a_sentence_said_twice_is_stopped() -> None:
    said = "Let canvas shoes dry for two days after washing."
    text, whole = await shown([f"Sure! Sure! {said}", " The sole is 25 mm thick. ", said, " "], EN)
    assert not whole
    assert text.count(said) == 1
    text, whole = await shown([f"Sure! Sure! {said}", " The sole is 25 mm thick."], EN)
    assert whole


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (
            "Let canvas shoes dry for two days after washing.",
            "Let canvas shoes dry for two days after washing!",
        ),
        ("帆布鞋洗后要晾两天，水温不超过 30 度。", "帆布鞋洗后要晾两天，水温不超过 30 度呢～"),
        (
            "哈喽，帆布鞋嘛，帆布鞋洗后要晾两天，水温不超过 30 度。",
            "帆布鞋洗后要晾两天，水温不超过 30 度。",
        ),
    ],
)
async def test_talk_around_it_makes_no_other_sentence(first: str, again: str) -> None:
    ground = Ground.of([f"{ZH}\n{EN}"], 0.3)
    text, whole = await let_through([first, " ", again, " "], ground, english=False)
    assert not whole
    assert text.startswith(first)


@pytest.mark.parametrize(
    ("said", "before"), [("'t", "So, don"), ("鞋底厚、", ""), ("EVA so, ", "")]
)
async def test_what_stands_between_letters_hides_no_loop(said: str, before: str) -> None:
    ground = Ground.of([f"{ZH}\n{EN}"], 0.3, also=["don't"])
    text, whole = await let_through([before, *[said] * 12, " "], ground, english=True)
    assert not whole
    assert len(text) <= len(before) + 4 * len(said)


@pytest.mark.parametrize(
    ("said", "stopped"),
    [
        ("帆布鞋要晾两天，帆布鞋要晾两天，别急。", True),
        ("So, EVA sole, right: EVA sole, right: made of EVA.", True),
        ("So, so, canvas shoes dry. ", False),
        ("The sole is 25 mm, the sole is 25 mm thick.", False),
    ],
)
async def test_a_clause_is_not_said_twice_in_a_row(said: str, stopped: bool) -> None:
    _, whole = await let_through([*said, " "], Ground.of([f"{ZH}\n{EN}"], 0.3), english=True)
    assert whole is not stopped


async def test_blanks_without_end_are_stopped() -> None:
    text, whole = await shown(["So, ", *[" "] * 40], EN)
    assert not whole
    assert len(text) < 12


async def test_a_mark_without_end_is_stopped_but_no_line() -> None:
    text, whole = await shown(["So, don", *["'"] * 40], EN)
    assert not whole
    assert len(text) < 18
    assert await shown(["So:\n", *["-"] * 20], EN) == ("So:\n" + "-" * 20, True)


INVENTED = (
    (ZH, "帆布鞋要晾三天，别急。", "三"),
    (ZH, "鞋底厚 25 厘米，很高。", "25"),
    (ZH, "帆布鞋要晾 2 个月，别急。", "2"),
    (ZH, "帆布鞋要晾二十五分钟。", "二"),
    (ZH, "内衬是 GORE-TEXX 防水。", "GORE"),
    (EN, "Let canvas shoes dry for twelve days, please.", "twelve"),
    (EN, "The sole is 25 to 30 mm thick.", "25"),
    (EN, "Canvas shoes can go half a size up.", "half"),
    (EN, "Canvas dries in fifteen minutes. Let it.", "f"),
    (EN, "The sole is made of Vibram rubber.", "V"),
    (EN, "Soles like superXfoam are thick.", "X"),
    (EN, "Soles like super-Xfoam are thick.", "-"),
    (EN, "ORTHOLITE soles are thick.", "O"),
)


def cut(text: str, places: set[int]) -> list[str]:
    edges = [0, *sorted(place for place in places if 0 < place < len(text)), len(text)]
    return [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]


@given(st.sampled_from(INVENTED), st.sets(st.integers(1, 50)))
async def test_an_unsupported_figure_is_never_shown_wherever_the_pieces_end(
    case: tuple[str, str, str], places: set[int]
) -> None:
    ground, answer, figure = case
    text, whole = await shown(cut(answer, places), ground)
    assert not whole
    assert answer.startswith(text)
    assert figure not in text


@pytest.mark.parametrize(
    ("answer", "at_once"),
    [
        ("Let canvas", "Let canvas"),
        ("The EV", "The "),
        ("Let it dry for tw", "Let it dry for "),
        ("It is 25 m", "It is "),
        ("鞋底是 ru", "鞋底是 "),
        ("A", "A"),
        ("G", ""),
    ],
)
async def test_an_english_word_is_shown_before_its_end_where_it_can_be_no_name(
    answer: str, at_once: str
) -> None:
    async with aclosing(
        guarded(stream([answer, " …", "."]), Ground.of([ZH, EN], 0.3), english=True)
    ) as pieces:
        first = await anext(pieces)
    assert first.text == (at_once or f"{answer} …")


@given(st.sampled_from([ZH, EN]), st.sets(st.integers(1, 80)))
async def test_a_supported_answer_comes_through_unchanged(answer: str, places: set[int]) -> None:
    assert await shown(cut(answer, places), answer) == (answer, True)


WORDS = st.sampled_from(
    [
        "帆布鞋",
        "晾",
        "两天",
        "三",
        "25",
        " mm",
        " 毫米",
        "没",
        "有",
        "后跟固定",
        "不",
        "适合跑步",
        "，",
        "。",
        "是",
        "一字拖",
    ]
    + [
        "Let",
        " canvas",
        " two",
        " days",
        ". ",
        "Slides",
        " do",
        " not",
        "n't",
        " have",
        " a heel",
        " strap",
        "GORE-",
        "TEX",
        " Vib",
        "ram",
    ]
)


class Thorough:
    """A ground that looks at everything again, whatever was looked at before."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def unsupported(self, text: str, *, finished: bool, known: int) -> str | None:
        return self._ground.unsupported(text, finished=finished)


@given(st.lists(WORDS, min_size=1, max_size=24))
async def test_what_was_looked_at_before_need_not_be_looked_at_again(words: list[str]) -> None:
    ground = Ground.of([ZH, EN, TURNED], 0.3)
    assert await let_through(words, ground) == await let_through(words, Thorough(ground))
