"""Photos that Slack keeps: fetched with our token from Slack's own hosts, and from nowhere else.

Slack answers a request for a file with a redirect (on Enterprise Grid to another host of its own,
without a fitting token to a sign-in page), so every hop is looked at before the token goes there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import stamina
import structlog

from core.errors import ImageRejected

log = structlog.get_logger()

HOSTS = ("files.slack.com", "files-origin.slack.com", "slack-files.com")
MOST_HOPS = 3
ATTEMPTS = 3
SECONDS = 20.0
_MOST_ADDRESS = 2000


@dataclass(frozen=True, slots=True)
class Files:
    """Fetches photos; `origins` is where the token may go."""

    http: httpx.AsyncClient
    token: str = field(repr=False)
    origins: frozenset[str]
    max_bytes: int

    async def fetch(self, address: str) -> bytes:
        """The file's bytes, unread and untrusted.

        Raises `ImageRejected` for what is too large, and for what Slack does not hand out.
        """
        try:
            async for attempt in stamina.retry_context(on=_passing, attempts=ATTEMPTS):
                with attempt:
                    return await self._follow(address)
        except httpx.HTTPError as exc:
            raise _not_fetched(type(exc).__name__) from exc
        raise AssertionError("an attempt returns or raises")

    async def _follow(self, address: str) -> bytes:
        for _ in range(MOST_HOPS + 1):
            if origin_of(address) not in self.origins:
                raise _not_fetched("a host that is not Slack's")
            headers = {"Authorization": f"Bearer {self.token}"}
            async with self.http.stream("GET", address, headers=headers) as response:
                if not response.has_redirect_location:
                    return await self._read(response)
                address = urljoin(address, response.headers["Location"])
        raise _not_fetched(f"more than {MOST_HOPS} redirects")

    async def _read(self, response: httpx.Response) -> bytes:
        if response.status_code != 200:
            # Slack's own trouble passes.
            if response.status_code >= 500:
                response.raise_for_status()
            raise _not_fetched(f"status {response.status_code}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            # A sign-in page: the token lacks the scope files:read, or the file is gone.
            raise _not_fetched("a page instead of the photo")
        data = bytearray()
        async for piece in response.aiter_bytes():
            data += piece
            if len(data) > self.max_bytes:
                raise too_large(len(data), self.max_bytes)
        return bytes(data)


def open_http() -> httpx.AsyncClient:
    """A client that follows no redirect and takes no proxy's or cookie's word."""
    return httpx.AsyncClient(follow_redirects=False, timeout=SECONDS, trust_env=False)


def origins_for(base_url: str) -> frozenset[str]:
    """Slack's file hosts, and where the API itself is reached: the token goes there anyway."""
    return frozenset((*(f"https://{host}:443" for host in HOSTS), origin_of(base_url)))


def origin_of(address: str) -> str:
    """Scheme, host and port of an address as a client would connect; "" for an odd one."""
    try:
        url = urlsplit(address)
        port = url.port or {"https": 443, "http": 80}.get(url.scheme, 0)
    except ValueError:
        return ""
    # Whoever names a person before the host wants to be misread.
    if not url.hostname or "@" in url.netloc or "\\" in address:
        return ""
    return f"{url.scheme}://{url.hostname}:{port}"


def photos_in(event: Mapping[str, Any], max_bytes: int) -> tuple[str, ...]:
    """The addresses of a message's photos.

    Raises `ImageRejected` where Slack says that one is too large.
    """
    found = []
    for file in _files_of(event):
        address = file.get("url_private_download") or file.get("url_private")
        is_photo = str(file.get("mimetype") or "").startswith("image/")
        if not is_photo or not isinstance(address, str) or len(address) > _MOST_ADDRESS:
            continue
        size = file.get("size")
        if isinstance(size, int) and size > max_bytes:
            raise too_large(size, max_bytes)
        found.append(address)
    return tuple(found)


def has_files(event: Mapping[str, Any]) -> bool:
    """Whether a message brought any file."""
    return bool(_files_of(event))


def too_large(size: int, limit: int) -> ImageRejected:
    """The refusal of a photo of this many bytes."""
    return ImageRejected(
        f"The photo has {size} bytes; the limit is {limit}.", code="photo_large", status=413
    )


def _files_of(event: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    files = event.get("files")
    return [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []


def _passing(error: Exception) -> bool:
    """Whether trying again may help."""
    return isinstance(error, (httpx.TransportError, httpx.HTTPStatusError))


def _not_fetched(why: str) -> ImageRejected:
    log.warning("photo_not_fetched", why=why)
    return ImageRejected(f"The photo was not fetched: {why}.", code="photo_not_fetched", status=502)
