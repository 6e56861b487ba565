"""Contract of the threats, by hypothesis: any shape, any radius, any box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import kstest
from tests.conftest import interior, points, source
from torch import Tensor

from unfooled.core.shapes import flat
from unfooled.core.threat_text import eps_text
from unfooled.core.threats import L0, L1, L2, Box, Linf, Threat, project_l1_box

KINDS: list[type[Threat]] = [Linf, L2, L1, L0]
every_kind = pytest.mark.parametrize("kind", KINDS)
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Case:
    """Centres in a box, points all over the place, and the numbers a threat is made of."""

    x: Tensor
    z: Tensor
    other: Tensor
    eps: Tensor
    box: Box

    def threat(self, kind: type[Threat], *, per_row: bool = True) -> Threat:
        d = self.x[0].numel()
        eps = (self.eps * d).floor() if kind is L0 else self.eps * {Linf: 1, L2: math.sqrt(d), L1: d}[kind] / 2
        return kind(eps if per_row else float(eps[0]), box=self.box)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    generator = source(draw(st.integers(0, 10**6)))
    shape = draw(st.sampled_from([(1,), (5,), (2, 3), (3, 2, 4)]))
    n, low = draw(st.integers(1, 4)), draw(st.sampled_from([0.0, -1.0]))
    spread = draw(st.sampled_from([0.01, 0.3, 3.0]))
    x = low + (1 - low) * torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    corner = torch.rand(x.shape, generator=generator) < 0.2
    x = torch.where(corner, torch.where(x > (low + 1) / 2, 1.0, low), x)
    z, other = (x + spread * torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(2))
    return Case(x, z, other, torch.rand(n, generator=generator, dtype=x.dtype), Box(low, 1.0))


@every_kind
@few
@given(case=cases())
def test_project_lands_inside_and_stays(kind: type[Threat], case: Case) -> None:
    threat = case.threat(kind)
    p = threat.project(case.z, case.x)
    assert (threat.size(p - case.x) <= torch.as_tensor(threat.eps) * (1 + 1e-12) + 1e-12).all()
    assert p.min() >= case.box.low
    assert p.max() <= case.box.high
    torch.testing.assert_close(threat.project(p, case.x), p, rtol=0, atol=1e-12)


@every_kind
@few
@given(case=cases())
def test_project_keeps_what_is_inside(kind: type[Threat], case: Case) -> None:
    threat = case.threat(kind)
    delta, eps = flat(case.other - case.x), torch.as_tensor(threat.eps)[:, None]
    if kind is L0:
        delta = delta * (torch.arange(delta.shape[1]) < eps)
    else:
        delta = delta * (0.99 * eps / threat.size(delta)[:, None])
    inner = case.box.clamp(case.x + delta.reshape(case.x.shape))
    assert torch.equal(threat.project(inner, case.x), inner)
    assert torch.equal(threat.project(case.x, case.x), case.x)


@every_kind
def test_what_fits_does_not_move_by_a_bit(kind: type[Threat]) -> None:
    x, z = torch.ones(50, 6), points(50, (6,)) * 1e-3  # x + (z - x) is not z in floating point
    assert torch.equal(kind(6).project(z, x), z)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@few
@given(case=cases())
def test_project_does_not_expand(kind: type[Threat], case: Case) -> None:
    # Ball and box are each the nearest point of a convex set, hence non-expansive, hence so is one after the other.
    threat = case.threat(kind)
    moved = flat(threat.project(case.z, case.x) - threat.project(case.other, case.x)).norm(dim=1)
    assert (moved <= flat(case.z - case.other).norm(dim=1) * (1 + 1e-12) + 1e-12).all()


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@few
@given(case=cases())
def test_project_onto_the_ball_is_the_nearest_point(kind: type[Threat], case: Case) -> None:
    # <z - p, q - p> <= 0 for every q of the ball characterises the projection onto it.
    threat = case.threat(kind).with_eps(case.eps)
    threat = type(threat)(threat.eps, box=Box(-100, 100))
    p = threat.project(case.z, case.x)
    for stage in range(3):
        q = threat.sample(case.x, stage)
        assert (flat((case.z - p) * (q - p)).sum(1) <= 1e-9).all()


@few
@given(case=cases())
def test_l0_projection_is_the_nearest_point(case: Case) -> None:
    x, z = flat(case.x)[:1, :6], flat(case.z)[:1, :6]
    k = int(case.eps[0] * 7)
    inside = case.box.clamp(z)
    masks = torch.cartesian_prod(*[torch.tensor([False, True])] * x.shape[1]).reshape(-1, x.shape[1])
    every = torch.where(masks[masks.sum(1) <= k], inside, x)
    best = (every - z).square().sum(1).min()
    p = L0(k, box=case.box).project(z, x)
    torch.testing.assert_close((p - z).square().sum(), best)


@every_kind
@few
@given(case=cases())
def test_steepest_attains_the_dual_norm(kind: type[Threat], case: Case) -> None:
    g, threat = case.z - 0.5, case.threat(kind)
    rows, step = flat(g).abs(), threat.steepest(g)
    gain = flat(g * step).sum(1)
    if kind is L0:
        top = rows.sort(dim=1, descending=True).values
        within = torch.arange(rows.shape[1]) < torch.as_tensor(threat.eps)[:, None]
        torch.testing.assert_close(gain, (top * within).sum(1))
        assert (threat.size(step) <= threat.eps).all()
    else:
        dual = {Linf: 1.0, L2: 2.0, L1: math.inf}[kind]
        torch.testing.assert_close(gain, rows.norm(p=dual, dim=1))
        torch.testing.assert_close(threat.size(step), torch.ones(len(g), dtype=g.dtype))
    assert not threat.steepest(torch.zeros_like(g)).any()


@every_kind
def test_tiny_and_huge_gradients_have_a_direction(kind: type[Threat]) -> None:
    g = torch.randn(3, 8, generator=source(0))
    for scale in (1e-35, 1e30):
        torch.testing.assert_close(kind(2).steepest(g * scale), kind(2).steepest(g))


@every_kind
@few
@given(case=cases())
def test_samples_are_inside_and_belong_to_the_row(kind: type[Threat], case: Case) -> None:
    threat = case.threat(kind)
    z = threat.sample(case.x, source(7), stage=2)
    assert (threat.size(z - case.x) <= torch.as_tensor(threat.eps) * (1 + 1e-9) + 1e-12).all()
    assert z.min() >= case.box.low
    assert z.max() <= case.box.high
    for i in range(len(case.x)):
        rows = torch.tensor([i])
        alone = threat.take(rows).sample(case.x[rows], source(7), stage=2)
        assert torch.equal(alone[0], z[i])
    scalar = case.threat(kind, per_row=False)
    assert torch.equal(scalar.sample(case.x[:1], source(7), stage=2), z[:1])
    assert scalar.take(torch.tensor([0])) is scalar


@every_kind
def test_draws_stages_and_seeds_differ(kind: type[Threat]) -> None:
    x = points(5, (4, 4))
    threat = kind(4 if kind is L0 else 0.3)
    draws = [
        threat.sample(x, 0),
        threat.sample(x, 1),
        threat.sample(x, 0, draw=1),
        threat.sample(x, 0, stage=1),
    ]
    for i, a in enumerate(draws):
        assert all((flat(a != b)).any(1).all() for b in draws[:i])
    assert torch.equal(threat.sample(x, 0, draw=torch.ones(5, dtype=torch.int64)), draws[2])


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_samples_are_uniform_in_the_ball(kind: type[Threat]) -> None:
    x, eps = interior(4000, (3,), dtype=torch.float64), 0.2
    delta = (kind(eps).sample(x) - x) / eps
    assert kstest((kind(eps).size(delta) ** 3).numpy(), "uniform").pvalue > 0.01
    assert (delta.mean(0).abs() < 0.03).all()
    assert ((delta > 0).double().mean(0) - 0.5).abs().max() < 0.03
    axes = delta.abs().argmax(1).bincount() / 4000
    assert (axes - 1 / 3).abs().max() < 0.03
    size = kind(eps).size(delta)
    together = torch.corrcoef(torch.cat([size[None], (delta.abs() / size[:, None]).T]))
    assert together[0, 1:].abs().max() < 0.05, "how far says nothing of where to"


def test_corners_are_corners() -> None:
    x = interior(2000, (4,), dtype=torch.float64)
    delta = Linf(0.1).corner(x) - x
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1))
    assert ((delta > 0).double().mean(0) - 0.5).abs().max() < 0.04
    assert not torch.equal(Linf(0.1).corner(x, 1), Linf(0.1).corner(x, 2))
    assert Linf(math.inf).corner(x).unique().tolist() == [0, 1]


@every_kind
@few
@given(case=cases())
def test_extreme_points_are_inside_and_belong_to_the_sample(kind: type[Threat], case: Case) -> None:
    threat = case.threat(kind)
    z = threat.extreme(case.x, 3, draw=2)
    assert (threat.size(z - case.x) <= torch.as_tensor(threat.eps) * (1 + 1e-12) + 1e-12).all()
    assert z.min() >= case.box.low
    assert z.max() <= case.box.high
    rows = torch.arange(len(z)).flip(0)
    assert torch.equal(threat.take(rows).extreme(case.x[rows], 3, draw=2), z[rows])


@every_kind
def test_extreme_points_are_corners_in_linf_and_samples_elsewhere(kind: type[Threat]) -> None:
    x, threat = 0.3 + 0.4 * points(5, (3, 3)), kind(2.0 if kind is L0 else 0.2)
    for options in ({}, {"draw": 3}, {"stage": 7}, {"draw": 1, "stage": 300}):
        z = threat.extreme(x, 1, **options)
        other = threat.corner if isinstance(threat, Linf) else threat.sample
        assert torch.equal(z, other(x, 1, **options))
    draws = [
        threat.extreme(x, seed, draw=draw, stage=stage)
        for seed, draw, stage in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))
    ]
    assert not any(torch.equal(a, b) for a, b in combinations(draws, 2))


def test_l0_counts_pixels_over_channels() -> None:
    x = points(3, (3, 4, 5))
    threat = L0(4, per="pixel")
    z = threat.sample(x)
    assert threat.size(z - x).tolist() == [4, 4, 4]
    assert L0(4).size(z - x).tolist() == [12, 12, 12]
    p = threat.project(points(3, (3, 4, 5), seed=1), x)
    assert ((p != x).any(1).flatten(1).sum(1) == 4).all()
    g = torch.zeros(1, 3, 4, 5)
    g[0, :, 1, 2], g[0, 0, 3, 3] = 1, 2.5  # a pixel weighs as much as the sum of its channels
    assert L0(1, per="pixel").steepest(g).nonzero()[:, 2:].unique(dim=0).tolist() == [[1, 2]]
    with pytest.raises(ValueError, match='"entry" or "pixel"'):
        L0(4, per="channel")


def twin_l1_box(u: Tensor, room: Tensor, eps: float) -> Tensor:
    """Bisection on the multiplier, one sample."""
    low, high = 0.0, float(u.abs().max())
    for _ in range(200):
        lam = (low + high) / 2
        total = float(torch.minimum(room, (u.abs() - lam).clamp_min(0)).sum())
        low, high = (lam, high) if total > eps else (low, lam)
    lam = 0.0 if float(torch.minimum(room, u.abs()).sum()) <= eps else high
    return u.sign() * torch.minimum(room, (u.abs() - lam).clamp_min(0))


@few
@given(case=cases())
def test_l1_box_projection_is_exact(case: Case) -> None:
    x, z, eps = flat(case.x), flat(case.z), case.eps * case.x[0].numel() / 2
    delta = project_l1_box(z, x, eps, case.box) - x
    u = z - x
    room = torch.where(u > 0, case.box.high - x, x - case.box.low)
    for i in range(len(x)):
        torch.testing.assert_close(delta[i], twin_l1_box(u[i], room[i], float(eps[i])), rtol=0, atol=1e-9)
        # The conditions of Karush, Kuhn and Tucker, with one multiplier for the sum.
        size, c, d = u[i].abs(), room[i], delta[i].abs()
        assert d.sum() <= eps[i] + 1e-9
        free, at_box, at_zero = (d > 1e-9) & (d < c - 1e-9), (d >= c - 1e-9) & (c > 1e-9), d <= 1e-9
        lower = torch.cat([(size - d)[free], size[at_zero & (c > 1e-9)], torch.zeros(1)]).max()
        upper = torch.cat([(size - d)[free], (size - c)[at_box], torch.full((1,), torch.inf)]).min()
        if d.sum() < eps[i] - 1e-9:
            assert lower < 1e-9, "the sum is not reached, so nothing may have been shortened"
        else:
            assert lower <= upper + 1e-9


def test_l1_box_projection_solves_the_quadratic_programme() -> None:
    generator = np.random.default_rng(0)
    for eps in (0.2, 0.7, 1.5):
        x, z = generator.random(5), generator.normal(0.5, 1.0, 5)

        def cost(pq: np.ndarray, x: np.ndarray = x, z: np.ndarray = z) -> float:
            return float(((x + pq[:5] - pq[5:] - z) ** 2).sum())

        found = minimize(
            cost,
            np.zeros(10),
            method="SLSQP",
            bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x],
            constraints={"type": "ineq", "fun": lambda pq, eps=eps: eps - pq.sum()},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        exact = project_l1_box(torch.tensor(z)[None], torch.tensor(x)[None], eps)[0].numpy()
        np.testing.assert_allclose(exact, x + found.x[:5] - found.x[5:], atol=1e-5)


@pytest.mark.parametrize("eps", [0.3, 12.0])
def test_l1_in_single_precision_does_not_leak(eps: float) -> None:
    # A shift that thousands of entries share rounds one way in float32; the sum must not leave the ball by it.
    x = points(4, (3, 32, 32))
    start = L1(eps).sample(x)
    z = start + 0.1 * eps * L1(eps).steepest(torch.randn(x.shape, generator=source(0)))
    for p in (L1(eps).project(z, x), project_l1_box(z, x, eps), L1(eps).project(points(4, (3, 32, 32), seed=1), x)):
        assert (L1(eps).size(p - x) <= eps + 1e-6 * max(eps, 1)).all()


@every_kind
@pytest.mark.parametrize("eps", [-0.1, math.nan, torch.tensor([0.1, -0.1]), torch.tensor([0.1, math.nan])])
def test_radii_that_are_none(kind: type[Threat], eps: float | Tensor) -> None:
    with pytest.raises(ValueError, match=r"eps is .*; it must be at least 0"):
        kind(eps)


@every_kind
def test_a_radius_is_a_number_or_one_per_sample(kind: type[Threat]) -> None:
    with pytest.raises(ValueError, match=r"eps has shape \(2, 1\)"):
        kind(torch.ones(2, 1))
    x = points(3, (2, 2))
    assert torch.equal(kind(0).sample(x), x)
    assert torch.equal(kind(0).project(1 - x, x), x)


@every_kind
def test_an_infinite_radius_has_a_finite_twin(kind: type[Threat]) -> None:
    x = points(3, (2, 5), dtype=torch.float64)
    far = 1 - x.round()
    for eps in (math.inf, torch.full((3,), math.inf, dtype=x.dtype)):
        bounded = kind(eps).bounded(x)
        assert torch.isfinite(torch.as_tensor(bounded.eps)).all()
        assert (bounded.size(far - x) <= torch.as_tensor(bounded.eps)).all(), "every point of the box is still allowed"
        assert torch.isfinite(kind(eps).sample(x)).all()
    assert kind(0.25).bounded(x).eps == 0.25


def test_radii_are_written_as_people_write_them() -> None:
    cases = {8 / 255: "8/255", 1 / 255: "1/255", 0.3: "0.3", 0.2: "0.2", 12: "12", 0.5: "0.5", 0: "0", 1: "1"}
    assert {eps: eps_text(eps) for eps in cases} == cases
    assert eps_text(1.23456e-9) == "1.23456e-09"
    assert eps_text(math.inf) == "inf"
    assert str(Linf(8 / 255)) == "linf:8/255"
    assert str(L2(torch.tensor([0.1, 0.2]))) == "l2:per-sample"
    assert str(L0(torch.tensor(3.0))) == "l0:3"


def test_threats_are_values() -> None:
    threat = L2(torch.tensor([0.1, 0.2, 0.3]), box=Box(-1, 1))
    assert torch.equal(torch.as_tensor(threat.take(torch.tensor([False, True, True])).eps), torch.tensor([0.2, 0.3]))
    assert threat.take(torch.tensor([0])).box == Box(-1, 1)
    assert torch.equal(torch.as_tensor(threat.scaled(2).eps), torch.tensor([0.2, 0.4, 0.6]))
    assert L0(3, per="pixel").with_eps(2).per == "pixel"
