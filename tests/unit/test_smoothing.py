"""Randomized smoothing and the Lipschitz radius against analytic truths."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unfooled import L2, BadInput
from unfooled.certification import ablate, bounds, ceiling, lipschitz_radius, smooth
from unfooled.certification.ablation import ablated_radius, touched
from unfooled.certification.smoothing import lower_bound, radius_of


class Plane(nn.Module):
    """Two classes, divided by w . z + b = 0."""

    def __init__(self, w: Tensor, b: float) -> None:
        super().__init__()
        self.w, self.b = w, b

    def forward(self, z: Tensor) -> Tensor:
        score = z.flatten(1) @ self.w + self.b
        return torch.stack([score, -score], 1)


def test_a_plane_is_certified_up_to_its_distance() -> None:
    """The smoothed classifier of a plane is the plane, so the radius is the distance but for the loss by sampling."""
    w = torch.tensor([1.0, -2.0, 0.5])
    x = torch.tensor([[0.6, 0.1, 0.5]])
    distance = float((x[0] @ w) / w.norm())
    found = smooth(Plane(w, 0.0), x, sigma=0.25, draws=20_000, batch=5000)
    assert int(found.prediction) == 0
    assert 0.9 * distance < float(found.radius) <= distance
    p = torch.special.ndtr(torch.tensor(distance / 0.25))
    assert 0.97 * p < float(found.probability) <= p
    laplace = smooth(Plane(torch.tensor([1.0, 0.0, 0.0]), -0.35), x, sigma=0.25, norm=1, draws=20_000, batch=5000)
    assert 0.8 * 0.25 < float(laplace.radius) <= 0.25 + 1e-6


def test_no_more_radii_are_too_large_than_the_probability_of_failure() -> None:
    """Over 1,000 repetitions with a failure of 5 %; the true probability is that of the plane."""
    generator = torch.Generator().manual_seed(0)
    p, draws, failure = 0.8, 200, 0.05
    hits = (torch.rand(1000, draws, generator=generator) < p).sum(1)
    wrong = int(
        (radius_of(lower_bound(hits, draws, failure), 1.0, 2.0) > float(radius_of(torch.tensor(p), 1.0, 2.0))).sum()
    )
    assert wrong <= 70  # 50 expected at most, 3 standard deviations above
    assert wrong >= 10  # the bound is not needlessly wide


def test_the_ceiling_is_what_a_majority_of_all_draws_gives() -> None:
    assert ceiling(1.0, 1000) == pytest.approx(2.46, abs=0.01)
    assert ceiling(0.5, 100_000) == pytest.approx(3.81 / 2, abs=0.01)
    found = smooth(Plane(torch.tensor([1.0, 0.0]), 100.0), torch.rand(2, 2), sigma=0.3, draws=100)
    assert torch.allclose(found.radius, torch.tensor(ceiling(0.3, 100), dtype=torch.float64))
    assert found.ceiling == pytest.approx(ceiling(0.3, 100))


def test_it_abstains_where_the_majority_is_not_clear() -> None:
    found = smooth(Plane(torch.tensor([1.0, 0.0]), -0.5), torch.tensor([[0.5, 0.2]]), sigma=0.3, draws=100)
    assert int(found.prediction) == -1
    assert float(found.radius) == 0
    assert not bool(found.certified(torch.tensor([0]), 0.0))


def test_a_sample_has_its_own_noise() -> None:
    x = torch.rand(3, 4)
    model = Plane(torch.tensor([1.0, -1.0, 0.5, 0.2]), -0.2)
    all_three = smooth(model, x, sigma=0.3, draws=50)
    alone = smooth(model, x[1:2], sigma=0.3, draws=50, batch=7)
    assert float(alone.probability) == float(all_three.probability[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0.0}, "sigma is 0"),
        ({"sigma": 0.1, "norm": 0}, "the norm 0"),
        ({"sigma": 0.1, "draws": 0}, "draws 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        smooth(Plane(torch.ones(2), 0.0), torch.rand(1, 2), **options)  # type: ignore[arg-type]


def test_the_lipschitz_radius_is_the_distance_for_an_orthogonal_layer_and_never_more_than_a_proof() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data = torch.linalg.qr(torch.randn(4, 4))[0]
    x = torch.rand(5, 4)
    y = layer(x).argmax(1)
    margin = layer(x).sort(1).values
    truth = (margin[:, -1] - margin[:, -2]) / math.sqrt(2)
    assert torch.allclose(lipschitz_radius(layer, x, y), truth, rtol=1e-5)
    net = nn.Sequential(
        nn.Conv1d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(4, 4),
        nn.Sigmoid(),
        nn.Linear(4, 3),
    ).eval()
    z = torch.rand(5, 1, 4)
    label = net(z).argmax(1)
    radius = lipschitz_radius(net, z, label)
    assert (radius > 0).all()
    assert (bounds(net, z, label, L2(radius * 0.999), effort="quick") > 0).all()
    assert (lipschitz_radius(net, z, (label + 1) % 3) == 0).all()


def test_the_lipschitz_radius_counts_every_window_of_a_dilated_pool() -> None:
    """The middle entry lies in two windows, so that its change counts twice."""
    last = nn.Linear(2, 2, bias=False)
    last.weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    net = nn.Sequential(nn.MaxPool1d(2, 2, dilation=2), nn.Flatten(), last).eval()
    x = torch.zeros(1, 1, 5)
    x[0, 0, 2] = 0.5
    near = x.clone()
    radius = lipschitz_radius(net, x, torch.tensor([0]))
    near[0, 0, 2] -= float(radius) * 0.999
    assert net(near).argmax(1) == 0
    assert float(radius) == pytest.approx(0.5, rel=1e-5)


class Counting(nn.Module):
    """Class 0 where more than a number of entries are 1."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, z: Tensor) -> Tensor:
        score = z.flatten(1).sum(1) - self.least
        return torch.stack([score, -score], 1)


def test_the_share_of_draws_that_see_a_change_is_that_of_drawing_without_replacement() -> None:
    for changed, entries, keep in ((1, 10, 3), (2, 10, 3), (4, 10, 6), (3, 784, 45), (0, 10, 3)):
        truth = 1 - math.comb(entries - changed, keep) / math.comb(entries, keep)
        assert touched(changed, entries, keep) == pytest.approx(truth, abs=1e-12)
    assert touched(5, 10, 6) == 1
    assert ablated_radius(0.5, 784, 45) == ablated_radius(0.3, 784, 45) == 0
    radius = ablated_radius(0.99, 784, 45)
    assert touched(radius, 784, 45) < 0.49 <= touched(radius + 1, 784, 45)
    assert radius == 11


def test_ablation_certifies_what_no_change_of_so_few_entries_can_flip() -> None:
    """Ten of twenty entries are 1, and two stay: class 0 is seen unless both of these are 0, with 1 - 9/38."""
    x = torch.zeros(1, 1, 4, 5)
    x.view(-1)[:10] = 1
    found = ablate(Counting(0.5), x, keep=2, draws=4000, batch=2000)
    assert int(found.prediction) == 0
    p = 1 - (10 * 9) / (20 * 19)
    assert 0.95 * p < float(found.probability) <= p + 0.01
    truth = max(r for r in range(20) if touched(r, 20, 2) < p - 0.5)
    assert float(found.radius) == truth == 2
    assert bool(found.certified(torch.tensor([0]), 2.0))
    assert not bool(found.certified(torch.tensor([0]), 3.0))
    for ones in range(10, 10 - truth - 1, -1):  # the majority stays whatever the changed entries become
        assert 1 - math.comb(20 - ones, 2) / math.comb(20, 2) > 0.5
    assert found.norm == 0
    assert found.ceiling >= truth


def test_pixels_are_left_out_over_all_channels() -> None:
    seen = []

    def model(z: Tensor) -> Tensor:
        seen.append(z)
        return z.flatten(1)[:, :2]

    ablate(model, torch.rand(1, 3, 4, 4) + 0.001, keep=5, per="pixel", first=8, draws=8, value=0.0)
    z = torch.cat(seen)
    assert ((z != 0).all(1) == (z != 0).any(1)).all()
    assert ((z != 0).any(1).flatten(1).sum(1) == 5).all()
    assert len({tuple(row.tolist()) for row in (z != 0).any(1).flatten(1).int()}) > 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0}, "keep is 0; it lies between 1 and 15"),
        ({"keep": 16}, "keep is 16"),
        ({"keep": 2, "per": "row"}, "per is"),
    ],
)
def test_ablation_refuses_numbers_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        ablate(Counting(0.5), torch.rand(1, 1, 4, 4), **options)
