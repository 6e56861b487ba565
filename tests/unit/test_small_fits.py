"""Softmax regression, and attributes that are present, absent or unknown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unfooled.counterfactuals import constant_attributes, fit_head, switches
from unfooled.data.formats.attributes import names_of_constant
from unfooled.statistics.association import roc_area
from unfooled.statistics.attributes import constant_columns, means_by_presence
from unfooled.statistics.softmax import fit_softmax
from unfooled.training.concepts import mean_logits


def samples(n: int = 120, features: int = 3, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, features, generator=generator, dtype=torch.float64)
    return x, (x @ weight.T + noise).argmax(1)


def test_both_solvers_find_the_minimum_of_the_one_objective() -> None:
    x, y = samples()
    smooth = torch.cat([part.flatten() for part in fit_softmax(x, y, 3, l2=0.05)])
    nearly = torch.cat([part.flatten() for part in fit_softmax(x, y, 3, l1=1e-12, l2=0.05, steps=3000)])
    # The bias is free up to a constant, which both leave at zero mean.
    assert torch.allclose(smooth, nearly, atol=1e-5)
    weight, _ = fit_softmax(x, y, 3, l1=0.3, steps=300)
    assert (weight == 0).any()


def test_a_head_of_counterfactuals_is_that_fit() -> None:
    x, y = samples()
    head, (weight, bias) = fit_head(x, y, decay=0.05), fit_softmax(x, y, 3, l2=0.05, steps=300)
    assert torch.equal(head.weight, weight) and torch.equal(head.bias, bias)


def test_means_by_presence_leave_unknown_attributes_out() -> None:
    values = np.array([[1.0, 5.0, 1.0], [3.0, 7.0, 2.0], [8.0, 9.0, 3.0]])
    a = np.array([[0.0, 1.0, 0.5], [1.0, 1.0, math.nan], [math.nan, 1.0, 0.4]])
    absent, present = means_by_presence(values, a)
    assert absent[0] == 1 and present[0] == 3
    assert math.isnan(absent[1]) and present[1] == 7
    assert absent[2] == 3 and present[2] == 1  # present from .5 on
    gap = switches(torch.tensor(values), torch.tensor(a))
    low, high = mean_logits(torch.tensor(values), torch.tensor(a))
    assert torch.equal(gap.nan_to_num(-1), (high - low).nan_to_num(-1))


def test_the_area_under_the_roc_curve_counts_pairs() -> None:
    assert roc_area(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert roc_area(np.array([1.0, 0.0]), np.array([1.0])) == 0.25  # one tie, one pair in the wrong order
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    scores, labels = draw.integers(0, 9, 60), draw.integers(0, 2, 60)
    assert roc_area(scores[labels == 1], scores[labels == 0]) == pytest.approx(roc_auc_score(labels, scores))


def test_an_attribute_with_one_known_value_is_constant_everywhere() -> None:
    a = np.array([[1.0, math.nan, math.nan, 0.0, 0.6], [1.0, 0.0, math.nan, 1.0, 0.8]])
    assert constant_columns(a) == (0, 1, 2)
    assert constant_attributes(torch.tensor(a)) == (0, 1, 2)
    assert names_of_constant(torch.tensor(a), "abcde") == ("a", "b", "c")
