"""A cross-encoder that reads question and passage together, for those who can afford one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from core.device import check_device
from core.embedding import prepared
from core.errors import ConfigError

log = structlog.get_logger()


class CrossEncoderReranker:
    """A sentence-transformers `CrossEncoder`, loaded when first asked; one call at a time."""

    def __init__(self, model: str, device: str) -> None:
        self._model_name = model
        self._device = device
        self._lock = Lock()

    def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """One score of 0 to 1 a text."""
        pairs = [(prepared(question), text) for text in texts]
        with self._lock:
            model, sigmoid = self._model
            found = model.predict(pairs, activation_fn=sigmoid, show_progress_bar=False)
        return np.asarray(found, np.float32).reshape(len(texts))

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        from sentence_transformers import CrossEncoder  # takes seconds to import
        from torch.nn import Sigmoid

        check_device(self._device, "retrieval.device")
        log.info("reranker_loading", model=self._model_name, device=self._device)
        try:
            return CrossEncoder(self._model_name, device=self._device), Sigmoid()
        except (OSError, ValueError, RuntimeError) as exc:
            raise ConfigError(
                f"retrieval.reranker {self._model_name!r} cannot be loaded "
                f'({str(exc).splitlines()[0]:.200}): name an existing folder or hub model, or "".'
            ) from exc
