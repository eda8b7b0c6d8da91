"""Untrusted bytes -> one safe RGB image: every photo passes here before anything else sees it."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageChops

from core.errors import ImageRejected

# The longest side of what leaves here: CLIP reads at most 384 pixels, the store keeps the rest.
LONG_SIDE = 1024
# Beyond 8:1 a picture is letterboxed for CLIP, or its processor, which scales the *short* side to
# 224, needs gigabytes (measured: 16000x1 takes 8 GB); beyond 32:1 nothing can be seen on it.
LETTERBOX_RATIO = 8
MAX_RATIO = 32
# An ordinary progressive JPEG has ten scans and a preview; each one costs a pass over the picture.
MAX_JPEG_SCANS = 64
JPEG_QUALITY = 90

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
# What people send by mistake, to name it in the message.
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\0\0\1\0", "icon"),
    (b"<", "HTML or SVG"),
)
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,", re.ASCII | re.IGNORECASE)
# What Pillow's decoders raise on damaged bytes, beside OSError (of which "truncated" is one).
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class PhotoLimits:
    """The largest photo taken: bytes as received, pixels before anything is decoded."""

    max_bytes: int
    max_pixels: int


def open_photo(data: bytes, limits: PhotoLimits) -> Image.Image:
    """The first picture in `data`: upright, RGB on white, at most `LONG_SIDE`, without metadata.

    It keeps its shape, up to `MAX_RATIO` times as long as narrow: see `letterboxed`.

    Raises `ImageRejected` for what is no JPEG, PNG, WebP or GIF (`photo_format`, `photo_heic`),
    too large (`photo_large`), too narrow (`photo_shape`) or damaged (`photo_broken`).
    """
    if len(data) > limits.max_bytes:
        raise _too_large(f"{len(data):,} bytes; the limit is {limits.max_bytes:,}")
    kind = _kind(data)
    with _decoding(kind), Image.open(io.BytesIO(data), formats=(kind,)) as image:
        _check_size(image.size, kind, limits)
        _check_scans(data, kind)
        image.draft("RGB", (LONG_SIDE, LONG_SIDE))
        image.load()
        upright = _turned(_shrunk(_plain_mode(image)), _orientation(image))
    return _on_white(upright)


def letterboxed(image: Image.Image) -> Image.Image:
    """A picture beyond `LETTERBOX_RATIO` on a white square; any other as it is.

    For models that scale the short side. What measures colours would take the bars for the shoe.
    """
    if max(image.size) <= LETTERBOX_RATIO * min(image.size):
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def to_jpeg(image: Image.Image) -> bytes:
    """A clean JPEG to store or forward: the pixels, and nothing the camera knew."""
    file = io.BytesIO()
    _on_white(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def decode_base64(text: str, limits: PhotoLimits) -> bytes:
    """The bytes of a base64 string or a `data:…;base64,` URL; addresses are never fetched.

    Raises `ImageRejected` (400) for anything but strict base64, (413) for more than `max_bytes`.
    """
    if _ADDRESS.match(text):
        raise ImageRejected(
            "The photo is an address; send its bytes as base64 or as a data: URL.",
            code="photo_address",
            status=400,
        )
    url = _DATA_URL.match(text)
    encoded = text[url.end() :] if url else text
    if len(encoded) > 4 * -(-limits.max_bytes // 3):
        raise _too_large(f"{len(encoded):,} characters; the limit is {limits.max_bytes:,} bytes")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ImageRejected(
            f"The photo starts with {text[:24]!r}, which is no base64 ({exc}): send the file's "
            "bytes as base64 or as a data: URL.",
            code="photo_broken",
            status=400,
        ) from exc
    if not data:
        raise ImageRejected("The photo is empty; attach it again.", code="photo_broken", status=400)
    return data


def _kind(data: bytes) -> str:
    """The Pillow name of an allowed format, by its first bytes: names and types sent along lie."""
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if not data:
        raise _broken("no bytes at all")
    if data[4:8] == b"ftyp":
        raise _rejected_container(data)
    foreign = next((name for start, name in _FOREIGN if data.lstrip().startswith(start)), "")
    raise ImageRejected(
        f"The file is {foreign or 'of an unknown kind'}: send JPEG, PNG, WebP or GIF.",
        code="photo_format",
    )


def _rejected_container(data: bytes) -> ImageRejected:
    """The refusal of an ISO media file: HEIC, AVIF, or a film; its first box lists the brands."""
    length = min(max(int.from_bytes(data[:4], "big"), 16), 256)
    brands = {data[8:12], *(data[i : i + 4] for i in range(16, length, 4))}
    if brands & _HEIC_BRANDS and not brands & _AVIF_BRANDS:
        return ImageRejected(
            "The photo is HEIC, which is not read here: export it as JPEG, or send a screenshot.",
            code="photo_heic",
        )
    name = "AVIF" if brands & _AVIF_BRANDS else "a film"
    return ImageRejected(
        f"The file is {name}: send JPEG, PNG, WebP or GIF.",
        code="photo_format",
    )


@contextmanager
def _decoding(kind: str) -> Iterator[None]:
    """Turn what Pillow raises into ours; our own refusals pass through."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as exc:
        raise _too_large(f"more than can be decoded ({exc})") from exc
    except _DAMAGED as exc:
        raise _broken(f"{kind}: {exc}") from exc


def _check_size(size: tuple[int, int], kind: str, limits: PhotoLimits) -> None:
    # Pillow only warns up to twice this number of pixels, and the warning is easily lost.
    most = min(limits.max_pixels, Image.MAX_IMAGE_PIXELS or limits.max_pixels)
    if kind == "WEBP":
        most //= 2  # its decoder holds four copies of the picture where the others hold two
    width, height = size
    if width * height > most:
        raise _too_large(f"{width}x{height} pixels; the limit is {most:,} in all")
    if max(size) > MAX_RATIO * min(size):
        raise ImageRejected(
            f"The photo is {width}x{height} pixels, narrower than 1:{MAX_RATIO}: crop it to the "
            "shoe.",
            code="photo_shape",
            status=422,
        )


def _check_scans(data: bytes, kind: str) -> None:
    # Inside the compressed data 0xFF is always followed by 0x00, so this counts headers only.
    scans = data.count(b"\xff\xda") if kind == "JPEG" else 0
    if scans > MAX_JPEG_SCANS:
        raise _broken(f"JPEG with {scans} scans, where {MAX_JPEG_SCANS} are plenty")


def _plain_mode(image: Image.Image) -> Image.Image:
    """L, RGB or RGBA: eight bits a channel, palettes and CMYK resolved."""
    if image.mode.startswith("I"):
        # Sixteen bits: convert("L") would clip everything above 255 to white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "CMYK" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for an Adobe one, whose inks are stored inverted.
        return ImageChops.invert(image).convert("RGB")
    if image.mode in ("L", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _shrunk(image: Image.Image) -> Image.Image:
    image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1 to 8; a photo whose EXIF is damaged stays as it lies."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGED:
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    """The pixels in a fresh RGB image, which has none of the metadata of the old one."""
    clean = Image.new("RGB", image.size, "white")
    clean.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    return clean


def _too_large(what: str) -> ImageRejected:
    return ImageRejected(
        f"The photo has {what}: send a smaller one.", code="photo_large", status=413
    )


def _broken(what: str) -> ImageRejected:
    return ImageRejected(
        f"The photo is damaged or incomplete ({what}): send it again.",
        code="photo_broken",
        status=422,
    )
