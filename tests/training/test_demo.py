"""What the demo counts as learned, and what it refuses to begin with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from core.errors import ConfigError, ModelUnavailable, TrainingFailed
from core.settings import Secrets, at_root, load_settings
from solemate import app
from training.commands.demo import ROWS
from training.demo import Lesson, NotLive, Said, processor_seconds, show_the_loop
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


def test_what_children_and_theirs_compute_is_counted_also_once_they_have_ended() -> None:
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    behind = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", behind], check=True)
    ended = processor_seconds()
    # The kernel counts in hundredths, and each process on its own.
    assert ended - before >= 0.3
    said = f"{busy}\nprint('done', flush=True)\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", said], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        computed = processor_seconds() - ended
        child.kill()
    assert computed >= 0.3


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "solemate.db").touch()
    result = CliRunner().invoke(app, ["demo-loop", "--folder", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "is not empty" in str(result.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["solemate.db"]


async def test_a_demo_whose_run_is_refused_says_why_and_how_long_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def nobody(*_: object) -> AsyncIterator[None]:
        yield

    async def answered(_: object, questions: Sequence[str]) -> list[Said]:
        return [said(PASSAGE) for _ in questions]

    async def corrected(*_: object) -> None:
        pass

    async def refused(*_: object) -> None:
        raise TrainingFailed("The gate refused it.")

    monkeypatch.setattr("training.demo._solemate", nobody)
    monkeypatch.setattr("training.demo._ask_all", answered)
    monkeypatch.setattr("training.demo._correct", corrected)
    monkeypatch.setattr("training.demo._trained", refused)
    with pytest.raises(NotLive, match="The gate refused it") as caught:
        await show_the_loop(load_settings(environment={}), tmp_path, at_root(ROWS), lambda _: None)
    assert caught.value.learning_seconds >= 0
    assert caught.value.processor_seconds >= 0


async def test_the_demo_starts_with_nothing_of_the_environment_but_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "TELEGRAM_BOT_TOKEN": "123:real",
        "SLACK_BOT_TOKEN": "xoxb-real",
        "SOLEMATE_PROFILE": "production",
        "SOLEMATE__REDIS__URL": "redis://real:6379/0",
        "SOLEMATE__MODEL__BASE_URL": "http://real:8000/v1",
    }.items():
        monkeypatch.setenv(name, value)
    given: dict[str, str | None] = {}

    @asynccontextmanager
    async def started(
        command: object, *, environment: Mapping[str, str | None], **options: object
    ) -> AsyncIterator[None]:
        given.update(environment)
        raise ModelUnavailable("seen")
        yield

    monkeypatch.setattr("training.demo.model_server", started)
    with pytest.raises(ModelUnavailable, match="seen"):
        await show_the_loop(load_settings(environment={}), tmp_path, at_root(ROWS), lambda _: None)
    seen = {name: value for name, value in {**os.environ, **given}.items() if value is not None}
    monkeypatch.setattr(os, "environ", seen)
    demo = load_settings()
    assert demo.secrets == Secrets()
    assert demo.redis.url == ""
    assert demo.model.embedded
    assert urlsplit(demo.model.base_url).hostname == "127.0.0.1"
    assert demo.database.url == f"sqlite:///{tmp_path / 'solemate.db'}"
    assert seen["SOLEMATE_PROFILE"] == "embedded"
    assert seen["SOLEMATE_ENV_FILE"] == ""
    assert seen["PATH"]
