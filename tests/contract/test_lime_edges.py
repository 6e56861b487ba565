"""Local surrogates at the edge: tables without a usable feature, images of one segment, weights without bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unfooled.explanations import Surrogates, TabularSpace, lime_tabular, submodular_pick
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


DRAW = np.random.default_rng(0)
PEOPLE = np.column_stack([DRAW.normal(40, 10, 80), DRAW.normal(0, 1, 80), DRAW.integers(0, 3, 80)])
SPACE = TabularSpace.learn(PEOPLE, categorical=[2], names=["age", "income", "town"])


def ageing(rows: Any) -> np.ndarray:
    return np.c_[-0.1 * rows[:, 0] + rows[:, 1], 0.1 * rows[:, 0] - rows[:, 1]]


@pytest.mark.parametrize("sampler", [around(0.5), stratified_normal(0.5)], ids=["around", "stratified"])
def test_slopes_have_the_names_of_columns_and_their_unit(sampler: Any) -> None:
    result = lime_tabular(ageing, PEOPLE[:3], 0, space=SPACE, sampler=sampler, samples=200)
    town = f"town = {PEOPLE[0, 2]}"
    assert result.names[0] == ("age", "income", town)
    assert result.keys is not None
    assert result.keys[0] == (("age",), ("income",), ("town", int(PEOPLE[0, 2])))
    assert result.cells is not None
    assert [cell[2] for cell in result.cells[0]] == ["", "", ""], "no bins on the page"
    assert result.unit == "per standard deviation"
    assert Surrogates.from_json(result.to_json()).unit == result.unit
    assert {("age",), ("income",)} <= set(submodular_pick(result).importance), "one feature a column for all rows"
    html = result[0].to_html()
    assert "Weights are per standard deviation of the column" in html
    assert "numbers normal around the row, with 0.5 of the column" in html
    for wrong in ("&lt;=", "Hidden features", "normal_around", "Masks:", "draw of the masks"):
        assert wrong not in html
    assert "per standard deviation" in (Surrogates.as_list.__doc__ or "")


def test_bins_have_no_unit_and_each_caption_says_what_was_drawn() -> None:
    binned = lime_tabular(ageing, PEOPLE[:1], 0, space=SPACE, samples=200)
    assert binned.unit == ""
    assert "age" in binned.names[0][0]
    assert binned.names[0][0] != "age"
    assert "Weights are per" not in binned.to_html()
    assert "Hidden features: training rows" in binned.to_html()
    for name, says in {
        "conditional": "one of the 3 nearest training rows",
        "conditional normal": "normal given the shown ones",
        "neighbours": "training rows of the row&#x27;s cluster, as they are",
    }.items():
        drawn = lime_tabular(ageing, PEOPLE[:1], 0, space=SPACE, sampler=SAMPLERS[name], samples=200)
        assert says in drawn.to_html()
