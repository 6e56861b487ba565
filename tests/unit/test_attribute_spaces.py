"""Attributes as coordinates, of concept networks and by probes; and the names that others rely on."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import unfooled as uf
from unfooled import BadInput
from unfooled.counterfactuals import AffineHead, AttributeSpace, concept_space, flip_distance, probe_space

NAMES = ("crest", "bill", "wing", "tail")
KEPT = 2


def planted(n: int = 9, seed: int = 0, p: int = 4) -> tuple[Tensor, Tensor]:
    """Features with a direction for each attribute, and the attributes."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(2, (200, p), generator=generator).double()
    directions = torch.randn(p, n, generator=generator, dtype=torch.float64)
    return a @ directions + 0.2 * torch.randn(200, n, generator=generator, dtype=torch.float64), a


def head_of(n: int = 9, c: int = 3) -> AffineHead:
    generator = torch.Generator().manual_seed(1)
    return AffineHead(torch.randn(c, n, generator=generator), torch.randn(c, generator=generator))


def identity(z: Tensor) -> Tensor:
    return z


@pytest.fixture(scope="module")
def probed() -> tuple[AttributeSpace, Tensor, AffineHead]:
    z, a = planted()
    head = head_of()
    return probe_space(identity, head, z, a, NAMES, [NAMES[KEPT]]), z, head


@pytest.mark.parametrize("target", [None, 1])
def test_probes_are_coordinates_of_the_decision(
    probed: tuple[AttributeSpace, Tensor, AffineHead], target: int | None
) -> None:
    """The head on them is the network's; an edit is one that the features can make, and it leads to the target."""
    space, z, head = probed
    u = space.encode(z)
    assert torch.allclose(space.head.logits(u), head.logits(z), atol=1e-9)
    edit = space.edit(u[:40], target)
    assert bool(edit.feasible.any())
    assert bool((edit.delta[:, KEPT] == 0).all())
    assert bool((edit.delta[:, len(NAMES) :].abs() < 1e-9).all())
    moved = torch.linalg.lstsq(space.encode.weight, edit.delta.T, driver="gelsd").solution.T  # of the features
    assert torch.allclose(moved @ space.encode.weight.T, edit.delta, atol=1e-8)
    ahead = head.logits(z[:40] + moved)
    own = ahead.gather(1, edit.target[:, None])[:, 0]
    assert bool((own >= ahead.amax(1) - 1e-8)[edit.feasible].all())
    assert bool((edit.delta[:, : len(NAMES)].abs().sum(1) - edit.cost).abs()[edit.feasible].max() < 1e-2)


def test_no_smaller_edit_does(probed: tuple[AttributeSpace, Tensor, AffineHead]) -> None:
    space, z, _ = probed
    u = space.encode(z[:40])
    edit = space.edit(u)
    first = space.head.logits(u).argmax(1)
    short = space.head.logits(u + 0.999 * edit.delta / (1 + 1e-4)).argmax(1)
    assert bool((short == first)[edit.feasible].all())
    for f in (0, 1, 3):  # every single attribute in its range is a permitted edit
        d = space.head.weight[:, f] - space.head.weight[first][:, f][:, None]
        need = space.head.logits(u).gather(1, first[:, None]) - space.head.logits(u)
        t = need / d
        high, low = space.high[f] + 1 - u[:, f], space.low[f] - 1 - u[:, f]
        inside = (t <= high[:, None]) & (t >= low[:, None]) & (d != 0)
        least = t.abs().masked_fill(~inside, torch.inf).amin(1)
        assert bool((edit.cost <= least * (1 + 1e-6)).all())


def test_edits_stay_near_the_values_seen(probed: tuple[AttributeSpace, Tensor, AffineHead]) -> None:
    space, z, _ = probed
    u = space.encode(z)
    free = replace(space, low=space.low - 1e6, high=space.high + 1e6)
    beyond = torch.zeros(2, dtype=torch.bool)
    for target in range(3):
        wanted, open_ended = (u + one.edit(u, target).delta for one in (space, free))
        top, bottom = torch.maximum(space.high + 1, u) + 1e-9, torch.minimum(space.low - 1, u) - 1e-9
        assert bool(((wanted <= top) & (wanted >= bottom)).all())
        beyond |= torch.stack([(open_ended > top).any(), (open_ended < bottom).any()])
    assert beyond.tolist() == [True, True]  # both bounds are felt


def test_what_exclusive_attributes_can_do() -> None:
    z, a = planted(p=2)
    both = torch.cat([a, 1 - a[:, :1]], 1)  # the third attribute is the absence of the first
    space = probe_space(identity, head_of(), z, both, ("on", "other", "off"))
    edit = space.edit(space.encode(z))
    assert torch.allclose(edit.delta[:, 0], -edit.delta[:, 2], atol=1e-6)
    alone = replace(space, moves=None).edit(space.encode(z))  # as if each could move alone
    same = (alone.delta - edit.delta).abs().amax(1) < 1e-9
    assert 0 < int(same.sum()) < len(same)
    assert torch.equal(edit.exact[edit.feasible], same[edit.feasible])
    assert bool((edit.cost >= alone.cost - 1e-9).all())
    held = probe_space(identity, head_of(), z, both, ("on", "other", "off"), ["off"])
    stays = held.edit(held.encode(z)).delta
    assert float(stays[:, [0, 2]].abs().max()) < 1e-6


def test_a_concept_network_in_switches() -> None:
    _, a = planted()
    generator = torch.Generator().manual_seed(2)
    e = (a - 0.5) * torch.tensor([2.0, 8.0, 1.0, 4.0]) + 0.1 * torch.randn(200, 4, generator=generator)
    head = head_of(4)
    space = concept_space(identity, head, e, a, NAMES)
    assert torch.allclose(space.gap, torch.tensor([2.0, 8.0, 1.0, 4.0], dtype=torch.float64), atol=0.1)
    u = space.encode(e)
    assert torch.allclose(space.head.logits(u), head.logits(e), atol=1e-9)
    edit = space.edit(u)
    direct = flip_distance(AffineHead(head.weight * space.gap, head.bias), u, norm=1).amin(1)
    near = direct < 0.9  # no bound is met
    assert bool(near.any())
    assert torch.allclose(edit.cost[near], direct[near], rtol=1e-9)
    whole = space.flip(u[0], int(edit.target[0]))
    turned = torch.where(whole.delta[0] != 0, whole.delta[0], 0.0)
    assert int(space.head.logits((u[0] + turned)[None]).argmax()) == int(edit.target[0]) or not bool(whole.feasible[0])


def test_attributes_that_cannot_be_read_stay() -> None:
    z, a = planted()
    a[:, 1] = (torch.rand(200, generator=torch.Generator().manual_seed(3)) > 0.5).double()
    a[:, 3] = 1
    space = probe_space(identity, head_of(), z, a, NAMES)
    assert space.usable.tolist() == [True, False, True, False]
    assert bool(space.auc[3].isnan())
    assert float(space.edit(space.encode(z)).delta[:, [1, 3]].abs().max()) == 0
    weight = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 9.0, 0.5, 0.1]])  # the second is the cheapest to change
    e = 4 * planted()[1] - 2 + torch.randn(200, 4, generator=torch.Generator().manual_seed(4))
    concept = concept_space(identity, AffineHead(weight, torch.zeros(2)), e, a, NAMES)
    assert concept.usable.tolist() == [True, False, True, False]
    assert float(concept.edit(concept.encode(e)).delta[:, [1, 3]].abs().max()) == 0
    with pytest.raises(BadInput, match=r"of 4, 1 cannot be read .* 1 have fewer .* 2 must stay"):
        probe_space(identity, head_of(), z, a, NAMES, ["crest", "wing"])


def test_names_that_others_rely_on() -> None:
    """The stable contract of `uf.counterfactuals` and `uf.load_shapes`."""
    c = uf.counterfactuals
    assert list(inspect.signature(c.AffineHead).parameters)[:2] == ["weight", "bias"]
    layer = torch.nn.Linear(5, 3)
    head = c.AffineHead.of(layer)
    assert torch.equal(head.weight.float(), layer.weight.detach())
    assert torch.equal(head.bias.float(), layer.bias.detach())
    e = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    distance = c.flip_distance(head, e, norm=2)
    assert distance.shape == (6, 3)
    assert torch.equal(distance, c.flip_distance(head, e))
    assert torch.equal(distance.isinf().nonzero()[:, 1], head.logits(e).argmax(1))
    edit = c.targeted_edit(head, e, 1)
    assert isinstance(edit, c.Edit)
    assert (edit.delta.shape, edit.feasible.shape, edit.shortfall.shape) == ((6, 5), (6,), (6,))
    whole = c.flip_attributes(head, (e > 0).float())
    assert isinstance(whole, c.Edit)
    assert set(whole.delta.unique().tolist()) <= {-1.0, 0.0, 1.0}
    shapes = uf.load_shapes(4)
    assert (shapes.x.shape, shapes.attributes.shape) == ((4, 3, 32, 32), (4, 26))
