"""The seal on what a training left: it came to its end, these are its files, and nothing since."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import AdapterRejected

SEAL = "seal.json"
_CHUNK = 1 << 20


class Seal(BaseModel):
    """What was trained, from what, and the SHA-256 of every file of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    attempt: int
    dataset: str
    base: str
    recipe: str
    files: dict[str, str]


def put_seal(folder: Path, *, run: str, attempt: int, dataset: str, base: str, recipe: str) -> Seal:
    """Seal a folder; whoever finds the seal finds it whole. `recipe` is the digest of the keys."""
    seal = Seal(
        run=run, attempt=attempt, dataset=dataset, base=base, recipe=recipe, files=_files(folder)
    )
    fresh = folder / f".{SEAL}"
    with fresh.open("w", encoding="utf-8") as file:
        file.write(seal.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / SEAL)
    return seal


def check_seal(folder: Path, *, run: str, dataset: str) -> Seal:
    """The folder's seal; `AdapterRejected` without one, for another run's, and for other files."""
    try:
        seal = Seal.model_validate_json((folder / SEAL).read_bytes())
    except (OSError, ValidationError) as exc:
        raise AdapterRejected(
            f"{str(folder)!r} has no seal: its training did not come to an end. Train again."
        ) from exc
    if (seal.run, seal.dataset) != (run, dataset):
        raise AdapterRejected(
            f"{str(folder)!r} was sealed by run {seal.run!r}, not by {run!r}. Train again."
        )
    found = _files(folder)
    changed = sorted(name for name in found | seal.files if found.get(name) != seal.files.get(name))
    if changed:
        raise AdapterRejected(
            f"{str(folder / changed[0])!r} is not the file that was trained. Train again."
        )
    return seal


def _files(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file but the seal."""
    return {
        str(path.relative_to(folder)): _sha(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (SEAL, f".{SEAL}")
    }


def _sha(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
