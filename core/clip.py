"""The two towers of a CLIP, SigLIP or ChineseCLIP model, through transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ChineseCLIPImageProcessorPil,
    CLIPImageProcessorPil,
    SiglipImageProcessorPil,
)

from core.device import check_device
from core.errors import ConfigError
from core.messages import Language
from core.vision import Array

# The Pillow classes by name, because AutoImageProcessor cannot be used without torchvision.
PROCESSORS = {
    "clip": CLIPImageProcessorPil,
    "siglip": SiglipImageProcessorPil,
    "chinese_clip": ChineseCLIPImageProcessorPil,
}
TEXT_BATCH = 64


class ClipEncoder:
    """A loaded model; every vector it returns is a unit vector in float32."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, identity: str) -> None:
        self.identity = f"{identity} {model.dtype}"
        self.language: Language = "zh" if model.config.model_type == "chinese_clip" else "en"
        self.scale = float(model.logit_scale.detach().exp())
        self._model = model
        self._tokenizer = tokenizer
        self._processor = processor
        self._max_length = model.config.text_config.max_position_embeddings
        # SigLIP was trained on padded texts, CLIP masks the padding out.
        self._padding = "max_length" if model.config.model_type.startswith("siglip") else True

    def encode_texts(self, texts: Sequence[str]) -> Array:
        """(texts, dimensions); a text beyond the model's length is cut."""
        batches = (texts[start : start + TEXT_BATCH] for start in range(0, len(texts), TEXT_BATCH))
        return np.concatenate([self._encode_batch(list(batch)) for batch in batches])

    def encode_photos(self, photos: Sequence[Image.Image]) -> Array:
        """(photos, dimensions)"""
        inputs = self._processor(images=list(photos), return_tensors="pt")
        with torch.inference_mode():
            features = self._model.get_image_features(**self._placed(inputs))
        return _units(features)

    def _encode_batch(self, texts: list[str]) -> Array:
        inputs = self._tokenizer(
            texts,
            padding=self._padding,
            truncation=True,
            max_length=self._max_length,
            return_tensors="pt",
        )
        with torch.inference_mode():
            features = self._model.get_text_features(**self._placed(inputs))
        return _units(features)

    def _placed(self, inputs: Any) -> dict[str, Any]:
        placed = {name: value.to(self._model.device) for name, value in inputs.items()}
        return {
            name: value.to(self._model.dtype) if value.is_floating_point() else value
            for name, value in placed.items()
        }


def load_clip(name: str, device: str) -> ClipEncoder:
    """Load a model from a folder or by its hub name; on a GPU in half precision.

    Raises `ConfigError` where it is missing, of another family, damaged, or not in safetensors.
    """
    check_device(device, "vision.device")
    with _loading(name):
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in PROCESSORS:
            raise ConfigError(
                f"[vision] model = {name!r} is a {config.model_type!r} model; it must be one of "
                f"{', '.join(PROCESSORS)}."
            )
        model = AutoModel.from_pretrained(
            name,
            dtype=torch.float16 if device.startswith("cuda") else torch.float32,
            use_safetensors=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(name)
        processor = PROCESSORS[config.model_type].from_pretrained(name)
        return ClipEncoder(model.eval().to(device), tokenizer, processor, _identity(name, config))


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as exc:
        raise ConfigError(
            f"[vision] model = {name!r} cannot be loaded ({exc}): give a folder or hub name of a "
            'CLIP, SigLIP or ChineseCLIP model with safetensors weights, or "" for colours only.'
        ) from exc


def _identity(name: str, config: Any) -> str:
    """Name and revision of a hub model, name and digest of a folder's files."""
    folder = Path(name)
    if not folder.is_dir():
        return f"{name} {config._commit_hash}"
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{folder.name} {digest.hexdigest()}"


def _units(features: Any) -> Array:
    """The projected embedding, which transformers 5 wraps into an output object, scaled to 1."""
    vectors = getattr(features, "pooler_output", features)
    units = torch.nn.functional.normalize(vectors.float(), dim=-1)
    rows: Array = units.cpu().numpy()
    return rows
