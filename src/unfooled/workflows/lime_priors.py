"""Priors of local surrogates: expected weights from a file, an earlier explanation, or another method."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.types import Model
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.segments import averaged
from unfooled.explanations.lime.surrogate import Prior
from unfooled.workflows import catalog
from unfooled.workflows.backgrounds import with_background
from unfooled.workflows.errors import BadOption
from unfooled.workflows.words import choose

Weights = Mapping[str, float] | str | Path | Tensor | Prior | None
"""Expected weights by name, a file of them, or what the method itself takes. None: no prior."""


def expected_weights(
    prior: Weights, names: Sequence[Sequence[str]], keys: Sequence[Any] | None = None
) -> Tensor | Prior | None:
    """Return the expected weights of texts or rows, (B, M), padded with 0.

    Args:
        prior: Weights by the name of a feature, a JSON file of them or a lime.json; a tensor or `Prior` as it is.
        names: Names of the features of each input.
        keys: Names that stand for a feature besides its own, such as its column, of each input. None: none.

    Raises:
        BadInput: The file cannot be read, holds no numbers, or names no feature of the inputs.
    """
    if prior is None or isinstance(prior, (Tensor, Prior)):
        return prior
    known = read_weights(prior) if isinstance(prior, (str, Path)) else {str(k): float(v) for k, v in prior.items()}
    mean = torch.zeros(len(names), max((len(row) for row in names), default=0), dtype=torch.float64)
    used = 0
    for i, row in enumerate(names):
        for j, name in enumerate(row):
            word = name if name in known or keys is None else str(keys[i][j])
            mean[i, j] = known.get(word, 0.0)
            used += word in known
    if not used and mean.numel():
        raise BadOption(
            "{prior} names no feature of the inputs; it has {0}, and they have {1}",
            ", ".join(list(known)[:5]) or "none",
            ", ".join(names[0][:5]),
        )
    return mean


def read_weights(path: str | Path) -> dict[str, float]:
    """Read weights by name from a JSON file: an object of numbers, or a lime.json, of which the first input is used.

    Raises:
        BadInput: There is no such file, or it is neither.
    """
    text = _read(path)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{path} is no JSON; give a lime.json, or an object of names and weights") from error
    if isinstance(found, dict) and "weights" in found and "names" in found:
        earlier = Surrogates.from_json(text)[0]
        return {str(name): float(w) for name, w in zip(earlier.names[0], earlier.weights[0, 0], strict=False)}
    if not isinstance(found, dict) or not all(_is_number(value) for value in found.values()):
        raise BadInput(f'{path} holds no weights; give a lime.json, or an object such as {{"good": 0.3}}')
    return {str(name): float(value) for name, value in found.items()}


def of_explanation(prior: Any, model: Model, x: Tensor, y: Tensor, ids: Tensor, plain: Callable[[], Tensor]) -> Any:
    """Return the expected weights of segments, (B, T, M).

    A map of another explanation is averaged over the segments and rescaled by the factor that fits the plain weights
    best, one for each sample and class.

    Args:
        prior: Name in `catalog.EXPLANATIONS`, an `Explain`, a lime.json of the same segments, or a tensor.
        model: Any callable to logits.
        x: Inputs, (B, *D).
        y: Classes, (B, T).
        ids: Ids of the segments, (B, *S).
        plain: Function that returns the weights without a prior, (B, T, M).

    Raises:
        BadInput: There is no such explanation or file, or it is about other segments.
    """
    if isinstance(prior, (Tensor, Prior)):
        return prior
    if isinstance(prior, (str, Path)) and Path(prior).suffix == ".json":
        earlier = Surrogates.from_json(_read(prior))
        if earlier.segments is None or not torch.equal(earlier.segments, ids):
            raise BadOption("{prior} explains other segments than these; give the same {index} and {segments}")
        return earlier.weights[:, :1].expand(-1, y.shape[1], -1)
    explain = prior
    if isinstance(prior, (str, Path)):
        others = {name: row for name, row in catalog.EXPLANATIONS.items() if name != "lime"}
        explain = catalog.resolve(choose(others, str(prior), "prior").path)
    explain = with_background(explain, x)
    mean = torch.stack([averaged(explain(model, x, column).detach(), ids) for column in y.T], 1)
    squares = (mean * mean).sum(2, keepdim=True)
    return mean * (plain() * mean).sum(2, keepdim=True) / squares.clamp(min=torch.finfo(squares.dtype).tiny)


def _read(path: str | Path) -> str:
    """Return the text of a file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} cannot be read: {error}; give a lime.json, or an object of names and weights"
        ) from error


def _is_number(value: Any) -> bool:
    """Return whether a value of a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
