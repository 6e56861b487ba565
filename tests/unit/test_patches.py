"""Bounds of entries behind convolutions by their windows, beside those by coefficients of whole nodes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unfooled import L2, Linf, Threat
from unfooled.certification import patches, trace
from unfooled.certification.crown import _by_all, _by_windows, interval_bounds
from unfooled.certification.ibp import UNIT
from unfooled.certification.operations import Convolution
from unfooled.certification.region import Region

NETS: dict[str, list[nn.Module]] = {
    "strides": [nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 2, (2, 1), (1, 2))],
    "normalised": [
        nn.Conv2d(2, 5, 2), nn.BatchNorm2d(5), nn.LeakyReLU(0.1), nn.Conv2d(5, 6, 2, 1, 1), nn.BatchNorm2d(6),
    ],
    "deep": [
        nn.Conv2d(2, 5, 3, 1, 1), nn.Tanh(), nn.Conv2d(5, 6, 2, 1, 1), nn.ReLU(), nn.Conv2d(6, 2, 3, (2, 1), (0, 1)),
    ],
    "pooled": [nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Conv2d(3, 5, 2), nn.ReLU(), nn.Conv2d(5, 2, 2)],
    "grouped": [
        nn.Conv2d(2, 4, 2, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 2, dilation=(2, 1)), nn.ReLU(), nn.Conv2d(3, 2, 2),
    ],
}  # fmt: skip


def both(name: str, threat: Threat, unit: float) -> tuple[list[Tensor], list[Tensor]]:
    """Return the bounds of all entries of the last convolution by windows, and by whole nodes."""
    torch.manual_seed(0)
    body = nn.Sequential(*NETS[name])
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    x = torch.rand(3, 2, 9, 8, dtype=torch.float64)
    width = body.eval()(x.float()).flatten(1).shape[1]
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(width, 2)).eval()
    with torch.no_grad():
        network = trace(model, x.float()).network(torch.float64)
        bounds = interval_bounds(network, Region.of(x, threat, torch.float64), unit=unit)
        last = max(i for i, node in enumerate(network.nodes) if isinstance(node.operation, Convolution))
        count = int(torch.tensor(network.nodes[last].shape).prod())
        owner, place = torch.arange(3).repeat_interleave(count), torch.arange(count).repeat(3)
        assert patches.sees_windows(bounds, last)
        return list(_by_windows(bounds, last, owner, place)), list(_by_all(bounds, last, owner, place))


@pytest.mark.parametrize("largest", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.2)], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_windows_give_the_bounds_of_whole_nodes(
    monkeypatch: pytest.MonkeyPatch, name: str, threat: Threat, largest: float
) -> None:
    monkeypatch.setattr(patches, "LARGEST", largest)
    for own, whole in zip(*both(name, threat, 0.0), strict=True):
        assert torch.allclose(own, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_windows_are_moved_outwards_by_as_much(name: str) -> None:
    unit = UNIT * 1e6  # so that it is seen
    exact, (own, whole) = both(name, Linf(0.05), 0.0)[1], both(name, Linf(0.05), unit)
    for plain, mine, theirs in zip(exact, own, whole, strict=True):
        assert (mine < plain).all()
        assert ((plain - mine) / (plain - theirs) - 1).abs().max() < 1e-3
