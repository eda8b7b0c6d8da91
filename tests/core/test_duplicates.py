"""Which texts count as the same."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from core.duplicates import near_pairs, normalised, shingles


def test_case_width_and_punctuation_do_not_count() -> None:
    assert normalised("ＧＴＸ，防水吗？") == normalised("gtx 防水吗")


def test_texts_with_other_figures_are_different() -> None:
    assert near_pairs(["size of a 24.5 cm foot", "size of a 25.5 cm foot"]) == []


@given(st.lists(st.text("鞋靴带子ab", max_size=12), max_size=12))
def test_every_pair_that_overlaps_enough_is_found(texts: list[str]) -> None:
    parts = [shingles(text) for text in texts]
    expected = {
        (one, other)
        for one, other in combinations(range(len(texts)), 2)
        if len(parts[one] & parts[other]) >= 0.7 * len(parts[one] | parts[other])
    }
    assert {(pair.first, pair.second) for pair in near_pairs(texts)} == expected
