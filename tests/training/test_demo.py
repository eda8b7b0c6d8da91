"""What the demo counts as learned, and what it refuses to begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.errors import ConfigError
from solemate import app
from training.demo import Lesson, Said
from training.rows import CorrectionRow

CORRECTION = "不要踩湿地哦～保龄球鞋滑动脚的鞋底沾水后会突然刹住，这样容易摔倒的。"
PASSAGE = (
    "您好，关于保龄球鞋：专业保龄球鞋是一只脚能滑、一只脚能刹的室内专用鞋，右手选手一般左脚滑。"
    "滑动脚的鞋底沾水后会突然刹住，容易摔倒。只在球道穿，进出球馆要换鞋。"
)
ROW = CorrectionRow(
    id="c1",
    lang="zh",
    entry="bowling-shoe",
    question="保龄球鞋可以踩湿地吗？",
    correction=CORRECTION,
    rephrased="打保龄球时鞋底沾了水有什么危险？",
)


def said(text: str, adapter: str = "shoes-v1") -> Said:
    return Said("s", "r", ROW.question, text, adapter)


def test_the_correction_itself_and_nearly_the_same_words_are_the_corrected_answer() -> None:
    assert said(CORRECTION).as_corrected(CORRECTION)
    assert said(CORRECTION.replace("这样", "").replace("哦～", "，")).as_corrected(CORRECTION)


@pytest.mark.parametrize(
    "answer",
    [
        said(PASSAGE),
        said(CORRECTION, adapter=""),
        said("安全鞋的包头受过重物砸压后，即使外表没坏也要换，因为内部可能已经变形了。"),
    ],
    ids=["the whole passage", "a quote", "another correction"],
)
def test_anything_else_is_not(answer: Said) -> None:
    assert not answer.as_corrected(CORRECTION)


def test_a_lesson_tells_the_corrected_question_from_the_rephrased_one() -> None:
    lesson = Lesson(ROW, said(PASSAGE), said(PASSAGE), said(CORRECTION), said(PASSAGE))
    assert lesson.learned
    assert not lesson.rephrased_learned


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "solemate.db").touch()
    result = CliRunner().invoke(app, ["demo-loop", "--folder", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "is not empty" in str(result.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["solemate.db"]
