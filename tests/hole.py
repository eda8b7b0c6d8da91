"""A line to a server of this machine that can swallow everything, and tell neither side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Line:
    """Hands on what comes while `sound` is set; what comes meanwhile arrives later."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._host, self._port = parts.hostname, parts.port
        self.address = ""
        self.sound = asyncio.Event()
        self.sound.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await self.sound.wait()
            theirs, ours = await asyncio.open_connection(self._host, self._port)
            await asyncio.gather(self._pass_on(reader, ours), self._pass_on(theirs, writer))
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self.sound.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def line_to(server: str) -> AsyncIterator[Line]:
    """A line with an address of its own."""
    line = Line(server)
    async with await asyncio.start_server(line.serve, "127.0.0.1", 0) as listener:
        line.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield line
        line.sound.set()
