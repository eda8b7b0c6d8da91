"""The folder of a LoRA adapter, read without trusting it: no pickle, no code, no foreign weights.

Only plain LoRA on linear layers, in the format that `peft` writes, passes: everything else would
need code or arithmetic that nobody has checked here. Nothing in the folder is run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, deserialize, safe_open

from core.errors import AdapterRejected
from core.messages import Adapter
from core.settings import at_root

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_RANK = 512
"""The highest rank that a model server takes; vLLM's limit."""
MAX_BYTES = 512 * 1024 * 1024

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
# The trainer leaves it beside the weights, and no server opens it.
_NEVER_OPENED = "training_args.bin"
_PREFIX = "base_model.model."
# The bits of a number's exponent: all of them set is an infinity or no number at all.
_EXPONENTS: Mapping[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F800000),
    "F64": (np.uint64, 0x7FF0000000000000),
}

Shape = tuple[int, ...]


class LoraConfig(BaseModel):
    """What decides the arithmetic in `adapter_config.json`; a fixed value takes no other."""

    peft_type: Literal["LORA"]
    r: int = Field(ge=1)
    lora_alpha: float = Field(allow_inf_nan=False)
    target_modules: list[str] = Field(min_length=1)
    use_rslora: bool = False
    base_model_name_or_path: str | None = None
    bias: Literal["none"] = "none"
    use_dora: Literal[False] = False
    use_qalora: Literal[False] = False
    fan_in_fan_out: Literal[False] = False
    lora_bias: Literal[False] = False
    modules_to_save: list[str] | None = Field(None, max_length=0)
    target_parameters: list[str] | None = Field(None, max_length=0)
    rank_pattern: dict[str, int] | None = Field(None, max_length=0)
    alpha_pattern: dict[str, float] | None = Field(None, max_length=0)
    layers_to_transform: None = None
    layer_replication: None = None
    trainable_token_indices: None = None
    alora_invocation_tokens: None = None

    @property
    def scale(self) -> float:
        """`alpha / r`, or `alpha / sqrt(r)` for rank-stabilised LoRA (arXiv 2312.03732)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def targets(self, layer: str) -> bool:
        """Whether the adapter changes the layer of this name."""
        return any(f".{layer}".endswith(f".{one}") for one in self.target_modules)


def check_adapter(adapter: Adapter, max_rank: int = MAX_RANK) -> LoraConfig:
    """Raise `AdapterRejected` unless the folder holds a plain LoRA that fits its base model.

    Files, names, shapes and numbers are looked at, and the digest where the adapter has one. Where
    the base model is no folder on this disk, its layers are not known and only ranks can be told.
    """
    assert adapter.path is not None
    folder, base = adapter.path, Path(adapter.base_model)
    config = _read_config(folder, max_rank)
    _check_files(folder)
    weights = _shapes(folder / WEIGHTS)
    if not weights:
        raise AdapterRejected(f"{str(folder)!r} holds no weights. Was its training cut short?")
    layers: dict[str, Shape] = {}
    if base.is_dir():
        _check_base(folder, config.base_model_name_or_path, base)
        layers = _layers(base)
    _check_shapes(folder, config, weights, layers)
    _check_numbers(folder)
    if adapter.digest and digest_of(folder) != adapter.digest:
        raise AdapterRejected(
            f"{str(folder)!r} is not what was registered as {adapter.name!r}: its files have "
            "changed. Promote another adapter, or train it again."
        )
    return config


def digest_of(folder: Path) -> str:
    """The SHA-256 of an adapter's configuration and weights."""
    return _digest(folder / name for name in (CONFIG, WEIGHTS))


def weights_digest(base: Path) -> str:
    """The SHA-256 of a model's weights: the same for copies, whatever their folders are called."""
    return _digest(sorted(base.glob("*.safetensors")))


def lora_key(layer: str, leg: Literal["A", "B"]) -> str:
    """What `peft` calls one of the two matrices of a layer."""
    return f"{_PREFIX}{layer}.lora_{leg}.weight"


def _read_config(folder: Path, max_rank: int) -> LoraConfig:
    file = folder / CONFIG
    try:
        config = LoraConfig.model_validate_json(file.read_bytes())
    except OSError as exc:
        raise AdapterRejected(
            f"There is no adapter in {str(folder)!r}: {CONFIG} cannot be read."
        ) from exc
    except ValidationError as exc:
        wrong = exc.errors()[0]
        field = ".".join(str(part) for part in wrong["loc"]) or "its JSON"
        raise AdapterRejected(
            f"{str(file)!r} is not a plain LoRA adapter: {field}: {wrong['msg']}."
        ) from exc
    if config.r > max_rank:
        raise AdapterRejected(
            f"{str(file)!r} has rank {config.r}; the server takes rank {max_rank} or less."
        )
    return config


def _check_files(folder: Path) -> None:
    """No pickle, no link that leads out of the folder, and weights of a size one can read."""
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in _PICKLES and file.name != _NEVER_OPENED:
            raise AdapterRejected(
                f"{str(folder)!r} holds {file.name!r}, a pickle that could run code. "
                f"Keep {CONFIG} and {WEIGHTS} only."
            )
    for file in (folder / CONFIG, folder / WEIGHTS):
        if file.is_symlink():
            raise AdapterRejected(f"{str(file)!r} is a link. Put the file itself there.")
        if file.is_file() and file.stat().st_size > MAX_BYTES:
            raise AdapterRejected(f"{str(file)!r} is larger than {MAX_BYTES} bytes.")


def _shapes(file: Path) -> dict[str, Shape]:
    """The shape of every tensor in a safetensors file, from its header alone."""
    try:
        with safe_open(file, framework="np") as tensors:
            names = tensors.keys()
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as exc:
        raise AdapterRejected(f"{str(file)!r} cannot be read as safetensors: {exc}.") from exc


def _layers(base: Path) -> dict[str, Shape]:
    """The shapes, (out, in), of a model's layers by name."""
    return {
        name.removesuffix(".weight"): shape
        for file in sorted(base.glob("*.safetensors"))
        for name, shape in _shapes(file).items()
        if name.endswith(".weight") and len(shape) == 2
    }


def _check_base(folder: Path, named: str | None, base: Path) -> None:
    """A base that lies on this disk must be the served one; of another, only shapes can tell."""
    other = at_root(named) if named else base
    if not other.is_dir() or other.resolve() == base.resolve():
        return
    if weights_digest(other) != weights_digest(base):
        raise AdapterRejected(
            f"{str(folder)!r} was trained on {named!r}, whose weights differ from {str(base)!r}."
        )


def _check_shapes(
    folder: Path, config: LoraConfig, weights: Mapping[str, Shape], layers: Mapping[str, Shape]
) -> None:
    """Every layer that is named has its A, (rank, in), and its B, (out, rank), and no other has."""
    left = dict(weights)
    named = layers or {name.removeprefix(_PREFIX).rpartition(".lora_")[0]: () for name in weights}
    for layer in sorted(name for name in named if config.targets(name)):
        a, b = left.pop(lora_key(layer, "A"), None), left.pop(lora_key(layer, "B"), None)
        if a is None or b is None:
            raise AdapterRejected(
                f"{str(folder)!r} lacks the weights of {layer!r}. Is it truncated?"
            )
        high, wide = named[layer] or (b[0], a[-1])
        expected = ((config.r, wide), (high, config.r))
        if (a, b) != expected:
            raise AdapterRejected(
                f"{str(folder)!r} does not fit its base model: {layer!r} has shapes {a}, {b} where "
                f"{expected[0]}, {expected[1]} belong."
            )
    if left:
        raise AdapterRejected(
            f"{str(folder)!r} holds {min(left)!r}, which belongs to no layer that it names. Is it "
            "a plain LoRA, trained on this base model?"
        )


def _check_numbers(folder: Path) -> None:
    for name, tensor in deserialize((folder / WEIGHTS).read_bytes()):  # type: ignore[no-untyped-call]
        kind, exponent = _EXPONENTS.get(tensor["dtype"], (None, 0))
        if kind is None or not _is_finite(tensor["data"], kind, exponent):
            raise AdapterRejected(f"{str(folder)!r} holds values in {name!r} that are no numbers.")


def _is_finite(data: bytes, kind: type[np.unsignedinteger[Any]], exponent: int) -> bool:
    bits = np.frombuffer(data, kind)
    return bool((bits & kind(exponent) != kind(exponent)).all())


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
