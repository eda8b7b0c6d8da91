"""BM25 agrees with a reference implementation, however the index came about."""

from __future__ import annotations

import random
from collections import Counter

import bm25s
import numpy as np
import pytest

from core.lexical import Bm25, LexicalIndex

WORDS = [f"w{number}" for number in range(60)]
QUESTION = {"a": 1.0, "b": 0.5, "unknown": 2.0}


def texts(count: int, seed: int = 1) -> list[list[str]]:
    chance = random.Random(seed)
    return [chance.choices(WORDS, k=chance.randint(3, 30)) for _ in range(count)]


def counted(words: list[str]) -> dict[str, float]:
    return dict(Counter(words))


def test_scores_are_those_of_bm25s() -> None:
    corpus = texts(80)
    oracle = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    oracle.index(corpus, show_progress=False)
    index = LexicalIndex.empty(Bm25(1.2, 0.75)).with_passages([counted(one) for one in corpus])
    for question in texts(20, seed=2):
        words = sorted(set(question))
        expected = oracle.get_scores(words)
        found = index.scores(dict.fromkeys(words, 1.0)).scores
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_covered_is_the_worth_of_the_words_that_occur_however_often() -> None:
    index = LexicalIndex.empty().with_passages([{"a": 9.0, "b": 1.0}, {"a": 1.0}, {"c": 1.0}])
    worth = {word: weight * index.scores({word: 1.0}).ideal for word, weight in QUESTION.items()}
    match = index.scores(QUESTION)
    assert match.ideal == pytest.approx(sum(worth.values()))
    expected = [worth["a"] + worth["b"], worth["a"], 0.0]
    np.testing.assert_allclose(match.covered, expected, rtol=1e-5)


def test_an_index_that_grew_and_shrank_equals_one_made_at_once() -> None:
    corpus = [counted(one) for one in texts(50)]
    grown = LexicalIndex.empty().with_passages(corpus[:20]).with_passages(corpus[20:])
    shrunk = grown.without_rows([0, 7, 33, 49]).with_passages(corpus[:1])
    rest = [one for row, one in enumerate(corpus) if row not in {0, 7, 33, 49}]
    made = LexicalIndex.empty().with_passages([*rest, corpus[0]])
    question = dict.fromkeys(WORDS[::3], 1.0)
    np.testing.assert_allclose(shrunk.scores(question).scores, made.scores(question).scores)
    assert shrunk.scores(question).ideal == pytest.approx(made.scores(question).ideal)


def test_a_change_leaves_the_old_index_as_it_was() -> None:
    index = LexicalIndex.empty().with_passages([{"a": 1.0}, {"b": 1.0}])
    before = index.scores({"a": 1.0}).scores.copy()
    index.with_passages([{"a": 5.0}])
    index.without_rows([0])
    np.testing.assert_array_equal(index.scores({"a": 1.0}).scores, before)


def test_everything_can_be_taken_out() -> None:
    index = LexicalIndex.empty().with_passages([{"a": 1.0}]).without_rows([0])
    assert len(index) == 0
    assert index.with_passages([{"a": 1.0}]).scores({"a": 1.0}).scores[0] > 0


def test_unknown_words_lower_the_coverage() -> None:
    index = LexicalIndex.empty().with_passages([{"a": 1.0}, {"b": 1.0}])
    half = index.scores({"a": 1.0, "never": 1.0})
    assert half.covered[0] / half.ideal < 0.5
    assert half.covered[1] == 0


def test_passages_that_hold_all_terms_are_counted() -> None:
    index = LexicalIndex.empty().with_passages([{"a": 2.0, "b": 1.0}, {"a": 1.0}, {"b": 1.0}])
    for terms, held in ((["a"], 2), (["a", "b"], 1), (["a", "unknown"], 0), ([], 0)):
        assert [index.in_more_than(most, terms) for most in (0, 1, 2)] == [
            held > most for most in (0, 1, 2)
        ]
    assert not LexicalIndex.empty().in_more_than(0, ["a"])
