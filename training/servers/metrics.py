"""The embedded server's figures for Prometheus, under vLLM's names."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import prometheus_client

from training.servers.decoding import Chunk, Decoder, Generation


class Metrics:
    """vLLM's metric names, labelled with the model or adapter that was asked for."""

    def __init__(self, decoder: Decoder, served_name: str) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        for name, what, value in (
            ("running", "are being decoded", lambda: decoder.running),
            ("waiting", "wait for a slot", lambda: decoder.waiting),
        ):
            gauge = prometheus_client.Gauge(
                f"vllm:num_requests_{name}",
                f"Requests that {what}.",
                ["model_name"],
                registry=self._registry,
            )
            gauge.labels(served_name).set_function(value)
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens read.")
        self._answer_tokens = self._counter("generation_tokens", "Tokens generated.")
        self._ended = self._counter("request_success", "Answers that ended.", "finished_reason")
        self._first_token = prometheus_client.Histogram(
            "vllm:time_to_first_token_seconds",
            "Seconds from the request to its first token.",
            ["model_name"],
            registry=self._registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
        )

    def page(self) -> bytes:
        """Everything in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

    async def watch(self, model: str, generation: Generation) -> AsyncIterator[Chunk]:
        """The generation's chunks, counted as they pass."""
        begun = time.perf_counter()
        counted = 0
        async for chunk in generation.chunks():
            if not counted:
                self._first_token.labels(model).observe(time.perf_counter() - begun)
                self._prompt_tokens.labels(model).inc(len(generation.request.tokens))
            self._answer_tokens.labels(model).inc(chunk.tokens - counted)
            counted = chunk.tokens
            if chunk.finish_reason:
                self._ended.labels(model, chunk.finish_reason).inc()
            yield chunk

    def _counter(self, name: str, what: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(
            f"vllm:{name}", what, ["model_name", *labels], registry=self._registry
        )
