"""Checks of arguments and of the answers of prediction functions, and conversion to plain Python values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unfooled.core.errors import BadInput

Array = npt.NDArray[Any]


def random_state_of(seed: Any) -> np.random.RandomState:
    """Return the random stream of a seed.

    Args:
        seed: an integer, a `RandomState`, or None: numpy's global stream.
    """
    if seed is None or seed is np.random:
        state: np.random.RandomState = np.random.mtrand._rand
        return state
    if isinstance(seed, np.random.RandomState):
        return seed
    if isinstance(seed, Integral):
        return np.random.RandomState(int(seed))
    raise BadInput(f"random_state must be an integer, a numpy RandomState or None, not {seed!r}")


def native(value: Any) -> Any:
    """Return a numpy scalar as a Python one; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def at_least_one(num_samples: Any) -> int:
    """Return the number of samples, or raise an error."""
    if not isinstance(num_samples, Integral) or num_samples < 1:
        raise BadInput(f"num_samples must be an integer of at least 1 (the instance itself), not {num_samples!r}")
    return int(num_samples)


def check_request(predict: Any, num_samples: Any, num_features: Any, top_labels: Any) -> None:
    """Raise an error unless the model is a function and the numbers are whole numbers."""
    if not callable(predict):
        raise BadInput(f"the prediction function is a {type(predict).__name__}; pass a function, such as predict_proba")
    at_least_one(num_samples)
    for name, value in (("num_features", num_features), ("top_labels", top_labels)):
        if not isinstance(value, Integral) and not (name == "top_labels" and value is None):
            raise BadInput(f"{name} must be an integer, not {value!r}")


def array_of(answer: Any) -> Array:
    """Return what a model answered as an array; tensors of any device, with or without gradients, too."""
    if hasattr(answer, "detach") and hasattr(answer, "cpu"):
        answer = answer.detach().cpu()
        answer = answer.float() if answer.is_floating_point() and answer.element_size() < 4 else answer
    return np.asarray(answer)


def answers(predict: Callable[..., Any], inputs: Any, batch: int | None) -> Array:
    """Return what the user's function answers, one row an input.

    Args:
        predict: function from inputs to an array.
        inputs: list, array or sparse matrix.
        batch: inputs a call. None: all in one call.

    Raises:
        BadInput: another number of rows than of inputs.
    """
    total = len(inputs) if isinstance(inputs, list) else inputs.shape[0]
    if batch is not None and batch < 1:
        raise BadInput(f"predict_batch must be at least 1 or None, not {batch}")
    step = batch or max(total, 1)
    parts = [array_of(predict(inputs[start : start + step])) for start in range(0, total, step)]
    return one_row_each(parts, total)


def one_row_each(parts: Sequence[Array], total: int) -> Array:
    """Return the answers to all calls as one array, or raise an error if there are not as many as inputs."""
    answer = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if answer.ndim == 0 or len(answer) != total:
        got = "a single value" if answer.ndim == 0 else f"{len(answer)} rows"
        raise BadInput(f"the prediction function must return one row for each of {total} inputs; it returned {got}")
    return answer


def check_probabilities(answer: Array, labels: Iterable[Any] | None) -> None:
    """Raise an error unless the answer has a column for every label.

    Args:
        answer: what the model returned, (S, K).
        labels: labels to be explained. None: they will be taken from the answer.
    """
    if answer.ndim == 1:
        raise BadInput(
            "the prediction function returned one number for each input; return one column a class, for two classes "
            "np.stack([1 - p, p], axis=1)"
        )
    if answer.ndim != 2 or answer.shape[1] == 0:
        raise BadInput(f"the prediction function must return (samples, classes); it returned shape {answer.shape}")
    classes = answer.shape[1]
    for label in labels if labels is not None else ():
        if not isinstance(label, Integral):
            raise BadInput(f"labels must be column numbers (integers), not {label!r}")
        if not -classes <= label < classes:
            more = "; for two classes return np.hstack([1 - p, p])" if classes == 1 else ""
            raise BadInput(f"label {label} does not exist: the prediction function returns {classes} column(s){more}")


def labels_of(result: Any, answer: Array, labels: Iterable[Any] | None, top_labels: int | None) -> list[int]:
    """Return the labels to explain, and write those asked for by number, and the probabilities, into the result.

    Args:
        result: explanation to complete.
        answer: what the model returned, (S, K).
        labels: labels asked for by name of their column.
        top_labels: number of labels to explain, those with the largest probabilities, the largest last. None or 0:
            `labels`.
    """
    wanted = None if top_labels else listed(labels)
    check_probabilities(answer, wanted)
    if hasattr(result, "predict_proba"):
        result.predict_proba = answer[0]
    if wanted is not None:
        return [int(label) for label in wanted]
    largest = [int(label) for label in np.argsort(answer[0])[-int(top_labels or 0) :]]
    result.top_labels = largest[::-1]
    return largest


def listed(labels: Any) -> list[Any]:
    """Return the labels as a list, or raise an error if they are none."""
    if not isinstance(labels, Iterable) or isinstance(labels, str):
        raise BadInput(f"labels must be a list of column numbers, such as (1,), not {labels!r}; or pass top_labels")
    return list(labels)


def names_of_classes(names: list[Any] | None, answer: Array) -> list[Any]:
    """Return the names of the classes; their numbers if there are none."""
    check_probabilities(answer, None)
    return [str(k) for k in range(answer.shape[1])] if names is None else list(names)


def check_finite(values: Array) -> None:
    """Raise an error if the model's answers hold NaN or infinity."""
    bad = int(len(values) - np.isfinite(values.astype(float)).sum())
    if bad:
        raise BadInput(f"the prediction function returned NaN or infinity for {bad} of {len(values)} samples")


def numbers(table: Any, name: str) -> Any:
    """Return a table as it is if sparse, else as an array of numbers.

    Args:
        table: array, list, series, or sparse matrix.
        name: name of the argument.

    Raises:
        BadInput: a data frame, or text in a cell.
    """
    if sparse.issparse(table):
        return sparse.csr_matrix(table.reshape(1, -1) if table.ndim == 1 else table)
    if hasattr(table, "columns") and hasattr(table, "to_numpy"):
        raise BadInput(f"{name} must be an array, not a data frame: pass {name}.to_numpy() (categories as integers)")
    array = np.asarray(table)
    if array.dtype.kind in "iuf":
        return array
    try:
        return array.astype(float)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} must be numbers, with categories encoded as integers: {error}") from error
