"""Attacks that are made for purifiers: low frequencies, and wrong clusters."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from tests.conftest import points, source, tiny_net
from torch import Tensor

from unfooled.attacks import assignment, low_frequency, pgd
from unfooled.attacks.assignment import assignment_gap
from unfooled.core.errors import BadInput
from unfooled.core.low_pass import low_dct, low_pass
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.testing import check_attack

SHAPE = (1, 6, 5)
CENTRES = torch.rand(4, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
LABEL = torch.tensor([0, 1, 2, 0])
NETS = {dtype: tiny_net(3, SHAPE, dtype=dtype) for dtype in (torch.float32, torch.float64)}


def distance(x: Tensor) -> Tensor:
    """Squared distance to four centres."""
    return (x.flatten(1)[:, None] - CENTRES.to(x)).square().sum(2)


def negative_logits(x: Tensor) -> Tensor:
    """Clusters that are the classes of the network of the contract."""
    return -NETS[x.dtype](x)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_low_frequencies_keep_the_contract(norm: float) -> None:
    check_attack(partial(low_frequency, steps=8), norms=[norm], seeded=True, hit_rate=0.3)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_the_assignment_keeps_the_contract(norm: float) -> None:
    attack = partial(assignment, distance=negative_logits, label=torch.arange(3), steps=8)
    check_attack(attack, norms=[norm], seeded=True)


@pytest.mark.parametrize(
    "threat", [Linf(0.3), L2(1.0), L1(3.0), Linf(torch.full((6,), 0.3))], ids=["linf", "l2", "l1", "per sample"]
)
def test_changes_have_low_frequencies_only(threat: Threat) -> None:
    x = 0.5 + 0.05 * (points(6, (1, 12, 12)) - 0.5)  # far from the edges of the box
    model = tiny_net(3, (1, 12, 12))
    y = model(x).argmax(1)
    for low, least in ((partial(low_pass, smooth=5.0), 0.6), (low_dct, 0.8)):
        z = low_frequency(model, x, y, threat, low=low, steps=6, generator=source(0))
        plain = pgd(model, x, y, threat, steps=6, generator=source(0))

        def share(change: Tensor) -> float:
            return float(low_dct(change, share=0.34).square().sum() / change.square().sum())

        assert share(z - x) > least > share(plain - x) + 0.1
        assert (threat.size(z - x) <= torch.as_tensor(threat.eps) + 1e-6).all()
    assert torch.equal(z, low_frequency(model, x, y, threat, low=low_dct, steps=6, generator=source(0)))


def test_in_linf_the_filter_keeps_the_ball_by_itself() -> None:
    x = points(6, (1, 12, 12)) * 0.2 + 0.4
    corners = x + 0.1 * torch.sign(points(6, (1, 12, 12), seed=9) - 0.5)
    assert (low_pass(corners - x, smooth=1.0).abs() <= 0.1 + 1e-6).all()


def test_the_gap_is_negative_where_the_class_is_right() -> None:
    distances = torch.tensor([[1.0, 4.0, 2.0, 3.0], [5.0, 1.0, 9.0, 2.0]])
    assert assignment_gap(distances, LABEL, torch.tensor([0, 0])).tolist() == [-1.0, 1.0]


def test_samples_end_at_clusters_of_other_classes() -> None:
    x = CENTRES.repeat(5, 1).reshape(20, *SHAPE) * 0.9 + 0.1 * points(20, SHAPE)
    y = LABEL.repeat(5)
    assert (LABEL[distance(x).argmin(1)] == y).all()

    def blind(z: Tensor) -> Tensor:
        """A model that cannot be fooled, and has a margin all the same."""
        return 50.0 * torch.eye(3, dtype=z.dtype)[y[: len(z)]] + 0 * z.flatten(1)[:, :3]

    threat = Linf(0.4)
    z = assignment(blind, x, y, threat, distance=distance, label=LABEL, generator=source(0))
    wrong = LABEL[distance(z).argmin(1)] != y
    assert wrong.double().mean() > 0.9
    assert (threat.size(z - x) <= 0.4 + 1e-6).all()


def test_among_wrong_clusters_the_margin_decides() -> None:
    x, y = points(12, SHAPE), torch.zeros(12, dtype=torch.int64)

    def model(z: Tensor) -> Tensor:
        """Class 0 wins by the brightness of the first row, so much that it never loses."""
        bright = z[:, 0, 0].mean(1)
        return torch.stack([5 + bright, 0 * bright], 1)

    far = torch.ones(12, 1, dtype=torch.float64)

    def wrong(z: Tensor) -> Tensor:
        return torch.cat([far[: len(z)], 0 * far[: len(z)]], 1) + 0 * z.flatten(1)[:, :2]

    z = assignment(model, x, y, Linf(0.3), distance=wrong, label=torch.tensor([0, 1]), generator=source(0))
    torch.testing.assert_close(z[:, 0, 0], (x[:, 0, 0] - 0.3).clamp(0, 1))


def test_bad_input() -> None:
    model, x = tiny_net(3, SHAPE), points(4, SHAPE)
    y = torch.tensor([0, 1, 2, 0])
    with pytest.raises(BadInput, match="L0 allows few; choose Linf, L2 or L1"):
        low_frequency(model, x, y, L0(3))
    attack = partial(assignment, model, x, y, Linf(0.1))
    with pytest.raises(BadInput, match=r"distance returns shape .* label has 3 clusters"):
        attack(distance=distance, label=torch.arange(3))
    with pytest.raises(BadInput, match="label has 1 class"):
        attack(distance=distance, label=torch.zeros(4).long())
    with pytest.raises(BadInput, match="label has no cluster of class 2"):
        attack(distance=distance, label=torch.tensor([0, 1, 1, 0]))
