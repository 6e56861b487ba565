"""The notebooks of LIME that no example answers: models of frames, images, faces, regression, sequences, hypercubes."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import make_pipeline
from tests.conftest import tiny_net
from torch import nn

from unfooled.compat.lime import LimeImageExplainer, LimeTabularExplainer, RecurrentTabularExplainer
from unfooled.data import load_data
from unfooled.explanations import TabularSpace, lime_image, lime_tabular
from unfooled.explanations.lime import hidden, stratified_normal

DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")).resolve()
IRIS = load_iris()


def squares(image: Any, side: int = 2) -> Any:
    rows, columns = np.indices(image.shape[:2]) // side
    return rows * -(-image.shape[1] // side) + columns


# Models of frames, as H2O's: they take a frame and return one with columns predict, p0, p1


class FrameModel:
    """A model that only frames may be given to, and that answers with a frame."""

    def __init__(self, frame: Any, y: Any) -> None:
        self.columns, self.forest = list(frame.columns), RandomForestClassifier(10, random_state=0)
        self.forest.fit(frame.to_numpy(), y)

    def predict(self, frame: Any) -> Any:
        import pandas

        assert list(frame.columns) == self.columns
        p = self.forest.predict_proba(frame.to_numpy())
        return pandas.DataFrame({"predict": p.argmax(1), **{f"p{k}": p[:, k] for k in range(p.shape[1])}})


def test_a_model_of_frames() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame(IRIS.data, columns=IRIS.feature_names)
    model = FrameModel(frame, IRIS.target)

    def wrapped(rows: Any) -> Any:  # as in the notebook: an array in, an array out
        return model.predict(pandas.DataFrame(rows, columns=model.columns))[["p0", "p1", "p2"]].to_numpy()

    explainer = LimeTabularExplainer(IRIS.data, feature_names=model.columns, random_state=0)
    found = explainer.explain_instance(IRIS.data[0], wrapped, num_features=2, top_labels=1, num_samples=300)
    assert "petal" in found.as_list(label=0)[0][0]

    own = lime_tabular(  # native: the frame goes to the model as it is, and its frame is read
        lambda rows: model.predict(rows)[["p0", "p1", "p2"]],
        frame.iloc[:2],
        0,
        space=TabularSpace.learn(frame),
        samples=300,
    )
    assert "petal" in own[0].as_list()[0][0]


# Images: any function of (n, H, W, 3)


def test_the_calls_of_the_image_notebooks() -> None:
    """`hide_color=0`, the forms of `get_image_and_mask`, and the heat map by segment ids."""
    net = tiny_net(3, (3, 12, 12)).eval()

    def batch_predict(images: Any) -> Any:  # the PyTorch notebook's, and Keras' `model.predict` alike
        pixels = torch.stack([torch.as_tensor(image, dtype=torch.float32).permute(2, 0, 1) for image in images])
        with torch.no_grad():
            return net(pixels).softmax(1).numpy()

    image = np.random.RandomState(0).rand(12, 12, 3)
    found = LimeImageExplainer(random_state=1).explain_instance(
        image, batch_predict, top_labels=2, hide_color=0, num_samples=200, segmentation_fn=squares
    )
    label = (found.top_labels or [-1])[0]
    assert label == batch_predict([image]).argmax()
    heat = np.vectorize(dict(found.local_exp[label]).get)(found.segments)
    assert heat.shape == (12, 12)
    forms: list[dict[str, Any]] = [
        {"positive_only": True, "num_features": 5, "hide_rest": True},
        {"positive_only": True, "num_features": 5, "hide_rest": False},
        {"positive_only": False, "num_features": 10, "hide_rest": False},
        {"positive_only": False, "negative_only": True, "num_features": 5, "hide_rest": False},
        {"positive_only": False, "num_features": 1000, "hide_rest": False, "min_weight": float(np.abs(heat).mean())},
    ]
    for form in forms:
        shown, mask = found.get_image_and_mask(label, **form)
        assert shown.shape == image.shape
        assert mask.shape == (12, 12)
        assert set(np.unique(mask)) <= {-1, 0, 1}
        assert mask.any()
        if form["positive_only"]:
            assert (heat[mask == 1] > 0).all()
        if form["hide_rest"]:
            assert (shown[mask == 0] == 0).all()


def test_a_forest_on_grey_digits() -> None:
    """MNIST's notebook: a forest behind a step that turns three channels into one, on 8 x 8 digits."""
    digits = load_digits()
    forest = RandomForestClassifier(20, random_state=0).fit(digits.data / 16, digits.target)

    def predict(images: Any) -> Any:
        return forest.predict_proba(np.asarray(images)[..., 0].reshape(len(images), -1))

    image = digits.images[0] / 16
    found = LimeImageExplainer(random_state=0).explain_instance(
        image, predict, top_labels=3, hide_color=0, num_samples=300, segmentation_fn=squares
    )
    assert found.top_labels is not None
    assert found.top_labels[0] == digits.target[0]
    assert len(found.top_labels) == 3
    assert found.image.shape == (8, 8, 3)


@pytest.mark.skipif(not (DATA / "gtsrb_subset.npz").is_file(), reason="UNFOOLED_DATA has no gtsrb_subset.npz")
def test_faces_like_images_by_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faces' notebook on traffic signs: PCA and a forest, slic from segment 1 on, and `min_weight`."""
    segmentation = pytest.importorskip("skimage.segmentation", reason="needs scikit-image")
    monkeypatch.setenv("UNFOOLED_DATA", str(DATA))
    x, y = load_data("gtsrb", "train", n=300)
    images = x.permute(0, 2, 3, 1).double().numpy()
    model = make_pipeline(PCA(20, random_state=0), RandomForestClassifier(20, random_state=0))
    model.fit(images.reshape(len(images), -1), y.numpy())

    def predict(z: Any) -> Any:
        return model.predict_proba(np.asarray(z).reshape(len(z), -1))

    def slic(image: Any) -> Any:
        return segmentation.slic(image, n_segments=100, compactness=1, sigma=1, start_label=0)

    found = LimeImageExplainer(random_state=0).explain_instance(
        images[0], predict, top_labels=3, num_samples=200, segmentation_fn=slic
    )
    label = (found.top_labels or [-1])[0]
    weights = dict(found.local_exp[label])
    least = sorted(weights.values())[-4]
    _, mask = found.get_image_and_mask(label, positive_only=True, num_features=10, min_weight=least)
    assert 1 <= len(np.unique(found.segments[mask == 1])) <= 4


# Tables and sequences


def test_a_regression() -> None:
    diabetes = load_diabetes()
    forest = RandomForestRegressor(20, random_state=0).fit(diabetes.data, diabetes.target)
    explainer = LimeTabularExplainer(
        diabetes.data, feature_names=diabetes.feature_names, mode="regression", class_names=["progress"], random_state=0
    )
    found = explainer.explain_instance(diabetes.data[0], forest.predict, num_features=5, num_samples=400)
    leading = [name for name, _ in found.as_list()]
    assert len(leading) == 5
    assert any("bmi" in name or "s5" in name for name in leading[:3])
    assert found.predicted_value is not None
    assert found.min_value is not None
    assert found.max_value is not None
    assert found.min_value <= found.predicted_value <= found.max_value
    assert found.predicted_value == pytest.approx(forest.predict(diabetes.data[:1])[0])
    page = found.as_html(show_table=True)
    assert "bmi" in page
    own = lime_tabular(
        forest.predict, diabetes.data[:1], space=TabularSpace.learn(diabetes.data, names=diabetes.feature_names),
        samples=400,
    )  # fmt: skip
    assert own.seen is not None
    assert float(own.seen[0, 0]) <= float(own.prediction[0, 0]) <= float(own.seen[0, 1])


def carbon_dioxide() -> Any:
    """Detrended CO2 a week, of the data folder; else a series like it."""
    path = DATA / "text_tabular" / "co2_data.csv"
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            return np.array([float(row["co2_detrended"]) for row in csv.DictReader(lines)])
    weeks = np.arange(2000)
    return 3 * np.sin(2 * np.pi * weeks / 52) + np.random.RandomState(0).randn(2000) / 3


class Rising(nn.Module):
    """An LSTM that tells whether the series will rise."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
        return logits


def test_a_recurrent_network() -> None:
    series, length = carbon_dioxide()[:600], 12
    windows = np.stack([series[k : k + length, None] for k in range(len(series) - length - 4)]) / series.std()
    y = torch.as_tensor([int(series[k + length + 4 - 1] > series[k + length - 1]) for k in range(len(windows))])
    torch.manual_seed(0)
    net, x = Rising(), torch.as_tensor(windows, dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert float((net(x).argmax(1) == y).float().mean()) > 0.7

    def predict(rows: Any) -> Any:
        assert rows.shape[1:] == (length, 1)
        with torch.no_grad():
            return net(torch.as_tensor(rows, dtype=torch.float32)).softmax(1).numpy()

    explainer = RecurrentTabularExplainer(
        windows, training_labels=y.numpy(), feature_names=["CO2"], discretize_continuous=True,
        class_names=["falling", "rising"], discretizer="decile", random_state=0,
    )  # fmt: skip
    found = explainer.explain_instance(windows[30], predict, num_features=5, labels=(1,), num_samples=500)
    names = [name for name, _ in found.as_list()]
    assert all("CO2_t-" in name for name in names)
    assert any(f"CO2_t-{k}" in names[0] for k in range(4)), "the last weeks decide"
    own = lime_tabular(  # native: each week is a column, and weeks may form groups
        lambda rows: predict(np.asarray(rows)[:, :, None]),
        windows[30:31, :, 0],
        1,
        space=TabularSpace.learn(windows[:, :, 0], groups=[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        sampler=hidden(),
        samples=500,
    )
    assert own.weights.shape == (1, 1, 3)
    assert own.names[0][0].count(" and ") == 3
    assert own.weights.abs().amax() > 0.01


def test_a_latin_hypercube_around_a_row() -> None:
    """Weights of a nearly linear probability, from a hypercube around the row."""
    coefficients = np.array([1.0, -2.0, 0.5, 0.0])

    def predict(rows: Any) -> Any:
        p = 1 / (1 + np.exp(-(np.asarray(rows) - IRIS.data.mean(0)) @ coefficients / 4))
        return np.stack([1 - p, p], 1)

    space = TabularSpace.learn(IRIS.data, names=IRIS.feature_names)
    found = lime_tabular(predict, IRIS.data[:1], 1, space=space, sampler=stratified_normal(), samples=400)
    weights = found.weights[0, 0] / torch.as_tensor(IRIS.data.std(0))
    assert (weights.sign()[:3] == torch.as_tensor(coefficients).sign()[:3]).all()
    assert abs(float(found.weights[0, 0, 3])) < 3 * float(found.se[0, 0, 3]) + 1e-3


def test_images_of_any_callable_natively() -> None:
    forest = RandomForestClassifier(10, random_state=0).fit(load_digits().data / 16, load_digits().target)
    x = torch.as_tensor(load_digits().images[:2, None] / 16, dtype=torch.float32)
    found = lime_image(lambda z: torch.as_tensor(forest.predict_proba(z.flatten(1).numpy())), x, samples=128)
    assert found.y[:, 0].tolist() == load_digits().target[:2].tolist()
    assert (found.weights.abs().amax(2) > 0.01).all()
