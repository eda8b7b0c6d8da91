"""A CLIP model made on the spot: its real classes and shape, hardly any weights, no training."""

from __future__ import annotations

from pathlib import Path

import tokenizers  # type: ignore[import-untyped]
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from core.clip import ClipEncoder, load_clip

_SIDE = 224
# A hundredth of ViT-B/32, with both towers in its proportions.
_TOWER = {"intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = _TOWER | {"hidden_size": 96, "image_size": _SIDE, "patch_size": 32}
_TEXT = _TOWER | {
    "hidden_size": 64,
    "vocab_size": 300,
    "max_position_embeddings": 77,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tiny_clip(folder: Path) -> ClipEncoder:
    """Save the model into a folder, and load it as any other is loaded."""
    torch.manual_seed(0)
    disable_progress_bar()
    CLIPModel(
        CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=64)
    ).save_pretrained(folder)
    crop = {"height": _SIDE, "width": _SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": _SIDE}, crop_size=crop).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return load_clip(str(folder), "cpu")


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, with a start, an end and padding."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    alphabet = [*special, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    raw = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: place for place, token in enumerate(alphabet)}, [])
    )
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
