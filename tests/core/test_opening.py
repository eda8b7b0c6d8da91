"""What is opened by several processes at once, on one state folder."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from core.errors import ConfigError
from core.opening import open_retriever, open_vision, secret
from core.settings import load_settings

REPLICAS = 8


def test_replicas_that_begin_together_have_one_secret(tmp_path: Path) -> None:
    for attempt in range(20):
        file = tmp_path / "state" / f"people-secret-{attempt}"
        together = Barrier(REPLICAS)

        def begin(_: int, file: Path = file, together: Barrier = together) -> str:
            together.wait()
            return secret(file)

        with ThreadPoolExecutor(REPLICAS) as replicas:
            found = set(replicas.map(begin, range(REPLICAS)))
        assert found == {file.read_text("utf-8")}
        assert len(found.pop()) > 30
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_path_to_no_model_is_named_at_once_and_no_hub_is_asked(tmp_path: Path) -> None:
    def settings(key: str, path: str) -> dict[str, str]:
        return {"SOLEMATE__DATABASE__FOLDER": str(tmp_path), f"SOLEMATE__{key}": path}

    words = settings("RETRIEVAL__EMBEDDING_MODEL", "data/missing")
    with pytest.raises(ConfigError, match="retrieval.embedding_model = 'data/missing' is neither"):
        await open_retriever(load_settings(environment=words))
    second = settings("RETRIEVAL__RERANKER", "/missing/reranker")
    with pytest.raises(ConfigError, match="retrieval.reranker = '/missing/reranker' is neither"):
        await open_retriever(load_settings(environment=second))
    photos = settings("VISION__MODEL", "./missing")
    with pytest.raises(ConfigError, match=r"vision.model = '\./missing' is neither"):
        open_vision(load_settings(environment=photos))
