"""Figures for Prometheus: answers and their seconds, thumbs, requests, what waits, the loop."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from core.backup import LAST_BACKUP
from core.gauges import Gauges
from core.gpu import watch_gpus
from core.messages import Platform, Rating, Reply
from core.prompt import estimate_tokens
from core.routes import Route

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)


class Metrics:
    """Counts since the start of the process, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._route: Callable[[], Route] | None = None
        self._loaded_on: Callable[[], Mapping[tuple[str, str], bool]] = dict
        ProcessCollector(registry=registry)
        self._answers = Counter(
            "solemate_answers",
            "Messages by how they ended; failed ones got an apology.",
            ("platform", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "solemate_answer_seconds",
            "Seconds of an answer by step; own is everything but the model, total all of it.",
            ("step",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._model_seconds = Histogram(
            "solemate_model_seconds",
            "Seconds that the model took, by the adapter that wrote the answer.",
            ("adapter",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._tokens = Counter(
            "solemate_answer_tokens",
            "Tokens of models' answers, estimated from the text; the model server counts exactly.",
            ("adapter",),
            registry=registry,
        )
        self._ratings = Counter("solemate_ratings", "Thumbs.", ("rating",), registry=registry)
        self._requests = Counter(
            "solemate_http_requests",
            "HTTP requests by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "solemate_http_request_seconds",
            "Seconds until an HTTP response begins, by route.",
            ("route",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._waiting = self._gauge("inbox_messages", "Messages without an answer yet.")
        self._oldest = self._gauge("inbox_oldest_seconds", "Age of the oldest of them.")
        self._dead = self._gauge("inbox_dead_messages", "Messages given up after three failures.")
        self._people = self._gauge("active_people", "People who wrote in the last day.")
        self._verdicts = self._gauge(
            "verdicts", "People's last thumbs of the last day.", "adapter", "rating"
        )
        self._duels = self._gauge(
            "duels",
            "Duels of the last day, by whether the person has picked.",
            "state",
        )
        self._duel_results = self._gauge(
            "duel_results",
            "How the last day's duels between two adapters ended for each.",
            "adapter",
            "result",
        )
        self._pairs = self._gauge("pairs", "Preference pairs by state.", "state")
        self._runs = self._gauge("runs", "Training runs by state.", "state")
        self._share = self._gauge(
            "route_share", "Share of people whom an adapter answers.", "adapter", "role"
        )
        self._loaded = self._gauge(
            "adapter_loaded",
            "1 where a model server has an adapter that people are sent to, 0 where it lacks it.",
            "server",
            "adapter",
        )
        self._well = self._gauge(
            "platform_up", "1 while a platform can be reached and messages are taken.", "platform"
        )
        self._quiet = self._gauge(
            "platform_quiet_seconds", "Seconds since a platform was last heard from.", "platform"
        )
        self._disk_free = self._gauge("disk_free_bytes", "Room on the state folder's disk.")
        self._disk_size = self._gauge("disk_size_bytes", "Size of the state folder's disk.")
        self._backup = self._gauge(
            "backup_timestamp_seconds", "When the last backup was made; 0 for never."
        )

    def answered(self, platform: Platform, reply: Reply) -> None:
        """A message got this reply."""
        self._answers.labels(platform, reply.outcome).inc()
        timings = reply.timings
        self._seconds.labels("own").observe(timings.own)
        self._seconds.labels("total").observe(timings.total)
        for step in ("vision", "retrieval", "first_token", "model"):
            # A step that did not take part says nothing about how long it takes.
            if seconds := getattr(timings, step):
                self._seconds.labels(step).observe(seconds)
        if reply.adapter:
            self._model_seconds.labels(reply.adapter).observe(timings.model)
            self._tokens.labels(reply.adapter).inc(estimate_tokens(reply.text))

    def failed(self, platform: Platform) -> None:
        """A message got an apology."""
        self._answers.labels(platform, "failed").inc()

    def rated(self, rating: Rating) -> None:
        """A thumb was committed."""
        self._ratings.labels(rating).inc()

    def served(self, route: str, status: int) -> None:
        """An HTTP request was answered."""
        self._requests.labels(route, str(status)).inc()

    def took(self, route: str, seconds: float) -> None:
        """So long it was until the response to an HTTP request began."""
        self._request_seconds.labels(route).observe(seconds)

    def waiting(self, messages: float, oldest_seconds: float) -> None:
        """How full the inbox is now."""
        self._waiting.set(messages)
        self._oldest.set(oldest_seconds)

    def holds(self, gauges: Gauges) -> None:
        """What the store holds now."""
        self._dead.set(gauges.dead)
        self._people.set(gauges.people)
        _show(self._verdicts, gauges.verdicts.items())
        _show(self._duels, (((state,), count) for state, count in gauges.duels.items()))
        _show(self._duel_results, gauges.duel_results.items())
        _show(self._pairs, (((state,), count) for state, count in gauges.pairs.items()))
        _show(self._runs, (((state,), count) for state, count in gauges.runs.items()))

    def watch_route(self, route: Callable[[], Route]) -> None:
        """Show who answers whom."""
        self._route = route

    def watch_adapters(self, loaded_on: Callable[[], Mapping[tuple[str, str], bool]]) -> None:
        """Show which of the adapters that people are sent to each model server has."""
        self._loaded_on = loaded_on

    def watch_platform(
        self,
        platform: Platform,
        complaint: Callable[[], str],
        quiet_seconds: Callable[[], float] | None = None,
    ) -> None:
        """Show whether there is nothing to complain about, and when a poll last went well."""
        self._well.labels(platform).set_function(lambda: float(not complaint()))
        if quiet_seconds is not None:
            self._quiet.labels(platform).set_function(quiet_seconds)

    def watch_machine(self, state: Path) -> None:
        """Show the disk below the state folder, the age of its last backup, and NVIDIA cards."""
        self._disk_free.set_function(lambda: shutil.disk_usage(state).free)
        self._disk_size.set_function(lambda: shutil.disk_usage(state).total)
        self._backup.set_function(lambda: _changed_at(state / LAST_BACKUP))
        watch_gpus(self._registry)

    def render(self) -> bytes:
        """All figures in Prometheus' text format."""
        if self._route is not None:
            _show(self._share, _shares(self._route()))
        _show(self._loaded, self._loaded_on().items())
        return generate_latest(self._registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"solemate_{name}", what, labels, registry=self._registry)


def _show(gauge: Gauge, values: Iterable[tuple[tuple[str, ...], float]]) -> None:
    """Let the gauge have these values for these labels, and none of those it had before."""
    gauge.clear()
    for labels, value in values:
        gauge.labels(*labels).set(value)


def _shares(route: Route) -> Iterator[tuple[tuple[str, str], float]]:
    yield (route.live, "live"), 1 - route.share
    if route.canary:
        yield (route.canary, "canary"), route.share


def _changed_at(file: Path) -> float:
    return file.stat().st_mtime if file.exists() else 0.0
