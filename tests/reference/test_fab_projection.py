"""The projection onto a plane inside the box, against a bisection for one sample at a time and a linear programme."""

from __future__ import annotations

import math
import os
import sys

import pytest
import torch
from scipy.optimize import linprog
from tests.conftest import points, source
from torch import Tensor

from unfooled.attacks.fab import to_plane
from unfooled.core.ascent.nearest import NORMS

norms = pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])


def problems(n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Points with entries on the edges of the box, planes with zero entries, values on both sides, in reach or not."""
    t = points(n, (d,), dtype=dtype)
    t = torch.where(t < 0.15, 0.0, torch.where(t > 0.85, 1.0, t))
    g = torch.randn(n, d, generator=source(1), dtype=torch.float64).to(dtype)
    g = torch.where(points(n, (d,), dtype=dtype, seed=2) < 0.2, 0.0, g)
    reach = (g.abs().sum(1) / 2) * torch.linspace(-0.9, 0.9, n, dtype=dtype)
    return t, reach, g


def slow(t: Tensor, value: float, g: Tensor, norm: float) -> Tensor:
    """For Linf and L2, by bisection on the multiplier: the change shrinks the value, entry by entry."""
    down = -math.copysign(1.0, value) * g
    room = torch.where(down > 0, 1 - t, t)

    def change(lam: float) -> Tensor:
        length = torch.full_like(t, lam) if norm == math.inf else lam * g.abs()
        return down.sign() * torch.minimum(room, length)

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float(down @ change(middle)) < abs(value) else (low, middle)
    return change(high)


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_bisection_agrees(norm: float) -> None:
    t, value, g = problems(60, 12)
    d = to_plane(t, value, g, norm)
    for i in range(len(t)):
        torch.testing.assert_close(d[i], slow(t[i], float(value[i]), g[i], norm), rtol=0, atol=1e-9)


def test_linear_programme_agrees() -> None:
    """L1: minimise the sum of p + q with p, q in the room above and below, and value + <g, p - q> = 0."""
    t, value, g = problems(60, 12)
    d, solved = to_plane(t, value, g, 1.0), 0
    for i in range(len(t)):
        a, up = g[i].numpy(), (1 - t[i]).numpy()
        bounds = [*((0, r) for r in up), *((0, r) for r in t[i].numpy())]
        found = linprog([1.0] * 24, A_eq=[[*a, *-a]], b_eq=[-float(value[i])], bounds=bounds)
        if found.success:
            solved += 1
            assert float(d[i].abs().sum()) == pytest.approx(found.fun, abs=1e-7)
    assert 20 < solved < 60


@norms
def test_on_the_plane_or_as_near_as_the_box_allows(norm: float) -> None:
    t, value, g = problems(200, 30)
    z = t + to_plane(t, value, g, norm)
    assert bool(((z >= -1e-12) & (z <= 1 + 1e-12)).all())
    left = value + (g * (z - t)).sum(1)
    corner = torch.where(-value[:, None] * g > 0, 1.0, torch.where(g == 0, t, 0.0))
    unreachable = value + (g * (corner - t)).sum(1)
    far = unreachable * value.sign() > 0
    assert 0 < int(far.sum()) < 200
    torch.testing.assert_close(left[~far], torch.zeros_like(left[~far]), rtol=0, atol=1e-9)
    torch.testing.assert_close(z[far], corner[far])


@norms
def test_scale_of_the_gradient_and_company_do_not_matter(norm: float) -> None:
    t, value, g = problems(20, 30, torch.float32)
    d = to_plane(t, value, g, norm)
    torch.testing.assert_close(to_plane(t, value * 1e-18, g * 1e-18, norm), d, rtol=1e-4, atol=1e-6)
    alone = torch.cat([to_plane(t[i : i + 1], value[i : i + 1], g[i : i + 1], norm) for i in range(20)])
    torch.testing.assert_close(alone, d, rtol=1e-5, atol=1e-7)
    zero = torch.zeros_like(value)
    assert not to_plane(t, zero, g, norm).any()
    assert not to_plane(t, value, torch.zeros_like(g), norm).any()


@norms
def test_the_published_projection_agrees(norm: float) -> None:
    """Against github.com/fra31/auto-attack, where UNFOOLED_AUTOATTACK says where it lies."""
    path = os.environ.get("UNFOOLED_AUTOATTACK")
    if not path:
        pytest.skip("UNFOOLED_AUTOATTACK, the folder that holds the published autoattack package, is not set")
    sys.path.insert(0, path)
    try:
        theirs = pytest.importorskip("autoattack.fab_projections")
    finally:
        sys.path.remove(path)
    t, value, g = problems(200, 30, torch.float32)
    name = {1.0: "projection_l1", 2.0: "projection_l2", math.inf: "projection_linf"}[norm]
    other = getattr(theirs, name)(t, g, (g * t).sum(1) - value)
    ours, threat = to_plane(t, value, g, norm), NORMS[norm](math.inf)
    missed, size = (value + (g * ours).sum(1)).abs(), threat.size(ours)
    missed_there, size_there = (value + (g * other).sum(1)).abs(), threat.size(other)
    reached = missed_there < 1e-4
    assert int(reached.sum()) > 100
    assert bool((missed <= missed_there + 1e-4).all())
    torch.testing.assert_close(size[reached], size_there[reached], rtol=1e-3, atol=1e-4)
