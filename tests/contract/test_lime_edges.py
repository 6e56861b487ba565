"""Local surrogates at the edge: tables without a usable feature, images of one segment, weights without bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unfooled.explanations import Surrogates, TabularSpace, lime_tabular
from unfooled.explanations.lime import (
    around,
    by_bins,
    conditional,
    conditional_normal,
    hidden,
    neighbours,
    stratified_normal,
    until_stable,
    with_row_stability,
)

SAMPLERS = {
    "bins": by_bins,
    "hidden": hidden(),
    "conditional": conditional(3),
    "conditional normal": conditional_normal(),
    "neighbours": neighbours(2, 2),
    "around": around(),
    "stratified": stratified_normal(),
}


def two(rows: Any) -> np.ndarray:
    return np.full((len(rows), 2), 0.5)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize(
    "table",
    [np.ones((9, 3)), np.array([[1.0, 2.0, 3.0]]), np.array([["a", "b"]], dtype=object)],
    ids=["constant", "one row", "one row of words"],
)
def test_a_table_without_a_usable_feature_is_an_empty_explanation(table: np.ndarray, sampler: Any) -> None:
    space = TabularSpace.learn(table)
    for until in (None, until_stable(5)):
        result = lime_tabular(two, table[:1], space=space, sampler=sampler, samples=50, until=until)
        result = with_row_stability(result, two, table[:1], space=space)
        assert result.weights.shape == (1, 1, 0)
        assert result.as_list() == []
        html = result.to_html()
        assert "There are no features." in html
        assert "probability" not in html
        assert Surrogates.from_json(result.to_json()).names == ((),)
