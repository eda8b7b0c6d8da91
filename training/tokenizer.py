"""The shipped model's tokenizer: one token a Chinese character or digit, merges for Latin."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import (  # type: ignore[import-untyped]
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
)
from tokenizers.models import BPE  # type: ignore[import-untyped]
from tokenizers.trainers import BpeTrainer  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# `transformers` takes seconds to import: it is loaded where a tokenizer is made or read.

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
LATIN_MERGES = 1500
# A Latin word with the space before it is one field for merging; anything else stands alone.
_WORD = Regex("▁?[A-Za-z]+|[\\s\\S]")
_SPACE = "▁"
_ALWAYS = ("system", "user", "assistant", "doc", "photo", "question")
_PUNCTUATION = "，。！？、；：“”‘’（）《》【】…—～·％℃°×÷±→≤≥€£￥"
# ChatML, with the same bytes as LLaMA-Factory's template of the name `chatml`.
TEMPLATE_NAME = "chatml"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def common_characters() -> list[str]:
    """The 3,755 most common Chinese characters: level 1 of GB 2312, rows 16 to 55."""
    rows = (bytes([row, cell]) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return [raw.decode("gb2312") for raw in rows if raw < b"\xd7\xfa"]


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose Latin words are merged as they occur in `texts`; bytes for the rest.

    Characters of `texts` beyond GB 2312 level 1 get their own token too. The same texts in the
    same order give the same tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    corpus = list(texts)
    vocabulary, merges = _vocabulary(corpus)
    core = Tokenizer(BPE(vocabulary, merges, byte_fallback=True, fuse_unk=False))
    core.normalizer = normalizers.Replace(" ", _SPACE)
    core.pre_tokenizer = pre_tokenizers.Split(_WORD, "isolated")
    core.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="right",
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write `tokenizer.json` and its companions into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read what `save_tokenizer` wrote; never looks on the network."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def _vocabulary(corpus: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    alphabet = dict.fromkeys(chr(code) for code in range(0x21, 0x7F))
    alphabet |= dict.fromkeys((_SPACE, "\n", *_PUNCTUATION, *common_characters()))
    alphabet |= dict.fromkeys(sorted({char for text in corpus for char in text} - {" "}))
    merges = _latin_merges(corpus)
    tokens = [PAD, START, END, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet]
    tokens += ["".join(pair) for pair in merges]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _latin_merges(corpus: list[str]) -> list[tuple[str, str]]:
    """The most frequent merges inside Latin words, in order."""
    core = Tokenizer(BPE())
    core.normalizer = normalizers.Replace(" ", _SPACE)
    core.pre_tokenizer = pre_tokenizers.Split(_WORD, "isolated")
    letters = {char for text in corpus for char in text}
    trainer = BpeTrainer(
        vocab_size=len(letters | {_SPACE}) + LATIN_MERGES, show_progress=False, min_frequency=2
    )
    wanted = [f"{word} {word}" for word in _ALWAYS] * 1000
    core.train_from_iterator([*corpus, *wanted], trainer)
    return [(left, right) for left, right in json.loads(core.to_str())["model"]["merges"]]
