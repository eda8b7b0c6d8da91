"""An operator looks at what was put aside without an answer, on the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.inbox import Inbox
from core.messages import Platform, UserMessage
from core.settings import Settings, load_settings
from core.store import Store
from training.commands.inbox import group

MESSAGE = UserMessage("7", Platform.TELEGRAM, "telegram:1:2:0:0", "t:ann", "How do I wash them?")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        environment={
            "SOLEMATE__DATABASE__FOLDER": str(tmp_path / "state"),
            "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path / 's.db'}",
        }
    )


def bury(settings: Settings) -> None:
    async def work() -> None:
        async with Store(settings.database.address) as store:
            inbox = Inbox(store, owner="test", depth=3)
            await inbox.put(MESSAGE)
            letter = await inbox.lease()
            assert letter is not None
            await inbox.dead(letter, "It does not answer.")
            await inbox.bury_event(Platform.SLACK, "slack:T1", "action-1", "KeyError")

    asyncio.run(work())


def dead(settings: Settings, *words: str) -> Sequence[dict[str, Any]]:
    done = CliRunner().invoke(group, ["dead", "--json", *words], obj=settings)
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.output.splitlines()[-1])
    return found


def test_what_was_put_aside_is_listed_with_the_reason_and_without_its_text(
    settings: Settings,
) -> None:
    assert dead(settings) == []
    bury(settings)
    event, message = dead(settings)
    del event["put_aside"], message["put_aside"]
    assert event == {
        "platform": "slack",
        "conversation": "slack:T1",
        "message": "action-1",
        "why": "KeyError",
        "apology": "none",
    }
    assert message == {
        "platform": "telegram",
        "conversation": "telegram:1:2:0:0",
        "message": "7",
        "why": "It does not answer.",
        "apology": "owed",
    }


def test_the_texts_are_shown_to_whoever_asks_for_them(settings: Settings) -> None:
    bury(settings)
    assert [row["text"] for row in dead(settings, "--texts")] == ["", MESSAGE.text]


def test_that_nothing_was_put_aside_is_said(settings: Settings) -> None:
    done = CliRunner().invoke(group, ["dead"], obj=settings)
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == "Nothing was put aside."
