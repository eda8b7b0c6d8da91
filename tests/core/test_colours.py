"""What is measured of a shoe's colours, on pictures drawn here."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from core.colours import PROTOTYPES, ColourVision, measure_colours, to_lab
from core.photos import PhotoLimits, open_photo
from core.tags import Tag, TagGroup

NAMES = {
    "黑色": "black",
    "白色": "white",
    "灰色": "grey",
    "红色": "red",
    "蓝色": "blue",
    "绿色": "green",
    "黄色": "yellow",
    "棕色": "brown",
    "藏青色": "navy blue",
}
COLOUR = TagGroup("颜色", "colour", tuple(Tag(zh, en, "colour") for zh, en in NAMES.items()))
TYPE = TagGroup("类型", "type", (Tag("跑鞋", "running", "type"),))

WOOD, TILE = (170, 120, 75), (205, 200, 190)
PAINTS = {
    "黑色": (25, 25, 27),
    "白色": (245, 244, 240),
    "红色": (190, 25, 35),
    "蓝色": (35, 70, 165),
    "绿色": (40, 120, 60),
    "黄色": (240, 205, 40),
}


def photo(paint: tuple[int, int, int], floor: tuple[int, int, int] = TILE) -> Image.Image:
    """A pair of blobs on a noisy floor, lit from one side."""
    image = Image.new("RGB", (240, 180), floor)
    draw = ImageDraw.Draw(image)
    draw.ellipse((55, 35, 115, 150), fill=paint)
    draw.ellipse((125, 35, 185, 150), fill=paint)
    noise = np.random.default_rng(0).normal(0, 5, (180, 240, 1))
    light = np.linspace(0.85, 1.05, 240)[None, :, None]
    return Image.fromarray(np.clip(np.asarray(image) * light + noise, 0, 255).astype(np.uint8))


def vision(*groups: TagGroup, max_tags: int = 5) -> ColourVision:
    return ColourVision(groups or (COLOUR, TYPE), max_tags=max_tags)


@pytest.mark.parametrize("floor", [TILE, WOOD])
@pytest.mark.parametrize("name", list(PAINTS))
async def test_a_shoe_s_colour_is_named_and_not_the_floor_s(
    name: str, floor: tuple[int, int, int]
) -> None:
    tags = await vision().tags(photo(PAINTS[name], floor))
    assert (tags[0].name, tags[0].phrase, tags[0].group) == (name, NAMES[name], "colour")


async def test_a_clear_colour_is_sure() -> None:
    (tag,) = await vision().tags(photo(PAINTS["红色"]))
    assert tag.sure
    assert tag.score > 0.8


async def test_a_colour_between_two_names_is_a_guess() -> None:
    tags = await vision().tags(photo((88, 85, 84)))
    assert tags
    assert not tags[0].sure


async def test_two_colours_are_both_named() -> None:
    image = photo(PAINTS["红色"])
    ImageDraw.Draw(image).ellipse((125, 35, 185, 150), fill=PAINTS["蓝色"])
    assert {tag.name for tag in await vision().tags(image)} == {"红色", "蓝色"}


async def test_no_more_than_max_tags_are_named() -> None:
    image = photo(PAINTS["红色"])
    ImageDraw.Draw(image).ellipse((125, 35, 185, 150), fill=PAINTS["蓝色"])
    assert len(await vision(max_tags=1).tags(image)) == 1


@pytest.mark.parametrize("colour", ["white", "black", "red", (120, 90, 60)])
async def test_a_picture_of_nothing_gets_no_name(colour: str) -> None:
    assert await vision().tags(Image.new("RGB", (200, 150), colour)) == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (8, 1), (2, 2), (1024, 128), (128, 1024)])
async def test_odd_shapes_are_measured_without_complaint(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    assert len(await vision().tags(Image.fromarray(noise))) <= 2


@pytest.mark.parametrize("size", [(1200, 140), (1200, 60), (120, 1200)])
@pytest.mark.parametrize("name", ["黑色", "红色", "蓝色"])
async def test_a_long_photo_is_named_by_the_shoe_and_not_by_bars_around_it(
    name: str, size: tuple[int, int]
) -> None:
    file = io.BytesIO()
    photo(PAINTS[name], WOOD).resize(size).save(file, "PNG")
    tags = await vision().tags(open_photo(file.getvalue(), PhotoLimits(10**6, 10**6)))
    assert tags[0].name == name


async def test_only_names_of_the_tag_file_are_used() -> None:
    group = TagGroup("颜色", "colour", (Tag("赤", "red", "colour"),))
    (tag,) = await vision(group).tags(photo(PAINTS["红色"]))
    assert tag.name == "赤"
    assert await vision(group).tags(photo(PAINTS["绿色"])) == ()


async def test_a_chinese_only_tag_file_is_understood() -> None:
    group = TagGroup("颜色", "colour", (Tag("红色", "", "colour"),))
    (tag,) = await vision(group).tags(photo(PAINTS["红色"]))
    assert tag.name == "红色"


async def test_a_tag_file_without_colours_names_none() -> None:
    assert await vision(TYPE).tags(photo(PAINTS["红色"])) == ()


async def test_the_photo_itself_is_left_alone() -> None:
    image = photo(PAINTS["红色"])
    before = image.tobytes()
    await vision().tags(image)
    assert image.tobytes() == before


def test_the_same_photo_is_always_measured_the_same() -> None:
    assert measure_colours(photo(PAINTS["蓝色"])) == measure_colours(photo(PAINTS["蓝色"]))


def test_the_shares_sum_to_one() -> None:
    shares = measure_colours(photo(PAINTS["蓝色"]))
    assert set(shares) == set(PROTOTYPES)
    assert sum(shares.values()) == pytest.approx(1)


def test_it_says_that_it_reads_colours_only() -> None:
    assert vision().colours_only


def test_lab_is_the_standard_s() -> None:
    rgb = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    wanted = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2], [32.3, 79.19, -107.86]]
    assert to_lab(rgb) == pytest.approx(np.array(wanted), abs=0.05)
