"""Ray's REST API for jobs, with its failures in our words."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from core.errors import ClusterUnavailable
from core.settings import Settings

REQUEST_SECONDS = 30.0
_WAITING = "PENDING"
_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
# After RAY_JOB_START_TIMEOUT_SECONDS of the head, a quarter of an hour unless that is set. Older
# versions say it in words alone (ray/dashboard/modules/job/job_manager.py).
_WAITED = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
_WAITED_WORDS = "failed to start within"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where Ray's head listens, the token that it asks for, and the GPUs that a job gets."""

    address: str
    token: str = ""
    gpus: int = 0


class JobInfo(BaseModel):
    """What Ray knows of a job."""

    status: str
    message: str | None = None
    error_type: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in _ENDED

    @property
    def waits(self) -> bool:
        """Whether it waits for room on the cluster."""
        return self.status == _WAITING

    @property
    def never_began(self) -> bool:
        """Whether Ray gave it up because it had waited for room for too long."""
        told = self.error_type == _WAITED or _WAITED_WORDS in (self.message or "")
        return self.ended and told


class RayApi:
    """The calls; each raises `ClusterUnavailable` where the cluster is away or refuses us."""

    def __init__(self, client: httpx.AsyncClient, address: str) -> None:
        self._client = client
        self._address = address

    async def submit(self, job_id: str, body: dict[str, Any]) -> None:
        """Submit a job; one that Ray has by this id already is left as it is.

        Unless it never began: then it is submitted again.
        """
        job = {"submission_id": job_id, **body}
        answer = await self._send("POST", "/api/jobs/", job)
        # Ray answers 500 for an id that it knows.
        known = await self.info(job_id) if answer.is_error else None
        if known is not None and known.never_began:
            await self.forget(job_id)
            answer, known = await self._send("POST", "/api/jobs/", job), None
        if answer.is_error and known is None:
            raise ClusterUnavailable(
                f"{self._address} did not take the job {job_id!r}: "
                f"{last_line(answer.text)!r}. Look at its log."
            )

    async def info(self, job_id: str) -> JobInfo | None:
        """What Ray knows of a job; None for one that it does not know."""
        answer = await self._send("GET", f"/api/jobs/{job_id}")
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        try:
            answer.raise_for_status()
            return JobInfo.model_validate_json(answer.content)
        except (httpx.HTTPStatusError, ValidationError) as exc:
            raise ClusterUnavailable(
                f"{self._address} answered {answer.status_code} when asked for the job "
                f"{job_id!r}. Is it a Ray cluster's dashboard?"
            ) from exc

    async def stop(self, job_id: str) -> None:
        """Ask Ray to end a job; it does so in its own time."""
        await self._send("POST", f"/api/jobs/{job_id}/stop")

    async def forget(self, job_id: str) -> None:
        """Have Ray forget a job that has ended, so that its id can be used again."""
        await self._send("DELETE", f"/api/jobs/{job_id}")

    async def _send(self, method: str, path: str, body: object = None) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, json=body)
        except httpx.HTTPError as exc:
            raise ClusterUnavailable(
                f"No answer from {self._address} ({type(exc).__name__}). Is the Ray head running, "
                "and the tunnel to it?"
            ) from exc
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ClusterUnavailable(
                f"{self._address} refuses our token. Set RAY_AUTH_TOKEN to the cluster's."
            )
        return answer


@asynccontextmanager
async def ray_api(
    cluster: Cluster, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncGenerator[RayApi, None]:
    """A connection to the cluster."""
    async with ray_client(cluster, transport) as client:
        yield RayApi(client, cluster.address)


def ray_client(
    cluster: Cluster,
    transport: httpx.AsyncBaseTransport | None = None,
    seconds: float = REQUEST_SECONDS,
) -> httpx.AsyncClient:
    """An HTTP client that shows the cluster its token, and follows nobody elsewhere with it."""
    headers = {"Authorization": f"Bearer {cluster.token}"} if cluster.token else {}
    return httpx.AsyncClient(
        base_url=cluster.address, headers=headers, timeout=seconds, transport=transport
    )


def cluster_of(settings: Settings) -> Cluster:
    """The cluster that the settings name."""
    token = settings.secrets.RAY_AUTH_TOKEN
    return Cluster(
        settings.training.ray_address.rstrip("/"),
        token.get_secret_value() if token else "",
        settings.training.ray_gpus,
    )


def last_line(text: str) -> str:
    """The last line that says something, of a traceback perhaps."""
    lines = [line for line in text.strip().splitlines() if line.strip(" .^")]
    return lines[-1][-300:] if lines else ""
