"""Outputs of functions of texts and rows, computed in fixed batches and checked, and links that transform them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.batching import halving
from unfooled.explanations.lime.checking import check_function

Link = Callable[[Tensor], Tensor]
"""Outputs (n, K) -> scores that are explained, (n, K)."""


def identity(outputs: Tensor) -> Tensor:
    """Return the outputs."""
    return outputs


def log_odds(outputs: Tensor) -> Tensor:
    """Return log p / (1 - p) of probabilities, with p at least 1e-12 from 0 and 1."""
    if bool(((outputs < -1e-6) | (outputs > 1 + 1e-6)).any()):
        raise BadInput(f"log_odds needs probabilities; the outputs lie in [{outputs.min():.3g}, {outputs.max():.3g}]")
    p = outputs.clamp(1e-12, 1 - 1e-12)
    return torch.log(p) - torch.log1p(-p)


class Inputs(Protocol):
    """Inputs of a model that can be cut into parts."""

    def __len__(self) -> int:
        """Return the number of inputs."""
        ...

    def __getitem__(self, part: slice, /) -> Any:
        """Return some inputs, as the model takes them."""
        ...


def outputs_of(predict: Callable[[Any], Any], inputs: Inputs, batch: int) -> Tensor:
    """Return a function's outputs, (n, K) float64, in batches of one size, which is halved where memory runs out.

    Raises:
        BadInput: It returns another number of rows, something that is not a table of numbers, or NaN.
    """
    if not callable(predict):
        raise BadInput(f"predict is a {type(predict).__name__}; give a function, such as model.predict_proba")
    with torch.no_grad():
        parts, _ = halving(lambda part: _table(predict(inputs[part]), part.stop - part.start), len(inputs), batch)
    if len({part.shape[1] for part in parts}) != 1:
        raise BadInput("predict returns another number of outputs for some batches; it must be the same for all")
    return torch.cat(parts)


def _table(answer: Any, n: int) -> Tensor:
    """Return one answer as (n, K) float64."""
    answer = getattr(answer, "logits", answer)
    given = type(answer).__name__
    to_numpy = getattr(answer, "to_numpy", None)
    try:
        answer = to_numpy() if callable(to_numpy) else answer
        if isinstance(answer, (list, tuple)) and len(answer):
            answer = torch.stack(list(answer)) if isinstance(answer[0], Tensor) else np.asarray(answer)
        if isinstance(answer, np.ndarray) and not answer.flags.writeable:
            answer = answer.copy()
        raw = torch.as_tensor(answer).detach()
        table = raw.to("cpu", torch.float64) if not raw.is_complex() else raw.cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        words = [value for value in np.ravel(answer)[:1].tolist() if isinstance(value, str)] if n else []
        what = f"{words[0]!r}, a label" if words else f"a {given}"
        mend = ", such as those of predict_proba" if words else ""
        raise BadInput(f"predict returned {what}; return numbers, (n, K){mend}") from error
    if table.is_complex():
        raise BadInput("predict returned complex numbers; return real ones, (n, K)")
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != n or not table.shape[1]:
        raise BadInput(f"predict returned shape {tuple(table.shape)} for {n} inputs; return one row each, (n, K)")
    if not torch.isfinite(table).all():
        raise BadInput("predict returned NaN or infinite values")
    return table


def check_rows(batch: Any, what: str, link: Any = identity) -> None:
    """Refuse a batch that is no number of inputs, and a link that is no function."""
    check_function(link, "link", "identity or log_odds")
    if isinstance(batch, bool) or not isinstance(batch, Integral) or batch < 1:
        raise BadInput(f"batch is {batch!r}; it is a number of {what} of at least 1")


def named_outputs(classes: Sequence[Any], outputs: Tensor) -> tuple[str, ...]:
    """Return the names of the outputs as strings; refuse another number of names."""
    if isinstance(classes, (str, bytes)):
        raise BadInput(f"classes is {classes!r}; give a list of names, one for each output")
    names = tuple(map(str, classes))
    if len(names) != outputs.shape[1]:
        raise BadInput(f"classes has {len(names)} names, and predict returns {outputs.shape[1]} outputs")
    return names


def labels_of(y: Tensor | Sequence[Any] | int | None, outputs: Tensor) -> Tensor:
    """Return the outputs to explain, (B, T) int64; None: the largest of each row."""
    count, width = outputs.shape
    if y is None:
        return outputs.argmax(1, keepdim=True)
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"y is {y!r}; give numbers of outputs, 0 to {width - 1}, (B,) or (B, T), or one for all"
        ) from error
    labels = labels.expand(count)[:, None] if labels.ndim == 0 else labels
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.ndim != 2 or len(labels) != count or labels.is_floating_point() or not labels.shape[1]:
        raise BadInput(f"y has shape {tuple(labels.shape)}; give whole numbers, (B,) or (B, T), for {count} inputs")
    wrong = labels[(labels < 0) | (labels >= width)]
    if len(wrong):
        known = f"{width} outputs: 0 to {width - 1}"
        if width == 1:
            known = "one output, label 0; for the probability p of a class return [1 - p, p] for each input"
        raise BadInput(f"y has label {int(wrong[0])}, predict returns {known}")
    return labels.to(torch.int64)
