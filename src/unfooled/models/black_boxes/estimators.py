"""Estimators of scikit-learn, XGBoost and others with their methods, as models of tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.models.black_boxes.box import Array, BlackBox


def is_estimator(value: Any) -> bool:
    """Return whether a value has the methods of an estimator and is no function."""
    return not callable(value) and callable(getattr(value, "predict", None)) and hasattr(value, "fit")


def from_estimator(estimator: Any) -> BlackBox:
    """Return a fitted classifier as a black box of scores, or of labels where it has no scores.

    Scores are those of `decision_function` where it has one for each class, else of `predict_proba`.

    Args:
        estimator: Fitted classifier with the methods of scikit-learn, such as a forest, a pipeline or an XGBClassifier.
            Samples are passed as rows, (B, F).

    Raises:
        BadInput: It is not fitted, no classifier, or has several outputs; in a call: another number of features.
    """
    name = type(estimator).__name__
    labels = _labels(estimator, name)
    expected = getattr(estimator, "n_features_in_", None)
    method, single = _method(estimator, labels, expected)
    ask = _quietly(method)

    def answer(rows: Array) -> Any:
        if isinstance(expected, (int, np.integer)) and rows.shape[1] != expected:
            raise BadInput(f"{name} was fitted to {expected} features, the samples have {rows.shape[1]} values each")
        return ask(rows)

    return BlackBox(answer, classes=labels, single=single, flat=True, name=name, identity=_identity(estimator))


def _labels(estimator: Any, name: str) -> list[Any]:
    """Return the labels of a fitted classifier in the order of its scores."""
    labels = getattr(estimator, "classes_", None)
    if labels is None:
        fitted = any(key.endswith("_") and not key.startswith("_") for key in getattr(estimator, "__dict__", {}))
        why = "is no classifier (it has no classes_)" if fitted else "is not fitted; call fit first"
        raise BadInput(f"the {name} {why}")
    if isinstance(labels, (list, tuple)) and labels and np.ndim(labels[0]):
        raise BadInput(f"the {name} has {len(labels)} outputs; audit one of them")
    found: list[Any] = np.asarray(labels).tolist()
    return found


def _method(estimator: Any, labels: list[Any], expected: Any) -> tuple[Callable[[Array], Any], bool]:
    """Return the method to ask, and whether it gives a single score for two classes."""
    scores = getattr(estimator, "decision_function", None)
    if callable(scores) and isinstance(expected, (int, np.integer)):
        try:
            shape = np.shape(_quietly(scores)(np.full((2, int(expected)), 0.5, dtype=np.float32)))
        except Exception:  # whatever a step of a pipeline does with such a row
            shape = ()
        if shape == (2, len(labels)) or (shape == (2,) and len(labels) == 2):
            return scores, shape == (2,)
    probabilities = getattr(estimator, "predict_proba", None)
    return (probabilities if callable(probabilities) else estimator.predict), False


def _quietly(method: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Return a method without the warning that rows have no names of features."""

    def ask(rows: Array) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*valid feature names.*")
            return method(rows)

    return ask


def _identity(estimator: Any) -> str:
    """Return a hash of an estimator: its settings and all that it learned."""
    import joblib  # with scikit-learn; its import takes a tenth of a second

    try:
        return str(joblib.hash(estimator))
    except Exception:  # an estimator that cannot be pickled
        return repr(estimator)
