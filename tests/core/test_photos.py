"""Every kind of photo that people, cameras and attackers send."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from core.errors import ImageRejected
from core.photos import LONG_SIDE, PhotoLimits, decode_base64, letterboxed, open_photo, to_jpeg

LIMITS = PhotoLimits(max_bytes=1_000_000, max_pixels=4_000_000)
RED = (220, 30, 30)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def refusal(data: bytes, limits: PhotoLimits = LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        open_photo(data, limits)
    return caught.value


def near(pixel: object, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() <= 12)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_four_formats_are_read(kind: str) -> None:
    image = open_photo(encoded(Image.new("RGB", (60, 40), RED), kind), LIMITS)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert near(image.getpixel((30, 20)), RED)


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM", "EPS", "ICO", "PDF", "TGA", "JPEG2000"])
def test_every_other_format_is_refused_before_it_is_decoded(kind: str) -> None:
    error = refusal(encoded(Image.new("RGB", (32, 32), RED), kind))
    assert (error.code, error.status) == ("photo_format", 415)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
def test_a_heic_photo_is_told_apart_and_the_message_says_what_to_do(brand: bytes) -> None:
    error = refusal(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + b"mif1heic" + b"\0" * 40)
    assert (error.code, error.status) == ("photo_heic", 415)
    assert "JPEG" in str(error)


def test_an_avif_that_calls_itself_mif1_is_no_heic() -> None:
    error = refusal(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + b"\0" * 40)
    assert error.code == "photo_format"
    assert "AVIF" in str(error)


def test_a_film_is_refused() -> None:
    assert refusal(b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0" * 40).code == "photo_format"


def test_a_page_that_claims_to_be_a_photo_is_refused() -> None:
    error = refusal(b"\n<!doctype html><title>Sign in</title>")
    assert error.code == "photo_format"
    assert "HTML" in str(error)


def test_no_bytes_are_a_broken_photo() -> None:
    assert refusal(b"").code == "photo_broken"


def test_too_many_bytes_are_refused_unread() -> None:
    error = refusal(b"\xff\xd8\xff" + b"\0" * 100, PhotoLimits(50, 1000))
    assert (error.code, error.status) == ("photo_large", 413)


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    error = refusal(png_header(3000, 3000))
    assert (error.code, error.status) == ("photo_large", 413)


@pytest.mark.parametrize("side", [12_000, 30_000, 2**31 - 1])
def test_a_bomb_is_refused_even_where_the_limit_would_let_it_through(side: int) -> None:
    assert refusal(png_header(side, side), PhotoLimits(10**6, 10**20)).code == "photo_large"


def test_a_webp_may_have_half_the_pixels_of_the_others() -> None:
    image = Image.new("RGB", (60, 60), RED)
    limits = PhotoLimits(max_bytes=100_000, max_pixels=5000)
    assert open_photo(encoded(image, "PNG"), limits).size == (60, 60)
    assert refusal(encoded(image, "WEBP"), limits).code == "photo_large"


def test_a_jpeg_with_hundreds_of_scans_is_refused() -> None:
    photo = encoded(Image.new("RGB", (64, 64), RED), "JPEG", progressive=True)
    assert refusal(photo + b"\xff\xda" * 200).code == "photo_broken"


def test_a_long_photo_keeps_its_shape() -> None:
    image = open_photo(encoded(Image.new("RGB", (1000, 100), RED)), LIMITS)
    assert image.size == (1000, 100)


def test_a_long_photo_is_letterboxed_on_white_for_those_who_ask() -> None:
    image = letterboxed(Image.new("RGB", (1000, 100), RED))
    assert image.size == (1000, 1000)
    assert near(image.getpixel((500, 500)), RED)
    assert image.getpixel((500, 10)) == (255, 255, 255)


def test_a_photo_that_is_not_too_long_is_never_letterboxed() -> None:
    assert letterboxed(Image.new("RGB", (800, 100), RED)).size == (800, 100)


@pytest.mark.parametrize("size", [(16000, 1), (1, 4000), (330, 10)])
def test_a_photo_narrower_than_anything_one_can_see_is_refused(size: tuple[int, int]) -> None:
    error = refusal(encoded(Image.new("RGB", size, RED)))
    assert (error.code, error.status) == ("photo_shape", 422)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_put_upright(orientation: int) -> None:
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste(RED, (0, 0, 16, 16))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = open_photo(encoded(stored, "JPEG", exif=exif, quality=95), LIMITS)
    assert image.size == (64, 32)
    assert near(image.getpixel((5, 5)), RED)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_photo() -> None:
    photo = encoded(Image.new("RGB", (20, 20), RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_photo(photo, LIMITS).size == (20, 20)


def test_what_is_transparent_becomes_white() -> None:
    assert open_photo(encoded(Image.new("RGBA", (9, 9), (255, 0, 0, 0))), LIMITS).getpixel(
        (4, 4)
    ) == (255, 255, 255)


def test_a_transparent_palette_becomes_white() -> None:
    image = Image.new("P", (9, 9), 0)
    image.putpalette([255, 0, 0] * 256)
    assert open_photo(encoded(image, transparency=0), LIMITS).getpixel((4, 4)) == (255, 255, 255)


def test_half_transparent_is_half_white() -> None:
    pixel = open_photo(encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 128))), LIMITS).getpixel((4, 4))
    assert near(pixel, (127, 127, 127))


def test_an_adobe_cmyk_photo_keeps_its_colours() -> None:
    photo = encoded(Image.new("RGB", (32, 32), RED).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in photo
    assert near(open_photo(photo, LIMITS).getpixel((16, 16)), RED)


def test_a_cmyk_photo_without_adobe_s_mark_is_not_inverted() -> None:
    inks = Image.new("RGB", (32, 32), RED).convert("CMYK")
    photo = encoded(Image.eval(inks, lambda ink: 255 - ink), "JPEG", quality=95)
    start = photo.index(b"\xff\xee")
    length = int.from_bytes(photo[start + 2 : start + 4], "big")
    unmarked = photo[:start] + photo[start + 2 + length :]
    assert near(open_photo(unmarked, LIMITS).getpixel((16, 16)), RED)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((16, 16), 128 * 257, dtype=np.uint16))
    assert near(open_photo(encoded(grey), LIMITS).getpixel((8, 8)), (128, 128, 128))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_a_png_comes_out_as_rgb(mode: str) -> None:
    assert open_photo(encoded(Image.new(mode, (8, 8))), LIMITS).mode == "RGB"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_only_the_first_frame_is_seen(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    film = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    assert near(open_photo(film, LIMITS).getpixel((10, 10)), RED)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_photo_is_refused_never_half_shown(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    photo = encoded(Image.fromarray(noise), kind)
    error = refusal(photo[: len(photo) // 2])
    assert (error.code, error.status) == ("photo_broken", 422)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_damaged_bytes_are_either_read_or_refused_and_never_crash(kind: str) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
    photo = encoded(Image.fromarray(noise), kind)
    for _ in range(150):
        damaged = bytearray(photo)
        for place in rng.integers(0, len(photo), 8):
            damaged[place] = rng.integers(0, 256)
        with contextlib.suppress(ImageRejected):
            assert open_photo(bytes(damaged), LIMITS).mode == "RGB"


def test_a_large_photo_comes_out_small() -> None:
    image = open_photo(encoded(Image.new("RGB", (2400, 1600), RED), "JPEG"), LIMITS)
    assert max(image.size) == LONG_SIDE
    assert abs(image.width / image.height - 1.5) < 0.01


def test_where_the_photo_was_taken_is_forgotten() -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    exif[ExifTags.Base.Make] = "SecretCamera"
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "SecretComment")
    for photo in (
        encoded(Image.new("RGB", (20, 20)), "JPEG", exif=exif, comment=b"SecretComment"),
        encoded(Image.new("RGB", (20, 20)), "PNG", exif=exif, pnginfo=info),
    ):
        image = open_photo(photo, LIMITS)
        assert not image.info
        assert not image.getexif()
        assert b"Secret" not in to_jpeg(image)


def test_a_stored_photo_carries_no_comment_of_the_image_it_was_made_from() -> None:
    image = Image.new("RGB", (20, 20))
    image.info["comment"] = b"SecretComment"
    assert b"Secret" not in to_jpeg(image)


def test_a_stored_photo_can_be_opened_again() -> None:
    stored = to_jpeg(open_photo(encoded(Image.new("RGB", (30, 20), RED)), LIMITS))
    assert near(open_photo(stored, LIMITS).getpixel((15, 10)), RED)


def test_base64_and_data_urls_are_decoded() -> None:
    text = base64.b64encode(b"photo").decode()
    assert decode_base64(text, LIMITS) == b"photo"
    assert decode_base64(f"data:image/jpeg;base64,{text}", LIMITS) == b"photo"


@pytest.mark.parametrize(
    "text",
    ["", "%%%", "cGhvdG8", "cGh vdG8=", "照片", "data:image/png,abc"],
)
def test_anything_but_strict_base64_is_refused(text: str) -> None:
    with pytest.raises(ImageRejected) as caught:
        decode_base64(text, LIMITS)
    assert (caught.value.code, caught.value.status) == ("photo_broken", 400)


@pytest.mark.parametrize("text", ["https://example.org/a.jpg", " HTTP://x/y", "file:///etc/passwd"])
def test_an_address_is_called_one_and_not_a_damaged_photo(text: str) -> None:
    with pytest.raises(ImageRejected) as caught:
        decode_base64(text, LIMITS)
    assert (caught.value.code, caught.value.status) == ("photo_address", 400)


def test_base64_beyond_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageRejected) as caught:
        decode_base64("A" * 400, PhotoLimits(max_bytes=100, max_pixels=100))
    assert (caught.value.code, caught.value.status) == ("photo_large", 413)
