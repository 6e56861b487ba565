"""Square: what every budget attack promises, without a gradient."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.conftest import interior, linear, points, source, tiny_net
from torch import Tensor

from unfooled.attacks.square import HALVING_QUERIES, side_share, square
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.evaluation.verify import verify

THREATS = [Linf(0.08), L2(0.4), L1(1.5)]
SHAPES = [(1, 6, 5), (3, 8, 8), (12,), (4, 6)]
both = pytest.mark.parametrize("threat", THREATS, ids=str)


@both
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inside_untouched_and_repeatable(threat: Threat, shape: tuple[int, ...]) -> None:
    model, x = linear(3, shape), points(6, shape, seed=3)
    y = model(x).argmax(1)
    kept, state = x.clone(), torch.get_rng_state()
    z = square(model, x, y, threat, steps=40)
    assert bool(verify(model, x, y, z, threat).inside.all())
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(z, square(model, x, y, threat, steps=40))
    assert not torch.equal(z, square(model, x, y, threat, steps=40, generator=source(1)))


@both
def test_batch_and_order_do_not_matter(threat: Threat) -> None:
    # In float32 the last bit of a logit, which may depend on the batch, can decide whether a window is taken.
    model, x = tiny_net(3, (1, 6, 5), dtype=torch.float64), points(9, (1, 6, 5), seed=6, dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(1)
    whole = square(model, x, y, threat, steps=60)
    order = torch.tensor([8, 2, 5, 0, 7, 1, 6, 3, 4])
    parts = torch.cat([square(model, x[r], y[r], threat, steps=60) for r in order.split(2)])
    torch.testing.assert_close(whole[order], parts)


@both
def test_finds_what_is_there_and_no_more(threat: Threat) -> None:
    """Linear, two classes: nothing falls below the optimum; a few times above it, most do."""
    model, x = linear(2, (1, 6, 6)), interior(20, (1, 6, 6))
    y = model(x).argmax(1)
    best = model.distance(x, y, threat.norm)
    below, above = threat.with_eps(best * 0.97), threat.with_eps(best * 3)
    assert not verify(model, x, y, square(model, x, y, below, steps=200), below).success.any()
    hits = verify(model, x, y, square(model, x, y, above, steps=800), above).success.double().mean()
    random = verify(model, x, y, above.sample(x), above).success.double().mean()
    assert hits >= 0.9
    assert hits > random + 0.2


def test_needs_no_gradient_and_counts_queries() -> None:
    net, x = tiny_net(3, (1, 6, 5)), points(5, (1, 6, 5))
    with torch.no_grad():
        y = net(x).argmax(1)
    with counted(lambda z: net(z).detach()) as model:
        square(model, x, y, Linf(1e-6), steps=30)
    assert model.backwards == 0
    assert 5 * 10 < model.forwards < 5 * 30  # a window that holds the proposed values already is not asked about
    with counted(net) as model:
        square(model, x, y, Linf(1.0), steps=300)
    assert model.forwards < 5 * 300


def test_warm_start_is_never_worse() -> None:
    model, x = linear(3, (1, 6, 6)), interior(10, (1, 6, 6))
    y, threat = model(x).argmax(1), Linf(0.002)
    start = threat.corner(x, 5)
    z = square(model, x, y, threat, steps=50, start=start, first_query=200)

    def lead(points_: Tensor) -> Tensor:
        logits = model(points_)
        return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]

    assert bool((lead(z) >= lead(start) - 1e-6).all())
    assert bool((lead(z) > lead(start)).any())


def test_schedule_halves_where_the_paper_says() -> None:
    assert side_share(10, 10_000, 0.8) == 0.8
    for i, bound in enumerate(HALVING_QUERIES):
        assert side_share(bound + 1, 10_000, 0.8) == pytest.approx(0.8 / 2 ** (i + 1))
    assert side_share(6, 5000, 0.8) == pytest.approx(0.4)


def test_what_it_does_not_know_is_refused() -> None:
    model, x = linear(2, (1, 4, 4)), interior(2, (1, 4, 4))
    with pytest.raises(BadInput, match="supports Linf, L2 and L1"):
        square(model, x, model(x).argmax(1), L0(1.0))
    with pytest.raises(BadInput, match="at least 1"):
        square(model, x, model(x).argmax(1), Linf(0.1), steps=0)


def test_a_shorter_search_of_a_longer_schedule_begins_alike() -> None:
    """Unasked queries change nothing, and the windows are those of the schedule."""
    model, x = linear(3, (1, 6, 6)), interior(6, (1, 6, 6))
    y, threat = model(x).argmax(1), Linf(0.001)
    assert torch.equal(square(model, x, y, threat, steps=50), square(model, x, y, threat, steps=50, schedule=50))
    seen: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        seen.append(z)
        return model(z)

    z = square(watched, x[:1], y[:1], threat, steps=50, schedule=400)
    assert not any(torch.equal(a, b) for a, b in pairwise(seen))
    assert float((z != x[:1]).double().mean()) == 1  # the windows are large still: all is covered
    assert not torch.equal(z, square(model, x[:1], y[:1], threat, steps=50))
