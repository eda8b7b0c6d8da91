"""`solemate adapters …` says who answers, and changes it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.errors import AdapterRejected, ConfigError, ModelUnavailable, NotFound
from core.lora import WEIGHTS
from core.settings import Settings, load_settings
from core.store import Store
from tests.core.lora_folders import write_adapter, write_base
from training.adapters import Adapters, NewAdapter
from training.commands.adapters import group


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A solemate with two registered adapters; nobody serves a model."""
    found = load_settings(
        environment={
            "SOLEMATE__DATABASE__FOLDER": str(tmp_path / "state"),
            "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path / 's.db'}",
            "SOLEMATE__MODEL__BASE_URL": "http://127.0.0.1:9/v1",
        }
    )
    base = write_base(tmp_path / "base")

    async def make() -> None:
        async with Store(found.database.address) as store:
            adapters = Adapters(store, found.state / "adapters", found.model.adapter)
            for number in (1, 2):
                output = tmp_path / f"run-{number}"
                write_adapter(output, base, number / 10)
                gate = [{"name": "G2 pair accuracy", "value": 0.8, "limit": "≥ 0.6"}]
                new = NewAdapter(
                    f"dpo-{number}", output, str(base), "", {"figures": {"gate": gate}}
                )
                await adapters.register(new, who="test", now=float(number))

    asyncio.run(make())
    return found


def said(settings: Settings, *words: str) -> str:
    done = CliRunner().invoke(group, words, obj=settings, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def asked(settings: Settings, *words: str) -> Any:
    """The JSON that a command prints, below what is logged without any settings for it."""
    return json.loads(said(settings, *words, "--json").splitlines()[-1])


def test_the_list_says_who_answers(settings: Settings) -> None:
    found = {row["adapter"]: row["answers"] for row in asked(settings, "list")}
    assert found == {"shoes-v2": "", "shoes-v1": "", "solemate-spoken": "100%"}
    assert list(found)[0] == "shoes-v2"
    assert "shoes-v1" in said(settings, "list")


def test_promote_and_rollback_are_said_and_audited(settings: Settings) -> None:
    assert asked(settings, "promote", "shoes-v1", "--as", "anna")["live"] == "shoes-v1"
    said(settings, "promote", "shoes-v2")
    assert "shoes-v1 answers everybody" in said(settings, "rollback", "--as", "bea")
    shown = asked(settings, "show", "shoes-v2")
    assert shown["state"] == "rolled_back"
    assert [(step["from"], step["to"]) for step in shown["steps"]] == [
        ("copying", "ready"),
        ("ready", "live"),
        ("live", "ready"),
    ]
    assert shown["steps"][-1]["who"] == "bea"
    assert shown["manifest"]["figures"]["gate"][0]["value"] == 0.8


def test_show_prints_the_gates_figures(settings: Settings) -> None:
    assert "G2 pair accuracy" in said(settings, "show", "shoes-v1")


def test_the_shipped_adapter_can_be_live_again(settings: Settings) -> None:
    said(settings, "promote", "shoes-v1")
    shown = asked(settings, "promote", "solemate-spoken")
    assert (shown["live"], shown["previous"]) == ("solemate-spoken", "shoes-v1")


@pytest.mark.parametrize(
    ("words", "problem", "sentence"),
    [
        (("promote", "shoes-v9"), NotFound, "adapters list"),
        (("show", "shoes-v9"), NotFound, "adapters list"),
        (("load", "shoes-v1"), ModelUnavailable, "Is the model server running"),
        (("rollback",), ConfigError, "nothing to go back to"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    settings: Settings, words: tuple[str, ...], problem: type[Exception], sentence: str
) -> None:
    with pytest.raises(problem, match=sentence):
        said(settings, *words)


def test_an_adapter_whose_files_were_changed_is_not_promoted(settings: Settings) -> None:
    file = settings.state / "adapters" / "shoes-v1" / WEIGHTS
    whole = bytearray(file.read_bytes())
    file.chmod(0o644)
    whole[-1] ^= 1
    file.write_bytes(whole)
    with pytest.raises(AdapterRejected, match="not what was registered"):
        said(settings, "promote", "shoes-v1")
    assert asked(settings, "list")[-1]["answers"] == "100%"
