"""What local surrogates refuse, one sentence each, and what is empty or flat and no error."""

from __future__ import annotations

import pickle  # noqa: TID251  (of our own results)
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from unfooled.core.errors import BadInput
from unfooled.explanations import (
    Surrogates,
    TabularSpace,
    kernel_shap,
    lime_image,
    lime_parts,
    lime_tabular,
    lime_text,
    soft_stability,
    submodular_pick,
)
from unfooled.explanations.lime import (
    Prior,
    Stability,
    around,
    conditional,
    constant,
    felzenszwalb,
    grid,
    hidden,
    image_part,
    log_odds,
    mask_token,
    neighbours,
    paired,
    quickshift,
    row_part,
    slic,
    stratified_normal,
    text_part,
    with_part_stability,
    with_row_stability,
    with_stability,
    with_text_stability,
)

TABLE = np.random.default_rng(0).normal(size=(60, 2))
SPACE = TabularSpace.learn(TABLE)
FLAT = TabularSpace.learn(np.full((20, 3), 2.0))
IMAGE = torch.zeros(1, 1, 8, 8)


def two(inputs: Any) -> Any:
    return np.full((len(inputs), 2), 0.5)


def first(rows: Any) -> Any:
    return np.c_[rows[:, 0], -rows[:, 0]]


def rows(row: Any, y: Any = None, **options: Any) -> Callable[[], Any]:
    return lambda: lime_tabular(two, np.array(row), y, space=SPACE, **options)


def texts(text: Any, y: Any = None, predict: Any = two, **options: Any) -> Callable[[], Any]:
    return lambda: lime_text(predict, text, y, **options)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no text": (texts([]), "there is no text to explain"),
    "None as a text": (texts(None), "texts is a NoneType; give a string, or a list of them"),
    "a number as a text": (texts([3]), "a text is a int; give strings"),
    "no word": (texts("..."), "nothing is left of the text '...' after splitting"),
    "a label too large": (texts("a b", 2), "y has label 2, predict returns 2 outputs: 0 to 1"),
    "a negative label": (texts("a b", -1), "y has label -1, predict returns 2 outputs: 0 to 1"),
    "one output": (
        texts("a b", 1, lambda t: [0.5] * len(t)),
        r"y has label 1, predict returns one output, label 0; for the probability p of a class return \[1 - p, p\]",
    ),
    "labels as outputs": (
        texts("a b", None, lambda t: ["yes"] * len(t)),
        r"predict returned 'yes', a label; return numbers, \(n, K\), such as those of predict_proba",
    ),
    "labels of a row": (
        lambda: lime_tabular(lambda t: np.where(t[:, 0] > 0, "a", "b"), TABLE[:1], space=SPACE),
        r"predict returned '[ab]', a label; return numbers",
    ),
    "a dictionary as outputs": (texts("a b", None, lambda t: {"p": 1}), "predict returned a dict; return numbers"),
    "no probabilities": (texts("a b", None, lambda t: [[2.0, 3]] * len(t), link=log_odds), "log_odds needs prob"),
    "few samples of a text": (texts("a b c d", None, samples=4, ridge=0.0), "samples do not identify .* draw at least"),
    "no samples": (texts("a b", samples=0), "samples is 0; it is a whole number of at least 1"),
    "few samples of a row": (rows([0.1, 0.2], samples=3), "3 samples do not identify 2 weights; draw at least 4"),
    "a longer row": (rows([0.1, 0.2, 0.3]), r"the rows have shape \(1, 3\); the training table has 2 columns"),
    "no row": (rows(np.zeros((0, 2))), "there is no row to explain"),
    "a missing value": (rows([np.nan, 0]), "column 'column 0' is missing in the row; it never was in the training"),
    "an infinite value": (rows([np.inf, 0]), "column 'column 0' is infinite in the row"),
    "a label of a row": (rows([0.1, 0.2], 5), "y has label 5, predict returns 2 outputs"),
    "an infinite training value": (lambda: TabularSpace.learn(np.array([[np.inf], [1.0]])), "holds infinite values"),
    "lists as categories": (
        lambda: TabularSpace.learn(np.array([[1, None], [2, [2]]], dtype=object)), "holds values that are no categories"
    ),
    "no training rows": (lambda: TabularSpace.learn(TABLE[:0]), "the training table has no rows"),
    "a flat training table": (lambda: TabularSpace.learn(TABLE[:, 0]), "the training table has shape"),
    "no part": (lambda: lime_parts(two, []), "there is no part to explain"),
    "one part outside of a list": (lambda: lime_parts(two, text_part("a")), "parts is a TextPart; give a list"),  # type: ignore[arg-type]
    "a text as a part": (lambda: lime_parts(two, ["a b"]), "part 1 is a str; give text_part"),  # type: ignore[list-item]
    "a label of parts": (lambda: lime_parts(two, [text_part("a b")], 2), "y has label 2"),
    "no word in a part": (lambda: text_part("?!"), "nothing is left of the text"),
    "a longer row as a part": (lambda: row_part(SPACE, np.zeros(5)), "the training table has 2 columns"),
    "a missing value in a part": (lambda: row_part(SPACE, np.array([0, np.nan])), "is missing in the row"),
    "an array as an image": (lambda: image_part(np.zeros((1, 4, 4))), "the image is a ndarray; give a tensor"),  # type: ignore[arg-type]
    "segments of another shape": (
        lambda: image_part(torch.zeros(1, 4, 4), segments=torch.zeros(5, 4, dtype=torch.int64)), "segments have shape"
    ),
    "one segment": (
        lambda: image_part(torch.zeros(1, 4, 4), segments=torch.zeros(4, 4, dtype=torch.int64)), "are one segment"
    ),
    "a pick of images": (
        lambda: submodular_pick(lime_image(lambda z: z.flatten(1)[:, :3], IMAGE)), "segments of different images share"
    ),
    "a pick of NaN": (
        lambda: submodular_pick(torch.full((1, 1, 1), torch.nan), keys=[("a",)]), "the weights hold NaN or infinite"
    ),
    "a pick of none": (lambda: submodular_pick(torch.ones(1, 1, 1), keys=[("a",)], budget=0), "budget is 0"),
    "a pick among none": (lambda: submodular_pick(torch.ones(1, 1, 1), keys=[("a",)], most=0), "most is 0"),
    "keys of fewer": (lambda: submodular_pick(torch.ones(2, 1, 1), keys=[("a",)]), "keys name the features of each"),
    "JSON without fields": (lambda: Surrogates.from_json('{"version": 1}'), "is incomplete or damaged"),
    "JSON of another version": (lambda: Surrogates.from_json('{"version": 0}'), "has version 0; this release reads"),
    "stability of another kind": (
        lambda: with_text_stability(rows([0.1, 0.2])(), two), "this explains a table, not a text"
    ),
    "stability of other rows": (
        lambda: with_row_stability(rows([0.1, 0.2])(), two, TABLE[:2], space=SPACE), "there are 2 rows"
    ),
    "stability of other parts": (
        lambda: with_part_stability(texts("a b")(), two, [text_part("a b")]), "give the parts explained"
    ),
}  # fmt: skip


SEGMENTERS: dict[str, tuple[Callable[[], Any], str]] = {
    "slic n": (lambda: slic(n_segments=50), "no option 'n_segments'; did you mean segments.*; its options are s"),  # type: ignore[call-arg]
    "slic many": (lambda: slic(1, 2, 3, 4), "slic was given 4 values; its options are segments, compactness, sigma"),  # type: ignore[call-arg]
    "slic words": (lambda: slic(compactness="high"), "compactness is 'high'; it is a weight of at least"),  # type: ignore[arg-type]
    "slic sigma": (lambda: slic(sigma=-1), "sigma is -1; it is a width of at least 0"),
    "slic flat": (lambda: slic(compactness=0), "compactness is 0"),
    "quickshift": (lambda: quickshift(random_seed=1), "no option 'random_seed'.*; its options are kernel_size, max_"),  # type: ignore[call-arg]
    "quickshift ratio": (lambda: quickshift(ratio=2), "ratio is 2; it is a weight from 0 to 1"),
    "quickshift distance": (lambda: quickshift(max_dist=np.inf), "max_dist is inf"),
    "quickshift seed": (lambda: quickshift(seed=1.5), "seed is 1.5"),  # type: ignore[arg-type]
    "felzenszwalb": (lambda: felzenszwalb(minsize=1), "felzenszwalb has no option 'minsize'; did you mean min_size"),  # type: ignore[call-arg]
    "felzenszwalb size": (lambda: felzenszwalb(min_size=0), "min_size is 0"),
    "felzenszwalb scale": (lambda: felzenszwalb(scale=float("nan")), "scale is nan"),
    "grid": (lambda: grid(size=3), "grid has no option 'size'.*; its options are cells, least"),  # type: ignore[call-arg]
    "grid many": (lambda: grid(1, 2, 3), "grid was given 3 values"),  # type: ignore[call-arg]
}  # fmt: skip


@pytest.mark.parametrize("name", SEGMENTERS)
def test_options_of_segmenters(name: str) -> None:
    call, sentence = SEGMENTERS[name]
    with pytest.raises(BadInput, match=sentence) as refused:
        call()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, sentence = REFUSED[name]
    with pytest.raises(BadInput, match=sentence) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_a_frame_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BadInput, match="needs pandas: pip install pandas"):
        texts("a b")().to_dataframe()


def test_a_pickle_of_another_version() -> None:
    found = texts("a b")()
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.weights, found.weights)
    assert again.to_html() == found.to_html()
    state = found.__getstate__() | {"version": 0}
    with pytest.raises(BadInput, match="has version 0; this release reads version 1"):
        Surrogates.__new__(Surrogates).__setstate__(state)


SAMPLERS = [None, hidden(), conditional(3), neighbours(2), around(), stratified_normal()]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("features", [0, 1])
def test_no_feature_and_one_feature(sampler: Any, features: int) -> None:
    options = {} if sampler is None else {"sampler": sampler}
    space = FLAT if not features else TabularSpace.learn(TABLE[:, :1])
    row = np.full((1, 3), 2.0) if not features else TABLE[:1, :1]
    found = lime_tabular(first, row, space=space, samples=50, ridge=0.01, **options)
    assert found.weights.shape == (1, 1, features)
    assert ("There are no features" in found.to_html()) == (not features)
    assert Surrogates.from_json(found.to_json()).names == found.names
    assert submodular_pick(found, budget=1).index == (0,)


def test_a_flat_function_has_weights_of_0() -> None:
    flat = lime_tabular(two, TABLE[:2], space=SPACE, samples=100)
    assert float(flat.weights.abs().max()) < 1e-12
    for found in (
        with_row_stability(flat, two, TABLE[:2], space=SPACE),
        with_text_stability(texts(["a b", ""])(), two),
        with_part_stability(lime_parts(two, [text_part("")]), two, [text_part("")]),
        with_stability(lime_image(lambda z: z.flatten(1)[:, :3] * 0, IMAGE), lambda z: z.flatten(1)[:, :3] * 0),
    ):
        assert found.stability is not None
        assert {value for value, _, _ in found.stability} == {1.0}
        assert "<svg" in found.to_html() or "There are no features" in found.to_html()


def test_soft_stability_of_texts_rows_and_parts() -> None:
    def alarm(inputs: list[str]) -> list[list[float]]:
        return [[0.5, 0.9 * ("bad" in text) * ("not" not in text)] for text in inputs]

    one = Stability(top=1, r=1)
    found = with_text_stability(lime_text(alarm, "bad not film", 1), alarm, settings=one)
    assert found.stability is not None
    assert found.stability[0] == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    parts: list[Any] = [text_part("bad not"), row_part(SPACE, TABLE[0])]

    def both(inputs: list[str], _: list[Any]) -> list[list[float]]:
        return alarm(inputs)

    mixed = with_part_stability(lime_parts(both, parts, 1), both, parts, settings=one)
    assert mixed.stability is not None
    assert mixed.stability[0][0] == pytest.approx(3 / 4)

    def sign(table: Any) -> Any:
        return np.c_[table[:, 0] > 0, table[:, 0] <= 0] * 1.0

    row = np.array([[3.0, 0.0]])
    steady = with_row_stability(lime_tabular(sign, row, 0, space=SPACE), sign, row, space=SPACE, settings=one)
    assert steady.stability == ((1.0, 1.0, 1.0),)
    regression = lime_tabular(lambda table: table[:, 0], row, space=SPACE)
    assert with_row_stability(regression, lambda table: table[:, 0], row, space=SPACE).stability == ((1.0, 1.0, 1.0),)


def test_a_page_of_parts_and_of_a_row() -> None:
    x = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    quarters = torch.arange(4).reshape(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    parts: list[Any] = [
        text_part("a <b> film"),
        row_part(SPACE, TABLE[0]),
        image_part(x, segments=quarters, baseline=constant(0.0)),
    ]

    def predict(inputs: list[str], table: list[Any], images: list[Any]) -> list[list[float]]:
        total = [
            ("film" in text) + row[0] + float(image[0, :4, :4].mean())
            for text, row, image in zip(inputs, table, images, strict=True)
        ]
        return [[-value, value] for value in total]

    found = lime_parts(predict, parts, 1, samples=400)
    html = found.to_html()
    assert "&lt;" in html
    assert "<mark class=p" in html
    assert "<th>column</th><th>value</th><th>bin</th><th>weight</th>" in html
    assert f"<td>{TABLE[0, 0]:.6g}</td>" in html
    assert html.count("data:image/png") == 2
    assert "4 segments" in html
    assert Surrogates.from_json(found.to_json()).to_html() == html
    assert found[0].to_html() == html


def test_a_wide_table_and_a_long_text_stay_small() -> None:
    wide = np.random.default_rng(1).normal(size=(40, 60))
    space = TabularSpace.learn(wide, names=[f"a column with a long name, number {k}" for k in range(60)])
    found = lime_tabular(lambda table: table[:, :6], wide[:20], [[0, 1, 2, 3, 4, 5]] * 20, space=space, samples=400)
    html = found.to_html(names=[f"row {k}" for k in range(20)])
    assert len(html.encode()) <= 30_000
    assert "24 of 60 columns, by weight" in html
    assert "of 20 are shown" in html
    assert "row 0: predicted" in html
    long = " ".join(f"word{k % 50} and <so> on" for k in range(3000)) + " end"
    text = lime_text(lambda inputs: [[len(t) / 1e5, "end" in t] for t in inputs], long, 1, samples=500)
    page = text.to_html()
    assert len(page.encode()) <= 30_000
    assert "\u2026" in page


def test_narrow_pages_break_no_number() -> None:
    page = rows([0.1, 0.2])().to_html()
    assert ".lime td:last-child{white-space:nowrap}" in page
    assert re.findall(r"<td>[^<]*</td></tr>", page.partition("<th>weight</th>")[2])


def test_several_explanations_by_number() -> None:
    found = texts(["a b", "c", "d e f"])()
    some = found[[2, 0]]
    assert some.content == ("d e f", "a b")
    assert some.weights.shape == (2, 1, 3)
    assert some.flags == (found.flags[2], found.flags[0])


LETTERS = "a good day"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lime_text(sized, LETTERS, hide="[MASK]"), r"hide is '\[MASK\]'; .* mask_token\('\[MASK\]'\)"),  # type: ignore[arg-type]
        (lambda: lime_text(sized, LETTERS, split=r"\W+"), "split is .* such as words"),  # type: ignore[arg-type]
        (lambda: lime_text(sized, LETTERS, split=str.split), "split returns no places"),  # type: ignore[arg-type]
        (lambda: lime_text(sized, LETTERS, unit="types"), "unit is 'types'"),  # type: ignore[arg-type]
        (lambda: lime_text(sized, LETTERS, unit=lambda text, spans: [0]), r"unit returns \(0,\) for 3 pieces"),
        (lambda: lime_text(sized, LETTERS, unit=lambda text, spans: [0, 2, 5]), r"from 0, no gaps"),
        (lambda: lime_text(sized, LETTERS, unit=lambda text, spans: [-1, 0, 1]), r"from 0, no gaps"),
        (lambda: lime_text(sized, LETTERS, "spam"), "y is 'spam'; give numbers of outputs, 0 to 1"),
        (lambda: lime_text(sized, LETTERS, batch=2.5), "batch is 2.5; it is a number of texts"),  # type: ignore[arg-type]
        (lambda: lime_text(3, LETTERS), "predict is a int; give a function"),  # type: ignore[arg-type]
        (lambda: pictured(batch="a"), "batch is 'a'; it is a number of rows"),
        (lambda: pictured(batch=2.5), "batch is 2.5"),
        (lambda: pictured(segments=5), r"segments is 5; give a segmenter, such as grid\(5\)"),
        (lambda: pictured(segments="slic"), r"segments is 'slic'; give a segmenter"),
        (lambda: pictured(sampler=3), "sampler is 3; give a function, such as paired"),
        (lambda: pictured(baseline=0.0), r"baseline is 0.0; give a function, such as segment_mean or constant\(0.0\)"),
        (lambda: grid("3"), "cells is '3'"),  # type: ignore[arg-type]
        (lambda: pictured(kernel="cosine"), r"kernel is 'cosine'; give a function, such as uniform"),
        (lambda: pictured(kernel=lambda z: torch.full((len(z),), torch.nan)), "the weights hold NaN or infinite"),
        (lambda: pictured(score="logit"), "score is 'logit'; give a function, such as true_logit"),
        (lambda: pictured(score=lambda logits, y: logits), r"score returned shape \(1, 3\) for 1 samples; return one"),
        (lambda: pictured(score=lambda logits, y: 1.0), "score returned float for 1 samples"),
        (lambda: pictured(baseline=lambda x: x), r"baseline must take \(x, ids, \*, draw\) .*such as segment_mean"),
        (lambda: pictured(baseline=lambda x, ids, draw: x[:, :, :4]), "the baseline returned shape .*; return the val"),
        (lambda: pictured(baseline=lambda x, ids, draw: 0), "the baseline returned a int"),
        (
            lambda: pictured(sampler=lambda m, s, seed, start: torch.ones(s, m)),
            r"sampler returned a Tensor; return",
        ),
        (lambda: pictured(sampler=lambda m: m), r"sampler must take \(features, samples, seed, \*, start\)"),
        (lambda: pictured(ridge="a"), "ridge is 'a'; it is a number of at least 0"),
        (lambda: pictured(until=5), r"until is 5; give a rule, such as until_stable\(top=5\)"),
        (lambda: pictured(prior=Prior(torch.full((49,), torch.nan), 1.0)), "mean holds NaN or infinite values"),
        (lambda: pictured(prior=Prior(torch.zeros(49), -1.0)), "a precision above 0; this one's is -1.0"),
        (lambda: pictured(y="cat"), "y is 'cat'; give numbers of classes"),
        (lambda: pictured(y=torch.zeros(1, 1, 1).long()), r"y has shape \(1, 1, 1\); give classes to explain"),
        (lambda: slic(0), "segments is 0; it is a number of segments of at least 1"),
        (lambda: constant("red"), "the value of hidden segments is 'red'; give a number"),  # type: ignore[arg-type]
        (lambda: lime_text(sized, b"a b"), "texts is a bytes; give a string"),  # type: ignore[arg-type]
        (lambda: lime_text(sized, LETTERS, link="log_odds"), "link is 'log_odds'; give a function"),  # type: ignore[arg-type]
        (lambda: lime_text(sized, LETTERS, hide=mask_token(5)), r"token is 5; it is a string"),  # type: ignore[arg-type]
        (lambda: lime_text(sized, LETTERS).with_classes(["ham"]), "classes has 1 names, and predict returns 2 outputs"),
        (lambda: lime_text(sized, LETTERS).with_classes("ab"), "classes is 'ab'; give a list of names"),
        (lambda: lime_text(sized, [LETTERS, "b"]).to_html(names=["a"]), "there are 1 names for 2 samples"),
        (lambda: lime_parts(two, [text_part("a b")], link=3), "link is 3; give a function"),  # type: ignore[arg-type]
        (rows([0.1, 0.2], link=3), "link is 3; give a function"),
        (rows([0.1, 0.2], kernel=3), "kernel is 3; give a function"),
        (rows([0.1, 0.2], sampler=3), "sampler is 3; give a function, .* by_bins"),
        (rows([0.1, 0.2], sampler=paired), r"sampler must take \(columns, features, row, samples, seed\) .*by_bins"),
        (rows([0.1, 0.2], sampler=lambda c, f, row, n, seed: row), "sampler returned a list; return perturbed rows"),
        (lambda: lime_tabular(two, [[1, 2], [3]], space=SPACE), "the rows of the table have different lengths"),
        (lambda: lime_tabular(two, ["a", "b"], space=SPACE), "column 'column 0' has 'a', which is no number"),
        (lambda: TabularSpace.learn([[1, 2], [3]]), "the rows of the table have different lengths"),
        (lambda: TabularSpace.learn(TABLE, groups=[[]]), r"group \[\] is empty; groups are lists"),
        (lambda: TabularSpace.learn(TABLE, bins="quartiles"), "bins is 'quartiles'; give a function"),  # type: ignore[arg-type]
        (lambda: TabularSpace.learn(TABLE, bins=lambda v, y: np.array([1.0, 0.0])), r"bins returned \[1.0, 0.0\] for"),
        (lambda: TabularSpace.learn(TABLE, bins=lambda v, y: np.array([np.nan])), r"bins returned \[nan\] for col"),
        (lambda: conditional("a"), "k is 'a'; it is a number of rows of at least 1"),  # type: ignore[arg-type]
        (lambda: around("a"), "scale is 'a'; it is a finite number above 0"),  # type: ignore[arg-type]
        (lambda: neighbours(2, "a"), "k is 'a'; it is a number of rows"),  # type: ignore[arg-type]
        (lambda: Surrogates.from_json(None), "this is no JSON"),  # type: ignore[arg-type]
        (lambda: submodular_pick(None), "weights is a NoneType; give Surrogates"),  # type: ignore[arg-type]
        (lambda: Stability(draws=0), "draws is 0; it is a whole number of at least 1"),
        (lambda: soft_stability(3, torch.ones(2) > 0, 1), "f is a int; give a function"),  # type: ignore[arg-type]
        (lambda: kernel_shap(5, 3), "predict_masks is a int; give a function"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_function_or_number_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make()


def sized(inputs: list[str]) -> list[list[float]]:
    """Return the length of each text, and whether it is good."""
    return [[len(text) / 100, float("good" in text)] for text in inputs]


def pictured(y: Any = None, **options: Any) -> Surrogates:
    """Explain an image of 8 x 8 by a linear model."""
    return lime_image(lambda x: x.flatten(1)[:, :3], torch.rand(1, 1, 8, 8), y, **options)


@pytest.mark.parametrize("y", [1, [1, 1], np.array([1, 1]), torch.tensor([1, 1]), [[1], [1]], np.int64(1)])
def test_classes_of_images_may_be_one_number_a_list_or_an_array(y: Any) -> None:
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = lime_image(lambda z: z.flatten(1)[:, :3], x, y, samples=np.int64(128))  # type: ignore[arg-type]
    assert found.y.tolist() == [[1], [1]]
    assert found.calls.tolist() == [129, 129]


def test_names_of_classes() -> None:
    found = lime_text(sized, [LETTERS, "b"]).with_classes(["long", "good <b>"])
    assert "predicted long" in found.to_html()
    assert "class good &lt;b&gt;" in lime_text(sized, LETTERS, 1).with_classes(found.classes or ()).to_html()
    assert Surrogates.from_json(found[1].to_json()).classes == ("long", "good <b>")


def test_maps_of_segments_may_be_arrays() -> None:
    ids = np.arange(64).reshape(8, 8) // 16 + 1
    found = pictured(segments=ids, samples=50)
    assert found.weights.shape == (1, 1, 4)
    assert found.segments is not None
    assert found.segments.unique().tolist() == [0, 1, 2, 3]
