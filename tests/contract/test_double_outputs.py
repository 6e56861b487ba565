"""Attacks on models that return float64 for float32 samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unfooled import Linf, attacks, verify

torch.manual_seed(0)
NET = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
X = torch.rand(6, 1, 4, 4)
Y = NET(X).argmax(1).detach()
BUDGET = ("fgsm", "pgd")
MINIMAL = {"fab": math.inf, "alma": 2, "ddn": 2, "fmn": math.inf, "pdpgd": 2, "sigma_zero": 0}


class Double(nn.Module):
    """A network that returns float64, and computes in it."""

    def __init__(self, *, inside: bool) -> None:
        super().__init__()
        self.net, self.inside = NET, inside

    def forward(self, x: Tensor) -> Tensor:
        if not self.inside:
            return self.net(x).double()
        weights = {name: value.double() for name, value in self.net.named_parameters()}
        return torch.func.functional_call(self.net, weights, (x.double(),))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", [*BUDGET, *MINIMAL])
def test_an_attack_takes_it(name: str, inside: bool) -> None:
    attack: Callable[..., Any] = getattr(attacks, name)
    where = Linf(0.5) if name in BUDGET else MINIMAL[name]
    z = attack(Double(inside=inside).eval(), X, Y, where)
    assert z.dtype == X.dtype
    found, expected = (verify(NET, X, Y, points, Linf(1)).success for points in (z, attack(NET, X, Y, where)))
    assert int(found.sum()) >= int(expected.sum()) - 1
    assert found.any()
