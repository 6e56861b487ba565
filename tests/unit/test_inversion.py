"""Feature inversion against closed forms, scipy and a loop a page long; what it promises for every layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from tests.conftest import interior, points, source
from torch import Tensor, nn

import unfooled as uf
from unfooled.core.ascent import Decaying, Polyak, ascend
from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.core.threats import L2, Linf, Threat
from unfooled.features.inversion import Encoder, Inversion, invert_features, last_features
from unfooled.models import MnistCnn
from unfooled.models.architectures import build

A = torch.randn(5, 12, generator=source(1), dtype=torch.float64)


def linear(z: Tensor) -> Tensor:
    return z.flatten(1) @ A.T


def small_net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 12), nn.ReLU(inplace=True), nn.Linear(12, 3)
        ).double()
    for weight in net.parameters():  # features that differ from sample to sample, where a fresh net's hardly do
        if weight.ndim > 1 and len(weight) > 3:
            weight.data -= weight.data.flatten(1).mean(1).reshape(-1, *[1] * (weight.ndim - 1))
            weight.data *= 5
    return net


NET = small_net()


def pair(n: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, starts and the sources' features."""
    x, start = points(n, (1, 6, 6), dtype=torch.float64), points(n, (1, 6, 6), dtype=torch.float64, seed=1)
    return x, start, Encoder(NET, "3")(x).detach()


def test_a_linear_map_is_inverted_exactly() -> None:
    x, start = interior(20, (3, 4), dtype=torch.float64), interior(20, (3, 4), dtype=torch.float64, seed=4)
    found = uf.features.invert_features(linear, linear(x), start, steps=300, tol=1e-4)
    assert found.reached.all()
    assert (found.residual < 1e-4).all()
    torch.testing.assert_close(linear(found.x), linear(x), atol=2e-3, rtol=0)
    assert (found.steps_used < 300).all()


def test_where_the_target_cannot_be_reached_the_value_is_scipy_s() -> None:
    start = torch.full((6, 12), 0.5, dtype=torch.float64)
    target = 6 * torch.randn(6, 5, generator=source(2), dtype=torch.float64)
    found = invert_features(linear, target, start, steps=3000, tol=0, rule=Decaying(1.0, 1e-5, absolute=True))
    best = [np.linalg.norm(lsq_linear(A.numpy(), t.numpy(), (0, 1), tol=1e-12).fun) / float(t.norm()) for t in target]
    assert min(best) > 0.02
    torch.testing.assert_close(found.residual, torch.tensor(best, dtype=torch.float64), atol=2e-4, rtol=0)
    assert (found.residual >= torch.tensor(best, dtype=torch.float64) - 1e-9).all()
    assert not found.reached.any()


def test_a_target_that_is_there_costs_no_step() -> None:
    _, start, _ = pair()
    encode = Encoder(NET, "3")
    found = invert_features(encode, encode(start), start, tol=0.0)
    assert torch.equal(found.x, start)
    assert found.steps_used.tolist() == [0] * len(start)
    assert found.reached.all()
    assert not found.vanished.any()
    assert (found.residual == 0).all()


@pytest.mark.parametrize("threat", [L2(math.inf), L2(0.7), Linf(0.1), L2(torch.linspace(0.1, 2, 9))], ids=str)
def test_points_are_inside_and_no_worse_than_the_start(threat: Threat) -> None:
    _, start, target = pair()
    encode = Encoder(NET, "3")
    found = invert_features(encode, target, start, threat=threat, steps=30)
    assert found.x.min() >= 0
    assert found.x.max() <= 1
    assert (threat.size(found.x - start) <= torch.as_tensor(threat.eps) + 1e-6).all()
    before = (encode(start) - target).norm(dim=1) / target.norm(dim=1)
    after = (encode(found.x) - target).norm(dim=1) / target.norm(dim=1)
    assert (after < before).all()
    torch.testing.assert_close(after, found.residual)
    assert not found.x.requires_grad


@pytest.mark.parametrize("batch", [1, 2, 4, 100])
def test_chunks_and_order_change_nothing(batch: int) -> None:
    _, start, target = pair()
    encode = Encoder(NET, "3")
    whole = invert_features(encode, target, start, steps=25, tol=0.1)
    assert whole.reached.any()
    assert whole.steps_used.unique().numel() > 2
    order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    parts = invert_features(encode, target[order], start[order], steps=25, tol=0.1, batch=batch)
    for name in ("x", "residual", "steps_used", "reached", "vanished"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name)[order], rtol=0, atol=1e-9)


class Counting:
    """An encoder that counts the rows it is given."""

    def __init__(self) -> None:
        self.encode, self.rows = Encoder(NET, "3"), 0

    def __call__(self, z: Tensor) -> Tensor:
        self.rows += len(z)
        return self.encode(z)


def test_samples_that_are_done_leave_the_batch() -> None:
    _, start, target = pair()
    counting = Counting()
    found = invert_features(counting, target, start, steps=60, tol=0.1, batch=9)
    assert found.reached.all()
    assert counting.rows <= int(found.gradients.sum()) + 9
    assert counting.rows < 9 * int(found.gradients.max())


def dead(z: Tensor) -> Tensor:
    return torch.relu(z.flatten(1) @ torch.ones(4, 2, dtype=z.dtype) - torch.tensor([2.0, 1.0], dtype=z.dtype))


def test_a_vanished_gradient_ends_and_is_flagged() -> None:
    start = torch.tensor([[0.1] * 4, [0.9] * 4, [0.2] * 4], dtype=torch.float64)
    target = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.5, 1.5]], dtype=torch.float64)
    found = invert_features(dead, target, start, tol=1e-6)
    assert found.vanished.tolist() == [True, False, True]
    assert found.reached.tolist() == [False, True, False]
    assert found.gradients[0] == 1
    assert torch.equal(found.x[0], start[0])
    assert found.residual[0] == 1


def loop(start: Tensor, target: Tensor, steps: int, tol: float, penalty: bool) -> tuple[Tensor, int]:
    """One sample, as the paper would write it."""
    z, best, least, encode = start.clone(), start, math.inf, Encoder(NET, "3")
    last = torch.zeros_like(z)

    def inside(g: Tensor) -> Tensor:  # of a gradient of what is minimised
        return torch.where(((z >= 1) & (g < 0)) | ((z <= 0) & (g > 0)), 0, g)

    for k in range(steps + 1):
        z = z.detach().requires_grad_()
        d = (encode(z[None])[0] - target).norm()
        value = d + (0.1 * (z - start).abs().sum() if penalty else 0)
        if float(value.detach()) < least:
            best, least = z.detach().clone(), float(value.detach())
        if d <= tol * target.norm() or k == steps:
            return (z.detach() if d <= tol * target.norm() else best), k
        (g,) = torch.autograd.grad(value, z)
        g = inside(g)
        if not penalty and k:  # Polyak's rule, whose direction is half the last one
            g = inside(g + g.norm() / inside(last).norm() * inside(last))
        last = g
        size = (
            0.5 * (1 + math.cos(math.pi * k / steps)) * 0.99 + 0.01
            if penalty
            else min(float(value.detach() / g.norm()), 1)
        )
        z = (z - size * g / g.norm()).clamp(0, 1)
    raise AssertionError


@pytest.mark.parametrize("penalty", [False, True])
def test_the_slow_twin(penalty: bool) -> None:
    _, start, target = pair(5)
    more: dict[str, Any] = {}
    if penalty:
        more["penalty"] = lambda z, at: 0.1 * (z - start[at]).abs().flatten(1).sum(1)
        more["rule"] = Decaying(absolute=True)
    found = invert_features(Encoder(NET, "3"), target, start, steps=20, tol=0.08, **more)
    for i in range(5):
        z, k = loop(start[i], target[i], 20, 0.08, penalty)
        torch.testing.assert_close(found.x[i], z)
        assert int(found.steps_used[i]) == k
    if penalty:
        plain = invert_features(Encoder(NET, "3"), target, start, steps=20, tol=0.08)
        assert (found.x - start).abs().sum() < (plain.x - start).abs().sum()


def test_a_stop_of_the_caller_s_own_ends_its_rows() -> None:
    x, start, target = pair()
    wanted = NET(x).argmax(1)

    def stop(z: Tensor, features: Tensor, at: Tensor) -> Tensor:
        assert not features.requires_grad
        return NET[5](features.relu()).argmax(1) == wanted[at]

    found = invert_features(Encoder(NET, "3"), target, start, stop=stop, tol=0, batch=2)
    assert found.reached.all()
    assert torch.equal(NET(found.x).argmax(1), wanted)
    assert found.steps_used.max() < 100
    assert (NET(start).argmax(1) == wanted).tolist() == (found.steps_used == 0).tolist()


def test_layers_by_name_are_what_the_model_computes() -> None:
    x, _, _ = pair()
    for model in (NET, Classifier(NET)):
        before = NET[3](NET[2](NET[1](NET[0](x))))
        torch.testing.assert_close(Encoder(model, "3")(x), before)  # the ReLU behind it works in place
        assert (before < 0).any()
        torch.testing.assert_close(Encoder(model, "3", relu=True)(x), before.relu())
        torch.testing.assert_close(Encoder(model, "5:input")(x), before.relu())
        torch.testing.assert_close(Classifier(NET).features(x, "3"), before)
    assert last_features(NET) == last_features(Classifier(NET)) == "3"
    assert last_features(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == "1:input"
    normalised = Classifier(NET, mean=0.5, std=0.25)
    torch.testing.assert_close(Encoder(normalised, "3")(x), Encoder(NET, "3")((x - 0.5) / 0.25))


class Block(nn.Module):
    """z + fc2(relu(fc1(z))), with attention before where asked for."""

    def __init__(self, width: int, attends: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(width, 3 * width) if attends else None
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, z: Tensor) -> Tensor:
        if self.mix is not None:
            q, k, v = self.mix(self.norm(z)).chunk(3, -1)
            z = z + (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return z + self.fc2(self.fc1(self.norm(z)).relu())


class Toy(nn.Module):
    """Rows of an image as tokens, or the image as a vector; residual blocks; a head on what they leave."""

    def __init__(self, attends: bool = False, neck: bool = False) -> None:
        super().__init__()
        self.attends = attends
        self.core = nn.Sequential(*[Block(8 if attends else 64, attends) for _ in range(2)])
        self.neck = nn.Linear(64, 16) if neck else None
        self.head = nn.Linear(8 if attends else 16 if neck else 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.core(x[:, 0] if self.attends else x.flatten(1))
        z = z.mean(1) if self.attends else z
        return self.head(z if self.neck is None else nn.functional.dropout(self.neck(z).tanh(), 0.1, self.training))


class Untraced(nn.Module):
    """A forward pass that looks at numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc1(x.flatten(1))
        return self.fc2(z if float(z.detach().sum()) == 0 else z.relu() + 1)


class Twice(nn.Module):
    """One layer called twice, the first time before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc(x.flatten(1))
        late = self.fc(z)
        return self.head(z) + late[:, :3]


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (Toy(), "head:input"),
        (Toy(attends=True), "head:input"),
        (Toy(neck=True), "neck"),
        (Untraced(), "fc2:input"),
        (Twice(), "head:input"),
        (MnistCnn(), "fc"),
        (build("lenet5", (1, 28, 28), 10), "linear1"),
        (build("small-cnn", (1, 8, 8), 10), "fc1"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3)), "1"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 3)), "3:input"),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, nn.Module) else item,
)
def test_default_features_are_what_the_head_sees(model: nn.Module, layer: str) -> None:
    state = torch.get_rng_state()
    assert last_features(model) == layer
    assert torch.equal(torch.get_rng_state(), state)
    side = 28 if layer in ("fc", "linear1") else 8
    x = points(2, (1, side, side))
    assert Encoder(model.eval(), layer)(x).ndim == 2  # of the whole image, not of one token


def test_nothing_is_touched() -> None:
    _, start, target = pair()
    kept, state = (start.clone(), target.clone()), torch.get_rng_state()
    found = invert_features(Encoder(NET, "3"), target.requires_grad_(), start, steps=3)
    assert torch.equal(start, kept[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in NET.parameters())
    assert not NET[3]._forward_hooks
    assert not found.residual.requires_grad


def test_polyak_steps_in_the_threat_s_own_norm() -> None:
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    slope = torch.tensor([1.0, -2.0, 1.0], dtype=x.dtype)

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        return ((z - 0.5) * slope).sum(1) - 0.24, at < 0

    for threat, size in ((Linf(1.0), 0.06), (L2(1.0), 0.24 / 6**0.5)):
        found = ascend(objective, x, threat, steps=1, rule=Polyak())
        torch.testing.assert_close(found.value, torch.zeros(1, dtype=x.dtype))
        assert float(threat.size(found.z - x)) == pytest.approx(size)
        short = ascend(objective, x, threat, steps=1, rule=Polyak(cap=0.01))
        assert float(threat.size(short.z - x)) == pytest.approx(0.01)
    past = ascend(objective, x, L2(1.0), steps=1, rule=Polyak(optimum=-1.0), keep_best=False)
    assert torch.equal(past.z, x)


def test_averaged_directions_do_not_zigzag() -> None:
    valley = torch.diag(torch.tensor([1.0, 0.03], dtype=torch.float64))
    start, target = torch.full((1, 2), 0.2, dtype=torch.float64), torch.tensor([[0.5, 0.024]], dtype=torch.float64)
    used = [
        int(invert_features(lambda z: z @ valley, target, start, steps=2000, tol=1e-3, rule=rule).steps_used)
        for rule in (Polyak(), Polyak(average=False))
    ]
    assert 2 * used[0] < used[1]


def test_decaying_steps_may_be_absolute() -> None:
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    for eps in (0.2, math.inf):
        found = ascend(lambda z, at: (z.sum(1), at < 0), x, Linf(eps), steps=1, rule=Decaying(0.1, 0, absolute=True))
        torch.testing.assert_close(found.z, x + 0.1)
        assert found.moved.tolist() == [1]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"target": torch.rand(2, 12)}, "target is \\(2, 12\\) for 9 starts"),
    ({"target": torch.rand(9, 11)}, "encode returned shape \\(9, 12\\) for 9 samples, target has \\(9, 11\\)"),
    ({"start": torch.full((9, 1, 6, 6), 1.5)}, "x lies in"),
    ({"target": torch.full((9, 12), torch.nan)}, "target holds NaN or infinite values for 9 of 9 samples"),
    ({"batch": 0}, "batch is 0"),
    ({"tol": math.nan}, "tol is nan; it must be a finite residual, at least 0"),
    ({"tol": -0.1}, "tol is -0.1; it must be"),
    ({"steps": -1}, "steps is -1; it must be a whole number, at least 0"),
    ({"threat": 0.5}, "threat is a float"),
    ({"encode": lambda z: Encoder(NET, "3")(z).detach()}, "carries no gradient"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[b[1][:20] for b in BAD])
def test_bad_calls_are_named(change: dict[str, Any], message: str) -> None:
    _, start, target = pair()
    given: dict[str, Any] = {"encode": Encoder(NET, "3"), "target": target, "start": start}
    with pytest.raises(BadInput, match=message):
        invert_features(**given | {k: v.double() if isinstance(v, Tensor) else v for k, v in change.items()})


def test_bad_layers_are_named() -> None:
    with pytest.raises(BadInput, match="has no layer 'fc'; it has 0, 1"):
        Encoder(NET, "fc")
    with pytest.raises(BadInput, match="a function and has no layers"):
        Encoder(linear, "fc")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"no linear layer and no convolution.*of 0, 1\. An exported"):
        last_features(nn.Sequential(nn.ReLU(), nn.Flatten()))
    with pytest.raises(BadInput, match=r"layer '0' was not called.*\(.pt2\) calls none"):
        Encoder(Skips(nn.Linear(4, 3), nn.Linear(4, 2)), "0")(torch.rand(1, 4))
    with pytest.raises(BadInput, match="training mode"):
        net = nn.Sequential(nn.Dropout(), nn.Linear(4, 2)).train()
        invert_features(Encoder(net, "1"), torch.rand(1, 2), torch.rand(1, 4))


class Skips(nn.Sequential):
    """The last layer alone."""

    def forward(self, x: Tensor) -> Tensor:
        return self[-1](x)


def test_where_classes_are_channels_the_last_convolution_s_input_is_inverted() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert last_features(net) == "2:input"
    x = torch.rand(2, 1, 6, 6)
    assert torch.equal(Encoder(net, "2:input")(x), net[:2](x))


def test_what_lies_on_two_devices_is_told() -> None:
    far = nn.Linear(4, 2, device="meta")
    with pytest.raises(BadInput, match="lie on cpu and meta; move them to one device"):
        invert_features(Encoder(nn.Sequential(far), "0"), torch.rand(1, 2), torch.rand(1, 4))


def test_a_target_of_zero_has_an_absolute_residual() -> None:
    found: Inversion = invert_features(linear, torch.zeros(1, 5, dtype=A.dtype), A[:1].clamp(0, 1), tol=1e-3)
    torch.testing.assert_close(found.residual, linear(found.x).norm(dim=1))
