"""Soft stability: does the class stay when features are added to those that an explanation selects?

    tau_r = P[ argmax f(S') = argmax f(S) ],    S' uniform over the supersets of S with at most r further features

f(S) is the model's output with all features outside S hidden. N draws give the estimate and Hoeffding's interval of
half-width sqrt(log(2 / delta) / (2 N)), for any f and any number of features; for few features, all supersets are
enumerated.

References:
    Jin, Xue, You, Goel, Wong, Probabilistic stability guarantees for feature attributions, NeurIPS 2025,
    arXiv:2504.13787.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput

Answers = Callable[[Tensor], Any]
"""Masks (n, M) bool -> outputs (n, K)."""


@dataclass(frozen=True)
class SoftStability:
    """Probability that the class stays the same, with an interval.

    Attributes:
        value: Estimate.
        low: Lower end of its interval.
        high: Upper end; both are the value where all supersets were enumerated.
        draws: Number of supersets evaluated.
        exact: True if all supersets were enumerated.
    """

    value: float
    low: float
    high: float
    draws: int
    exact: bool


def soft_stability(
    f: Answers,
    selected: Tensor,
    r: int,
    *,
    draws: int = 150,
    delta: float = 0.1,
    exact: bool | None = None,
    batch: int = 256,
    generator: torch.Generator | None = None,
) -> SoftStability:
    """Estimate the probability that a sample's class stays when at most r features are added to those selected.

    Args:
        f: Function from masks, (n, M) bool, to outputs, (n, K).
        selected: Features selected, (M,) bool.
        r: Largest number of features added.
        draws: Number of supersets drawn.
        delta: Error probability of the interval.
        exact: True: enumerate all supersets; False: draw them. None: enumerate if M is at most 12 and there are at most
            `draws`.
        batch: Masks per call.
        generator: Base seed; not advanced.

    Returns:
        A `SoftStability`. Cost: `draws` + 1 forwards.

    Raises:
        BadInput: An argument or the output is invalid.

    Example:
        >>> or_of_two = lambda z: torch.stack([~z[:, :2].any(1), z[:, :2].any(1)], 1) * 1.0
        >>> soft_stability(or_of_two, torch.tensor([False, False, True]), r=1).value
        0.3333333333333333
    """
    if not callable(f):
        raise BadInput(f"f is a {type(f).__name__}; give a function from masks (n, M) to outputs (n, K)")
    selected = selected if isinstance(selected, Tensor) else torch.as_tensor(selected)
    if selected.ndim != 1 or selected.dtype != torch.bool:
        raise BadInput(f"selected is {selected.dtype}, {tuple(selected.shape)}; it is a mask of features, (M,) bool")
    if r < 0 or draws < 1 or not 0 < delta < 1:
        raise BadInput(f"r is {r}, draws {draws}, delta {delta}; r is at least 0, draws at least 1, delta in (0, 1)")
    free = (~selected).nonzero()[:, 0]
    most = min(r, len(free))
    number = sum(math.comb(len(free), k) for k in range(most + 1))
    if exact is None:
        exact = len(selected) <= 12 and number <= draws
    if exact and number > 1 << 20:
        raise BadInput(f"there are {number} supersets; draw some of them")
    added = (
        _all_subsets(len(free), most) if exact else _random_subsets(len(free), most, draws, rng.base_seed(generator))
    )
    masks = selected.repeat(len(added), 1)
    masks[:, free] = added
    parts = [_class(f(part), len(part)) for part in torch.cat([selected[None], masks]).split(batch)]
    classes = torch.cat(parts)
    value = float((classes[1:] == classes[0]).double().mean())
    half = 0.0 if exact else math.sqrt(math.log(2 / delta) / (2 * len(added)))
    return SoftStability(value, max(0.0, value - half), min(1.0, value + half), len(added), exact)


def _all_subsets(free: int, most: int) -> Tensor:
    """Return all subsets of at most `most` features, (n, free) bool."""
    rows = [subset for k in range(most + 1) for subset in combinations(range(free), k)]
    masks = torch.zeros(len(rows), free, dtype=torch.bool)
    for mask, subset in zip(masks, rows, strict=True):
        mask[list(subset)] = True
    return masks


def _random_subsets(free: int, most: int, draws: int, seed: int) -> Tensor:
    """Draw uniformly among the subsets of at most `most` features: first the size, then its members."""
    k = torch.arange(most + 1, dtype=torch.float64)
    log_count = math.lgamma(free + 1) - torch.lgamma(k + 1) - torch.lgamma(free - k + 1)
    share = log_count.softmax(0).cumsum(0)
    seeds = rng.seeds(torch.tensor([[free]]), seed, stage=rng.Stream.SUPERSETS).expand(draws)
    u = rng.uniform(seeds, (free + 1,), draw=torch.arange(draws), dtype=torch.float64)
    size = torch.searchsorted(share, u[:, 0].contiguous()).clamp(max=most)
    return u[:, 1:].argsort(1).argsort(1) < size[:, None]


def _class(outputs: Any, n: int) -> Tensor:
    """Return the class of each output, (n,)."""
    table = torch.as_tensor(outputs)
    if table.ndim != 2 or len(table) != n or table.shape[1] < 2:
        raise BadInput(
            f"f returned shape {tuple(table.shape)} for {n} masks; return one row each, (n, K), K at least 2"
        )
    return table.argmax(1)
