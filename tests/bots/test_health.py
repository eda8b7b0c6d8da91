"""What the health page says about single parts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bots.web.health import Condition, PartHealth, adapter_health, model_health
from core.messages import Adapter
from core.model import Survey
from core.openai_model import OpenAIChatModel
from core.registry import Registry

SPOKEN = Adapter("spoken", None, "solemate")
SERVED = {"http://server/v1": True}


@pytest.fixture
async def model() -> AsyncIterator[OpenAIChatModel]:
    """A client of a server that was started with the adapter."""

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"data": [{"id": "solemate"}, {"id": "spoken"}]})

    transport = httpx2.ASGITransport(Starlette(routes=[Route("/v1/models", models)]))
    async with OpenAIChatModel(
        "http://server/v1",
        "key",
        base_model="solemate",
        first_token_seconds=5,
        deadline_seconds=20,
        http_client=httpx2.AsyncClient(transport=transport),
    ) as client:
        yield client


async def test_an_adapter_that_does_not_answer_degrades_the_answers(model: OpenAIChatModel) -> None:
    registry = Registry(model, "solemate", SPOKEN)
    found = adapter_health(registry, SERVED)
    assert found.condition is Condition.DEGRADED
    assert "spoken is not loaded, so solemate answers in its place" in found.detail
    await registry.reconcile()
    assert adapter_health(registry, SERVED) == PartHealth(detail="spoken answers.")


async def test_no_adapter_answers_while_no_model_server_does(model: OpenAIChatModel) -> None:
    registry = Registry(model, "solemate", SPOKEN)
    await registry.reconcile()
    found = adapter_health(registry, dict.fromkeys(SERVED, False))
    assert found.condition is Condition.DEGRADED
    assert "spoken cannot answer" in found.detail
    none = Registry(model, "solemate", None)
    assert adapter_health(none, dict.fromkeys(SERVED, False)) == PartHealth()


async def test_what_keeps_adapters_from_being_looked_after_degrades_the_answers(
    model: OpenAIChatModel,
) -> None:
    registry = Registry(model, "solemate", None)
    registry.problem = "Adapters cannot be looked after (OSError)."
    found = adapter_health(registry, SERVED)
    assert found.condition is Condition.DEGRADED
    assert registry.problem in found.detail


async def test_a_folder_that_cannot_be_read_is_named_as_what_is_wrong(
    model: OpenAIChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(model, "solemate", SPOKEN)
    monkeypatch.setattr(registry, "why_missing", {"spoken": "Stale file handle"}.get)
    found = adapter_health(registry, SERVED)
    assert "its folder cannot be read (Stale file handle)" in found.detail


async def test_one_of_several_model_servers_that_lacks_the_adapter_is_named(
    model: OpenAIChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    has, lacks = frozenset(("solemate", "spoken")), frozenset(("solemate",))

    async def survey() -> Survey:
        # The second has refused it: it need not be offered to either.
        return Survey(has, has, {"http://one/v1": has, "http://two/v1": lacks})

    monkeypatch.setattr(model, "survey", survey)
    registry = Registry(model, "solemate", SPOKEN)
    await registry.reconcile()
    found = adapter_health(registry, SERVED)
    assert found.condition is Condition.DEGRADED
    assert "http://two/v1 lacks spoken" in found.detail
    assert "http://one/v1" not in found.detail


async def test_no_adapter_is_as_well_as_one_that_answers(model: OpenAIChatModel) -> None:
    assert adapter_health(Registry(model, "solemate", None), SERVED) == PartHealth()


def test_one_of_several_model_servers_that_is_away_is_named() -> None:
    assert model_health({"http://one/v1": True, "http://two/v1": True}) == PartHealth()
    health = model_health({"http://one/v1": True, "http://two/v1": False})
    assert health.condition is Condition.DEGRADED
    assert "http://two/v1 does not answer" in health.detail
    assert "quoted" in model_health({"http://one/v1": False}).detail
