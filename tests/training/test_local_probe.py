"""What a machine lacks to train the recipe of the settings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from core.doctor import Health
from core.settings import load_settings
from training import local_probe
from training.local_probe import examine_here


def found(
    monkeypatch: pytest.MonkeyPatch, *missing: str, card: bool = False, **changes: str
) -> str:
    """The finding in a line, on a machine that lacks these packages."""
    monkeypatch.setattr(
        local_probe, "find_spec", lambda name: None if name in missing else object()
    )
    monkeypatch.setattr(local_probe, "_sees_a_card", lambda: card)
    variables = {f"SOLEMATE__TRAINING__{key}": value for key, value in changes.items()}
    if "RECIPE" in changes:
        variables["SOLEMATE__MODEL__EMBEDDED"] = "false"
    one = examine_here(load_settings(environment=variables))
    return f"{one.health}: {one.found}. {one.advice}"


def test_the_shipped_recipe_trains_on_this_machine() -> None:
    assert examine_here(load_settings(environment={})).health is Health.OK


def test_missing_packages_are_named_with_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = found(monkeypatch, "llamafactory", "deepspeed", RECIPE="llama3-8b")
    assert said.startswith("warning: llama3-8b needs llamafactory and deepspeed")
    assert "uv pip install" in said
    assert "bitsandbytes" in found(monkeypatch, "bitsandbytes", RECIPE="qwen2.5-7b-4bit")


def test_a_recipe_for_gpus_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs a GPU" in found(monkeypatch, RECIPE="llama3-8b")
    assert found(monkeypatch, RECIPE="llama3-8b", card=True).startswith("ok")


def test_a_recipe_whose_adapters_do_not_fit_the_shipped_model_is_named() -> None:
    finding = examine_here(load_settings(environment={"SOLEMATE__TRAINING__RECIPE": "llama3-8b"}))
    assert (finding.health, finding.found) == (Health.WARNING, "llama3-8b trains another model")
    assert "choose the recipe 'embedded'" in finding.advice


def interpreter(folder: Path, *missing: str) -> str:
    """One that says that it lacks these packages."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\necho {' '.join(missing)}\n")
    program.chmod(0o755)
    return str(program)


def test_another_interpreter_is_asked_for_what_the_recipe_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "no file" in found(monkeypatch, PYTHON=str(tmp_path / "python"))
    assert found(monkeypatch, PYTHON=sys.executable).startswith("ok")
    other = interpreter(tmp_path, "deepspeed")
    said = found(monkeypatch, PYTHON=other, RECIPE="llama3-8b")
    assert said.startswith("warning: llama3-8b needs deepspeed")
    assert f"--python {other} deepspeed" in said
    other = interpreter(tmp_path)
    assert found(monkeypatch, PYTHON=other, RECIPE="llama3-8b").startswith("ok")


def test_an_interpreter_that_does_not_run_lacks_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "python").touch()
    said = found(monkeypatch, PYTHON=str(tmp_path / "python"), RECIPE="llama3-8b")
    assert said.startswith("warning: llama3-8b needs llamafactory and deepspeed")
