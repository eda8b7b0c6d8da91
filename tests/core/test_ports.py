"""Ports: taken once, and named with the setting that chooses another."""

from __future__ import annotations

import asyncio
import socket

import pytest

from core.errors import ConfigError
from core.ports import listening, port_is_free


def test_a_port_is_taken_while_it_is_listened_at() -> None:
    with listening("127.0.0.1", 0, "web.port") as listener:
        port = listener.getsockname()[1]
        assert not port_is_free("127.0.0.1", port)
        with (
            pytest.raises(ConfigError, match=rf"Port {port} .* web\.port"),
            listening("127.0.0.1", port, "web.port"),
        ):
            pytest.fail("it must not be taken twice")
    assert port_is_free("127.0.0.1", port)


def test_who_comes_before_the_server_waits_for_it() -> None:
    with (
        listening("127.0.0.1", 0, "web.port") as listener,
        socket.create_connection(listener.getsockname(), timeout=5) as early,
    ):
        server, _ = listener.accept()
        with server:
            server.sendall(b"ready")
        assert early.recv(5) == b"ready"


async def test_what_a_server_writes_there_is_sent_at_once() -> None:
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def on_connect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        accepted.set_result(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with listening("127.0.0.1", 0, "web.port") as listener:
        async with await asyncio.start_server(on_connect, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await accepted
            writer.close()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("192.0.2.1", 8080)])
def test_what_is_no_port_of_ours_is_not_free(host: str, port: int) -> None:
    assert not port_is_free(host, port)
    with pytest.raises(ConfigError, match="cannot be used"), listening(host, port, "web.port"):
        pytest.fail("it must not listen there")
