"""Puts the expert together from the settings: store, index, eyes, model, and the engine on top."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.duels import Duels
from core.engine import Engine
from core.errors import ConfigError, ModelUnavailable
from core.model import ModelServer
from core.openai_model import OpenAIChatModel
from core.opening import (
    engine_options,
    expert_folder,
    model_address,
    open_link,
    open_retriever,
    open_store,
    open_vision,
    secret,
)
from core.ports import port_is_free
from core.registry import Registry, live_adapter
from core.replicas import Replicas
from core.second_answers import SecondAnswers
from core.settings import Settings
from core.store import Store

if TYPE_CHECKING:
    from core.colours import ColourVision
    from core.index import IndexFolder
    from core.redis_link import RedisLink
    from core.retrieval import Retriever
    from core.vision import ClipVision

StartServer = Callable[[Settings, OpenAIChatModel], AbstractAsyncContextManager[None]]
"""Runs the embedded model server while the block runs; enters it once the client is answered."""


@dataclass(frozen=True)
class Opened:
    """What a running expert is made of."""

    store: Store
    link: RedisLink | None
    index: IndexFolder
    retriever: Retriever
    vision: ClipVision | ColourVision
    model: ModelServer
    registry: Registry
    engine: Engine
    duels: Duels | None


@asynccontextmanager
async def open_expert(
    settings: Settings, start_server: StartServer, *, upgrade: bool = False
) -> AsyncIterator[Opened]:
    """Open the store, the index, the eyes and the model, and put the engine on top.

    With `upgrade` the tables of an older solemate are brought to this one's version.
    """
    live = live_adapter(settings.model)
    async with AsyncExitStack() as stack:
        if link := open_link(settings):
            await stack.enter_async_context(link)
        store = await stack.enter_async_context(open_store(settings, link=link, upgrade=upgrade))
        index, retriever = await open_retriever(settings)
        vision = open_vision(settings)
        model = await stack.enter_async_context(open_model(settings, start_server))
        key = secret(settings.state / "routing-secret").encode()
        registry = Registry(model, settings.model.base_model, live, store=store, key=key)
        await stack.enter_async_context(registry.reconciling())
        engine = Engine(
            store=store,
            retriever=retriever,
            vision=vision,
            model=model,
            choose_adapter=registry.choose,
            report_missing=registry.report_missing,
            options=engine_options(settings),
        )
        duels = None
        if settings.privacy.train_on_chats:
            duels = Duels(
                store,
                SecondAnswers(model, settings.model.min_support),
                settings.feedback.duels,
                route=lambda: registry.route,
                key=key,
            )
        yield Opened(store, link, index, retriever, vision, model, registry, engine, duels)


@asynccontextmanager
async def open_model(settings: Settings, start_server: StartServer) -> AsyncIterator[ModelServer]:
    """A client of the model servers; starts the embedded one when nobody serves at its address."""
    wanted = settings.model
    if len(wanted.replicas) > 1:
        if wanted.embedded:
            raise ConfigError(
                "model.base_url lists several servers, and model.embedded starts one only: set "
                "model.embedded = false and start them yourself."
            )
        clients = {url: _client(settings, url) for url in wanted.replicas}
        async with Replicas(clients, wanted.base_model) as replicas:
            yield replicas
        return
    async with _client(settings, wanted.replicas[0]) as model:
        if not wanted.embedded or await _is_served(settings, model):
            yield model
            return
        expert_folder(settings)
        async with start_server(settings, model):
            yield model


def _client(settings: Settings, url: str) -> OpenAIChatModel:
    key, admin_key = settings.secrets.model_keys
    return OpenAIChatModel(
        url,
        key,
        admin_key=admin_key,
        base_model=settings.model.base_model,
        first_token_seconds=settings.model.first_token_seconds,
        deadline_seconds=settings.model.deadline_seconds,
    )


async def _is_served(settings: Settings, model: OpenAIChatModel) -> bool:
    """Whether our model is served already; `ConfigError` when something else has its port."""
    wanted = settings.model
    with suppress(ModelUnavailable):
        if wanted.base_model in await model.models():
            return True
    host, port = model_address(settings)
    if not port_is_free(host, port):
        raise ConfigError(
            f"Something at {wanted.base_url!r} does not serve the model {wanted.base_model!r}. "
            "Stop it, or choose another port with SOLEMATE__MODEL__BASE_URL."
        )
    return False
