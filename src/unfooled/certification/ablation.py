"""Randomized ablation: the majority class on a few entries at a time, and how many of all entries can change.

    g(x) = argmax_k P(f(x on k random entries) = k)      R = max { r : 1 - C(d - r, k) / C(d, k) < p - 1/2 }

r changed entries out of d are all among those left out with probability C(d - r, k) / C(d, k), whatever their values; p
is a lower confidence bound of the probability of the majority class. It is a radius of g, not of f itself; any model
will do, but one that was trained on such inputs keeps more of its accuracy.

References:
    Levine and Feizi, Robustness certificates for sparse adversarial attacks by randomized ablation, AAAI 2020,
    arXiv:1911.09272.
    Differs from the paper: what is left out has a fixed value, not a code of its own, so that any model will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unfooled.certification.smoothing import ABSTAINED, SmoothedRadius, check_draws, lower_bound, majority
from unfooled.core import rng
from unfooled.core.checks import check_inputs, check_mode, check_run
from unfooled.core.errors import BadInput
from unfooled.core.types import Model

PER = ("entry", "pixel")


def touched(changed: int, entries: int, keep: int) -> float:
    """Return the probability that at least one of the changed entries is among those that stay.

    Example:
        >>> touched(1, 10, 3)
        0.3
    """
    if changed + keep > entries:
        return 1.0
    changed, keep = sorted((changed, keep))  # the probability is the same, and the sum is shorter
    left = math.fsum(math.log1p(-keep / (entries - i)) for i in range(changed))
    return round(1.0 - math.exp(left), 15)


def ablated_radius(probability: float, entries: int, keep: int) -> int:
    """Return how many entries may change for a lower bound of the majority's probability; 0 up to one half."""
    low, high = 0, entries
    while low < high:
        middle = (low + high + 1) // 2
        fits = touched(middle, entries, keep) < probability - 0.5
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def ablated_ceiling(entries: int, keep: int, draws: int, failure: float) -> float:
    """Return the largest radius that a number of draws can give: that of a majority of all of them."""
    return float(ablated_radius(failure ** (1 / draws), entries, keep))


def movable(shape: tuple[int, ...], per: str, free: Tensor | None = None) -> Tensor:
    """Return which entries, or pixels with a channel dimension of 1, of a sample may change, bool.

    Args:
        shape: Shape of a sample.
        per: "entry" or "pixel".
        free: Entries that may change, (*D) bool. None: all.
    """
    entries = torch.ones(shape, dtype=torch.bool) if free is None else free.to("cpu", torch.bool).expand(shape)
    return entries.any(0, keepdim=True) if per == "pixel" and len(shape) > 1 else entries


def ablate(
    model: Model,
    x: Tensor,
    *,
    keep: int,
    per: str = "entry",
    value: float = 0.0,
    first: int = 100,
    draws: int = 1000,
    failure: float = 0.001,
    free: Tensor | None = None,
    batch: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> SmoothedRadius:
    """Classify on random entries, and bound how many entries can change until the majority does.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        keep: Number of entries, or pixels, that stay; fewer give larger radii and less accuracy.
        per: "entry" counts tensor entries, "pixel" positions over all channels (dimension 1 of (B, C, ...)).
        value: Value of what is left out.
        first: Draws that select the class.
        draws: Draws that bound its probability; they limit the radius.
        failure: Probability that the radius of a sample is too large, at most.
        free: Entries that may change, (*D) bool; the others always stay, and are not counted. None: all.
        batch: Samples computed at once.
        seed: Random seed.
        progress: Called with the number of samples done.

    Returns:
        Predictions and radii, in entries or pixels. Cost: first + draws forwards a sample.

    Raises:
        BadInput: The inputs cannot be used, or a number is out of its range.
    """
    check_inputs(x)
    check_mode(model)
    check_run(seed, batch)
    check_draws(first, draws, failure)
    if per not in PER:
        raise BadInput(f'per is {per!r}; it must be "entry" or "pixel"')
    may_change = movable(tuple(x.shape[1:]), per, free).to(x.device)
    shape, entries = tuple(may_change.shape), int(may_change.sum())
    if not 1 <= keep < entries:
        raise BadInput(f"keep is {keep}; it lies between 1 and {entries - 1}, as there are {entries} of them")
    fixed = torch.zeros_like(x[0], dtype=torch.bool) if free is None else ~free.to(x.device, torch.bool)

    def few(row: Tensor, seeds: Tensor, draw: Tensor) -> Tensor:
        rank = rng.inner_uniform(seeds, (may_change.numel(),), draw=draw)
        rank = rank.where(may_change.flatten(), -1.0)
        stays = torch.zeros_like(rank, dtype=torch.bool).scatter(1, rank.topk(keep, dim=1).indices, value=True)
        return torch.where(stays.reshape(-1, *shape) | fixed, row, value)

    prediction, hits = majority(model, x, few, first=first, draws=draws, batch=batch, seed=seed, progress=progress)
    probability = lower_bound(hits, draws, failure)
    radius = torch.tensor([float(ablated_radius(p, entries, keep)) for p in probability.tolist()], dtype=torch.float64)
    labels = torch.where(probability > 0.5, prediction, ABSTAINED)
    ceiling = ablated_ceiling(entries, keep, draws, failure)
    return SmoothedRadius(labels, radius, probability, ceiling, 0.0, failure)
