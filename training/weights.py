"""How the shipped models lie on disk: half the size in bf16, and read as float32.

Programs take the type of the numbers from the configuration. On a CPU without bf16 units, where it
is only emulated, a training in bf16 takes a hundred times as long as one in float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel


def save_halved(model: PreTrainedModel, folder: Path) -> None:
    """Write a model as bf16 safetensors whose configuration says float32; it stays as it is."""
    rounded = type(model)(model.config).to(torch.bfloat16)
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config = model.generation_config
    rounded.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
