"""Contract of the explanations: closed forms, completeness, second derivatives, and nothing left behind."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled import explanations
from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.core.losses import cross_entropy
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import frozen
from unfooled.core.model.wrappers import Counted
from unfooled.core.types import Explain
from unfooled.explanations import (
    Smoothed,
    attention_image,
    completeness_gap,
    find_spatial_layer,
    grad_cam,
    grad_cam_map,
    input_x_gradient,
    integrated_gradients,
    integrated_gradients_with_gap,
    saliency,
    smooth_grad,
    smooth_relu,
)
from unfooled.explanations.gradients import lead, log_probability
from unfooled.explanations.paths import gauss_legendre, midpoint, right
from unfooled.testing import check_explanation

Explanation = Callable[..., Tensor]
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Row:
    """An explanation with its options bound, and what it claims (keywords of `check_explanation`)."""

    explain: Explanation
    claims: Mapping[str, Any] = field(default_factory=dict)


def slope(w: Tensor, x: Tensor) -> Tensor:
    return w


def contribution(w: Tensor, x: Tensor) -> Tensor:
    return w * x


# As they are, each has the signature that attacks and trainers ask for (checked by mypy).
PLAIN: list[Explain] = [saliency, input_x_gradient, integrated_gradients, smooth_grad, grad_cam, attention_image]
LOCAL: dict[str, Any] = {"ignores": True}
"""What gradients with respect to the input claim: a coordinate that the model ignores gets nothing."""
PATH: dict[str, Any] = {**LOCAL, "linear": contribution, "baseline": 0.0}
GRADIENTS = {
    "saliency": Row(saliency, {**LOCAL, "linear": slope}),
    "input_x_gradient": Row(input_x_gradient, {**LOCAL, "linear": contribution}),
    "integrated_gradients": Row(partial(integrated_gradients, steps=4), PATH),
    "midpoint": Row(
        partial(integrated_gradients, steps=5, rule=midpoint, baseline=0.3),
        {**LOCAL, "linear": lambda w, x: w * (x - 0.3), "baseline": 0.3},
    ),
    "one_graph": Row(partial(integrated_gradients, steps=3, one_graph=True), PATH),
    "path_of_the_loss": Row(partial(integrated_gradients, steps=3, rule=right, score=cross_entropy), LOCAL),
    "log_probability": Row(partial(saliency, score=log_probability), LOCAL),
    "smooth_grad": Row(partial(smooth_grad, samples=3, noise_seed=5), {**LOCAL, "linear": slope}),
    "smooth_integrated": Row(
        partial(smooth_grad, samples=2, noise_seed=5, explain=partial(integrated_gradients, steps=2)), LOCAL
    ),
}
ROWS = {
    **GRADIENTS,
    "grad_cam": Row(partial(grad_cam, relu=False)),
    "grad_cam_relu": Row(grad_cam),
    "grad_cam_early": Row(partial(grad_cam, relu=False, layer="1")),
    "attention_image": Row(attention_image),
}
gradient_by_name = pytest.mark.parametrize("explain", [row.explain for row in GRADIENTS.values()], ids=GRADIENTS.keys())


def with_new_ones(rows: dict[str, Row]) -> dict[str, Row]:
    """Add the public explanations that no row is about, with their defaults; they are functions that attribute to x."""
    known = [getattr(row.explain, "func", row.explain) for row in rows.values()]
    new = {}
    for name in explanations.__all__:
        value = getattr(explanations, name)
        if inspect.isfunction(value) and value not in known:
            parameters = inspect.signature(value).parameters
            if list(parameters)[:3] == ["model", "x", "y"] and "create_graph" in parameters:
                net, (x, y) = conv_net(nn.ReLU), batch()
                found = value(net, x, y)
                if isinstance(found, Tensor) and found.shape == x.shape:
                    new[name] = Row(value)
    return {**rows, **new}


def seeded(net: Net, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Net:
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64).mul_(0.4).to(dtype)
    return net.to(dtype).eval()


def conv_net(act: Callable[[], nn.Module] = nn.Softplus, *, dtype: torch.dtype = torch.float64) -> nn.Module:
    "Two convolutions and a linear head on (2, 6, 5)."
    layers = [
        nn.Conv2d(2, 4, 3, padding=1),
        act(),
        nn.Conv2d(4, 3, 3, padding=1),
        act(),
        nn.Flatten(),
        nn.Linear(90, 3),
    ]
    return seeded(nn.Sequential(*layers), dtype=dtype)


def batch(n: int = 3, *, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 2, 6, 5, generator=generator, dtype=torch.float64).to(dtype), torch.arange(n) % 3


class Rows:
    "A model that notes how many rows each call has."

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model, self.seen = model, []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.model(x)


every = with_new_ones(ROWS)


@pytest.mark.parametrize("row", every.values(), ids=every.keys())
def test_contract(row: Row) -> None:
    check_explanation(row.explain, **row.claims)


def test_an_explanation_without_a_row_is_checked_all_the_same() -> None:
    assert {"saliency", "grad_cam", "smooth_grad"} <= set(with_new_ones({}))


# Closed forms


def test_linear_model_exact() -> None:
    w = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = torch.rand(4, 2, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    r = torch.rand(4, 2, 2, 2, dtype=torch.float64)

    def model(z: Tensor) -> Tensor:
        return z.flatten(1) @ w.T + 7

    want = w[y].reshape(x.shape)
    torch.testing.assert_close(saliency(model, x, y), want)
    torch.testing.assert_close(input_x_gradient(model, x, y), want * x)
    torch.testing.assert_close(smooth_grad(model, x, y), want)
    for rule in (gauss_legendre, midpoint, right):
        for steps in (1, 7):
            found = integrated_gradients_with_gap(model, x, y, baseline=r, steps=steps, rule=rule)
            torch.testing.assert_close(found.attribution, want * (x - r))
            assert found.gap.max() < 1e-12
            assert found.relative_gap.max() < 1e-9


def test_paths_through_known_polynomials() -> None:
    def product(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] * x[:, 1], x[:, 0] ** 3 + 0 * x[:, 1]], 1)

    x = torch.tensor([[1.0, 1.0], [0.5, 2.0]], dtype=torch.float64)
    first, second = torch.tensor([0, 0]), torch.tensor([1, 1])
    # Gauss-Legendre with n points is exact for gradients of degree 2n - 1 along the path.
    half = x.prod(1, keepdim=True).expand(-1, 2) / 2
    torch.testing.assert_close(integrated_gradients(product, x, first, steps=1), half)
    torch.testing.assert_close(integrated_gradients(product, x, second, steps=2)[:, 0], x[:, 0] ** 3)
    torch.testing.assert_close(input_x_gradient(product, x, first), 2 * half)
    # From a baseline r: x1 x2 gives (x1 - r1)(x2 + r2) / 2 to the first coordinate.
    r = torch.tensor([0.25, 0.5], dtype=torch.float64)
    got = integrated_gradients(product, x, first, baseline=r, steps=3)[:, 0]
    torch.testing.assert_close(got, (x[:, 0] - r[0]) * (x[:, 1] + r[1]) / 2)
    # The right Riemann sum of t^2 over n cells is (n + 1)(2n + 1) / 6n^2.
    got = integrated_gradients(product, x, second, steps=4, rule=right)[:, 0]
    torch.testing.assert_close(got, 3 * x[:, 0] ** 3 * (5 * 9) / (6 * 16))


def test_saturation_has_no_gradient_but_an_integral() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.cat([1 - F.relu(1 - x), x], 1)

    x, y = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([0])
    assert saliency(model, x, y) == 0
    torch.testing.assert_close(integrated_gradients(model, x, y, steps=64, rule=midpoint), torch.ones_like(x))


@pytest.mark.parametrize("rule", [gauss_legendre, midpoint, right])
def test_rules_integrate_one(rule: Callable[[int], tuple[tuple[float, ...], tuple[float, ...]]]) -> None:
    for steps in (1, 2, 50):
        t, w = rule(steps)
        assert len(t) == len(w) == steps
        assert sum(w) == pytest.approx(1, abs=1e-12)
        assert min(t) > 0
        assert max(t) <= 1


def test_grad_cam_is_cam_where_that_is_defined() -> None:
    conv = nn.Conv2d(2, 4, 3)
    net = seeded(nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), seed=2)
    x, y = batch()
    weights = net[4].weight[y] / (4 * 3)  # type: ignore[index]
    want = (weights[:, :, None, None] * conv(x).relu()).sum(1).detach()
    assert want.min() < 0 < want.max()
    found = grad_cam_map(net, x, y, relu=False)
    assert found.layer == "1"
    torch.testing.assert_close(found.map, want)
    torch.testing.assert_close(grad_cam_map(net, x, y).map, want.clamp_min(0))
    large = F.interpolate(want[:, None], (6, 5), mode="bilinear", align_corners=False).expand(-1, 2, -1, -1)
    torch.testing.assert_close(grad_cam(net, x, y, relu=False), large)
    # Here w does not depend on x, so holding it constant is exact.
    x.requires_grad_()
    cam = partial(grad_cam_map, net, x, y, relu=False, create_graph=True)
    slopes = [torch.autograd.grad(cam(detach_weights=d).map.square().sum(), x)[0] for d in (True, False)]
    torch.testing.assert_close(*slopes)
    assert slopes[0].abs().max() > 0


def test_constant_weights_drop_a_part_of_the_derivative() -> None:
    net, (x, y) = conv_net(), batch()
    x.requires_grad_()
    cam = partial(grad_cam_map, net, x, y, layer="1", relu=False, create_graph=True)
    held, full = (torch.autograd.grad(cam(detach_weights=d).map.sum(), x)[0] for d in (True, False))
    assert (held - full).abs().max() > 1e-2 * full.abs().max()


def test_scores() -> None:
    net, (x, y) = conv_net(), batch()
    for score, by_hand in (
        (log_probability, lambda z: z.log_softmax(1)[range(3), y]),
        (
            lead,
            lambda z: torch.stack([z[i, y[i]] - torch.cat([z[i, : y[i]], z[i, y[i] + 1 :]]).max() for i in range(3)]),
        ),
    ):
        leaf = x.clone().requires_grad_()
        (want,) = torch.autograd.grad(by_hand(net(leaf)).sum(), leaf)
        torch.testing.assert_close(saliency(net, x, y, score=score), want)


# Completeness


def test_completeness_on_a_trained_network() -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images[:600] / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target[:600])
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    net = seeded(nn.Sequential(*layers, nn.Linear(64, 10)), dtype=torch.float32)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    assert (net(x).argmax(1) == y).float().mean() > 0.9
    net.zero_grad()
    coarse = integrated_gradients_with_gap(net, x[:50], y[:50], steps=4)
    fine = integrated_gradients_with_gap(net, x[:50], y[:50], steps=256, rule=midpoint)
    assert fine.relative_gap.median() < 2e-3 < coarse.relative_gap.median()
    torch.testing.assert_close(fine.change, (net(x[:50]) - net(x[:50] * 0)).gather(1, y[:50, None])[:, 0].detach())
    gap = completeness_gap(net, x[:50], y[:50], coarse.attribution)
    torch.testing.assert_close(gap, coarse.relative_gap)
    assert (coarse.steps == 4).all()
    # Only the samples that need them get more steps.
    assert coarse.relative_gap.max() > 0.03
    mended = integrated_gradients_with_gap(net, x[:50], y[:50], steps=4, tolerance=0.03)
    assert mended.relative_gap.max() <= 0.03
    assert (mended.steps[coarse.relative_gap <= 0.03] == 4).all()
    assert mended.steps.max() > 4
    with pytest.warns(UserWarning, match="attributions have a relative completeness gap over 1e-09 at 8 steps"):
        integrated_gradients_with_gap(net, x[:2], y[:2], steps=4, tolerance=1e-9, most=8)


def test_gap_of_several_baselines() -> None:
    net, (x, y) = conv_net(nn.ReLU), batch()
    shared, each = torch.rand(2, 6, 5, dtype=torch.float64), torch.rand(3, 2, 6, 5, dtype=torch.float64)
    for r in (0.25, shared, shared[None], each):
        found = integrated_gradients_with_gap(net, x, y, baseline=r, steps=8)
        z = torch.as_tensor(r, dtype=torch.float64).expand_as(x)
        change = (net(x) - net(z)).gather(1, y[:, None])[:, 0].detach()
        torch.testing.assert_close(found.change, change)
        torch.testing.assert_close(found.gap, (found.attribution.sum((1, 2, 3)) - change).abs())
    same = integrated_gradients_with_gap(net, x, y, baseline=x)
    assert (same.relative_gap == 0).all()


# Noise


def test_smooth_grad_is_the_mean_of_a_slow_loop() -> None:
    net, (x, y) = conv_net(nn.ReLU), batch()
    for samples, explain in ((5, saliency), (4, input_x_gradient)):
        found = smooth_grad(net, x, y, explain=explain, samples=samples, sigma=0.2, generator=seed_of(9))
        for i in range(3):
            maps = []
            for k in range(samples):
                xi = rng.normal(
                    rng.seeds(x[i : i + 1], 9, stage=rng.Stream.SMOOTHING), (2, 6, 5), draw=k // 2, dtype=torch.float64
                )[0]
                noisy = x[i] + (-1) ** k * 0.2 * (x[i].max() - x[i].min()) * xi
                maps.append(explain(net, noisy[None], y[i : i + 1])[0])
            torch.testing.assert_close(found[i], torch.stack(maps).mean(0))


def seed_of(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def test_smooth_grad_tends_to_saliency() -> None:
    net, (x, y) = conv_net(), batch()
    plain = saliency(net, x, y)
    gaps = [(smooth_grad(net, x, y, sigma=s) - plain).abs().max() for s in (1e-1, 1e-3, 0)]
    assert gaps[0] > 1e-3 > 1e-4 > gaps[1]
    assert gaps[2] < 1e-12


def test_antithetic_pairs_cancel_what_is_linear_in_the_noise() -> None:
    def quadratic(x: Tensor) -> Tensor:
        return torch.stack([x.square().sum(1), x[:, 0] * x[:, 1]], 1)

    x, y = torch.rand(3, 4, dtype=torch.float64), torch.tensor([0, 1, 0])
    torch.testing.assert_close(smooth_grad(quadratic, x, y, samples=4, sigma=0.5), saliency(quadratic, x, y))
    assert (smooth_grad(quadratic, x, y, samples=1, sigma=0.5) - saliency(quadratic, x, y)).abs().max() > 1e-3


def test_noise_belongs_to_the_sample_and_the_seed() -> None:
    net, (x, y) = conv_net(nn.ReLU), batch()
    explain = partial(smooth_grad, net, samples=2)
    torch.testing.assert_close(explain(x, y)[1:2], explain(x[1:2], y[1:2]))
    assert (explain(x, y, generator=seed_of(1)) - explain(x, y)).abs().max() > 1e-6
    per_row = explain(x, y, noise_seed=torch.tensor([3, 4, 5]))
    torch.testing.assert_close(per_row[2:], explain(x[2:], y[2:], noise_seed=5))


# Derivatives of maps


class Attending(nn.Module):
    "Rows of an image as tokens, under one head of attention: fused, or written out."

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.mix, self.head = fused, nn.Linear(10, 24), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x.transpose(1, 2).flatten(2))[:, None].chunk(3, -1)
        if self.fused:
            return self.head(F.scaled_dot_product_attention(q, k, v).flatten(1))
        return self.head(((q @ k.mT / 8**0.5).softmax(-1) @ v).flatten(1))


@gradient_by_name
def test_fused_attention_has_a_second_derivative(explain: Explanation) -> None:
    x, y = batch()
    found = []
    for fused in (True, False):
        z = x.clone().requires_grad_()
        map_ = explain(seeded(Attending(fused)), z, y, create_graph=True)
        found.append(torch.autograd.grad(map_.square().sum(), z)[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("batch_bytes", [1, 20_000, None])
def test_two_passes_equal_one_graph(batch_bytes: int | None) -> None:
    net, (x, y) = conv_net(), batch(5)
    v = torch.randn(x.shape, generator=seed_of(2), dtype=torch.float64)
    found = []
    for one_graph in (True, False):
        leaf, r = x.clone().requires_grad_(), torch.full_like(x[0], 0.2).requires_grad_()
        e = integrated_gradients(
            net, 2 * leaf, y, baseline=r, steps=6, batch_bytes=batch_bytes, one_graph=one_graph, create_graph=True
        )
        found.append(torch.autograd.grad((e * v).square().sum(), [leaf, r, *net.parameters()], allow_unused=True))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, torch.zeros_like(two) if one is None else one, rtol=1e-8, atol=1e-10)
    assert all(g is None or g.abs().max() > 0 for g in found[0])


def test_second_pass_is_bounded_and_spares_frozen_parameters() -> None:
    net, (x, y) = conv_net(), batch(5)
    model = Rows(net)
    x.requires_grad_()
    with frozen(net):
        e = integrated_gradients(model, x, y, steps=6, batch_bytes=1, create_graph=True)
        assert model.seen == [*model.seen[:1], *[1] * (len(model.seen) - 1)]
        e.sum().backward()
    assert sum(model.seen) == 2 * 5 * 6
    assert max(model.seen[1:30]) == 1
    assert x.grad is not None
    assert all(p.grad is None for p in net.parameters())


def test_third_derivatives_need_one_graph() -> None:
    net, (x, y) = conv_net(), batch(1)
    x.requires_grad_()
    e = integrated_gradients(net, x, y, steps=2, one_graph=True, create_graph=True)
    (g,) = torch.autograd.grad(e.square().sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(g.square().sum(), x)
    assert third.abs().max() > 0
    e = integrated_gradients(net, x, y, steps=2, create_graph=True)
    with pytest.raises(BadInput, match="one_graph=True"):
        torch.autograd.grad(e.square().sum(), x, create_graph=True)


@gradient_by_name
def test_constant_map_is_still_attackable(explain: Explanation) -> None:
    w = torch.randn(3, 60, generator=seed_of(0), dtype=torch.float64)
    x, y = batch()
    x.requires_grad_()
    e = explain(lambda z: z.flatten(1) @ w.T, x, y, create_graph=True)
    (g,) = torch.autograd.grad(e.sum(), x)
    assert torch.isfinite(g).all()


def test_the_gradient_of_a_changed_model_is_refused() -> None:
    net, (x, y) = conv_net(nn.ReLU), batch()
    x.requires_grad_()
    with smooth_relu(net, 5.0):
        e = integrated_gradients(net, x, y, create_graph=True)
    with pytest.raises(BadInput, match="changed between the explanation and its gradient"):
        e.sum().backward()
    with smooth_relu(net, 5.0) as smooth:
        e = integrated_gradients(smooth, x, y, create_graph=True)
    e.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    dropout = nn.Sequential(nn.Dropout(), net).train()
    e = integrated_gradients(dropout, x, y, create_graph=True)
    with pytest.raises(BadInput, match="dropout"):
        e.sum().backward()


# Nothing is left behind, nothing depends on the batch


@pytest.mark.parametrize("explain", [integrated_gradients, partial(smooth_grad, samples=5)], ids=["path", "noise"])
def test_chunks_do_not_matter_and_are_kept(explain: Explanation) -> None:
    net, (x, y) = conv_net(nn.ReLU), batch(6)
    whole = explain(net, x, y)
    for batch_bytes, most in ((1, 1), (200_000, 32), (2**24, 192)):
        model = Rows(net)
        torch.testing.assert_close(explain(model, x, y, batch_bytes=batch_bytes), whole)
        assert max(model.seen) <= most
    assert max(model.seen) > 6


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_graph_in_any_grad_mode_of_the_caller(row: Row, mode: Callable[[], Any]) -> None:
    net, (x, y) = conv_net(nn.ReLU), batch()
    want = row.explain(net, x, y)
    with mode():
        graph = row.explain(net, x.clone(), y.clone(), create_graph=True)
        assert graph.requires_grad
    torch.testing.assert_close(graph.detach(), want)


def test_no_needless_passes() -> None:
    net, (x, y) = conv_net(nn.ReLU), batch(5)
    for explain, forwards, backwards in (
        (saliency, 5, 5),
        (partial(integrated_gradients, steps=7), 35, 35),
        (partial(smooth_grad, samples=3), 15, 15),
        (partial(grad_cam, layer="3"), 5 + 3, 5),  # as few channels as rows: probes tell which axis is which
        (grad_cam, 6 + 2, 6),
        (partial(integrated_gradients_with_gap, steps=7), 35 + 5 + 1, 35),
    ):
        model = Counted(net)
        explain(model, x, y)
        assert (model.forwards, model.backwards) == (forwards, backwards)


# Spatial layers


class Functional(nn.Module):
    "Convolutions whose nonlinearity is no module, and a dead branch."

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 2), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.second(F.relu(self.first(x))))
        self.unused(z)
        return self.head(z.mean((2, 3)))


class Reused(nn.Module):
    "One ReLU called twice, in place."

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 2), nn.ReLU(inplace)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(self.first(x)))).mean((2, 3)))


class Residual(nn.Module):
    "A block whose sum is rectified by a function, inside a container."

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(2, 4, 3), nn.Sequential(ResidualBlock(), ResidualBlock())
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


class ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


LAYERS = {
    "functional": (Functional(), "second"),
    "reused": (Reused(False), "relu@2"),
    "in place": (Reused(True), "relu@2"),
    "residual": (Residual(), "blocks.1"),
    "sequential": (conv_net(nn.ReLU), "3"),
}


@pytest.mark.parametrize(("net", "name"), LAYERS.values(), ids=LAYERS.keys())
def test_the_last_spatial_layer_is_found(net: nn.Module, name: str) -> None:
    net, (x, y) = seeded(net), batch()
    classifier = Classifier(net, mean=[0.5, 0.4], std=[0.2, 0.3])
    for model in (net, Counted(net), partial(net), classifier, Counted(classifier), Smoothed(net, 50.0)):
        assert find_spatial_layer(model, x[:1]) == name
        found = grad_cam_map(model, x, y)
        assert found.layer == name
        assert found.map.shape[0] == 3
    assert not any(m._forward_hooks for m in net.modules())


def test_calls_of_one_module_are_told_apart_and_unharmed_by_in_place_layers() -> None:
    x, y = batch()
    plain, inplace = seeded(Reused(False)), seeded(Reused(True))
    for layer in ("first", "second", "relu@1", "relu@2", "relu"):
        want = grad_cam_map(plain, x, y, layer=layer, relu=False)
        got = grad_cam_map(inplace, x, y, layer=layer, relu=False)
        torch.testing.assert_close(got.map, want.map)
    first, last = (grad_cam_map(plain, x, y, layer=f"relu@{i}").map.shape for i in (1, 2))
    assert (first, last) == ((3, 4, 3), (3, 3, 2))
    # What was recorded is the layer's own output, not what the next one made of it.
    a = plain.second(plain.first(x).relu())
    leaf = a.detach().requires_grad_()
    (g,) = torch.autograd.grad(plain.head(leaf.relu().mean((2, 3)))[range(3), y].sum(), leaf)
    want_map = (g.mean((2, 3), keepdim=True) * leaf).sum(1).detach()
    torch.testing.assert_close(grad_cam_map(inplace, x, y, layer="second", relu=False).map, want_map)


def test_two_modules_behind_one_callable() -> None:
    front, net = seeded(nn.Sequential(nn.Conv2d(2, 2, 1))), seeded(Functional())
    x, _ = batch()
    assert find_spatial_layer(lambda z: net(front(z)), x[:1]) in ("0.second", "1.second")


def test_hooks_go_even_after_an_exception() -> None:
    class Broken(Functional):
        def forward(self, x: Tensor) -> Tensor:
            self.first(x)
            raise RuntimeError("broken")

    net, (x, y) = seeded(Broken()), batch()
    for layer in (None, "first"):
        with pytest.raises(RuntimeError, match="broken"):
            grad_cam(net, x, y, layer=layer)
        assert not any(m._forward_hooks for m in net.modules())


# Bad input


def test_bad_input_is_named() -> None:
    net, (x, y) = conv_net(), batch()
    for explain in PLAIN:
        with pytest.raises(BadInput, match="labels lie in"):
            explain(net, x, y + 1)
        with pytest.raises(BadInput, match="one label per sample"):
            explain(net, x, y[:2])
        with pytest.raises(BadInput, match="NaN"):
            explain(net, x * torch.nan, y)
        with pytest.raises(BadInput, match="convert it to floating point"):
            explain(net, (x * 255).byte(), y)
    with pytest.raises(BadInput, match="carries no gradient"):
        saliency(lambda z: z.flatten(1).detach(), x, y)
    with pytest.raises(BadInput, match="does not depend on x"):
        saliency(lambda z: net(z.detach()), x, y)
    with pytest.raises(BadInput, match="steps is 0"):
        integrated_gradients(net, x, y, steps=0)
    with pytest.raises(BadInput, match=r"baseline has shape \(3,\); give a number, \(2, 6, 5\)"):
        integrated_gradients(net, x, y, baseline=torch.zeros(3))
    with pytest.raises(BadInput, match="batch_bytes is 0"):
        integrated_gradients(net, x, y, batch_bytes=0)
    with pytest.raises(BadInput, match="sigma is -1"):
        smooth_grad(net, x, y, sigma=-1)
    with pytest.raises(BadInput, match="seed has shape"):
        smooth_grad(net, x, y, noise_seed=torch.zeros(2, dtype=torch.int64))


def test_grad_cam_without_a_spatial_layer() -> None:
    x, y = batch()
    mlp = seeded(nn.Sequential(nn.Flatten(), nn.Linear(60, 3)))
    for model in (mlp, lambda z: z.flatten(1)[:, :3]):
        with pytest.raises(BadInput, match="no layer with a spatial output"):
            grad_cam(model, x, y)
    with pytest.raises(BadInput, match="explains images"):
        grad_cam(mlp, x.flatten(1), y)
    with pytest.raises(BadInput, match="no layer 'secnd'; it has second"):
        grad_cam(seeded(Functional()), x, y, layer="secnd")
    with pytest.raises(BadInput, match="does not reach the logits"):
        grad_cam(seeded(Functional()), x, y, layer="unused")
    with pytest.raises(BadInput, match="not called with an output that can be a map"):
        grad_cam(seeded(Functional()), x, y, layer="head")
    with pytest.raises(BadInput, match="not called with an output that can be a map"):
        grad_cam(seeded(Reused(False)), x, y, layer="relu@3")


def test_nothing_warns() -> None:
    net, (x, y) = conv_net(nn.ReLU), batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in ROWS.values():
            row.explain(net, x, y)
