"""Markdown becomes text with styles, and long texts part where a reader would pause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.markup import Span, Styled, split, styled, utf16_length, with_sources
from core.messages import Source


def in_style(whole: Styled) -> list[tuple[str, str]]:
    """(style, the words in it) of every span."""
    return [(s.style, whole.text[s.start : s.start + s.length]) for s in whole.spans]


def test_bold_words_lose_their_stars() -> None:
    whole = styled("Wash **by hand** only.")
    assert whole == Styled("Wash by hand only.", (Span("bold", 5, 7),))


def test_bold_ends_where_chinese_goes_on() -> None:
    assert in_style(styled("**注意：**不要暴晒")) == [("bold", "注意：")]


def test_a_product_of_numbers_is_not_emphasis() -> None:
    assert styled("25 * 2 * 3 and 2*3*4") == Styled("25 * 2 * 3 and 2*3*4")


def test_a_heading_is_bold_and_a_list_has_bullets() -> None:
    whole = styled("## Care\n- brush\n- dry")
    assert whole.text == "Care\n• brush\n• dry"
    assert in_style(whole) == [("bold", "Care")]


def test_code_keeps_its_stars() -> None:
    whole = styled("Run `a ** b`:\n```\n**x**\n```\nDone.")
    assert in_style(whole) == [("code", "a ** b"), ("pre", "**x**")]
    assert whole.text == "Run a ** b:\n**x**\nDone."


def test_a_links_words_stay_and_its_address_goes() -> None:
    assert styled("See [this](https://evil.example/?q=1) ![x](https://a.b/c)").text == "See this x"


def test_sources_stand_under_the_answer() -> None:
    sources = [Source("1", "Canvas", "…", "ours"), Source("2", "Canvas", "…", "ours")]
    whole = with_sources(Styled("Wash it."), sources, "en")
    assert whole.text == "Wash it.\n\nSources (1)\n• Canvas · ours"
    assert in_style(whole) == [("sources", "Sources (1)\n• Canvas · ours")]


def test_an_answer_without_sources_stays_as_it_is() -> None:
    assert with_sources(Styled("Hello."), (), "zh") == Styled("Hello.")


@pytest.mark.parametrize("text", ["", " \n", "[](https://a.b)", "![](https://a.b/c)", "```\n```"])
def test_an_answer_of_nothing_but_marks_can_be_shown(text: str) -> None:
    source = Source("1", "Canvas", "…", "ours")
    assert with_sources(styled(text), (), "en") == Styled("…")
    assert with_sources(styled(text), [source], "en").text.startswith("…\n\nSources (1)")


def test_a_long_text_is_parted_between_paragraphs() -> None:
    first, second = "a " * 30, "b " * 30
    pieces = split(Styled(f"{first.strip()}\n\n{second.strip()}"), 100)
    assert [piece.text for piece in pieces] == [first.strip(), second.strip()]


def test_a_long_chinese_paragraph_is_parted_between_sentences() -> None:
    pieces = split(Styled("鞋要晾干。" * 4), 12)
    assert [piece.text for piece in pieces] == ["鞋要晾干。鞋要晾干。"] * 2


def test_a_style_goes_on_in_the_next_piece() -> None:
    whole = Styled("aaaa bbbb", (Span("bold", 0, 9),))
    assert [in_style(piece) for piece in split(whole, 5)] == [
        [("bold", "aaaa")],
        [("bold", "bbbb")],
    ]


@given(st.text(alphabet="ab👟鞋*`_#[]() .\n。", max_size=300), st.integers(4, 60))
def test_no_piece_is_too_long_and_no_character_is_lost(text: str, limit: int) -> None:
    whole = styled(text)
    pieces = split(whole, limit)
    assert all(0 < utf16_length(piece.text) <= limit for piece in pieces)
    assert "".join("".join(p.text.split()) for p in pieces) == "".join(whole.text.split())
    for piece in pieces:
        assert all(0 <= s.start < s.start + s.length <= len(piece.text) for s in piece.spans)
