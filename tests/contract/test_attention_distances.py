"""Measures of attention on maps made by hand: one cell, two cells, uniform, a box and a shifted box."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.distances import (
    above_mean,
    centroid_shift,
    completeness,
    components,
    cosine,
    coverage,
    entropy,
    iou,
    iou_matched,
    js,
    part_recall,
    pointing,
    recall,
    spread,
    top_cells,
    top_share,
)
from unfooled.distances.maps import attention as measures


def delta(*cells: tuple[int, int], size: tuple[int, int] = (4, 5)) -> Tensor:
    p = torch.zeros(1, *size, dtype=torch.float64)
    for i, j in cells:
        p[0, i, j] = 1 / len(cells)
    return p


def uniform(size: tuple[int, int] = (4, 5)) -> Tensor:
    return torch.full((1, *size), 1 / math.prod(size), dtype=torch.float64)


def random_maps(n: int = 5, seed: int = 0) -> Tensor:
    z = torch.randn(n, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (2 * z).softmax(1).reshape(n, 4, 5)


def box(top: int, left: int, side: int = 8, size: int = 32) -> Tensor:
    g = torch.zeros(1, size, size)
    g[0, top : top + side, left : left + side] = 1
    return g


ONE, FAR, BOTH = delta((0, 0)), delta((3, 4)), delta((0, 0), (3, 4))


def test_scatter() -> None:
    assert entropy(ONE).item() == pytest.approx(0)
    assert entropy(BOTH).item() == pytest.approx(math.log(2) / math.log(20))
    assert entropy(uniform()).item() == pytest.approx(1)
    assert spread(ONE).item() == pytest.approx(0)
    assert spread(BOTH).item() == pytest.approx(((3 / 8) ** 2 + (2 / 5) ** 2) / 2)
    assert spread(uniform()).item() == pytest.approx((1 - (1 / 16 + 1 / 25) / 2) / 12)


def test_deviation() -> None:
    for same in (ONE, BOTH, uniform()):
        assert js(same, same).item() == 0
        assert cosine(same, same).item() == pytest.approx(0, abs=1e-12)
        assert centroid_shift(same, same).item() == 0
    assert js(ONE, FAR).item() == pytest.approx(math.log(2))
    assert cosine(ONE, FAR).item() == 1
    assert centroid_shift(ONE, FAR).item() == pytest.approx(math.hypot(3 / 4, 4 / 5) / math.sqrt(2))
    a, b = random_maps(), random_maps(seed=1)
    m = (a + b) / 2
    want = ((a * (a / m).log()).sum((1, 2)) + (b * (b / m).log()).sum((1, 2))) / 2
    torch.testing.assert_close(js(a, b), want)
    torch.testing.assert_close(js(b, a), want)
    assert js(a, b).gt(0).all()


def test_divergences_can_be_differentiated_everywhere() -> None:
    for measure in (js, cosine):
        for other in (random_maps(), torch.cat([ONE, FAR, BOTH, uniform(), ONE])):
            p = other.clone().requires_grad_()
            (g,) = torch.autograd.grad(measure(random_maps(seed=1), p).sum(), p)
            assert g.isfinite().all()
            assert g.abs().max() > 0


def test_regions() -> None:
    p = random_maps()
    t = top_share(p, 0.25)
    assert t.flatten(1).sum(1).tolist() == [5] * 5
    assert torch.where(t, p, torch.inf).amin((1, 2)).ge(torch.where(t, -torch.inf, p).amax((1, 2))).all()
    assert above_mean(uniform()).sum() == 0
    assert above_mean(torch.full((1, 7, 9), 1 / 63)).sum() == 0
    assert above_mean(BOTH).sum() == 2
    torch.testing.assert_close(above_mean(p), p > 1 / 20)
    assert top_cells(uniform(), 3).flatten().nonzero().flatten().tolist() == [0, 1, 2]
    assert top_cells(p, torch.tensor([1, 2, 3, 4, 5])).flatten(1).sum(1).tolist() == [1, 2, 3, 4, 5]


def test_components() -> None:
    pictures = """
        ##..# ..... ##### #.#.#
        ##..# ..... #...# .#.#.
        ....# ..... #.#.# #.#.#
        #.... ..... ##### .#.#.
    """
    rows = [line.split() for line in pictures.strip().splitlines()]
    t = torch.tensor([[[c == "#" for c in row[k]] for row in rows] for k in range(4)])
    assert components(t).tolist() == [3, 0, 1, 10]


def test_object_measures_on_a_box() -> None:
    g = box(8, 8)
    grid = torch.zeros(1, 8, 8)
    grid[0, 2:4, 2:4] = 1
    torch.testing.assert_close(measures.on_grid(g, (8, 8)), grid)
    p = torch.zeros(1, 8, 8)
    p[0, 2, 2], p[0, 5, 5] = 0.3, 0.7
    assert coverage(p, g).item() == pytest.approx(0.3)
    assert pointing(p, g).item() == 0
    assert pointing(p.flip(1, 2).roll((-1, -1), (1, 2)), g.new_ones(g.shape)).item() == 1
    assert coverage(torch.full((1, 8, 8), 1 / 64), g).item() == pytest.approx(1 / 16), "chance is the area"
    assert recall(p > 0, g).item() == pytest.approx(1 / 4)


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 4, 6])
def test_matched_iou_of_a_shifted_box_has_its_closed_form(shift: int) -> None:
    a, b = box(4, 4, 4, 16), box(4, 4 + shift, 4, 16)
    common = 4 * max(0, 4 - shift)
    want = common / (32 - common)
    assert iou_matched(a, b).item() == pytest.approx(want)
    assert iou_matched(b, a).item() == pytest.approx(want)
    assert iou_matched(a / a.sum(), a).item() == 1


def test_matched_iou_takes_as_many_cells_as_the_object_has() -> None:
    p, g = random_maps(), box(1, 1, 2, 5)[:, :4].expand(5, -1, -1)
    cells = top_cells(p, 4)
    torch.testing.assert_close(iou_matched(p, g), iou(cells, g > 0))
    chance = torch.stack([iou_matched(random_maps(400, seed=s), g[:1].expand(400, -1, -1)).mean() for s in range(2)])
    assert chance.mean().item() == pytest.approx(0.2 / 1.8, abs=0.03)


def test_parts_and_completeness() -> None:
    t = torch.zeros(3, 4, 4, dtype=torch.bool)
    t[:, :2] = True
    parts = torch.zeros(3, 2, 4, 4)
    parts[:, 0, 0], parts[:2, 1, 1:3] = 1, 1
    parts[2, 0] = 0
    found = part_recall(t, parts)
    assert found[:2].tolist() == [0.5, 0.5]
    assert found[2].isnan()
    score, removed, baseline = (torch.tensor(v) for v in ([4.0, 4.0, 1.0], [1.0, 4.0, 0.0], [0.0, 2.0, 1.0]))
    found = completeness(score, removed, baseline)
    assert found[:2].tolist() == [0.75, 0.0]
    assert found[2].isnan()


def test_undefined_is_nan_and_never_a_score() -> None:
    none, p = torch.zeros(1, 4, 5), random_maps(1)
    for value in (iou_matched(p, none), pointing(p, none), recall(p > 0, none), iou(none > 0, none > 0)):
        assert value.isnan().all()
    assert coverage(p, none).item() == 0


PER_SAMPLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "coverage": lambda p, q: coverage(p, (q > 0.05).float()),
    "recall": lambda p, q: recall(above_mean(p), q),
    "iou": lambda p, q: iou(above_mean(p), above_mean(q)),
    "iou_matched": lambda p, q: iou_matched(p, (q > 0.05).float()),
    "pointing": lambda p, q: pointing(p, (q > 0.05).float()),
    "js": js,
    "cosine": cosine,
    "centroid_shift": centroid_shift,
    "entropy": lambda p, _: entropy(p),
    "spread": lambda p, _: spread(p),
    "components": lambda p, _: components(above_mean(p)).double(),
}


@pytest.mark.parametrize("measure", PER_SAMPLE.values(), ids=PER_SAMPLE.keys())
def test_one_number_a_sample_whatever_the_batch(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    p, q = random_maps(7), random_maps(7, seed=1)
    kept = p.clone(), q.clone()
    whole = measure(p, q)
    assert whole.shape == (7,)
    for i in range(7):
        torch.testing.assert_close(measure(p[i : i + 1], q[i : i + 1])[0], whole[i], equal_nan=True)
    assert torch.equal(p, kept[0])
    assert torch.equal(q, kept[1])


def test_bad_input_is_named() -> None:
    p = random_maps(2)
    with pytest.raises(BadInput, match="q is 0"):
        top_share(p, 0)
    with pytest.raises(BadInput, match=r"masks of shape \(3, 4, 5\)"):
        coverage(p, random_maps(3))
    with pytest.raises(BadInput, match=r"the mask lies in \[0, 255\]; give shares in \[0, 1\]"):
        coverage(p, 255 * (p > 0.05).int())
    with pytest.raises(BadInput, match=r"the mask lies in \[-1, 1\]"):
        recall(p > 0, 2 * (p > 0.05).float() - 1)
    with pytest.raises(BadInput, match=r"the mask lies in \[0, 255\]"):
        part_recall(p > 0, 255 * (p > 0.05).float()[:, None])
    for measure in (iou_matched, pointing):
        with pytest.raises(BadInput, match=r"the mask lies in \[nan, nan\]"):
            measure(p, torch.where(p > 0.05, torch.nan, p))
    with pytest.raises(BadInput, match="masks are"):
        coverage(p, p[:, 0])
    with pytest.raises(BadInput, match="two bool tensors"):
        iou(p, p)
    with pytest.raises(BadInput, match="parts have shape"):
        part_recall(p > 0, p)
    with pytest.raises(BadInput, match="one shape"):
        js(p, p[:1])
    with pytest.raises(BadInput, match="bool"):
        components(p)
