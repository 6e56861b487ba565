"""LIME of tables: bins, groups, missing values, each sampler, and rows that reach the model as they came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations import TabularSpace, lime_tabular
from unfooled.explanations.lime import (
    Flag,
    Prior,
    Surrogates,
    around,
    by_bins,
    conditional,
    conditional_normal,
    deciles,
    entropy_bins,
    hidden,
    log_odds,
    neighbours,
    quartiles,
    stratified_normal,
    tables,
    until_stable,
)
from unfooled.explanations.lime.discretize import bin_name, codes
from unfooled.explanations.lime.kernels import uniform

DRAW = np.random.default_rng(0)
TABLE = np.column_stack(
    [DRAW.normal(size=(300, 3)), DRAW.integers(0, 3, 300), np.full(300, 2.0), DRAW.normal(size=300)]
)
W = np.array([2.0, -1.0, 0.0, 0.0, 5.0, 0.5])


def linear(x: np.ndarray) -> np.ndarray:
    return np.c_[x @ W, -(x @ W)]


@pytest.fixture(scope="module")
def space() -> TabularSpace:
    return TabularSpace.learn(TABLE, categorical=[3], names=list("abcdef"))


def test_bins() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    assert quartiles(values).tolist() == [2.75, 4.5, 6.25]
    assert len(deciles(values)) == 9
    edges = quartiles(values)
    assert codes(np.array([2.75, 2.76, 9, np.nan]), edges).tolist() == [0, 1, 3, 4], "a value on an edge is below it"
    assert [bin_name("f", edges, k) for k in range(5)] == [
        "f <= 2.75", "2.75 < f <= 4.50", "4.50 < f <= 6.25", "f > 6.25", "f missing"
    ]  # fmt: skip
    assert quartiles(np.array([0.0] * 9 + [1.0])).tolist() == [0.0]
    assert entropy_bins(values, values > 3).tolist() == [3.5]
    with pytest.raises(BadInput, match="needs labels"):
        entropy_bins(values)


def test_a_space(space: TabularSpace) -> None:
    assert space.constant == ("e",)
    assert space.features == ((0,), (1,), (2,), (3,), (5,))
    row = list(TABLE[0])
    assert space.names(row)[3] == f"d = {row[3]}"
    assert space.keys(row)[0] == ("a", int(codes(TABLE[:1, 0], quartiles(TABLE[:, 0]))[0]))


@pytest.mark.parametrize("sampler", [hidden(), conditional(1000)], ids=["hidden", "conditional"])
def test_the_effect_of_hiding_is_the_distance_from_the_mean(sampler: Any, space: TabularSpace) -> None:
    row = TABLE[7]
    found = lime_tabular(linear, row, 0, space=space, sampler=sampler, samples=4000, kernel=uniform)
    want = torch.tensor((row - TABLE.mean(0)) * W)[[0, 1, 2, 3, 5]]
    off = (found.weights[0, 0] - want).abs()
    assert (off <= 4 * found.se[0, 0] + 1e-9).all()
    if sampler.func.__name__ == "hide_by":  # a single donor for all hidden ones is no independent noise
        assert off[2:4].max() < 4 * float(found.se.max())


def test_bins_give_the_difference_from_other_bins(space: TabularSpace) -> None:
    row = TABLE[11]
    found = lime_tabular(linear, row, 0, space=space, samples=8000, kernel=uniform)
    for j, c in enumerate((0, 1, 2, 3, 5)):
        edges = space.columns[c].edges
        own = codes(TABLE[:, c], edges) if edges is not None else TABLE[:, c]
        same = own == (codes(row[c : c + 1], edges)[0] if edges is not None else row[c])
        want = W[c] * (TABLE[same, c].mean() - TABLE[~same, c].mean())
        assert abs(float(found.weights[0, 0, j]) - want) <= 4 * float(found.se[0, 0, j])
    assert found.names[0][0] in (f"{name}" for name in space.names(list(row)))


def test_a_column_that_the_model_ignores(space: TabularSpace) -> None:
    inside = []
    for seed in range(20):
        found = lime_tabular(
            linear, TABLE[5], 0, space=space, samples=400, generator=torch.Generator().manual_seed(seed)
        )
        inside.append((found.weights[0, 0, 2:4].abs() <= 3 * found.se[0, 0, 2:4]).double().mean())
    assert float(torch.stack(inside).mean()) > 0.93


@pytest.mark.parametrize("sampler", [around(0.5), stratified_normal(0.5)])
def test_without_bins_a_weight_is_per_standard_deviation(sampler: Any, space: TabularSpace) -> None:
    found = lime_tabular(linear, TABLE[3], 0, space=space, sampler=sampler, samples=300)
    want = torch.tensor(W * TABLE.std(0))[[0, 1, 2, 5]]
    assert (found.weights[0, 0, [0, 1, 2, 4]] - want).abs().max() < 1e-9
    assert abs(float(found.local_prediction) - float(TABLE[3] @ W)) < 1e-9
    with pytest.raises(BadInput, match="no masks"):
        lime_tabular(linear, TABLE[3], 0, space=space, sampler=sampler, kernel=uniform)


def test_a_latin_hypercube_has_every_quantile_once(space: TabularSpace) -> None:
    row = list(TABLE[3])
    drawn = stratified_normal(1.0)(space.columns, space.features, row, 50, 0)
    u = torch.special.ndtr(drawn.z[:, 0])
    assert (u * 50).floor().sort().values.tolist() == list(range(50))
    again = around(1.0)(space.columns, space.features, row, 50, 0)
    assert len(set((torch.special.ndtr(again.z[:, 0]) * 50).floor().tolist())) < 50


def test_real_neighbours_are_training_rows(space: TabularSpace) -> None:
    drawn = neighbours(4)(space.columns, space.features, list(TABLE[9]), 7, 0)
    rows = np.column_stack(drawn.columns)
    varying = [0, 1, 2, 3, 5]
    assert all((TABLE[:, varying] == row[varying]).all(1).any() for row in rows)
    assert drawn.unit == 0
    found = lime_tabular(linear, TABLE[9], 0, space=space, sampler=neighbours(2), ridge=0.01)
    again = lime_tabular(
        linear, TABLE[9], 0, space=space, sampler=neighbours(2), ridge=0.01, generator=torch.Generator().manual_seed(9)
    )
    assert torch.equal(found.weights, again.weights), "no draw"
    assert found.se.max() == 0


def test_hidden_columns_are_drawn_given_the_shown_ones() -> None:
    a = DRAW.normal(size=400)
    table = np.column_stack([a, a + 0.01 * DRAW.normal(size=400), DRAW.normal(size=400)])
    space = TabularSpace.learn(table)
    row = list(table[0])
    for sampler, most in ((conditional(5), 0.2), (hidden(), 5.0)):
        drawn = sampler(space.columns, space.features, row, 400, 0)
        kept = drawn.z[:, 0] & ~drawn.z[:, 1]
        gap = np.abs(drawn.columns[1] - row[0])[kept.numpy()].mean()
        assert (gap < most) == (most < 1 or gap > 0.3)
        assert gap < 0.2 if most < 1 else gap > 0.3


def test_hidden_numbers_are_normal_given_the_shown_ones() -> None:
    draw = np.random.default_rng(5)
    a, b = draw.normal(size=(2, 2000))
    table = np.column_stack([3 + 2 * a, a + 0.5 * b, draw.integers(0, 2, 2000), np.round(10 * b)]).astype(np.float64)
    space = TabularSpace.learn(table, categorical=[2])
    row = [6.0, 0.0, 1.0, 4.0]
    drawn = conditional_normal(0.0)(space.columns, space.features, row, 8000, 0)
    shown = drawn.z.numpy()
    only = shown[:, 0] & ~shown[:, 1] & ~shown[:, 3]
    r, sd = np.corrcoef(table[:, 0], table[:, 1])[0, 1], table.std(0)
    want = table[:, 1].mean() + r * sd[1] * (row[0] - table[:, 0].mean()) / sd[0]
    found = drawn.columns[1][only]
    assert abs(found.mean() - want) < 4 * found.std() / np.sqrt(len(found))
    assert found.std() == pytest.approx(sd[1] * np.sqrt(1 - r**2), rel=0.1)
    for c in range(4):
        assert (drawn.columns[c][shown[:, c]] == row[c]).all(), "shown values stay"
    assert set(drawn.columns[2].tolist()) == {0.0, 1.0}
    apart = conditional_normal(1.0)(space.columns, space.features, row, 8000, 0)
    alone = apart.columns[1][only]
    assert abs(alone.mean() - table[:, 1].mean()) < 4 * alone.std() / np.sqrt(len(alone)), "no covariance is left"
    whole = TabularSpace.learn(table.astype(np.int64), categorical=[2])
    numbers = conditional_normal()(whole.columns, whole.features, [6, 0, 1, 4], 50, 0).columns[3]
    assert (numbers == np.rint(numbers)).all()
    found_by = lime_tabular(
        lambda x: x[:, 0] + x[:, 1], table[:1], space=space, sampler=conditional_normal(), samples=300
    )
    assert found_by.sampler.startswith("by_normal(shrink=0.1")


def test_groups_act_as_one() -> None:
    code = DRAW.integers(0, 3, 200)
    table = np.c_[np.eye(3)[code], DRAW.normal(size=200)]
    space = TabularSpace.learn(table, groups=[[0, 1, 2]], categorical=[0, 1, 2])
    assert space.features == ((0, 1, 2), (3,))
    seen: list[np.ndarray] = []

    def watch(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return np.c_[x[:, 0] * 3, x[:, 3]]

    found = lime_tabular(watch, table[:1], 0, space=space, samples=500)
    assert all((part[:, :3].sum(1) == 1).all() for part in seen), "every row is a one-hot code"
    assert found.weights.shape == (1, 1, 2)
    assert space.keys(list(table[0]))[0][0] == ("column 0", "column 1", "column 2")
    for sampler in (hidden(), conditional(3)):
        seen.clear()
        lime_tabular(watch, table[:1], 0, space=space, samples=100, sampler=sampler)
        assert all((part[:, :3].sum(1) == 1).all() for part in seen)
    with pytest.raises(BadInput, match="no groups"):
        lime_tabular(watch, table[:1], 0, space=space, sampler=around())


def test_missing_values_are_a_bin_and_stay_missing() -> None:
    table = TABLE[:, :3].copy()
    table[::4, 1] = np.nan
    space = TabularSpace.learn(table, names=["a", "b", "c"])
    seen: list[np.ndarray] = []

    def model(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return np.c_[np.isnan(x[:, 1]) * 4.0, x[:, 0]]

    row = table[0]
    assert np.isnan(row[1])
    found = lime_tabular(model, row, 0, space=space, kernel=uniform)
    assert found.names[0][1] == "b missing"
    assert float(found.weights[0, 0, 1]) == pytest.approx(4)
    assert found.weights[0, 0, [0, 2]].abs().max() < 1e-9
    assert 0.15 < np.isnan(seen[-1][:, 1]).mean() < 0.35
    present = lime_tabular(model, table[1], 0, space=space, sampler=hidden(), kernel=uniform)
    assert present.names[0][1].startswith(("b", "-", "0", "1"))
    with pytest.raises(BadInput, match="column 'a' is missing"):
        lime_tabular(model, np.array([np.nan, 0, 0]), 0, space=space)


def test_an_unseen_category_has_a_bin_of_its_own(space: TabularSpace) -> None:
    row = TABLE[0].copy()
    row[3] = 9
    found = lime_tabular(linear, row, 0, space=space, ridge=1e-6)
    assert found.keys is not None
    assert found.keys[0][3] == ("d", 3)
    weight, error = float(found.weights[0, 0, 3]), float(found.se[0, 0, 3])
    assert error > 0  # the model does not read it
    assert abs(weight) < 3 * error


def test_the_batch_and_the_seed(space: TabularSpace) -> None:
    whole = lime_tabular(linear, TABLE[:4], [[0, 1]] * 4, space=space, samples=300)
    for i in range(4):
        alone = lime_tabular(linear, TABLE[i], [[0, 1]], space=space, samples=300)
        assert (alone.weights[0] - whole.weights[i]).abs().max() < 1e-10
    other = lime_tabular(linear, TABLE[:4], 0, space=space, samples=300, generator=torch.Generator().manual_seed(1))
    assert (other.weights[:, 0] - whole.weights[:, 0]).abs().max() > 1e-3


def test_regression_links_tensors_and_round_trips(space: TabularSpace) -> None:
    found = lime_tabular(lambda x: x @ W, TABLE[:2], space=space, samples=500, keep_samples=True)
    assert found.seen is not None
    assert found.answers is not None
    assert float(found.seen[0, 0]) <= float(torch.cat(found.answers).min()) + 1e-9
    html = found.to_html()
    assert ">Answer</h3>" in html
    assert "<table>" in html
    again = Surrogates.from_json(found.to_json())
    assert torch.equal(again.weights, found.weights)
    assert again.keys == found.keys
    tensors = TabularSpace.learn(torch.as_tensor(TABLE, dtype=torch.float32))
    net = torch.nn.Linear(6, 2)
    of_tensor = lime_tabular(net, torch.as_tensor(TABLE[:1], dtype=torch.float32), space=tensors, samples=300)
    assert of_tensor.weights.shape == (1, 1, 5)

    def probability(x: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-(x @ W - 10)))
        return np.c_[1 - p, p]

    raw = lime_tabular(lambda x: np.c_[-(x @ W - 10), x @ W - 10], TABLE[1], 1, space=space, samples=300)
    linked = lime_tabular(probability, TABLE[1], 1, space=space, samples=300, link=log_odds)
    assert (raw.weights - linked.weights).abs().max() < 1e-6
    assert linked.link == "log_odds"


def test_flags(space: TabularSpace) -> None:
    with pytest.warns(UserWarning, match="few effective samples"):
        found = lime_tabular(linear, TABLE[0], 0, space=space, samples=20)
    assert Flag.FEW in found.flags[0]


@pytest.mark.parametrize("sampler", [by_bins, hidden(), around(0.5), stratified_normal(0.5), conditional(5)])
def test_rows_are_doubled_until_the_answer_is_stable(sampler: Any, space: TabularSpace) -> None:
    asked = 0

    def curved(x: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(x)
        return np.tanh(x @ W - 10)

    never = until_stable(2, tolerance=1e-9, first=64, at_most=256)
    found = lime_tabular(curved, TABLE[:3], space=space, sampler=sampler, until=never)
    assert all(flags[-1] == Flag.NOT_REACHED for flags in found.flags)
    assert asked == int(found.calls.sum())
    again = sampler == stratified_normal(0.5) or getattr(sampler, "keywords", {}).get("stratified")
    assert found.calls.tolist() == [1 + (64 + 128 + 256 if again else 256)] * 3, "known rows are not asked for again"
    same = lime_tabular(curved, TABLE[:3], space=space, sampler=sampler, samples=256)
    assert (same.weights - found.weights).abs().max() < 1e-12
    soon = lime_tabular(curved, TABLE[:3], space=space, sampler=sampler, until=until_stable(1, tolerance=9.0, first=64))
    assert all(flags[-1] == Flag.STABLE for flags in soon.flags)
    assert soon.calls.tolist() == [65] * 3


def test_real_rows_are_not_doubled(space: TabularSpace) -> None:
    found = lime_tabular(linear, TABLE[0], 0, space=space, sampler=neighbours(1), until=until_stable(1))
    assert found.flags[0][-1] == Flag.STABLE
    assert int(found.calls) == len(TABLE) + 1


def test_priors_and_the_batch_of_rows(space: TabularSpace) -> None:
    sizes = []

    def noted(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return linear(x)

    plain = lime_tabular(linear, TABLE[:2], 0, space=space, samples=300)
    small = lime_tabular(noted, TABLE[:2], 0, space=space, samples=300, batch=50)
    assert max(sizes) <= 50
    assert (small.weights - plain.weights).abs().max() < 1e-9
    mean = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for options in ({"prior": mean, "ridge": 1e9}, {"prior": Prior(mean, 1e9)}):
        strong = lime_tabular(linear, TABLE[:2], 0, space=space, samples=300, **options)
        assert (strong.weights[:, 0] - mean).abs().max() < 1e-6
        assert strong.sd is not None
    weak = lime_tabular(linear, TABLE[:2], 0, space=space, samples=300, prior=Prior(mean, 1e-12))
    assert (weak.weights - plain.weights).abs().max() < 1e-8
    with pytest.raises(BadInput, match="batch is 0"):
        lime_tabular(linear, TABLE[0], 0, space=space, batch=0)
    with pytest.raises(BadInput, match="with ridge above 0"):
        lime_tabular(linear, TABLE[0], 0, space=space, prior=mean)


def test_frames_come_and_go_as_frames() -> None:
    pandas = pytest.importorskip("pandas", exc_type=ImportError)
    frame = pandas.DataFrame({
        "age": np.arange(60) % 17 + 20,
        "kind": pandas.Categorical(["x", "y", "z"] * 20),
        "income": np.where(np.arange(60) % 5, np.arange(60.0), np.nan),
        "town": [f"t{k % 4}" for k in range(60)],
    })  # fmt: skip
    space = TabularSpace.learn(frame)
    seen = []

    def model(table: Any) -> Any:
        seen.append(table)
        assert list(table.columns) == list(frame.columns)
        assert (table.dtypes == frame.dtypes).all()
        yes = (table["kind"] == "y").to_numpy() * 2.0 + table["income"].isna().to_numpy()
        return pandas.DataFrame({"no": -yes, "yes": yes})

    row = frame.iloc[[10]]
    found = lime_tabular(model, row, 1, space=space, kernel=uniform, samples=3000)
    weights = dict(zip(found.names[0], found.weights[0, 0].tolist(), strict=True))
    assert weights["kind = y"] == pytest.approx(2)
    assert weights["income missing"] == pytest.approx(1)
    assert abs(weights["town = t2"]) < 1e-9
    table = found.to_dataframe()
    assert list(table.columns)[:4] == ["sample", "label", "feature", "weight"]
    assert table.loc[table.feature == "kind = y", "sign_is_stable"].all()
    one = lime_tabular(model, frame.iloc[10], 1, space=space, kernel=uniform, samples=3000)
    assert (one.weights - found.weights).abs().max() < 1e-12
    with pytest.raises(BadInput, match="'size' that was not in training"):
        lime_tabular(model, row.rename(columns={"age": "size"}), 1, space=space)
    with pytest.raises(BadInput, match="no column 'town'"):
        lime_tabular(model, row.drop(columns="town"), 1, space=space)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda space: lime_tabular(linear, TABLE[0, :4], 0, space=space), "6 columns"),
        (lambda space: lime_tabular(linear, TABLE[:0], 0, space=space), "no row"),
        (lambda space: lime_tabular(linear, TABLE[0], 2, space=space), "label 2"),
        (lambda space: lime_tabular(linear, TABLE[0], 0, space=space, samples=3), "draw at least 7"),
        (lambda space: TabularSpace.learn(TABLE[:0]), "no rows"),
        (lambda space: TabularSpace.learn(TABLE[0]), "it is \\(N, C\\)"),
        (lambda space: TabularSpace.learn(TABLE, names=["a"]), "6 columns and 1"),
        (lambda space: TabularSpace.learn(TABLE, groups=[[0, 1], [1, 2]]), "two groups"),
        (lambda space: TabularSpace.learn(TABLE, groups=[["q"]]), "no column 'q'"),
        (lambda space: TabularSpace.learn(TABLE, categorical=["q"]), "none of the training"),
        (lambda space: TabularSpace.learn(TABLE, bins=entropy_bins), "needs labels"),
        (lambda space: TabularSpace.learn(TABLE * np.nan), "no values"),
        (lambda space: conditional(0), "at least 1"),
        (lambda space: conditional_normal(k=0), "at least 1"),
        (lambda space: conditional_normal(1.5), "shrink is 1.5"),
        (lambda space: around(0), "above 0"),
    ],
)
def test_refusals(call: Any, sentence: str, space: TabularSpace) -> None:
    with pytest.raises(BadInput, match=sentence):
        call(space)


def test_a_row_and_its_perturbed_rows_are_one_call(space: TabularSpace) -> None:
    sizes: list[int] = []

    def counted(rows: Any) -> Any:
        sizes.append(len(rows))
        return np.asarray(rows)[:, 0]

    rows = np.zeros((3, len(space.columns)))
    found = lime_tabular(counted, rows[:1], space=space, samples=300)
    assert sizes == [301]
    assert found.calls.tolist() == [301]
    sizes.clear()
    lime_tabular(counted, rows, space=space, samples=300)
    assert sizes == [303], "the draw by bins does not depend on the row"
    sizes.clear()
    lime_tabular(counted, rows, space=space, samples=300, sampler=hidden())
    assert sizes == [303, 300, 300]


def test_rows_share_the_perturbed_rows_that_do_not_depend_on_them(space: TabularSpace) -> None:
    sizes: list[int] = []

    def noted(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return np.tanh(x @ W - 10)

    rows = TABLE[:3].copy()
    found = lime_tabular(noted, rows, space=space, samples=300)
    assert sum(sizes) == int(found.calls.sum()) == 303
    alone = [lime_tabular(noted, row, space=space, samples=300) for row in rows]
    for one, own in zip(found, alone, strict=True):
        assert torch.equal(one.weights, own.weights) and torch.equal(one.se, own.se)
        assert one.local_prediction.allclose(own.local_prediction)
    rows[1, 4] = 7.0  # a column that is constant in training keeps the value of its row
    sizes.clear()
    found = lime_tabular(noted, rows, space=space, samples=300)
    assert sum(sizes) == int(found.calls.sum()) == 603
    own = lime_tabular(noted, rows[1], space=space, samples=300)
    assert torch.equal(found[1].weights, own.weights)
    sizes.clear()
    found = lime_tabular(noted, rows, space=space, samples=300, sampler=hidden())
    assert sum(sizes) == int(found.calls.sum()) == 903, "kept values are those of the row"


def test_a_draw_is_remembered_and_never_written_to(space: TabularSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lime_tabular(linear, TABLE[:1], 0, space=space, samples=200)
    asked: list[int] = []
    bits = rng.bits

    def noted(*args: Any, **options: Any) -> Any:
        asked.append(1)
        return bits(*args, **options)

    monkeypatch.setattr(rng, "bits", noted)
    again = lime_tabular(linear, TABLE[:1], 0, space=space, samples=200)
    assert torch.equal(first.weights, again.weights)
    assert not asked
    lime_tabular(linear, TABLE[:1], 0, space=space, samples=200, sampler=hidden())
    assert torch.equal(first.weights, lime_tabular(linear, TABLE[:1], 0, space=space, samples=200).weights)
    monkeypatch.setattr(tables, "REMEMBERED", 10)
    assert torch.equal(first.weights, lime_tabular(linear, TABLE[:1], 0, space=space, samples=200).weights)
    assert asked


@pytest.mark.parametrize("seed", range(3))
def test_rare_and_unseen_categories_have_their_weight(seed: int) -> None:
    draw = np.random.default_rng(0).random(2000)
    kinds = np.array(["x"] * 1999 + ["y"])
    table = np.array(list(zip(draw, kinds, strict=True)), dtype=object)
    space = TabularSpace.learn(table, names=["a", "kind"], categorical=[1])

    def says(value: str) -> Any:
        return lambda rows: np.where(rows[:, 1] == value, 0.9, 0.1)

    generator = torch.Generator().manual_seed(seed)
    row = np.array([[0.5, "violet"]], dtype=object)
    for value, other in (("violet", row), ("y", np.array([[0.5, "y"]], dtype=object)), ("x", table[:1])):
        found = lime_tabular(says(value), other, space=space, samples=600, generator=generator)
        assert found.weights[0, 0].tolist() == pytest.approx([0.0, 0.8], abs=1e-6)
