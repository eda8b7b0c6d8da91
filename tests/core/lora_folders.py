"""Folders with small LoRA adapters and the base models they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from core.messages import Adapter

RANK, WIDTH, HEIGHT = 4, 16, 8


def weights(rank: int = RANK) -> dict[str, np.ndarray]:
    name = "base_model.model.layers.0.proj"
    return {
        f"{name}.lora_A.weight": np.zeros((rank, WIDTH), np.float32),
        f"{name}.lora_B.weight": np.zeros((HEIGHT, rank), np.float32),
    }


def write_base(folder: Path, value: float = 0.0) -> Path:
    folder.mkdir()
    layer = {"layers.0.proj.weight": np.full((HEIGHT, WIDTH), value, np.float32)}
    save_file(layer, folder / "model.safetensors")
    return folder


def write_adapter(folder: Path, base: Path, value: float = 0.0) -> Adapter:
    """A good adapter for the base model in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    filled = {name: np.full_like(one, value) for name, one in weights().items()}
    save_file(filled, folder / "adapter_model.safetensors")
    edit_config(
        folder,
        peft_type="LORA",
        r=RANK,
        lora_alpha=RANK,
        target_modules=["proj"],
        base_model_name_or_path=str(base),
    )
    return Adapter(folder.name, folder, str(base))


def edit_config(folder: Path, **changes: object) -> None:
    """Change the adapter's configuration."""
    file = folder / "adapter_config.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | changes))
