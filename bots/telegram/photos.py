"""The photos of a message: found in it, and fetched within bounds when its turn comes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import stamina
from telegram import Bot, Message
from telegram.error import BadRequest, NetworkError, TelegramError

from bots.bot import Question
from core.errors import ImageRejected, SolemateError
from core.messages import UserMessage

ATTEMPTS = 3
FETCH_SECONDS = 20.0


class PhotoAway(SolemateError):
    """A photo cannot be had from Telegram at the moment."""

    code = "photo_not_fetched"
    status = 503


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A picture that Telegram keeps for us; `size` is what it says, in bytes."""

    file_id: str
    size: int | None


def photo_in(message: Message) -> PhotoFile | None:
    """The picture of a message in its largest size; None without one."""
    if message.photo:
        largest = max(message.photo, key=lambda size: size.width * size.height)
        return PhotoFile(largest.file_id, largest.file_size)
    if message.document and (message.document.mime_type or "").startswith("image/"):
        return PhotoFile(message.document.file_id, message.document.file_size)
    return None


@dataclass(frozen=True, slots=True)
class Photos:
    """Gets pictures from Telegram, unread and untrusted."""

    bot: Bot
    max_bytes: int

    def check(self, photo: PhotoFile) -> None:
        """Raise `ImageRejected` for one that is too large, where Telegram knows its size."""
        if (photo.size or 0) > self.max_bytes:
            raise self._too_large(photo.size or 0)

    async def prepare(self, message: UserMessage) -> Question:
        """The message with its pictures; what cannot be had now raises `PhotoAway`."""
        images = await asyncio.gather(*(self._fetch(file_id) for file_id in message.files))
        return Question(replace(message, images=(*message.images, *images), files=()))

    async def _fetch(self, file_id: str) -> bytes:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                async for attempt in stamina.retry_context(on=_passing, attempts=ATTEMPTS):
                    with attempt:
                        return await self._fetch_once(file_id)
        except BadRequest as exc:
            raise ImageRejected(
                f"Telegram does not give the photo away: {exc.message}.", code=PhotoAway.code
            ) from exc
        # Its text holds the token when it is the address that is refused.
        except (TelegramError, TimeoutError) as exc:
            raise PhotoAway(f"The photo cannot be fetched ({type(exc).__name__}).") from None
        raise AssertionError("the last attempt returns or raises")

    async def _fetch_once(self, file_id: str) -> bytes:
        file = await self.bot.get_file(file_id)
        if (file.file_size or 0) > self.max_bytes:
            raise self._too_large(file.file_size or 0)
        data = bytes(await file.download_as_bytearray())
        if len(data) > self.max_bytes:
            raise self._too_large(len(data))
        return data

    def _too_large(self, size: int) -> ImageRejected:
        return ImageRejected(
            f"The photo has {size} bytes; the limit is {self.max_bytes}.",
            code="photo_large",
            status=413,
        )


def _passing(error: Exception) -> bool:
    """Whether trying again may help."""
    return isinstance(error, NetworkError) and not isinstance(error, BadRequest)
