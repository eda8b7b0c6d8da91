"""Figures for Prometheus: answers and their seconds, thumbs, requests, and what waits."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from core.messages import Platform, Rating, Reply

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)


class Metrics:
    """Counts since the start of the process, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._answers = Counter(
            "solemate_answers",
            "Messages by how they ended; failed ones got an apology.",
            ("platform", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "solemate_answer_seconds",
            "Seconds of an answer by step; own is everything but the model.",
            ("step",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._ratings = Counter("solemate_ratings", "Thumbs.", ("rating",), registry=registry)
        self._requests = Counter(
            "solemate_http_requests",
            "HTTP requests by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self._waiting = Gauge(
            "solemate_inbox_messages", "Messages without an answer yet.", registry=registry
        )
        self._oldest = Gauge(
            "solemate_inbox_oldest_seconds", "Age of the oldest of them.", registry=registry
        )

    def answered(self, platform: Platform, reply: Reply) -> None:
        """A message got this reply."""
        self._answers.labels(platform, reply.outcome).inc()
        timings = reply.timings
        self._seconds.labels("own").observe(timings.own)
        for step in ("vision", "retrieval", "first_token", "model"):
            # A step that did not take part says nothing about how long it takes.
            if seconds := getattr(timings, step):
                self._seconds.labels(step).observe(seconds)

    def failed(self, platform: Platform) -> None:
        """A message got an apology."""
        self._answers.labels(platform, "failed").inc()

    def rated(self, rating: Rating) -> None:
        """A thumb was committed."""
        self._ratings.labels(rating).inc()

    def served(self, route: str, status: int) -> None:
        """An HTTP request was answered."""
        self._requests.labels(route, str(status)).inc()

    def waiting(self, messages: float, oldest_seconds: float) -> None:
        """How full the inbox is now."""
        self._waiting.set(messages)
        self._oldest.set(oldest_seconds)

    def render(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
