"""Groups, floors and caches of the tagger, with an encoder whose space one can see through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from core.messages import Language
from core.tags import Tag, TagGroup
from core.vision import Array, ClipVision, winners

WORDS = ("red", "blue", "striped", "dotted", "boot", "without", "红", "蓝")
COLOUR = TagGroup("颜色", "colour", (Tag("红色", "red", "colour"), Tag("蓝色", "blue", "colour")))
PATTERN = TagGroup(
    "图案", "pattern", (Tag("条纹", "striped", "pattern"), Tag("波点", "dotted", "pattern"))
)


class FakeEncoder:
    """One dimension a word; a photo's first pixel says which words are in it."""

    def __init__(self, language: Language = "en", identity: str = "fake 1") -> None:
        self.identity = identity
        self.language = language
        self.scale = 100.0
        self.texts: list[str] = []
        self.photos = 0
        self.batches: list[int] = []
        self.shapes: list[tuple[int, int]] = []
        self.free = Lock()

    def encode_texts(self, texts: Sequence[str]) -> Array:
        self.texts += texts
        return np.stack([unit([word in text for word in WORDS]) for text in texts])

    def encode_photos(self, photos: Sequence[Image.Image]) -> Array:
        self.photos += len(photos)
        self.batches.append(len(photos))
        self.shapes += [photo.size for photo in photos]
        with self.free:
            return np.stack(
                [
                    unit([bool(photo.width & 1 << place) for place in range(len(WORDS))])
                    for photo in photos
                ]
            )


def unit(values: Sequence[bool]) -> Array:
    vector = np.array([*values, 0.001], dtype=np.float32)
    return vector / np.linalg.norm(vector)


def photo_of(*words: str) -> Image.Image:
    return Image.new("RGB", (sum(1 << WORDS.index(word) for word in words), 4))


def features_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def tagger(
    folder: Path, encoder: FakeEncoder, *groups: TagGroup, max_tags: int = 5, floor: float = 0.35
) -> ClipVision:
    return ClipVision(
        encoder, groups or (COLOUR, PATTERN), max_tags=max_tags, min_score=floor, cache=folder
    )


async def test_each_group_has_its_own_winner(tmp_path: Path) -> None:
    tags = await tagger(tmp_path, FakeEncoder()).tags(photo_of("red", "striped"))
    assert {(tag.group, tag.name, tag.phrase) for tag in tags} == {
        ("colour", "红色", "red"),
        ("pattern", "条纹", "striped"),
    }


async def test_photos_that_come_together_are_read_together_and_off_the_event_loop(
    tmp_path: Path,
) -> None:
    encoder = FakeEncoder()
    vision = tagger(tmp_path, encoder)
    await vision.warm()
    words = ("red", "striped", "dotted")
    with encoder.free:
        asked = [asyncio.create_task(vision.tags(photo_of(word))) for word in words]

        def the_others_wait() -> None:
            while len(encoder.batches) < 1 or len(vision._photos._waiting) < 2:
                pass

        # The first is being read; the loop is free to take in the others.
        await asyncio.to_thread(the_others_wait)
    found = await asyncio.gather(*asked)
    assert [[tag.phrase for tag in tags] for tags in found] == [["red"], ["striped"], ["dotted"]]
    assert encoder.batches == [1, 2]


async def test_the_model_sees_a_long_photo_letterboxed_and_any_other_as_it_is(
    tmp_path: Path,
) -> None:
    encoder = FakeEncoder()
    vision = tagger(tmp_path, encoder)
    for size in ((300, 30), (240, 30)):
        await vision.tags(Image.new("RGB", size))
    assert encoder.shapes == [(300, 300), (240, 30)]


async def test_a_photo_of_nothing_gets_no_tag(tmp_path: Path) -> None:
    assert await tagger(tmp_path, FakeEncoder()).tags(photo_of("without")) == ()


def test_the_shares_of_a_group_and_none_sum_to_one(tmp_path: Path) -> None:
    shares = tagger(tmp_path, FakeEncoder()).shares(photo_of("red", "dotted"))
    assert [len(group) for group in shares] == [3, 3]
    assert [float(group.sum()) for group in shares] == pytest.approx([1, 1], abs=1e-5)


async def test_at_most_max_tags_are_named_the_surest_first(tmp_path: Path) -> None:
    vision = tagger(tmp_path, FakeEncoder(), max_tags=1)
    assert len(await vision.tags(photo_of("red", "striped"))) == 1


def test_a_shoe_may_have_two_colours_when_they_are_close() -> None:
    tags = winners(COLOUR, np.array([0.5, 0.4, 0.1], dtype=np.float32), 0.35)
    assert [(tag.name, tag.sure) for tag in tags] == [("红色", True), ("蓝色", True)]


def test_a_colour_far_behind_is_not_named() -> None:
    tags = winners(COLOUR, np.array([0.7, 0.25, 0.05], dtype=np.float32), 0.2)
    assert [tag.name for tag in tags] == ["红色"]


def test_a_shoe_has_one_type_however_close_the_next() -> None:
    group = TagGroup("类型", "type", (Tag("靴", "boot", "type"), Tag("拖", "clog", "type")))
    assert len(winners(group, np.array([0.5, 0.4, 0.1], dtype=np.float32), 0.35)) == 1


def test_a_tag_below_the_floor_is_not_named() -> None:
    assert winners(COLOUR, np.array([0.34, 0.33, 0.33], dtype=np.float32), 0.35) == []


def test_a_tag_just_above_the_floor_is_a_guess() -> None:
    (tag,) = winners(COLOUR, np.array([0.4, 0.2, 0.3], dtype=np.float32), 0.35)
    assert not tag.sure


async def test_an_english_model_reads_phrases_and_a_chinese_one_names(tmp_path: Path) -> None:
    english, chinese = FakeEncoder("en"), FakeEncoder("zh", "fake zh")
    await tagger(tmp_path, english).warm()
    (tag,) = await tagger(tmp_path, chinese, COLOUR).tags(photo_of("蓝"))
    assert not any("红" in text for text in english.texts)
    assert tag.name == "蓝色"


async def test_a_chinese_tag_without_english_is_left_out_and_named_in_one_warning(
    tmp_path: Path,
) -> None:
    group = TagGroup("颜色", "colour", (*COLOUR.tags, Tag("黛色", "", "colour")))
    with capture_logs() as logs:
        vision = tagger(tmp_path, FakeEncoder(), group)
        await vision.tags(photo_of("red"))
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert (warning["count"], warning["names"]) == (1, ["黛色"])
    assert [tag.name for tag in vision.groups[0].tags] == ["红色", "蓝色"]


async def test_every_tag_is_put_in_at_least_five_wordings(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    await tagger(tmp_path, encoder, COLOUR).warm()
    assert len({text for text in encoder.texts if "blue" in text}) >= 5


async def test_a_second_start_does_not_run_the_text_tower(tmp_path: Path) -> None:
    photo = photo_of("red")
    first = await tagger(tmp_path, FakeEncoder()).tags(photo)
    encoder = FakeEncoder()
    assert await tagger(tmp_path, encoder).tags(photo) == first
    assert encoder.texts == []


async def test_a_changed_tag_is_encoded_alone(tmp_path: Path) -> None:
    await tagger(tmp_path, FakeEncoder()).warm()
    changed = TagGroup("颜色", "colour", (COLOUR.tags[0], Tag("蓝色", "deep blue", "colour")))
    encoder = FakeEncoder()
    await tagger(tmp_path, encoder, changed, PATTERN).warm()
    assert encoder.texts
    assert all("deep blue" in text for text in encoder.texts)


async def test_other_weights_do_not_share_features(tmp_path: Path) -> None:
    await tagger(tmp_path, FakeEncoder()).warm()
    encoder = FakeEncoder(identity="fake 2")
    await tagger(tmp_path, encoder).warm()
    assert encoder.texts


async def test_reordered_tags_keep_their_own_features(tmp_path: Path) -> None:
    await tagger(tmp_path, FakeEncoder()).warm()
    turned = TagGroup("颜色", "colour", COLOUR.tags[::-1])
    encoder = FakeEncoder()
    (tag,) = await tagger(tmp_path, encoder, turned).tags(photo_of("blue"))
    assert (tag.name, encoder.texts) == ("蓝色", [])


@pytest.mark.parametrize("damage", [b"", b"not safetensors", b"\xff" * 64])
async def test_a_damaged_file_of_features_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    await tagger(tmp_path, FakeEncoder()).warm()
    whole = features_file(tmp_path).read_bytes()
    features_file(tmp_path).write_bytes(damage)
    (tag,) = await tagger(tmp_path, FakeEncoder()).tags(photo_of("red"))
    assert (tag.name, features_file(tmp_path).read_bytes()) == ("红色", whole)


async def test_features_that_cannot_be_kept_cost_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tag,) = await tagger(tmp_path / "file" / "folder", FakeEncoder()).tags(photo_of("red"))
    assert tag.name == "红色"


async def test_a_forwarded_photo_is_looked_at_once(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    vision = tagger(tmp_path, encoder)
    first, second = await vision.tags(photo_of("red")), await vision.tags(photo_of("red"))
    assert first == second
    assert encoder.photos == 1


async def test_photos_sent_at_once_get_their_own_tags(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    vision = tagger(tmp_path, encoder)
    photos = [photo_of("red"), photo_of("blue"), photo_of("red")]
    seen = await asyncio.gather(*map(vision.tags, photos))
    assert [tags[0].name for tags in seen] == ["红色", "蓝色", "红色"]


def test_it_reads_more_than_colours(tmp_path: Path) -> None:
    assert not tagger(tmp_path, FakeEncoder()).colours_only
