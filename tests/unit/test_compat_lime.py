"""`unfooled.compat.lime` gives the original's explanations, names and signatures; recorded with lime 0.2.0.1."""

from __future__ import annotations

import copy
import json
import pickle  # noqa: TID251
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from tests.reference import lime_cases as cases

from unfooled.compat.lime import (
    LimeImageExplainer,
    LimeTabularExplainer,
    LimeTextExplainer,
    RecurrentTabularExplainer,
    alias,
    ridge,
    selection,
    submodular_pick,
)
from unfooled.compat.lime.discretize import BaseDiscretizer, QuartileDiscretizer
from unfooled.compat.lime.lime_base import LimeBase
from unfooled.compat.lime.scaling import Scaler

OURS = cases.modules("unfooled.compat.lime")
RECORD: dict[str, Any] = json.loads(cases.RECORD.read_text(encoding="utf-8"))


def agree(ours: Any, theirs: Any, where: str = "") -> None:
    """Numbers within 1e-6, everything else equal."""
    if isinstance(theirs, dict):
        assert list(map(str, sorted(ours))) == sorted(theirs), where
        for key in theirs:
            agree(ours[key], theirs[key], f"{where} {key}")
    elif isinstance(theirs, list) and theirs and not isinstance(theirs[0], str):
        assert len(ours) == len(theirs), where
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            agree(a, b, f"{where} {k}")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-6), where
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("name", cases.CASES)
def test_explanations_are_the_original_s(name: str) -> None:
    agree(cases.summary(cases.CASES[name](OURS)), RECORD["cases"][name], name)


def test_every_recorded_case_is_made() -> None:
    assert sorted(RECORD["cases"]) == sorted(cases.CASES)


@pytest.mark.parametrize("name", sorted(RECORD["names"]))
def test_names_and_signatures_are_the_original_s(name: str) -> None:
    """Parameters of the original come first, with their kinds and defaults; what is added has a default."""
    module, _, attribute = name.rpartition(".")
    ours = getattr(getattr(OURS, module), attribute)
    theirs = RECORD["names"][name]
    pairs = (
        [(getattr(ours, member), parameters) for member, parameters in theirs.items()]
        if isinstance(theirs, dict)
        else [(ours, theirs)]
    )
    for function, parameters in pairs:
        mine = cases.parameters(function)
        catch_all = [p for p in parameters if p[1] == "VAR_KEYWORD"]
        first = [p for p in parameters if p not in catch_all]
        added = mine[len(first) : len(mine) - len(catch_all)]
        assert mine[: len(first)] == first, function
        assert mine[len(mine) - len(catch_all) :] == catch_all
        assert all(default for _, _, default in added)
        assert {p[0] for p in added} <= {"predict_batch", "progress_bar", "sampling_method", "figsize"}


def test_install_answers_the_original_s_imports() -> None:
    code = (
        "import unfooled.compat.lime as ours; ours.install(); ours.install();"
        "import lime, lime.lime_text, lime.wrappers.scikit_image; from lime.lime_tabular import LimeTabularExplainer;"
        "from lime import submodular_pick, discretize, explanation, lime_base, lime_image, exceptions;"
        "from lime.utils.generic_utils import has_arg;"
        "print(lime is ours, lime.lime_text.LimeTextExplainer is ours.LimeTextExplainer,"
        " lime.wrappers.scikit_image.SegmentationAlgorithm.__module__, 'torch' in __import__('sys').modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "unfooled.compat.lime.wrappers.scikit_image", "False"]


def test_install_refuses_where_the_original_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lime", sys)
    with pytest.raises(ValueError, match=r"lime itself was imported before; call .*install\(\) first"):
        alias.install()


def plain(value: Any) -> bool:
    """Whether a value is made of Python's own types."""
    if isinstance(value, dict):
        return all(plain(k) and plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(plain(v) for v in value)
    return type(value) in (str, int, float, bool, type(None))


def test_words_and_numbers_are_python_s_own() -> None:
    made = cases.table(OURS, {"class_names": np.array(["no", "yes", "both"]), "feature_names": np.array(cases.NAMES)})
    more = [made, cases.text(OURS, top_labels=2), cases.table(OURS, {"mode": "regression"}, model=cases.value_model)]
    for e in more:
        label = e.available_labels()[0] if e.mode == "classification" else 1
        assert plain([e.as_list(label), e.as_map(), e.intercept, e.score, e.class_names]), e
    assert plain([e.as_list(positions=True) for e in [cases.text(OURS)]])
    assert plain([more[1].top_labels, more[2].predicted_value, more[2].min_value, more[2].max_value])
    picture = cases.image(OURS)
    assert plain([picture.local_exp, picture.intercept, picture.score, picture.top_labels])
    assert more[2].local_exp[0] == [(f, -w) for f, w in more[2].local_exp[1]]
    assert plain(cases.pick(OURS).V)


class Halves(BaseDiscretizer):
    def bins(self, data: Any, labels: Any) -> list[Any]:
        return [np.array([np.median(data[:, column])]) for column in self.to_discretize]


EXPLAINERS = [
    lambda: LimeImageExplainer(random_state=1),
    lambda: LimeTextExplainer(random_state=1, bow=False),
    lambda: LimeTabularExplainer(cases.ROWS, random_state=1),
    lambda: LimeTabularExplainer(cases.ROWS, random_state=1, discretizer=Halves(cases.ROWS, [], cases.NAMES)),
    lambda: RecurrentTabularExplainer(cases.SEQUENCES, feature_names=["u", "v"], random_state=1),
]


@pytest.mark.parametrize("make", EXPLAINERS)
def test_explainers_are_pickled_with_their_stream(make: Any) -> None:
    explainer = make()
    explainer.random_state.rand(3)
    again = pickle.loads(pickle.dumps(explainer))
    assert again.random_state.rand() == explainer.random_state.rand()
    assert again.base.random_state is again.random_state
    assert copy.deepcopy(explainer).base.kernel_fn(np.array([0.0]))[0] == 1


def test_explanations_are_pickled() -> None:
    for name in ("image", "text, positions", "table, categories", "csr", "recurrent", "table, regression"):
        made = cases.CASES[name](OURS)
        again = pickle.loads(pickle.dumps(made))
        assert cases.summary(again) == cases.summary(made)
        if hasattr(made, "as_html"):
            label = next(iter(made.local_exp))
            assert again.as_list(label) == made.as_list(label)


def test_pickles_of_other_versions_are_refused() -> None:
    made = cases.text(OURS)
    state = made.__getstate__()
    with pytest.raises(
        ValueError, match=r"Explanation was pickled by another version of unfooled \(format 0, here 1\)"
    ):
        made.__setstate__({**state, "_format": 0})
    made.__setstate__({k: v for k, v in state.items() if k != "_format"})  # as the original writes it


# --- quirks of the original that its figures depend on
def test_sparse_rows_are_multiplied_by_the_scale() -> None:
    explainer = LimeTabularExplainer(cases.SPARSE, random_state=7)
    seen = []
    explainer.base.explain_instance_with_data = (  # type: ignore[method-assign]
        lambda data, *rest, **more: seen.append(data) or (0.0, [], 0.0, np.zeros(1))  # type: ignore[func-returns-value]
    )
    explainer.explain_instance(cases.SPARSE[4], cases.sparse_model, num_samples=5)
    expected = cases.SPARSE[4].toarray()[0] * explainer.scaler.scale_
    assert np.allclose(seen[0][0].toarray()[0], expected)


def test_highest_weights_leaves_zeros_of_the_instance_to_the_end() -> None:
    rng = np.random.RandomState(0)
    data = rng.rand(60, 3)
    data[0] = [1, 0, 1]
    y = 0.1 * data[:, 0] + 5 * data[:, 1] + 0.2 * data[:, 2]
    assert selection.highest(data, y, np.ones(60), 3).tolist() == [2, 0, 1]
    assert selection.highest(data, y, np.ones(60), 2).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, [4]), (2, [4, 1]), (3, [4, 1, 2]), (5, [4, 1, 2, 3, 0]), (6, [4, 1, 2, 3, 0, 0])]
)
def test_sparse_rows_are_padded_by_the_first_columns_but_not_by_column_0(limit: int, expected: list[int]) -> None:
    assert selection.highest_of_sparse(np.array([0.0, 1.0, 0.0, 0.0, -2.0]), limit).tolist() == expected


def test_segments_are_read_as_0_to_m_minus_1() -> None:
    seen: list[Any] = []

    def model(x: Any) -> Any:
        seen.append(x)
        return np.full((len(x), 2), 0.5)

    image = np.arange(4 * 4 * 3, dtype=float).reshape(4, 4, 3) + 1
    segments = cases.squares(image) + 1  # 1 to 4: column 0 does nothing, segment 4 is never hidden
    data, _ = LimeImageExplainer(random_state=0).data_labels(image, np.zeros_like(image), segments, model, 20)
    shown = np.concatenate(seen)
    assert (shown[:, segments == 4] == image[segments == 4]).all()
    for k in (1, 2, 3):
        assert ((shown[:, segments == k] != 0).all(axis=(1, 2)) == (data[:, k] == 1)).all()


def test_ties_of_the_pick_go_to_the_last() -> None:
    weights = np.array([[1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [0.0, 1.0]])
    assert submodular_pick.pick(weights, 3) == [3, 2, 1]


def test_the_pick_sums_weights_with_their_sign() -> None:
    class Made:
        mode = "classification"

        def available_labels(self) -> list[int]:
            return [0, 1]

        def as_list(self, label: int) -> list[tuple[str, float]]:
            return [("word", 1.0 if label else -1.0), ("other", 1.0)]

    assert submodular_pick.weight_matrix([Made()]).tolist() == [[0.0, 2.0]]


def test_score_and_local_pred_are_those_of_the_last_label() -> None:
    one, two = (cases.text(OURS, labels=labels) for labels in ((2,), (0, 2)))
    assert (two.score, two.local_pred) == (one.score, one.local_pred)
    assert (
        cases.text(OURS, top_labels=2).score == cases.text(OURS, labels=cases.text(OURS, top_labels=1).top_labels).score
    )


# --- the numbers themselves
def test_ridge_is_its_formula() -> None:
    rng = np.random.RandomState(0)
    for shape in ((40, 5), (6, 20)):
        x, y, w = rng.randn(*shape), rng.randn(shape[0]), rng.rand(shape[0])
        intercept, v = ridge.fit_ridge(x, y, w, 0.7)
        z = np.column_stack([np.ones(len(x)), x])
        penalty = 0.7 * np.eye(z.shape[1])
        penalty[0, 0] = 0
        expected = np.linalg.solve(z.T @ (w[:, None] * z) + penalty, z.T @ (w * y))
        assert np.allclose([intercept, *v], expected)


def slow_forward(data: Any, y: Any, w: Any, limit: int) -> list[int]:
    """The definition: fit every feature beside those chosen, take the first of the best."""
    chosen: list[int] = []
    for _ in range(min(limit, data.shape[1])):
        rest = [f for f in range(data.shape[1]) if f not in chosen]
        scores = []
        for feature in rest:
            block = data[:, [*chosen, feature]]
            intercept, v = ridge.fit_ridge(block, y, w, 0.0)
            scores.append(ridge.weighted_r2(y, block @ v + intercept, w))
        chosen.append(rest[int(np.argmax(scores))])
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_forward_selection_is_its_definition(seed: int) -> None:
    rng = np.random.RandomState(seed)
    data = rng.randint(0, 2, (80, 12)).astype(float)
    data[:, 7] = data[:, 2]  # a copy: the first one wins
    data[:, 4] = 1.0
    w = rng.rand(80)
    for y in (data @ rng.randn(12) + 0.3 * rng.randn(80), np.full(80, 0.3), data[:, 2] * 1.0):
        assert selection.forward(data, y, w, 5).tolist() == slow_forward(data, y, w, 5)


def test_forward_selection_under_a_narrow_kernel_is_its_definition() -> None:
    """The instance outweighs all other samples, so that every column nearly looks constant."""
    rng = np.random.RandomState(28)
    data = rng.randint(0, 2, (25, 9)).astype(float)
    data[0] = 1
    weights, y = np.exp(-8 * (9 - data.sum(axis=1))), np.append(0.0, 1.0 * (rng.rand(24) < 0.8))
    assert selection.forward(data, y, weights, 3).tolist() == slow_forward(data, y, weights, 3)


@pytest.mark.parametrize("used", [(5, 1), (0, 3), ()])
def test_forward_selection_of_sparse_rows_is_its_definition(used: tuple[int, ...]) -> None:
    """Columns without any value are all alike: they follow in their order."""
    from sklearn.linear_model import Ridge

    rng = np.random.RandomState(0)
    dense, y, w = np.zeros((50, 7)), rng.randn(50), rng.rand(50)
    dense[:, used] = rng.randn(50, len(used))
    data = sparse.csr_matrix(dense)
    chosen: list[int] = []
    for _ in range(5):
        rest = [f for f in range(7) if f not in chosen]
        blocks = [data[:, [*chosen, f]] for f in rest]
        scores = [Ridge(alpha=0).fit(b, y, sample_weight=w).score(b, y, sample_weight=w) for b in blocks]
        chosen.append(rest[int(np.argmax(scores))])
    assert selection.forward(data, y, w, 5).tolist() == chosen


def test_scaler_reads_dense_and_sparse_alike() -> None:
    from sklearn.preprocessing import StandardScaler

    table = cases.SPARSE.toarray()
    table[:, 3] = 0.1
    theirs = StandardScaler(with_mean=False).fit(table)
    for ours in (Scaler().fit(table), Scaler().fit(sparse.csr_matrix(table))):
        assert np.allclose(ours.mean_, theirs.mean_)
        assert np.allclose(ours.scale_, theirs.scale_)
    assert np.allclose(ours.transform(table), theirs.transform(table))
    table[0, 0] = np.nan
    assert np.allclose(Scaler().fit(table).scale_, StandardScaler(with_mean=False).fit(table).scale_)


def test_a_row_is_binned_and_unbinned_like_a_table() -> None:
    bins = QuartileDiscretizer(cases.ROWS, [4], cases.NAMES, random_state=0)
    assert (bins.discretize(cases.ROWS[5]) == bins.discretize(cases.ROWS)[5]).all()
    back = bins.undiscretize(bins.discretize(cases.ROWS[5]))
    assert (bins.discretize(back)[:4] == bins.discretize(cases.ROWS[5])[:4]).all()


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_change_nothing(batch: int) -> None:
    sizes: list[int] = []

    def words(texts: list[str]) -> Any:
        sizes.append(len(texts))
        return cases.word_model(texts)

    made = LimeTextExplainer(random_state=3).explain_instance(
        cases.TEXT, words, num_samples=cases.SAMPLES, predict_batch=batch
    )
    assert max(sizes) == min(batch, cases.SAMPLES)
    agree(cases.summary(made), RECORD["cases"]["text"])
    agree(cases.summary(cases.table(OURS, predict_batch=batch)), RECORD["cases"]["table, quartiles"])
    agree(cases.summary(cases.recurrent(OURS, predict_batch=batch)), RECORD["cases"]["recurrent"])


def test_other_regressors_are_scikit_learn_s() -> None:
    from sklearn.linear_model import LinearRegression, Ridge

    plain_ridge = cases.table(OURS, model_regressor=Ridge(alpha=1))
    agree(cases.summary(plain_ridge), RECORD["cases"]["table, quartiles"])
    line = cases.table(OURS, model_regressor=LinearRegression())
    assert line.score >= plain_ridge.score


def test_explaining_needs_no_scikit_learn() -> None:
    code = (
        "from tests.reference import lime_cases as c; o = c.modules('unfooled.compat.lime');"
        "[c.CASES[n](o) for n in ('image', 'text', 'table, quartiles', 'table, regression', 'recurrent', 'pick')];"
        "import sys; print('sklearn' in sys.modules, 'skimage' in sys.modules, 'pandas' in sys.modules)"
    )
    root = cases.RECORD.parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == ["False", "False", "False"]


def test_composed_images_lie_in_memory_in_their_own_order() -> None:
    """A sum over an image is rounded in the order of memory, and on a flat one the score is all rounding."""
    layouts = []

    def model(x: Any) -> Any:
        layouts.append(x.flags.c_contiguous and x.flags.writeable)
        return np.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], axis=1)

    for image in (cases.IMAGE, cases.IMAGE[..., 0], np.asfortranarray(cases.IMAGE)):
        LimeImageExplainer(random_state=0).explain_instance(
            image, model, num_samples=12, segmentation_fn=cases.squares, top_labels=1
        )
    assert layouts
    assert all(layouts)


def test_users_may_override_data_labels() -> None:
    class Own(LimeImageExplainer):
        def data_labels(self, *args: Any, **kwargs: Any) -> Any:
            data, answer = super().data_labels(*args, **kwargs)
            return data, answer[:, ::-1]

    made = Own(random_state=5).explain_instance(
        cases.IMAGE, cases.pixel_model, segmentation_fn=cases.squares, num_samples=cases.SAMPLES
    )
    assert made.local_exp[0] == cases.image(OURS).local_exp[3]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_have_any_number_of_channels(channels: int) -> None:
    image = cases.IMAGE[..., :1].repeat(channels, axis=-1)
    made: Any = LimeImageExplainer(random_state=0).explain_instance(
        image, lambda x: cases.pixel_model(x[..., :1].repeat(3, axis=-1)), segmentation_fn=cases.squares, num_samples=50
    )
    shown, mask = made.get_image_and_mask(made.top_labels[0], positive_only=False)
    assert shown.shape == image.shape
    assert set(np.unique(mask)) <= {-1, 0, 1}


def test_masks_of_an_explanation() -> None:
    made = cases.image(OURS)
    made.local_exp[0] = [(3, 2.0), (5, -1.0), (0, 0.5), (7, -0.25)]
    wanted: list[tuple[dict[str, Any], dict[int, int]]] = [
        ({}, {3: 1, 0: 1}),
        ({"num_features": 1}, {3: 1}),
        ({"positive_only": False}, {3: 1, 5: -1, 0: 1, 7: -1}),
        ({"positive_only": False, "num_features": 2}, {3: 1, 5: -1}),
        ({"positive_only": False, "negative_only": True}, {5: 1, 7: 1}),
        ({"positive_only": False, "min_weight": 0.5}, {3: 1, 5: -1, 0: 1}),
        ({"min_weight": 0.5, "hide_rest": True}, {3: 1}),
    ]
    for options, codes in wanted:
        shown, mask = made.get_image_and_mask(0, **options)
        for segment in range(16):
            assert (mask[made.segments == segment] == codes.get(segment, 0)).all(), options
        if options.get("hide_rest"):
            assert (shown[mask == 0] == 0).all()
    with pytest.raises(KeyError, match="label 9 was not explained"):
        made.get_image_and_mask(9)
    with pytest.raises(ValueError, match="cannot both be true"):
        made.get_image_and_mask(0, negative_only=True)


def test_verbose_prints_what_the_original_prints(capsys: pytest.CaptureFixture[str]) -> None:
    base = LimeBase(np.ones_like, verbose=True)
    base.explain_instance_with_data(np.eye(3), np.eye(3), np.zeros(3), 0, 2)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "Intercept",
        "Prediction_local",
        "Right:",
    ]


def test_a_sequence_may_come_as_a_batch_of_one() -> None:
    explainer = RecurrentTabularExplainer(cases.SEQUENCES, feature_names=["u", "v"], random_state=2)
    made = explainer.explain_instance(cases.SEQUENCES[3:4], cases.sequence_model, num_samples=cases.SAMPLES)
    agree(cases.summary(made), RECORD["cases"]["recurrent"])
