"""Attacks from labels alone: near a linear model's optimum, within their queries, and what every attack promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tests.conftest import interior, linear, points, source, tiny_net
from torch import Tensor

from unfooled.attacks import hop_skip_jump, labels_only, rays
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted, counted
from unfooled.core.threats import L2, Box, Linf, Threat
from unfooled.core.types import Model
from unfooled.evaluation.verify import verify

Decision = Callable[..., Tensor]
PAIRS: list[tuple[Decision, float]] = [(rays, math.inf), (hop_skip_jump, 2.0), (hop_skip_jump, math.inf)]
every = pytest.mark.parametrize(("attack", "norm"), PAIRS, ids=[f"{a.__name__}-{n:g}" for a, n in PAIRS])
SHAPE = (1, 6, 5)


def labels_of(model: Model, k: int) -> Model:
    """One-hot rows: no score, no gradient."""

    def onehot(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.eye(k, dtype=x.dtype)[model(x).argmax(1)]

    return onehot


def distances(model: Model, x: Tensor, y: Tensor, z: Tensor, norm: float, *, targeted: bool = False) -> Tensor:
    return verify(model, x, y, z, NORMS[norm](math.inf), targeted=targeted).distance


@pytest.mark.parametrize(
    ("attack", "norm", "steps", "room"),
    [(rays, math.inf, 1000, 1.1), (hop_skip_jump, 2.0, 2000, 1.25), (hop_skip_jump, math.inf, 2000, 1.25)],
)
@pytest.mark.parametrize("shape", [SHAPE, (24,), (3, 4, 4)], ids=str)
def test_labels_alone_lead_near_the_optimum(
    attack: Decision, norm: float, steps: int, room: float, shape: tuple[int, ...]
) -> None:
    model, x = linear(2, shape), interior(6, shape)
    y, best = model(x).argmax(1), model.distance(x, model(x).argmax(1), norm)
    with counted(labels_of(model, 2)) as f:
        z = attack(f, x, y, norm, steps=steps)
    found = distances(model, x, y, z, norm)
    assert f.forwards <= 6 * steps
    assert f.backwards == 0
    assert bool((found >= best * (1 - 1e-4)).all())
    assert bool((found <= best * room).all()), found / best


@every
def test_more_queries_come_nearer_and_all_are_counted(attack: Decision, norm: float) -> None:
    model, x = labels_of(tiny_net(3, SHAPE), 3), points(8, SHAPE, seed=2)
    y, mean = model(x).argmax(1), []
    for steps in (1, 40, 150, 600):
        with counted(model) as f:
            z = attack(f, x, y, norm, steps=steps)
        assert f.forwards <= 8 * steps
        mean.append(float(distances(model, x, y, z, norm).nan_to_num(posinf=9.0).mean()))
    assert mean[0] == 9.0  # one query tells what x is, and nothing else
    assert mean == sorted(mean, reverse=True)
    assert mean[-1] < 0.8 * mean[1]


@every
def test_scores_are_not_looked_at(attack: Decision, norm: float) -> None:
    net, x = tiny_net(3, SHAPE), points(5, SHAPE, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    assert torch.equal(attack(net, x, y, norm, steps=80), attack(labels_of(net, 3), x, y, norm, steps=80))


@every
def test_nothing_is_touched_and_the_batch_does_not_matter(attack: Decision, norm: float) -> None:
    net, x = tiny_net(3, SHAPE), points(7, SHAPE, seed=2)
    model, kept, state = labels_of(net, 3), x.clone(), torch.get_rng_state()
    y = model(x).argmax(1)
    # Steps enough for the second round of rays, whose order is random.
    whole = attack(model, x, y, norm, steps=300)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(whole, attack(model, x, y, norm, steps=300))
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    parts = torch.cat([attack(model, x[r], y[r], norm, steps=300) for r in order.split(3)])
    torch.testing.assert_close(whole[order], parts)
    alone = attack(model, x[:1], y[:1], norm, steps=300)
    torch.testing.assert_close(alone, whole[:1])


@every
def test_another_seed_is_another_walk(attack: Decision, norm: float) -> None:
    model, x = labels_of(tiny_net(3, SHAPE), 3), points(8, SHAPE, seed=2)
    y = model(x).argmax(1)
    first = attack(model, x, y, norm, steps=300)
    assert not torch.equal(first, attack(model, x, y, norm, steps=300, generator=source(1)))


@every
def test_already_wrong_stays_and_failure_returns_x(attack: Decision, norm: float) -> None:
    model, x = labels_of(tiny_net(3, SHAPE), 3), points(4, SHAPE)
    y = (model(x).argmax(1) + 1) % 3
    with counted(model) as f:
        assert torch.equal(attack(f, x, y, norm, steps=50), x)
    assert f.forwards == 4

    def sure(z: Tensor) -> Tensor:
        return torch.eye(2)[torch.zeros(len(z), dtype=torch.int64)]

    assert torch.equal(attack(sure, x, torch.zeros(4, dtype=torch.int64), norm, steps=30), x)


@every
def test_targets_are_hit_from_a_start(attack: Decision, norm: float) -> None:
    model, x = linear(4, SHAPE), interior(6, SHAPE)
    target = (model(x).argmax(1) + 1) % 4
    start = (x + model.weight[target].sign().reshape(x.shape)).clamp(0, 1)
    assert torch.equal(model(start).argmax(1), target)
    onehot = labels_of(model, 4)
    z = attack(onehot, x, target, norm, targeted=True, steps=400, start=start)
    assert not torch.equal(z, attack(onehot, x, target, norm, targeted=True, steps=400))  # the start matters
    near = distances(onehot, x, target, z, norm, targeted=True)
    far = distances(onehot, x, target, start, norm, targeted=True)
    assert bool((near < 0.5 * far).all())


def test_what_they_do_not_know_is_refused() -> None:
    model, x = linear(2, SHAPE), interior(2, SHAPE)
    y = model(x).argmax(1)
    with pytest.raises(BadInput, match="this attack supports"):
        rays(model, x, y, 2)
    with pytest.raises(BadInput, match="this attack supports"):
        hop_skip_jump(model, x, y, 1)
    for attack, norm in PAIRS:
        with pytest.raises(BadInput, match="must agree"):
            attack(model, x, y, norm, start=x[:1])
        with pytest.raises(BadInput, match="at least 1"):
            attack(model, x, y, norm, steps=0)


@pytest.mark.parametrize("threat", [Linf(0.6), L2(2.0)], ids=str)
def test_labels_alone_lead_to_a_target_inside_the_threat(threat: Threat) -> None:
    model, x = linear(2, SHAPE), interior(6, SHAPE)
    goal = 1 - model(x).argmax(1)
    z = labels_only(labels_of(model, 2), x, goal, threat, targeted=True, steps=600)
    verdict = verify(model, x, goal, z, threat, targeted=True)
    assert bool(verdict.inside.all())
    assert bool(verdict.success.all())
    near = threat.with_eps(1e-3)  # nearer than any example: only the projection keeps the points inside
    z = labels_only(labels_of(model, 2), x, goal, near, targeted=True, steps=100)
    assert bool(verify(model, x, goal, z, near, targeted=True).inside.all())


def test_a_search_by_labels_works_in_the_unit_box() -> None:
    model, x = linear(2, SHAPE), interior(6, SHAPE)
    y = model(x).argmax(1)
    with pytest.raises(BadInput, match=r"outside \[0, 1\]"):
        labels_only(labels_of(model, 2), 2 * x - 1, y, Linf(0.1, box=Box(-1, 1)), steps=10)
    with pytest.raises(BadInput, match="steps is 0"):
        labels_only(labels_of(model, 2), x, y, Linf(0.1), steps=0)


def one_by_one(net: Model) -> Model:
    """A model whose answers do not depend on the batch, not even in their last bit."""
    return lambda x: torch.cat([net(row[None]) for row in x])


@every
@pytest.mark.parametrize("targeted", [False, True])
def test_several_queries_a_call_take_the_path_of_one(attack: Decision, norm: float, targeted: bool) -> None:
    net, x = tiny_net(3, SHAPE), points(4, SHAPE, seed=2)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 3  # fooled already
    start = x.flip(0) if targeted else None
    for steps in (1, 3, 17, 200):
        ends, calls = [], []
        for rows in (1, 9, 64):
            model = Counted(one_by_one(net))
            ends.append(attack(model, x, y, norm, steps=steps, targeted=targeted, start=start, rows=rows))
            calls.append(model.calls)
            assert model.forwards <= 2 * 4 * steps
        assert all(torch.equal(end, ends[0]) for end in ends), steps
        assert calls == sorted(calls, reverse=True)
    assert calls[-1] < 0.65 * calls[0]


@every
def test_queries_in_turn_are_counted_up_to_the_hit(attack: Decision, norm: float) -> None:
    """A sample gets as many queries as with one a call, so that further steps change nothing before their time."""
    net, x = one_by_one(tiny_net(3, SHAPE)), points(3, SHAPE, seed=5)
    y = net(x).argmax(1)
    for steps in range(20, 50, 6):
        assert torch.equal(attack(net, x, y, norm, steps=steps), attack(net, x, y, norm, steps=steps, rows=64))
    with pytest.raises(BadInput, match="rows is 0"):
        attack(net, x, y, norm, rows=0)
    one, many = (labels_only(net, x, y, NORMS[norm](0.1), steps=90, rows=rows) for rows in (1, 64))
    assert torch.equal(one, many)
