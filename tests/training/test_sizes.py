"""Which statements about sizes the table lets stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import DataError
from training.sizes import SizeRow, contradictions, load_sizes, mentions, table_errors

SHIPPED = Path(__file__).parents[2] / "data" / "size_table.json"


@pytest.fixture(scope="module")
def rows() -> tuple[SizeRow, ...]:
    return load_sizes(SHIPPED)


def test_the_shipped_table_follows_its_formulas(rows: tuple[SizeRow, ...]) -> None:
    assert list(table_errors(rows)) == []


@pytest.mark.parametrize(
    ("system", "size"),
    [("cn_mm", 245), ("cn_old", 41), ("eu", 42), ("uk", 8), ("us_men", 8), ("us_women", 7.5)],
)
def test_a_wrong_number_in_the_table_is_found(
    rows: tuple[SizeRow, ...], system: str, size: float
) -> None:
    wrong = [row.model_copy(update={system: size}) if row.foot_mm == 250 else row for row in rows]
    assert any(f"foot 250 mm: {system} is {size:g}" in error for error in table_errors(wrong))


def test_a_missing_length_in_the_table_is_found(rows: tuple[SizeRow, ...]) -> None:
    assert any("from 220 to 300 mm" in error for error in table_errors(rows[1:]))


@pytest.mark.parametrize(
    "text",
    [
        "脚长 24 cm 对应国标 240，旧鞋码是 38 码。欧码大约是 38 到 39，英码大约是 4.5 到 5 码。",
        "A 24 cm foot is Chinese size 240. It is about EU 38 to 39, US women's 7 and UK 4.5 to 5.",
        "美码男鞋 7 码，大约相当于美码女鞋 8.5 码。",
        "韩码 240 就是适合脚长 24 cm 的鞋。",
        "日码 25.5 对应国标的 255。",
        "例如 160 就是脚长 16 cm。",
        "男鞋美码 2E 是宽楦。欧码每差 1 码，楦长差 6.67 mm。",
        "脚长 25 cm 是旧鞋码 40 码。脚长 26 cm 是旧鞋码 42 码。",
    ],
)
def test_a_true_statement_stands(rows: tuple[SizeRow, ...], text: str) -> None:
    assert list(contradictions(text, rows)) == []


@pytest.mark.parametrize(
    "text",
    [
        "脚长 24 cm 对应国标 245。",
        "脚长 24 cm 的人，旧鞋码是 40 码。",
        "脚长 26 cm 很常见。欧码大约是 44。",
        "A 25 cm foot is a 41.",
        "A 25 cm foot is about UK 9.",
        "美码男鞋 7 码，大约相当于美码女鞋 10 码。",
        "美码通常比英码大 2 码。",
        "脚长 25 cm 是旧鞋码 40 码。脚长 26 cm 是旧鞋码 40 码。",
        "例如 160 就是脚长 18 cm。",
    ],
)
def test_a_false_statement_is_found(rows: tuple[SizeRow, ...], text: str) -> None:
    assert len(list(contradictions(text, rows))) == 1


def test_millimetres_and_centimetres_are_told_apart() -> None:
    assert [mention.low for mention in mentions("脚长 250 mm，脚长 25 cm，foot 250 mm long")] == [
        250
    ] * 3


def test_a_broken_table_names_its_field(tmp_path: Path) -> None:
    path = tmp_path / "size_table.json"
    path.write_text(SHIPPED.read_text("utf-8").replace('"eu": 40,', '"eu": "x",'), "utf-8")
    with pytest.raises(DataError, match=r"rows\.6\.eu"):
        load_sizes(path)
