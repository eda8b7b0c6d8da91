"""Knowledge files: what may be left out, what is refused and where, and how texts are split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from core.errors import DataError
from core.knowledge import CHUNK_WIDTH, load_knowledge, sentences
from tests.core.documents import write_objects

Write = Callable[..., Path]


@pytest.fixture
def write_knowledge(tmp_path: Path) -> Write:
    return partial(write_objects, tmp_path)


def test_only_content_is_needed(write_knowledge: Write) -> None:
    (chunk,) = load_knowledge(write_knowledge([{"content": "一字拖很好穿，适合夏天。"}]))
    assert (chunk.title, chunk.lang, chunk.source) == ("一字拖很好穿", "zh", "knowledge.json")
    assert len(chunk.id) == 16


def test_fields_of_others_are_left_to_them(write_knowledge: Write) -> None:
    path = write_knowledge([{"content": "a", "id": "a", "ids": 1, "author": "b", "score(x": 2}])
    assert [chunk.text for chunk in load_knowledge(path)] == ["a"]


def test_what_is_given_is_kept(write_knowledge: Write) -> None:
    given = {"id": "a.en", "title": "T", "content": "C.", "source": "S", "topic": "care"}
    (chunk,) = load_knowledge(write_knowledge([{**given, "lang": "en"}]))
    assert (chunk.id, chunk.title, chunk.text, chunk.source) == ("a.en", "T", "C.", "S")
    assert (chunk.topic, chunk.lang, chunk.entry) == ("care", "en", "a")


def test_a_word_and_a_question_to_find_an_entry_by_are_not_the_same(
    write_knowledge: Write,
) -> None:
    (words,) = load_knowledge(write_knowledge([{"id": "a", "content": "C.", "keywords": ["w"]}]))
    (asked,) = load_knowledge(write_knowledge([{"id": "a", "content": "C.", "questions": ["w"]}]))
    assert (words.keywords, asked.questions) == (("w",), ("w",))
    assert words.digest != asked.digest


@pytest.mark.parametrize(
    ("second", "line", "field"),
    [
        ({"title": "T"}, 6, "content"),
        ({"content": "  "}, 7, "content"),
        ({"content": 5}, 7, "content"),
        ({"content": "b", "lang": "fr"}, 8, "lang"),
        ({"content": "b", "title": ["x"]}, 8, "title"),
        ({"content": "b", "id": "a"}, 8, "id"),
        ({"content": "b", "id": "a b"}, 8, "id"),
        ({"content": "b", "tpic": "care"}, 8, "tpic"),
        ({"content": "b", "questions": "why b"}, 8, "questions"),
        ({"contents": "b"}, 7, "contents"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    write_knowledge: Write, second: dict[str, object], line: int, field: str
) -> None:
    path = write_knowledge([{"content": "a", "id": "a"}, second])
    with pytest.raises(DataError, match=rf"knowledge.json, line {line}, field '{field}'"):
        load_knowledge(path)


def test_all_that_is_wrong_is_named_at_once(write_knowledge: Write) -> None:
    path = write_knowledge(
        [
            {"content": "a", "id": "a"},
            {"contents": "b", "lang": "fr"},
            {"content": 5, "id": "a", "title": ["x"]},
            {"content": "d", "id": "a"},
        ]
    )
    with pytest.raises(DataError) as caught:
        load_knowledge(path)
    told = str(caught.value).splitlines()
    assert [line.split(": ")[0].removeprefix(f"{path}, ") for line in told] == [
        "line 7, field 'contents'",
        "line 8, field 'lang'",
        "line 11, field 'content'",
        "line 12, field 'id'",
        "line 13, field 'title'",
        "line 19, field 'id'",
    ]


def test_of_very_much_that_is_wrong_the_rest_is_counted(write_knowledge: Write) -> None:
    path = write_knowledge([{"content": ""}] * 23)
    with pytest.raises(DataError) as caught:
        load_knowledge(path)
    *told, rest = str(caught.value).splitlines()
    assert len(told) == 20
    assert rest == "… and 3 more."


def test_a_list_without_entries_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text("[]\n", "utf-8")
    with pytest.raises(DataError, match="holds no entries"):
        load_knowledge(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{}", 1),
        ("[\n{},\n", 2),
        ('[\n{"content": "a"}\n{"content": "b"}]', 3),
        ('[{"content": "a"},\n 5]', 2),
        ('[{"content": "a"}]\n\nmore', 1),
        ("", 1),
        ('[{"content": "a"},', 1),
    ],
)
def test_text_that_is_no_list_of_objects_is_refused(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=rf"broken.json, line {line}"):
        load_knowledge(path)


def test_bytes_that_are_not_utf8_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(b'[\n{"content": "caf\xe9"}]')
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        load_knowledge(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.json"):
        load_knowledge(tmp_path / "nowhere.json")


def test_a_long_text_is_split_between_sentences(write_knowledge: Write) -> None:
    text = "".join(f"这是第 {number} 句话，说的是鞋子的保养方法。" for number in range(60))
    chunks = load_knowledge(write_knowledge([{"id": "long", "content": text}]))
    assert "".join(chunk.text for chunk in chunks) == text
    assert all(len(chunk.text) <= 2 * CHUNK_WIDTH for chunk in chunks)
    assert [chunk.id for chunk in chunks[:2]] == ["long", "long#2"]
    assert {chunk.document for chunk in chunks} == {"long"}


def test_a_sentence_without_end_is_cut(write_knowledge: Write) -> None:
    chunks = load_knowledge(write_knowledge([{"content": "鞋" * 1000}]))
    assert [len(chunk.text) for chunk in chunks] == [400, 400, 200]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("脚长 25.5 cm。穿 41 码！", ["脚长 25.5 cm。", "穿 41 码！"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ("It is 2.5 mm, e.g. Thin. Really? Yes.", ["It is 2.5 mm, e.g. Thin.", "Really?", "Yes."]),
        ("No end", ["No end"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_sees_them_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected
