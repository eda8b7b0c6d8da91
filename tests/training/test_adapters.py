"""Adapters have a name for good, and every change of who answers is one route and one audit row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core import lora
from core.audit import audit_of, verify
from core.database import upsert
from core.errors import AdapterRejected, ConfigError, NotFound
from core.routes import Route, set_state
from core.store import Store
from core.tables import adapters as rows
from core.tables import audit, pairs, routes, run_pairs, runs
from tests.core.lora_folders import edit_config, write_adapter, write_base
from tests.training.run_parts import pair
from training.adapters import (
    MANIFEST,
    RETIRE_SECONDS,
    Adapters,
    NewAdapter,
    Registered,
    check_whole,
)
from training.pairs import to_row


@pytest.fixture
def registry(store: Store, tmp_path: Path) -> Adapters:
    return Adapters(store, tmp_path / "adapters", "spoken")


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., NewAdapter]:
    """What a run leaves: another adapter for each."""
    base = write_base(tmp_path / "base")

    def train(run: str = "dpo-1", value: float = 0.1) -> NewAdapter:
        output = tmp_path / "runs" / f"{run}-{value}"
        write_adapter(output, base, value)
        (output / "training_args.bin").write_bytes(b"never opened")
        return NewAdapter(run, output, str(base), "spoken", {"dataset": "d" * 64})

    return train


async def three(registry: Adapters, trained: Callable[..., NewAdapter]) -> list[str]:
    made = [
        await registry.register(trained(f"dpo-{n}", n / 10), who="test", now=float(n))
        for n in (1, 2, 3)
    ]
    return [one.name for one in made]


async def count(store: Store, table: sa.Table) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    return int(await store.run(lambda connection: connection.execute(query).scalar_one()))


async def test_an_adapter_gets_a_number_of_its_own_and_its_files_are_kept(
    registry: Adapters, trained: Callable[..., NewAdapter]
) -> None:
    assert await three(registry, trained) == ["shoes-v1", "shoes-v2", "shoes-v3"]
    one = await registry.get("shoes-v1")
    assert (one.state, one.run_id, one.parent) == ("ready", "dpo-1", "spoken")
    assert {file.name for file in one.path.iterdir()} == {lora.CONFIG, lora.WEIGHTS, MANIFEST}
    assert all(not file.stat().st_mode & 0o222 for file in one.path.iterdir())
    assert json.loads((one.path / MANIFEST).read_text())["dataset"] == "d" * 64
    check_whole(one)


async def test_the_same_run_again_gives_the_same_adapter(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    first = await registry.register(trained(), who="test", now=1.0)
    again = await registry.register(trained(), who="test", now=2.0)
    assert again == first
    assert await count(store, rows) == 1


async def test_a_registration_that_was_killed_is_finished_the_next_time(
    registry: Adapters, trained: Callable[..., NewAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(output: Path, registered: Registered) -> None:
        registered.path.mkdir(parents=True)
        (registered.path / lora.WEIGHTS).write_bytes(b"half")
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("training.adapters._copy", killed)
        with pytest.raises(OSError, match="killed"):
            await registry.register(trained(), who="test", now=1.0)
    with pytest.raises(NotFound):
        await registry.promote("shoes-v1", who="test", now=2.0)
    made = await registry.register(trained(), who="test", now=3.0)
    assert (made.name, made.state) == ("shoes-v1", "ready")
    check_whole(made)


async def test_a_bad_adapter_gets_no_name(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    new = trained()
    edit_config(new.output, use_dora=True)
    with pytest.raises(AdapterRejected, match="use_dora"):
        await registry.register(new, who="test", now=1.0)
    assert await count(store, rows) == 0


async def test_what_was_changed_after_it_was_registered_is_refused(
    registry: Adapters, trained: Callable[..., NewAdapter]
) -> None:
    one = await registry.register(trained(), who="test", now=1.0)
    write_adapter(one.path.parent / "other", Path(one.base), 0.7)
    (one.path / lora.WEIGHTS).unlink()
    (one.path.parent / "other" / lora.WEIGHTS).rename(one.path / lora.WEIGHTS)
    with pytest.raises(AdapterRejected, match="not what was registered"):
        check_whole(one)


@pytest.mark.parametrize("text", [None, "{", '{"run": "another"}'])
async def test_an_adapter_needs_the_manifest_of_its_own_run(
    registry: Adapters, trained: Callable[..., NewAdapter], text: str | None
) -> None:
    one = await registry.register(trained(), who="test", now=1.0)
    (one.path / MANIFEST).unlink()
    if text is not None:
        (one.path / MANIFEST).write_text(text)
    with pytest.raises(AdapterRejected, match="manifest"):
        check_whole(one)


async def test_the_settings_adapter_is_live_until_one_is_promoted(
    registry: Adapters, trained: Callable[..., NewAdapter]
) -> None:
    assert await registry.route() == Route("spoken")
    await three(registry, trained)
    await registry.promote("shoes-v1", who="test", now=10.0)
    assert await registry.route() == Route("shoes-v1", "spoken", routed_at=10.0)
    await registry.promote("shoes-v2", who="test", now=11.0)
    assert await registry.route() == Route("shoes-v2", "shoes-v1", routed_at=11.0)
    states = {one.name: one.state for one in await registry.all()}
    assert states == {"shoes-v1": "retired", "shoes-v2": "live", "shoes-v3": "ready"}


async def test_promoting_who_is_live_changes_nothing(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    await three(registry, trained)
    for now in (10.0, 11.0):
        await registry.promote("shoes-v1", who="test", now=now)
    assert await count(store, routes) == 1


async def test_a_rollback_puts_back_who_was_live_and_only_once(
    registry: Adapters, trained: Callable[..., NewAdapter]
) -> None:
    await three(registry, trained)
    await registry.promote("shoes-v1", who="test", now=10.0)
    assert (await registry.roll_back(who="test", now=11.0)).live == "spoken"
    assert (await registry.get("shoes-v1")).state == "rolled_back"
    with pytest.raises(ConfigError, match="nothing to go back to"):
        await registry.roll_back(who="test", now=12.0)


async def test_without_an_adapter_in_the_settings_one_goes_back_to_the_base_model(
    store: Store, tmp_path: Path, trained: Callable[..., NewAdapter]
) -> None:
    registry = Adapters(store, tmp_path / "adapters")
    with pytest.raises(ConfigError, match="the base model is live"):
        await registry.roll_back(who="test", now=1.0)
    await three(registry, trained)
    await registry.promote("shoes-v1", who="test", now=10.0)
    assert (await registry.roll_back(who="test", now=11.0)).live == ""


async def test_a_rollback_ends_a_canary_first(
    registry: Adapters, trained: Callable[..., NewAdapter]
) -> None:
    await three(registry, trained)
    await registry.promote("shoes-v1", who="test", now=10.0)
    await registry.try_out("shoes-v2", 0.05, who="test", now=11.0)
    after = await registry.roll_back(who="test", now=12.0)
    assert (after.live, after.previous, after.canary) == ("shoes-v1", "spoken", "")
    states = {one.name: one.state for one in await registry.all()}
    assert states == {"shoes-v1": "live", "shoes-v2": "rolled_back", "shoes-v3": "ready"}


async def test_two_canaries_at_once_would_prove_nothing(
    registry: Adapters, trained: Callable[..., NewAdapter]
) -> None:
    await three(registry, trained)
    await registry.try_out("shoes-v1", 0.05, who="test", now=10.0)
    with pytest.raises(ConfigError, match="is being tried already"):
        await registry.try_out("shoes-v2", 0.05, who="test", now=11.0)
    with pytest.raises(NotFound, match="adapters list"):
        await registry.try_out("shoes-v9", 0.05, who="test", now=11.0)


async def test_every_change_of_who_answers_is_audited_and_tampering_is_seen(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    await three(registry, trained)
    await registry.try_out("shoes-v1", 0.05, who="canary", now=10.0)
    await registry.try_out("shoes-v1", 0.5, who="canary", now=11.0)
    await registry.promote("shoes-v1", who="anna", now=12.0)
    await registry.roll_back(who="anna", now=13.0)
    found = [(row.who, row.before, row.after) for row in await audit_of(store, "shoes-v1")]
    assert found == [
        ("test", "copying", "ready"),
        ("canary", "ready", "canary 5%"),
        ("canary", "canary 5%", "canary 50%"),
        ("anna", "canary 50%", "live"),
        ("anna", "live", "ready"),
    ]
    assert await count(store, routes) == 4
    assert (await verify(store)).whole

    def tamper(connection: Connection) -> None:
        connection.execute(sa.update(audit).where(audit.c.who == "anna").values(who="bob"))

    await store.run(tamper)
    assert not (await verify(store)).whole


async def test_a_route_and_its_audit_row_are_committed_together_or_not_at_all(
    registry: Adapters,
    trained: Callable[..., NewAdapter],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await three(registry, trained)

    def killed(*_: object, **__: object) -> None:
        raise OSError("killed")

    monkeypatch.setattr("core.routes.append", killed)
    with pytest.raises(OSError, match="killed"):
        await registry.promote("shoes-v1", who="test", now=10.0)
    assert await count(store, routes) == 0
    assert (await registry.get("shoes-v1")).state == "ready"


async def test_an_adapter_leads_back_to_every_pair_and_its_verdict(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    def work(connection: Connection) -> None:
        row = dict.fromkeys(("recipe", "folder", "adapter", "problem"), "")
        more = {"id": "dpo-1", "key": "run-1", "stage": "dpo", "state": "promoted", "figures": {}}
        moments = {"attempts": 1, "created_at": 0.0, "updated_at": 0.0, "started_by": "test"}
        connection.execute(
            sa.insert(runs).values(**row, **more, **moments, why="2 new pairs", dataset="d1")
        )
        for number, split in enumerate(("train", "held_out")):
            one = to_row(pair(number)) | {"decided_at": 1.0}
            upsert(connection, pairs, one, key=("id",))
            connection.execute(
                sa.insert(run_pairs).values(run_id="dpo-1", pair_id=one["id"], split=split)
            )

    await store.run(work)
    one = await registry.register(trained(), who="test", now=1.0)
    found = await registry.lineage(one)
    assert (found.run, found.why, found.dataset) == ("dpo-1", "2 new pairs", "d1")
    assert [(taught.reply, taught.person, taught.split) for taught in found.pairs] == [
        ("reply-0", "person-0", "train"),
        ("reply-1", "person-1", "held_out"),
    ]


async def flag(store: Store, *names: str) -> None:
    which = rows.c.name.in_(names)
    await store.run(
        lambda connection: connection.execute(sa.update(rows).where(which).values(flagged_at=100.0))
    )


async def test_who_is_erased_before_an_adapter_has_its_name_flags_it_all_the_same(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    run = {
        "id": "dpo-1",
        "key": "run-1",
        "stage": "dpo",
        "recipe": "embedded",
        "state": "canary",
        "why": "",
        "started_by": "",
        "folder": "",
        "dataset": "",
        "adapter": "",
        "problem": "",
        "figures": {},
        "attempts": 1,
        "created_at": 1.0,
        "updated_at": 1.0,
    }
    held = {"run_id": "dpo-1", "pair_id": "of-somebody-erased", "split": "train"}

    def insert(connection: sa.Connection) -> None:
        connection.execute(sa.insert(runs).values(run))
        connection.execute(sa.insert(run_pairs).values(held))

    await store.run(insert)
    made = await registry.register(trained(), who="test", now=7.0)
    assert (await registry.get(made.name)).flagged_at == 7.0
    with pytest.raises(AdapterRejected, match="erased since"):
        await registry.try_out(made.name, 0.05, who="test", now=8.0)


async def test_an_adapter_with_words_of_an_erased_person_is_promoted_no_more(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    await three(registry, trained)
    await flag(store, "shoes-v1")
    with pytest.raises(AdapterRejected, match="erased since"):
        await registry.promote("shoes-v1", who="test", now=101.0)


async def test_it_answers_until_a_month_is_over_and_then_its_files_are_gone(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    await three(registry, trained)
    await registry.promote("shoes-v1", who="test", now=10.0)
    await registry.promote("shoes-v2", who="test", now=11.0)
    await flag(store, "shoes-v2")
    due = 100.0 + RETIRE_SECONDS
    assert await registry.retire_flagged(now=due - 1) == []
    assert (await registry.route()).live == "shoes-v2"
    assert await registry.retire_flagged(now=due) == ["shoes-v2"]
    assert (await registry.route()).names == ("shoes-v1",)
    gone = await registry.get("shoes-v2")
    assert gone.state == "erased"
    assert not gone.path.exists()
    assert await registry.retire_flagged(now=due + 1) == []


async def test_where_all_are_gone_the_settings_adapter_is_live_again(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    await three(registry, trained)
    await registry.promote("shoes-v1", who="test", now=10.0)
    await registry.promote("shoes-v2", who="test", now=11.0)
    await registry.try_out("shoes-v3", 0.05, who="test", now=12.0)
    await flag(store, "shoes-v1", "shoes-v2", "shoes-v3")
    await registry.retire_flagged(now=100.0 + RETIRE_SECONDS)
    assert replace(await registry.route(), routed_at=0.0) == Route("spoken")


async def test_a_number_is_never_given_twice(
    registry: Adapters, trained: Callable[..., NewAdapter], store: Store
) -> None:
    await three(registry, trained)
    await store.run(lambda connection: set_state(connection, ["shoes-v3"], "erased"))
    made = await registry.register(trained("dpo-4", 0.4), who="test", now=9.0)
    assert made.name == "shoes-v4"
