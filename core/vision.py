"""A photo -> tags: what any vision offers, and the one that compares photos with tags (CLIP's way).

The towers themselves are in `clip.py`, colours measured without any model in `colours.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
import safetensors
import structlog
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from core.batches import Batches
from core.messages import ImageTag, Language
from core.photos import letterboxed
from core.tags import COLOUR, TYPE, TagGroup, untranslated

log = structlog.get_logger()

Array = NDArray[np.float32]

# A shoe can be black and red, striped and dotted; of the other groups the best tag is enough.
TWO_WINNERS = frozenset({COLOUR, "pattern"})
# The second winner has at least this share of the first one's probability.
MARGIN = 0.6
# Winners that hold less than this of their group together are guesses, and hedged as such.
SURE = 0.6
REMEMBERED_PHOTOS = 64
# So many fit beside an embedder on any card that takes CLIP.
PHOTO_BATCH = 8


class Vision(Protocol):
    """Whatever can say what is in a photo."""

    @property
    def groups(self) -> Sequence[TagGroup]:
        """The tags it knows, by group."""

    @property
    def colours_only(self) -> bool:
        """Whether type, pattern and the rest are beyond it, which the answer then says."""

    async def tags(self, photo: Image.Image) -> tuple[ImageTag, ...]:
        """What is in an image from `open_photo`, the surest first; nothing rather than nonsense."""


class PhotoTextEncoder(Protocol):
    """Two towers that put photos and texts into one space."""

    @property
    def identity(self) -> str:
        """Changes with weights, tokenizer or dtype: the name under which features may be kept."""

    @property
    def language(self) -> Language:
        """What its text tower was trained to read."""

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before a softmax."""

    def encode_texts(self, texts: Sequence[str]) -> Array:
        """Unit rows, (texts, dimensions)."""

    def encode_photos(self, photos: Sequence[Image.Image]) -> Array:
        """Unit rows, (photos, dimensions)."""


# How a tag is put into words; more wordings make the average less sensitive to any of them.
_TEMPLATES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "": (
            "a photo of a {} shoe",
            "a photo of a pair of {} shoes",
            "a product photo of {} shoes on a plain background",
            "a close-up photo of a {} shoe",
            "a phone photo of {} shoes on the floor",
        ),
        COLOUR: (
            "a photo of a {} shoe",
            "a photo of a pair of shoes in {}",
            "a {} sneaker, product photo",
            "a close-up photo of {} shoes",
            "a phone photo of {} shoes on the floor",
        ),
        "pattern": (
            "a photo of a {} shoe",
            "a photo of a sneaker, {}",
            "a pair of {} shoes, product photo",
            "a close-up photo of the upper of a {} shoe",
            "a phone photo of shoes that are {}",
        ),
        "material": (
            "a photo of a {} shoe",
            "a photo of shoes made of {}",
            "a {} sneaker, product photo",
            "a close-up photo of a shoe upper of {}",
            "a phone photo of {} shoes on the floor",
        ),
    },
    "zh": {
        "": (
            "一张{}鞋子的照片",
            "一双{}的照片",
            "{}，鞋子商品图",
            "{}鞋子的特写",
            "手机拍的地上的{}鞋子",
        ),
        TYPE: (
            "一张{}的照片",
            "一双{}",
            "{}，商品图",
            "{}的特写",
            "手机拍的地上的一双{}",
        ),
    },
}
# What a photo shows when none of a group's tags is in it.
_NONE: dict[Language, tuple[str, ...]] = {
    "en": (
        "a photo without any shoe in it",
        "a photo of an empty floor",
        "a photo of a person's face",
        "a photo of clothes on a hanger",
        "a screenshot full of text",
    ),
    "zh": (
        "一张没有鞋子的照片",
        "一张空地板的照片",
        "一张人脸的照片",
        "一张挂着的衣服的照片",
        "一张满是文字的截图",
    ),
}
_UNCLEAR: dict[Language, str] = {
    "en": "a shoe of which the {} cannot be made out",
    "zh": "一双看不清{}的鞋",
}


class ClipVision:
    """Tags by the nearest texts: inside each group, a softmax over its tags and "none of these"."""

    colours_only = False

    def __init__(
        self,
        encoder: PhotoTextEncoder,
        groups: Sequence[TagGroup],
        *,
        max_tags: int,
        min_score: float,
        cache: Path,
    ) -> None:
        """`min_score` is the share of its group a tag needs, `cache` a folder for text features."""
        self.groups = groups if encoder.language == "zh" else _translated(groups)
        self._encoder = encoder
        self._max_tags = max_tags
        self._min_score = min_score
        self._cache = cache
        self._features: list[Array] = []
        self._seen: OrderedDict[bytes, tuple[ImageTag, ...]] = OrderedDict()
        self._remembering = Lock()
        self._preparing = Lock()
        # Photos that come while others are read are read together after them.
        self._photos: Batches[Image.Image] = Batches(encoder.encode_photos, PHOTO_BATCH, Lock())

    async def warm(self) -> None:
        """Get the tags' features ready, so that the first photo does not wait for them."""
        await asyncio.to_thread(self._prepare)

    async def tags(self, photo: Image.Image) -> tuple[ImageTag, ...]:
        """The tags above the floor, the surest first, at most `max_tags`."""
        return await asyncio.to_thread(self._tags, photo)

    def shares(self, photo: Image.Image) -> list[Array]:
        """For each group, the share of each tag and, last, of "none of these"; each sums to 1."""
        self._prepare()
        features = self._photos(letterboxed(photo))
        return [_softmax(self._encoder.scale * (texts @ features)) for texts in self._features]

    def _tags(self, photo: Image.Image) -> tuple[ImageTag, ...]:
        key = hashlib.sha256(repr(photo.size).encode() + photo.tobytes()).digest()
        with self._remembering:
            found = self._seen.get(key)
        if found is None:
            found = self._judge(photo)
        with self._remembering:
            self._seen[key] = found
            self._seen.move_to_end(key)
            if len(self._seen) > REMEMBERED_PHOTOS:
                self._seen.popitem(last=False)
        return found

    def _judge(self, photo: Image.Image) -> tuple[ImageTag, ...]:
        found = [
            tag
            for group, shares in zip(self.groups, self.shares(photo), strict=True)
            for tag in winners(group, shares, self._min_score)
        ]
        return tuple(sorted(found, key=lambda tag: -tag.score)[: self._max_tags])

    def _prepare(self) -> None:
        """Read or compute each group's features: (tags + 1, dimensions), "none" last."""
        with self._preparing:
            if self._features:
                return
            prompts = [_group_prompts(group, self._encoder.language) for group in self.groups]
            rows = text_features(
                [row for group in prompts for row in group], self._encoder, self._cache
            )
            ends = np.cumsum([len(group) for group in prompts])
            self._features = np.split(rows, ends[:-1])


def winners(group: TagGroup, shares: Array, floor: float) -> list[ImageTag]:
    """The tags of one group that a photo shows; none where "none of these" (the last) is ahead."""
    best = int(np.argmax(shares))
    if best == len(group.tags):
        return []
    order = np.argsort(-shares[:-1])[: 2 if group.english in TWO_WINNERS else 1]
    least = max(floor, MARGIN * float(shares[best]))
    chosen = [index for index in order if shares[index] >= least]
    sure = float(shares[chosen].sum()) >= SURE
    return [group.tags[index].seen(float(shares[index]), sure) for index in chosen]


def text_features(
    rows: Sequence[tuple[str, ...]], encoder: PhotoTextEncoder, folder: Path
) -> Array:
    """One unit vector for each tuple of prompts: the average of theirs, (rows, dimensions).

    They are kept on disk under the encoder's identity, each row under a hash of its prompts: a
    changed tag or template is encoded anew, and the rest is read.
    """
    path = folder / f"text-{hashlib.sha256(encoder.identity.encode()).hexdigest()[:16]}.safetensors"
    keys = [hashlib.sha256(json.dumps(prompts).encode()).hexdigest() for prompts in rows]
    known = _read_features(path)
    missing = {key: prompts for key, prompts in zip(keys, rows, strict=True) if key not in known}
    if missing:
        log.info("encoding_tags", tags=len(missing), kept=len(rows) - len(missing))
        known |= _encode(missing, encoder.encode_texts)
        _write_features(path, {key: known[key] for key in keys})
    return np.stack([known[key] for key in keys])


def _encode(
    rows: dict[str, tuple[str, ...]], encode: Callable[[Sequence[str]], Array]
) -> dict[str, Array]:
    flat = encode([prompt for prompts in rows.values() for prompt in prompts])
    ends = np.cumsum([len(prompts) for prompts in rows.values()])
    means = [part.mean(axis=0) for part in np.split(flat, ends[:-1])]
    return {key: mean / np.linalg.norm(mean) for key, mean in zip(rows, means, strict=True)}


def _read_features(path: Path) -> dict[str, Array]:
    if not path.exists():
        return {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            keys = json.loads(file.metadata()["rows"])
            return dict(zip(keys, file.get_tensor("features"), strict=True))
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError) as exc:
        log.warning("text_features_unreadable", file=path.name, error=str(exc))
        return {}


def _write_features(path: Path, rows: dict[str, Array]) -> None:
    """Replace the file as a whole; a full disk costs speed at the next start, never an answer."""
    data = save({"features": np.stack(list(rows.values()))}, {"rows": json.dumps(list(rows))})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            unfinished = Path(folder, path.name)
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
    except OSError as exc:
        log.warning("text_features_not_kept", file=path.name, error=str(exc))


def _group_prompts(group: TagGroup, language: Language) -> list[tuple[str, ...]]:
    """The wordings of each tag of a group and, last, of "none of these"."""
    templates = _TEMPLATES[language].get(group.english, _TEMPLATES[language][""])
    words = [tag.name if language == "zh" else tag.phrase for tag in group.tags]
    title = group.name if language == "zh" else group.english
    none = (*_NONE[language], _UNCLEAR[language].format(title))
    return [*(tuple(form.format(word) for form in templates) for word in words), none]


def _translated(groups: Sequence[TagGroup]) -> list[TagGroup]:
    """The groups without the tags that an English model would read as noise."""
    if lost := untranslated(groups):
        log.warning("tags_without_english", count=len(lost), names=lost)
    kept = (
        TagGroup(group.name, group.english, tuple(tag for tag in group.tags if tag.phrase))
        for group in groups
    )
    return [group for group in kept if group.tags]


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    shares: Array = powers / powers.sum()
    return shares
