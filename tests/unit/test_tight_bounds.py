"""Inner bounds by slopes of their own, and the network around a sample: the same bounds as by slower ways."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unfooled import L2, Linf, Threat
from unfooled.certification import Certificate, Effort, certify, patches, trace
from unfooled.certification.alpha import Steps, optimise
from unfooled.certification.branch import Limits
from unfooled.certification.crown import Bounds, crown_bounds, interval_bounds, lower_bounds, margin_rows
from unfooled.certification.ibp import UNIT
from unfooled.certification.inner import Ascents, Entries, Inner, Stored
from unfooled.certification.proof import Domains, Level, checked
from unfooled.certification.reduced import reduced
from unfooled.certification.region import Region
from unfooled.models.nets.cifar_resnet import CifarResnet

STEPS = Steps(5, slope=0.3)


def subject(name: str) -> tuple[nn.Module, Tensor]:
    """Return a small network with random weights, and samples."""
    torch.manual_seed(0)
    if name == "residual":
        return CifarResnet((1, 4, 4), classes=3, depth=8, width=2).eval(), torch.rand(3, 1, 4, 4)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 8), nn.LeakyReLU(0.2)]
    if name == "convolution":
        layers = [
            nn.Conv2d(1, 3, 3, 1, 1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 4, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
        ]
        layers += [nn.Linear(36, 8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(8, 3)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return model, torch.rand(3, 1, 6, 6)


def bounds_of(name: str, threat: Threat, tighten: Ascents | Stored | None = None, unit: float = 0.0) -> Bounds:
    model, x = subject(name)
    dtype = torch.float64 if unit else torch.float32
    with torch.no_grad():
        network = trace(model, x).network(dtype)
        return crown_bounds(interval_bounds(network, Region.of(x, threat, dtype), unit=unit), tighten=tighten)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)], ids=str)
@pytest.mark.parametrize("name", ["fully connected", "convolution", "residual"])
def test_slopes_of_their_own_tighten_bounds_that_points_keep(name: str, threat: Threat) -> None:
    ascents = Ascents(STEPS)
    plain, tight = bounds_of(name, threat), bounds_of(name, threat, ascents)
    stored = Inner.none().joined(*ascents.rows)
    again = bounds_of(name, threat, Stored(stored), unit=UNIT)
    x = subject(name)[1]
    gain = 0.0
    for i in (tight.network.nodes[k].inputs[0] for k in tight.network.bends):
        (low, high), (before_low, before_high) = tight.nodes[i], plain.nodes[i]
        unknown = (low < 0) & (high > 0)  # the others need no bounds
        assert (low >= before_low - 1e-5)[unknown].all()
        assert (high <= before_high + 1e-5)[unknown].all()
        gain += float((low - before_low).sum() + (before_high - high).sum())
        assert (again.nodes[i][0] >= low - 1e-5).all()  # a check computes the same from what is stored
        assert (again.nodes[i][1] <= high + 1e-5).all()
        for seed in range(20):
            draw = threat.extreme if seed % 2 else threat.sample
            value = tight.network.result_at(draw(x, seed), i)
            assert ((value >= low - 1e-4) & (value <= high + 1e-4)).all()
    assert gain > 0.02


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)], ids=str)
def test_slopes_in_windows_are_those_of_whole_nodes(monkeypatch: pytest.MonkeyPatch, threat: Threat) -> None:
    bounds = bounds_of("convolution", threat)
    node = bounds.network.nodes[bounds.network.bends[1]].inputs[0]
    owner, place = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 13, 35, 20])
    entries = Entries(bounds, node, owner, place)
    assert entries.patch is not None
    whole = Entries(bounds, node, owner, place)
    whole.patch = None
    with torch.no_grad():
        start = whole.start()
        assert torch.allclose(entries.lower(entries.start()), whole.lower(start), atol=1e-5)
        half = {k: torch.full_like(v, 0.5) for k, v in entries.start().items()}
        all_half = {k: torch.full_like(v, 0.5) for k, v in start.items()}
        assert torch.allclose(entries.lower(half), whole.lower(all_half), atol=1e-5)
        assert not torch.allclose(entries.lower(half), whole.lower(start), atol=1e-3)
        monkeypatch.setattr(patches, "LARGEST", 0.2)  # the windows end at the first ReLU
        half = {k: torch.full_like(v, 0.5) for k, v in Entries(bounds, node, owner, place).start().items()}
        assert torch.allclose(Entries(bounds, node, owner, place).lower(half), whole.lower(all_half), atol=1e-5)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)], ids=str)
@pytest.mark.parametrize("name", ["fully connected", "convolution", "residual"])
def test_the_network_around_a_sample_has_the_same_bounds(name: str, threat: Threat) -> None:
    whole = bounds_of(name, threat)
    generator = torch.Generator().manual_seed(1)
    for sample in range(2):
        own = whole.take(torch.tensor([sample]))
        own = replace(own, whole=own.region, rows=None, nodes=list(own.nodes[:]))
        small = reduced(own)
        assert (
            0
            < sum(len(place) for place in small.places.values())
            < sum(math.prod(whole.network.nodes[i].shape) for i in whole.network.bends)
        )
        z = threat.sample(own.region.x, 3)
        assert torch.allclose(small.bounds.network.logits(z), whole.network.logits(z), atol=1e-4)
        rows = margin_rows(small.bounds.network, torch.tensor([1]))
        shapes = {i: (2, *small.bounds.network.nodes[i].shape) for i in small.bounds.network.bends}
        rows = replace(
            rows, slopes={i: torch.rand(shape, generator=generator) for i, shape in shapes.items()},
            splits={i: torch.randint(-1, 2, shape, generator=generator) for i, shape in shapes.items()},
            prices={i: 0.1 * torch.rand(shape, generator=generator) for i, shape in shapes.items()},
        )  # fmt: skip
        assert torch.allclose(
            lower_bounds(rows, small.bounds), lower_bounds(small.expanded(rows), own), rtol=1e-4, atol=1e-4
        )


def test_a_certificate_needs_its_inner_slopes(tmp_path: Path) -> None:
    model, x = subject("convolution")
    x = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = model(x).argmax(1)
    effort = Effort("test", Level.CROWN, Steps(10), Limits(5.0, later=Steps(6)), inner=STEPS)
    proof = certify(model, x, y, Linf(0.2), effort=effort)
    by_parts = proof.level == Level.DOMAINS
    assert bool((proof.certified & by_parts).any())
    assert set(proof.inner.owner.tolist()) <= set(by_parts.nonzero()[:, 0].tolist())
    proof.save(tmp_path / "a.safetensors")
    again = Certificate.load(tmp_path / "a.safetensors")
    assert torch.equal(again.check(model, x, y), proof.certified)
    without = replace(proof, inner=Inner.none())
    assert bool((without.recomputed(model, x, y) <= proof.recomputed(model, x, y) + 1e-9).all())
    assert bool((without.recomputed(model, x, y) < proof.recomputed(model, x, y) - 1e-3).any())
    wrong = replace(proof, inner=replace(proof.inner, count=proof.inner.count // 2, slopes=proof.inner.slopes[::2]))
    assert torch.equal(wrong.recomputed(model, x, y), without.recomputed(model, x, y))


def test_a_margin_is_proven_by_its_parts_although_it_is_above_0_without_them() -> None:
    model, x = subject("convolution")
    with torch.no_grad():
        y = model(x).argmax(1)
        network = trace(model, x).network()
        bounds = crown_bounds(interval_bounds(network, Region.of(x, Linf(0.15), torch.float32)))
        rows = margin_rows(network, y)
        assert (lower_bounds(rows, bounds) > 0).all()
        best = optimise(rows, bounds, Steps(20), goal=math.inf)
        exact, region = trace(model, x).network(torch.float64), Region.of(x, Linf(0.15), torch.float64)
        empty = replace(best.rows, splits={}, prices={})
        domains = Domains.of(network, empty, torch.arange(2).repeat(3))
        by_level = [
            checked(exact, region, y, torch.full((3,), int(at)), domains) for at in (Level.CROWN, Level.DOMAINS)
        ]
    assert (by_level[1] > by_level[0] + 1e-3).all()
