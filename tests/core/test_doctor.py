"""What `solemate doctor` finds where something is ill, and what it says to do."""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import doctor
from core.doctor import Finding, Health, examine
from core.settings import load_settings
from core.store import Store


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


async def findings(folder: Path, **changes: str) -> dict[str, Finding]:
    """What is found about each part with a state of its own and these settings."""
    environment = {
        "SOLEMATE__DATABASE__FOLDER": str(folder),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{folder}/solemate.db",
        # Nobody serves at port 9.
        "SOLEMATE__WEB__PORT": "9",
        "SOLEMATE__MODEL__BASE_URL": "http://127.0.0.1:9/v1",
        **{f"SOLEMATE__{name}": value for name, value in changes.items()},
    }
    return {one.part: one for one in await examine(load_settings(environment=environment))}


@pytest.mark.parametrize(
    ("part", "setting", "value", "advice"),
    [
        ("knowledge", "RETRIEVAL__KNOWLEDGE", "missing.json", "missing.json"),
        ("tags", "VISION__TAGS", "missing.txt", "restore it"),
        ("embeddings", "RETRIEVAL__EMBEDDING_MODEL", "data/missing", "retrieval.embedding_model"),
        ("vision", "VISION__MODEL", "./missing", "vision.model"),
        ("model", "MODEL__EXPERT", "data/missing", "solemate models build"),
        ("model", "MODEL__EMBEDDED", "false", "Start the model server"),
        ("store", "DATABASE__URL", "sqlite:////proc/missing/solemate.db", "cannot be used"),
    ],
)
async def test_an_ill_part_is_named_with_what_to_do(
    tmp_path: Path, part: str, setting: str, value: str, advice: str
) -> None:
    found = await findings(tmp_path, **{setting: value})
    assert found[part].health is Health.ILL
    assert advice in found[part].advice


async def test_a_model_of_a_hub_is_no_illness(tmp_path: Path) -> None:
    found = await findings(tmp_path, RETRIEVAL__EMBEDDING_MODEL="BAAI/bge-large-zh-v1.5")
    assert found["embeddings"].health is Health.WARNING


async def test_a_taken_port_and_a_store_in_use_are_ill(tmp_path: Path, taken_port: int) -> None:
    async with Store(f"sqlite:///{tmp_path}/solemate.db"):
        found = await findings(tmp_path, WEB__PORT=str(taken_port))
    assert "taken" in found["page"].found
    assert found["page"].health is Health.ILL
    assert "Another solemate" in found["store"].advice


async def test_little_room_on_the_disk_is_ill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ENOUGH_BYTES", 10**18)
    assert (await findings(tmp_path))["disk"].health is Health.ILL


@pytest.mark.parametrize(
    ("absent", "health"), [({"faiss-cpu", "faiss-gpu"}, Health.ILL), ({"faiss-gpu"}, Health.OK)]
)
async def test_one_of_two_packages_that_do_the_same_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: set[str], health: Health
) -> None:
    def version(package: str) -> str:
        if package in absent:
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    assert (await findings(tmp_path))["packages"].health is health
