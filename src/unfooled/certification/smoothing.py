"""Randomized smoothing: the majority class under noise, and a radius within which it cannot change.

    g(x) = argmax_k P(f(x + noise) = k)      R = sigma Phi^-1(p) in L2,   R = -sigma log(2 (1 - p)) in L1

p is a lower confidence bound of the probability of the majority class, so that the radius is right but for a stated
probability of failure. It is a radius of g, the smoothed classifier, not of f itself; any model will do.

References:
    Cohen, Rosenfeld, Kolter, Certified adversarial robustness via randomized smoothing, ICML 2019, arXiv:1902.02918.
    Teng, Lee, Yuan, l1 adversarial robustness certificates: a randomized smoothing approach, 2020 (Laplace noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import check_inputs, check_mode, check_run
from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at
from unfooled.core.types import Model

ABSTAINED = -1
MOST_ENTRIES = 2**24  # of the copies of a sample that are computed at once
Noisy = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(sample (*D), seeds (n,), draws (n,)) -> (n, *D)`: copies of a sample, changed at random."""


@dataclass(frozen=True, eq=False)
class SmoothedRadius:
    """Answers of a smoothed classifier.

    Attributes:
        prediction: Majority class, (B,); -1 where it is not clear enough.
        radius: Radius within which the prediction cannot change, (B,); 0 where there is none.
        probability: Lower confidence bound of the majority's probability, (B,).
        ceiling: Largest radius that this number of draws can give.
        norm: Norm of the radius, 2 or 1; 0: a number of entries or pixels.
        failure: Probability that the radius of a sample is too large, at most.
    """

    prediction: Tensor
    radius: Tensor
    probability: Tensor
    ceiling: float
    norm: float
    failure: float

    def certified(self, y: Tensor, eps: float | Tensor) -> Tensor:
        """Return the samples that are right, and stay so within eps, (B,) bool."""
        return (self.prediction == y.to(self.prediction)) & (self.radius >= eps) & (self.radius > 0)


def radius_of(probability: Tensor, sigma: float, norm: float) -> Tensor:
    """Return the radius for a lower bound of the majority's probability; 0 up to one half."""
    p = probability.double()
    if norm == 2:
        radius = sigma * torch.special.ndtri(p)
    else:
        radius = -sigma * torch.log(2 * (1 - p).clamp_min(1e-300))
    return torch.where(p > 0.5, radius, 0.0)


def ceiling(sigma: float, draws: int, *, norm: float = 2.0, failure: float = 0.001) -> float:
    """Return the largest radius that a number of draws can give: that of a majority of all of them.

    Example:
        >>> round(ceiling(1.0, 100), 2), round(ceiling(1.0, 100_000), 2)
        (1.5, 3.81)
    """
    return float(radius_of(torch.tensor(failure ** (1 / draws), dtype=torch.float64), sigma, norm))


def lower_bound(hits: Tensor, draws: int, failure: float) -> Tensor:
    """Return the one-sided lower confidence bound of a probability by Clopper and Pearson, (B,)."""
    from scipy.special import betaincinv

    hits = hits.cpu()
    k = hits.double().numpy().clip(1)
    value = torch.as_tensor(betaincinv(k, draws - k + 1, failure), dtype=torch.float64)
    return torch.where(hits > 0, value, 0.0)


def smooth(
    model: Model,
    x: Tensor,
    *,
    sigma: float,
    norm: float = 2.0,
    first: int = 100,
    draws: int = 1000,
    failure: float = 0.001,
    free: Tensor | None = None,
    batch: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> SmoothedRadius:
    """Classify under noise, and bound how far a sample can move until the majority changes.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K); it is called outside of the unit box too. Not modified.
        x: Inputs in the unit box, (B, *D).
        sigma: Standard deviation of Gaussian noise (L2), or scale of Laplace noise (L1).
        norm: Norm of the radius, 2 or 1.
        first: Draws that select the class.
        draws: Draws that bound its probability; they limit the radius, see `ceiling`.
        failure: Probability that the radius of a sample is too large, at most.
        free: Entries that may change, (*D) bool; the others get no noise. None: all.
        batch: Samples computed at once.
        seed: Random seed.
        progress: Called with the number of samples done.

    Returns:
        Predictions and radii. Cost: first + draws forwards a sample.

    Raises:
        BadInput: The inputs cannot be used, or a number is out of its range.
    """
    check_inputs(x)
    check_mode(model)
    check_run(seed, batch)
    if not 0 < sigma < math.inf or norm not in (1, 2):
        raise BadInput(f"sigma is {sigma} and the norm {norm:g}; sigma is above 0, and the norm 2 or 1")
    check_draws(first, draws, failure)

    def noise(row: Tensor, seeds: Tensor, draw: Tensor) -> Tensor:
        if norm == 2:
            return sigma * rng.normal(seeds, tuple(row.shape), draw=draw, dtype=row.dtype)
        u = rng.inner_uniform(seeds, tuple(row.shape), draw=draw) - 0.5
        return (-sigma * u.sign() * torch.log1p(-2 * u.abs())).to(row.dtype)

    def noisy(row: Tensor, seeds: Tensor, draw: Tensor) -> Tensor:
        change = noise(row, seeds, draw)
        return row + (change if free is None else change * free.to(change))

    prediction, hits = majority(
        model, x, noisy, first=first, draws=draws, batch=batch, seed=seed, progress=progress
    )  # fmt: skip
    probability = lower_bound(hits, draws, failure)
    radius = radius_of(probability, sigma, norm)
    labels = torch.where(radius > 0, prediction, ABSTAINED)
    return SmoothedRadius(
        labels, radius, probability, ceiling(sigma, draws, norm=norm, failure=failure), float(norm), failure
    )


def check_draws(first: int, draws: int, failure: float) -> None:
    """Refuse numbers of draws and a probability of failure that are out of range."""
    if first < 1 or draws < 1 or not 0 < failure < 1:
        raise BadInput(
            f"first is {first}, draws {draws} and failure {failure}; draws are at least 1, and failure lies in (0, 1)"
        )
    if first + draws > len(rng.MANY_DRAWS):
        raise BadInput(f"first and draws are {first + draws:,} together; at most {len(rng.MANY_DRAWS):,} are possible")


def majority(
    model: Model,
    x: Tensor,
    noisy: Noisy,
    *,
    first: int,
    draws: int,
    batch: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the most frequent class of a few changed copies of each sample, and how many of others have it.

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        noisy: Function that changes copies of a sample at random.
        first: Draws that select the class.
        draws: Further draws, which are counted.
        batch: Samples computed at once.
        seed: Random seed.
        progress: Called with the number of samples done.

    Returns:
        Classes and counts, (B,) each, on the CPU.
    """
    prediction, hits = [], []
    for row, seed_of_row in zip(x, rng.seeds(x, seed, stage=rng.Stream.CERTIFIED_NOISE), strict=True):
        top = int(_votes(model, row, seed_of_row, range(first), noisy, batch).argmax())
        votes = _votes(model, row, seed_of_row, range(first, first + draws), noisy, batch)
        prediction.append(top)
        hits.append(int(votes[top]))
        if progress is not None:
            progress(len(hits))
    return torch.tensor(prediction, dtype=torch.int64), torch.tensor(hits, dtype=torch.int64)


def _votes(model: Model, row: Tensor, seed: Tensor, numbers: range, noisy: Noisy, batch: int) -> Tensor:
    """Count the classes predicted for changed copies of a sample, (K,); answers that are not finite are for none."""
    total: Tensor | None = None
    batch = min(batch, max(1, MOST_ENTRIES // row.numel()))
    for draw in torch.arange(numbers.start, numbers.stop, device=row.device).split(batch):
        with torch.no_grad():
            logits = logits_at(model, noisy(row, seed.expand(len(draw)), draw))
        answered = logits.argmax(1)[logits.isfinite().all(1)]
        votes = torch.bincount(answered, minlength=logits.shape[1]).cpu()
        total = votes if total is None else total + votes
    assert total is not None
    return total
