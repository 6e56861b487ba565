"""A few explanations that together cover what matters in many: the submodular pick.

c(V) = sum_f 1[some i in V: W_if != 0] I_f,   I_f = sqrt(sum_i |W_if|)            greedily maximised
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from unfooled.core.errors import BadInput

__all__ = ["SubmodularPick"]

Array = npt.NDArray[Any]


class SubmodularPick:
    """Explanations of many instances, and those that cover the most.

    Weights are summed over labels with their sign and keyed by name, and the last of several equally good explanations
    is taken, as in the original.

    Args:
        explainer: Explainer of texts or tables.
        data: Instances, one an entry.
        predict_fn: Function from instances to probabilities, or values in a regression.
        method: "sample" (by numpy's global stream) or "full".
        sample_size: Instances to explain with "sample".
        num_exps_desired: Explanations to pick.
        num_features: Features that an explanation names, at most.
        kwargs: Options of `explain_instance`; `top_labels` is 1 unless given.

    Attributes:
        explanations: All explanations.
        sp_explanations: Those picked.
        V: Their places in `explanations`.
    """

    def __init__(
        self,
        explainer: Any,
        data: Any,
        predict_fn: Callable[..., Any],
        method: str = "sample",
        sample_size: int = 1000,
        num_exps_desired: int = 5,
        num_features: int = 10,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("top_labels", 1)
        wanted = whole_number(num_exps_desired)
        self.explanations: list[Any] = []
        for index in indices(data, method, sample_size):
            made = explainer.explain_instance(data[index], predict_fn, num_features=num_features, **kwargs)
            if not hasattr(made, "as_list"):
                raise BadInput(
                    "SubmodularPick needs features that instances share, such as words or columns; the superpixels of "
                    "two images are different features"
                )
            self.explanations.append(made)
        if wanted > len(self.explanations):
            warnings.warn(f"num_exps_desired is {wanted}; only {len(self.explanations)} were made", stacklevel=2)
        self.V = pick(weight_matrix(self.explanations), min(wanted, len(self.explanations)))
        self.sp_explanations = [self.explanations[k] for k in self.V]


def whole_number(value: Any) -> int:
    """Return the number of explanations to pick, or raise an error."""
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise BadInput(f"num_exps_desired must be an integer, not {value!r}") from error


def indices(data: Any, method: str, sample_size: int) -> Array:
    """Return the instances to explain.

    Args:
        data: instances.
        method: "sample" or "full".
        sample_size: instances to draw.
    """
    if hasattr(data, "iloc"):
        raise BadInput("data must be a list or an array of instances, not a data frame: pass data.to_numpy()")
    count = data.shape[0] if hasattr(data, "shape") else len(data)
    if method == "full":
        return np.arange(count)
    if method != "sample":
        raise BadInput(f'method must be "sample" or "full", not {method!r}')
    if sample_size > count:
        warnings.warn(f"sample_size is {sample_size}; all {count} instances are explained", stacklevel=3)
    order = np.arange(count)
    np.random.shuffle(order)  # noqa: NPY002  # the original's draw, from the global stream
    return order[:sample_size]


def weight_matrix(explanations: list[Any]) -> Array:
    """Return the weights, (explanations, names), summed over labels."""
    column: dict[Any, int] = {}
    entries = []
    for row, made in enumerate(explanations):
        for label in made.available_labels() if made.mode == "classification" else [1]:
            for name, weight in made.as_list(label=label):
                entries.append((row, column.setdefault(name, len(column)), weight))
    weights = np.zeros((len(explanations), len(column)))
    for row, place, weight in entries:
        weights[row, place] += weight
    return weights


def pick(weights: Array, count: int) -> list[int]:
    """Return the rows that greedily cover the most; the last one of several equal ones.

    Args:
        weights: weight of each feature in each explanation.
        count: rows to pick.
    """
    importance = np.sum(np.abs(weights), axis=0) ** 0.5
    covers = weights != 0
    covered = np.zeros(weights.shape[1], dtype=bool)
    picked: list[int] = []
    for _ in range(count):
        best, gain = -1, 0.0
        for row in range(len(weights)):
            if row not in picked and (total := float(np.dot(covered | covers[row], importance))) >= gain:
                best, gain = row, total
        picked.append(best)
        covered |= covers[best]
    return picked
