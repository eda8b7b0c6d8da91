"""Whatever is not exactly what a training left under its own seal is refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from core.errors import AdapterRejected
from training.seal import SEAL, check_seal, put_seal

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(random.Random(1).randbytes(4000))
    put_seal(folder, run="dpo-1", attempt=1, dataset="d1", base="expert", recipe="r1")
    return folder


def check(folder: Path, run: str = "dpo-1", dataset: str = "d1") -> None:
    check_seal(folder, run=run, dataset=dataset)


def test_a_whole_folder_is_let_through(sealed: Path) -> None:
    check(sealed)


@pytest.mark.parametrize("seed", range(5))
def test_weights_that_were_cut_short_are_refused(sealed: Path, seed: int) -> None:
    whole = (sealed / WEIGHTS).read_bytes()
    for length in random.Random(seed).sample(range(len(whole)), 10):
        (sealed / WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(AdapterRejected, match="not the file that was trained"):
            check(sealed)


@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_bit_is_refused(sealed: Path, seed: int) -> None:
    whole = bytearray((sealed / WEIGHTS).read_bytes())
    for place in random.Random(seed).sample(range(len(whole)), 10):
        whole[place] ^= 1 << (place % 8)
        (sealed / WEIGHTS).write_bytes(whole)
        with pytest.raises(AdapterRejected, match="not the file that was trained"):
            check(sealed)
        whole[place] ^= 1 << (place % 8)


@pytest.mark.parametrize("name", ["more.bin", "sub/model.pt"])
def test_a_file_that_was_not_there_is_refused(sealed: Path, name: str) -> None:
    (sealed / name).parent.mkdir(exist_ok=True)
    (sealed / name).write_bytes(b"pickle")
    with pytest.raises(AdapterRejected, match=name):
        check(sealed)


def test_a_folder_without_a_seal_is_refused(sealed: Path) -> None:
    (sealed / SEAL).unlink()
    with pytest.raises(AdapterRejected, match="did not come to an end"):
        check(sealed)


def test_half_a_seal_is_none(sealed: Path) -> None:
    text = (sealed / SEAL).read_text()
    (sealed / SEAL).write_text(text[: len(text) // 2])
    with pytest.raises(AdapterRejected, match="did not come to an end"):
        check(sealed)


def test_another_runs_folder_is_refused(sealed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(sealed, other)
    with pytest.raises(AdapterRejected, match="sealed by run 'dpo-1', not by 'dpo-2'"):
        check(other, run="dpo-2")
    with pytest.raises(AdapterRejected):
        check(other, dataset="d2")
