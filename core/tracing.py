"""What each step of an answer took, for whoever collects it; by default nobody, at no cost.

A span knows ids and figures, never a text. `otlp.py` has the spans that are sent.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import Self

Fact = str | int | float | bool

CARRIED: ContextVar[str] = ContextVar("carried_traceparent", default="")
"""The `traceparent` header (W3C Trace Context) with which a model server is called from here on."""


class Span:
    """A step of an answer; this one is not recorded."""

    @property
    def header(self) -> str:
        """The `traceparent` header with which another process goes on; "" for none."""
        return ""

    def child(self, name: str, *, since: float | None = None, **facts: Fact) -> Span:
        """A step within this one; `since` (Unix time) where it began before now."""
        return self

    def note(self, **facts: Fact) -> None:
        """Add ids and figures."""

    def end(self, failure: str = "") -> None:
        """End it, once; `failure` says what went wrong, in a word."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(kind.__name__ if kind is not None and issubclass(kind, Exception) else "")


UNTRACED = Span()


class Tracing:
    """Where traces begin; these are not recorded."""

    def begin(
        self, name: str, *, header: str = "", since: float | None = None, **facts: Fact
    ) -> Span:
        """The first step of an answer, or in this process: `header` is its caller's."""
        return UNTRACED

    def close(self) -> None:
        """Send what is left."""
