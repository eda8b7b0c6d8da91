"""Thumbs-down that training cannot mend are listed, grouped, and written as a safe sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from openpyxl import Workbook, load_workbook

from core.errors import DataError
from core.messages import Outcome, Rating, Reason
from core.store import Store
from tests.training.feedback_world import BETTER, DAY, NOW, World, rules
from training.bad_cases import CaseGroup, grouped, read_bad_cases, safe_cell, write_sheet
from training.collect import collect_pairs
from training.pairs import PairState


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


async def test_each_case_says_what_to_look_at(world: World) -> None:
    await world.dislike(await world.ask(), reason=Reason.WRONG_PHOTO, at=NOW)
    await world.dislike(await world.ask(outcome=Outcome.REFUSED, passages=()), at=NOW + 1)
    await world.dislike(await world.ask(), "水温 60 度也没关系，放心刷洗就好了。", at=NOW + 2)
    await world.dislike(await world.ask(), BETTER, at=NOW + 3)
    await collect_pairs(world.store, rules("all"), NOW + 3)
    cases = await read_bad_cases(world.store)
    good, unsupported, unknown, photo = cases
    assert "vision" in photo.look_at
    assert "knowledge base" in unknown.look_at
    assert (unknown.topic, unknown.reason) == ("nothing found", "no reason given")
    assert "belongs into the knowledge base" in unsupported.look_at
    assert (good.look_at, good.pair) == ("", PairState.WAITING)


async def test_a_thumb_up_and_an_old_thumb_are_no_cases(world: World) -> None:
    await world.like(await world.ask())
    await world.dislike(await world.ask(), at=NOW - 2 * DAY)
    assert await read_bad_cases(world.store, since=NOW - DAY) == []


async def test_cases_are_counted_by_reason_topic_and_adapter(world: World) -> None:
    for number in range(3):
        reply = await world.ask(adapter="shoes-v1" if number else "shoes-v2")
        await world.dislike(reply, reason=Reason.WRONG_PHOTO)
    groups = grouped(await read_bad_cases(world.store))
    assert groups == [
        CaseGroup("wrong_photo", "care", "shoes-v1", 2, 2),
        CaseGroup("wrong_photo", "care", "shoes-v2", 1, 1),
    ]


async def test_no_cell_of_the_sheet_is_a_formula(world: World, tmp_path: Path) -> None:
    await world.rate(
        await world.ask('=HYPERLINK("http://x","帆布鞋")'),
        Rating.DOWN,
        "+cmd|' /C calc'!A0",
        comment="-1+1\x07\u202e",
    )
    (case,) = await read_bad_cases(world.store)
    case = replace(case, answer="\t=1+1", adapter="@SUM(A1)", topic="  =2")
    path = tmp_path / "out" / "cases.xlsx"
    write_sheet([case], path)
    header, row = load_workbook(path)["bad cases"].iter_rows()
    assert header[0].value == "when"
    texts = [str(cell.value) for cell in row if cell.value is not None]
    assert all(cell.data_type != "f" for cell in row)
    assert not [text for text in texts if text.lstrip()[:1] in "=+-@" or text[:1] in "\t\r\n"]
    assert any("HYPERLINK" in text for text in texts)


async def test_without_the_mark_the_cell_would_be_a_formula(tmp_path: Path) -> None:
    book = Workbook()
    book.active.append(["=1+1"])
    book.save(tmp_path / "raw.xlsx")
    assert load_workbook(tmp_path / "raw.xlsx").active["A1"].data_type == "f"
    assert safe_cell("=1+1") == "'=1+1"


def test_a_cell_holds_no_more_than_a_spreadsheet_takes() -> None:
    assert len(safe_cell("鞋" * 50_000)) == 32_000
    assert safe_cell("a\x00b") == "a\ufffdb"
    assert safe_cell("a\ufffe\uffff\ud800b") == "a\ufffd\ufffd\ufffdb"
    assert safe_cell("帆布鞋") == "帆布鞋"


async def test_personal_data_is_not_in_the_sheet(world: World) -> None:
    await world.dislike(await world.ask("回我 13812345678，帆布鞋怎么洗？"), "打 13912345678 问我")
    (case,) = await read_bad_cases(world.store)
    assert "13812345678" not in case.question
    assert "13912345678" not in case.correction


def test_a_sheet_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        write_sheet([], tmp_path / "file" / "cases.xlsx")
