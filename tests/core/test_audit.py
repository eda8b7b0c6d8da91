"""What is in the audit stays as it was written, or it is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from core.audit import append, audit_of, verify
from core.store import Store
from core.tables import audit

STEPS = ["collecting", "frozen", "training", "evaluating", "rejected"]


async def written(store: Store, rows: int = 4) -> None:
    for number in range(rows):
        await store.run(
            lambda connection, number=number: append(
                connection,
                who="scheduler",
                subject="dpo-1",
                before=STEPS[number],
                after=STEPS[number + 1],
                at=100.0 + number / 3,
                detail={"dataset": "ab12", "loss": 0.1 + number, "note": "中文"},
            )
        )


async def test_rows_come_back_as_they_were_written(store: Store) -> None:
    await written(store)
    rows = await audit_of(store, "dpo-1")
    assert [row.after for row in rows] == STEPS[1:]
    assert rows[1].detail == {"dataset": "ab12", "loss": 1.1, "note": "中文"}


async def test_an_untouched_chain_is_whole(store: Store) -> None:
    await written(store)
    found = await verify(store)
    assert (found.whole, found.rows) == (True, 4)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda: sa.update(audit).where(audit.c.id == 2).values(who="nobody"),
        lambda: sa.update(audit).where(audit.c.id == 2).values(detail={"dataset": "cd34"}),
        lambda: sa.update(audit).where(audit.c.id == 2).values(at=99.0),
        lambda: sa.delete(audit).where(audit.c.id == 2),
    ],
    ids=["who", "detail", "moment", "row removed"],
)
async def test_a_tampered_row_is_noticed(store: Store, tamper: Callable[[], Any]) -> None:
    await written(store)
    await store.run(lambda connection: connection.execute(tamper()))
    found = await verify(store)
    assert not found.whole
    assert found.broken in (2, 3)


async def test_rows_cut_off_the_end_change_the_last_digest(store: Store) -> None:
    await written(store)
    before = await verify(store)
    await store.run(lambda connection: connection.execute(sa.delete(audit).where(audit.c.id == 4)))
    after = await verify(store)
    assert after.whole
    assert after.digest != before.digest


async def test_a_change_that_is_not_committed_leaves_no_row(store: Store) -> None:
    def change(connection: sa.Connection) -> None:
        append(connection, who="o", subject="s", before="a", after="b", at=1.0)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.run(change)
    assert (await verify(store)).rows == 0
