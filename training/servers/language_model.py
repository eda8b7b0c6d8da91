"""A language model and its tokenizer, read from a folder, as the embedded server runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import ConfigError, NotFound


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model in fp32, its tokenizer, and the folder both came from.

    `context` is the most tokens that prompt and answer may have together.
    """

    network: Any
    tokenizer: Any
    folder: Path
    context: int
    ends: frozenset[int]

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, special ones left out."""
        text: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def encode(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """The tokens of a conversation up to where the assistant speaks next."""
        return tuple(
            self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
        )


def load_model(folder: Path) -> LanguageModel:
    """Read a model from its folder: safetensors only, no code from it, nothing downloaded.

    Raises `NotFound` when there is none and `ConfigError` when it cannot be served.
    """
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise NotFound(
            f"There is no model in {str(folder)!r}: config.json and safetensors belong there. "
            "Run `solemate models build`, or name another folder."
        )
    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise ConfigError(f"The model in {str(folder)!r} cannot be read: {exc}.") from exc
    if tokenizer.chat_template is None:
        raise ConfigError(f"The tokenizer in {str(folder)!r} has no chat template; add one.")
    return LanguageModel(
        network=network,
        tokenizer=tokenizer,
        folder=folder,
        context=network.config.max_position_embeddings,
        ends=_token_ids(network.generation_config.eos_token_id, tokenizer.eos_token_id),
    )


def _token_ids(*ids: int | list[int] | None) -> frozenset[int]:
    lists = [one if isinstance(one, list) else [one] for one in ids if one is not None]
    return frozenset(one for several in lists for one in several)
