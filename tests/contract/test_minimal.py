"""Every minimal-norm attack: the nearest point of a linear model, and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.conftest import interior, linear, points, source, tiny_net
from tests.contract.rows import Row, pairs, with_new_ones
from torch import Tensor

from unfooled.attacks.alma import alma, penalty, slope
from unfooled.attacks.bisect import bisect
from unfooled.attacks.ddn import ddn
from unfooled.attacks.fab import fab
from unfooled.attacks.fmn import fmn
from unfooled.attacks.hop_skip_jump import hop_skip_jump
from unfooled.attacks.pdpgd import pdpgd, proximal
from unfooled.attacks.rays import rays
from unfooled.attacks.sigma_zero import sigma_zero
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.errors import BadInput
from unfooled.core.types import Model
from unfooled.evaluation.verify import verify

Minimal = Callable[..., Tensor]
SMOOTH = (math.inf, 2.0, 1.0)
COST = (40 + 10 + 2 * 20 + 2, 41)
"""At most so many forwards and backwards for 40 steps."""
EXACT = {"optimum": 1.005, "passes": COST, "hit_rate": 1}
SHORT = {"steps": 30}
EFFORT: dict[str, dict[str, Any]] = {
    "optimum": {"steps": 200},
    "random": {"steps": 150},
    "targeted": {"steps": 100},
    "passes": {"steps": 40},
}
"""Steps for what takes more than `SHORT` has."""
ROWS = {
    "ddn": Row(ddn, (2.0,), SHORT, EXACT, EFFORT),
    "sigma_zero": Row(sigma_zero, (0.0,), SHORT, EXACT, EFFORT, keeps_start=True),
    "fmn": Row(fmn, (math.inf, 2.0, 1.0, 0.0), SHORT, EXACT, EFFORT, keeps_start=True),
    "bisect": Row(bisect, SMOOTH, SHORT, EXACT, EFFORT, keeps_start=True),
    # Swings about the boundary: its last per cents are left to an attack that starts from its result.
    "pdpgd": Row(pdpgd, SMOOTH, SHORT, {**EXACT, "optimum": 1.04}, EFFORT, keeps_start=True),
    # Swings too, with steps of a scale that is asked for, whatever the distance.
    "alma": Row(
        alma,
        (2.0, 1.0),
        SHORT,
        {**EXACT, "optimum": 1.15},
        {**EFFORT, "optimum": {"steps": 500, "first": 0.02}},
        keeps_start=True,
    ),
    "fab": Row(
        fab,
        SMOOTH,
        {"steps": 20},
        {"optimum": 1.01, "hit_rate": 1},
        {"random": {"steps": 100}, "targeted": {"steps": 40}},
        keeps_start=True,
    ),
    # Labels alone: targets need a start, and few queries do not beat a random search.
    "rays": Row(rays, (math.inf,), {"steps": 100}, {"targeted": False}),
    "hop_skip_jump": Row(
        hop_skip_jump,
        (math.inf, 2.0),
        {"steps": 100},
        {"targeted": False, "seeded": True},
        {"random": {"steps": 400}},
        keeps_start=True,
    ),
}
SHAPE = (1, 6, 5)


def distances(model: Model, x: Tensor, y: Tensor, z: Tensor, norm: float, *, targeted: bool = False) -> Tensor:
    return verify(model, x, y, z, NORMS[norm](math.inf), targeted=targeted).distance


@pytest.mark.parametrize(("row", "norm"), pairs(with_new_ones(ROWS, "norm")))
def test_contract(row: Row, norm: float) -> None:
    row.check(norm)


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_alma_sees_a_slope_towards_a_target_that_is_third(norm: float) -> None:
    # The ratio of an attack without target, margin / (first - third logit), is 1 wherever the target is third.
    model, x = linear(3, SHAPE), interior(6, SHAPE)
    third = model(x).argmin(1)
    near, far = (
        attack(model, x, third, norm, targeted=True, steps=200) for attack in (partial(alma, first=0.05), pdpgd)
    )
    found, other = (distances(model, x, third, z, norm, targeted=True) for z in (near, far))
    # Short first steps: a multiplier that is not bounded ends at 3.7 and 2.5 times the other's distance.
    assert bool((found <= {1.0: 3.2, 2.0: 1.5}[norm] * other).all()), found / other


@pytest.mark.parametrize(
    ("attack", "norm"), [(ddn, 1), (sigma_zero, 2), (fmn, 3), (bisect, 0), (pdpgd, 0), (alma, 0), (alma, math.inf)]
)
def test_other_norms_are_refused(attack: Minimal, norm: float) -> None:
    with pytest.raises(BadInput, match="this attack supports"):
        attack(linear(2, SHAPE), interior(2, SHAPE), torch.zeros(2, dtype=torch.int64), norm)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_proximal_steps_are_minima(norm: float) -> None:
    u = torch.randn(6, 9, generator=source(0), dtype=torch.float64)
    h = 0.1 + 3 * torch.rand(6, 9, generator=source(1), dtype=torch.float64)
    c = torch.tensor([0.0, 0.01, 0.3, 1.0, 3.0, 60.0], dtype=u.dtype)

    def cost(d: Tensor) -> Tensor:
        return (h * (d - u).square() / 2).sum(1) + c * d.norm(p=norm, dim=1)

    d = proximal(u, h, c, norm)
    assert torch.equal(d[0], u[0]) or norm == 2
    torch.testing.assert_close(d[0], u[0])
    assert not d[5].any()
    for seed in range(40):
        for size in (1.0, 1e-2, 1e-4):
            step = size * torch.randn(6, 9, generator=source(seed), dtype=u.dtype)
            assert bool((cost(d + step) >= cost(d) - 1e-12).all())
            assert bool((cost(d * (1 + step[:, :1])) >= cost(d) - 1e-12).all())


def test_the_price_of_the_constraint_rises_smoothly_from_mu() -> None:
    c = torch.linspace(-3, 3, 601, dtype=torch.float64).requires_grad_()
    rho, mu = torch.full_like(c, 1.7), torch.full_like(c, 0.6)
    value = penalty(c, rho, mu)
    (g,) = torch.autograd.grad(value.sum(), c)
    assert bool((g[1:] > g[:-1]).all() and (g > 0).all())
    torch.testing.assert_close(slope(c, rho, mu).detach(), g)
    assert float(value[300].detach()) == pytest.approx(0, abs=1e-12)
    assert float(g[300]) == pytest.approx(0.6)
    # mu + 2 mu rho c + rho^2 c^2 / 2 and mu / (1 - rho c)^2
    assert float(g[600]) == pytest.approx(0.6 + 2 * 0.6 * 1.7 * 3 + 1.7**2 * 9 / 2)
    assert float(g[0]) == pytest.approx(0.6 / (1 + 1.7 * 3) ** 2)


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_alma_begins_with_a_step_of_the_size_asked_for(norm: float) -> None:
    net, x = linear(3, SHAPE), interior(5, SHAPE)
    y, seen = net(x).argmax(1), []

    def model(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return net(z)

    # With the whole share for the past, RMSProp's average stays at the 1 that it starts from, and scales nothing.
    alma(model, x, y, norm, steps=2, first=0.07, average=1 - 1e-6)
    first, second = seen[-12], seen[-11]  # 10 queries follow in the walk back
    assert torch.equal(first, x)
    torch.testing.assert_close(NORMS[norm](math.inf).size(second - x), torch.full((5,), 0.07), rtol=1e-3, atol=0)


@pytest.mark.parametrize("option", [{"first": 0.0}, {"average": 1.0}, {"average": -0.1}])
def test_alma_refuses_options_out_of_range(option: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="they must be"):
        alma(linear(2, SHAPE), interior(2, SHAPE), torch.zeros(2, dtype=torch.int64), **option)


@pytest.mark.parametrize(("row", "norm"), pairs({name: row for name, row in ROWS.items() if row.keeps_start}))
def test_a_start_is_never_lost(row: Row, norm: float) -> None:
    model, x = tiny_net(3, SHAPE), points(8, SHAPE, seed=2)
    with torch.no_grad():
        y = model(x).argmax(1)
    start = row(model, x, y, norm, steps=60)
    before = distances(model, x, y, start, norm)
    after = distances(model, x, y, row(model, x, y, norm, steps=8, start=start), norm)
    assert bool((after <= before * (1 + 1e-6)).all())
