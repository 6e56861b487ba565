"""Local surrogates at the edge: tables without a usable feature, images of one segment, weights without bins."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from unfooled.core.errors import BadInput
from unfooled.explanations import Surrogates, TabularSpace, lime_image, lime_map, lime_tabular, submodular_pick
from unfooled.explanations.lime import (
    Flag,
    around,
    by_bins,
    conditional,
    conditional_normal,
    constant,
    dataset_mean,
    expected,
    grid,
    hidden,
    image_part,
    neighbours,
    noise,
    stratified_normal,
    until_stable,
    with_row_stability,
    with_stability,
)
from unfooled.explanations.lime.baselines import constant_of
from unfooled.workflows.lime_records import explained

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


torch.manual_seed(0)
NET = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
IMAGES = torch.rand(2, 1, 8, 8)
FLAT = torch.full((1, 1, 8, 8), 0.5)


def none_found(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(x), *x.shape[2:], dtype=torch.int64)


def first_alone(x: torch.Tensor) -> torch.Tensor:
    ids = none_found(x)
    ids[1:, 4:] = 1
    return ids


@pytest.mark.parametrize("explain", [lime_image, lime_map, lambda m, x, y, **o: image_part(x[0], **o)])
def test_a_segmenter_that_finds_one_segment_is_refused_as_the_map_is(explain: Any) -> None:
    y = torch.tensor([0, 1])
    with pytest.raises(BadInput, match="one segment in every image; there is nothing to compare"):
        explain(NET, IMAGES, y, segments=none_found)
    with pytest.raises(BadInput, match="one segment in every image"):
        explain(NET, torch.cat([FLAT + IMAGES[:1] * 0.1, FLAT]), y, segments=grid(1))
    with pytest.raises(BadInput, match="one segment"):
        explain(NET, IMAGES, y, segments=none_found(IMAGES)[0])


@pytest.mark.parametrize("until", [None, until_stable(5)], ids=["fixed", "until"])
def test_one_segment_is_flagged_and_not_shown_as_perfect(until: Any) -> None:
    for x, segmenter in ((IMAGES, first_alone), (FLAT, none_found), (FLAT.expand(1, 3, 8, 8), none_found)):
        net = NET if x.shape[1] == 1 else lambda x: NET(x[:, :1])
        result = lime_image(net, x, 1, segments=segmenter, baseline=constant(0.0), until=until, keep_samples=True)
        result = with_stability(result, net, baseline=constant(0.0))
        assert result.flags[0][0] == Flag.ONE
        assert Flag.STABLE not in result.flags[0]
        assert bool(result.r2[0].isnan().all())
        assert bool(result.r2_held_out[0].isnan().all())
        assert result.stability is not None
        assert all(np.isnan(result.stability[0]))
        own = result[0]
        for one in (own, Surrogates.from_json(own.to_json())):
            html = one.to_html()
            assert "One segment: nothing to compare" in html
            for wrong in ("R2 1.00", "probability 1.00", "nan"):
                assert wrong not in html
        assert explained(own, 5, ["sample"])[0].stability is None
        assert explained(own, 5, ["sample"])[0].classes[0].r2_held_out is None
        if len(x) > 1:
            assert Flag.ONE not in result.flags[1]
            assert "R2 1.00" in result[1].to_html()


def test_no_feature_has_no_r2() -> None:
    space = TabularSpace.learn(np.ones((9, 3)))
    result = lime_tabular(two, np.ones((1, 3)), space=space)
    assert "R2 1.00" not in result.to_html()
    assert explained(result, 5, ["row"])[0].classes[0].r2 is None


def scaled(logits: torch.Tensor, y: torch.Tensor, *, weights: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, y[:, None])[:, 0] * weights.sum()


REFERENCE = torch.rand(5, 3, 32, 32)


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (dataset_mean(REFERENCE), "mean of the data set"),
        (constant(0.5), "constant 0.5"),
        (constant(torch.tensor(0.25)), "constant 0.25"),
        (constant(torch.rand(3, 1, 1)), "constant, 3 channels"),
        (constant(REFERENCE[0]), "constant, 3 x 32 x 32 values"),
        (expected(noise, 2), "noise, 2 draws"),
        (partial(constant_of, value=REFERENCE[0]), "constant, 3 x 32 x 32 values"),
    ],
    ids=range(7),
)
def test_settings_have_short_names(baseline: Any, words: str) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 2)).eval()
    score = partial(scaled, weights=torch.rand(3000))
    result = lime_image(net, REFERENCE[:1], 0, baseline=baseline, score=score, samples=300)
    assert result.baseline == words
    assert result.score == "scaled(weights=<3000 values>)"
    html = result.to_html()
    assert f"Hidden features: {words}." in html
    assert "tensor(" not in html
