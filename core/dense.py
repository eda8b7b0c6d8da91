"""Vectors of chunks in FAISS: exact up to a hundred thousand, inverted lists above.

Immutable like the lexical index: a change is made on a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import structlog
from numpy.typing import NDArray

from core.embedding import Vectors
from core.errors import IndexMissing

log = structlog.get_logger()

EXACT_LIMIT = 100_000
_LISTS_PROBED = 32
# faiss.DirectMap.Hashtable: ids are found again, which `cosines` needs.
_HASHTABLE = 2


@dataclass(frozen=True)
class DenseIndex:
    """`stored` is FAISS's index over unit vectors; its ids are keys that are never used again."""

    stored: Any
    device: str

    @classmethod
    def build(
        cls,
        keys: NDArray[np.int64],
        vectors: Vectors,
        device: str,
        exact_limit: int = EXACT_LIMIT,
    ) -> DenseIndex:
        """Index `vectors` (n, d); more than `exact_limit` are searched approximately."""
        width = vectors.shape[1]
        stored: Any
        if len(vectors) <= exact_limit:
            stored = faiss.IndexIDMap2(faiss.IndexFlatIP(width))
        else:
            lists = int(4 * len(vectors) ** 0.5)
            stored = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
            stored.train(vectors)
            stored.nprobe = min(lists, _LISTS_PROBED)
            stored.set_direct_map_type(_HASHTABLE)
        stored.add_with_ids(vectors, keys)
        return cls(stored, device)

    def __len__(self) -> int:
        return int(self.stored.ntotal)

    def changed(
        self, gone: NDArray[np.int64], keys: NDArray[np.int64], vectors: Vectors | None
    ) -> DenseIndex:
        """A copy without the keys in `gone` and with `vectors` (one a key; None for no keys)."""
        copy: Any = faiss.clone_index(self.stored)
        if len(gone):
            copy.remove_ids(gone)
        if vectors is not None:
            copy.add_with_ids(vectors, keys)
        return DenseIndex(copy, self.device)

    def search(self, query: Vectors, depth: int) -> tuple[NDArray[np.int64], Vectors]:
        """The keys and cosines of the `depth` nearest to one unit vector (d,), nearest first."""
        cosines, keys = self._searched.search(query[None, :], min(depth, len(self)))
        found = keys[0] >= 0
        return keys[0][found], cosines[0][found]

    def cosines(self, query: Vectors, keys: NDArray[np.int64]) -> Vectors:
        """The exact cosines of some keys."""
        return np.asarray(self.stored.reconstruct_batch(keys) @ query, np.float32)

    def save(self, path: Path) -> None:
        """Write FAISS's own file; it has no checksum, the caller keeps one."""
        faiss.write_index(self.stored, str(path))

    @classmethod
    def load(cls, path: Path, device: str) -> DenseIndex:
        """Read what `save` wrote."""
        try:
            return cls(faiss.read_index(str(path)), device)
        except RuntimeError as exc:
            raise IndexMissing(f"{str(path)!r} is damaged: run `solemate kb build`.") from exc

    @cached_property
    def _searched(self) -> Any:
        """The stored index, or its copy on a GPU where there is one and it is wanted."""
        # More threads make a single query slower on small machines.
        faiss.omp_set_num_threads(1)
        if self.device == "cpu" or not hasattr(faiss, "StandardGpuResources"):
            return self.stored
        try:
            return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, self.stored)
        except RuntimeError as exc:
            log.warning("faiss_gpu_unused", problem=str(exc).splitlines()[0])
            return self.stored
