"""What `unfooled.compat.lime` refuses, in one sentence, and what is no error."""

from __future__ import annotations

import math
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from tests.reference import lime_cases as cases

from unfooled.compat.lime import (
    LimeImageExplainer,
    LimeTabularExplainer,
    LimeTextExplainer,
    RecurrentTabularExplainer,
    SubmodularPick,
)
from unfooled.compat.lime.discretize import BaseDiscretizer, EntropyDiscretizer
from unfooled.compat.lime.exceptions import LimeError
from unfooled.compat.lime.explanation import DomainMapper, Explanation
from unfooled.compat.lime.lime_base import LimeBase
from unfooled.compat.lime.lime_text import IndexedString
from unfooled.compat.lime.wrappers.scikit_image import SegmentationAlgorithm
from unfooled.core.errors import BadInput

OURS = cases.modules("unfooled.compat.lime")
ROW = cases.ROWS[3]


def text(words: Any = "good film", model: Any = cases.word_model, options: Any = None, **call: Any) -> Any:
    return LimeTextExplainer(random_state=0, **(options or {})).explain_instance(words, model, num_samples=20, **call)


def row(values: Any = ROW, model: Any = cases.row_model, options: Any = None, **call: Any) -> Any:
    call = {"num_samples": 20, **call}
    return LimeTabularExplainer(cases.ROWS, random_state=0, **(options or {})).explain_instance(values, model, **call)


def nan_in(values: Any, place: Any) -> Any:
    values = np.array(values)
    values[place] = np.nan
    return values


class Frame:
    columns = ()
    iloc = None
    shape = (3, 3)

    def to_numpy(self) -> Any:
        return None


def column(x: Any) -> Any:
    return np.full((len(x), 1), 0.5)


def flat(x: Any) -> Any:
    return np.full(len(x), 0.5)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: text(None), r"text_instance must be a text \(str\), not NoneType"),
    (lambda: text(b"word"), r"text_instance must be a text \(str\), not bytes"),
    (lambda: text("!?! ..."), r"text_instance '!\?! \.\.\.' has no word; pass another split_expression or char_level"),
    (lambda: text(options={"split_expression": lambda t: ["film", "good"]}), r"'good' does not follow character 9"),
    (lambda: text(labels=(3,)), r"label 3 does not exist: the prediction function returns 3 column\(s\)"),
    (lambda: text(labels=1), r"labels must be a list of column numbers, such as \(1,\), not 1; or pass top_labels"),
    (lambda: row(labels=None), r"labels must be a list of column numbers.* not None"),
    (lambda: text(labels=("a",)), r"labels must be column numbers \(integers\), not 'a'"),
    (lambda: text(model=column), r"label 1 does not exist.*for two classes return np\.hstack\(\[1 - p, p\]\)"),
    (lambda: text(model=flat), r"returned one number for each input; .* np\.stack\(\[1 - p, p\], axis=1\)"),
    (lambda: text(model=flat, top_labels=1), r"returned one number for each input"),
    (lambda: text(model=lambda t: np.ones((3, 2))), r"must return one row for each of 20 inputs; it returned 3 rows"),
    (lambda: text(model=lambda t: 0.5), r"it returned a single value"),
    (lambda: text(model=lambda t: np.full((len(t), 2), np.nan)), r"returned NaN or infinity for 20 of 20 samples"),
    (lambda: text(predict_batch=0), r"predict_batch must be at least 1 or None, not 0"),
    (lambda: LimeTextExplainer(kernel_width=0), r"kernel_width must be above 0, not 0"),
    (lambda: LimeTextExplainer(random_state="a"), r"random_state must be an integer, a numpy RandomState or None"),
    (lambda: text(options={"feature_selection": "best"}), r"feature_selection must be one of auto, .*not 'best'"),
    (lambda: text(options={"kernel": lambda d, kernel_width: d * np.nan}), r"the kernel must give finite weights"),
    (
        lambda: LimeTextExplainer().explain_instance("a", cases.word_model, num_samples=0),
        r"num_samples must be .* not 0",
    ),
    (lambda: row(num_samples=0), r"num_samples must be an integer of at least 1"),
    (lambda: row(num_samples=1.5), r"num_samples must be an integer of at least 1"),
    (lambda: row(ROW[:5]), r"data_row must be one row of the training table's 6 columns, not shape \(5,\)"),
    (lambda: row(ROW[None]), r"not shape \(1, 6\); pass data_row\[0\]"),
    (lambda: row(nan_in(ROW, 2)), r"data_row has NaN or infinity in column '2'"),
    (lambda: row(nan_in(ROW, 2), options={"discretize_continuous": False}), r"NaN or infinity in column '2'"),
    (lambda: row(ROW + np.inf, options={"discretize_continuous": False}), r"NaN or infinity in column '0'"),
    (lambda: row(np.array(["x"] * 6)), r"data_row must be numbers, with categories encoded as integers"),
    (lambda: row(sparse.csr_matrix(ROW)), r"data_row is sparse, but training_data was dense"),
    (lambda: row(labels=(5,)), r"label 5 does not exist"),
    (lambda: row(model=lambda x: np.ones((len(x), 2, 2))), r"must return \(rows, classes\), not shape \(20, 2, 2\)"),
    (lambda: row(sampling_method="lhs"), r"sampling_method must be \"gaussian\", as in lime 0\.2\.0\.1, not 'lhs'"),
    (lambda: row(options={"discretizer": "thirds"}), r"discretizer must be one of quartile, decile, entropy"),
    (lambda: row(options={"discretizer": "entropy"}), r"entropy discretizer needs the labels.*pass training_labels"),
    (lambda: row(options={"feature_names": ["a"]}), r"feature_names must name 6 columns; 1 names were given"),
    (lambda: row(options={"training_data_stats": {"means": {}}}), r"training_data_stats lacks mins, maxs, stds"),
    (
        lambda: row(ROW + 0.5, options={"categorical_features": [4]}),
        r"column 4 is listed in categorical_features, but the row has",
    ),
    (
        lambda: row(options={"mode": "regression"}, model=lambda x: np.ones((len(x), 2, 2))),
        r"a regression needs one value a row, \(n,\) or \(n, 1\), not \(20, 2, 2\)",
    ),
    (
        lambda: LimeTabularExplainer(Frame()),
        r"training_data must be an array, not a data frame: pass training_data\.to_n",
    ),
    (
        lambda: LimeTabularExplainer(np.ones(3)),
        r"training_data must be a table with rows and columns, not shape \(3,\)",
    ),
    (lambda: LimeTabularExplainer(np.ones((0, 3))), r"not shape \(0, 3\)"),
    (lambda: LimeTabularExplainer(nan_in(cases.ROWS, (0, 1)), feature_names=cases.NAMES), r"has NaN in column 'b'"),
    (lambda: LimeTabularExplainer(cases.SPARSE, categorical_features=[1]), r"need dense training_data"),
    (lambda: RecurrentTabularExplainer(cases.ROWS), r"must be sequences, \(n, steps, features\), not shape \(120, 6\)"),
    (
        lambda: RecurrentTabularExplainer(cases.SEQUENCES).explain_instance(cases.SEQUENCES[0].T, cases.sequence_model),
        r"data_row must be one sequence, \(4, 2\), not shape \(2, 4\)",
    ),
    (
        lambda: cases.image(OURS, segmentation_fn=lambda x: np.zeros((4, 4), int)),
        r"must return .*\(8, 8\), not .*\(4, 4\)",
    ),
    (lambda: cases.image(OURS, batch_size=0), r"batch_size must be at least 1, not 0"),
    (lambda: cases.image(OURS, top_labels=None, labels=(4,)), r"label 4 does not exist"),
    (lambda: cases.image(OURS, num_samples=0), r"num_samples must be an integer of at least 1"),
    (lambda: cases.pick(OURS, method="all"), r"method must be \"sample\" or \"full\", not 'all'"),
    (lambda: cases.pick(OURS, num_exps_desired="x"), r"num_exps_desired must be an integer, not 'x'"),
    (lambda: SubmodularPick(None, Frame(), flat), r"pass data\.to_numpy\(\)"),
    (lambda: SegmentationAlgorithm("watershed"), r"algo_type must be one of quickshift, slic, felzenszwalb"),
    (lambda: EntropyDiscretizer(cases.ROWS, [], cases.NAMES), r"entropy discretizer needs the labels"),
    (lambda: EntropyDiscretizer(cases.ROWS, [], cases.NAMES, [1]), r"there are 1 training labels for 120 rows"),
    (lambda: text(num_features="a"), r"num_features must be an integer, not 'a'"),
    (lambda: row(num_features=None), r"num_features must be an integer, not None"),
    (lambda: text(top_labels="a"), r"top_labels must be an integer, not 'a'"),
    (lambda: cases.image(OURS, top_labels=1.5), r"top_labels must be an integer, not 1\.5"),
    (lambda: text(model=3), r"the prediction function is a int; pass a function, such as predict_proba"),
    (lambda: text(distance_metric="near"), r"distance_metric must be one of .*, such as cosine, not 'near'"),
    (lambda: row(model_regressor=5), r"model_regressor must be a regressor of scikit-learn, not 5"),
    (lambda: LimeTextExplainer(kernel_width="a"), r"kernel_width must be above 0, not 'a'"),  # type: ignore[arg-type]
    (lambda: LimeImageExplainer(kernel=3), r"kernel must be a function of distances and kernel_width, or None, not 3"),  # type: ignore[arg-type]
    (lambda: text(options={"split_expression": "["}), r"split_expression '\[' is no regular expression: "),
    (
        lambda: row(options={"categorical_features": ["a"]}),
        r"categorical_features must be numbers of columns.*'a'",
    ),
    (lambda: cases.image(OURS, segmentation_fn="slic"), r"segmentation_fn is 'slic'; pass a function"),
    (lambda: cases.image(OURS, hide_color="red"), r"hide_color must be a number, or one a channel, not 'red'"),
    (lambda: pictured(None), r"image must be one image of numbers, \(H, W, C\) or \(H, W\), not a NoneType"),
    (lambda: pictured("a.png"), r"image must be one image of numbers, .* not a str"),
    (lambda: pictured(np.zeros((1, 8, 8, 3))), r"image must be one image .* not shape \(1, 8, 8, 3\); pass image\[0\]"),
    (lambda: pictured(np.zeros((8, 8, 1))), r"the default segmentation needs \(H, W, 3\).* not \(8, 8, 1\); pass segm"),
    (lambda: pictured(np.zeros((3, 8, 8))), r"pass segmentation_fn, or image\.transpose\(1, 2, 0\)"),
]


def pictured(image: Any) -> Any:
    return LimeImageExplainer().explain_instance(image, lambda x: np.full((len(x), 2), 0.5))


def test_tensors_with_gradients_are_answers() -> None:
    def words(x: Any) -> Any:
        return torch.tensor(cases.word_model(x), requires_grad=True)

    def small(x: Any) -> Any:
        return torch.full((len(x), 2), 0.5, dtype=torch.bfloat16)

    plain = LimeTextExplainer(random_state=0).explain_instance("a good bad film", cases.word_model, num_samples=30)
    same = LimeTextExplainer(random_state=0).explain_instance("a good bad film", words, num_samples=30)
    assert same.as_list() == plain.as_list()
    explainer = LimeImageExplainer(random_state=0)
    ids = np.arange(64).reshape(8, 8) // 16
    image: Any = torch.rand(8, 8, 3)
    found = explainer.explain_instance(image, small, segmentation_fn=lambda _: ids, num_samples=20)
    assert max(abs(weight) for _, weight in found.local_exp[1]) < 1e-6


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_bad_input_is_refused_in_one_sentence(number: int) -> None:
    call, sentence = REFUSED[number]
    with pytest.raises(BadInput, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)


def test_errors_of_the_original_s_own_kinds() -> None:
    with pytest.raises(NotImplementedError, match='for a regressor pass mode="regression"'):
        row(model=flat)
    with pytest.raises(NotImplementedError, match="has no labels"):
        row(options={"mode": "regression"}, model=cases.value_model).available_labels()
    with pytest.raises(LimeError, match="mode must be"):
        Explanation(DomainMapper(), mode="ranking")
    with pytest.raises(NotImplementedError, match="bins"):
        BaseDiscretizer(cases.ROWS, [], cases.NAMES)
    with pytest.raises(KeyError, match=r"label 2 was not explained; explained labels: \[1\]"):
        text().as_list(2)


def test_the_pick_says_why_it_takes_no_images() -> None:
    class One:
        def explain_instance(self, *args: Any, **kwargs: Any) -> Any:
            return cases.image(OURS)

    with pytest.raises(BadInput, match="the superpixels of two images are different features"):
        SubmodularPick(One(), [1, 2], cases.pixel_model, method="full")


def test_what_only_warns() -> None:
    with pytest.warns(UserWarning, match="probabilities do not sum to 1"):
        row(model=lambda x: np.log(cases.row_model(x)))
    with pytest.warns(UserWarning, match="sample_size is 99; all 20 instances are explained"):
        cases.pick(OURS, sample_size=99)
    with pytest.warns(UserWarning, match="num_exps_desired is 40; only 12 were made"):
        cases.pick(OURS, num_exps_desired=40)


def test_a_regressor_without_coefficients_is_refused() -> None:
    from sklearn.tree import DecisionTreeRegressor

    with pytest.raises(BadInput, match=r"model_regressor must be linear, .*; DecisionTreeRegressor is not"):
        row(model_regressor=DecisionTreeRegressor())


# --- no errors
def test_an_empty_text_has_no_features() -> None:
    made = text("")
    assert made.as_list() == []
    assert made.intercept[1] == pytest.approx(cases.word_model([""])[0, 1])
    assert made.local_pred[0] == pytest.approx(made.intercept[1])
    assert "no features" in made.as_html()
    assert text("", options={"char_level": True, "bow": False}).as_list() == []


def test_one_feature_one_sample_and_no_feature() -> None:
    assert [name for name, _ in text("word").as_list(positions=True)] == ["word_0"]
    assert text(num_features=0).as_list() == []
    assert cases.csr(OURS, num_features=0).local_exp[1] == []
    alone: Any = LimeTextExplainer(random_state=0).explain_instance("good film", cases.word_model, num_samples=1)
    assert [weight for _, weight in alone.as_list()] == [0.0, 0.0]
    assert math.isnan(alone.score)
    flat_image = LimeImageExplainer(random_state=0).explain_instance(
        np.zeros((6, 6)),
        lambda x: np.full((len(x), 2), 0.5),
        segmentation_fn=lambda x: np.zeros((6, 6), int),
        num_samples=9,
    )
    assert [f for f, _ in flat_image.local_exp[1]] == [0]


def test_one_class_is_explained_where_it_is_asked_for() -> None:
    assert all(weight == 0 for _, weight in text(model=column, labels=(0,)).as_list(0))
    assert text(model=column, top_labels=1).top_labels == [0]
    assert text(labels=(-1,)).local_exp[-1] == text(labels=(2,)).local_exp[2]


def test_a_category_that_the_training_data_lacked_is_its_number() -> None:
    values = np.array(ROW)
    values[4] = 9
    made = row(values, options={"categorical_features": [4], "categorical_names": {4: ["x", "y", "z"]}})
    assert "4=9" in [name for name, _ in made.as_list()]


def test_lists_series_and_objects_are_numbers() -> None:
    expected = row().as_list()
    assert row(ROW.tolist()).as_list() == expected
    assert row(ROW.astype(object)).as_list() == expected
    training = LimeTabularExplainer(cases.ROWS.astype(object).tolist(), random_state=0)
    assert training.explain_instance(ROW, cases.row_model, num_samples=20).as_list() == expected
    assert row(model=lambda x: cases.row_model(x).tolist()).as_list() == expected


def test_sparse_rows_of_every_class_are_rows() -> None:
    expected = cases.csr(OURS).as_list()
    table = sparse.csr_array(cases.SPARSE)
    for row_of_it in (table[[4]], table[4], cases.SPARSE[4].tocoo(), cases.SPARSE[4].tocsc()):
        explainer = LimeTabularExplainer(table.tocsc(), random_state=7)
        made = explainer.explain_instance(row_of_it, cases.sparse_model, num_samples=cases.SAMPLES)
        assert made.as_list() == expected


def test_labels_are_not_needed_beside_top_labels() -> None:
    assert text(labels=None, top_labels=1).as_map() == text(top_labels=1).as_map()
    assert row(labels=iter([0, 2])).as_map() == row(labels=(0, 2)).as_map()


def test_tokens_may_be_empty() -> None:
    words = "This is a good movie."
    indexed = IndexedString(words, lambda t: re.split(r"(?:\W+)|$", t))
    assert indexed.inverse_removing([]) == words


def test_base_alone() -> None:
    base = LimeBase(lambda d: np.exp(-d))
    with pytest.raises(BadInput, match="NaN or infinity for 1 of 3"):
        base.explain_instance_with_data(np.eye(3), np.array([[1.0], [np.nan], [0.0]]), np.zeros(3), 0, 2)


# --- scikit-image, which is no dependency
def fake_skimage(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in with the present signatures; returns what it is called with."""
    calls: list[dict[str, Any]] = []

    def quickshift(
        image: Any, ratio: float = 1.0, kernel_size: float = 5, max_dist: float = 10, *, rng: int = 42
    ) -> Any:
        calls.append({"ratio": ratio, "kernel_size": kernel_size, "max_dist": max_dist, "rng": rng})
        return cases.squares(image)

    def slic(image: Any, n_segments: int = 100, max_num_iter: int = 10, *, channel_axis: int | None = -1) -> Any:
        calls.append({"n_segments": n_segments, "max_num_iter": max_num_iter, "channel_axis": channel_axis})
        return cases.squares(image)

    package, module = types.ModuleType("skimage"), types.ModuleType("skimage.segmentation")
    module.quickshift, module.slic = quickshift, slic  # type: ignore[attr-defined]
    package.segmentation = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "skimage", package)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", module)
    return calls


def test_segmentation_without_scikit_image_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    for call in (lambda: SegmentationAlgorithm("slic"), lambda: cases.image(OURS, segmentation_fn=None)):
        with pytest.raises(BadInput, match="needs scikit-image: pip install scikit-image, or pass a"):
            call()


def test_seeds_and_options_get_their_present_names(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_skimage(monkeypatch)
    SegmentationAlgorithm("quickshift", kernel_size=3, random_seed=7)(cases.IMAGE)
    assert calls.pop() == {"ratio": 1.0, "kernel_size": 3, "max_dist": 10, "rng": 7}
    SegmentationAlgorithm("slic", n_segments=9, max_iter=3, multichannel=False, random_seed=7)(cases.IMAGE)
    assert calls.pop() == {"n_segments": 9, "max_num_iter": 3, "channel_axis": None}
    with pytest.raises(BadInput, match=r"slic of scikit-image has no option 'n_segment'; did you mean n_segments\?"):
        SegmentationAlgorithm("slic", n_segment=9)


def test_the_default_segmentation_passes_no_seed_as_the_original_s_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_skimage(monkeypatch)
    made = cases.image(OURS, segmentation_fn=None)
    assert calls == [{"ratio": 0.2, "kernel_size": 4, "max_dist": 200, "rng": 42}]
    assert cases.summary(made) == cases.summary(cases.image(OURS))
