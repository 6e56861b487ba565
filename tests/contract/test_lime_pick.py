"""The submodular pick, soft stability and expected gradients: hand-made cases, enumeration, equivalences."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations import (
    TabularSpace,
    expected_gradients,
    expected_gradients_with_gap,
    integrated_gradients,
    lime_image,
    lime_tabular,
    soft_stability,
    submodular_pick,
)
from unfooled.explanations.lime import any_cover, constant, soft_cover, with_stability
from unfooled.explanations.lime.pick import by_key, greedy
from unfooled.testing import check_explanation

# The figure of the paper: row 1 covers most, row 4 adds the rest
PAPER = torch.tensor([
    [1.0, 1, 0, 0, 0],
    [0, 1, 1, 1, 0],
    [0, 1, 1, 0, 0],
    [0, 0, 1, 1, 0],
    [0, 1, 0, 0, 1],
])  # fmt: skip


def values(w: Tensor, importance: Tensor, cover: Any, subset: Any) -> float:
    best = torch.zeros(w.shape[1], dtype=w.dtype)
    for i in subset:
        best = torch.maximum(best, w[i])
    return float(cover(best, best[None])[0] @ importance)


def plain(w: Tensor, importance: Tensor, budget: int, cover: Any) -> list[int]:
    "Greedy search that computes every candidate at every step."
    index: list[int] = []
    for _ in range(min(budget, len(w))):
        rest = [i for i in range(len(w)) if i not in index]
        index.append(max(rest, key=lambda i: (round(values(w, importance, cover, [*index, i]), 9), -i)))
    return index


def test_the_figure_of_the_paper() -> None:
    pick = submodular_pick(PAPER[:, None], keys=[tuple("abcde")] * 5, budget=2)
    assert pick.importance["b"] == pytest.approx(2)
    assert pick.index[0] == 1
    roots = {key: math.sqrt(n) for key, n in zip("abcde", (1, 4, 3, 2, 1), strict=True)}
    assert pick.importance == pytest.approx(roots)
    assert pick.index == (1, 0), "rows 0 and 4 add as much; the tie goes to the lowest number"
    assert pick.gain == pytest.approx((2 + math.sqrt(3) + math.sqrt(2), 1))


@pytest.mark.parametrize("cover", [any_cover, soft_cover])
@pytest.mark.parametrize("seed", range(5))
def test_lazy_is_plain_greedy_and_near_the_best(cover: Any, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    w = torch.rand(12, 9, generator=source, dtype=torch.float64)
    w = w.where(torch.rand(12, 9, generator=source) < 0.3, 0.0)
    importance = w.sum(0).sqrt()
    index, gain = greedy(w, importance, range(12), 4, cover)
    assert index == plain(w, importance, 4, cover)
    assert sum(gain) == pytest.approx(values(w, importance, cover, index))
    best = max(values(w, importance, cover, subset) for subset in combinations(range(12), 4))
    assert sum(gain) >= (1 - 1 / math.e) * best


def test_weights_of_two_labels_do_not_cancel() -> None:
    w = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[0.5, 0.5], [-0.5, -0.5]]])
    table, names = by_key(w, [("a", "b")] * 2)
    assert table.tolist() == [[2, 0], [1, 1]]
    assert names == ["a", "b"]
    assert submodular_pick(w, keys=[("a", "b")] * 2, budget=1).index == (1,)


def test_weights_within_their_noise_do_not_count() -> None:
    w = torch.tensor([[[1.0, 0.1]], [[1.0, 0.0]]])
    noise = torch.full_like(w, 0.2)
    assert submodular_pick(w, keys=[("a", "b")] * 2, budget=1).importance["b"] > 0
    pick = submodular_pick(w, keys=[("a", "b")] * 2, budget=1, noise=noise)
    assert pick.importance["b"] == 0


def test_keys_are_column_and_bin() -> None:
    table = np.random.default_rng(1).normal(size=(200, 2))
    space = TabularSpace.learn(table)
    found = lime_tabular(lambda x: x[:, 0] ** 2, table[:20], space=space, samples=200)
    pick = submodular_pick(found, budget=4)
    keys: Any = list(pick.importance)
    assert {key[0] for key in keys} == {"column 0", "column 1"}
    assert len(pick.importance) == 8
    assert len(set(pick.index)) == 4
    few = submodular_pick(found, budget=30, most=6)
    assert len(few.index) == 6
    assert few == submodular_pick(found, budget=30, most=6)
    assert few.index != submodular_pick(found, budget=30, most=6, generator=torch.Generator().manual_seed(2)).index


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda w: submodular_pick(w, keys=[("a", "b")], budget=0), "at least 1"),
        (submodular_pick, "keys name"),
        (lambda w: submodular_pick(w, keys=[("a", "b", "c")]), "at most 2"),
        (lambda w: submodular_pick(w[0], keys=[("a", "b")]), "they are"),
        (lambda w: submodular_pick(w, keys=[("a", "b")], noise=w[0]), "noise has shape"),
    ],
)
def test_refusals_of_the_pick(call: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call(torch.ones(1, 1, 2))


def test_a_pick_of_images_needs_concepts() -> None:
    found = lime_image(tiny_net(3, (1, 8, 8)), points(2, (1, 8, 8)))
    with pytest.raises(BadInput, match="segments of different images"):
        submodular_pick(found)
    assert submodular_pick(found, keys=[tuple(range(16))] * 2, budget=1).index in ((0,), (1,))


# Soft stability


def votes(z: Tensor) -> Tensor:
    "The class is a weighted vote of ten features."
    w = torch.linspace(-1, 1.2, 10, dtype=torch.float64)
    total = (z.to(torch.float64) * w).sum(1)
    return torch.stack([-total, total], 1)


@pytest.mark.parametrize("r", [0, 1, 3, 7])
def test_stability_by_enumeration(r: int) -> None:
    selected = torch.zeros(10, dtype=torch.bool)
    selected[[7, 8, 2]] = True
    free = [j for j in range(10) if not selected[j]]
    stays = []
    for k in range(r + 1):
        for subset in combinations(free, k):
            z = selected.clone()
            z[list(subset)] = True
            stays.append(bool(votes(z[None]).argmax() == votes(selected[None]).argmax()))
    want = sum(stays) / len(stays)
    exact = soft_stability(votes, selected, r, exact=True)
    assert exact.value == pytest.approx(want)
    assert exact.low == exact.high == exact.value
    assert exact.draws == len(stays)
    inside = []
    for seed in range(40):
        found = soft_stability(votes, selected, r, exact=False, generator=torch.Generator().manual_seed(seed))
        assert found.draws == 150
        inside.append(found.low <= want <= found.high)
        assert found.high - found.low <= 2 * math.sqrt(math.log(20) / 300) + 1e-12
    assert sum(inside) >= 36
    means = [soft_stability(votes, selected, r, exact=False, draws=4000).value]
    assert means[0] == pytest.approx(want, abs=0.03), "the supersets are uniform"


def test_stability_of_an_image() -> None:
    x, net = points(1, (1, 8, 8), dtype=torch.float64), tiny_net(3, (1, 8, 8), dtype=torch.float64)
    found = lime_image(net, x)
    selected = found.weights[0, 0].abs() >= found.weights[0, 0].abs().topk(5).values[-1]
    ids = found.segments

    def f(z: Tensor) -> Tensor:
        assert ids is not None
        return net(x * z[:, ids[0]][:, None])

    stable = soft_stability(f, selected, 4)
    assert 0 <= stable.low <= stable.value <= stable.high <= 1
    assert not stable.exact
    assert stable == soft_stability(f, selected, 4, batch=7)
    shown = with_stability(found, net, r=4, baseline=constant(0.0))
    leading = torch.zeros(16, dtype=torch.bool).scatter(0, found.weights[0, 0].topk(5).indices, True)
    again = soft_stability(f, leading, 4)
    assert shown.stability == ((again.value, again.low, again.high),)
    assert "Soft stability" in shown.to_html()
    assert "Soft stability was not measured" in found.to_html()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"selected": torch.ones(3)}, "it is a mask"),
        ({"r": -1}, "at least 0"),
        ({"draws": 0}, "at least 1"),
        ({"f": lambda z: z[:, 0] * 1.0, "selected": torch.ones(1).bool()}, "returned shape"),
        ({"selected": torch.zeros(60).bool(), "r": 30, "exact": True}, "draw some"),
    ],
)
def test_refusals_of_the_stability(options: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"f": votes, "selected": torch.ones(10).bool(), "r": 1, **options}
    with pytest.raises(BadInput, match=sentence):
        soft_stability(**given)


# Expected gradients


def test_contract_of_expected_gradients() -> None:
    check_explanation(partial(expected_gradients, draws=63), ignores=True, linear=lambda w, x: w * (x - 0.5))


def test_they_are_integrated_gradients_for_one_background() -> None:
    x, net = points(3, (2, 6, 5), dtype=torch.float64), tiny_net(3, (2, 6, 5), dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    found = expected_gradients(net, x, y, background=torch.full((1, 2, 6, 5), 0.2), draws=600)
    want = integrated_gradients(net, x, y, baseline=0.2, steps=600)
    assert (found - want).abs().max() < 0.01 * want.abs().max()


def test_completeness_in_expectation() -> None:
    x, net = points(3, (2, 6, 5), dtype=torch.float64), tiny_net(3, (2, 6, 5), dtype=torch.float64)
    background = points(8, (2, 6, 5), dtype=torch.float64, seed=7)
    y = torch.tensor([0, 1, 2])
    rough, fine = (expected_gradients_with_gap(net, x, y, background=background, draws=n) for n in (16, 1024))
    change = (net(x) - net(background).mean(0)).gather(1, y[:, None])[:, 0]
    assert (fine.change - change).abs().max() < 1e-6
    assert fine.relative_gap.max() < 0.05
    assert fine.relative_gap.mean() < rough.relative_gap.mean()


def test_the_draws_do_not_depend_on_the_batch_or_on_x() -> None:
    x, net = points(3, (2, 6, 5), dtype=torch.float64), tiny_net(3, (2, 6, 5), dtype=torch.float64)
    background, y = points(5, (2, 6, 5), dtype=torch.float64, seed=7), torch.tensor([0, 1, 2])
    whole = expected_gradients(net, x, y, background=background, draws=20)
    small = expected_gradients(net, x, y, background=background, draws=20, batch_bytes=1)
    assert (whole - small).abs().max() < 1e-10
    other = expected_gradients(net, x, y, background=background, draws=20, generator=torch.Generator().manual_seed(4))
    assert (whole - other).abs().max() > 1e-6
    w = torch.randn(3, 60, dtype=torch.float64)
    exact = expected_gradients(lambda z: z.flatten(1) @ w.T, x, y, background=background, draws=20)
    want = (w[y].reshape(x.shape) * (x - background.mean(0))).double()
    assert (exact - want).abs().max() < 1e-10, "each background occurs alike"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"draws": 0}, "at least 1"),
        ({"background": torch.zeros(2, 3)}, "samples of the data"),
        ({"background": torch.full((1, 2, 6, 5), torch.nan)}, "NaN"),
    ],
)
def test_refusals_of_expected_gradients(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        expected_gradients(tiny_net(3, (2, 6, 5)), points(1, (2, 6, 5)), torch.tensor([0]), **options)


@pytest.mark.parametrize("coverage", [any_cover, soft_cover])
@pytest.mark.parametrize("budget", [1, 2, 4, 7])
def test_a_pick_beside_a_random_choice(coverage: Any, budget: int) -> None:
    w = torch.rand(7, 2, 9, generator=torch.Generator().manual_seed(1)) - 0.5
    w[torch.rand(7, 2, 9, generator=torch.Generator().manual_seed(2)) < 0.6] = 0
    keys = [tuple("abcdefghi")] * 7
    pick = submodular_pick(w, keys=keys, budget=budget, coverage=coverage)
    size = w.abs().sum(1).double()
    importance = size.sum(0).sqrt()

    def cover(rows: Any) -> float:
        best = size[list(rows)].amax(0)
        return float(((best > 0).double() if coverage is any_cover else best) @ importance)

    every = [cover(rows) for rows in combinations(range(7), budget)]
    assert pick.covered == pytest.approx(cover(pick.index) / cover(range(7)))
    assert pick.by_chance == pytest.approx(sum(every) / len(every) / cover(range(7)))
    assert pick.covered >= pick.by_chance - 1e-12
    nothing = submodular_pick(torch.zeros(3, 1, 2), keys=[("a", "b")] * 3, budget=2)
    assert (nothing.covered, nothing.by_chance) == (1.0, 1.0)
