"""Nearest points of an audit: no more samples than the median needs, unless the attack may have missed some."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import pytest
import torch
from tests.conftest import linear, points
from tests.unit.test_audit import PLAN, subject
from torch import Tensor

from unfooled.attacks.gradients.averaged import Averaged
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.core.types import Model
from unfooled.evaluation.audit import audit, nearest_points
from unfooled.evaluation.audit.plan import PlanOptions
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.statistics.intervals import median_limits


def test_the_interval_of_a_median() -> None:
    assert median_limits(torch.arange(5.0)) == (-math.inf, 2.0, math.inf)
    assert median_limits(torch.arange(1.0, 7)) == (1.0, 3.0, 6.0)
    assert median_limits(torch.arange(1.0, 101)) == (40.0, 50.0, 61.0)  # the table of the sign test
    low, middle, high = median_limits(torch.tensor([1.0, 2, 3, 4, 5, 6, math.inf, math.inf]))
    assert (low, middle, high) == (1.0, 4.0, math.inf)


def test_samples_are_searched_until_the_median_is_precise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_points, "FIRST_BLOCK", 6)
    monkeypatch.setattr(nearest_points, "BLOCK", 4)
    monkeypatch.setattr(nearest_points, "MAX_BEYOND", -0.5)  # all are searched from the samples
    model, x, y = subject()
    y = model(x).argmax(1)

    def searched(eps: float, nearest_precision: float) -> tuple[int, list[float | None]]:
        summary = audit(
            model,
            x,
            y,
            Linf(eps),
            plan=PLAN.with_options(reasons=None, nearest_n=12, nearest_precision=nearest_precision),
        )
        (near,) = summary.nearest
        assert near.n == summary.curve_n
        return near.n, list(near.quartiles)

    everybody = searched(0.9, nearest_precision=0.0)
    assert everybody[0] == 12
    assert searched(0.9, nearest_precision=9.0)[0] == 6  # all are fooled, and the interval is narrow enough
    assert searched(0.001, nearest_precision=9.0)[0] == 12  # the others may have been missed
    monkeypatch.setattr(nearest_points, "FIRST_BLOCK", 64)
    n, quartiles = searched(0.9, nearest_precision=9.0)
    assert n == 12
    assert quartiles == pytest.approx(everybody[1], abs=1e-5)
    with pytest.raises(BadInput, match="nearest_precision is -1"):
        PLAN.with_options(nearest_precision=-1)


class Asked:
    """A search that notes how many samples it is asked for."""

    def __init__(self, search: Callable[..., Any], change: Callable[..., Any] | None = None) -> None:
        self.search, self.change, self.n = search, change, 0

    def __call__(self, model: Model, x: Tensor, *rest: Any, **options: Any) -> Any:
        self.n += len(x)
        return (self.change or self.search)(model, x, *rest, **options)


def searched_from_the_attack(
    monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any] | None = None, **options: Unpack[PlanOptions]
) -> tuple[Summary, Asked, Asked]:
    """Audit 40 samples of a linear model: the first four are wrong from the start, and all others are fooled."""
    model, x = linear(2, (1, 6, 5)), points(40, (1, 6, 5), seed=4)
    y = model(x).argmax(1)
    y[:4] = 1 - y[:4]
    explore, refine = Asked(nearest_points.envelope), Asked(nearest_points.refine, change)
    monkeypatch.setattr(nearest_points, "envelope", explore)
    monkeypatch.setattr(nearest_points, "refine", refine)
    options = {"nearest_n": 40, "nearest_budget": 300, "reasons": None} | options
    summary = audit(model, x, y, Linf(0.3), plan=PLAN.with_options(**options))
    assert summary.robust_accuracy.value == 0
    monkeypatch.undo()
    return summary, explore, refine


def test_samples_that_the_attack_fooled_are_searched_from_its_points(monkeypatch: pytest.MonkeyPatch) -> None:
    summary, explored, refined = searched_from_the_attack(monkeypatch)
    assert refined.n == 36
    assert explored.n == 16  # the first ones, both ways; of the others none
    model, x = linear(2, (1, 6, 5)), points(40, (1, 6, 5), seed=4)
    exact = model.distance(x, model(x).argmax(1), math.inf)
    exact[:4] = 0
    (near,) = summary.nearest
    assert near.quartiles[1] == pytest.approx(float(exact.sort().values[19]), rel=0.06)
    assert sum(vars(summary.nearest_passes).values()) < 0.6 * 300


def test_a_large_budget_searches_all_samples_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    summary, explored, refined = searched_from_the_attack(monkeypatch, nearest_budget=nearest_points.BOTH)
    assert (explored.n, refined.n) == (40, 36)
    assert summary.nearest[0].n == 40


def test_a_large_budget_does_not_ask_which_search_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def farther(model: Model, x: Tensor, y: Tensor, start: Tensor, *_: Any, **__: Any) -> Tensor:
        return start

    _, explored, refined = searched_from_the_attack(monkeypatch, farther, nearest_budget=nearest_points.BOTH)
    assert (explored.n, refined.n) == (40, 36)


def test_where_these_points_are_farther_all_samples_are_searched_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def farther(model: Model, x: Tensor, y: Tensor, start: Tensor, *_: Any, **__: Any) -> Tensor:
        return start

    summary, explored, refined = searched_from_the_attack(monkeypatch, farther)
    assert refined.n == 12  # of the first 16
    assert explored.n == 40
    (near,) = summary.nearest
    (same,) = searched_from_the_attack(monkeypatch)[0].nearest
    assert near.quartiles == pytest.approx(same.quartiles, rel=0.02)


def test_other_norms_are_searched_from_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    _, explored, refined = searched_from_the_attack(monkeypatch, norms=[2.0])
    assert (explored.n, refined.n) == (40, 0)


def test_few_comparisons_decide_nothing() -> None:
    inf = math.inf
    few = {"refined": torch.tensor([0.1] * 5 + [inf] * 11), "explored": torch.tensor([0.1] * 16)}
    assert not nearest_points._as_good(few)
    enough = {"refined": torch.tensor([0.1] * 6 + [inf] * 10), "explored": torch.tensor([0.1] * 16)}
    assert nearest_points._as_good(enough)
    worse = {"refined": torch.tensor([0.105] * 6), "explored": torch.tensor([0.1] * 6)}
    assert not nearest_points._as_good(worse)
    better = {"refined": torch.tensor([0.1] * 6), "explored": torch.tensor([0.2] * 6)}
    assert nearest_points._as_good(better)
    assert nearest_points.block_sizes(200) == [16, 48, 32, 32, 32, 32, 8]
    assert nearest_points.block_sizes(64) == [16, 48]
    assert nearest_points.block_sizes(5) == [5]


def test_each_gradient_that_is_followed_is_followed_to_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin, or noise, and the model's own gradient, whatever the checks say about that."""
    model, x, y = subject(n=20)
    asked: list[tuple[str, int]] = []
    search = nearest_points.envelope

    def noted(model: Model, x: Tensor, *rest: Any, **options: Any) -> Any:
        asked.append((type(model).__name__, len(x)))
        return search(model, x, *rest, **options)

    monkeypatch.setattr(nearest_points, "envelope", noted)
    monkeypatch.setattr(Gradients, "followed", property(lambda self: [Averaged(self.model, 1), self.model]))
    audit(model, x, y, Linf(0.02), plan=PLAN.with_options(reasons=None, nearest_n=20))
    assert asked == [("Averaged", 16), ("Counted", 16), ("Averaged", 4), ("Counted", 4)]
