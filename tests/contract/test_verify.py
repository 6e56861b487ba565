"""The judge: what it lets pass, what it calls a success, and how far it says that is."""

from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import interior, linear, points, source
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import L0, L1, L2, Box, Linf, Threat
from unfooled.evaluation.verify import on_levels, verify


def model(x: Tensor) -> Tensor:
    """Class 1 where the mean of the sample exceeds .5."""
    z = x.flatten(1).mean(1) - 0.5
    return torch.stack([-z, z], 1)


X = torch.full((1, 2), 0.49, dtype=torch.float64)
Y = torch.tensor([0])


@pytest.mark.parametrize(
    ("threat", "size"), [(Linf(0.02), 0.02), (L2(0.02 * 2**0.5), 0.02 * 2**0.5), (L1(0.04), 0.04), (L0(2), 2)]
)
def test_success_and_distance(threat: Threat, size: float) -> None:
    verdict = verify(model, X, Y, X + 0.02, threat)
    assert verdict.inside.tolist() == [True]
    assert verdict.success.tolist() == [True]
    assert verdict.prediction.tolist() == [1]
    assert verdict.queries.tolist() == [2]
    assert verdict.rate.tolist() == [1]
    assert not verdict.undefined.any()
    assert math.isclose(float(verdict.distance), size, rel_tol=1e-9)
    held = verify(model, X, Y, X + 0.005, threat)
    assert (held.inside.item(), held.success.item(), held.distance.item()) == (True, False, math.inf)
    assert (held.prediction.item(), held.rate.item()) == (0, 0)


@pytest.mark.parametrize("threat", [Linf(0.02), L2(0.02 * 2**0.5), L1(0.04)])
@pytest.mark.parametrize(("excess", "inside"), [(0.5e-6, True), (4e-6, False)])
def test_the_tolerance_is_a_millionth(threat: Threat, excess: float, inside: bool) -> None:
    step = torch.full_like(X, 0.02)
    far = X + step * (1 + excess / float(threat.size(step)))
    verdict = verify(model, X, Y, far, threat)
    assert verdict.inside.item() is inside
    assert verdict.success.item() is inside, "a point outside is no success, whatever the model says of it"
    assert verdict.rate.item() == float(inside)
    assert math.isfinite(verdict.distance.item()) is inside
    assert verify(model, X, Y, far, threat, tol=1e-4).inside.all()


def test_the_tolerance_grows_with_a_large_radius() -> None:
    x = points(1, (40, 40), dtype=torch.float64)
    z = L1(300.0).project(1 - x.round(), x)
    assert verify(model, x, Y, x + (z - x) * (1 + 5e-7), L1(300.0)).inside.all()
    assert not verify(model, x, Y, x + (z - x) * (1 + 5e-6), L1(300.0)).inside.any()


def test_the_box_is_enforced() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    z = x + torch.tensor([[-0.01, 0.0], [0.01, 0.0], [0.01, 0.0]])
    y = torch.tensor([0, 1, 0])
    assert verify(model, x, y, z, Linf(0.1)).inside.tolist() == [False, False, True]
    assert verify(model, x, y, z, Linf(math.inf)).inside.tolist() == [False, False, True]
    wide = Linf(0.1, box=Box(-1, 2))
    assert verify(model, x, y, z, wide).inside.all()
    edge = x + torch.tensor([[-5e-7, 0.0], [5e-7, 0.0], [0.0, 0.0]])
    assert verify(model, x, y, edge, Linf(0.1)).inside.all()


def test_an_infinite_radius_allows_the_box() -> None:
    for threat in (Linf(math.inf), L2(math.inf), L1(math.inf), L0(math.inf)):
        verdict = verify(model, X, Y, torch.ones_like(X), threat)
        assert verdict.success.all()
        assert math.isclose(float(verdict.distance), float(threat.size(1 - X)))


def test_a_radius_per_sample() -> None:
    x, y = X.repeat(3, 1), Y.repeat(3)
    verdict = verify(model, x, y, x + 0.02, Linf(torch.tensor([0.01, 0.02, 0.03])))
    assert verdict.success.tolist() == [False, True, True]


def test_wrong_from_the_start_is_success_at_distance_zero() -> None:
    x, y = X.repeat(3, 1), torch.tensor([1, 1, 0])
    proposed = torch.stack([x[0] + 0.3, x[1], x[2]])
    verdict = verify(model, x, y, proposed, Linf(0.1))
    assert verdict.success.tolist() == [True, True, False]
    assert verdict.distance.tolist() == [0, 0, math.inf]
    assert verdict.rate.tolist() == [1, 1, 0]
    assert verdict.inside.tolist() == [False, True, True]


def test_targeted_success_is_to_hit_the_target() -> None:
    x, target = X.repeat(3, 1), torch.tensor([1, 1, 0])
    proposed = x + torch.tensor([[0.02], [0.0], [0.02]], dtype=x.dtype)
    verdict = verify(model, x, target, proposed, Linf(0.1), targeted=True)
    assert verdict.success.tolist() == [True, False, True]
    assert verdict.distance[2] == 0, "the target is hit already"
    assert math.isclose(float(verdict.distance[0]), 0.02)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_decision(value: float) -> None:
    def broken(x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 0.5, torch.tensor([value, 0.0], dtype=x.dtype), model(x))

    x, y = X.repeat(2, 1), Y.repeat(2)
    verdict = verify(broken, x, y, x + torch.tensor([[0.02], [0.005]]), Linf(0.1))
    assert verdict.undefined.tolist() == [True, False]
    assert not verdict.success.any()
    assert verdict.distance.tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_points_that_are_no_points(value: float) -> None:
    def strict(x: Tensor) -> Tensor:
        assert torch.isfinite(x).all(), "the model is not asked about them"
        return model(x)

    x, y = X.repeat(2, 1), Y.repeat(2)
    proposed = x + 0.02
    proposed[0, 1] = value
    verdict = verify(strict, x, y, proposed, Linf(0.1))
    assert verdict.inside.tolist() == [False, True]
    assert verdict.success.tolist() == [False, True]
    assert verdict.undefined.tolist() == [True, False]
    wrong = verify(model, x, 1 - y, proposed, Linf(0.1))
    assert wrong.success.all()
    assert wrong.distance.tolist() == [0, 0]


@pytest.mark.parametrize("threat", [Linf(8 / 255), L2(1.0), L1(5.0), L0(20)])
def test_eight_bits_keep_the_ball_and_land_on_the_grid(threat: Threat) -> None:
    x = (points(30, (3, 6, 6)) * 255).round() / 255
    z = threat.sample(x)
    rounded = on_levels(z, x)
    assert torch.equal((rounded * 255).round() / 255, rounded)
    assert (threat.size(rounded - x) <= threat.size(z - x) + 1e-6).all()
    assert ((rounded - x).abs() <= (z - x).abs() + 1e-6).all()
    assert ((rounded - z).abs() < 1 / 255 + 1e-6).all()
    assert (rounded != x).flatten(1).any(1).all()
    assert torch.equal(on_levels(rounded, x), rounded), "what is on the grid stays"
    nudged = (x + (z - x).sign() * 8 / 255).clamp(0, 1) * (1 - 1e-7)
    torch.testing.assert_close(on_levels(nudged, x), nudged, rtol=0, atol=1e-6)


def test_eight_bits_are_judged_as_such() -> None:
    x = torch.tensor([[127 / 255] * 2])
    threat = Linf(2 / 255)
    subtle, firm = x + 0.7 / 255, x + 1.2 / 255
    assert verify(model, x, Y, subtle, threat).success.all()
    verdict = verify(model, x, Y, subtle, threat, levels=256)
    assert verdict.inside.all()
    assert not verdict.success.any(), "the picture on the screen is the clean one"
    eight = verify(model, x, Y, firm, threat, levels=256)
    assert eight.success.all()
    assert math.isclose(float(eight.distance), 1 / 255, rel_tol=1e-5), "measured where it was rounded to"


def test_a_random_model_is_judged_by_its_majority() -> None:
    noise = source(0)

    def random(x: Tensor) -> Tensor:
        return model(x + 0.02 * torch.randn(len(x), 1, generator=noise))

    x = torch.tensor([0.3, 0.3, 0.48, 0.7])[:, None].expand(4, 2).double()
    proposed = torch.tensor([0.3, 0.52, 0.505, 0.6])[:, None].expand(4, 2).double()
    verdict = verify(random, x, torch.zeros(4, dtype=torch.int64), proposed, Linf(0.25), draws=400)
    expected = [0, 0.841, 0.599, 1]  # Phi(1), Phi(1/4); the last is wrong from the start
    torch.testing.assert_close(verdict.rate, torch.tensor(expected), rtol=0, atol=0.06)
    assert verdict.success.tolist() == [False, True, True, True]
    assert verdict.distance[3] == 0
    assert verdict.queries.tolist() == [800] * 4
    unlucky = verify(random, x, torch.zeros(4, dtype=torch.int64), x + 0.005, Linf(0.25), draws=400)
    assert 0.1 < unlucky.rate[2] < 0.4
    assert not unlucky.success[2], "a few lucky draws are no success"


@pytest.mark.parametrize("batch", [1, 2, 3, 256])
def test_the_batch_changes_nothing_but_the_memory(batch: int) -> None:
    x = interior(7, (3, 2), dtype=torch.float64)
    y = (x.flatten(1).mean(1) > 0.5).long()
    z = Linf(0.1).sample(x)
    sizes = []

    def noted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return model(x)

    with counted(noted) as f:
        verdict = verify(f, x, y, z, Linf(0.1), batch=batch)
    assert f.forwards == 14
    assert int(verdict.queries.sum()) == 14
    assert max(sizes) <= batch
    assert torch.equal(verdict.success, verify(model, x, y, z, Linf(0.1)).success)
    assert 0 < verdict.success.sum() < 7


def test_nothing_is_touched_and_no_graph_is_built() -> None:
    weight = torch.nn.Linear(2, 2)
    x = interior(3, (2,)).requires_grad_()
    proposed = x.detach().clone().requires_grad_()
    before = (x.detach().clone(), torch.get_rng_state())
    verdict = verify(weight, x, torch.tensor([0, 1, 0]), proposed, Linf(0.1))
    assert not verdict.distance.requires_grad
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (x.grad, proposed.grad, weight.weight.grad) == (None, None, None)


FAULTS = {
    "shape": ((X, Y, X[:, :1], Linf(0.1)), r"x_adv has shape \(1, 1\), x is a tensor of shape \(1, 2\)"),
    "count": ((X, Y, X.repeat(2, 1), Linf(0.1)), r"x_adv has shape \(2, 2\)"),
    "type": ((X, Y, X.numpy(), Linf(0.1)), r"x_adv has type ndarray"),
    "labels": ((X, Y.repeat(2), X, Linf(0.1)), r"y is \(2,\); .*shape \(1,\)"),
    "label": ((X, Y + 2, X, Linf(0.1)), r"labels lie in \[2, 2\], the model has 2 classes"),
    "eps": ((X, Y, X, Linf(torch.ones(3))), "eps has 3 values for 1 samples"),
    "range": ((X * 255, Y, X * 255, Linf(0.1)), r"x lies in \[125, 125\], outside \[0, 1\]"),
    "empty": ((X[:0], Y[:0], X[:0], Linf(0.1)), "there are no samples"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_named(fault: str) -> None:
    (x, y, x_adv, threat), message = FAULTS[fault]
    with pytest.raises(BadInput, match=message):
        verify(model, x, y, x_adv, threat)  # type: ignore[arg-type]


def test_no_draws_is_no_judgement() -> None:
    with pytest.raises(BadInput, match="draws is 0; it must be at least 1"):
        verify(model, X, Y, X, Linf(0.1), draws=0)


def test_a_model_in_training_mode_is_refused_and_left_alone() -> None:
    norm = torch.nn.BatchNorm1d(30)
    model = torch.nn.Sequential(torch.nn.Flatten(), norm, torch.nn.Linear(30, 3)).train()
    x = points(4, (1, 6, 5))
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    with pytest.raises(BadInput, match="training mode"):
        verify(model, x, torch.zeros(4, dtype=torch.int64), x, Linf(1.0))
    assert torch.equal(norm.running_mean, before)


def test_a_number_is_no_threat() -> None:
    x = points(2, (1, 6, 5))
    with pytest.raises(BadInput, match=r"threat is a float; write Linf"):
        verify(linear(3, (1, 6, 5)), x, torch.zeros(2, dtype=torch.int64), x, 0.1)  # type: ignore[arg-type]
