"""Texts are cut into terms in the same way in passages and questions, whatever comes in."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import DataError
from core.terms import Analyzer, load_lexicon, normalize, subject_of


def synonyms(tmp_path: Path, text: str) -> Analyzer:
    path = tmp_path / "synonyms.txt"
    path.write_text(text, "utf-8")
    return Analyzer(load_lexicon(path))


def test_chinese_is_cut_into_characters_and_pairs() -> None:
    assert set(Analyzer().question("洞洞鞋")) == {"洞", "鞋", "洞洞", "洞鞋"}


def test_english_words_are_stemmed_and_cut_into_pieces() -> None:
    terms = Analyzer().question("running")
    assert terms["run"] == 1.0
    assert {"~runn", "~unni", "~nnin", "~ning"} < set(terms)


@pytest.mark.parametrize("code", ["25.5", "990v5", "eu42"])
def test_numbers_sizes_and_model_codes_stay_whole(code: str) -> None:
    assert code in Analyzer().question(f"What is {code.upper()}, please?")


def test_a_code_is_also_found_by_its_parts() -> None:
    assert {"eu", "42"} < set(Analyzer().question("EU42"))


def test_full_width_upper_case_and_traditional_characters_are_one_spelling() -> None:
    assert normalize("ＥＵ４２ 鞋帶") == "eu42 鞋带"


def test_question_words_do_not_count() -> None:
    assert Analyzer().question("请问是什么呢？ what is it?") == {}


@pytest.mark.parametrize(
    ("asked", "about"),
    [
        ("一句话告诉我，鞋带怎么洗？", "鞋带怎么洗？"),
        ("赶时间，简短点，鞋带怎么洗？", "鞋带怎么洗？"),
        ("鞋带怎么洗？长话短说", "鞋带怎么洗？"),
        ("In short: how do I wash laces?", "how do I wash laces?"),
        ("I am in a hurry, briefly: how do I wash laces?", "how do I wash laces?"),
        ("请用英文回答：鞋带怎么洗？", "鞋带怎么洗？"),
        ("鞋带怎么洗？用中文说", "鞋带怎么洗？"),
        ("Please answer in Chinese: how do I wash laces?", "how do I wash laces?"),
        ("How do I wash laces? In English, please.", "How do I wash laces?"),
        ("Are shoes sold in Chinese sizes?", "Are shoes sold in Chinese sizes?"),
        ("鞋带要短一点吗", "鞋带要短一点吗"),
        ("简单的白鞋怎么配", "简单的白鞋怎么配"),
        ("Are kids' sizes in short supply?", "Are kids' sizes in short supply?"),
    ],
)
def test_how_an_answer_is_wanted_is_not_what_it_is_about(asked: str, about: str) -> None:
    assert subject_of(asked) == about


def test_a_title_counts_more_than_the_text() -> None:
    terms = Analyzer(title_weight=2.0).passage("loafer", "loafer sole")
    assert terms["loafer"] == 3.0
    assert terms["sole"] == 1.0


def test_names_of_a_group_share_a_term(tmp_path: Path) -> None:
    analyzer = synonyms(tmp_path, "# shoes\n洞洞鞋, foam clog\n鞋带, lace\n")
    assert set(analyzer.question("foam clogs")) & set(analyzer.passage("", "洞洞鞋")) == {"@0"}


def test_the_longest_name_wins(tmp_path: Path) -> None:
    analyzer = synonyms(tmp_path, "防水, waterproof\n水鞋, rain boot\n")
    terms = analyzer.question("防水鞋")
    assert "@0" in terms
    assert "@1" not in terms


def test_a_group_of_one_is_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2"):
        synonyms(tmp_path, "鞋带, lace\n鞋跟\n")


@pytest.mark.parametrize(
    "text", ["", "🙂👟", "\x00\x01\x1b[31m", "\u202eאבג鞋 abc\u202c", "鞋" * 100_000, "\ud800"]
)
def test_hostile_texts_do_no_harm(text: str) -> None:
    assert len(Analyzer().question(text)) < 20
