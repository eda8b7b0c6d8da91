"""Servers to talk to over a real socket of this machine, in this process or in a child."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from multiprocessing.connection import Connection

import uvicorn
from starlette.types import ASGIApp

from core.errors import ModelUnavailable
from core.logs import configure_logs
from core.ports import listening

HOST = "127.0.0.1"

Server = Callable[[], AbstractAsyncContextManager[str]]
"""Opens a server and gives its address; picklable, where it is to run in a child."""


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The address of `app`, served in this process while the block runs."""
    with listening(HOST, 0, "a port of the bench") as listener:
        server = _Uvicorn(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
        server.config.load()
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def in_child(server: Server) -> AsyncIterator[str]:
    """The address of a server that runs in a process of its own while the block runs."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve_until_told, args=(theirs, server))
    process.start()
    theirs.close()
    try:
        yield await asyncio.to_thread(_address, ours)
    finally:
        # The child reads its end: closing ours is what ends it, even when we are killed.
        ours.close()
        await asyncio.to_thread(process.join)


def _address(pipe: Connection) -> str:
    try:
        return str(pipe.recv())
    except EOFError as exc:
        raise ModelUnavailable("The server to measure did not start; its error is above.") from exc


def _serve_until_told(pipe: Connection, server: Server) -> None:
    configure_logs("warning", None)
    asyncio.run(_serve(pipe, server))


async def _serve(pipe: Connection, server: Server) -> None:
    async with server() as address:
        pipe.send(address)
        with suppress(EOFError):
            await asyncio.to_thread(pipe.recv)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: who opened the server closes it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
