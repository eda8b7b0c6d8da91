"""The web server around the API and the pages."""

from __future__ import annotations

from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp


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
    return uvicorn.Server(config)
