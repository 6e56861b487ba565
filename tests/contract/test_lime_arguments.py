"""Arguments of local surrogates and their results: what is refused in one sentence, and which indices work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from unfooled.core.errors import BadInput
from unfooled.explanations import (
    TabularSpace,
    expected_gradients,
    input_x_gradient,
    integrated_gradients,
    kernel_shap,
    lime_image,
    lime_map,
    lime_tabular,
    lime_text,
    saliency,
    smooth_grad,
    soft_stability,
    submodular_pick,
)
from unfooled.explanations.lime import constant, dataset_mean, expected, grid, noise, text_part, until_stable
from unfooled.explanations.lime.mixed import lime_parts

torch.manual_seed(0)
NET = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(196, 3)).eval()
X = torch.rand(3, 1, 14, 14)
RESULT = lime_image(NET, X, 0, segments=grid(3), samples=200, baseline=constant(0.0))
TABLE = np.random.default_rng(0).normal(size=(60, 8))
SPACE = TabularSpace.learn(TABLE)


def two(inputs: Any) -> Any:
    return np.full((len(inputs), 2), 0.5)


def unreal(inputs: Any) -> Any:
    return np.full((len(inputs), 2), 0.5 + 0.1j)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "level 2": (lambda: RESULT.to_dataframe(level=2), "level is 2"),
    "level -1": (lambda: RESULT.to_dataframe(level=-1), "level is -1"),
    "level 1": (lambda: RESULT.to_dataframe(level=1), "level is 1"),
    "level as text": (lambda: RESULT.to_dataframe(level="a"), "level is 'a'"),  # type: ignore[arg-type]
    "bytes as a data set": (lambda: dataset_mean(torch.zeros(3, 4, dtype=torch.uint8)), "reference is torch.uint8"),
    "a list as a data set": (lambda: dataset_mean([1.0]), "reference is a list"),  # type: ignore[arg-type]
    "no data set": (lambda: dataset_mean(torch.zeros(0, 3)), "reference is"),
    "top as text": (lambda: RESULT[0].as_list(top="a"), "top is 'a'"),  # type: ignore[arg-type]
    "a negative top": (lambda: RESULT[0].as_list(top=-1), "top is -1"),
    "a negative top of a mask": (lambda: RESULT.mask(top=-1), "top is -1"),
    "a negative top of a page": (lambda: RESULT.to_html(top=-3), "top is -3"),
    "a negative top of a figure": (lambda: RESULT[0].plot(top=-1), "top is -1"),
    "a fraction of draws": (lambda: expected(noise, 1.5), "n is 1.5"),  # type: ignore[arg-type]
    "no draw": (lambda: expected(noise, 0), "n is 0"),
    "an index of text": (lambda: RESULT["a"], "the index has 'a'"),  # type: ignore[index]
    "an index of a fraction": (lambda: RESULT[[0.5]], "the index has 0.5"),  # type: ignore[list-item]
    "a mask of another length": (lambda: RESULT[[True, False]], "a mask of 3"),
    "a large top of an image": (lambda: lime_image(NET, X, until=until_stable(500)), "top 500 .* 49 features"),
    "a large top of a map": (
        lambda: lime_map(NET, X, torch.zeros(3).long(), until=until_stable(500)), "there are 49 features"
    ),
    "a large top of a text": (lambda: lime_text(two, "a b c d e f", until=until_stable(7)), "there are 6 features"),
    "a large top of a row": (
        lambda: lime_tabular(two, TABLE[:1], space=SPACE, until=until_stable(9)), "there are 8 features"
    ),
    "a large top of parts": (
        lambda: lime_parts(two, [text_part("a b c")], until=until_stable(7)), "there are 3 features"
    ),
    "a top of text": (lambda: until_stable("a"), "top is 'a'"),  # type: ignore[arg-type]
    "complex answers about texts": (lambda: lime_text(unreal, "a b"), "predict returned complex numbers"),
    "complex answers about rows": (lambda: lime_tabular(unreal, TABLE[:1], space=SPACE), "complex numbers"),
    "complex answers about parts": (lambda: lime_parts(unreal, [text_part("a b c")]), "complex numbers"),
    "complex logits": (lambda: lime_image(lambda x: NET(x) + 0j, X), "complex"),
    "complex answers of a game": (lambda: kernel_shap(lambda z: z.sum(1) * 1j, 3), "complex numbers"),
    "complex outputs": (
        lambda: soft_stability(lambda z: torch.zeros(len(z), 2) * 1j, torch.tensor([True, False]), 1), "complex numbers"
    ),
    "fewer keys": (
        lambda: submodular_pick(torch.ones(2, 1, 3), keys=[("a", "b", "c"), ("a", "b")]),
        "explanation 1 has 3 features and 2 keys",
    ),
    "more keys": (
        lambda: submodular_pick(torch.ones(2, 1, 3), keys=[("a", "b", "c", "d")] * 2),
        "explanation 0 has 3 features and 4 keys",
    ),
    "fewer keys than segments": (
        lambda: submodular_pick(RESULT, keys=[list(range(8))] * 3), "explanation 0 has 9 features and 8 keys"
    ),
    "more keys than segments": (lambda: submodular_pick(RESULT, keys=[list(range(10))] * 3), "9 features and 10 keys"),
    "keys of fewer explanations": (lambda: submodular_pick(RESULT, keys=[list(range(9))] * 2), "of each of 3 expl"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, sentence = REFUSED[name]
    with pytest.raises(BadInput, match=sentence):
        call()


@pytest.mark.parametrize(
    "explain", [lime_map, saliency, input_x_gradient, integrated_gradients, smooth_grad, expected_gradients]
)
def test_a_class_is_needed(explain: Any) -> None:
    with pytest.raises(BadInput, match="y is None; give the classes to explain"):
        explain(NET, X, None)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (np.int64(1), [1]),
        (-1, [2]),
        (torch.tensor(2), [2]),
        (torch.tensor([0, 1]), [0, 1]),
        (np.array([2, 0]), [2, 0]),
        (range(2), [0, 1]),
        ((1, 2), [1, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        ([False, True, False], [1]),
        (slice(1, None), [1, 2]),
        ([], []),
    ],
    ids=str,
)
def test_explanations_by_index(index: Any, rows: list[int]) -> None:
    own = RESULT[index]
    assert torch.equal(own.weights, RESULT.weights[rows][..., : own.weights.shape[2]])
    assert own.names == tuple(RESULT.names[k] for k in rows)


def test_an_index_beyond_the_last() -> None:
    for index in (3, np.int64(-4), torch.tensor([0, 3])):
        with pytest.raises(IndexError, match="there are 3 explanations"):
            RESULT[index]


def test_the_default_rule_takes_few_features_and_padding_needs_no_keys() -> None:
    assert lime_text(two, "a b", until=until_stable()).weights.shape == (1, 1, 2)
    assert lime_image(NET, X, until=until_stable(500, tolerance=10.0)).weights.shape == (3, 1, 49)
    padded = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 2.0, 0.0]]])
    assert submodular_pick(padded, keys=[("a", "b", "c"), ("a", "b")]).index == (0, 1)


def test_rounding_errors_are_no_weights_of_a_list() -> None:
    def said(texts: list[str]) -> np.ndarray:
        p = np.array([0.3 + 0.4 * ("bad" in text) + 0.1 * ("long" in text) for text in texts])
        return np.c_[1 - p, p]

    result = lime_text(said, "bad and long films by three or four people were shown again today", 1)
    assert [weight for _, weight in result.as_list()[2:]] == [0.0] * (len(result.names[0]) - 2)
    assert [weight for _, weight in result.as_map()[1][2:]] == [0.0] * (len(result.names[0]) - 2)
