"""Short names of settings for captions and records: tensors by their shape, constant baselines in words."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.explanations.lime.baselines import Expected, constant_of, mean_of
from unfooled.runs.spelling import spelled

LONGEST = 200
"""Letters of a name at most."""


class _Array:
    """A tensor or array by its shape."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape

    def __repr__(self) -> str:
        """Return the shape in words."""
        return f"<{_size(self.shape)} values>"


def setting_name(value: Any) -> str:
    """Return a setting as a call, see `spelled`, with tensors by their shape, of at most `LONGEST` letters."""
    name = " ".join(spelled(_without_values(value)).split())
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "\u2026"


def baseline_name(baseline: Any) -> str:
    """Return a baseline in words, such as "constant 0.5" or "mean of the data set"; of others the setting's name."""
    if isinstance(baseline, Expected):
        return f"{baseline_name(baseline.baseline)}, {baseline.draws} draws"
    function = baseline.func if isinstance(baseline, partial) else None
    if function is mean_of:
        return "mean of the data set"
    if function is not constant_of:
        return setting_name(baseline)
    value = torch.as_tensor(baseline.keywords["value"])
    if value.numel() == 1:
        return f"constant {float(value):g}"
    if value.ndim > 1 and len(value) == value.numel():
        return f"constant, {len(value)} channels"
    return f"constant, {_size(value.shape)} values"


def _size(shape: Any) -> str:
    """Return a shape in words."""
    return " x ".join(map(str, shape)) or "1"


def _without_values(value: Any) -> Any:
    """Return a setting with arrays of several numbers replaced by their shapes."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.item() if math.prod(value.shape) == 1 else _Array(value.shape)
    if isinstance(value, partial):
        words = {name: _without_values(item) for name, item in value.keywords.items()}
        return partial(value.func, *map(_without_values, value.args), **words)
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in fields(value) if f.init and f.repr}
        long = {name: item for name, item in own.items() if isinstance(item, (Tensor, np.ndarray, partial))}
        return replace(value, **{name: _without_values(item) for name, item in long.items()}) if long else value
    return value
