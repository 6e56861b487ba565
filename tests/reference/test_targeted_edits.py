"""Targeted edits against a quadratic program solved in another way, and against enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from tests.reference.qp_slow import infeasible_by, smallest

from unfooled.counterfactuals import AffineHead, Cost, flip_distance, targeted_edit


def problem(head: AffineHead, e: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    w, b = head.weight.numpy(), head.bias.numpy()
    rivals = np.delete(np.arange(len(w)), j)
    logits = w @ e + b
    return w[j] - w[rivals], logits[rivals] - logits[j]


def random_head(draw: np.random.Generator, c: int, n: int) -> tuple[AffineHead, np.ndarray]:
    head = AffineHead(torch.from_numpy(draw.normal(size=(c, n))), torch.from_numpy(draw.normal(size=c)))
    return head, draw.normal(size=n)


@pytest.mark.parametrize(
    ("heads", "seen"), [(30, (457, 2)), pytest.param(200, (3244, 23), marks=pytest.mark.slow)], ids=["30", "200"]
)
def test_random_heads_and_every_target(heads: int, seen: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    worst, impossible, problems = 0.0, 0, 0
    for _ in range(heads):
        c, n = int(draw.integers(3, 30)), int(draw.integers(2, 60))
        head, e = random_head(draw, c, n)
        point = torch.from_numpy(e)[None]
        edit = targeted_edit(head, point.expand(c, n), torch.arange(c))
        for j in range(c):
            g, h = problem(head, e, j)
            x = smallest(g, h)
            problems += 1
            assert bool(edit.feasible[j]) == (x is not None)
            if x is None:
                impossible += 1
                assert edit.shortfall[j].item() == pytest.approx(infeasible_by(g, h), abs=1e-9)
                assert edit.cost[j] == torch.inf
                assert not edit.delta[j].any()
            elif x.any():
                worst = max(worst, float(np.linalg.norm(edit.delta[j].numpy() - x) / np.linalg.norm(x)))
        others = torch.arange(c) != head.logits(point).argmax()
        nearest = flip_distance(head, point).amin(1).item()
        assert edit.cost[others].min().item() == pytest.approx(nearest, rel=1e-9)
        assert edit.cost[~others].tolist() == [0.0]
    assert worst < 1e-9
    assert (problems, impossible) == seen


def by_active_sets(g: np.ndarray, h: np.ndarray) -> float:
    """The least norm over all sets of constraints that are met exactly."""
    best = np.inf if (h > 0).any() else 0.0
    for size in range(1, min(g.shape) + 1):
        for rows in combinations(range(len(h)), size):
            x = np.linalg.lstsq(g[list(rows)], h[list(rows)], rcond=None)[0]
            if (g @ x >= h - 1e-9).all():
                best = min(best, float(np.linalg.norm(x)))
    return best


def test_every_active_set_of_small_heads() -> None:
    draw = np.random.default_rng(1)
    for _ in range(12):
        head, e = random_head(draw, int(draw.integers(2, 7)), int(draw.integers(1, 5)))
        for j in range(head.c):
            edit = targeted_edit(head, torch.from_numpy(e)[None], j)
            assert edit.cost.item() == pytest.approx(by_active_sets(*problem(head, e, j)), rel=1e-9)


def test_optimality_conditions_hold_on_the_active_rivals() -> None:
    draw = np.random.default_rng(2)
    head, e = random_head(draw, 12, 20)
    edit = targeted_edit(head, torch.from_numpy(e)[None].expand(12, 20), torch.arange(12))
    for j in range(12):
        g, h = problem(head, e, j)
        active = np.delete(edit.active[j].numpy(), j)
        delta = edit.delta[j].numpy()
        slack = g @ delta - h
        assert slack.min() > -1e-10
        assert np.abs(slack[active]).max(initial=0) < 1e-10
        u = np.linalg.lstsq(g[active].T, delta, rcond=None)[0]
        assert (u > 0).all()
        np.testing.assert_allclose(g[active].T @ u, delta, atol=1e-10)


def lp(g: np.ndarray, h: np.ndarray, norm: float) -> float:
    """The least l_1 or l_inf norm, as a linear program in another form."""
    n = g.shape[1]
    top = np.hstack([-g, np.zeros((len(g), n if norm == 1 else 1))])
    one = np.eye(n) if norm == 1 else np.ones((n, 1))
    a = np.vstack([top, np.hstack([np.eye(n), -one]), np.hstack([-np.eye(n), -one])])
    cost = np.r_[np.zeros(n), np.ones(one.shape[1])]
    found = linprog(
        cost, A_ub=a, b_ub=np.r_[-h, np.zeros(2 * n)], bounds=[(None, None)] * len(cost), method="highs-ipm"
    )
    return float(found.fun) if found.status == 0 else np.inf


@pytest.mark.parametrize("norm", [1, np.inf])
def test_linear_norms(norm: float) -> None:
    draw = np.random.default_rng(3)
    for _ in range(8):
        head, e = random_head(draw, 6, 5)
        edit = targeted_edit(head, torch.from_numpy(e)[None].expand(6, 5), torch.arange(6), norm=norm)
        for j in range(6):
            assert edit.cost[j].item() == pytest.approx(lp(*problem(head, e, j), norm), rel=1e-6, abs=1e-9)
        nearest = flip_distance(head, torch.from_numpy(e)[None], norm=norm).amin().item()
        others = torch.arange(6) != int(head.logits(torch.from_numpy(e)[None]).argmax())
        assert edit.cost[others].min().item() == pytest.approx(nearest, rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_sparse_edits_against_all_supports(k: int) -> None:
    draw = np.random.default_rng(4)
    for _ in range(6):
        head, e = random_head(draw, 4, 7)
        for j in range(4):
            g, h = problem(head, e, j)
            each = [smallest(g[:, s], h) for s in (list(c) for c in combinations(range(7), k))] if (h > 0).any() else []
            want = min((float(np.linalg.norm(x)) for x in each if x is not None), default=np.inf if each else 0.0)
            edit = targeted_edit(head, torch.from_numpy(e)[None], j, sparse=k)
            assert edit.cost.item() == pytest.approx(want, rel=1e-9)
            assert int((edit.delta != 0).sum()) <= k
            assert edit.exact.all()
            if not edit.feasible:
                s = min(infeasible_by(g[:, list(c)], h) for c in combinations(range(7), k))
                assert edit.shortfall.item() == pytest.approx(s, abs=1e-9)


def test_bounds_immutables_and_a_covariance() -> None:
    draw = np.random.default_rng(5)
    seen = set()
    for _ in range(15):
        head, e = random_head(draw, 5, 6)
        root = draw.normal(size=(6, 6))
        s = root @ root.T + 0.1 * np.eye(6)
        low, high = e - draw.uniform(0.2, 2, 6), e + draw.uniform(0.2, 2, 6)
        cost = Cost(torch.from_numpy(low), torch.from_numpy(high), immutable=[2], covariance=torch.from_numpy(s))
        factor = np.linalg.cholesky(s)
        still = np.eye(6)[[2]]
        for j in range(5):
            g, h = problem(head, e, j)
            rows = np.vstack([g, np.eye(6), -np.eye(6), still, -still]) @ factor
            x = smallest(rows, np.r_[h, low - e, e - high, -1e-13, -1e-13])
            edit = targeted_edit(head, torch.from_numpy(e)[None], j, cost=cost)
            assert bool(edit.feasible) == (x is not None)
            seen.add(bool(edit.feasible))
            if x is not None:
                assert edit.cost.item() == pytest.approx(float(np.linalg.norm(x)), rel=1e-6, abs=1e-9)
                delta = edit.delta[0].numpy()
                assert delta[2] == pytest.approx(0, abs=1e-12)
                assert edit.cost.item() == pytest.approx(float(np.sqrt(delta @ np.linalg.solve(s, delta))), rel=1e-9)
    assert seen == {True, False}
