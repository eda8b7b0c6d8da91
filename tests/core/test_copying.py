"""A slip in a near copy is found, and the manner of talk is none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from core.copying import Originals
from core.grounding import Ground
from training.corpus import answer_text
from training.material import load_entries
from training.spoken import spoken

DATA = Path(__file__).parents[2] / "data"
ODOUR = (
    "鞋子除臭\n鞋子除臭的关键是让鞋内干透。每天脱鞋后松开鞋带、拉出鞋舌和鞋垫通风，比只喷香雾有效。"
)
WEAR = "鞋底\n若每天穿，鞋底通常 6 个月后会磨平，否则不需要更换。不要暴晒，以免老化。"
BREAKING_IN = (
    "Breaking in\nBreak in new shoes slowly, starting with 30 to 60 minutes indoors. Do not wear "
    "them for a long trip or race, and they are best started 2 weeks ahead."
)
SIZE = "Size\nIt is about EU 41 to 42, US men's 8 and UK 7 to 7.5."
IN_EU = "UK\nAdult UK numbers in EU sizes are about: 5 is 38, 6 is 39.5 and 7 is 40.5."
HALF = "鞋号\n整号之间相差 10 mm，半号之间相差 5 mm。"


@pytest.mark.parametrize(
    ("passage", "sentence", "slip"),
    [
        (ODOUR, "每天脱鞋后松开鞋带、拉出鞋舌和鞋垫一风，比只喷香雾有效。", "一"),
        (ODOUR, "每天脱鞋后松开鞋带、拉出鞋舌和鞋鞋垫通风，比只喷香雾有效。", "鞋"),
        (ODOUR, "每天脱鞋后松鞋带、拉出鞋舌和鞋垫通风，比只喷香雾有效。", "开"),
        (WEAR, "要是每天穿，鞋底一般 9 个月后会磨平。", "9"),
        (BREAKING_IN, "Doon't wear them for a long trip or race, and start 2 weeks ahead.", "doo"),
        (BREAKING_IN, "'t wear them for a long trip or race.", "'t"),
        (BREAKING_IN, "Don't wear them for a hard trip or race.", "hard"),
        (SIZE, "It's about EU 41 to 42, US men's 8 and UK 41.", "41"),
        (SIZE, "It's about EU 41 to 42 and UK 7 to 7.5.", "usmen's8"),
        (IN_EU, "Adult UK numbers in EU sizes are about: 5 is 38, 6 is 39.5 and 40.5.", "7is"),
        (IN_EU, "Size 9 is 43.", "9"),
        (HALF, "整号之间相差 5 mm。", "号之间相差10mm半"),
        (HALF, "鞋码每大一号就长 5 mm 左右，要按脚选。", "5"),
    ],
)
def test_a_near_copy_that_differs_inside_a_word_has_a_slip(
    passage: str, sentence: str, slip: str
) -> None:
    assert Originals.of([ODOUR[:5], passage]).slip(sentence) == slip


@pytest.mark.parametrize(
    ("passage", "sentence"),
    [
        (ODOUR, "哈喽，鞋子除臭嘛，鞋子除臭的关键是让鞋内干透哦～"),
        (ODOUR, "每天脱鞋后拉出鞋舌和鞋垫通风，比只喷香雾有效。"),
        (ODOUR, "开窗也好，阳台也好，鞋垫通风总归有用。"),
        (WEAR, "要是每天穿，鞋底一般 6 个月后会磨平，不然不需要更换。"),
        (WEAR, "别暴晒，免得老化啦～"),
        (BREAKING_IN, "Hey! So, Breaking in: Don’t wear them for a long trip or race. Enjoy!"),
        (BREAKING_IN, "They're best started 2 weeks ahead."),
        (SIZE, "It's about EU 41 to 42. Hope that helps!"),
        (SIZE, ""),
    ],
)
def test_talk_and_what_is_left_out_are_no_slips(passage: str, sentence: str) -> None:
    assert Originals.of([passage]).slip(sentence) is None


@pytest.mark.parametrize(
    ("sentence", "slip"),
    [
        ("定做的鞋别保持完好，运费一般由买家承担，有约定或运费险的除外。", "别"),
        ("退回的鞋要保持完好，运费不由买家承担，有约定或运费险的除外。", "不"),
        ("退回的鞋要保持完好，运费一般由买家承担，有约定或运费险的除外。", None),
    ],
)
def test_a_denial_that_the_original_has_not_is_a_slip(sentence: str, slip: str | None) -> None:
    passage = (
        "退回的鞋要保持完好，运费一般由买家承担，有约定或运费险的除外。定做的鞋不适用这项规定。"
    )
    assert Originals.of([passage]).slip(sentence) == slip


def test_nothing_said_of_nothing_is_no_slip() -> None:
    assert Originals.of([]).slip("鞋垫一风。") is None


def test_no_shipped_entry_slips_in_talk() -> None:
    dice = random.Random(3)
    wrong = []
    for entry in load_entries(DATA / "knowledge_base.json").values():
        ground = Ground.of([f"{entry.title}\n{entry.text}"], 0.7)
        stiff = answer_text(entry.title, entry.text, entry.lang)
        for form in (entry.text, stiff, spoken(dice, entry.title, entry.text, entry.lang)):
            wrong += [(form, slip) for slip in [ground.unsupported(form)] if slip is not None]
    assert not wrong
