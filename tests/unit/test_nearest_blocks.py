"""Nearest points of an audit: no more samples than the median needs, unless the attack may have missed some."""

from __future__ import annotations

import math

import pytest
import torch
from tests.unit.test_audit import PLAN, subject

from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.evaluation.audit import audit, nearest_points
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
