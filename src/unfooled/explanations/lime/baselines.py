"""Baselines: values that replace hidden segments.

A baseline is a function `(x (B, *D), ids (B, *S), *, draw=0) -> (B, *D)`; only random ones use the draw. Attributions
are relative to it, so every result and caption names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.checking import at_least
from unfooled.explanations.lime.segments import counts
from unfooled.explanations.masks import fill_blur

Baseline = Callable[..., Tensor]
"""(x (B, *D), ids (B, *S), *, draw=0) -> (B, *D)."""


def segment_mean(x: Tensor, ids: Tensor, *, draw: int = 0) -> Tensor:
    """Return the mean colour of each segment, per channel."""
    number = int(counts(ids).amax())
    if number == ids[0].numel():
        raise BadInput("every segment is a single value, whose mean hides nothing; give baseline=constant(0.0)")
    label = ids.to(x.device)
    label = label[:, None] if label.ndim < x.ndim else label
    channels = x.shape[1] if label.ndim == x.ndim and label.shape[1] == 1 and x.ndim > 2 else 1
    flat = x.reshape(len(x), channels, -1)
    index = label.reshape(len(x), 1, -1).expand(-1, channels, -1)
    if index.shape != flat.shape:  # ids of every value, channels included
        flat = x.reshape(len(x), 1, -1)
    zeros = torch.zeros(len(x), flat.shape[1], number, dtype=x.dtype, device=x.device)
    total = zeros.scatter_add(2, index, flat)
    size = zeros.scatter_add(2, index, torch.ones_like(flat)).clamp(min=1)
    return (total / size).gather(2, index).reshape(x.shape)


def constant(value: float | Tensor = 0.0) -> Baseline:
    """Return a constant baseline: a number, or a tensor that broadcasts with a sample."""
    given: Any = value
    if isinstance(given, (str, bytes)) or given is None:
        raise BadInput(f"the value of hidden segments is {given!r}; give a number, or a tensor")
    return partial(constant_of, value=value)


def constant_of(x: Tensor, ids: Tensor, *, draw: int = 0, value: float | Tensor = 0.0) -> Tensor:
    """Return the constant value in the shape of x."""
    try:
        return torch.as_tensor(value, dtype=x.dtype, device=x.device).expand(x.shape)
    except RuntimeError as error:
        raise BadInput(f"the baseline has shape {tuple(torch.as_tensor(value).shape)}, x {tuple(x.shape)}") from error


def mean_of(x: Tensor, ids: Tensor, *, draw: int = 0, value: float | Tensor = 0.0) -> Tensor:
    """Return the mean of reference samples in the shape of x."""
    return constant_of(x, ids, value=value)


def blur(x: Tensor, ids: Tensor, *, draw: int = 0) -> Tensor:
    """Return images averaged over windows of half their side."""
    if x.ndim != 4:
        raise BadInput(f"x has shape {tuple(x.shape)}; blur is for images, (B, C, H, W)")
    return fill_blur(x)


def noise(x: Tensor, ids: Tensor, *, draw: int = 0) -> Tensor:
    """Return uniform noise that depends on the shape and the draw alone, so that the masked input is linear in x."""
    seed = rng.seeds(torch.tensor([list(x.shape[1:])]), 0, stage=rng.Stream.LIME_NOISE)
    return rng.uniform(seed, tuple(x.shape[1:]), draw=draw, dtype=x.dtype).to(x.device).expand(x.shape)


def dataset_mean(reference: Tensor) -> Baseline:
    """Return a constant baseline, the mean of reference samples, (N, *D)."""
    given: Any = reference
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.ndim < 2 or not len(given):
        what = f"{given.dtype}, {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise BadInput(f"reference is {what}; give samples as floating point numbers, (N, *D), scaled as x")
    return partial(mean_of, value=reference.mean(0))


@dataclass(frozen=True)
class Expected:
    """A random baseline; model outputs are averaged over its draws. See `expected`.

    Attributes:
        baseline: Baseline that uses the draw.
        draws: Number of draws; multiplies the cost.
    """

    baseline: Baseline
    draws: int

    def __call__(self, x: Tensor, ids: Tensor, *, draw: int = 0) -> Tensor:
        """Return one draw."""
        return self.baseline(x, ids, draw=draw)


def expected(baseline: Baseline, n: int) -> Expected:
    """Return a random baseline; model outputs are averaged over its n draws."""
    return Expected(baseline, at_least(n, 1, "n", "a number of draws"))
