"""No answer is no robustness: points without a finite answer are counted apart, and found where attacks reach them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled import Linf, workflows
from unfooled.attacks import pgd
from unfooled.core.errors import BadInput
from unfooled.evaluation.checks.after import diagnose
from unfooled.evaluation.checks.refusals import refusals

SHAPE = (1, 6, 5)
NET, OTHER = tiny_net(5, SHAPE), tiny_net(5, SHAPE, seed=7)


class Unsure(nn.Module):
    """Gives no answer where it is less sure than on clean samples."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net = net
        self.least = float(self.gap(net(x)).min()) * 0.9

    def gap(self, z: Tensor) -> Tensor:
        top = z.topk(2, dim=1).values.detach()
        return top[:, 0] - top[:, 1]

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return z.masked_fill((self.gap(z) < self.least)[:, None], torch.nan)


def test_an_ascent_finds_refusals_that_random_points_do_not() -> None:
    x = points(16, SHAPE, seed=3)
    y = NET(x).argmax(1)
    model = Unsure(NET, x).eval()
    assert refusals(model, x, y, Linf(0.2)).fired
    assert not refusals(NET, x, y, Linf(0.2)).fired
    found = diagnose(model, x, y, Linf(0.2), x)
    assert any(f.id == "D22" and f.fired for f in found)


def test_an_attack_counts_no_answer_apart(tmp_path: Path) -> None:
    x = points(12, SHAPE, seed=3)
    y = NET(x).argmax(1)

    class Grid(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            known = (z[:, None] == x[None]).flatten(2).all(2).any(1)
            return NET(z).masked_fill(~known[:, None], torch.nan)

    def attacked(model: nn.Module) -> workflows.attacking.AttackRecord:
        out = tmp_path / f"{type(model).__name__}.npz"
        return workflows.attack(
            workflows.Inputs(model.eval(), (x, y)), Linf(0.1), attack=partial(pgd, steps=2), out=out
        )

    record = attacked(Grid())
    assert record.clean_accuracy.value == 1
    assert record.robust_accuracy.value == 1 - record.undefined / 12
    with pytest.raises(BadInput, match="NaN or infinite logits for 12 of 12 clean samples"):
        attacked(nn.Sequential(nn.Flatten(), nn.Linear(30, 5).requires_grad_(False), Nan()))


class Nan(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * torch.nan
