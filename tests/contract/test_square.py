"""Square: what every budget attack promises, without a gradient."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch
from tests.conftest import interior, linear, points, source, tiny_net
from torch import Tensor

from unfooled.attacks.ensembles.stages import are_bounded
from unfooled.attacks.square import HALVING_QUERIES, halvings, rows_for, square, square_search
from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.core.types import Objective
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
    queries = torch.tensor([10, *(bound + 1 for bound in HALVING_QUERIES)])
    assert halvings(queries, 10_000).tolist() == list(range(len(HALVING_QUERIES) + 1))
    assert halvings(torch.tensor([6]), 5000).tolist() == [1]


@both
@pytest.mark.parametrize("shape", [(3, 8, 8), (12,)], ids=str)
@pytest.mark.parametrize("warm", [False, True])
def test_many_proposals_a_call_take_the_path_of_one(
    threat: Threat, shape: tuple[int, ...], warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The points are those of one query a call, bit for bit, in fewer calls."""
    monkeypatch.setattr(sys.modules[square.__module__], "AHEAD", 3.0)  # blocks also where rises are frequent
    x = points(5, shape, seed=3, dtype=torch.float64)
    seed, start, calls, ends = rng.seeds(x, 1), threat.sample(x, 3) if warm else None, [0, 0], []
    for k, rows in enumerate((1, 64)):

        def value(z: Tensor, at: Tensor, k: int = k) -> tuple[Tensor, Tensor]:
            calls[k] += 1
            return (90 * z.flatten(1)).sin().sum(1), at < 0

        ends.append(square_search(value, x, threat, seed, steps=150, start=start, first_query=20 * warm, rows=rows))
    assert torch.equal(*ends)
    assert calls[1] < calls[0]


def test_where_rises_are_rare_a_sixth_of_the_calls_do() -> None:
    """Of one sample and of few, as at the end of a cascade."""
    x = points(3, (1, 8, 8), seed=3, dtype=torch.float64)
    best, calls = x + 0.1 * (2 * (points(3, (1, 8, 8), seed=4, dtype=torch.float64) > 0.5).double() - 1), []
    start = torch.where(points(3, (1, 8, 8), seed=5) < 0.1, x, best)

    def value(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(z))
        return -(z - best[at]).abs().flatten(1).sum(1), at < 0

    square_search(value, x, Linf(0.1), rng.seeds(x, 1), steps=600, start=start, first_query=200, rows=64)
    assert len(calls) < 100
    assert sum(calls) < 1.35 * 3 * 600


def test_a_sample_that_is_done_in_a_block_is_left_as_in_the_sequential_search() -> None:
    x, threat = points(4, (1, 6, 5), seed=3, dtype=torch.float64), Linf(0.1)
    seed, ends = rng.seeds(x, 1), []
    for rows in (1, 64):

        def value(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            values = ((z - x[at]) * x[at]).flatten(1).sum(1)
            return values, values > torch.tensor([9.0, 0.2, 0.1, 0.0], dtype=z.dtype)[at]

        ends.append(square_search(value, x, threat, seed, steps=200, rows=rows))
    assert torch.equal(*ends)


def slow(best: Tensor, target: float, step: float = 0.0) -> Objective:
    """Build an objective that nears 0 with each pixel that is set as in `best`; `step` rounds it down."""

    def value(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        values = target - (z - best[at]).abs().flatten(1).sum(1)
        return (values if not step else step * (values / step).floor()), values > 0

    return value


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_a_search_without_prospect_gives_up_after_a_quarter(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gain that does not suffice at twice its pace ends it, at the same query for each number of rows."""
    monkeypatch.setattr(sys.modules[square.__module__], "AHEAD", 3.0)  # blocks that would cross a quarter
    x = points(4, (1, 12, 12), seed=3, dtype=torch.float64)
    best, queries = (
        x + 0.1 * (2 * (points(4, (1, 12, 12), seed=4, dtype=torch.float64) > 0.5).double() - 1),
        torch.zeros(4),
    )
    near = torch.tensor([0.0, 0.0, 1e9, torch.inf], dtype=torch.float64)
    climb = slow(best, -30.0)

    def value(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        queries.index_add_(0, at, torch.ones(len(at)))
        return climb(z, at)

    ends = square_search(value, x, Linf(0.1), rng.seeds(x, 1), steps=400, start=x, first_query=20, rows=rows, near=near)
    full = square_search(climb, x, Linf(0.1), rng.seeds(x, 1), steps=400, start=x, first_query=20)
    short = square_search(climb, x, Linf(0.1), rng.seeds(x, 1), steps=100, start=x, first_query=20, schedule=420)
    assert torch.equal(ends[2:], full[2:])
    assert torch.equal(ends[:2], short[:2])
    assert not torch.equal(ends[:2], full[:2])
    if rows == 1:
        assert queries[:2].max() <= 100 < queries[2:].min()


def test_a_search_goes_on_where_it_gains_or_seldom_rises() -> None:
    """Success that is in reach, and a value in coarse steps, of which few rises say little."""
    x = points(3, (1, 12, 12), seed=3, dtype=torch.float64)
    best = x + 0.1 * (2 * (points(3, (1, 12, 12), seed=4, dtype=torch.float64) > 0.5).double() - 1)
    for climb in (slow(best, 9.0), slow(best, -200.0, step=2.0)):
        ends, sizes = [], []
        for near in (torch.zeros(3), None):
            asked: list[int] = []

            def value(
                z: Tensor, at: Tensor, asked: list[int] = asked, climb: Objective = climb
            ) -> tuple[Tensor, Tensor]:
                asked.append(len(z))
                return climb(z, at)

            threat, seed = Linf(0.1), rng.seeds(x, 1)
            ends.append(square_search(value, x, threat, seed, steps=400, start=x, first_query=20, near=near))
            sizes.append(asked)
        assert torch.equal(*ends)
        assert sizes[0] == sizes[1]


def test_a_block_has_no_more_rows_than_it_may() -> None:
    x, sizes = points(3, (1, 6, 5), seed=3), []

    def value(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(z))
        return z.flatten(1).sum(1), at < 0

    square_search(value, x, Linf(0.1), rng.seeds(x, 1), steps=200, rows=9)
    assert 3 < max(sizes) <= 9
    assert rows_for(torch.zeros(1, 3, 600, 600)) == 1 < rows_for(torch.zeros(1, 3, 32, 32))


def test_what_it_does_not_know_is_refused() -> None:
    model, x = linear(2, (1, 4, 4)), interior(2, (1, 4, 4))
    with pytest.raises(BadInput, match="supports Linf, L2 and L1"):
        square(model, x, model(x).argmax(1), L0(1.0))
    with pytest.raises(BadInput, match="at least 1"):
        square(model, x, model(x).argmax(1), Linf(0.1), steps=0)
    with pytest.raises(BadInput, match="rows is 0; it must be at least 1"):
        square_search(lambda z, at: (z.flatten(1).sum(1), at < 0), x, Linf(0.1), rng.seeds(x), steps=9, rows=0)


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


def test_a_start_without_a_value_is_left_for_any_that_has_one() -> None:
    """Random stripes may begin where the margin is NaN; the search goes on from the first proposal with a value."""
    torch.manual_seed(0)
    x, w = 0.5 + 0.01 * torch.randn(50, 1, 8, 8), torch.randn(64)
    y = torch.zeros(50, dtype=torch.int64)

    def known(z: Tensor) -> Tensor:
        score = (z - 0.5).flatten(1) @ w
        return torch.stack([torch.full_like(score, 2.3), score], 1)

    def partly(z: Tensor) -> Tensor:
        return known(z).masked_fill((z[:, 0, 0, 0] > 0.56)[:, None], torch.nan)

    z = square(partly, x, y, Linf(0.1), steps=1)
    began = z[:, 0, 0, 0] > 0.56
    assert int(began.sum()) > 10
    found = partly(square(partly, x, y, Linf(0.1), steps=400)).argmax(1) != y
    assert float(found[began].double().mean()) > 0.5


@pytest.mark.parametrize(
    ("scores", "bounded"),
    [
        (torch.tensor([[0.7, 0.2, 0.1]]), True),
        (torch.tensor([[70.0, 20.0, 10.0]]), True),
        (torch.tensor([[0.6, 0.1, 0.0]]) - 0.7 / 3, True),
        (torch.tensor([[60.0, 25.5, 14.5]]) - 100 / 3, True),
        (torch.tensor([[3.0, -1.0, 0.4]]), False),
        (torch.tensor([[30.0, 80.0, 40.0]]), False),
        (torch.tensor([[1 + 1.2e-7, -1.2e-7]]), True),
        ((torch.tensor([[0.6, 0.25, 0.15]]) - 1 / 3).half(), True),
        (torch.tensor([[9.0, -5.0, -4.001]]), False),  # logits of a network that was trained with weight decay
        (torch.tensor([[120.0, -30.0, 10.0]]), False),
    ],
)
def test_scores_that_may_be_probabilities_are_known(scores: Tensor, bounded: bool) -> None:
    assert are_bounded(scores).tolist() == [bounded]


def test_a_search_of_few_steps_gives_none_up() -> None:
    x, asked = points(3, (1, 4, 4), seed=2), []
    for near in (None, torch.zeros(3)):
        count = [0]

        def value(z: Tensor, at: Tensor, count: list[int] = count) -> tuple[Tensor, Tensor]:
            count[0] += len(z)
            return 1e-3 * z.flatten(1).sum(1) - 5, at < 0

        square_search(value, x, Linf(0.1), rng.seeds(x, 1), steps=7, near=near)
        asked.append(count[0])
    assert asked[0] == asked[1]
