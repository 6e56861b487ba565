"""Exact geometry of affine heads: closed forms against enumeration, invariances, what cannot be done."""

from __future__ import annotations

import math
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals import (
    AffineHead,
    Cost,
    Group,
    attribute_interval,
    flip_attributes,
    flip_distance,
    flip_edit,
    nearest_in,
    targeted_edit,
)
from unfooled.counterfactuals.covering import Items, cover

NORMS = [1, 2, math.inf]


def made(c: int, n: int, size: int, seed: int = 0) -> tuple[AffineHead, Tensor]:
    g = torch.Generator().manual_seed(seed)
    w, b, e = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((c, n), (c,), (size, n)))
    return AffineHead(w, b), e


def labels(head: AffineHead, e: Tensor) -> Tensor:
    return head.logits(e).argmax(1)


def free_or_not(e: Tensor) -> dict[str, Cost]:
    n = e.shape[1]
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s = root @ root.T + 0.1 * torch.eye(n, dtype=torch.float64)
    return {
        "free": Cost(),
        "immutable": Cost(immutable=[0, 3]),
        "box": Cost(low=e - 0.4, high=e + 0.3),
        "box and immutable": Cost(low=e.amin(0) - 0.5, immutable=[1]),
        "covariance": Cost(covariance=s),
        "covariance and immutable": Cost(covariance=s, immutable=[2]),
        "covariance and box": Cost(covariance=s, low=e - 0.6, high=e + 0.6),
    }


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", list(free_or_not(torch.zeros(1, 8))))
def test_no_label_changes_just_below_the_distance_and_all_change_just_above(norm: float, name: str) -> None:
    head, e = made(5, 8, 20)
    cost = free_or_not(e)[name]
    if cost.covariance is not None and norm != 2:
        pytest.skip("a covariance replaces the norm")
    edit = flip_edit(head, e, norm=norm, cost=cost, overshoot=0.0)
    distance = flip_distance(head, e, norm=norm, cost=cost)
    first, can = labels(head, e), edit.feasible
    assert can.any()
    assert torch.equal(distance.amin(1).isfinite(), can)
    torch.testing.assert_close(distance.amin(1), edit.cost)
    assert torch.isinf(distance[torch.arange(20), first]).all()
    below, above = (e + share * edit.delta for share in (0.999, 1.001))
    assert torch.equal(labels(head, below), first)
    if "box" not in name:
        assert torch.equal(labels(head, above)[can], edit.target[can])
    over = flip_edit(head, e, norm=norm, cost=cost)
    inside = e + over.delta
    assert ((labels(head, inside) != first) | ~can | (name != "free")).all()
    low, high = (torch.from_numpy(v) for v in cost.box(e.numpy()))
    assert (over.delta >= low - 1e-12).all()
    assert (over.delta <= high + 1e-12).all()
    assert not over.delta[:, ~torch.from_numpy(cost.free(head))].any()
    if cost.covariance is None:
        length = torch.linalg.vector_norm(edit.delta, norm, dim=1)
    else:
        length = (edit.delta @ torch.linalg.inv(cost.covariance) * edit.delta).sum(1).sqrt()
    torch.testing.assert_close(length[can], edit.cost[can])
    assert ((edit.shortfall > 0) == ~can).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_box_s_answer_is_no_longer_than_any_point_found_at_random(norm: float) -> None:
    head, e = made(4, 3, 1, seed=3)
    cost = Cost(low=e - 0.5, high=e + 0.7)
    edit = flip_edit(head, e, norm=norm, cost=cost, overshoot=0.0)
    axes = [torch.linspace(-0.5, 0.7, 61, dtype=torch.float64)] * 3
    grid = torch.cartesian_prod(*axes)
    flipped = labels(head, e + grid) != labels(head, e)
    sizes = torch.linalg.vector_norm(grid, norm, dim=1)
    if edit.feasible:
        assert sizes[flipped].min() >= edit.cost.item() - 1e-9
        assert sizes[flipped].min() <= edit.cost.item() + 0.08
    else:
        assert not flipped.any()


def test_k_sparse_flips_are_the_best_of_all_supports() -> None:
    head, e = made(5, 7, 6)
    first = labels(head, e)
    for k in (1, 2, 3):
        edit = flip_edit(head, e, sparse=k, overshoot=0.0)
        for s in range(len(e)):
            d = head.weight - head.weight[first[s]]
            m = head.logits(e[s : s + 1])[0]
            m = m[first[s]] - m
            each = [m / d[:, list(c)].norm(dim=1) for c in combinations(range(7), k)]
            want = min(float(v[torch.arange(5) != first[s]].min()) for v in each)
            assert edit.cost[s].item() == pytest.approx(want, rel=1e-12)
        assert ((edit.delta != 0).sum(1) <= k).all()
        assert torch.equal(labels(head, e + 1.001 * edit.delta), edit.target)
    one = flip_edit(head, e, norm=1)
    torch.testing.assert_close(flip_edit(head, e, sparse=1).cost, one.cost)


@pytest.mark.parametrize("immutable", [(), (1,)])
def test_k_sparse_flips_under_a_covariance_change_k_attributes(immutable: tuple[int, ...]) -> None:
    """Attributes count, not the coordinates in which the covariance is the identity."""
    head, e = made(4, 6, 8, seed=2)
    first = labels(head, e)
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    s = root @ root.T + 0.1 * torch.eye(6, dtype=torch.float64)
    precision = torch.linalg.inv(s)
    places = [f for f in range(6) if f not in immutable]
    for k in (1, 2, 3, len(places), 6):
        cost = Cost(covariance=s, immutable=immutable)
        edit = flip_edit(head, e, sparse=k, cost=cost, overshoot=0.0)
        assert ((edit.delta != 0).sum(1) <= k).all()
        assert not edit.delta[:, list(immutable)].any()
        assert torch.equal(labels(head, e + 0.999 * edit.delta), first)
        assert torch.equal(labels(head, e + 1.001 * edit.delta), edit.target)
        length = (edit.delta @ precision * edit.delta).sum(1).sqrt()
        torch.testing.assert_close(length, edit.cost)
        for row in range(len(e)):
            d = head.weight - head.weight[first[row]]
            m = head.logits(e[row : row + 1])[0]
            m = m[first[row]] - m
            sets = [list(c) for c in combinations(places, min(k, len(places)))]
            gains = [(d[:, c] @ torch.linalg.inv(precision[c][:, c]) * d[:, c]).sum(1).sqrt() for c in sets]
            want = min(float((m / gain)[torch.arange(4) != first[row]].min()) for gain in gains)
            assert edit.cost[row].item() == pytest.approx(want, rel=1e-9)
        towards = [targeted_edit(head, e, j, sparse=k, cost=cost).cost for j in range(4)]
        least = torch.stack(towards, 1).scatter(1, first[:, None], math.inf).amin(1)
        torch.testing.assert_close(least, edit.cost, rtol=1e-9, atol=0)


def test_k_sparse_flips_of_many_attributes_need_a_diagonal_covariance() -> None:
    head, e = made(3, 120, 2)
    s = torch.diag(torch.linspace(0.5, 2, 120, dtype=torch.float64))
    edit = flip_edit(head, e, sparse=3, cost=Cost(covariance=s), overshoot=0.0)
    assert ((edit.delta != 0).sum(1) <= 3).all()
    assert torch.equal(labels(head, e + 1.001 * edit.delta), edit.target)
    s[0, 1] = s[1, 0] = 0.1
    with pytest.raises(BadInput, match="280,840 sets to compare"):
        flip_edit(head, e, sparse=3, cost=Cost(covariance=s))


@pytest.mark.parametrize("free", [False, True])
def test_distances_do_not_depend_on_the_embedding_s_units(free: bool) -> None:
    head, e = made(4, 5, 10)
    g = torch.Generator().manual_seed(5)
    a = torch.randn(5, 5, generator=g, dtype=torch.float64)
    t = torch.randn(5, generator=g, dtype=torch.float64)
    s = torch.cov(e.T) + 0.1 * torch.eye(5, dtype=torch.float64)
    back = torch.linalg.inv(a)
    other = AffineHead(head.weight @ back, head.bias - head.weight @ back @ t)
    moved = e @ a.T + t
    torch.testing.assert_close(other.logits(moved), head.logits(e))
    distance = flip_distance(head, e, cost=Cost(covariance=s))
    again = flip_distance(other, moved, cost=Cost(covariance=a @ s @ a.T))
    torch.testing.assert_close(again, distance, rtol=1e-8, atol=0)
    if free:
        edit = targeted_edit(head, e, 2, cost=Cost(covariance=s))
        same = targeted_edit(other, moved, 2, cost=Cost(covariance=a @ s @ a.T))
        torch.testing.assert_close(same.delta, edit.delta @ a.T, rtol=1e-7, atol=1e-9)


def test_intervals_hold_where_the_target_wins_and_only_there() -> None:
    head, e = made(4, 6, 8)
    low, high = attribute_interval(head, e, 1)
    t = nearest_in(low, high)
    empty = low > high
    assert empty.any()
    assert (~empty).any()
    assert torch.equal(t.isnan(), empty)
    for s, f in product(range(8), range(6)):
        moves = torch.linspace(-30, 30, 2001, dtype=torch.float64)
        points = e[s].repeat(2001, 1)
        points[:, f] += moves
        wins = labels(head, points) == 1
        inside = (moves > low[s, f]) & (moves < high[s, f])
        assert torch.equal(wins, inside)
        if not empty[s, f]:
            one = targeted_edit(head, e[s : s + 1], 1, cost=Cost(immutable=[k for k in range(6) if k != f]))
            assert one.cost.item() == pytest.approx(abs(t[s, f].item()), rel=1e-9)


def test_a_target_that_is_predicted_costs_nothing() -> None:
    head, e = made(4, 6, 8)
    edit = targeted_edit(head, e, labels(head, e))
    assert not edit.delta.any()
    assert edit.cost.tolist() == [0.0] * 8
    assert edit.feasible.all()
    wider = targeted_edit(head, e, labels(head, e), margin=20.0)
    assert (wider.cost[wider.feasible] > 0).all()
    logits = head.logits(e + wider.delta).sort(dim=1).values
    gap = (logits[:, -1] - logits[:, -2])[wider.feasible]
    torch.testing.assert_close(gap.clamp(max=20), torch.full_like(gap, 20.0))


def test_a_class_that_never_wins_is_infeasible_by_how_much() -> None:
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    head = AffineHead(weight, torch.tensor([0.0, 0.0, -0.5]))
    edit = targeted_edit(head, torch.tensor([[1.0, 0.0]]), 2)
    assert edit.bound == ("infeasible",)
    assert edit.shortfall.item() == pytest.approx(0.5)
    same = AffineHead(weight[[0, 0, 1]] / 3, torch.zeros(3))
    assert targeted_edit(same, torch.tensor([[1.0, 0.0]]), 1).cost.item() == 0
    assert targeted_edit(same, torch.tensor([[-1.0, 0.0]]), 1).cost.item() == pytest.approx(1)
    twins = AffineHead(torch.ones(2, 3), torch.tensor([1.0, 0.0]))
    assert flip_distance(twins, torch.zeros(1, 3)).tolist() == [[math.inf, math.inf]]
    assert flip_edit(twins, torch.zeros(1, 3)).shortfall.tolist() == [1.0]
    assert flip_distance(AffineHead(torch.ones(2, 3), torch.zeros(2)), torch.zeros(1, 3))[0, 1] == 0


def fewest(head: AffineHead, a: np.ndarray, items: list[tuple[np.ndarray, float]], target: int | None) -> float:
    """The least cost over all subsets of changes that leave attributes whole."""
    w, b = head.weight.numpy(), head.bias.numpy()
    first, best = int((w @ a + b).argmax()), math.inf
    for picked in product((0, 1), repeat=len(items)):
        chosen = [item for item, take in zip(items, picked, strict=True) if take]
        after = a + sum((step for step, _ in chosen), np.zeros_like(a))
        if set(after.tolist()) <= {0.0, 1.0}:
            logits = w @ after + b
            won = int(logits.argmax())
            if (won != first) if target is None else (won == target):
                best = min(best, sum(weight for _, weight in chosen))
    return best


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("target", [None, 2])
def test_whole_attributes_against_all_subsets(weighted: bool, target: int | None) -> None:
    head, e = made(4, 9, 12, seed=7)
    a = (e > 0).double()
    weights = torch.linspace(0.5, 2.3, 9, dtype=torch.float64) if weighted else None
    edit = flip_attributes(head, a, target=target, cost=Cost(immutable=[4], weights=weights))
    assert not edit.delta[:, 4].any()
    each = np.ones(9) if weights is None else weights.numpy()
    for s in range(len(a)):
        point = a[s].numpy()
        items = [((1 - 2 * point[f]) * np.eye(9)[f], float(each[f])) for f in range(9) if f != 4]
        want = fewest(head, point, items, target)
        assert edit.cost[s].item() == pytest.approx(want)
        if want < math.inf:
            after = a[s : s + 1] + edit.delta[s : s + 1]
            assert labels(head, after).item() == edit.target[s].item()
            assert ((after == 0) | (after == 1)).all()
        else:
            assert edit.shortfall[s] > 0
    assert edit.exact.all()


@pytest.mark.parametrize("target", [None, 1])
def test_exchanges_of_whole_attributes(target: int | None) -> None:
    head, _ = made(3, 6, 1, seed=9)
    a = torch.tensor([[1.0, 0, 0, 1, 0, 1], [0, 0, 1, 0, 1, 0]])
    edit = flip_attributes(head, a, target=target, cost=Cost(groups=[Group((0, 1, 2)), (3, 4)]))
    for s in range(2):
        point = a[s].double().numpy()
        items = [((1 - 2 * point[5]) * np.eye(6)[5], 1.0)]
        for members in ((0, 1, 2), (3, 4)):
            (now,) = [f for f in members if point[f]]
            items += [(np.eye(6)[f] - np.eye(6)[now], 1.0) for f in members if f != now]
        assert edit.cost[s].item() == pytest.approx(fewest(head, point, items, target))
        after = a[s] + edit.delta[s]
        assert after[:3].sum() == after[3:5].sum() == 1


def test_a_search_that_is_cut_off_gives_an_upper_bound() -> None:
    draw = np.random.default_rng(0)
    items = Items(draw.normal(0.4, 1, (12, 40)), np.ones(40), np.arange(40))
    need = np.full(12, 9.0)
    short, full = cover(items, need, nodes=3), cover(items, need, nodes=4000)
    assert not short.exact
    assert short.cost >= full.cost
    assert (items.gains[:, list(short.selected or ())].sum(1) >= need).all()


def test_exchanges_are_one_number() -> None:
    head, e = made(4, 6, 10)
    g = torch.Generator().manual_seed(1)
    means = torch.zeros(3, 6, dtype=torch.float64)
    means[:, :3] = torch.eye(3) * 4 + 0.1 * torch.randn(3, 3, generator=g)
    cost = Cost(groups=[Group((0, 1, 2), means, "wing")])
    first, present = labels(head, e), e[:, :3].argmax(1)
    edit = flip_edit(head, e, cost=cost, overshoot=0.0)
    distance = flip_distance(head, e, cost=cost)
    torch.testing.assert_close(distance.amin(1), edit.cost)
    t = torch.linspace(0, 40, 40001, dtype=torch.float64)[:, None]
    for s in range(10):
        a = int(present[s])
        ways = [e[s] + t * (means[b] - means[a]) for b in range(3) if b != a]
        flips = [int((labels(head, way) != first[s]).int().argmax()) for way in ways]
        at = min((float(t[k]) for k in flips if k), default=math.inf)
        assert edit.cost[s].item() == pytest.approx(at, abs=2e-3)
        for j in range(4):
            won = [(labels(head, way) == j).nonzero() for way in ways]
            at = min((float(t[int(k[0])]) for k in won if len(k)), default=math.inf)
            found = targeted_edit(head, e[s : s + 1], j, cost=cost)
            assert found.cost.item() == pytest.approx(at, abs=2e-3)
            assert not found.delta[:, 3:].any()
    assert torch.equal(labels(head, e + 1.001 * edit.delta)[edit.feasible], edit.target[edit.feasible])


def test_the_answer_does_not_depend_on_the_batch_or_the_dtype() -> None:
    head, e = made(5, 8, 12)
    for find in (flip_edit, lambda h, x: targeted_edit(h, x, 3)):
        whole = find(head, e)
        parts = torch.cat([find(head, e[s : s + 1]).delta for s in range(12)])
        torch.testing.assert_close(parts, whole.delta, rtol=1e-12, atol=1e-14)
    half = flip_edit(head, e.float())
    assert half.delta.dtype == torch.float64
    assert (labels(head, e.float() + half.delta) == half.target).all()


@pytest.mark.parametrize("options", [{}, {"weights": torch.ones(6)}, {"groups": [(0, 1), (2, 3)]}])
def test_no_boundary_is_met_where_nothing_is_flipped(options: dict[str, Any]) -> None:
    """The target is predicted already, or no permitted change reaches it; `targeted_edit` says the same."""
    source = torch.Generator().manual_seed(0)
    head = AffineHead(torch.randn(4, 6, generator=source), torch.randn(4, generator=source))
    a = torch.randint(2, (9, 6), generator=source).double()
    own = head.logits(a).argmax(1)
    edit = flip_attributes(head, a, target=own, cost=Cost(**options))
    assert torch.equal(edit.cost, torch.zeros(9, dtype=torch.float64))
    assert not edit.active.any() and not edit.delta.any() and torch.equal(edit.target, own)
    assert not targeted_edit(head, a, own).active.any()
    barred = AffineHead(torch.zeros(4, 6), torch.tensor([0.0, 1.0, 2.0, 3.0]))
    for result in (
        flip_attributes(barred, a, target=0, cost=Cost(**options)), flip_attributes(barred, a, cost=Cost(**options)),
        flip_edit(barred, a), targeted_edit(barred, a, 0),
    ):  # fmt: skip
        assert not result.feasible.any() and not result.active.any()
