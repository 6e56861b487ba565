"""Tables whose rows do not fit the types of the training table, and frames with the types that pandas has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from unfooled.core.errors import BadInput
from unfooled.explanations import TabularSpace, lime_tabular
from unfooled.explanations.lime import around, conditional, hidden, neighbours, stratified_normal, with_row_stability
from unfooled.explanations.lime.columns import columns_of
from unfooled.explanations.lime.discretize import quartiles

RNG = np.random.default_rng(0)
WHOLE = RNG.integers(-3, 4, size=(60, 3))


def frame() -> Any:
    """Return a frame with a column of every usual type, some of them with missing values."""
    pandas = pytest.importorskip("pandas")
    n = 60
    return pandas.DataFrame(
        {
            "age": RNG.integers(18, 90, n),
            "sex": RNG.choice(["f", "m"], n),
            "income": RNG.normal(size=n).astype(np.float32),
            "flag": RNG.random(n) > 0.5,
            "kind": pandas.Categorical(RNG.choice(["x", "y", "z"], n)),
            "day": pandas.date_range("2020-01-01", periods=n, unit="ns"),
            "whole": pandas.array([*range(n - 1), None], dtype="Int64"),
            "real": pandas.array([1.5, 2.5, None] * (n // 3), dtype="Float32"),
            "truth": pandas.array([True, False, None] * (n // 3), dtype="boolean"),
            "word": pandas.array(["u", "v"] * (n // 2), dtype="string"),
        }
    )


class Recorder:
    """Model of frames that records the types and the categories of its columns."""

    def __init__(self) -> None:
        self.types: set[tuple[str, ...]] = set()
        self.kinds: set[Any] = set()

    def __call__(self, table: Any) -> Any:
        self.types.add(tuple(map(str, table.dtypes)))
        self.kinds |= set(table["kind"].tolist())
        p = 1 / (1 + np.exp(-table["age"].to_numpy(float) / 50 + (table["sex"] == "f").to_numpy(float)))
        return np.stack([p, 1 - p], 1)


@pytest.mark.parametrize("sampler", [None, hidden(), conditional(5), neighbours(2, 5)])
def test_frames_with_missing_values_keep_their_types(sampler: Any) -> None:
    table, model = frame(), Recorder()
    space = TabularSpace.learn(table)
    options = {} if sampler is None else {"sampler": sampler}
    rows = table.iloc[[0, 2, 59]]
    found = lime_tabular(model, rows, space=space, samples=60, ridge=0.1, **options)
    assert torch.isfinite(found.weights).all()
    assert model.types == {tuple(map(str, table.dtypes))}
    edges = {column.name: column.edges is not None for column in space.columns}
    assert {name for name, numeric in edges.items() if numeric} == {"age", "income", "whole", "real"}
    assert {name for name in found.names[0] if name.startswith("flag")} <= {"flag = True", "flag = False"}
    day = next(column for column in space.columns if column.name == "day")
    assert day.bin_of(table["day"].iloc[0]) == ""
    assert with_row_stability(found, model, rows, space=space).stability is not None


@pytest.mark.parametrize("sampler", [around(0.5), stratified_normal(0.5)])
def test_numbers_around_a_row_of_whole_numbers_are_not_cut(sampler: Any) -> None:
    def linear(table: Any) -> Any:
        return np.asarray(table, dtype=np.float64) @ np.array([2.0, -1.0, 0.5])

    expected = torch.as_tensor(np.array([2.0, -1.0, 0.5]) * WHOLE.std(0))
    space = TabularSpace.learn(WHOLE)
    found = lime_tabular(linear, WHOLE[0], space=space, sampler=sampler, samples=50)
    torch.testing.assert_close(found.weights[0, 0], expected, atol=1e-9, rtol=0)
    space = TabularSpace.learn(torch.as_tensor(WHOLE))
    found = lime_tabular(lambda t: linear(t.numpy()), torch.as_tensor(WHOLE[0]), space=space, sampler=sampler)
    torch.testing.assert_close(found.weights[0, 0], expected, atol=1e-5, rtol=0)
    pandas = pytest.importorskip("pandas")
    for types in ("int64", "uint8", "Int64"):
        table = pandas.DataFrame(WHOLE + 3, columns=list("abc")).astype(types)
        space = TabularSpace.learn(table)
        found = lime_tabular(linear, table.iloc[0], space=space, sampler=sampler, samples=50)
        torch.testing.assert_close(found.weights[0, 0], expected, atol=1e-9, rtol=0)


def test_a_row_reaches_the_model_as_it_is() -> None:
    seen: list[Any] = []

    def model(table: Any) -> Any:
        seen.extend(np.asarray(table)[:, 0].tolist())
        return [[0.5, 0.5]] * len(table)

    lime_tabular(model, np.array([0.5, 1.0, 2.0]), space=TabularSpace.learn(WHOLE), samples=60)
    assert 0.5 in seen
    words = np.array([["f", "a"], ["m", "b"]] * 10)
    found = lime_tabular(model, np.array(["other", "b"]), space=TabularSpace.learn(words), samples=60, ridge=0.1)
    assert "other" in seen
    assert found.names[0][0] == "column 0 = other"
    recorder, table = Recorder(), frame()
    row = table.iloc[[0]].astype({"kind": object}).assign(kind="unseen")
    lime_tabular(recorder, row, space=TabularSpace.learn(table), samples=80, ridge=0.1)
    assert "unseen" in recorder.kinds


def test_numbers_in_an_array_of_objects_are_numbers() -> None:
    mixed = np.array([[20, "f", None], [30, "m", 1.5], [40, "f", 2.5], [50, "m", 3.5]], dtype=object)
    space = TabularSpace.learn(mixed)
    assert [column.edges is None for column in space.columns] == [False, True, False]
    assert [column.edges is None for column in TabularSpace.learn(WHOLE > 0).columns] == [True] * 3
    by_place = TabularSpace.learn(WHOLE, categorical=np.flatnonzero([True, False, True]))  # type: ignore[arg-type]
    assert [column.edges is None for column in by_place.columns] == [True, False, True]


def test_tensors_of_half_precision() -> None:
    table = torch.as_tensor(RNG.normal(size=(40, 2))).bfloat16()
    found = lime_tabular(lambda t: torch.stack([t[:, 0], -t[:, 0]], 1), table[:2], space=TabularSpace.learn(table))
    assert torch.isfinite(found.weights).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TabularSpace.learn(WHOLE, categorical="a"), r"categorical is 'a'; give a list.*\['a'\]"),
        (lambda: TabularSpace.learn(WHOLE, categorical=2), r"give a list of names or numbers: \[2\]"),  # type: ignore[arg-type]
        (lambda: TabularSpace.learn(WHOLE, groups=[0, 1]), "group 0 is one column"),  # type: ignore[list-item]
        (lambda: TabularSpace.learn(WHOLE, labels=[0, 1]), "2 labels and 60 training rows"),
        (lambda: TabularSpace.learn(None), "the training table is a NoneType"),
        (lambda: lime_tabular(lambda t: t, WHOLE[0], space=WHOLE), r"give TabularSpace.learn"),  # type: ignore[arg-type]
        (lambda: lime_tabular(3, WHOLE[0], space=TabularSpace.learn(WHOLE)), "predict is a int"),  # type: ignore[arg-type]
        (
            lambda: lime_tabular(lambda t: t, WHOLE[0], space=TabularSpace.learn(WHOLE), classes=["a"]),
            "1 names, and predict returns 3",
        ),
        (lambda: lime_tabular(lambda t: t, WHOLE[0], "b", space=TabularSpace.learn(WHOLE)), "y is 'b'; give numbers"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make()


def test_sparse_tables_and_equal_names_are_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse").csr_matrix(WHOLE)
    with pytest.raises(BadInput, match="table is sparse; give a dense one"):
        TabularSpace.learn(sparse)
    with pytest.raises(BadInput, match="table is sparse; give a dense one"):
        lime_tabular(lambda t: t, sparse, space=TabularSpace.learn(WHOLE))
    table = pytest.importorskip("pandas").DataFrame(WHOLE, columns=["a", "b", "a"])
    with pytest.raises(BadInput, match="two columns 'a'"):
        TabularSpace.learn(table)


def test_names_of_outputs_may_be_numbers() -> None:
    found = lime_tabular(lambda t: t, WHOLE[0], space=TabularSpace.learn(WHOLE), classes=[1, 2.5, "c"])  # type: ignore[list-item]
    assert found.classes == ("1", "2.5", "c")
    assert "2.5" in found.to_html()


@pytest.mark.parametrize(
    ("dtype", "value", "kind"),
    [(float, 2.0, "f"), (float, 2, "f"), (int, 2, "i"), (int, 2.5, "O"), (float, "2", "O"), (int, True, "O"),
     (float, math.nan, "f"), (float, None, "O"), (np.uint8, 300, "O"), (np.uint8, -1, "O"), (bool, True, "O")],
)  # fmt: skip
def test_categories_stay_numbers_where_the_column_holds_the_value(dtype: Any, value: Any, kind: str) -> None:
    table = np.array([[0], [1], [2], [1]]).astype(dtype)
    (column,) = columns_of(table, [0], quartiles, None, None)
    taken = column.taken(np.array([1, -1, 3]), value)
    assert taken.dtype.kind == kind
    assert taken[0] == taken[2] == column.values[1]
    assert taken[1] is value or taken[1] == value or (taken[1] != taken[1] and value != value)
