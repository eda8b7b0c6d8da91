"""A real cross-encoder, tiny and untrained, built here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from core.errors import ConfigError
from core.reranker import CrossEncoderReranker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("cross-encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "canvas", "leather", "wash"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(home)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(home)
    return home


def test_each_text_gets_a_score_between_0_and_1(folder: Path) -> None:
    reranker = CrossEncoderReranker(str(folder), "cpu")
    scores = reranker.scores("wash canvas", ["canvas", "leather", "wash wash"])
    assert scores.shape == (3,)
    assert ((scores > 0) & (scores < 1)).all()
    assert len(set(scores.tolist())) == 3


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    reranker = CrossEncoderReranker(str(tmp_path / "nowhere"), "cpu")
    with pytest.raises(ConfigError, match="nowhere"):
        reranker.scores("wash", ["canvas"])
