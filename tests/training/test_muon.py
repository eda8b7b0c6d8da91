"""Muon's steps have no favourite direction, and lead downhill."""

from __future__ import annotations

import pytest
import torch

from training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4)])
def test_all_directions_come_to_about_one_size(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape) * 50
    before = torch.linalg.svdvals(matrix)
    after = torch.linalg.svdvals(orthogonalised(matrix))
    assert after.min() > 0.5
    assert after.max() < 1.3
    assert before.max() / before.min() > after.max() / after.min()


def test_a_square_is_made_smaller_step_by_step_and_only_where_there_is_a_gradient() -> None:
    torch.manual_seed(1)
    wanted, moved, left = torch.randn(6, 6), torch.zeros(6, 6), torch.ones(3, 3)
    matrix, other = torch.nn.Parameter(moved), torch.nn.Parameter(left)
    optimizer = Muon([matrix, other], lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (matrix - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    assert torch.equal(other, torch.ones(3, 3))


def test_weight_decay_shrinks_what_the_gradient_leaves_alone() -> None:
    matrix = torch.nn.Parameter(torch.ones(4, 4))
    matrix.grad = torch.zeros(4, 4)
    Muon([matrix], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(matrix, torch.full((4, 4), 0.95))
