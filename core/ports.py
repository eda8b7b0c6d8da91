"""Ports of this machine: take one to listen at, see whether it is free, or who answers there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from core.errors import ConfigError

_BACKLOG = 2048
# A health page waits eight seconds for a part that does not answer.
_HEALTH_SECONDS = 10


@contextmanager
def listening(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    """A socket that listens while this is open: whoever connects waits until it is served.

    Raises `ConfigError`, which names the setting, when the port is taken or not ours to take.
    """
    try:
        listener = _bound(host, port)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as exc:
        raise ConfigError(
            f"Port {port} on {host!r} cannot be used: {_reason(exc)}. Stop what runs there, or "
            f"choose another with {setting}."
        ) from exc
    with listener:
        yield listener


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    try:
        _bound(host, port).close()
    except (OSError, OverflowError):
        return False
    return True


def free_port(host: str) -> int:
    """A port that nobody has at this moment, for a program that cannot be handed a socket."""
    with _bound(host, 0) as bound:
        return int(bound.getsockname()[1])


async def answers_at(address: str) -> bool:
    """Whether a solemate is running at this address."""
    return await health_at(address) is not None


async def health_at(address: str) -> dict[str, Any] | None:
    """What the solemate at this address says of its health; None where there is none."""
    try:
        async with httpx.AsyncClient(timeout=_HEALTH_SECONDS) as client:
            health = (await client.get(f"{address}/health")).json()
    except (httpx.HTTPError, ValueError):
        return None
    known = isinstance(health, dict) and health.get("service") == "solemate"
    return health if known else None


def _reason(exc: OSError | OverflowError) -> str:
    """What the system says, without its number: `Address already in use`."""
    said = exc.strerror if isinstance(exc, OSError) else None
    return said or str(exc)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the socket says that it speaks TCP; with it a
    # stream's next event waits 40 ms for the acknowledgement of the one before.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError):
        bound.close()
        raise
    return bound
