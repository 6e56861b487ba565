"""The faithful ARP equals the slow transcription of its equations: values, samples, and the gradient by differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.reference import arp_published_slow as slow
from torch import Tensor, nn

from unfooled.training.losses.arp_published import ArpPublished, enlarge

SIDE = 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, SIDE, stride=SIDE), nn.ReLU(), nn.Flatten(), nn.Linear(256, 6), nn.ReLU(), nn.Linear(6, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(2 * x - 1)


def setting() -> tuple[Net, dict[str, np.ndarray], Tensor, Tensor]:
    source = torch.Generator().manual_seed(4)
    net = Net().double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=source, dtype=torch.float64) * (0.5 if p.ndim > 2 else 0.25)
    names = ["conv", "conv_b", "one", "one_b", "two", "two_b"]
    weights = {k: p.detach().numpy().copy() for k, p in zip(names, net.parameters(), strict=True)}
    x = torch.rand(5, 3, 32, 32, generator=source, dtype=torch.float64)
    return net, weights, x, torch.tensor([0, 3, 9, 3, 5])


def test_every_part_equals_the_transcription() -> None:
    net, weights, x, y = setting()
    loss = ArpPublished()
    want = slow.loss(x.numpy(), y.numpy(), weights)
    found = loss.terms(net, x, y)
    for name, value in want.items():
        assert getattr(found, name).item() == pytest.approx(value, abs=1e-5, rel=1e-9), name
    assert want["preservation"] > 1e-4, "the setting has something to compare"
    assert want["rectification"] < -1e-4
    assert loss(net, x, y).item() == pytest.approx(want["total"], rel=1e-9)
    crafted = np.stack([(slow.step_ll(2 * v - 1, weights, 0.15) + 1) / 2 for v in x.numpy()])
    np.testing.assert_allclose(loss.craft(net, x).numpy(), crafted, atol=1e-12)


def test_the_gradient_is_that_of_the_transcription() -> None:
    net, weights, x, y = setting()
    z = ArpPublished().craft(net, x)
    ArpPublished().terms(net, x, y, z).total.backward()
    source = np.random.default_rng(0)
    step = {name: source.standard_normal(value.shape) for name, value in weights.items()}
    slope = sum(
        float((p.grad.numpy() * d).sum())
        for p, d in zip(net.parameters(), step.values(), strict=True)
        if p.grad is not None
    )
    h = 1e-6
    adv = 2 * z.numpy() - 1
    high, low = (
        slow.loss(x.numpy(), y.numpy(), {k: v + s * h * step[k] for k, v in weights.items()}, adv)["total"]
        for s in (1, -1)
    )
    assert slope == pytest.approx((high - low) / (2 * h), rel=1e-4)


def test_the_old_resize_has_no_half_pixel_shift() -> None:
    p = torch.eye(8, dtype=torch.float64)[None]
    sums = enlarge(p.new_ones(1, 8, 8), (32, 32))
    assert torch.equal(sums, torch.ones_like(sums))
    along = enlarge(torch.eye(8, dtype=torch.float64)[:, :, None].expand(8, 8, 8), (32, 8)).sum(1)[:, 0]
    assert along.tolist() == [2.5, 4, 4, 4, 4, 4, 4, 5.5]
