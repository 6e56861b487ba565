"""LIME of several parts: one surrogate over a text, a row and an image; segments by scikit-image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import points
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations import TabularSpace, lime_image, lime_parts, lime_text, submodular_pick
from unfooled.explanations.lime import (
    Flag,
    Surrogates,
    constant,
    felzenszwalb,
    image_part,
    quickshift,
    row_part,
    slic,
    text_part,
    until_stable,
)
from unfooled.explanations.lime.mixed import Part

TABLE = np.random.default_rng(0).normal(size=(150, 2))


def predict(texts: Sequence[str], rows: Sequence[list[float]], images: Sequence[Tensor]) -> list[list[float]]:
    "Adds a word, a column and the left half of an image."
    total = [
        3 * ("good" in text) + 2 * row[0] + float(x[0, :, :2].sum())
        for text, row, x in zip(texts, rows, images, strict=True)
    ]
    return [[-value, value] for value in total]


def test_a_row_of_a_space_is_a_part() -> None:
    table = np.random.default_rng(0).integers(0, 5, size=(40, 3)).astype(float)
    space = TabularSpace.learn(table, names=["a", "b", "c"], groups=[["a", "b"]])
    part = space.row(table[3], seed=7)
    assert part.names == space.names(list(table[3]))
    assert part.hide(np.array([True, True])) == table[3].tolist()
    hidden = part.hide(np.array([False, True]), 2)
    assert hidden == row_part(space, table[3], seed=7).hide(np.array([False, True]), 2)
    assert hidden[:2] in table[:, :2].tolist(), "a group comes from one training row"
    assert hidden[2] == table[3, 2]
    found = lime_parts(lambda rows: [[row[2]] for row in rows], [space.row(table[3])], samples=200)
    assert found.as_map()[0][0][0] == 1
    assert text_part("a b").hide(np.array([True, False])).split() == ["a"]
    assert image_part(torch.rand(1, 4, 4), segments=torch.arange(16).reshape(4, 4) // 8).hide(np.ones(2, bool)).shape
    with pytest.raises(BadInput, match="there are 2 rows; a part is one row"):
        space.row(table[:2])
    with pytest.raises(BadInput, match="is missing in the row"):
        space.row(np.array([0, np.nan, 1]))


def test_the_parts_share_one_surrogate() -> None:
    space = TabularSpace.learn(TABLE, names=["size", "noise"])
    x = points(1, (1, 4, 4), dtype=torch.float64)[0]
    ids = torch.tensor([[0, 0, 1, 1]] * 4)
    parts: list[Any] = [
        text_part("a good film"),
        row_part(space, TABLE[3]),
        image_part(x, segments=ids, baseline=constant(0.0)),
    ]
    found = lime_parts(predict, parts, 1, samples=2000)
    assert found.names[0][:3] == ("1: a", "1: good", "1: film")
    weights = found.weights[0, 0]
    want = torch.tensor([0, 3, 0, 2 * (TABLE[3, 0] - TABLE[:, 0].mean()), 0, float(x[0, :, :2].sum()), 0])
    assert (weights - want).abs().max() < 4 * float(found.se.max())
    assert 0 < float(found.se.max()) < 0.3
    assert found.keys is not None
    assert found.keys[0][1] == (0, "good")
    assert found.keys[0][-1] == (2, "segment 2")
    again = lime_parts(predict, parts, 1, samples=2000)
    assert torch.equal(found.weights, again.weights)
    assert Surrogates.from_json(found.to_json()).keys == found.keys
    assert "1: good" in found.to_html()
    assert submodular_pick(found, budget=1).index == (0,)


def test_a_single_text_part_is_lime_of_the_text() -> None:
    def score(texts: Sequence[str]) -> list[list[float]]:
        return [[0.0, 2.0 * ("good" in t) - ("bad" in t)] for t in texts]

    found = lime_parts(score, [text_part("good and bad")], 1)
    want = lime_text(score, "good and bad", 1, ridge=0.0)
    assert (found.weights - want.weights).abs().max() < 1e-9
    with pytest.raises(BadInput, match="no part"):
        lime_parts(score, [])


def test_parts_with_a_prior_a_batch_and_until_stable() -> None:
    space = TabularSpace.learn(TABLE, names=["size", "noise"])
    sizes = []

    def score(texts: Sequence[str], rows: Sequence[list[float]]) -> list[list[float]]:
        sizes.append(len(texts))
        return [[0.0, 3.0 * ("good" in t) + row[0]] for t, row in zip(texts, rows, strict=True)]

    parts: list[Part] = [text_part("a good film"), row_part(space, TABLE[3])]
    never = until_stable(1, tolerance=1e-9, first=64, at_most=256)
    found = lime_parts(score, parts, 1, until=never, batch=50, keep_samples=True)
    assert max(sizes) <= 50
    assert sum(sizes) == int(found.calls) == 257
    assert found.flags[0][-1] == Flag.NOT_REACHED
    assert found.masks is not None
    assert found.answers is not None
    assert found.masks[0].shape == (256, 5)
    assert found.answers[0].shape == (256, 1)
    soon = lime_parts(score, parts, 1, until=until_stable(1, first=64))
    assert soon.flags[0][-1] == Flag.STABLE
    mean = torch.arange(5.0)
    strong = lime_parts(score, parts, 1, prior=mean, ridge=1e9)
    assert (strong.weights[0, 0] - mean).abs().max() < 1e-6
    with pytest.raises(BadInput, match="batch is 0"):
        lime_parts(score, parts, 1, batch=0)


@pytest.mark.parametrize("segmenter", [slic(8), quickshift(2.0, 10.0), felzenszwalb(min_size=10)])
def test_segments_of_scikit_image(segmenter: Any) -> None:
    pytest.importorskip("skimage", exc_type=ImportError)
    x = torch.zeros(2, 3, 24, 24, dtype=torch.float64)
    x[:, 0, :, 12:] = 1
    x[1, :, 12:] = 0.5
    w = torch.randn(3, 24 * 24 * 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 1])
    found = lime_image(lambda z: z.flatten(1) @ w.T, x, y, segments=segmenter, baseline=constant(0.25))
    assert found.segments is not None
    for i in range(2):
        ids = found.segments[i]
        assert ids.unique().tolist() == list(range(len(found.names[i])))
        assert len(found.names[i]) > 1
        effect = (w[i].reshape(3, 24, 24) * (x[i] - 0.25)).sum(0)
        want = torch.zeros(len(found.names[i]), dtype=torch.float64).index_add(0, ids.flatten(), effect.flatten())
        assert (found.weights[i, 0, : len(want)] - want).abs().max() < 1e-9
    with pytest.raises(BadInput, match="segments images"):
        segmenter(torch.zeros(2, 5))


def test_a_segmenter_without_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    with pytest.raises(BadInput, match="needs scikit-image"):
        slic()(torch.zeros(1, 3, 8, 8))
    with pytest.raises(BadInput, match="slic has no option 'kernel'"):
        slic(kernel=3)  # type: ignore[call-arg]


def test_rows_of_a_part_become_the_table_that_a_model_was_trained_on() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [20, 30, 40, 50], "job": ["a", "b", "a", "c"], "own": [True, False, True, True]})
    space = TabularSpace.learn(frame)
    types: set[tuple[str, ...]] = set()

    def predict(texts: list[str], rows: list[list[Any]]) -> Any:
        table = space.as_table(rows)
        types.add(tuple(map(str, table.dtypes)))
        return table["age"].to_numpy() / 100.0 + [0.1 * ("good" in text) for text in texts]

    found = lime_parts(predict, [text_part("good film"), row_part(space, frame.iloc[1])], samples=64)
    assert types == {tuple(map(str, frame.dtypes))}
    assert found.as_list(top=2)[0][0] in ("1: good", "2: 27.50 < age <= 35.00", "2: 20.00 < age <= 32.50")
    numbers = TabularSpace.learn(np.arange(12.0).reshape(4, 3))
    assert numbers.as_table([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
