"""What `/metrics` says of answers, thumbs, the loop, the platforms and the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from bots.metrics import Metrics
from core.backup import LAST_BACKUP
from core.gauges import Gauges, read_gauges
from core.gpu import GpuCollector
from core.messages import Feedback, Outcome, Platform, Rating, Reply, Timings, Turn, Winner
from core.routes import Route
from core.store import Store
from core.tables import duels, inbox, runs
from tests.training.canary_world import World

NOON = 1_767_182_400.0
REPLY = Reply(
    id="r1",
    conversation_id="c1",
    text="用软刷刷洗。",
    outcome=Outcome.ANSWERED,
    language="zh",
    adapter="shoes-v2",
    timings=Timings(retrieval=0.01, first_token=0.2, model=0.8, total=0.9),
)


class Page:
    """A page of figures, read as Prometheus reads it."""

    def __init__(self, metrics: Metrics | CollectorRegistry) -> None:
        if isinstance(metrics, CollectorRegistry):
            families = metrics.collect()
        else:
            families = text_string_to_metric_families(metrics.render().decode())
        self.samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        found = [one.value for one in self.samples if (one.name, one.labels) == (name, labels)]
        return found[0] if found else None

    def labels(self, name: str) -> Iterator[dict[str, str]]:
        return (one.labels for one in self.samples if one.name == name)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def test_an_answer_is_counted_by_step_and_by_adapter(metrics: Metrics) -> None:
    metrics.answered(Platform.WEB, REPLY)
    page = Page(metrics)
    assert page.value("solemate_answer_seconds_sum", step="total") == 0.9
    assert page.value("solemate_answer_seconds_sum", step="own") == pytest.approx(0.1)
    assert page.value("solemate_model_seconds_sum", adapter="shoes-v2") == 0.8
    assert page.value("solemate_answer_tokens_total", adapter="shoes-v2") == 6


def test_a_quote_counts_for_no_adapter(metrics: Metrics) -> None:
    quote = Reply("r1", "c1", "…", Outcome.QUOTED, "zh", adapter="")
    metrics.answered(Platform.WEB, quote)
    page = Page(metrics)
    assert page.value("solemate_answers_total", platform="web", outcome="quoted") == 1
    assert not list(page.labels("solemate_model_seconds_count"))


def test_a_state_that_is_over_is_shown_no_more(metrics: Metrics) -> None:
    before = Gauges(dead=1, people=2, verdicts={("v1", "up"): 3}, pairs={}, runs={"training": 1})
    after = Gauges(dead=0, people=2, verdicts={}, pairs={}, runs={"promoted": 1})
    metrics.holds(before)
    metrics.holds(after)
    page = Page(metrics)
    assert list(page.labels("solemate_runs")) == [{"state": "promoted"}]
    assert not list(page.labels("solemate_verdicts"))
    assert page.value("solemate_inbox_dead_messages") == 0


def test_live_and_canary_share_the_people(metrics: Metrics) -> None:
    route = Route("v1")
    metrics.watch_route(lambda: route)
    assert Page(metrics).value("solemate_route_share", adapter="v1", role="live") == 1
    route = route.trying("v2", 0.05)
    page = Page(metrics)
    assert page.value("solemate_route_share", adapter="v1", role="live") == 0.95
    assert page.value("solemate_route_share", adapter="v2", role="canary") == 0.05


def test_a_model_server_that_lacks_an_adapter_shows(metrics: Metrics) -> None:
    loaded = {("http://one/v1", "v1"): True, ("http://two/v1", "v1"): False}
    metrics.watch_adapters(lambda: loaded)
    page = Page(metrics)
    name = "solemate_adapter_loaded"
    assert page.value(name, server="http://one/v1", adapter="v1") == 1
    assert page.value(name, server="http://two/v1", adapter="v1") == 0
    loaded = {}
    assert not list(Page(metrics).labels(name))


def test_a_platform_with_a_complaint_is_not_up(metrics: Metrics) -> None:
    complaint = ""
    metrics.watch_platform(Platform.TELEGRAM, lambda: complaint, lambda: 12.0)
    assert Page(metrics).value("solemate_platform_up", platform="telegram") == 1
    complaint = "Telegram refuses the token."
    page = Page(metrics)
    assert page.value("solemate_platform_up", platform="telegram") == 0
    assert page.value("solemate_platform_quiet_seconds", platform="telegram") == 12


def test_disk_and_last_backup_are_shown(metrics: Metrics, tmp_path: Path) -> None:
    metrics.watch_machine(tmp_path)
    page = Page(metrics)
    assert page.value("solemate_backup_timestamp_seconds") == 0
    free, size = (page.value(f"solemate_disk_{one}_bytes") or 0 for one in ("free", "size"))
    assert 0 < free <= size
    (tmp_path / LAST_BACKUP).touch()
    os.utime(tmp_path / LAST_BACKUP, (NOON, NOON))
    assert Page(metrics).value("solemate_backup_timestamp_seconds") == NOON


async def test_the_store_s_counts_are_those_of_the_day(tmp_path: Path) -> None:
    async with Store(f"sqlite:///{tmp_path}/store.db") as store:
        for number, (adapter, asked_at) in enumerate(
            [("v1", NOON), ("v2", NOON), ("v1", NOON - 9)]
        ):
            reply = Reply(f"r{number}", f"c{number}", "…", Outcome.ANSWERED, "zh", adapter=adapter)
            await store.add_turn(
                Turn(
                    reply=reply,
                    message_id=f"m{number}",
                    user_id=f"web:{number}",
                    platform=Platform.WEB,
                    question="?",
                    query="?",
                    prompt=(),
                    passages=(),
                    sampling={},
                    asked_at=asked_at,
                )
            )
            thumb = Feedback(reply.id, "web:ann", Rating.UP)
            await store.add_feedback(thumb, now=asked_at)
        await store.add_feedback(Feedback("r1", "web:ann", Rating.DOWN), now=NOON + 1)
        await store.run(lambda connection: connection.execute(runs.insert(), RUN))
        await store.run(lambda connection: connection.execute(inbox.insert(), DEAD))
        found = await read_gauges(store, NOON)
    assert found.verdicts == {("v1", "up"): 1, ("v2", "down"): 1}
    assert (found.people, found.dead, found.runs) == (2, 1, {"training": 1})


async def test_duels_of_the_day_are_counted_and_won_by_adapters(tmp_path: Path) -> None:
    async with Store(f"sqlite:///{tmp_path}/store.db") as store:
        world = await World.made(store, tmp_path)
        await world.duelled(NOON, "old", "new", Winner.SECOND, Winner.SECOND, Winner.NEITHER)
        await world.duelled(NOON, "new", "old", Winner.SECOND)
        # An adapter beside itself wins nothing; nor do yesterday's and undecided ones.
        await world.duelled(NOON, "old", "old", Winner.FIRST)
        await world.duelled(NOON - 9, "old", "new", Winner.FIRST)
        await world.duelled(NOON, "old", "newer", Winner.FIRST)
        undecided = duels.update().where(duels.c.adapter == "newer").values(winner=None)
        await store.run(lambda connection: connection.execute(undecided))
        found = await read_gauges(store, NOON)
    assert found.duels == {"answered": 5, "unanswered": 1}
    assert found.duel_results == {
        ("old", "won"): 1,
        ("old", "lost"): 2,
        ("old", "drawn"): 1,
        ("new", "won"): 2,
        ("new", "lost"): 1,
        ("new", "drawn"): 1,
    }
    metrics = Metrics(CollectorRegistry())
    metrics.holds(found)
    page = Page(metrics)
    assert page.value("solemate_duels", state="answered") == 5
    assert page.value("solemate_duel_results", adapter="new", result="won") == 2


RUN = {
    "id": "dpo-1",
    "key": "k",
    "stage": "dpo",
    "recipe": "embedded",
    "state": "training",
    "why": "",
    "started_by": "scheduler",
    "folder": "",
    "dataset": "",
    "adapter": "",
    "figures": {},
    "problem": "",
    "attempts": 0,
    "created_at": NOON,
    "updated_at": NOON,
}
DEAD = {
    "platform": "web",
    "conversation_id": "c1",
    "message_id": "m9",
    "message": {},
    "state": "dead",
    "attempts": 3,
    "received_at": NOON,
}


class FakeNvml:
    """NVML with one whole card and one that was divided, which does not tell how busy it is."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, cards: int = 2) -> None:
        self.cards = cards

    def nvmlDeviceGetCount(self) -> int:
        if not self.cards:
            raise self.NVMLError("GPU is lost")
        return self.cards

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"NVIDIA A100 {handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if handle == 1:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=83)

    def nvmlDeviceGetMemoryInfo(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(used=30_000_000_000, total=40_000_000_000)

    def nvmlDeviceGetTemperature(self, _: int, sensor: int) -> int:
        return 61 + sensor


def test_each_card_tells_what_it_can() -> None:
    registry = CollectorRegistry()
    registry.register(GpuCollector(FakeNvml()))
    page = Page(registry)
    first = {"gpu": "0", "card": "NVIDIA A100 0"}
    assert page.value("solemate_gpu_busy_ratio", **first) == 0.83
    assert page.value("solemate_gpu_temperature_celsius", **first) == 61
    assert len(list(page.labels("solemate_gpu_memory_used_bytes"))) == 2
    assert len(list(page.labels("solemate_gpu_busy_ratio"))) == 1


def test_a_lost_card_does_not_hide_the_other_figures() -> None:
    registry = CollectorRegistry()
    registry.register(GpuCollector(FakeNvml(cards=0)))
    assert Page(registry).samples == []
