"""The colours of a shoe, measured without any model: what stands in the middle, not behind it.

The picture is reduced to a few colours; each is weighed by how much more of it lies in the middle
than along the border, and named by the nearest of the prototypes below. Type and pattern are out
of reach for this, and so is telling a shoe from anything else: both need a CLIP model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from core.messages import ImageTag
from core.tags import COLOUR, Tag, TagGroup

Array = NDArray[np.float64]

# Pixels along the longer side: more cost time and name nothing better.
SIDE = 96
CLUSTERS = 16

# CIELAB (D65) of shoes as phones see them, not of paint: blacks are never at zero, whites seldom
# at 100. Light and shade move a colour further than its neighbours are away, so only the basic
# terms are named; navy is blue here, and burgundy red.
PROTOTYPES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((8, 0, 0), (18, 0, 0), (26, 1, 1), (18, 2, -6), (22, 3, 4)),
    "white": ((92, 0, 2), (82, 0, 0), (78, 1, 5), (85, -1, 8)),
    "grey": ((45, 0, 0), (55, 0, 2), (65, 0, 0), (50, 0, -4), (58, 1, 6)),
    "red": ((35, 50, 28), (45, 62, 40), (28, 38, 16), (40, 52, 15), (48, 58, 20)),
    "pink": ((65, 35, 5), (78, 20, 4), (55, 55, 0), (50, 55, -5), (70, 30, 12)),
    "orange": ((62, 45, 55), (68, 35, 60)),
    "yellow": ((80, 5, 75), (72, 10, 65)),
    "beige": ((75, 5, 18), (68, 7, 22), (80, 3, 14), (60, 6, 18)),
    "brown": ((35, 14, 20), (28, 12, 14), (45, 15, 26), (22, 9, 9), (40, 10, 14), (50, 18, 30)),
    "green": ((45, -35, 25), (35, -22, 12), (60, -30, 5), (50, -10, 12), (55, -40, 15)),
    "blue": (
        (30, 5, -28),
        (45, 0, -32),
        (60, -12, -28),
        (22, 6, -18),
        (70, -15, -18),
        (35, 12, -40),
    ),
    "purple": ((38, 35, -30), (45, 25, -22), (60, 20, -18), (30, 35, -15), (42, 55, -25)),
}
_CHINESE = {
    "黑色": "black",
    "白色": "white",
    "灰色": "grey",
    "红色": "red",
    "粉色": "pink",
    "粉红色": "pink",
    "橙色": "orange",
    "黄色": "yellow",
    "米色": "beige",
    "棕色": "brown",
    "褐色": "brown",
    "咖啡色": "brown",
    "绿色": "green",
    "蓝色": "blue",
    "紫色": "purple",
}

# How the weights below were found: a softmax regression on some 200 phone photos of shoes, whose
# five-fold cross-validation named 78 % right at the first guess; rounded, which changed nothing.
CENTRE_WEIGHT = 1.4
CLOSE_WEIGHT, CLOSE_DISTANCE = 0.45, 5.0
NEAR_WEIGHT, NEAR_DISTANCE = 1.2, 12.0
CHROMA_WEIGHT = 0.01
# Lightness tells little: the same leather is light in the sun and dark under the table.
LIGHTNESS = 0.5
PROTOTYPE_SPREAD = 7.0
# What a floor usually looks like (Lab), and how much of a deviation from it is the light's doing:
# a lamp shifts lightness and yellow, hardly ever green or red.
USUAL_SURROUNDINGS = np.array([60.0, 3.0, 10.0])
LIGHT_SHARE = np.array([0.25, 0.0, 0.15])

# A second colour has at least this share of the first one's score, and is always hedged.
MARGIN = 0.35
# Less than this, and any name would be a throw of dice.
FLOOR = 0.3
SURE = 0.7
# A picture whose colours differ by less (CIELAB distance) shows nothing that stands out.
PLAIN = 4.0


class ColourVision:
    """Names one or two colours of what is in the middle of a photo; hedged where it is unsure."""

    colours_only = True

    def __init__(self, groups: Sequence[TagGroup], *, max_tags: int) -> None:
        """Only the basic colours that the tag file has are ever named, in its own words."""
        self.groups = [group for group in groups if group.english == COLOUR]
        self._names = _names(self.groups)
        self._max_tags = min(max_tags, 2)

    async def warm(self) -> None:
        """Nothing has to be got ready, as it has for a model that looks at photos."""

    async def tags(self, photo: Image.Image) -> tuple[ImageTag, ...]:
        """At most two colours, the surest first; none where nothing stands out."""
        return await asyncio.to_thread(self._tags, photo)

    def _tags(self, photo: Image.Image) -> tuple[ImageTag, ...]:
        shares = measure_colours(photo)
        ranked = sorted(
            (
                (share, self._names[colour])
                for colour, share in shares.items()
                if colour in self._names
            ),
            key=lambda pair: -pair[0],
        )
        best = ranked[0][0] if ranked else 0.0
        if best < FLOOR:
            return ()
        chosen = [pair for pair in ranked if pair[0] >= MARGIN * best][: self._max_tags]
        return tuple(tag.seen(share, share >= SURE) for share, tag in chosen)


def measure_colours(photo: Image.Image) -> dict[str, float]:
    """The share of each basic colour (its English name) in what stands out; {} where nothing does.

    The shares sum to 1.
    """
    small = ImageOps.contain(photo, (SIDE, SIDE), Image.Resampling.BOX)
    colours, labels = _clusters(small)
    if np.ptp(colours, axis=0).max(initial=0.0) < PLAIN:
        return {}
    middle, border = _spread(labels, len(colours))
    shares = _weights(colours, middle, border) @ _memberships(_relit(colours, border @ colours))
    return dict(zip(PROTOTYPES, shares.tolist(), strict=True))


def to_lab(rgb: NDArray[np.uint8]) -> Array:
    """sRGB (…, 3) of 0 to 255 -> CIELAB under D65 (…, 3); IEC 61966-2-1 and CIE 15."""
    scaled = rgb / 255.0
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _D65
    bent = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(bent, -1, 0)
    lab: Array = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    return lab


_D65 = np.array([0.95047, 1.0, 1.08883])
_RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)


def _clusters(photo: Image.Image) -> tuple[Array, NDArray[np.intp]]:
    """The few colours of a small photo in Lab (clusters, 3), and each pixel's (height, width)."""
    indexed = photo.quantize(CLUSTERS, Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE)
    labels = np.asarray(indexed).astype(np.intp)
    lab = to_lab(np.asarray(photo)).reshape(-1, 3)
    present, flat = np.unique(labels, return_inverse=True)
    flat = flat.reshape(-1)
    sums = [np.bincount(flat, channel, len(present)) for channel in lab.T]
    return np.stack(sums, axis=-1) / np.bincount(flat)[:, None], flat.reshape(labels.shape)


def _weights(colours: Array, middle: Array, border: Array) -> Array:
    """How much each cluster belongs to what is in the middle, (clusters,), summing to 1.

    Middle and border are compared with the kin of a cluster counted in, so that a floor in light
    and shade is one background. Strong colours are more often the shoe than the room.
    """
    chroma = np.hypot(colours[:, 1], colours[:, 2])
    logits = (
        CENTRE_WEIGHT * np.log(middle + 0.001)
        + CLOSE_WEIGHT * _contrast(colours, middle, border, CLOSE_DISTANCE)
        + NEAR_WEIGHT * _contrast(colours, middle, border, NEAR_DISTANCE)
        + CHROMA_WEIGHT * chroma
    )
    return _softmax(logits)


def _spread(labels: NDArray[np.intp], count: int) -> tuple[Array, Array]:
    """The share of each cluster in the middle (a Gaussian window) and along the border."""
    height, width = labels.shape
    down = np.abs((np.arange(height) + 0.5) / height * 2 - 1)[:, None]
    across = np.abs((np.arange(width) + 0.5) / width * 2 - 1)[None, :]
    windows = (
        np.exp(-(down**2 + across**2) / 2 / 0.42**2),
        (np.maximum(down, across) > 0.86).astype(np.float64),
    )
    flat = labels.ravel()
    middle, border = (np.bincount(flat, window.ravel(), count) / window.sum() for window in windows)
    return middle, border


def _relit(colours: Array, surroundings: Array) -> Array:
    """The colours with a part of what the light did to their surroundings taken back."""
    relit: Array = colours - LIGHT_SHARE * (surroundings - USUAL_SURROUNDINGS)
    return relit


def _contrast(colours: Array, middle: Array, border: Array, distance: float) -> Array:
    squares = ((colours[:, None] - colours[None]) ** 2 * (LIGHTNESS**2, 1, 1)).sum(axis=-1)
    kinship = np.exp(-squares / 2 / distance**2)
    contrast: Array = np.log((kinship @ middle + 0.01) / (kinship @ border + 0.01))
    return contrast


def _memberships(colours: Array) -> Array:
    """How well each basic colour fits each cluster, (clusters, colours); rows sum to 1."""
    fits = []
    for prototypes in PROTOTYPES.values():
        gaps = colours[:, None] - np.array(prototypes, dtype=np.float64)[None]
        squares = (gaps**2 * (0.6, 1, 1)).sum(axis=-1)
        fits.append(-squares.min(axis=1) / 2 / PROTOTYPE_SPREAD**2)
    return _softmax(np.stack(fits, axis=-1))


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _names(groups: Sequence[TagGroup]) -> dict[str, Tag]:
    """The tag for each basic colour that the file has."""
    names: dict[str, Tag] = {}
    for group in groups:
        for tag in group.tags:
            phrase = tag.phrase.casefold().replace("gray", "grey")
            colour = phrase if phrase in PROTOTYPES else _CHINESE.get(tag.name)
            if colour:
                names.setdefault(colour, tag)
    return names
