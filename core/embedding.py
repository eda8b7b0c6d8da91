"""Texts -> unit vectors: a sentence-transformers model, or the shipped table without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer  # type: ignore[import-untyped]

from core.batches import Batches
from core.device import check_device
from core.errors import ConfigError, IndexMissing
from core.terms import MAX_CHARACTERS, normalize

Vectors = NDArray[np.float32]
log = structlog.get_logger()

_BATCH = 64


class Embedder(Protocol):
    """Anything that turns texts into float32 rows of length 1 (0 for a text without content)."""

    @property
    def name(self) -> str:
        """Changes when the vectors would, so that an index knows whose it holds."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors: ...

    def encode_documents(self, texts: Sequence[str]) -> Vectors: ...


class StaticTable:
    """A sentence-transformers `StaticEmbedding` folder read with numpy: a mean of token rows.

    Gives the vectors that `SentenceTransformer(folder)` gives, at a fiftieth of its time a
    question and without loading torch.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def name(self) -> str:
        return f"{self._folder.name}:{folder_digest(self._folder)}"

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        tokenizer, table = self._parts
        rows = np.zeros((len(texts), table.shape[1]), np.float32)
        for row, text in zip(rows, texts, strict=True):
            tokens = tokenizer.encode(prepared(text), add_special_tokens=False).ids
            if tokens:
                row[:] = table[tokens].mean(axis=0, dtype=np.float32)
        return unit(rows)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        return self.encode_queries(texts)

    @cached_property
    def _parts(self) -> tuple[Tokenizer, NDArray[np.float16]]:
        home = _static_home(self._folder)
        assert home is not None
        try:
            tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
            weights = load_file(home / "model.safetensors")["embedding.weight"]
        except (OSError, KeyError, SafetensorError, ValueError) as exc:
            raise IndexMissing(
                f"The embedder in {str(self._folder)!r} is damaged ({exc}): restore that folder, "
                'or set retrieval.embedding_model = "".'
            ) from exc
        return tokenizer, weights


class SentenceEncoder:
    """A sentence-transformers model, loaded when it is first asked.

    One call at a time: the questions that wait meanwhile are embedded together in the next.
    """

    def __init__(self, model: str, device: str) -> None:
        self._model_name = model
        self._device = device
        self._lock = Lock()
        self._queries: Batches[str] = Batches(
            lambda texts: self._encode("encode_query", texts), _BATCH, self._lock
        )

    @cached_property
    def name(self) -> str:
        folder = Path(self._model_name)
        return (
            f"{self._model_name}:{folder_digest(folder)}" if folder.is_dir() else self._model_name
        )

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        if len(texts) == 1:
            return self._queries(texts[0])[None, :]
        with self._lock:
            return self._encode("encode_query", texts)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        with self._lock:
            return self._encode("encode_document", texts)

    def _encode(self, method: str, texts: Sequence[str]) -> Vectors:
        # encode_query puts the model's own instruction before the text; plain encode does not.
        encode = getattr(self._model, method)
        rows = encode(
            [prepared(text) for text in texts],
            batch_size=_BATCH,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return unit(np.asarray(rows, np.float32))

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer  # takes seconds to import

        check_device(self._device, "retrieval.device")
        log.info("embedder_loading", model=self._model_name, device=self._device)
        try:
            return SentenceTransformer(self._model_name, device=self._device)
        except (OSError, ValueError, RuntimeError) as exc:
            raise ConfigError(
                f"retrieval.embedding_model {self._model_name!r} cannot be loaded "
                f'({str(exc).splitlines()[0]:.200}): name an existing folder or hub model, or "".'
            ) from exc


def open_embedder(model: str, device: str) -> Embedder | None:
    """The embedder a setting names; None for "" (lexical search only). Nothing is loaded yet."""
    if not model:
        return None
    if _static_home(Path(model)) is not None:
        return StaticTable(Path(model))
    return SentenceEncoder(model, device)


def prepared(text: str) -> str:
    """What an embedder reads: one spelling, and no more than it can use."""
    return " ".join(normalize(text[:MAX_CHARACTERS]).split())


def unit(rows: Vectors) -> Vectors:
    """Rows scaled to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def folder_digest(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 over every weight and tokenizer file in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".json", ".safetensors", ".txt", ".model", ".bin"}:
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _static_home(folder: Path) -> Path | None:
    """Where the table of a lone `StaticEmbedding` (perhaps normalised) lies; None for any other."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    plain = kinds in (["StaticEmbedding"], ["StaticEmbedding", "Normalize"])
    return folder / str(modules[0]["path"]) if plain else None
