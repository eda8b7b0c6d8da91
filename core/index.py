"""The knowledge base as it is searched: an immutable index, and the folder that keeps it on disk.

A folder holds finished versions and a file `current` that names one of them, with the checksum of
its manifest. Writing a version never touches the one in use, so a crash, a full disk or a wrong
knowledge file leaves the old index in place.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from core.dense import DenseIndex
from core.embedding import Embedder, Vectors
from core.errors import DataError, IndexMissing
from core.knowledge import Chunk, load_knowledge
from core.lexical import LexicalIndex
from core.messages import Language
from core.terms import Analyzer

log = structlog.get_logger()

_FORMAT = 3
_CHUNKS = "chunks.json"
_VECTORS = "vectors.faiss"


@dataclass(frozen=True)
class Recipe:
    """What turns chunks into an index, and questions into what is looked up in it."""

    analyzer: Analyzer
    embedder: Embedder | None
    device: str

    @property
    def digest(self) -> str:
        """Changes when an index made before would no longer fit."""
        embedder = self.embedder.name if self.embedder else ""
        parts = (str(_FORMAT), self.analyzer.digest, embedder)
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Index:
    """Chunks with their lexical and dense index; row i of everything is `chunks[i]`.

    `origins[i]` names the knowledge file a chunk came from, `keys[i]` is its id in FAISS.
    """

    recipe: Recipe
    chunks: tuple[Chunk, ...]
    origins: tuple[str, ...]
    keys: NDArray[np.int64]
    lexical: LexicalIndex
    dense: DenseIndex | None

    @classmethod
    def empty(cls, recipe: Recipe) -> Index:
        """An index of nothing."""
        return cls(recipe, (), (), np.zeros(0, np.int64), LexicalIndex.empty(), None)

    @classmethod
    def of(cls, recipe: Recipe, chunks: Sequence[Chunk], origin: str = "") -> Index:
        """An index of these chunks."""
        return cls.empty(recipe).put(origin, chunks)

    def __len__(self) -> int:
        return len(self.chunks)

    @cached_property
    def digest(self) -> str:
        """Names the content, whatever the order it was added in."""
        rows = sorted(f"{o}\x1f{c.digest}" for o, c in zip(self.origins, self.chunks, strict=True))
        return hashlib.sha256("\x1e".join([self.recipe.digest, *rows]).encode()).hexdigest()

    @cached_property
    def row_of_key(self) -> dict[int, int]:
        """Where the chunk with a FAISS id stands."""
        return {int(key): row for row, key in enumerate(self.keys)}

    @cached_property
    def first_rows(self) -> dict[tuple[str, Language], int]:
        """The row where an entry begins in a language."""
        rows: dict[tuple[str, Language], int] = {}
        for row, chunk in enumerate(self.chunks):
            if chunk.part == 0:
                rows.setdefault((chunk.entry, chunk.lang), row)
        return rows

    @cached_property
    def titled(self) -> dict[str, Chunk]:
        """The first chunk of each title."""
        found: dict[str, Chunk] = {}
        for chunk in self.chunks:
            found.setdefault(chunk.title, chunk)
        return found

    def put(self, origin: str, chunks: Sequence[Chunk]) -> Index:
        """This index with an origin's chunks replaced by `chunks`; what is unchanged is kept as is.

        Raises `DataError` when another origin already has one of the ids.
        """
        wanted = {chunk.id: chunk for chunk in chunks}
        gone: list[int] = []
        for row, (chunk, owner) in enumerate(zip(self.chunks, self.origins, strict=True)):
            if owner != origin:
                if chunk.id in wanted:
                    raise DataError(
                        f"{origin}: the id {chunk.id!r} is already used in {owner!r}: rename it."
                    )
            elif wanted.get(chunk.id) == chunk:
                del wanted[chunk.id]
            else:
                gone.append(row)
        return self._changed(gone, origin, tuple(wanted.values()))

    def _changed(self, gone: Sequence[int], origin: str, added: tuple[Chunk, ...]) -> Index:
        if not gone and not added:
            return self
        analyzer = self.recipe.analyzer
        lexical = self.lexical.without_rows(gone) if gone else self.lexical
        lexical = lexical.with_passages(
            [
                analyzer.passage(one.title, one.text, (*one.keywords, *one.questions))
                for one in added
            ]
        )
        first_key = int(self.keys.max()) + 1 if len(self.keys) else 0
        new_keys = np.arange(first_key, first_key + len(added), dtype=np.int64)
        dropped = set(gone)
        kept = [row for row in range(len(self)) if row not in dropped]
        return Index(
            self.recipe,
            tuple(self.chunks[row] for row in kept) + added,
            tuple(self.origins[row] for row in kept) + (origin,) * len(added),
            np.concatenate([self.keys[kept], new_keys]),
            lexical,
            self._changed_vectors(self.keys[list(gone)], new_keys, added),
        )

    def _changed_vectors(
        self, gone: NDArray[np.int64], keys: NDArray[np.int64], added: Sequence[Chunk]
    ) -> DenseIndex | None:
        embedder = self.recipe.embedder
        if embedder is None:
            return None
        if self.dense is not None:
            vectors = self._vectors(embedder, added) if len(added) else None
            return self.dense.changed(gone, keys, vectors)
        return DenseIndex.build(keys, self._vectors(embedder, added), self.recipe.device)

    @staticmethod
    def _vectors(embedder: Embedder, chunks: Sequence[Chunk]) -> Vectors:
        texts = ["\n".join([one.title, one.text, " ".join(one.keywords)]) for one in chunks]
        return embedder.encode_documents(texts)


class IndexFolder:
    """The index on disk. Several processes may read and build at once; builds take turns."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder = folder
        self._recipe = recipe

    @property
    def version(self) -> str:
        """Names what `load` would read; changes with every build that changed something."""
        return self._pointer()[0]

    async def load(self) -> Index:
        """The current index. Raises `IndexMissing` when there is none, or a file is damaged."""
        return await asyncio.to_thread(self._load)

    async def build(self, knowledge: Path) -> Index:
        """Make this file the knowledge base; nothing is written when it already is.

        It takes the place of the file that was built before. What was added from other files
        stays, indexed anew where the recipe changed.
        """
        return await asyncio.to_thread(self._build, knowledge)

    async def add(self, knowledge: Path) -> Index:
        """Add a knowledge file, or replace what was added from it before (by file name).

        Raises `DataError` for a file of the knowledge base's own name.
        """
        return await asyncio.to_thread(self._add, knowledge)

    async def remove(self, origin: str) -> Index:
        """Take out everything that came from an added file.

        Raises `DataError` for an unknown name and for the knowledge base's own.
        """
        return await asyncio.to_thread(self._remove, origin)

    def _build(self, knowledge: Path) -> Index:
        chunks = load_knowledge(knowledge)
        with self._turn():
            before, base = self._reusable()
            after = before or Index.empty(self._recipe)
            if base not in ("", knowledge.name):
                after = after.put(base, ())
            after = after.put(knowledge.name, chunks)
            if after is not before or base != knowledge.name:
                self._save(after, knowledge.name)
            return after

    def _add(self, knowledge: Path) -> Index:
        chunks = load_knowledge(knowledge)
        with self._turn():
            before, base = self._load(), self._base()
            if knowledge.name == base:
                raise DataError(
                    f"{str(knowledge)!r} has the name of the knowledge base (retrieval.knowledge): "
                    "change that file, or rename this one."
                )
            after = before.put(knowledge.name, chunks)
            if after is not before:
                self._save(after, base)
            return after

    def _remove(self, origin: str) -> Index:
        with self._turn():
            before, base = self._load(), self._base()
            if origin == base:
                raise DataError(
                    f"{origin!r} is the knowledge base: name another file in retrieval.knowledge."
                )
            if origin not in before.origins:
                known = ", ".join(sorted(set(before.origins)))
                raise DataError(f"Nothing was added from {origin!r}; there is: {known}.")
            after = before.put(origin, ())
            self._save(after, base)
            return after

    def _base(self) -> str:
        """The name of the file that was built last, which is the knowledge base."""
        return str(self._current()[1].get("base", ""))

    def _reusable(self) -> tuple[Index | None, str]:
        """The current index as this recipe makes it, and the knowledge base's name.

        None when it is missing or damaged.
        """
        try:
            home, manifest = self._current()
            base = str(manifest.get("base", ""))
            if manifest["recipe"] == self._recipe.digest:
                return self._read(home, manifest), base
            chunks, origins = _read_chunks(home, manifest)
        except IndexMissing as exc:
            log.info("index_started_anew", reason=str(exc))
            return None, ""
        index = Index.empty(self._recipe)
        for origin in dict.fromkeys(origins):
            own = [one for one, owner in zip(chunks, origins, strict=True) if owner == origin]
            index = index.put(origin, own)
        self._save(index, base)
        return index, base

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other process builds in this folder."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as exc:
            raise DataError(
                f"Cannot write the index in {str(self._folder)!r} ({exc.strerror or exc}): free "
                "space or fix its rights; the index before it is untouched."
            ) from exc

    def _save(self, index: Index, base: str) -> None:
        name = f"{index.digest[:12]}-{uuid.uuid4().hex[:8]}"
        work = self._folder / f".{name}"
        work.mkdir()
        try:
            _write_parts(work, index)
            files = {path.name: _sha256(path) for path in sorted(work.iterdir())}
            manifest = {
                "digest": index.digest,
                "recipe": index.recipe.digest,
                "base": base,
                "files": files,
            }
            _write(work / "manifest.json", _to_json(manifest))
            checksum = _sha256(work / "manifest.json")
            work.rename(self._folder / name)
            write_atomically(self._folder / "current", f"{name} {checksum}".encode())
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._forget_old(name)

    def _forget_old(self, current: str) -> None:
        """Delete all versions but this one and the one before, which may still be being read."""
        versions = [path for path in self._folder.iterdir() if (path / "manifest.json").is_file()]
        versions.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        others = [path for path in versions if path.name != current]
        for path in others[1:]:
            shutil.rmtree(path, ignore_errors=True)

    def _load(self) -> Index:
        while True:
            version = self.version
            try:
                return self._load_once()
            except IndexMissing:
                # A build may have swept away the version that was being read: then read the next.
                if self.version == version:
                    raise

    def _load_once(self) -> Index:
        home, manifest = self._current()
        if manifest["recipe"] != self._recipe.digest:
            raise IndexMissing(
                f"The index in {str(self._folder)!r} was made with another embedder or synonym "
                "list: run `solemate kb build`."
            )
        return self._read(home, manifest)

    def _current(self) -> tuple[Path, dict[str, Any]]:
        """The current version's folder and manifest."""
        name, checksum = self._pointer()
        return self._folder / name, json.loads(
            _checked(self._folder / name / "manifest.json", checksum)
        )

    def _pointer(self) -> tuple[str, str]:
        """The current version's name and its manifest's checksum."""
        try:
            name, _, checksum = (self._folder / "current").read_text("utf-8").partition(" ")
        except OSError as exc:
            raise IndexMissing(
                f"There is no index in {str(self._folder)!r} yet: run `solemate kb build`."
            ) from exc
        return name, checksum.strip()

    def _read(self, home: Path, manifest: Mapping[str, Any]) -> Index:
        chunks, origins = _read_chunks(home, manifest)
        for name, checksum in manifest["files"].items():
            _checked(home / name, checksum)
        return Index(
            self._recipe,
            chunks,
            origins,
            np.load(home / "keys.npy", allow_pickle=False),
            _read_lexical(home),
            DenseIndex.load(home / _VECTORS, self._recipe.device)
            if _VECTORS in manifest["files"]
            else None,
        )


def _write_parts(home: Path, index: Index) -> None:
    rows = [
        {**asdict(chunk), "origin": origin}
        for chunk, origin in zip(index.chunks, index.origins, strict=True)
    ]
    _write(home / _CHUNKS, _to_json(rows))
    _write(home / "terms.json", _to_json(list(index.lexical.vocabulary)))
    arrays: Mapping[str, NDArray[Any]] = {
        "keys": index.keys,
        "starts": index.lexical.starts,
        "rows": index.lexical.rows,
        "counts": index.lexical.counts,
        "lengths": index.lexical.lengths,
    }
    for name, array in arrays.items():
        with (home / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    if index.dense is not None:
        index.dense.save(home / _VECTORS)


def _read_chunks(
    home: Path, manifest: Mapping[str, Any]
) -> tuple[tuple[Chunk, ...], tuple[str, ...]]:
    rows = json.loads(_checked(home / _CHUNKS, manifest["files"][_CHUNKS]))
    origins = tuple(row.pop("origin") for row in rows)
    return tuple(map(_chunk_of, rows)), origins


def _chunk_of(row: Mapping[str, Any]) -> Chunk:
    """What this program knows of a chunk; another one may have kept less of it, or more."""
    known = {field.name for field in fields(Chunk)} & row.keys()
    values: dict[str, Any] = {
        name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in known
    }
    return Chunk(**values)


def _read_lexical(home: Path) -> LexicalIndex:
    terms = json.loads((home / "terms.json").read_bytes())
    starts, rows, counts, lengths = (
        np.load(home / f"{name}.npy", allow_pickle=False)
        for name in ("starts", "rows", "counts", "lengths")
    )
    return LexicalIndex({term: i for i, term in enumerate(terms)}, starts, rows, counts, lengths)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content; after a crash it is the old or the new one, whole.

    Raises `DataError` where it cannot be written.
    """
    work = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        _write(work, data)
        work.replace(path)
    except OSError as exc:
        raise DataError(
            f"Cannot write {str(path)!r} ({exc.strerror or exc}): free space or fix its rights; "
            "what it held is untouched."
        ) from exc
    finally:
        work.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise IndexMissing(f"{str(path)!r} is missing: run `solemate kb build`.") from exc
    if hashlib.sha256(data).hexdigest() != expected:
        raise IndexMissing(f"{str(path)!r} is damaged: run `solemate kb build`.")
    return data
