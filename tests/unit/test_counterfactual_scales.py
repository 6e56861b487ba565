"""Edits do not depend on the scale of the head: logits that are a million times larger decide alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unfooled.counterfactuals import AffineHead, Cost, Edit, flip_attributes, flip_distance, flip_edit, targeted_edit

SCALES = (1e-8, 1e-6, 1e-3, 1e3, 1e5, 1e6, 1e8)
Way = Callable[[AffineHead, Tensor, int], Edit]
WAYS: dict[str, Way] = {
    **{f"l_{p:g}": lambda h, e, k, p=p: targeted_edit(h, e, k, norm=p) for p in (1, 2, math.inf)},  # type: ignore[misc]
    **{
        f"l_{p:g} in a box": lambda h, e, k, p=p: targeted_edit(h, e, k, norm=p, cost=Cost(low=e - 0.5, high=e + 0.4))  # type: ignore[misc]
        for p in (1, 2, math.inf)
    },
    "immutable": lambda h, e, k: targeted_edit(h, e, k, norm=1, cost=Cost(immutable=[0, 1, 2, 3])),
    "sparse": lambda h, e, k: targeted_edit(h, e, k, sparse=2),
    "untargeted": lambda h, e, k: flip_edit(h, e, norm=1, cost=Cost(immutable=[k])),
    "whole": lambda h, e, k: flip_attributes(h, (e > 0).double(), target=k),
}


def scaled(head: AffineHead, s: float) -> AffineHead:
    return AffineHead(head.weight * s, head.bias * s)


def made(seed: int, twin: bool = False) -> tuple[AffineHead, Tensor]:
    g = torch.Generator().manual_seed(seed)
    w, b, e = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((5, 6), (5,), (5, 6)))
    if twin:  # no edit tells these two classes apart
        w[4], b[4] = w[0], b[0] - 0.3
    return AffineHead(w, b), e


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("twin", [False, True])
def test_edits_do_not_depend_on_the_scale_of_the_head(way: str, twin: bool) -> None:
    for seed in range(2):
        head, e = made(seed, twin)
        for k in range(head.c):
            plain = WAYS[way](head, e, k)
            for s in SCALES:
                one = WAYS[way](scaled(head, s), e, k)
                assert torch.equal(one.feasible, plain.feasible)
                torch.testing.assert_close(one.cost, plain.cost, rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(one.shortfall / s, plain.shortfall, rtol=1e-8, atol=1e-9, equal_nan=True)
                assert torch.equal(one.active, plain.active)


@pytest.mark.parametrize("norm", [1, math.inf])
def test_the_target_wins_by_the_margin_asked_for(norm: float) -> None:
    head, e = made(3)
    for s in SCALES:
        big = scaled(head, s)
        for k in range(head.c):
            edit = targeted_edit(big, e, k, norm=norm)
            logits = big.logits(e + edit.delta) / s
            rival = logits.clone()
            rival[:, k] = -torch.inf
            assert ((rival.amax(1) - logits[:, k])[edit.feasible] < 1e-9).all()


@pytest.mark.parametrize("norm", [1, math.inf])
def test_rows_of_very_different_sizes_are_met(norm: float) -> None:
    """One rival whose weights are a million times those of the others."""
    head, e = made(5)
    weight, bias = head.weight.clone(), head.bias.clone()
    weight[2], bias[2] = weight[2] * 1e6, bias[2] * 1e6
    odd = AffineHead(weight, bias)
    for k in range(head.c):
        edit = targeted_edit(odd, e, k, norm=norm)
        assert edit.feasible.all()
        logits = odd.logits(e + edit.delta)
        others = torch.arange(head.c) != k
        apart = logits[:, others] - logits[:, [k]]
        size = (weight[others] - weight[k]).norm(dim=1)
        assert (apart / size).max() < 1e-9
    assert flip_distance(odd, e, norm=norm).isfinite().any()
