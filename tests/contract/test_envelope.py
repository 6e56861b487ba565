"""The envelope: near in every norm, within its budget, whatever the batch."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tests.conftest import interior, linear, points, tiny_net
from torch import Tensor

import unfooled as uf
from unfooled.attacks.bisect import between, bisect
from unfooled.attacks.ensembles.envelope import PLANS, REFINING, envelope, refine
from unfooled.attacks.fmn import fmn
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.model.wrappers import counted
from unfooled.core.types import Model

SHAPE = (1, 6, 5)
every = pytest.mark.parametrize("norm", list(NORMS), ids=[f"{p:g}" for p in NORMS])


def distances(model: Model, x: Tensor, y: Tensor, z: Tensor, norm: float, *, targeted: bool = False) -> Tensor:
    return uf.verify(model, x, y, z, NORMS[norm](math.inf), targeted=targeted).distance


def setting(n: int = 8) -> tuple[torch.nn.Sequential, Tensor, Tensor]:
    """A network and samples; the last is wrong from the start."""
    model, x = tiny_net(3, SHAPE), points(n, SHAPE, seed=2)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[-1] = (y[-1] + 1) % 3
    return model, x, y


def test_linear_optimum_in_every_norm() -> None:
    model, x = linear(2, SHAPE), interior(6, SHAPE)
    y = model(x).argmax(1)
    found = uf.envelope(model, x, y, budget=600)
    assert list(found) == [0, 1, 2, math.inf]
    assert bool((distances(model, x, y, found[0], 0.0) == 1).all())
    for norm in (1.0, 2.0, math.inf):
        ratio = distances(model, x, y, found[norm], norm) / model.distance(x, y, norm)
        assert bool(((ratio > 1 - 1e-4) & (ratio < 1.01)).all()), (norm, ratio)


@every
@pytest.mark.parametrize("budget", [150, 1000])
def test_the_budget_holds(norm: float, budget: int) -> None:
    net, x, y = setting()
    with torch.no_grad():
        y = net(x).argmax(1)
    with counted(net) as model:
        envelope(model, x, y, (norm,), budget=budget)
    spent = (model.forwards + model.backwards) / len(x)
    assert spent <= budget
    assert spent > 0.5 * budget


def test_wrong_samples_cost_one_look() -> None:
    net, x, y = setting()
    with torch.no_grad():
        y = (net(x).argmax(1) + 1) % 3
    with counted(net) as model:
        found = envelope(model, x, y, batch=4)
    assert (model.forwards, model.backwards) == (len(x), 0)
    assert all(torch.equal(z, x) for z in found.values())


@every
def test_each_part_of_the_plan_can_only_help(norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = setting()
    plan, found = PLANS[norm], []
    for count in range(1, len(plan) + 1):
        monkeypatch.setitem(PLANS, norm, plan[:count])
        found.append(distances(model, x, y, envelope(model, x, y, (norm,), budget=300)[norm], norm))
    assert bool(torch.isfinite(found[0]).all())
    assert found[0][-1] == 0
    for a, b in pairwise(found):
        assert bool((b <= a + 1e-6).all())


def test_nothing_is_touched_and_the_batch_does_not_matter() -> None:
    model, x, y = setting()
    kept, state = x.clone(), torch.get_rng_state()
    whole = envelope(model, x, y, budget=150)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3, 7])
    parts = envelope(model, x[order], y[order], budget=150, batch=3)
    for norm in whole:
        a, b = (distances(model, x, y, z, float(norm)) for z in (whole[norm], parts[norm][order.argsort()]))
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-4)


@every
def test_at_least_as_near_as_one_attack_of_a_quarter_of_the_budget(norm: float) -> None:
    model, x, y = setting()
    one = bisect if norm == math.inf else fmn
    d = distances(model, x, y, envelope(model, x, y, (norm,), budget=600)[norm], norm)
    alone = distances(model, x, y, one(model, x, y, norm, steps=75), norm)
    assert float(d.mean()) <= float(alone.mean()) * 1.001


def test_targets_are_hit() -> None:
    model, x = linear(4, SHAPE), interior(6, SHAPE)
    target = (model(x).argmax(1) + 1) % 4
    for norm, z in envelope(model, x, target, budget=300, targeted=True).items():
        assert bool(torch.isfinite(distances(model, x, target, z, float(norm), targeted=True)).all())


def test_what_cannot_be_done_is_named() -> None:
    model, x, y = setting()
    with pytest.raises(uf.BadInput, match="norm is 3; this attack supports"):
        envelope(model, x, y, (3,))
    with pytest.raises(uf.BadInput, match="budget is 40"):
        envelope(model, x, y, budget=40)

    def sure(z: Tensor) -> Tensor:
        s = z.flatten(1).sum(1)
        return torch.stack([s + 99, s * 0.5], 1)

    zero = torch.zeros(len(x), dtype=torch.int64)
    assert all(torch.equal(z, x) for z in envelope(sure, x, zero, budget=150).values())


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_refining_comes_nearer_within_its_budget(norm: float) -> None:
    model, x = linear(2, SHAPE), interior(6, SHAPE)
    y = model(x).argmax(1)
    z = x + 3 * (envelope(model, x, y, (norm,), budget=200)[norm] - x)
    start = torch.where((model(z).argmax(1) == y)[:, None, None, None], 1 - x, z).clamp(0, 1)
    assert bool((model(start).argmax(1) != y).all())
    size = NORMS[norm](math.inf).size(start - x)
    with counted(model) as asked:
        near = refine(asked, x, y, start, norm, batch=4)
    assert asked.forwards + asked.backwards <= REFINING * len(x)
    best = model.distance(x, y, norm)
    reached = distances(model, x, y, near, norm)
    assert bool((reached <= size).all())
    assert bool((reached < size)[size > 1.5 * best].all())
    if norm >= 2:
        assert bool((reached < 1.05 * best).all())


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_a_radius_between_the_estimate_and_a_known_point_is_found(norm: float) -> None:
    model, x = linear(3, SHAPE), interior(6, SHAPE)
    y = model(x).argmax(1)
    far = envelope(model, x, y, (norm,), budget=200)[norm]
    start = (x + 4 * (far - x)).clamp(0, 1)
    start = torch.where((model(start).argmax(1) == y)[:, None, None, None], far, start)
    best = model.distance(x, y, norm)
    rough = distances(model, x, y, between(model, x, y, start, norm, rounds=0, halvings=1), norm)
    assert bool((rough > 1.3 * best).any())
    near = distances(model, x, y, between(model, x, y, start, norm, steps=20, rounds=8, halvings=1), norm)
    assert bool((near < 1.1 * best).all())
    assert bool((near <= rough).all())
