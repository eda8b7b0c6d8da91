"""The shipped table gives sentence-transformers' own vectors; wrong models are explained."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from core.embedding import SentenceEncoder, StaticTable, Vectors, open_embedder, prepared
from core.errors import ConfigError, IndexMissing
from training.embedder import save_embedder, train_tokenizer

TEXTS = ["洞洞鞋怎么洗？", "How do I wash CLOGS", "鞋 99", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained table."""
    tokenizer = train_tokenizer(TEXTS, 60)
    torch.manual_seed(1)
    target = tmp_path_factory.mktemp("embedder") / "tiny"
    save_embedder(tokenizer, torch.randn(tokenizer.get_vocab_size(), 8), target)
    return target


def test_the_table_gives_the_vectors_of_sentence_transformers(folder: Path) -> None:
    theirs = SentenceTransformer(str(folder), device="cpu")
    expected = theirs.encode_query(
        [prepared(text) for text in TEXTS[:3]], normalize_embeddings=True
    )
    found = StaticTable(folder).encode_queries(TEXTS[:3])
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_any_other_model_is_left_to_sentence_transformers(folder: Path) -> None:
    assert isinstance(open_embedder(str(folder), "cpu"), StaticTable)
    assert isinstance(open_embedder("BAAI/bge-large-zh-v1.5", "cpu"), SentenceEncoder)
    assert open_embedder("", "cpu") is None


def test_questions_that_come_together_are_embedded_together(folder: Path) -> None:
    encoder = SentenceEncoder(str(folder), "cpu")
    alone = [encoder.encode_queries([text])[0] for text in TEXTS[:3]]
    together = encoder.encode_queries(TEXTS[:3])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    asked: list[list[str]] = []
    embed = encoder._encode

    def noting(method: str, texts: Sequence[str]) -> Vectors:
        asked.append(list(texts))
        return embed(method, texts)

    encoder._encode = noting  # type: ignore[method-assign]
    with ThreadPoolExecutor(3) as threads:
        with encoder._lock:
            asking = [threads.submit(encoder.encode_queries, [text]) for text in TEXTS[:3]]
            while len(encoder._queries._waiting) < 3:
                pass
        found = [one.result(60)[0] for one in asking]
    np.testing.assert_allclose(found, alone, atol=1e-6)
    assert [sorted(texts) for texts in asked] == [sorted(TEXTS[:3])]


def test_an_empty_text_has_no_direction(folder: Path) -> None:
    assert not StaticTable(folder).encode_queries([""]).any()


def test_the_name_changes_with_the_weights(folder: Path, tmp_path: Path) -> None:
    before = StaticTable(folder).name
    other = tmp_path / "tiny"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert StaticTable(other).name == before
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    assert StaticTable(other).name != before


def test_a_damaged_table_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(
            path.read_bytes()[: 200 if path.suffix != ".json" else None]
        )
    with pytest.raises(IndexMissing, match="restore that folder"):
        StaticTable(tmp_path).encode_queries(["鞋"])


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    encoder = SentenceEncoder(str(tmp_path / "nowhere"), "cpu")
    with pytest.raises(ConfigError, match="nowhere"):
        encoder.encode_queries(["鞋"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_here_is_named_with_what_to_do(folder: Path) -> None:
    encoder = SentenceEncoder(str(folder), "cuda")
    with pytest.raises(
        ConfigError, match=r"retrieval\.device is 'cuda'.* set retrieval\.device to"
    ):
        encoder.encode_queries(["鞋"])
