"""The photos of a message: found in it, and fetched within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import stamina
from telegram import Bot, Message
from telegram.error import BadRequest, NetworkError

from core.errors import ImageRejected

ATTEMPTS = 3
FETCH_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A picture that Telegram keeps for us; `size` is what it says, in bytes."""

    file_id: str
    size: int | None


def photos_in(messages: Sequence[Message]) -> list[PhotoFile]:
    """The pictures of a message or an album, each in its largest size."""
    found = []
    for message in messages:
        if message.photo:
            largest = max(message.photo, key=lambda size: size.width * size.height)
            found.append(PhotoFile(largest.file_id, largest.file_size))
        elif message.document and (message.document.mime_type or "").startswith("image/"):
            found.append(PhotoFile(message.document.file_id, message.document.file_size))
    return found


async def fetch(bot: Bot, photo: PhotoFile, *, max_bytes: int, seconds: float) -> bytes:
    """The picture's bytes, unread and untrusted.

    Raises `ImageRejected` for one that is too large, before it is fetched where Telegram knows
    its size, and `TelegramError` or `TimeoutError` when it cannot be had.
    """
    if (photo.size or 0) > max_bytes:
        raise _too_large(photo.size or 0, max_bytes)
    async with asyncio.timeout(seconds):
        async for attempt in stamina.retry_context(on=_passing, attempts=ATTEMPTS):
            with attempt:
                file = await bot.get_file(photo.file_id)
                if (file.file_size or 0) > max_bytes:
                    raise _too_large(file.file_size or 0, max_bytes)
                data = bytes(await file.download_as_bytearray())
    if len(data) > max_bytes:
        raise _too_large(len(data), max_bytes)
    return data


def _passing(error: Exception) -> bool:
    """Whether trying again may help."""
    return isinstance(error, NetworkError) and not isinstance(error, BadRequest)


def _too_large(size: int, limit: int) -> ImageRejected:
    return ImageRejected(
        f"The photo has {size} bytes; the limit is {limit}.", code="photo_large", status=413
    )
