"""Whether a Ray cluster can train, for `solemate doctor`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx

from core.doctor import Finding, Health
from core.settings import Settings
from training.llamafactory import recipe
from training.local_probe import misfit, packages_for
from training.ray_api import Cluster, cluster_of, ray_client

OLDEST = (2, 52)
"""Before it a page in a browser on that machine could submit jobs (CVE-2025-62593)."""
_SECONDS = 5.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


async def examine_cluster(
    settings: Settings, transport: httpx.AsyncBaseTransport | None = None
) -> Finding:
    """Look at the cluster that the settings name."""
    cluster = cluster_of(settings)
    try:
        async with ray_client(cluster, transport, _SECONDS) as client:
            version = await client.get("/api/version")
            if version.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                return _ill(
                    f"{cluster.address} refuses our token",
                    "Set RAY_AUTH_TOKEN to the cluster's token.",
                )
            nodes = await client.get("/api/v0/nodes", params={"detail": "true"})
            ray, gpus = version.json()["ray_version"], _gpus(nodes.json())
        async with ray_client(Cluster(cluster.address), transport, _SECONDS) as stranger:
            is_open = (await stranger.get("/api/version")).is_success
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return _ill(
            f"no answer from {cluster.address}",
            "Start the Ray head and the tunnel to it, or correct training.ray_address.",
        )
    found = f"Ray {ray} at {cluster.address}, GPUs: {' + '.join(map(str, gpus)) or 'none'}"
    # What is installed there cannot be seen from here.
    if more := packages_for(recipe("dpo", {}, model=settings.training.recipe))[1:]:
        found += f"; {settings.training.recipe} needs {' and '.join(more)} there"
    if missing := _lack(settings, gpus):
        return _ill(found, missing)
    if tuple(int(one) for one in re.findall(r"\d+", ray)[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        advice = f"Upgrade Ray to {oldest} or newer: before it web pages can run programs there."
        return Finding("training", Health.WARNING, found, advice)
    return _secrecy(cluster, found, is_open=is_open)


def _lack(settings: Settings, gpus: Sequence[int]) -> str:
    """Why no run would ever start there, "" where one would."""
    training = settings.training
    if wrong := misfit(settings):
        return wrong
    if recipe("dpo", {}, model=training.recipe).get("use_cpu"):
        return ""
    if not any(gpus):
        return (
            f"It is a cluster without a GPU, and the recipe {training.recipe!r} needs one. Start "
            "Ray on the machine that has it, or choose the recipe 'embedded'."
        )
    if training.ray_gpus > max(gpus):
        return f"Lower training.ray_gpus: no machine has {training.ray_gpus}."
    return ""


def _secrecy(cluster: Cluster, found: str, *, is_open: bool) -> Finding:
    """A job is any program: nobody else may submit one."""
    url = urlsplit(cluster.address)
    if is_open:
        advice = "Whoever reaches it runs any program there: start Ray with RAY_AUTH_MODE=token."
        return Finding("training", Health.WARNING, f"{found}; open to everybody", advice)
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        advice = "The token travels unencrypted: go through an SSH tunnel, or use https."
        return Finding("training", Health.WARNING, found, advice)
    return Finding("training", Health.OK, found)


def _ill(found: str, advice: str) -> Finding:
    return Finding("training", Health.ILL, found, advice)


def _gpus(listing: Any) -> list[int]:
    """How many GPUs each living machine has."""
    nodes = listing["data"]["result"]["result"]
    living = [node for node in nodes if node["state"] == "ALIVE"]
    return [round((node["resources_total"] or {}).get("GPU", 0)) for node in living]
