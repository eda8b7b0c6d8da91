"""LoRA adapters for a served model: read without trusting the folder, applied row by row.

Only plain LoRA on linear layers, in the format that `peft` writes, is taken: everything else would
need code or arithmetic that nobody has checked here. Weights come from safetensors alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import linear

from core.errors import AdapterRejected, NotFound

MAX_RANK = 64
MAX_BYTES = 512 * 1024 * 1024
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "pytorch_model.bin")
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """An adapter's matrices by the name of the layer they belong to.

    Each pair is A, `(rank, in)`, and B, `(out, rank)`, in fp32; B is already scaled by
    `alpha / rank`, so that a layer's output grows by `x @ A.T @ B.T`.
    """

    layers: dict[str, tuple[Tensor, Tensor]]


class _Config(BaseModel):
    """What decides the arithmetic in `adapter_config.json`; a fixed value takes no other."""

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=MAX_RANK)
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


def read_adapter(folder: Path, model: nn.Module, base: Path) -> LoraWeights:
    """Read and check the adapter in `folder` for `model`, which was loaded from `base`.

    Raises `NotFound` when there is no adapter, `AdapterRejected` when it does not fit the model,
    holds anything but finite numbers, or would need a pickle to be opened.
    """
    if not (folder / _CONFIG).is_file():
        raise NotFound(f"No adapter found for {str(folder)!r}: it holds no {_CONFIG}.")
    config = _read_config(folder / _CONFIG)
    _check_base(config.base_model_name_or_path, folder, base)
    tensors = _read_tensors(folder)
    layers = {}
    for name, layer in _targets(model, config.target_modules):
        a = tensors.pop(f"{_PREFIX}{name}.lora_A.weight", None)
        b = tensors.pop(f"{_PREFIX}{name}.lora_B.weight", None)
        _check_pair(folder, name, a, b, layer, config.r)
        assert a is not None
        assert b is not None
        layers[name] = (a.float(), b.float() * config.scale)
    if tensors:
        raise AdapterRejected(
            f"{str(folder)!r} holds {min(tensors)!r}, which belongs to no layer it names. "
            "Was it trained on another base model?"
        )
    return LoraWeights(layers)


class RowAdapters:
    """Gives every row of a batch its own adapter, by hooks on the model's linear layers."""

    def __init__(self, model: nn.Module) -> None:
        self._groups: list[tuple[LoraWeights, Tensor | None]] = []
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(partial(self._add, name))

    @contextmanager
    def applied(self, rows: Sequence[LoraWeights | None]) -> Iterator[None]:
        """While this is open, row i of what the model reads goes through `rows[i]`."""
        for weights in {id(one): one for one in rows if one is not None}.values():
            mine = [number for number, one in enumerate(rows) if one is weights]
            self._groups.append((weights, None if len(mine) == len(rows) else torch.tensor(mine)))
        try:
            yield
        finally:
            self._groups.clear()

    def _add(self, name: str, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        for weights, rows in self._groups:
            pair = weights.layers.get(name)
            if pair is None:
                continue
            x = inputs[0] if rows is None else inputs[0][rows]
            change = linear(linear(x, pair[0]), pair[1])
            output = output + change if rows is None else output.index_add(0, rows, change)
        return output


def _read_config(path: Path) -> _Config:
    try:
        return _Config.model_validate_json(path.read_bytes())
    except ValidationError as exc:
        wrong = exc.errors()[0]
        field = ".".join(str(part) for part in wrong["loc"]) or "its JSON"
        raise AdapterRejected(
            f"{str(path)!r} is not a plain LoRA adapter of rank {MAX_RANK} or less: "
            f"{field}: {wrong['msg']}."
        ) from exc


def _check_base(named: str | None, folder: Path, base: Path) -> None:
    """Shapes decide whether an adapter fits; a base that lies on this disk must also be ours."""
    other = Path(named) if named else base
    if other.is_dir() and other.resolve() != base.resolve() and _digest(other) != _digest(base):
        raise AdapterRejected(
            f"{str(folder)!r} was trained on {named!r}, whose weights differ from {str(base)!r}."
        )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    if not path.is_file():
        pickled = [name for name in _PICKLES if (folder / name).exists()]
        found = f"only {pickled[0]}, a pickle that could run code" if pickled else "no weights"
        raise AdapterRejected(f"{str(folder)!r} holds {found}; save it as {_WEIGHTS}.")
    if path.stat().st_size > MAX_BYTES:
        raise AdapterRejected(f"{str(path)!r} is larger than {MAX_BYTES} bytes.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise AdapterRejected(f"{str(path)!r} cannot be read as safetensors: {exc}.") from exc


def _targets(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Linear]]:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and any(f".{name}".endswith(f".{one}") for one in names):
            yield name, layer


def _check_pair(
    folder: Path, name: str, a: Tensor | None, b: Tensor | None, layer: nn.Linear, rank: int
) -> None:
    if a is None or b is None:
        raise AdapterRejected(f"{str(folder)!r} lacks the weights of {name!r}. Is it truncated?")
    expected = ((rank, layer.in_features), (layer.out_features, rank))
    if (tuple(a.shape), tuple(b.shape)) != expected:
        raise AdapterRejected(
            f"{str(folder)!r} does not fit the model: {name!r} has shapes "
            f"{tuple(a.shape)}, {tuple(b.shape)} where {expected[0]}, {expected[1]} belong."
        )
    for tensor in (a, b):
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise AdapterRejected(f"{str(folder)!r} holds values in {name!r} that are no numbers.")
