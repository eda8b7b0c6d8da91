"""The folder of an adapter is looked at without trusting it, and nothing in it is ever run."""

from __future__ import annotations

import pickle
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core.errors import AdapterRejected
from core.lora import WEIGHTS, check_adapter, digest_of, weights_digest
from core.messages import Adapter
from tests.core.lora_folders import RANK, edit_config, weights, write_adapter, write_base


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    """A folder with a good adapter, beside the base model it was trained on."""
    return write_adapter(tmp_path / "spoken", write_base(tmp_path / "base"))


def folder_of(adapter: Adapter) -> Path:
    assert adapter.path is not None
    return adapter.path


def spoil(name: str) -> Callable[[Path], None]:
    """A damage that adds this file."""
    return lambda folder: (folder / name).write_bytes(b"") and None


def of_another_rank(folder: Path) -> None:
    edit_config(folder, r=RANK * 2)


def of_other_shape(folder: Path) -> None:
    wide = {name: np.pad(one, ((0, 0), (0, 3))) for name, one in weights().items()}
    save_file(wide, folder / "adapter_model.safetensors")


def for_a_strange_layer(folder: Path) -> None:
    strange = {name.replace("proj", "gate"): one for name, one in weights().items()}
    save_file(strange, folder / "adapter_model.safetensors")


def with_a_whole_layer(folder: Path) -> None:
    whole = {"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}
    save_file(weights() | whole, folder / "adapter_model.safetensors")


def of_another_base(folder: Path) -> None:
    other = write_base(folder.parent / "other", value=1.0)
    edit_config(folder, base_model_name_or_path=str(other))


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def linked(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere.safetensors"
    (folder / "adapter_model.safetensors").rename(elsewhere)
    (folder / "adapter_model.safetensors").symlink_to(elsewhere)


def with_an_endless_header(folder: Path) -> None:
    header = struct.pack("<Q", 1 << 30)
    (folder / "adapter_model.safetensors").write_bytes(header + b"{" * 64)


def with_a_config_that_is_a_link(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere.json"
    (folder / "adapter_config.json").rename(elsewhere)
    (folder / "adapter_config.json").symlink_to(elsewhere)


def of_a_gigabyte(folder: Path) -> None:
    """A header that says so, in a file that is so large, without a byte of it on the disk."""
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", (1 << 30) - 8) + b"{")
        file.truncate(1 << 30)


def packed_to_lie_elsewhere(folder: Path) -> None:
    """What unpacks itself above its folder, where somebody unpacks it."""
    with zipfile.ZipFile(folder / "adapter_model.safetensors", "w") as packed:
        packed.writestr("../escaped", b"code")


def named_to_lie_elsewhere(folder: Path) -> None:
    strange = {f"../../{name}": one for name, one in weights().items()}
    save_file(strange, folder / "adapter_model.safetensors")


def without_numbers(folder: Path) -> None:
    odd = {name: one + np.float32("nan") for name, one in weights().items()}
    save_file(odd, folder / "adapter_model.safetensors")


def without_end(folder: Path) -> None:
    odd = {name: (one + np.inf).astype(np.float16) for name, one in weights().items()}
    save_file(odd, folder / "adapter_model.safetensors")


def of_whole_numbers(folder: Path) -> None:
    whole = {name: one.astype(np.int32) for name, one in weights().items()}
    save_file(whole, folder / "adapter_model.safetensors")


def without_a_leg(folder: Path) -> None:
    legs = {name: one for name, one in weights().items() if "lora_A" in name}
    save_file(legs, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "There is no adapter in"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "its JSON"),
        (lambda folder: edit_config(folder, peft_type="IA3"), "peft_type"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot be read"),
        (lambda folder: save_file({}, folder / "adapter_model.safetensors"), "no weights"),
        (spoil("adapter_model.bin"), "a pickle that could run code"),
        (spoil("training_args.PKL"), "a pickle that could run code"),
        (truncated, "cannot be read as safetensors"),
        (of_another_rank, r"shapes \(4, 16\), \(8, 4\) where \(8, 16\), \(8, 8\) belong"),
        (of_other_shape, "does not fit its base model"),
        (for_a_strange_layer, "lacks the weights"),
        (with_a_whole_layer, "belongs to no layer"),
        (of_another_base, "whose weights differ"),
        (linked, "is a link"),
        (with_an_endless_header, "cannot be read as safetensors"),
        (with_a_config_that_is_a_link, "is a link"),
        (of_a_gigabyte, "is larger than"),
        (packed_to_lie_elsewhere, "cannot be read as safetensors"),
        (named_to_lie_elsewhere, "lacks the weights"),
        (without_numbers, "no numbers"),
        (without_end, "no numbers"),
        (of_whole_numbers, "no numbers"),
        (without_a_leg, "lacks the weights"),
        (lambda folder: edit_config(folder, use_dora=True), "use_dora"),
        (lambda folder: edit_config(folder, modules_to_save=["lm_head"]), "modules_to_save"),
        (lambda folder: edit_config(folder, rank_pattern={"proj": 8}), "rank_pattern"),
    ],
)
def test_a_bad_adapter_is_rejected_with_the_reason(
    adapter: Adapter, damage: Callable[[Path], object], words: str
) -> None:
    check_adapter(adapter)
    assert adapter.path is not None
    damage(adapter.path)
    with pytest.raises(AdapterRejected, match=words):
        check_adapter(adapter)
    assert list(adapter.path.parent.rglob("escaped")) == []


def test_keys_that_ask_for_code_are_not_followed(adapter: Adapter) -> None:
    asks = {"auto_mapping": {"parent_library": "os"}, "auto_map": {"AutoModel": "evil.Model"}}
    edit_config(folder_of(adapter), **asks, trust_remote_code=True)
    config = check_adapter(adapter)
    assert not set(config.model_dump()) & {*asks, "trust_remote_code"}


@pytest.mark.parametrize("named", ["copy", None, "/home/someone/who/trained/it"])
def test_the_base_may_lie_elsewhere_when_its_weights_fit(
    adapter: Adapter, tmp_path: Path, named: str | None
) -> None:
    assert adapter.path is not None
    write_base(tmp_path / "copy")
    name = str(tmp_path / "copy") if named == "copy" else named
    edit_config(adapter.path, base_model_name_or_path=name)
    check_adapter(adapter)


def test_a_base_that_is_not_on_this_disk_is_judged_by_the_ranks_alone(adapter: Adapter) -> None:
    far = Adapter(adapter.name, adapter.path, "served-elsewhere")
    check_adapter(far)
    assert far.path is not None
    of_another_rank(far.path)
    with pytest.raises(AdapterRejected, match="does not fit"):
        check_adapter(far)


def test_a_rank_that_the_server_does_not_take_is_rejected(adapter: Adapter) -> None:
    check_adapter(adapter, RANK)
    with pytest.raises(AdapterRejected, match=f"rank {RANK - 1} or less"):
        check_adapter(adapter, RANK - 1)


def test_what_a_trainer_leaves_beside_the_weights_is_never_opened(adapter: Adapter) -> None:
    (folder_of(adapter) / "training_args.bin").write_bytes(b"not even a pickle")
    check_adapter(adapter)


def test_an_adapter_cut_anywhere_is_rejected(adapter: Adapter) -> None:
    file = folder_of(adapter) / WEIGHTS
    whole = file.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        file.write_bytes(whole[:length])
        with pytest.raises(AdapterRejected):
            check_adapter(adapter)
    file.write_bytes(whole)
    check_adapter(adapter)


def test_no_bit_of_a_registered_adapter_may_change(adapter: Adapter) -> None:
    file = folder_of(adapter) / WEIGHTS
    known = replace(adapter, digest=digest_of(folder_of(adapter)))
    check_adapter(known)
    whole = file.read_bytes()
    for place in range(8, len(whole), len(whole) // 50):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(AdapterRejected):
            check_adapter(known)


def test_a_pickle_is_refused_by_any_name_and_never_run(adapter: Adapter, tmp_path: Path) -> None:
    canary = tmp_path / "was-run"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(canary), "w")  # type: ignore[return-value]

    # The control: whoever opens it runs it.
    pickle.loads(pickle.dumps(Hostile())).close()
    canary.unlink()
    for name in ("adapter_model.bin", "adapter_model.pt", WEIGHTS):
        copy = Path(shutil.copytree(folder_of(adapter), tmp_path / name))
        (copy / name).write_bytes(pickle.dumps(Hostile()))
        with pytest.raises(AdapterRejected):
            check_adapter(replace(adapter, path=copy))
    assert not canary.exists()


def test_code_beside_an_adapter_is_not_run(
    adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, folder = tmp_path / "was-run", folder_of(adapter)
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Model: ...")
    edit_config(folder, auto_map={"AutoModel": "evil.Model"}, trust_remote_code=True)
    check_adapter(adapter)
    assert not canary.exists()
    # The control: what a library does that is told to trust the folder.
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    dynamic_module_utils.get_class_from_dynamic_module("evil.Model", str(folder))
    assert canary.exists()


@pytest.mark.parametrize("damage", [linked, for_a_strange_layer, without_numbers])
def test_the_control_whoever_only_opens_the_weights_takes_them(
    adapter: Adapter, damage: Callable[[Path], object]
) -> None:
    damage(folder_of(adapter))
    assert len(load_file(folder_of(adapter) / WEIGHTS)) == len(weights())


def test_the_control_whoever_unpacks_by_the_names_writes_elsewhere(adapter: Adapter) -> None:
    folder = folder_of(adapter)
    packed_to_lie_elsewhere(folder)
    with zipfile.ZipFile(folder / WEIGHTS) as packed:
        for name in packed.namelist():
            (folder / name).write_bytes(packed.read(name))
    assert [found.parent for found in folder.parent.rglob("escaped")] == [folder.parent]


def test_copies_of_a_model_have_one_digest(tmp_path: Path) -> None:
    one, same = write_base(tmp_path / "one"), write_base(tmp_path / "same")
    assert weights_digest(one) == weights_digest(same)
    assert weights_digest(one) != weights_digest(write_base(tmp_path / "other", value=1.0))


def test_half_precision_is_fine(adapter: Adapter) -> None:
    file = folder_of(adapter) / WEIGHTS
    halved = {name: one.astype(np.float16) for name, one in load_file(file).items()}
    save_file(halved, file)
    check_adapter(adapter)
