"""FAB: the nearest point of a linear model in three norms, targets, and what it costs."""

from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import interior, linear, points, tiny_net
from torch import Tensor, nn

from unfooled.attacks.fab import fab
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import counted
from unfooled.core.types import Model
from unfooled.evaluation.verify import verify

SHAPE = (1, 6, 5)
norms = pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])


def distances(model: Model, x: Tensor, y: Tensor, z: Tensor, norm: float, *, targeted: bool = False) -> Tensor:
    return verify(model, x, y, z, NORMS[norm](math.inf), targeted=targeted).distance


def subject(n: int, k: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = tiny_net(k, SHAPE), points(n, SHAPE, seed=4)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@norms
@pytest.mark.parametrize("k", [2, 4, 10])
@pytest.mark.parametrize("targets", [None, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_linear_optimum(norm: float, k: int, targets: int | None, dtype: torch.dtype) -> None:
    model, x = linear(k, SHAPE, dtype=dtype), interior(8, SHAPE, dtype=dtype)
    y = model(x).argmax(1)
    z = fab(model, x, y, norm, targets=targets, steps=20)
    assert z.dtype == dtype
    ratio = distances(model, x, y, z, norm) / model.distance(x, y, norm)
    assert bool((ratio >= 1 - 1e-4).all())
    assert bool((ratio <= 1.01).all()), ratio


@norms
@pytest.mark.parametrize("shape", [(12,), (4, 6), (3, 4, 4), (2, 2, 3, 2)], ids=str)
def test_any_shape_inside_the_box(norm: float, shape: tuple[int, ...]) -> None:
    model, x = linear(3, shape), points(6, shape, seed=3)
    y = model(x).argmax(1)
    kept, state = x.clone(), torch.get_rng_state()
    z = fab(model, x, y, norm, steps=15)
    assert z.shape == x.shape
    assert bool(((z >= 0) & (z <= 1)).all())
    assert bool((distances(model, x, y, z, norm) < math.inf).all())
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)


@norms
@pytest.mark.parametrize("targets", [None, 2])
def test_batch_and_order_do_not_matter(norm: float, targets: int | None) -> None:
    model, x, y = subject(7)
    whole = fab(model, x, y, norm, targets=targets, steps=20)
    assert torch.equal(whole, fab(model, x, y, norm, targets=targets, steps=20))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    for size in (1, 3):
        parts = torch.cat([fab(model, x[r], y[r], norm, targets=targets, steps=20) for r in order.split(size)])
        a, b = distances(model, x, y, whole, norm)[order], distances(model, x[order], y[order], parts, norm)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_target_is_the_boundary_walked_to() -> None:
    model, x = linear(6, SHAPE), interior(8, SHAPE)
    y = model(x).argmax(1)
    nearest = model.nearest(x, y, 2.0)
    right = distances(model, x, y, fab(model, x, y, 2.0, targets=nearest, steps=20), 2.0)
    torch.testing.assert_close(right, model.distance(x, y, 2.0), rtol=0.01, atol=0)
    other = torch.where((nearest + 1) % 6 == y, (nearest + 2) % 6, (nearest + 1) % 6)
    wrong = distances(model, x, y, fab(model, x, y, 2.0, targets=other, steps=20), 2.0)
    assert bool((wrong > right * 1.001).any())
    own = fab(model, x, y, 2.0, targets=y, steps=5)
    assert torch.equal(own, x)  # a class is no target for itself


@norms
def test_targeted_hits_the_class(norm: float) -> None:
    model, x = linear(4, SHAPE), interior(6, SHAPE)
    goal = (model(x).argmax(1) + 1) % 4
    z = fab(model, x, goal, norm, targeted=True, steps=40)
    assert torch.equal(model(z).argmax(1), goal)


@norms
def test_already_wrong_stays_and_failure_returns_x(norm: float) -> None:
    model, x, y = subject(4)
    wrong = (y + 1) % 4
    with counted(model) as seen:
        assert torch.equal(fab(seen, x, wrong, norm, steps=5), x)
    assert seen.backwards == 0

    def sure(z: Tensor) -> Tensor:
        s = z.flatten(1).sum(1)
        return torch.stack([s + 99, s * 0.5], 1)

    assert torch.equal(fab(sure, x, torch.zeros(4, dtype=torch.int64), norm, steps=5), x)


def test_within_eps_a_sample_leaves() -> None:
    model, x = linear(3, SHAPE), interior(8, SHAPE)
    y = model(x).argmax(1)
    best = model.distance(x, y, 2.0)
    eps = torch.where(torch.arange(8) < 4, best * 1.2, best * 0.9)
    with counted(model) as seen:
        z = fab(seen, x, y, 2.0, targets=2, eps=eps)
    found = distances(model, x, y, z, 2.0)
    assert torch.equal(found <= eps, torch.arange(8) < 4)
    assert seen.backwards < 8 * 200 * 0.6


@norms
def test_passes_are_what_is_claimed(norm: float) -> None:
    model, x, y = subject(3)
    with counted(model) as seen:
        fab(seen, x, y, norm, targets=2, steps=40)
    assert seen.backwards <= 3 * 2 * (40 + 3)  # a few steps turn out adversarial that were not expected to
    assert seen.forwards <= 3 * (1 + 2 * (2 * 40 + 4) + 10)
    with counted(lambda z: model(z) * 0 + torch.tensor([9.0, 0, 0, 0]) + z.sum() * 0) as sure:
        fab(sure, x, torch.zeros(3, dtype=torch.int64), norm, targets=2, steps=40)
    # Nothing adversarial: one forward per step, and the last is judged.
    assert (sure.forwards, sure.backwards) == (3 * (1 + 2 * 41 + 10), 3 * 2 * 40)


def test_what_is_refused() -> None:
    model, x = linear(3, SHAPE), interior(2, SHAPE)
    y = model(x).argmax(1)
    with pytest.raises(BadInput, match="this attack supports 1, 2, inf"):
        fab(model, x, y, 0)
    with pytest.raises(BadInput, match="targets must be classes from 0 to 2"):
        fab(model, x, y, 2, targets=y + 3)
    with pytest.raises(BadInput, match="targets is 0"):
        fab(model, x, y, 2, targets=0)
    with pytest.raises(BadInput, match="give one of them"):
        fab(model, x, y, 2, targets=1, targeted=True)
    with pytest.raises(BadInput, match="carries no gradient"):
        fab(lambda z: model(z).detach(), x, y, 2)
