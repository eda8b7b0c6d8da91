"""Which adapter answers whom, and whether the model server has it loaded."""

from __future__ import annotations

import asyncio
import math
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
from sqlalchemy.engine import Connection

from core.errors import (
    AdapterRejected,
    ConfigError,
    ModelUnavailable,
    NoHotLoad,
    NotFound,
    StoreError,
)
from core.lora import check_adapter
from core.messages import Adapter
from core.model import ModelServer
from core.routes import Route, draws_canary, last_route, registered
from core.settings import Model, at_root
from core.store import Store

log = structlog.get_logger()

ROUTE_SECONDS = 2.0
"""How soon a promotion or a rollback that another process has committed is followed."""
RECONCILE_SECONDS = 4.0
"""How soon a model server that has forgotten an adapter is given it again."""
RETRY_SECONDS = 300.0
"""How long an adapter that was refused is left alone: somebody has to mend it first."""
DRAIN_SECONDS = 60.0
"""How long an adapter that answers nobody any more stays loaded: longer than any answer takes."""
LOOK_SECONDS = 10.0
"""How long a folder is waited for: one of a mount that is gone may keep whoever looks for ever."""


class Registry:
    """Chooses who answers a person: the canary, the live adapter, or who was live before.

    One that the model server does not have is passed over; the base model is always there.
    """

    def __init__(
        self,
        model: ModelServer,
        base_model: str,
        live: Adapter | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        store: Store | None = None,
        key: bytes = b"",
    ) -> None:
        """`base_model` is the served name of the model without an adapter.

        `live` answers as long as `store` holds no route. `key` draws the people of a canary.
        """
        self._model = model
        self._base_model = base_model
        self._default = live
        self._clock = clock
        self._store = store
        self._key = key
        self._route = Route(live.name if live else "")
        self._adapters: Mapping[str, Adapter] = {live.name: live} if live else {}
        self._loaded: frozenset[str] = frozenset()
        self._servers: Mapping[str, frozenset[str]] = {}
        self._offered: tuple[str, ...] = ()
        self._given: dict[str, float] = {}
        self._load_from: dict[str, float] = {}
        self._unreadable: dict[str, str] = {}
        self._looks: dict[Adapter, asyncio.Task[None]] = {}
        self._stale = asyncio.Event()
        self.problem = ""
        """What keeps all adapters from being looked after, "" while they are."""

    @property
    def route(self) -> Route:
        """Who answers, as far as is known here."""
        return self._route

    @property
    def live(self) -> Adapter | None:
        """The adapter that should answer, if any."""
        return self._adapters.get(self._route.live)

    @property
    def complete(self) -> bool:
        """Whether the live adapter can answer; without any, nothing is missing."""
        return not self._route.live or self._route.live in self._loaded

    @property
    def stand_in(self) -> str:
        """Who answers while the live adapter cannot: the one before it, or the model."""
        previous = self._route.previous
        return previous if previous in self._loaded else self._base_model

    @property
    def loaded_on(self) -> dict[tuple[str, str], bool]:
        """Whether each model server, by its base URL, has each adapter that people are sent to.

        A server that is away is left out: it has none, and nobody asks it. So is an adapter that
        is only just being loaded.
        """
        wanted = [one for one in (self._route.live, self._route.canary) if one in self._offered]
        return {
            (server, name): name in names
            for server, names in self._servers.items()
            for name in wanted
        }

    def why_missing(self, name: str) -> str:
        """Why the adapter's folder cannot be read here, "" where that is not what is wrong."""
        return self._unreadable.get(name, "")

    async def choose(self, user_id: str) -> str:
        """The served name to ask for this person."""
        for name in self._wishes(user_id):
            if name in self._loaded:
                return name
            if not name:
                break
        return self._base_model

    def _wishes(self, user_id: str) -> Iterator[str]:
        route = self._route
        if draws_canary(self._key, route, user_id):
            yield route.canary
        yield route.live
        yield route.previous

    def report_missing(self, name: str) -> None:
        """The model server did not know this adapter: pass it over until it does."""
        if name in self._loaded:
            self._loaded -= {name}
            self._stale.set()

    async def refresh(self) -> bool:
        """Read from the store who answers; whether that has changed. Never raises for the store."""
        if self._store is None:
            return False
        try:
            route, known = await self._store.run(_read)
        except StoreError as exc:
            log.warning("route_not_read", problem=str(exc))
            return False
        default = {self._default.name: self._default} if self._default else {}
        if route is None:
            route = Route(self._default.name if self._default else "")
        changed = route != self._route
        self._route, self._adapters = route, {**known, **default}
        if changed:
            log.info("routed", live=route.live, canary=route.canary, share=route.share)
        return changed

    async def reconcile(self) -> None:
        """Ask the model server what it has, and have it load what is missing.

        Never raises for a server or an adapter that fails. A server that cannot be asked is taken
        to have what it had: if it lost it, the next question will say so.
        """
        if not self._route.names and not self._given:
            return
        with suppress(ModelUnavailable):
            served = await self._model.survey()
            self._loaded, servers = served.anywhere, served.servers
            try:
                for name in self._route.names:
                    if name not in served.everywhere and await self._load(name):
                        self._loaded |= {name}
                        # Of several servers some may have refused it.
                        servers = (await self._model.survey()).servers
            finally:
                self._servers, self._offered = servers, self._route.names
            await self._unload()

    @asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        """Reconcile now, and while this is open every few seconds and whenever one is missing.

        Model servers keep adapters in memory: a restarted one has forgotten what it was given.
        """
        await self._round()
        keeper = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            tasks = (keeper, *self._looks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self) -> None:
        reconciled = self._clock()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(ROUTE_SECONDS, RECONCILE_SECONDS)):
                    await self._stale.wait()
            due = self._clock() - reconciled >= RECONCILE_SECONDS
            if await self._round(only_if_routed=not (self._stale.is_set() or due)):
                reconciled = self._clock()

    async def _round(self, *, only_if_routed: bool = False) -> bool:
        """Follow the route, and reconcile, or only where it has changed; whether that was tried."""
        tried = not only_if_routed
        try:
            tried = await self.refresh() or tried
            if tried:
                self._stale.clear()
                await self.reconcile()
                self.problem = ""
        # The outermost handler: whatever is wrong now must not end the rounds to come.
        except Exception as exc:
            self.problem = f"Adapters cannot be looked after ({type(exc).__name__})."
            log.exception("adapters_not_looked_after")
            self._stale.clear()
        return tried

    async def _load(self, name: str) -> bool:
        """Whether the server has taken the adapter; one that was refused is left alone a while."""
        if self._clock() < self._load_from.get(name, -math.inf):
            return False
        try:
            await self._offer(self._known(name))
        except AdapterRejected as exc:
            wait = math.inf if isinstance(exc, NoHotLoad) else RETRY_SECONDS
            self._load_from[name] = self._clock() + wait
            self._unreadable.pop(name, None)
            log.warning("adapter_not_loaded", adapter=name, problem=str(exc))
            return False
        except OSError as exc:
            # A mount comes back by itself, so the next round looks again.
            problem = exc.strerror or str(exc)
            if self._unreadable.get(name) != problem:
                log.warning("adapter_unreadable", adapter=name, problem=problem)
            self._unreadable[name] = problem
            return False
        self._unreadable.pop(name, None)
        self._given[name] = self._clock()
        log.info("adapter_loaded", adapter=name)
        return True

    def _known(self, name: str) -> Adapter:
        adapter = self._adapters.get(name)
        if adapter is None:
            raise AdapterRejected(
                f"Nobody registered an adapter {name!r}. `solemate adapters list` shows those that "
                "there are; promote one of them."
            )
        return adapter

    async def _offer(self, adapter: Adapter) -> None:
        if adapter.path is None:
            raise AdapterRejected(
                f"The model server has no adapter {adapter.name!r}. Start it with that adapter, "
                'name its folder in model.adapter_path, or set model.adapter = "".'
            )
        await self._look(adapter)
        await self._model.load_adapter(adapter.name, adapter.path)

    async def _look(self, adapter: Adapter) -> None:
        """Check the adapter's folder; raises `OSError` where it cannot be read, or not in time.

        A look that takes long goes on, and the next round sees what came of it: a second one would
        be kept as well, and soon no thread would be left.
        """
        seconds = 0.0 if adapter in self._looks else LOOK_SECONDS
        if adapter not in self._looks:
            looking = asyncio.to_thread(_check_if_here, adapter)
            self._looks[adapter] = asyncio.create_task(looking)
        await asyncio.wait({self._looks[adapter]}, timeout=seconds)
        if not self._looks[adapter].done():
            raise TimeoutError("it does not answer")
        await self._looks.pop(adapter)

    async def _unload(self) -> None:
        """Have the server forget what we gave it and nobody is sent to for a good while."""
        now = self._clock()
        for name in self._given.keys() & self._route.names:
            self._given[name] = now
        for name in [one for one, wanted in self._given.items() if now - wanted >= DRAIN_SECONDS]:
            with suppress(NotFound):
                await self._model.unload_adapter(name)
                log.info("adapter_unloaded", adapter=name)
            del self._given[name]


def _check_if_here(adapter: Adapter) -> None:
    """Raise `AdapterRejected` unless it is well; a folder of another machine is that one's."""
    assert adapter.path is not None
    try:
        here = stat.S_ISDIR(adapter.path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    if here:
        check_adapter(adapter)


def _read(connection: Connection) -> tuple[Route | None, dict[str, Adapter]]:
    route = last_route(connection)
    return route, registered(connection, route.names) if route else {}


def live_adapter(wanted: Model) -> Adapter | None:
    """The adapter that the settings name, if any; `ConfigError` when it has the model's name.

    A folder of this project is for the shipped model alone. Another server is only given one that
    was named in full: it might load a foreign adapter into a corner of larger weights.
    """
    if not wanted.adapter:
        return None
    if wanted.adapter == wanted.base_model:
        raise ConfigError(
            f"model.adapter and model.base_model are both {wanted.adapter!r}; "
            "give the adapter a name of its own."
        )
    ours = wanted.embedded or Path(wanted.adapter_path).is_absolute()
    return Adapter(
        name=wanted.adapter,
        path=at_root(wanted.adapter_path) if wanted.adapter_path and ours else None,
        base_model=str(at_root(wanted.expert)) if wanted.embedded else wanted.base_model,
    )
