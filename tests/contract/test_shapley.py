"""Shapley values: enumeration against the definition, least squares against enumeration, errors with their coverage."""

from __future__ import annotations

import math
import re
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations import exact_shapley, kernel_shap
from unfooled.explanations.lime import every_mask, leverage, paired


def game(features: int, seed: int = 0) -> Any:
    "A function of masks with interactions of every order, two outputs."
    w = torch.randn(features, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda z: torch.tanh(z.to(torch.float64) @ w + 0.1).reshape(len(z), 2, 5).sum(2)


def test_enumeration_is_the_mean_over_orders() -> None:
    play, want = game(5), torch.zeros(2, 5, dtype=torch.float64)
    for order in permutations(range(5)):
        shown = torch.zeros(1, 5, dtype=torch.bool)
        for i in order:
            before = play(shown)[0]
            shown[0, i] = True
            want[:, i] += (play(shown)[0] - before) / math.factorial(5)
    found = exact_shapley(play, 5)
    assert (found.weights - want).abs().max() < 1e-12
    assert found.calls == 32


@pytest.mark.parametrize("features", [2, 3, 5, 8, 12])
def test_all_masks_give_the_exact_values(features: int) -> None:
    want = exact_shapley(game(features), features)
    for options in ({}, {"sampler": every_mask}):
        found = kernel_shap(game(features), features, **options)  # type: ignore[arg-type]
        assert (found.weights - want.weights).abs().max() < 1e-11
        assert found.se.abs().max() == 0
        assert found.calls == 2**features


@pytest.mark.parametrize("samples", [60, 200, 1001])
def test_the_sum_is_exact_at_any_number_of_samples(samples: int) -> None:
    play = game(20)
    found = kernel_shap(play, 20, samples=samples)
    ends = torch.stack([torch.zeros(20), torch.ones(20)]).bool()
    assert (found.weights.sum(1) - (play(ends)[1] - play(ends)[0])).abs().max() < 1e-12
    given = kernel_shap(play, 20, samples=samples, empty=play(ends)[0], full=play(ends)[1])
    assert torch.equal(given.weights, found.weights)
    assert given.calls == found.calls - 2


def test_a_linear_game_is_found_with_all_its_weights() -> None:
    w = torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w[4] = 0
    found = kernel_shap(lambda z: z.to(torch.float64) @ w + 3, 30, samples=400)
    assert (found.weights[0] - w).abs().max() < 1e-9
    assert found.se.max() < 1e-9


def test_symmetry_and_dummy() -> None:
    def play(z: Tensor) -> Tensor:
        return (z[:, 0] & z[:, 1]) * 1.0

    assert (kernel_shap(play, 2).weights - torch.tensor([[0.5, 0.5]])).abs().max() < 1e-12
    found = kernel_shap(play, 10)
    assert (found.weights[0, :2] - 0.5).abs().max() < 1e-10
    assert found.weights[0, 2:].abs().max() < 1e-10


def test_errors_cover() -> None:
    play = game(14, 2)
    want = exact_shapley(play, 14).weights
    inside, errors, claims = [], [], []
    for seed in range(80):
        found = kernel_shap(play, 14, samples=280, generator=torch.Generator().manual_seed(seed))
        off = (found.weights - want).abs()
        inside.append((off <= 1.96 * found.se).double().mean())
        errors.append(off**2)
        claims.append(found.se**2)
    share = float(torch.stack(inside).mean())  # 2,240 intervals
    assert 0.92 <= share <= 0.99
    assert 0.85 < float(torch.stack(claims).mean().sqrt() / torch.stack(errors).mean().sqrt()) < 1.4


def test_the_seed_and_the_batch() -> None:
    play = game(16)
    a = kernel_shap(play, 16, samples=200)
    b = kernel_shap(play, 16, samples=200, batch=7)
    other = kernel_shap(play, 16, samples=200, generator=torch.Generator().manual_seed(3))
    assert (a.weights - b.weights).abs().max() < 1e-12
    assert (a.weights - other.weights).abs().max() > 1e-6


def test_no_feature_and_one() -> None:
    assert kernel_shap(lambda z: torch.ones(len(z)), 0).weights.shape == (1, 0)
    assert exact_shapley(lambda z: torch.ones(len(z)), 0).weights.shape == (1, 0)
    assert float(kernel_shap(lambda z: z[:, 0] * 3.0, 1).weights) == 3
    assert float(exact_shapley(lambda z: z[:, 0] * 3.0, 1).weights) == 3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: kernel_shap(game(5), 5, sampler=paired), "no weights for Shapley"),
        (lambda: kernel_shap(game(20), 20, samples=4), "do not identify"),
        (lambda: kernel_shap(lambda z: z[:1] * 1.0, 5), "returned shape"),
        (lambda: kernel_shap(lambda z: z[:, 0] * torch.nan, 5), "NaN"),
        (lambda: exact_shapley(game(5), 40), "2\\^40"),
        (lambda: exact_shapley(game(5), -1), "at least 0"),
    ],
)
def test_refusals(call: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call()


class Counted:
    "A game that counts the masks it is asked for."

    def __init__(self, features: int) -> None:
        self.play, self.asked = game(features), 0

    def __call__(self, z: Tensor) -> Tensor:
        self.asked += len(z)
        return self.play(z)


@pytest.mark.parametrize(
    ("empty", "full", "says"),
    [
        (torch.zeros(3), torch.zeros(3), "empty has 3 values, and predict_masks returns 2 outputs"),
        (torch.zeros(2), torch.zeros(1), "empty has 2 values and full 1"),
        (None, torch.zeros(1), "full has 1 values, and predict_masks returns 2 outputs"),
        (0.0, None, "empty has 1 values, and predict_masks returns 2 outputs"),
        (torch.tensor([0.0, math.nan]), None, "empty holds NaN"),
        ("none", None, "empty is 'none'; give a number"),
    ],
)
@pytest.mark.parametrize("features", [1, 5])
def test_another_number_of_outputs_is_refused(empty: Any, full: Any, says: str, features: int) -> None:
    if full is None or empty is None or features > 1 or len(empty) != len(full):
        with pytest.raises(BadInput, match=says):
            kernel_shap(game(features), features, empty=empty, full=full)


@pytest.mark.parametrize("call", [exact_shapley, lambda g, n: kernel_shap(g, n, sampler=every_mask)])
def test_too_many_features_for_an_enumeration(call: Any) -> None:
    with pytest.raises(BadInput, match="sampler=leverage") as error:
        call(game(40), 40)
    assert "paired" not in str(error.value)
    assert kernel_shap(game(40), 40, samples=400).weights.shape == (2, 40)


@pytest.mark.parametrize("features", [2, 5, 13, 20, 33])
@pytest.mark.parametrize("samples", [1, 10, 22, 31])
def test_too_few_samples_are_refused_before_any_call(features: int, samples: int) -> None:
    play = Counted(features)
    try:
        found = kernel_shap(play, features, samples=samples)
    except BadInput as error:
        assert play.asked == 0
        enough = int(re.search(r"(\d+) samples are enough", str(error))[1])  # type: ignore[index]
        assert enough > samples
        assert kernel_shap(play, features, samples=enough).weights.shape == (2, features)
        assert play.asked <= enough + 2
    else:
        assert play.asked == found.calls <= samples + 2


@pytest.mark.parametrize("samples", [0, -1, 1.5, True, "many"])
def test_a_number_of_samples_that_is_none(samples: Any) -> None:
    with pytest.raises(BadInput, match="samples is"):
        kernel_shap(game(5), 5, samples=samples)


@pytest.mark.parametrize("samples", range(20, 140, 7))
def test_leverage_draws_no_more_than_it_is_asked_for(samples: int) -> None:
    for features in (5, 8, 13, 20):
        assert len(leverage(features, samples, 0).masks) <= samples
    with pytest.raises(BadInput, match="a pair of each size: at least 140"):
        leverage(140, samples, 0)
