"""Photos: tags with their features kept, against encoding all tags each time; and colours."""

from __future__ import annotations

import asyncio
import io
import time

import numpy as np
from PIL import Image, ImageDraw

from bench.expert import Expert
from bench.figures import Figure, Goal, median
from bench.tiny_clip import tiny_clip
from core.colours import ColourVision
from core.opening import photo_limits
from core.photos import open_photo
from core.settings import at_root
from core.tags import load_tags
from core.vision import ClipVision, Vision

PART = "photos"
_CAMERA = (4000, 3000)


async def measure(expert: Expert) -> list[Figure]:
    """The ratio, and the milliseconds of opening a phone's photo and of naming its colours."""
    effort, wanted = expert.effort, expert.settings.vision
    groups = load_tags(at_root(wanted.tags))
    encoder = tiny_clip(expert.folder / "clip")
    limits = photo_limits(expert.settings)

    def eyes(cache: str) -> ClipVision:
        return ClipVision(
            encoder,
            groups,
            max_tags=wanted.max_tags,
            min_score=wanted.min_score,
            cache=expert.folder / cache,
        )

    warm, colours = eyes("warm"), ColourVision(groups, max_tags=wanted.max_tags)
    await warm.warm()
    # No two are the same: a photo that comes twice is remembered.
    files = [_photo(number) for number in range(effort.photos + 1)]
    opening, warmly, naming, encoding = [], [], [], []
    for number, data in enumerate(files):
        started = time.perf_counter()
        photo = await asyncio.to_thread(open_photo, data, limits)
        opening.append(time.perf_counter() - started)
        warmly.append(await _seconds(warm, photo))
        naming.append(await _seconds(colours, photo))
        if number < effort.few:
            encoding.append(await _seconds(eyes(f"cold-{number}"), photo))
    ratio = median(warmly[1:]) / median(encoding)
    return [
        Figure(PART, "tags, warm / encoding all tags each time", ratio, "×", Goal(0.1)),
        Figure(PART, "tags, warm, tiny model", 1000 * median(warmly[1:]), "ms"),
        Figure(PART, "colours named without a model", 1000 * median(naming[1:]), "ms"),
        Figure(PART, "a 12-megapixel JPEG opened safely", 1000 * median(opening[1:]), "ms"),
    ]


async def _seconds(vision: Vision, photo: Image.Image) -> float:
    started = time.perf_counter()
    await vision.tags(photo)
    return time.perf_counter() - started


def _photo(number: int) -> bytes:
    """Something like a shoe on a noisy floor, as a phone's camera would save it."""
    random = np.random.default_rng(number)
    floor = random.normal((150, 140, 125), 12, (300, 400, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(floor).resize(_CAMERA, Image.Resampling.BILINEAR)
    colour = tuple(int(value) for value in random.integers(0, 256, 3))
    ImageDraw.Draw(picture).ellipse((1000, 1000, 3000, 2200), fill=colour)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
