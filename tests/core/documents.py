"""What the tests of retrieval share: options, knowledge files, an embedder that counts letters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.embedding import Vectors, unit
from core.retrieval import RetrievalOptions

OPTIONS = RetrievalOptions(top_k=3, dense_weight=0.5, fusion="weighted", min_relevance=0.0)


class LetterEmbedder:
    """An embedder that counts letters; it remembers how many documents it has seen."""

    name = "letters"

    def __init__(self) -> None:
        self.documents_seen = 0

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), 64), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for char in text.casefold():
                if char.isalpha():
                    row[ord(char) % 64] += 1
        return unit(rows)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        self.documents_seen += len(texts)
        return self.encode_queries(texts)


def write_objects(folder: Path, objects: object, name: str = "knowledge.json") -> Path:
    """Write objects to a knowledge file and return its path."""
    path = folder / name
    path.write_text(json.dumps(objects, ensure_ascii=False, indent=1), "utf-8")
    return path
