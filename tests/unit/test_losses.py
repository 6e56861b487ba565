"""Losses against their formulas, written out for one sample."""

from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import source
from torch import Tensor

from unfooled.core.losses import cross_entropy, dlr, dlr_targeted, kl, margin, margin_targeted, soft_margin
from unfooled.core.types import Loss

Z = torch.randn(40, 6, generator=source(0), dtype=torch.float64) * 3
Y = torch.randint(6, (40,), generator=source(1))
T = (Y + 1 + torch.randint(5, (40,), generator=source(2))) % 6


def by_hand(name: str, z: list[float], y: int, t: int) -> float:
    order = sorted(z, reverse=True)
    rival = max(v for j, v in enumerate(z) if j != y)
    return {
        "cross_entropy": math.log(sum(math.exp(v) for v in z)) - z[y],
        "margin": rival - z[y],
        "dlr": -(z[y] - rival) / (order[0] - order[2]),
        "margin_targeted": z[t] - z[y],
        "dlr_targeted": -(z[y] - z[t]) / (order[0] - (order[2] + order[3]) / 2),
    }[name]


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "margin_targeted": margin_targeted(T),
    "dlr_targeted": dlr_targeted(T),
}


@pytest.mark.parametrize("name", LOSSES)
def test_formula(name: str) -> None:
    expected = [by_hand(name, z, y, t) for z, y, t in zip(Z.tolist(), Y.tolist(), T.tolist(), strict=True)]
    torch.testing.assert_close(LOSSES[name](Z, Y), torch.tensor(expected, dtype=Z.dtype))


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_differences(name: str) -> None:
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, Y), (Z.clone().requires_grad_(),))


def test_margin_is_positive_exactly_where_the_label_is_lost() -> None:
    assert torch.equal(margin(Z, Y) > 0, Z.argmax(1) != Y)
    two = Z[:, :2]
    torch.testing.assert_close(margin(two, Y % 2), (two[:, 1] - two[:, 0]) * torch.where(Y % 2 == 0, 1, -1))


def test_dlr_ignores_scale_and_shift() -> None:
    torch.testing.assert_close(dlr(Z * 100 + 7, Y), dlr(Z, Y))
    torch.testing.assert_close(dlr_targeted(T)(Z * 100 + 7, Y), dlr_targeted(T)(Z, Y))


@pytest.mark.parametrize(
    "row", [[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 0.0], [3.0, 1.0, 1.0, 1.0], [0.0, 5.0, 5.0, 5.0]]
)
@pytest.mark.parametrize("name", ["dlr", "dlr_targeted"])
def test_duplicated_logits_keep_a_finite_gradient_that_is_not_zero(name: str, row: list[float]) -> None:
    z = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    y, loss = torch.tensor([0]), dlr if name == "dlr" else dlr_targeted(torch.tensor([1]))
    value = loss(z, y)
    (g,) = torch.autograd.grad(value.sum(), z)
    assert torch.isfinite(value).all()
    assert torch.isfinite(g).all()
    assert g.abs().max() > 0.1


@pytest.mark.parametrize(("loss", "k", "least"), [(dlr, 2, 3), (dlr_targeted(torch.tensor([1])), 3, 4)])
def test_too_few_classes_are_refused(loss: Loss, k: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"at least {least} classes, the model has {k}"):
        loss(torch.zeros(1, k), torch.tensor([0]))


def divergence(p: Tensor, q: Tensor) -> list[float]:
    return [
        sum(a * math.log(a / b) for a, b in zip(u, v, strict=True) if a > 0)
        for u, v in zip(p.tolist(), q.tolist(), strict=True)
    ]


def test_kl() -> None:
    p = torch.randn(40, 6, generator=source(3), dtype=torch.float64).softmax(1)
    p[0] = torch.tensor([0, 0, 1.0, 0, 0, 0])
    value = kl(p)(Z, Y)
    torch.testing.assert_close(value, torch.tensor(divergence(p, Z.softmax(1)), dtype=Z.dtype))
    assert (value > 0).all()
    assert torch.equal(value, kl(p)(Z, T)), "labels are ignored"
    z = Z.clone().requires_grad_()
    (g,) = torch.autograd.grad(kl(Z.softmax(1))(z, Y).sum(), z)
    assert g.abs().max() < 1e-12, "the gradient is zero at the start, which is why ascents start elsewhere"
    torch.testing.assert_close(kl(Z.softmax(1))(Z, Y), torch.zeros(40, dtype=Z.dtype))


def test_cross_entropy_loses_its_gradient_where_the_margin_does_not() -> None:
    z = torch.tensor([[20.0, 0.0]], requires_grad=True)
    y = torch.tensor([0])
    (ce,) = torch.autograd.grad(cross_entropy(z, y).sum(), z)
    (m,) = torch.autograd.grad(margin(z, y).sum(), z)
    assert ce[0, 0] == 0
    assert m.tolist() == [[-1, 1]]


def test_the_soft_margin_orders_points_as_the_cross_entropy_of_scaled_logits() -> None:
    scale = torch.rand(len(Z), generator=torch.Generator().manual_seed(4), dtype=Z.dtype) + 0.5
    soft = soft_margin(scale)(Z, Y)
    torch.testing.assert_close(torch.nn.functional.softplus(soft), cross_entropy(scale[:, None] * Z, Y))
    torch.testing.assert_close(soft_margin(torch.full_like(scale, 1e4))(Z, Y) / 1e4, margin(Z, Y), atol=1e-3, rtol=0)
    z, y = torch.tensor([[500.0, 0.0, -1.0]], requires_grad=True), torch.tensor([0])
    (g,) = torch.autograd.grad(soft_margin(torch.tensor([1.0]))(z, y).sum(), z)
    torch.testing.assert_close(g, torch.tensor([[-1.0, 0.7311, 0.2689]]), atol=1e-4, rtol=0)
