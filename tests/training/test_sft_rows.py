"""Training rows say exactly what the engine will say, and hold nothing that is held out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from core.errors import DataError
from core.messages import Language
from core.prompt import SYSTEM, build_prompt
from training.corpus import Corpus
from training.material import Entry, Material, load_entries, load_material, load_questions
from training.sft_rows import Row, make_rows, with_pronoun, write_rows

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def material() -> Material:
    return load_material(DATA)


@pytest.fixture(scope="module")
def rows(material: Material) -> list[Row]:
    return make_rows(Corpus(material), seed=17)


def _bare(text: str) -> str:
    return re.sub(r"\W+", "", text).lower()


def _asked(row: Row) -> str:
    return re.split(r"(?:问题：|Question: )", row.prompt[-1].content)[-1]


def test_there_are_enough_rows(rows: list[Row], tmp_path: Path) -> None:
    assert write_rows(rows, tmp_path / "shoes.jsonl") >= 3_000


def test_too_few_rows_are_refused(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Only 10 training rows"):
        write_rows(rows[:10], tmp_path / "shoes.jsonl")


def test_the_prompt_is_the_engines_byte_for_byte(material: Material, rows: list[Row]) -> None:
    by_text = {entry.text: entry.passage() for entry in material.entries.values()}
    checked = 0
    for row in rows:
        if row.kind != "answered":
            continue
        texts = re.findall(r"<doc \d+ [^\n]*>\n([^\n]*)\n</doc>", row.prompt[-1].content)
        lang = "zh" if row.prompt[0].content == SYSTEM["zh"] else "en"
        passages = [by_text[text] for text in texts]
        assert row.prompt == build_prompt(_asked(row), language=lang, passages=passages)
        checked += 1
    assert checked > 1_000


def test_every_trainable_entry_is_an_answer(material: Material, rows: list[Row]) -> None:
    said = "\n".join(row.output for row in rows)
    assert [
        e.id for e in material.entries.values() if not any(s in said for s in e.sentences)
    ] == []


def test_answers_are_quoted_word_for_word(rows: list[Row]) -> None:
    for row in rows:
        if row.kind == "answered":
            said = re.split(r"：|: ", row.output, maxsplit=1)[1]
            passages = row.prompt[-1].content
            sentences = [said] if said in passages else re.findall(r"[^。.!?]+[。.!?]", said)
            assert all(sentence.strip() in passages for sentence in sentences), said


def test_nothing_held_out_is_in_any_row(material: Material, rows: list[Row]) -> None:
    kept = load_entries(DATA / "knowledge_base.json")
    hidden = [entry for key, entry in kept.items() if key not in material.entries]
    everything = "\n".join(json.dumps(row.alpaca(), ensure_ascii=False) for row in rows)
    assert len(hidden) >= 60
    assert [e.id for e in hidden if any(sentence in everything for sentence in e.sentences)] == []


def test_no_evaluation_question_is_in_any_row(rows: list[Row]) -> None:
    held = {_bare(q.text) for q in load_questions(DATA / "eval" / "retrieval.jsonl")}
    held |= {
        _bare(json.loads(line)["question"])
        for line in (DATA / "eval" / "unanswerable.jsonl").read_text("utf-8").splitlines()
    }
    assert sorted({_asked(row) for row in rows if _bare(_asked(row)) in held}) == []


def test_a_tenth_to_a_seventh_of_the_rows_are_refusals(rows: list[Row]) -> None:
    share = sum(row.kind == "refused" for row in rows) / len(rows)
    assert 0.08 <= share <= 0.15


def test_the_same_seed_gives_the_same_rows(material: Material, rows: list[Row]) -> None:
    assert make_rows(Corpus(material), seed=17) == rows


@pytest.mark.parametrize(
    ("title", "lang", "question", "asked"),
    [
        ("White sneakers", "en", "What are white sneakers?", "What are they?"),
        ("Slide sandal", "en", "What is a slide sandal?", "What is it?"),
        ("Nurse shoes", "en", "How do I choose nurse shoes?", "How do I choose them?"),
        ("Running socks", "en", "What should running socks be?", "What should they be?"),
        ("Heel slip", "en", "My heel slips out", None),
        ("Leopard print", "en", "What colours go with leopard print shoes?", None),
        ("Water marks on leather", "en", "What causes water marks on leather shoes?", None),
        ("US men's size", "en", "How big is one step in US men's sizes?", None),
        ("孟克鞋", "zh", "孟克鞋和系带皮鞋有什么不同？", "那它和系带皮鞋有什么不同？"),
        ("磨脚后跟", "zh", "怎么预防磨脚后跟？", "那怎么预防它？"),
        ("量脚围", "zh", "量脚围时软尺怎么放？", None),
        ("鞋跟磨偏", "zh", "鞋跟磨偏了什么时候修？", None),
        ("修面皮", "zh", "修面皮的鞋好打理吗？", None),
        ("鞋带", "zh", "6 对鞋眼的运动鞋要买多长的鞋带？", None),
    ],
)
def test_a_pronoun_stands_only_where_a_person_would_say_one(
    title: str, lang: Language, question: str, asked: str | None
) -> None:
    entry = Entry("some-entry", title, "text", ("text",), "", lang)
    assert with_pronoun(question, entry) == asked


def test_a_row_with_history_asks_in_agreement_or_in_whole_phrases(rows: list[Row]) -> None:
    asked = [_asked(row) for row in rows if row.kind == "followed"]
    assert len(asked) >= 200
    assert [
        one
        for one in asked
        if re.search(
            r"\bare it\b|\bdo it\b|\ba it\b|\bit(?:s| shoes)\b|它(?:时|了|的?鞋[怎是配好适])", one
        )
    ] == []
