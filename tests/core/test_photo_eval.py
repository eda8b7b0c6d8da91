"""How vision's figures are counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from core.errors import DataError
from core.messages import ImageTag
from core.photo_eval import evaluate_vision, load_labelled
from core.photos import PhotoLimits
from core.tags import TagGroup

LIMITS = PhotoLimits(max_bytes=100_000, max_pixels=10_000)


class FakeVision:
    """Answers from a list, in the order of the photos."""

    groups: Sequence[TagGroup] = ()
    colours_only = True

    def __init__(self, *answers: tuple[ImageTag, ...]) -> None:
        self.answers = list(answers)

    async def tags(self, photo: Image.Image) -> tuple[ImageTag, ...]:
        return self.answers.pop(0)


def colour(name: str, sure: bool = True) -> ImageTag:
    return ImageTag(name, name, "colour", 0.9, sure)


def labelled(folder: Path, *colours: list[str]) -> Path:
    lines = []
    for number, names in enumerate(colours):
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file": f"{number}.png", "colours_ok": names}))
    (folder / "labels.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


async def test_first_second_and_sure_guesses_are_counted(tmp_path: Path) -> None:
    photos = load_labelled(labelled(tmp_path, ["red"], ["red"], ["red"], ["red"]))
    vision = FakeVision(
        (colour("red"),), (colour("blue"), colour("red")), (colour("blue", sure=False),), ()
    )
    table = await evaluate_vision(vision, photos, LIMITS)
    assert (table.photos, table.named, table.first, table.second) == (4, 0.75, 0.25, 0.5)
    assert (table.sure, table.sure_right) == (0.5, 0.5)


async def test_other_groups_are_not_colours(tmp_path: Path) -> None:
    photos = load_labelled(labelled(tmp_path, ["red"]))
    vision = FakeVision((ImageTag("boot", "boot", "type", 0.9), colour("red")))
    assert (await evaluate_vision(vision, photos, LIMITS)).first == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"file": "0.png"}', "colours_ok"),
        ('{"file": "none.png", "colours_ok": ["red"]}', "none.png"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "labels.jsonl").write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"labels\.jsonl, line 2.*{complaint}"):
        load_labelled(tmp_path)


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.jsonl"):
        load_labelled(tmp_path)


def test_an_empty_list_of_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labels"):
        load_labelled(labelled(tmp_path))
