"""Every minimal-norm attack: the nearest point of a linear model, and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.conftest import interior, linear, points, source, tiny_net
from torch import Tensor

from unfooled.attacks.alma import alma, penalty, slope
from unfooled.attacks.bisect import bisect
from unfooled.attacks.ddn import ddn
from unfooled.attacks.fmn import fmn
from unfooled.attacks.pdpgd import pdpgd, proximal
from unfooled.attacks.sigma_zero import sigma_zero
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.errors import BadInput
from unfooled.core.model.modes import counted
from unfooled.core.types import Model
from unfooled.evaluation.verify import verify

Minimal = Callable[..., Tensor]
PAIRS = [
    (ddn, 2.0),
    (sigma_zero, 0.0),
    *((fmn, p) for p in NORMS),
    *((bisect, p) for p in (1.0, 2.0, math.inf)),
    *((pdpgd, p) for p in (1.0, 2.0, math.inf)),
    *((alma, p) for p in (1.0, 2.0)),
]
IDS = [f"{attack.__name__}-{norm:g}" for attack, norm in PAIRS]
every = pytest.mark.parametrize(("attack", "norm"), PAIRS, ids=IDS)
SHAPE = (1, 6, 5)


def distances(model: Model, x: Tensor, y: Tensor, z: Tensor, norm: float, *, targeted: bool = False) -> Tensor:
    return verify(model, x, y, z, NORMS[norm](math.inf), targeted=targeted).distance


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_two_classes_linear_is_exact(attack: Minimal, norm: float, dtype: torch.dtype) -> None:
    model, x = linear(2, SHAPE, dtype=dtype), interior(8, SHAPE, dtype=dtype)
    y = model(x).argmax(1)
    # alma swings about the boundary with steps of a scale that is asked for, whatever the distance.
    z = alma(model, x, y, norm, steps=500, first=0.02) if attack is alma else attack(model, x, y, norm, steps=200)
    assert z.dtype == dtype
    found = distances(model, x, y, z, norm)
    if norm == 0:
        assert bool((found == 1).all())
        return
    best = model.distance(x, y, norm)
    assert bool((found >= best * (1 - 1e-4)).all())
    # pdpgd swings about the boundary: its last per cents are left to an attack that starts from its result.
    slack = {pdpgd: 1.04, alma: 1.15}.get(attack, 1.005)
    assert bool((found <= best * slack).all()), found / best


@every
def test_at_least_as_near_as_a_random_search(attack: Minimal, norm: float) -> None:
    model, x = tiny_net(3, SHAPE), points(10, SHAPE, seed=2)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = distances(model, x, y, attack(model, x, y, norm, steps=150), norm)
    threat = NORMS[norm](math.inf)
    nearest = torch.full_like(found, torch.inf)
    for seed in range(300):
        near = threat.with_eps(nearest.clamp(max=3.0)).sample(x, seed)
        nearest = torch.minimum(nearest, distances(model, x, y, near, norm))
    assert bool(torch.isfinite(found).all())
    assert bool((found <= nearest + 1e-6).all())


@every
def test_nothing_is_touched_and_the_batch_does_not_matter(attack: Minimal, norm: float) -> None:
    model, x = tiny_net(3, SHAPE), points(7, SHAPE, seed=4)
    with torch.no_grad():
        y = model(x).argmax(1)
    kept, state = x.clone(), torch.get_rng_state()
    whole = attack(model, x, y, norm, steps=30)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(whole, attack(model, x, y, norm, steps=30))
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    parts = torch.cat([attack(model, x[r], y[r], norm, steps=30) for r in order.split(3)])
    a, b = distances(model, x, y, whole, norm)[order], distances(model, x[order], y[order], parts, norm)
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


@every
def test_targets_are_hit(attack: Minimal, norm: float) -> None:
    model, x = linear(4, SHAPE), interior(6, SHAPE)
    target = (model(x).argmax(1) + 1) % 4
    z = attack(model, x, target, norm, targeted=True, steps=100)
    assert bool(torch.isfinite(distances(model, x, target, z, norm, targeted=True)).all())


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


@every
def test_already_wrong_stays_and_failure_returns_x(attack: Minimal, norm: float) -> None:
    model, x = tiny_net(3, SHAPE), points(4, SHAPE)
    with torch.no_grad():
        y = (model(x).argmax(1) + 1) % 3
    assert bool((distances(model, x, y, attack(model, x, y, norm, steps=5), norm) == 0).all())

    def sure(z: Tensor) -> Tensor:
        s = z.flatten(1).sum(1)
        return torch.stack([s + 99, s * 0.5], 1)

    z = attack(sure, x, torch.zeros(4, dtype=torch.int64), norm, steps=5)
    assert torch.equal(z, x)


@every
def test_passes_are_what_is_claimed(attack: Minimal, norm: float) -> None:
    x = points(3, SHAPE)
    with torch.no_grad():
        y = tiny_net(3, SHAPE)(x).argmax(1)
    with counted(tiny_net(3, SHAPE)) as model:
        attack(model, x, y, norm, steps=40)
    assert model.backwards <= 3 * 41
    assert model.forwards <= 3 * (40 + 10 + 2 * 20 + 2)


@pytest.mark.parametrize(
    ("attack", "norm"), [(ddn, 1), (sigma_zero, 2), (fmn, 3), (bisect, 0), (pdpgd, 0), (alma, 0), (alma, math.inf)]
)
def test_other_norms_are_refused(attack: Minimal, norm: float) -> None:
    with pytest.raises(BadInput, match="this attack knows"):
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


@pytest.mark.parametrize(("attack", "norm"), [(a, p) for a, p in PAIRS if a is not ddn], ids=IDS[1:])
def test_a_start_is_never_lost(attack: Minimal, norm: float) -> None:
    model, x = tiny_net(3, SHAPE), points(8, SHAPE, seed=2)
    with torch.no_grad():
        y = model(x).argmax(1)
    start = attack(model, x, y, norm, steps=60)
    before = distances(model, x, y, start, norm)
    after = distances(model, x, y, attack(model, x, y, norm, steps=8, start=start), norm)
    assert bool((after <= before * (1 + 1e-6)).all())
