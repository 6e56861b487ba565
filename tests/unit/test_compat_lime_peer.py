"""`unfooled.compat.lime` beside lime 0.2.0.1 itself, where that is installed."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from tests.reference import lime_cases as cases
from tests.unit.test_compat_lime import RECORD, agree

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

OURS = cases.modules("unfooled.compat.lime")


@pytest.fixture(scope="module")
def original() -> Any:
    for name, module in list(sys.modules.items()):  # left by `install()` in this process
        if name.partition(".")[0] == "lime" and module.__name__.startswith("unfooled."):
            del sys.modules[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("skimage", reason="needs scikit-image: pip install lime==0.2.0.1 scikit-image")
        pytest.importorskip("lime", reason="needs lime: pip install lime==0.2.0.1")
        return cases.modules("lime")


@pytest.mark.parametrize("name", cases.CASES)
def test_explanations_agree(original: Any, name: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        theirs = cases.summary(cases.CASES[name](original))
    agree(cases.summary(cases.CASES[name](OURS)), theirs, name)
    agree(theirs, RECORD["cases"][name], f"recorded: {name}")


def test_names_are_those_recorded(original: Any) -> None:
    assert cases.signatures(original) == RECORD["names"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3])
def test_flat_images_agree(original: Any, value: float, dtype: Any) -> None:
    """All answers are equal but for rounding, which decides the score; so the images are summed in the same order."""

    def mean(x: Any) -> Any:
        return np.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], axis=1)

    def sure(x: Any) -> Any:
        return np.tile([[value, 1 - value]], (len(x), 1))

    image = np.full((16, 16, 3), value).astype(dtype)
    for model in (mean, sure):
        for samples in (20, 300):
            made = []
            for lime in (original, OURS):
                explainer = lime.lime_image.LimeImageExplainer(random_state=1)
                with contextlib.redirect_stderr(io.StringIO()):
                    found = explainer.explain_instance(
                        image, model, num_samples=samples, segmentation_fn=cases.squares, num_features=5
                    )
                made.append((float(found.score), float(found.local_pred[0])))
            assert made[1] == pytest.approx(made[0], abs=1e-6), (model.__name__, samples)


@pytest.mark.parametrize("random_seed", [None, 3])
def test_the_default_segmentation_agrees(original: Any, random_seed: int | None) -> None:
    """quickshift of scikit-image, on a grey and on a coloured picture."""
    rows, columns = np.indices((48, 48))
    grey = np.kron(np.random.RandomState(0).rand(6, 6), np.ones((8, 8)))
    picture = np.stack([grey, rows / 48, (columns + rows) % 16 / 16], axis=-1)

    def model(x: Any) -> Any:
        return cases.softmax(np.stack([x[:, 10:30, 10:30].mean((1, 2, 3)), x[:, :10].mean((1, 2, 3))], axis=1) * 3)

    for image in (grey, picture, (picture * 255).astype(np.uint8)):
        made = []
        for lime in (original, OURS):
            explainer = lime.lime_image.LimeImageExplainer(random_state=4)
            with contextlib.redirect_stderr(io.StringIO()):
                made.append(explainer.explain_instance(image, model, num_samples=60, random_seed=random_seed))
        assert (made[0].segments == made[1].segments).all()
        assert len(np.unique(made[0].segments)) > 1
        agree(cases.summary(made[1]), cases.summary(made[0]))
        for options in ({}, {"positive_only": False}, {"hide_rest": True, "num_features": 2}):
            for a, b in zip(*(m.get_image_and_mask(1, **options) for m in made), strict=True):
                assert (a == b).all()
                assert a.dtype == b.dtype


@pytest.mark.parametrize("seed", range(8))
def test_random_tables_and_models_agree(original: Any, seed: int) -> None:
    """Constant columns, copies, constant models, wide tables; every way to select."""
    rng = np.random.RandomState(seed)
    width = int(rng.randint(2, 15))
    data = np.round(rng.randn(int(rng.randint(8, 60)), width), int(rng.randint(0, 4)))
    if seed % 3 == 0:
        data[:, 0] = 1.0
    direction = rng.randn(width, 3) * (seed != 5)
    options = {
        "discretize_continuous": seed % 4 != 3,
        "discretizer": ("quartile", "decile")[seed % 2],
        "random_state": seed,
    }
    for selection in ("forward_selection", "highest_weights", "lasso_path", "none", "auto"):
        made = [
            lime.lime_tabular.LimeTabularExplainer(data, feature_selection=selection, **options).explain_instance(
                data[1], lambda x: cases.softmax(np.tanh(x @ direction)), num_samples=80, num_features=4, top_labels=2
            )
            for lime in (original, OURS)
        ]
        agree(cases.summary(made[1]), cases.summary(made[0]), selection)


@pytest.mark.parametrize("seed", range(4))
def test_random_texts_agree(original: Any, seed: int) -> None:
    rng = np.random.RandomState(seed)
    words = [f"w{k}" for k in range(20)] + ["It's", "naïve", "日本", "a-b"]
    text = "".join(
        str(rng.choice(words)) + str(rng.choice([" ", ", ", "\n", " -- "])) for _ in range(int(rng.randint(1, 60)))
    )
    for options in (
        {},
        {"bow": False},
        {"char_level": True},
        {"char_level": True, "bow": False},
        {"split_expression": r"\s+"},
    ):
        model = cases.letter_model if options.get("char_level") else cases.word_model
        made = [
            lime.lime_text.LimeTextExplainer(random_state=seed, **options).explain_instance(text, model, num_samples=80)
            for lime in (original, OURS)
        ]
        agree(cases.summary(made[1]), cases.summary(made[0]), str(options))
        assert made[1].as_list(positions=True)[0][0] == str(made[0].as_list(positions=True)[0][0])


@pytest.mark.parametrize("kind", ["table", "recurrent"])
def test_categories_that_are_no_whole_numbers_agree(original: Any, kind: str) -> None:
    draw = np.random.RandomState(0)
    table = np.stack([draw.rand(80), draw.randint(0, 3, 80) + 0.5], axis=1)
    windows = np.stack([table[k : k + 4] for k in range(70)])

    def model(x: Any) -> Any:
        last = np.asarray(x, dtype=float).reshape(len(x), -1)[:, -2:]
        return cases.softmax(np.stack([last[:, 0], last[:, 1] / 2], axis=1))

    made = []
    for lime in (original, OURS):
        if kind == "table":
            explainer = lime.lime_tabular.LimeTabularExplainer(table, categorical_features=[1], random_state=0)
            found = explainer.explain_instance(table[3], model, num_samples=60)
        else:
            explainer = lime.lime_tabular.RecurrentTabularExplainer(
                windows, training_labels=None, feature_names=["a", "b"], categorical_features=[1], random_state=0
            )
            found = explainer.explain_instance(windows[3], model, num_samples=60)
        made.append([(str(name), float(weight)) for name, weight in found.as_list()])
    assert [name for name, _ in made[1]] == [name for name, _ in made[0]]
    assert [weight for _, weight in made[1]] == pytest.approx([weight for _, weight in made[0]], abs=1e-6)
