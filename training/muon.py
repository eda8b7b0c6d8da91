"""Muon: steps for weight matrices whose directions are all of one size.

torch has one of its own, but it orthogonalises in bf16, which a CPU without bf16 units emulates: a
hundred times slower there than the same in float32. Keller Jordan, "Muon", 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

# The coefficients of the iteration, and how often it is done: steep at 0, about 1 from there on.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_TIMES = 5


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, on matrices; weight decay is apart from the step."""

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group)

    def _move(self, matrix: torch.Tensor, group: dict[str, Any]) -> None:
        assert matrix.grad is not None
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        mean = state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
        # Nesterov's: the momentum as it will be after the next gradient of this kind.
        ahead = matrix.grad.lerp(mean, group["momentum"])
        rate: float = group["lr"]
        # A tall matrix gets more, so that the size of what it puts out changes alike for all.
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        matrix.mul_(1 - rate * group["weight_decay"])
        matrix.add_(orthogonalised(ahead), alpha=-rate * scale)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly U Vᵀ of the singular value decomposition U S Vᵀ: its singular values go to about 1.

    Newton and Schulz's iteration in a quintic form; shape and dtype stay.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    found: torch.Tensor = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(_TIMES):
        square = found @ found.T
        found = _A * found + (_B * square + _C * square @ square) @ found
    return found.T if tall else found
