"""A sparse linear model of a classifier around one instance, fitted to perturbed samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unfooled.compat.lime import selection
from unfooled.compat.lime.checks import check_finite, native, random_state_of
from unfooled.compat.lime.ridge import fit_ridge, weighted_r2
from unfooled.core.errors import BadInput

__all__ = ["LimeBase"]

Array = npt.NDArray[Any]
METHODS = ("auto", "forward_selection", "highest_weights", "lasso_path", "none")
FORWARD_UP_TO = 6
"""Features up to which "auto" selects them one after another."""


class LimeBase:
    """The linear model that every explainer fits.

    Args:
        kernel_fn: Function from distances to weights.
        verbose: Whether to print the model's answer and the fitted one.
        random_state: Seed, or random stream; the fit draws nothing.
    """

    def __init__(self, kernel_fn: Callable[[Array], Array], verbose: bool = False, random_state: Any = None) -> None:
        self.kernel_fn = kernel_fn
        self.verbose = verbose
        self.random_state = random_state_of(random_state)

    @staticmethod
    def generate_lars_path(weighted_data: Array, weighted_labels: Array) -> tuple[Array, Array]:
        """Return the penalties and the coefficients of the lasso path.

        Args:
            weighted_data: Features, centred and weighted, (S, M).
            weighted_labels: Values to fit, centred and weighted, (S,).
        """
        from sklearn.linear_model import lars_path

        alphas, _, coefficients = lars_path(weighted_data, weighted_labels, method="lasso", verbose=False)
        return alphas, coefficients

    def forward_selection(self, data: Any, labels: Array, weights: Array, num_features: int) -> Array:
        """Return the features that raise the weighted R2 most, one after another.

        Args:
            data: Features, (S, M).
            labels: Values to fit, (S,).
            weights: Weight of each sample, (S,).
            num_features: Features wanted.
        """
        return selection.forward(data, labels, weights, num_features)

    def feature_selection(self, data: Any, labels: Array, weights: Array, num_features: int, method: str) -> Array:
        """Return the features that the explanation names.

        Args:
            data: Features, (S, M).
            labels: Values to fit, (S,).
            weights: Weight of each sample, (S,).
            num_features: Features wanted.
            method: "forward_selection", "highest_weights", "lasso_path", "none" (all), or "auto": the first for at
                most 6 features, else the second.
        """
        if method not in METHODS:
            raise BadInput(f"feature_selection must be one of {', '.join(METHODS)}, not {method!r}")
        if method == "none":
            return np.arange(data.shape[1])
        if method == "lasso_path":
            return selection.lasso_path(data, labels, weights, num_features, self.generate_lars_path)
        if method == "forward_selection" or (method == "auto" and num_features <= FORWARD_UP_TO):
            return self.forward_selection(data, labels, weights, num_features)
        return selection.highest(data, labels, weights, num_features)

    def explain_instance_with_data(
        self,
        neighborhood_data: Any,
        neighborhood_labels: Array,
        distances: Array,
        label: int,
        num_features: int,
        feature_selection: str = "auto",
        model_regressor: Any = None,
    ) -> tuple[float, list[tuple[int, float]], float, Array]:
        """Return the explanation of one label: intercept, weights, R2 in sample, and the fitted answer at the instance.

        Args:
            neighborhood_data: Features of the samples, the instance first, (S, M), dense or sparse.
            neighborhood_labels: Model's answers, (S, K).
            distances: Distance of each sample to the instance, (S,).
            label: Column of the answers to be explained.
            num_features: Features that the explanation names, at most.
            feature_selection: How they are selected; see the method of that name.
            model_regressor: Regressor of scikit-learn to fit, with `coef_` and `sample_weight`. None: ridge with a
                penalty of 1.

        Returns:
            The intercept; (feature, weight), the largest |weight| first; the weighted R2; an array of one value.
        """
        weights = sample_weights(self.kernel_fn(distances))
        y = np.asarray(neighborhood_labels)[:, label]
        check_finite(y)
        used = np.asarray(
            self.feature_selection(neighborhood_data, y, weights, num_features, feature_selection), dtype=np.intp
        )
        block, row = neighborhood_data[:, used], neighborhood_data[0, used].reshape(1, -1)
        intercept, coefficients, score, local = fit(block, y, weights, row, model_regressor)
        if self.verbose:
            print("Intercept", intercept)  # noqa: T201
            print("Prediction_local", local)  # noqa: T201
            print("Right:", native(y[0]))  # noqa: T201
        pairs = [(int(feature), float(weight)) for feature, weight in zip(used, coefficients, strict=True)]
        return intercept, sorted(pairs, key=lambda pair: abs(pair[1]), reverse=True), score, local


def explain_labels(
    result: Any,
    base: LimeBase,
    labels: Iterable[int],
    samples: tuple[Any, Array, Array],
    num_features: int,
    feature_selection: str,
    model_regressor: Any,
) -> None:
    """Write the explanations of some labels into a result; score and fitted answer are those of the last one.

    Args:
        result: explanation to complete.
        base: linear model.
        labels: labels to explain.
        samples: features, the model's answers, and distances to the instance.
        num_features: features that an explanation names, at most.
        feature_selection: how they are selected.
        model_regressor: regressor of scikit-learn; None: ridge.
    """
    data, answer, distances = samples
    for label in map(int, labels):
        intercept, weights, result.score, result.local_pred = base.explain_instance_with_data(
            data,
            answer,
            distances,
            label,
            num_features,
            model_regressor=model_regressor,
            feature_selection=feature_selection,
        )
        result.intercept[label], result.local_exp[label] = intercept, weights


def fit(block: Any, y: Array, weights: Array, row: Any, regressor: Any) -> tuple[float, Array, float, Array]:
    """Return intercept, coefficients, R2 in sample and the fitted answer at the instance.

    Sparse rows are fitted by scikit-learn, as in the original: its solver for them stops at a tolerance of 1e-4, and
    the exact solution differs from that in the fifth digit.
    """
    if regressor is None and sparse.issparse(block) and block.shape[1] > 0:
        from sklearn.linear_model import Ridge

        regressor = Ridge(alpha=1)
    if regressor is None or block.shape[1] == 0:
        x, first = (m.toarray() if sparse.issparse(m) else np.asarray(m, dtype=float) for m in (block, row))
        intercept, coefficients = fit_ridge(x, y, weights, 1.0)
        return (
            intercept,
            coefficients,
            weighted_r2(y, x @ coefficients + intercept, weights),
            first @ coefficients + intercept,
        )
    if not hasattr(regressor, "fit"):
        raise BadInput(f"model_regressor must be a regressor of scikit-learn, not {regressor!r}")
    regressor.fit(block, y, sample_weight=weights)
    if not hasattr(regressor, "coef_"):
        raise BadInput(f"model_regressor must be linear, with coef_ and intercept_; {type(regressor).__name__} is not")
    score, local = float(regressor.score(block, y, sample_weight=weights)), np.ravel(regressor.predict(row))
    return float(np.ravel(regressor.intercept_)[0]), np.ravel(regressor.coef_), score, local


def sample_weights(weights: Any) -> Array:
    """Return the weights that the kernel gave, or raise an error if they cannot weight anything."""
    array = np.asarray(weights, dtype=float)
    if not np.isfinite(array).all() or (array < 0).any() or array.sum() == 0:
        raise BadInput("the kernel must give finite weights of at least 0, not all 0; check kernel and kernel_width")
    return array
