"""Several model servers as one: the least busy that is well and has the adapter answers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Self

import structlog

from core.errors import AdapterRejected, ModelMissing, ModelUnavailable, NoHotLoad, NotFound
from core.messages import ChatMessage
from core.model import Piece, Sampling, Survey
from core.openai_model import OpenAIChatModel

log = structlog.get_logger()

REFUSED_SECONDS = 300.0
"""How long a replica that refused an adapter is not offered it again: somebody has to mend it."""


class _Replica:
    """One server: how many answers it is writing, and the names that it is known to have."""

    def __init__(self, url: str, model: OpenAIChatModel) -> None:
        self.url = url
        self.model = model
        self.busy = 0
        self.well = True
        self.names: frozenset[str] | None = None
        self.refused: dict[str, float] = {}

    @contextmanager
    def writing(self) -> Iterator[None]:
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    def lacks(self, name: str) -> bool:
        """Whether it is known not to have this model."""
        return self.names is not None and name not in self.names

    def forgot(self, name: str) -> None:
        """Note that it did not know this model."""
        self.names = (self.names or frozenset()) - {name}


class Replicas:
    """Model servers that have the same base model; close them with `async with`.

    A question goes to one server. Only where that one could not be asked at all, or did not have
    the adapter, the next is asked: whatever else fails would fail there, too, and cost twice.
    """

    def __init__(
        self,
        replicas: Mapping[str, OpenAIChatModel],
        base_model: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`replicas` are the servers' clients by their base URLs."""
        self._replicas = [_Replica(url, model) for url, model in replicas.items()]
        self._base_model = base_model
        self._clock = clock
        self._turn = itertools.count()
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for one in self._replicas:
            await self._closing.enter_async_context(one.model)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """The answer of `adapter` by one of the servers that have it; see `OpenAIChatModel`."""
        name = adapter or self._base_model
        failure: ModelUnavailable = ModelMissing(f"No model server has {name!r}.")
        for one in self._order(name):
            shown = False
            with one.writing():
                try:
                    async with aclosing(one.model.stream(prompt, adapter, sampling)) as pieces:
                        async for piece in pieces:
                            shown = True
                            yield piece
                    one.well = True
                    return
                except ModelMissing as exc:
                    one.forgot(name)
                    failure = exc
                except ModelUnavailable as exc:
                    if shown or not exc.unasked:
                        raise
                    one.well = False
                    log.warning("replica_away", replica=one.url, problem=str(exc))
                    failure = exc
        raise failure

    def _order(self, name: str) -> list[_Replica]:
        """Those that may have the model: the well and least busy first, equals in turn."""
        turn = next(self._turn) % len(self._replicas)
        turned = self._replicas[turn:] + self._replicas[:turn]
        having = [one for one in turned if not one.lacks(name)]
        return sorted(having, key=lambda one: (not one.well or not one.model.trusted, one.busy))

    async def models(self) -> list[str]:
        """The names that some server can be asked for."""
        return sorted((await self.survey()).anywhere)

    async def survey(self) -> Survey:
        """Who has what; a server that cannot be asked has what it had, and says nothing else.

        Raises `ModelUnavailable` when none can be asked.
        """
        found = await asyncio.gather(*(self._listed(one) for one in self._replicas))
        failures = [one for one in found if isinstance(one, ModelUnavailable)]
        if len(failures) == len(found):
            raise failures[0]
        there = [one for one in self._replicas if one.well and one.names is not None]
        anywhere = frozenset().union(*(one.names or () for one in there))
        everywhere = frozenset(
            name for name in anywhere if not any(self._to_offer(one, name) for one in there)
        )
        return Survey(anywhere, everywhere, {one.url: one.names or frozenset() for one in there})

    async def _listed(self, one: _Replica) -> ModelUnavailable | None:
        try:
            one.names = frozenset(await one.model.models())
        except ModelUnavailable as exc:
            if one.well:
                log.warning("replica_away", replica=one.url, problem=str(exc))
            one.well = False
            return exc
        one.well = True
        return None

    def _to_offer(self, one: _Replica, name: str) -> bool:
        """Whether a server lacks an adapter and has not refused it a moment ago."""
        return one.lacks(name) and self._clock() >= one.refused.get(name, 0.0)

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load an adapter on every server that lacks it; raises as the last when none has it."""
        failure: AdapterRejected | ModelUnavailable | None = None
        for one in [one for one in self._replicas if one.well and one.names is not None]:
            if not self._to_offer(one, name):
                continue
            try:
                await one.model.load_adapter(name, path)
            except (AdapterRejected, ModelUnavailable) as exc:
                never = isinstance(exc, NoHotLoad)
                one.refused[name] = float("inf") if never else self._clock() + REFUSED_SECONDS
                log.warning("adapter_not_on_replica", replica=one.url, adapter=name, why=str(exc))
                failure = exc
            else:
                one.names = (one.names or frozenset()) | {name}
                one.refused.pop(name, None)
        if failure is not None and all(one.lacks(name) for one in self._replicas):
            raise failure

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter everywhere; raises `NotFound` when nobody knows it."""
        known = False
        for one in [one for one in self._replicas if one.well]:
            try:
                await one.model.unload_adapter(name)
                known = True
            except (NotFound, ModelUnavailable):
                # A server that is away has forgotten it by the time that it is back.
                continue
            finally:
                one.forgot(name)
        if not known:
            raise NotFound(f"No model server has the adapter {name!r}.")

    async def healthy(self) -> bool:
        """Whether any server answers."""
        return any((await self.health()).values())

    async def health(self) -> dict[str, bool]:
        """Whether each server answers, by its base URL."""
        found = await asyncio.gather(*(one.model.healthy() for one in self._replicas))
        return {one.url: well for one, well in zip(self._replicas, found, strict=True)}
