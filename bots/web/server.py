"""The web server around the API and the pages."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from core.running import end_at_once


def web_server(app: ASGIApp, *, trusted_proxies: Sequence[str]) -> uvicorn.Server:
    """A server for this application.

    Whoever calls through one of these addresses or networks is known by the address that the proxy
    names in X-Forwarded-For. Nobody else's word is taken for it: it would be a way around limits.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        timeout_graceful_shutdown=5,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn that Ctrl-C ends at once while it waits for its connections to end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            end_at_once(sig)
        super().handle_exit(sig, frame)
