"""LoRA adapters for a served model: checked in `core/lora.py`, applied here row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import linear

from core.errors import AdapterRejected, NotFound
from core.lora import CONFIG, WEIGHTS, check_adapter, lora_key
from core.messages import Adapter

MAX_RANK = 64


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """An adapter's matrices by the name of the layer they belong to.

    Each pair is A, `(rank, in)`, and B, `(out, rank)`, in fp32; B is already scaled by
    `alpha / rank`, so that a layer's output grows by `x @ A.T @ B.T`.
    """

    layers: dict[str, tuple[Tensor, Tensor]]


def read_adapter(folder: Path, model: nn.Module, base: Path) -> LoraWeights:
    """Read and check the adapter in `folder` for `model`, which was loaded from `base`.

    Raises `NotFound` when there is no adapter, `AdapterRejected` when it does not fit the model,
    holds anything but finite numbers, or would need a pickle to be opened.
    """
    if not (folder / CONFIG).is_file():
        raise NotFound(f"No adapter found for {str(folder)!r}: it holds no {CONFIG}.")
    config = check_adapter(Adapter(folder.name, folder, str(base)), MAX_RANK)
    tensors = load_file(folder / WEIGHTS)
    layers = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and lora_key(name, "A") in tensors:
            a, b = (tensors.pop(lora_key(name, leg)).float() for leg in ("A", "B"))
            layers[name] = (a, b * config.scale)
    if tensors:
        raise AdapterRejected(
            f"{str(folder)!r} holds {min(tensors)!r}, which belongs to no linear layer of the "
            "model. Was it trained on another one?"
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
