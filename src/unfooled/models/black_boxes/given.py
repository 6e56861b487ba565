"""Models as people have them: an estimator, or a function that was written for arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.calls import noticing
from unfooled.core.model.classifier import Classifier
from unfooled.models.black_boxes.box import BlackBox
from unfooled.models.black_boxes.estimators import from_estimator, is_estimator

FEW, MANY = 4, 256
"""Samples on which a function is tried, and from whose answers its classes are counted."""


def as_model(model: Any) -> Any:
    """Return an estimator as a black box, and anything else as it is."""
    return from_estimator(model) if is_estimator(model) else model


def function_on_arrays(model: Any, x: Tensor, y: Tensor | None) -> Any | None:
    """Return a function that takes and returns arrays as a black box; None where a model is none.

    For a model that failed with tensors, or returned no tensor. Labels without scores have as many classes as the
    given labels and the answers need, and one more for all other labels.

    Args:
        model: Function without modules, or a `Classifier` of one.
        x: Samples, (B, *D).
        y: Labels, (B,). None: not known.

    Cost: two calls of at most 4 samples, and one of at most 256 where it answers with labels.
    """
    inner: Any = model.module if isinstance(model, Classifier) else model
    if isinstance(inner, nn.Module) or not callable(inner) or modules_of(inner):
        return None
    place = model.normalise if isinstance(model, Classifier) else _same
    try:
        with torch.no_grad():
            answers = inner(place(x[:FEW]).cpu().numpy())
        if isinstance(answers, Tensor):
            return None  # it takes arrays and tensors alike, and what failed has another cause
        classes = _classes(inner, answers, place(x[:MANY]), y)
        box = BlackBox(inner, classes=classes, others=classes is not None)
        with noticing():  # it is said again when the model is inspected
            box(place(x[:FEW]))
            box.noted = False
    except Exception:  # the sentence on the first failure says more
        return None
    if not isinstance(model, Classifier):
        return box
    mean, std = (model.mean, model.std) if model.normalises else (None, None)
    return Classifier(
        box, mean=None if mean is None else mean.tolist(), std=None if std is None else std.tolist(),
        name=model.name, classes=model.classes, input_shape=model.input_shape,
    ).eval()  # fmt: skip


def _same(x: Tensor) -> Tensor:
    return x


def _classes(function: Any, answers: Any, x: Tensor, y: Tensor | None) -> int | None:
    """Return the number of classes of a function that answers with whole numbers; None for scores."""
    rows = np.asarray(answers)
    if rows.ndim != 1 or rows.dtype.kind not in "iub":
        return None
    most = int(np.asarray(function(x.cpu().numpy())).max())
    return max(most, 1, -1 if y is None else int(y.max())) + 1


def no_model(model: Any) -> BadInput:
    """Return the error for an object that is no model."""
    advice = "give a path, a name, a module, a callable or a fitted classifier of scikit-learn"
    if type(model).__name__ == "Booster":
        advice = "give the XGBClassifier or LGBMClassifier, or a function from an array to scores"
    return BadInput(f"the model is a {type(model).__name__}; {advice}")
