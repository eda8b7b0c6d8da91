"""What may stand in a tag file, and what a person's words say against a tag."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import DataError
from core.tags import MAX_TAGS, Tag, contradicted, load_tags, untranslated


def tag_file(folder: Path, text: str) -> Path:
    path = folder / "tags.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_headings_start_groups_and_bars_give_english(tmp_path: Path) -> None:
    path = tag_file(
        tmp_path, "# 颜色 | colour\n红色 | red\n# 图案 | pattern\n涂鸦印花 | graffiti print\n"
    )
    colour, pattern = load_tags(path)
    assert (colour.name, colour.english, colour.tags) == (
        "颜色",
        "colour",
        (Tag("红色", "red", "colour"),),
    )
    assert pattern.tags == (Tag("涂鸦印花", "graffiti print", "pattern"),)


def test_a_heading_without_english_is_known_by_its_chinese_name(tmp_path: Path) -> None:
    (group,) = load_tags(tag_file(tmp_path, "# 颜色\n红色\n"))
    assert group.english == "colour"


def test_a_plain_list_is_sorted_into_groups(tmp_path: Path) -> None:
    path = tag_file(
        tmp_path, "红色\n复古跑鞋\n涂鸦印花\n麂皮\n学院风\n厚底\n魔术贴\n谜\nblue\nankle boots\n"
    )
    groups = {group.english: [tag.name for tag in group.tags] for group in load_tags(path)}
    assert groups == {
        "colour": ["红色", "blue"],
        "type": ["复古跑鞋", "ankle boots"],
        "pattern": ["涂鸦印花"],
        "material": ["麂皮"],
        "style": ["学院风"],
        "sole": ["厚底"],
        "closure": ["魔术贴"],
        "other": ["谜"],
    }


def test_a_byte_order_mark_blank_lines_and_repetitions_are_passed_over(tmp_path: Path) -> None:
    path = tag_file(tmp_path, "\ufeff# colour\r\n\r\nRed\r\nＲＥＤ\r\n  red  \r\nblue\r\n")
    (group,) = load_tags(path)
    assert [tag.name for tag in group.tags] == ["Red", "blue"]


def test_a_full_width_bar_is_a_bar(tmp_path: Path) -> None:
    (group,) = load_tags(tag_file(tmp_path, "# 颜色\n红色 ｜ red\n"))
    assert group.tags[0].phrase == "red"


def test_a_heading_without_tags_is_a_comment(tmp_path: Path) -> None:
    (group,) = load_tags(tag_file(tmp_path, "# One tag a line\n# 颜色 | colour\n红色 | red\n"))
    assert group.name == "颜色"


def test_an_english_tag_is_its_own_phrase_and_a_chinese_one_is_not(tmp_path: Path) -> None:
    groups = load_tags(tag_file(tmp_path, "# colour\nred\n蓝色\n"))
    assert [tag.phrase for tag in groups[0].tags] == ["red", ""]
    assert untranslated(groups) == ["蓝色"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("| red", "expected"),
        ("红色 |", "no English phrase"),
        ("红 | red | rot", "expected"),
        ("红" * 41, "too long"),
        ("红 | " + "r" * 121, "too long"),
        ("红\u202e色", "invisible"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"tags\.txt, line 2.*{complaint}"):
        load_tags(tag_file(tmp_path, f"蓝色 | blue\n{line}\n"))


def test_too_many_tags_are_refused(tmp_path: Path) -> None:
    path = tag_file(tmp_path, "\n".join(f"tag {number}" for number in range(MAX_TAGS + 1)))
    with pytest.raises(DataError, match=f"more than {MAX_TAGS}"):
        load_tags(path)


@pytest.mark.parametrize("content", [b"", b"# colour\n\n", b"\xff\xfe\x00r", b"x" * 1_000_001])
def test_a_file_that_is_no_tag_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tags.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tags\.txt"):
        load_tags(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt"):
        load_tags(tmp_path / "none.txt")


FILE = """# 颜色 | colour
红色 | red
酒红色 | burgundy
蓝色 | blue
藏青色 | navy blue
黑色 | black
# 风格 | style
复古 | vintage
休闲 | casual
"""


@pytest.mark.parametrize(
    ("seen", "text", "said"),
    [
        ("蓝色", "这双红色的鞋怎么洗", "红色"),
        ("蓝色", "这双红鞋怎么洗", "红色"),
        ("蓝色", "How do I wash my red shoes?", "red"),
        ("蓝色", "这双鞋怎么洗", ""),
        ("蓝色", "红蓝相间的蓝色鞋", ""),
        ("蓝色", "my navy blue shoes", ""),
        ("红色", "酒红色的怎么搭", ""),
        ("蓝色", "网红款好看吗", ""),
        ("蓝色", "I am bored of it", ""),
        ("复古", "休闲的鞋", ""),
    ],
)
def test_only_another_colour_contradicts_a_colour(
    tmp_path: Path, seen: str, text: str, said: str
) -> None:
    groups = load_tags(tag_file(tmp_path, FILE))
    tag = next(tag for group in groups for tag in group.tags if tag.name == seen)
    assert contradicted(tag.seen(0.9, True), text, groups) == said
