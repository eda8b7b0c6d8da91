"""Photos with known colours -> how often vision names them: `solemate eval vision`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import DataError
from core.photos import PhotoLimits, open_photo
from core.tags import COLOUR
from core.vision import Vision


@dataclass(frozen=True, slots=True)
class LabelledPhoto:
    """A photo and the names of the colours, in any language, that would be right."""

    path: Path
    colours: frozenset[str]


@dataclass(frozen=True, slots=True)
class VisionTable:
    """Shares of `photos`; `named` got any colour, `sure` one without a hedge.

    `first` is right at the first colour, `second` at one of the first two, `sure_right` is the
    share of the sure ones whose first colour is right (1.0 where there is none).
    """

    photos: int
    named: float
    first: float
    second: float
    sure: float
    sure_right: float
    seconds_per_photo: float


@dataclass(frozen=True, slots=True)
class _Result:
    right: tuple[bool, ...]
    sure: bool


def load_labelled(folder: Path) -> list[LabelledPhoto]:
    """Read `labels.jsonl`: a line names `file`, `colours_ok` and, optionally, `colours_ok_en`.

    Raises `DataError` naming the file, the line and the field.
    """
    path = folder / "labels.jsonl"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as exc:
        raise DataError(f"Cannot read the labels in {str(path)!r}: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not UTF-8 text; save the file as UTF-8.") from exc
    photos = list(_photos(lines, path))
    if not photos:
        raise DataError(f"{path}: there are no labels in it.")
    return photos


async def evaluate_vision(
    vision: Vision, photos: list[LabelledPhoto], limits: PhotoLimits
) -> VisionTable:
    """Name the colours of every photo; raises `ImageRejected` for one that cannot be opened."""
    started = time.perf_counter()
    results = [await _look(vision, photo, limits) for photo in photos]
    seconds = time.perf_counter() - started
    sure = [result for result in results if result.sure]
    return VisionTable(
        photos=len(results),
        named=_share(bool(result.right) for result in results),
        first=_share(any(result.right[:1]) for result in results),
        second=_share(any(result.right[:2]) for result in results),
        sure=len(sure) / len(results),
        sure_right=_share(result.right[0] for result in sure),
        seconds_per_photo=seconds / len(results),
    )


async def _look(vision: Vision, photo: LabelledPhoto, limits: PhotoLimits) -> _Result:
    data = await asyncio.to_thread(photo.path.read_bytes)
    image = await asyncio.to_thread(open_photo, data, limits)
    seen = [tag for tag in await vision.tags(image) if tag.group == COLOUR]
    right = tuple(bool({tag.name, tag.phrase} & photo.colours) for tag in seen)
    return _Result(right, bool(seen) and seen[0].sure)


def _photos(lines: list[str], path: Path) -> Iterator[LabelledPhoto]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _photo(line, path, f"{path}, line {number}")


def _photo(line: str, path: Path, where: str) -> LabelledPhoto:
    try:
        label = json.loads(line)
        file = path.parent / label["file"]
        colours = frozenset([*label["colours_ok"], *label.get("colours_ok_en", ())])
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise DataError(
            f"{where}: expected an object with file and colours_ok ({type(exc).__name__}: {exc})."
        ) from exc
    if not file.is_file():
        raise DataError(f"{where}: field file: there is no photo {label['file']!r}.")
    return LabelledPhoto(file, colours)


def _share(hits: Iterator[bool]) -> float:
    values = list(hits)
    return sum(values) / len(values) if values else 1.0
