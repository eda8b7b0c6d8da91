"""The audit says who changed a setting that decides what is learned, and never a secret."""

from __future__ import annotations

import asyncio
import json

import pytest
import sqlalchemy as sa

from core.audit import audit_of, verify
from core.policy import SUBJECT, Change, note_policy, policy_changes, policy_of, starter
from core.settings import Settings, load_settings
from core.store import Store
from core.tables import audit


def settings(**changes: str) -> Settings:
    return load_settings(environment={f"SOLEMATE__{name}": it for name, it in changes.items()})


async def test_a_changed_setting_is_one_row_with_who_when_and_both_values(store: Store) -> None:
    assert await note_policy(store, settings(), who="ann", now=1.0) == ()
    changes = {
        "TRAINING__GATE__ACCURACY": "0.1",
        "FEEDBACK__REVIEW": "none",
        "TRAINING__CANARY__SHARES": "[0.5]",
    }
    names = ("feedback.review", "training.canary.shares", "training.gate.accuracy")
    assert await note_policy(store, settings(**changes), who="bob", now=2.0) == names
    assert await policy_changes(store) == [
        Change(2.0, "bob", name, before, after)
        for name, before, after in zip(
            names,
            ("all", [0.05, 0.2, 0.5], settings().training.gate.accuracy),
            ("none", [0.5], 0.1),
            strict=True,
        )
    ]
    first, second = await audit_of(store, SUBJECT)
    assert (first.before, second.before) == ("", first.after)
    assert (await verify(store)).whole


async def test_a_start_without_a_change_leaves_no_row(store: Store) -> None:
    for _ in range(3):
        await note_policy(store, settings(TRAINING__REPLAY="2"), who="ann")
    # What decides nothing about learning is nobody's business.
    await note_policy(store, settings(TRAINING__REPLAY="2", WEB__PORT="9"), who="ann")
    assert len(await audit_of(store, SUBJECT)) == 1


async def test_replicas_that_start_together_write_it_down_once(store: Store) -> None:
    await note_policy(store, settings(), who="ann")
    new = settings(TRAINING__MIN_NEW_PAIRS="3")
    await asyncio.gather(*(note_policy(store, new, who=f"replica-{n}") for n in range(5)))
    assert [one.setting for one in await policy_changes(store)] == ["training.min_new_pairs"]


async def test_neither_a_secret_nor_an_addresss_password_is_in_the_row(store: Store) -> None:
    found = settings(
        FEEDBACK__JUDGE_URL="https://me:hunter2@judge.example/v1",
        TRAINING__RAY_ADDRESS="http://me:hunter2@ray.example",
    )
    await note_policy(store, found, who="ann")
    (row,) = await audit_of(store, SUBJECT)
    assert "hunter2" not in json.dumps(row.detail)
    assert row.detail["values"]["feedback.judge_url"].startswith("sha256:")
    assert not any("secret" in name.lower() for name in policy_of(found))


@pytest.mark.parametrize("column", ["who", "detail", "at"])
async def test_a_change_that_is_covered_up_is_noticed(store: Store, column: str) -> None:
    await note_policy(store, settings(), who="ann", now=1.0)
    await note_policy(store, settings(TRAINING__REPLAY="2"), who="ann", now=2.0)
    other = {"who": "bob", "detail": {"changed": {}, "values": {}}, "at": 3.0}[column]
    tamper = sa.update(audit).where(audit.c.id == 2).values({column: other})
    await store.run(lambda connection: connection.execute(tamper))
    assert (await verify(store)).broken == 2


def test_a_user_without_a_name_goes_by_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert starter().startswith("user 4711@")
