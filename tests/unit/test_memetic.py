"""Memetic search: what ascents from random points miss, pools, and the search beside a branch and bound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unfooled import Linf
from unfooled.attacks import apgd, memetic, restarted
from unfooled.attacks.memetic import ISLANDS, Hunt, Islands, Memetic, Pool
from unfooled.certification import Effort, certify, exact_margins
from unfooled.certification.alpha import Steps
from unfooled.certification.branch import Limits
from unfooled.certification.proof import Level
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.evaluation.verify import verify

SIDE, BLOCKS = 8, 16
THREAT = Linf(0.1)


def traps() -> tuple[nn.Module, Tensor, Tensor]:
    """A network of 32 ReLUs over 16 windows of 2 x 2 pixels, a sample and its label.

    With s the mean change of a window in multiples of eps, it lowers the margin by .8 (1/4 - s) below s = 1/4, which is
    where most random points are, and by 2 (s - 1/4) above. The margin falls below 0 only where at least 15 of the 16
    windows are in the deeper valley, at s = 1.
    """
    first = nn.Conv2d(1, 2, 2, 2)  # s - 1/4 and 1/4 - s
    last = nn.Linear(2 * BLOCKS, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 1, 2, 2) / 0.4)
        assert first.bias is not None
        first.bias.copy_(torch.tensor([-5.25, 5.25]))
        # A window lowers the margin by 1.5 at s = 1, by 1 at s = -1.
        row = torch.tensor([-2.0, -0.8]).repeat_interleave(BLOCKS)
        last.weight.copy_(torch.stack([row, torch.zeros_like(row)]))
        last.bias.copy_(torch.tensor([1.5 * BLOCKS - 0.75, 0.0]))
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), last).eval().requires_grad_(False)
    return model, torch.full((1, 1, SIDE, SIDE), 0.5), torch.zeros(1, dtype=torch.int64)


def test_it_finds_the_only_valley_where_apgd_from_many_starts_does_not() -> None:
    model, x, y = traps()
    (truth,) = exact_margins(model, x, y, THREAT)
    assert truth.value == pytest.approx(-0.75, abs=1e-5)
    missed = restarted(apgd, 20)(model, x, y, THREAT)
    assert not verify(model, x, y, missed, THREAT).success
    z = memetic(model, x, y, THREAT, size=32, generations=80)
    assert verify(model, x, y, z, THREAT).success


def test_without_generations_it_is_its_first_ascents() -> None:
    model, x, y = traps()
    z = memetic(model, x, y, THREAT, size=32, generations=0)
    assert not verify(model, x, y, z, THREAT).success
    passes = Counted(model)
    memetic(passes, x, y, THREAT, size=8, generations=2, steps=3)
    assert passes.forwards == 1 + 8 * 41 + 2 * 8 * 4
    assert passes.backwards == 8 * 40 + 2 * 8 * 3


def test_a_pool_never_gets_worse_and_stays_inside() -> None:
    model, x, y = traps()
    search = Memetic(model, x, y, THREAT, size=8)
    islands = Islands.begin(search)
    seen: list[Pool] = []
    for _ in range(30):
        following = islands.next(search)
        if following.pool.number == islands.pool.number:  # else it is another pool
            assert bool((following.pool.values >= islands.pool.values).all())
        islands = following
        seen.append(islands.pool)
    points = torch.cat([pool.points[0] for pool in seen])
    assert bool((THREAT.size(points - x) <= 0.1 + 1e-6).all())
    margins = model(seen[-1].points[0])
    assert torch.allclose(margins[:, 1] - margins[:, 0], seen[-1].values[0], atol=1e-4)


def test_grown_islands_are_put_together() -> None:
    model, x, y = traps()
    search = Memetic(model, x, y, THREAT, size=6)
    pools = [search.begin(k) for k in range(ISLANDS)]
    best = max(float(pool.values.amax()) for pool in pools)
    alike = [Pool(p.points, p.values.amax(1, keepdim=True).expand(-1, 6), p.number) for p in pools]
    islands = Islands(alike[-1], tuple(alike[:-1]), ISLANDS).next(search)
    assert not islands.grown
    assert float(islands.pool.values.amax()) >= best
    assert len({pool.number for pool in [*pools, islands.pool]}) == ISLANDS + 1


@pytest.mark.parametrize("starts", [0, 3])
def test_a_hunt_beside_branch_and_bound_breaks_the_sample(starts: int) -> None:
    model, x, y = traps()
    ticks = iter(range(10**6))
    hunt = Hunt(model, x, y, THREAT, share=0.9, clock=lambda: float(next(ticks)))
    z = None
    for _ in range(20):
        if (z := hunt(x.expand(starts, *x.shape[1:]), 0)) is not None:
            break
    assert z is not None
    assert verify(model, x, y, z[None], THREAT).success
    assert hunt.least == -torch.inf


def test_branch_and_bound_hands_its_minimisers_over() -> None:
    model, x, y = traps()
    calls: list[int] = []

    def find(hunt: Callable[[Tensor, int], Tensor | None], points: Tensor, sample: int) -> Tensor | None:
        calls.append(len(points))
        return hunt(points, sample)

    hunt = Hunt(model, x, y, THREAT)
    effort = Effort("few", Level.CROWN, Steps(1), Limits(20.0, first=Steps(1), later=Steps(1)))
    proof = certify(model, x, y, THREAT, effort=effort, find=lambda points, sample: find(hunt, points, sample))
    assert not proof.certified
    example = proof.examples[0].reshape(x.shape)
    assert verify(model, x, y, example, THREAT).success


def test_bad_numbers_are_named() -> None:
    model, x, y = traps()
    with pytest.raises(BadInput, match="size is 1; it must be a whole number, at least 2"):
        memetic(model, x, y, THREAT, size=1)
    with pytest.raises(BadInput, match="generations is -1"):
        memetic(model, x, y, THREAT, generations=-1)


def test_the_search_keeps_to_its_share_of_the_time() -> None:
    spent = [0.0]

    def slow(z: Tensor) -> Tensor:
        spent[0] += len(z)
        return torch.stack([z.flatten(1).sum(1), -z.flatten(1).sum(1)], 1)

    x = torch.full((1, 1, 4, 4), 0.5)
    hunt = Hunt(slow, x, torch.tensor([0]), Linf(1e-4), share=0.25, clock=lambda: spent[0])
    bounds = 0.0
    for _ in range(400):
        assert hunt(x.expand(8, 1, 4, 4), 0) is None
        spent[0] += 100.0
        bounds += 100.0
    assert (spent[0] - bounds) / spent[0] == pytest.approx(0.25, abs=0.03)


def test_shares_and_counts_that_no_search_can_have() -> None:
    x, y = torch.full((1, 4), 0.5), torch.tensor([0])
    for options in ({"share": 1.0}, {"share": -0.1}, {"starts": 0}):
        with pytest.raises(BadInput, match=next(iter(options))):
            Hunt(lambda z: z, x, y, Linf(0.1), **options)
    for name, value in (("steps", "3"), ("size", 4.0), ("generations", None), ("batch", 0)):
        with pytest.raises(BadInput, match=name):
            memetic(lambda z: z, x, y, Linf(0.1), **{name: value})  # type: ignore[arg-type]


def test_the_likeliest_class_is_aimed_at_first() -> None:
    def model(z: Tensor) -> Tensor:
        return z.new_tensor([9.0, 1.0, 3.0, 2.0]).expand(len(z), 4) + z.sum()

    found = Memetic(model, torch.full((1, 4), 0.5), torch.tensor([0]), Linf(0.1), size=8)._aims()
    assert found[0].tolist() == [-1, 2, 3, 1, -1, 2, 3, 1]
