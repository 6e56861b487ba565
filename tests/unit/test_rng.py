"""Random numbers that belong to the sample: the same in any company, and random enough."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tests.conftest import points, source
from torch import Tensor

from unfooled.attacks import restarted
from unfooled.core import rng
from unfooled.core.threats import Linf, Threat

DRAWS: dict[str, Callable[..., Tensor]] = {"uniform": rng.uniform, "normal": rng.normal}
every_draw = pytest.mark.parametrize("name", DRAWS)


@every_draw
def test_a_sample_has_its_numbers_in_any_company(name: str) -> None:
    x = points(9, (2, 5))
    numbers = DRAWS[name](rng.seeds(x, 3), (4, 2))
    order = torch.randperm(9, generator=source(0))
    assert torch.equal(DRAWS[name](rng.seeds(x[order], 3), (4, 2)), numbers[order])
    parts = [DRAWS[name](rng.seeds(part, 3), (4, 2)) for part in x.split(2)]
    assert torch.equal(torch.cat(parts), numbers)
    assert torch.equal(DRAWS[name](rng.seeds(x.transpose(1, 2).contiguous().transpose(1, 2), 3), (4, 2)), numbers)
    draws = torch.arange(9)
    each = torch.cat([DRAWS[name](rng.seeds(x[i : i + 1], 3), (4, 2), draw=i) for i in range(9)])
    assert torch.equal(DRAWS[name](rng.seeds(x, 3), (4, 2), draw=draws), each)


def test_these_numbers_stay_what_they_are() -> None:
    # Written down once: a change here changes every published result.
    x = torch.tensor([[0.0, 0.25], [1.0, 0.5]])
    assert rng.sample_keys(x).tolist() == [-1223884059575530896, -8398337703059852085]
    assert rng.seeds(x, 7, stage=1).tolist() == [-5877663399734043226, -7039823398141935402]


def splitmix64(z: int) -> int:
    """The finaliser on Python's integers."""
    mask = (1 << 64) - 1
    z &= mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    values = [0, 1, -1, 2**62, -(2**63), 123456789, 0x9E3779B97F4A7C15 - 2**64]
    mixed = rng.mix(torch.tensor(values)).tolist()
    assert [m % 2**64 for m in mixed] == [splitmix64(v) for v in values]
    # The first output of the published generator from state 0.
    assert splitmix64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("axis", ["coordinates", "samples", "draws"])
@every_draw
def test_moments_and_distribution(name: str, axis: str) -> None:
    n = 20_000
    if axis == "coordinates":
        u = DRAWS[name](rng.seeds(points(1, (3,))), (n,), dtype=torch.float64)
    elif axis == "samples":  # counters as samples: neighbours differ in one bit
        u = DRAWS[name](rng.seeds(torch.arange(n, dtype=torch.float32)[:, None]), (1,), dtype=torch.float64)
    else:
        u = DRAWS[name](rng.seeds(points(1, (3,)).expand(n, 3)), (1,), draw=torch.arange(n), dtype=torch.float64)
    values = u.flatten().numpy()
    law = {"uniform": "uniform", "normal": "norm"}[name]
    assert kstest(values, law).pvalue > 0.01
    mean, deviation = {"uniform": (0.5, 12**-0.5), "normal": (0.0, 1.0)}[name]
    assert abs(values.mean() - mean) < 4 * deviation / n**0.5
    assert abs(values.std() / deviation - 1) < 0.03
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
    if name == "uniform":
        assert values.min() >= 0
        assert values.max() < 1
        assert (values * 2**24 == np.round(values * 2**24)).all()


@every_draw
def test_draws_stages_and_seeds_are_independent(name: str) -> None:
    x, n = points(1, (3,)), 20_000
    streams = [
        DRAWS[name](rng.seeds(x, seed, stage=stage), (n,), draw=draw, dtype=torch.float64)[0]
        for seed, stage, draw in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (1, 1, 0), (0, 0, -1)]
    ]
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams), dtype=torch.float64)
    assert correlation.abs().max() < 0.03


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int64]
)
def test_samples_of_any_type_have_keys(dtype: torch.dtype) -> None:
    x = (points(50, (3, 4)) * 200).to(dtype) if dtype != torch.bool else points(50, (3, 4)) > 0.5
    keys = rng.sample_keys(x)
    assert keys.dtype == torch.int64
    assert keys.unique().numel() == x.flatten(1).unique(dim=0).shape[0]
    swapped = x.clone()
    swapped[:, 0], swapped[:, 1] = x[:, 1], x[:, 0]
    different = (swapped != x).flatten(1).any(1)
    assert (rng.sample_keys(swapped)[different] != keys[different]).all(), "order matters"
    assert rng.uniform(rng.seeds(x), (2,)).shape == (50, 2)


def test_one_bit_of_a_pixel_changes_everything() -> None:
    x = points(1, (3, 8, 8)).expand(192, 3, 8, 8).clone()
    rows = x.view(192, -1)
    rows[range(192), range(192)] = torch.nextafter(rows[range(192), range(192)], torch.tensor(2.0))
    keys = rng.sample_keys(x)
    assert keys.unique().numel() == 192
    bits = ((keys[:, None] ^ rng.sample_keys(points(1, (3, 8, 8)))) >> torch.arange(64)) & 1
    assert 0.47 < bits.double().mean() < 0.53


def test_a_generator_lends_its_seed_and_is_not_advanced() -> None:
    x, generator = points(3, (4,)), source(11)
    before = generator.get_state()
    assert torch.equal(rng.seeds(x, generator), rng.seeds(x, 11))
    assert torch.equal(rng.seeds(x, None), rng.seeds(x, 0))
    assert not torch.equal(rng.seeds(x, generator), rng.seeds(x, 0))
    assert torch.equal(generator.get_state(), before)
    torch.rand(5, generator=generator)
    assert torch.equal(rng.seeds(x, generator), rng.seeds(x, 11)), "how far it has been used does not matter"


def test_restarts_have_seeds_of_their_own() -> None:
    x, met = points(3, (4,)), []

    def stand(model: object, x: Tensor, y: Tensor, threat: Threat, **options: torch.Generator) -> Tensor:
        met.append(rng.base_seed(options["generator"]))
        return x

    def model(x: Tensor) -> Tensor:
        return torch.eye(2)[torch.zeros(len(x), dtype=torch.int64)]

    for seed in (0, 5, 2**63 - 1):
        met.clear()
        restarted(stand, 4)(model, x, torch.zeros(3, dtype=torch.int64), Linf(0.1), generator=source(seed))
        assert len(set(met)) == 4
        assert met[0] == seed
