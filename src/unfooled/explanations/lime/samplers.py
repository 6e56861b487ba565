"""Samplers of masks: which features are shown in each perturbed copy.

A sampler is a function `(features, samples, seed, *, start=0) -> Design`. Its masks depend on the seed, the number of
features and the row alone, so that every sample of a batch gets the same ones, and rows from `start` on continue a
smaller draw. `functools.partial` binds further options.

    bernoulli       independent bits
    paired          z and 1 - z: interactions of even order cancel; all masks, where they fit into `samples`
    by_size         number of hidden features uniform on 1..M (the distribution of LIME for text), stratified, in pairs
    kernel_sizes    number of shown features k with P(k) ~ C(M, k) pi(k), subset uniform, weight 1 (GLIME)
    balanced        the distribution of by_size, without pairs, every feature hidden equally often (balance.py)
    leverage        k uniform on 1..M - 1, in pairs, without replacement (Shapley values)
    every_mask      all 2^M
    hadamard        two-level design and its foldover, without a seed: interactions of even order cancel

References:
    Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD 2016, arXiv:1602.04938.
    Tan, Tian, Li, GLIME, NeurIPS 2023, arXiv:2311.15722.
    Musco, Witter, Provably accurate Shapley value estimation via leverage score sampling, ICLR 2025, arXiv:2410.01917.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.kernels import Kernel, cosine, of_size

MOST_ENUMERATED = 20


@dataclass(frozen=True, eq=False)
class Design:
    """Masks of a draw.

    Attributes:
        masks: 1 where a feature is shown, (S, M) bool.
        unit: Consecutive rows that are one independent draw: 1, or 2 for pairs; 0 where there is no sampling error.
        shapley: Weights for Shapley values over the probability of the draw, (S,); None: the sampler has none.
        share: Share of the subsets of its size that was not drawn, (S,): the finite-population correction. None: 1.
        weights: Probability of each mask in the distribution that is meant over the one it was drawn from, (S,); it
            multiplies the kernel. None: 1.
        complete: True for designs that cannot be continued.
    """

    masks: Tensor
    unit: int = 1
    shapley: Tensor | None = None
    share: Tensor | None = None
    weights: Tensor | None = None
    complete: bool = False

    def weighed(self, kernel: Kernel) -> Tensor:
        """Return the weight of each mask, (S,) float64."""
        pi = kernel(self.masks).to(torch.float64)
        return pi if self.weights is None else pi * self.weights

    def joined(self, more: Design) -> Design:
        """Return the design with the rows of its continuation."""
        weights = None
        if self.weights is not None and more.weights is not None:
            weights = torch.cat([self.weights, more.weights])
        return Design(torch.cat([self.masks, more.masks]), self.unit, weights=weights)


class Sampler(Protocol):
    """Function that draws masks."""

    def __call__(self, features: int, samples: int, seed: int, *, start: int = 0) -> Design:
        """Return rows `start` to `start + samples` of the draw."""
        ...


@dataclass(frozen=True)
class Independent:
    """A sampler whose masks are drawn for each sample separately, as `lime_image(independent=True)` does."""

    sampler: Sampler

    def __call__(self, features: int, samples: int, seed: int, *, start: int = 0) -> Design:
        """Return the draw of one sample, whose seed is given."""
        return self.sampler(features, samples, seed, start=start)


def repeating(features: int, samples: int, seed: int, *, start: int = 0, sampler: Sampler) -> Design:
    """Draw masks; repeat an enumeration of all masks up to `samples`, since hidden values are drawn for each row."""
    design = sampler(features, samples, seed, start=start)
    if design.unit:
        return design
    times, rows = -(-samples // len(design.masks)), max(samples, len(design.masks))
    weights = None if design.weights is None else design.weights.repeat(times)[:rows]
    return Design(design.masks.repeat(times, 1)[:rows], weights=weights)


def bernoulli(features: int, samples: int, seed: int, *, start: int = 0, p: float = 0.5) -> Design:
    """Draw independent bits, 1 with probability p."""
    if not 0 < p < 1:
        raise BadInput(f"p is {p}; it is a probability above 0 and below 1")
    rows = torch.arange(start, start + samples)
    return Design(rng.uniform(seeds_of(seed, features, samples), (features,), draw=rows, dtype=torch.float64) < p)


def paired(features: int, samples: int, seed: int, *, start: int = 0) -> Design:
    """Draw masks and their complements in turn; all masks, where they fit into `samples` (rounded up to even)."""
    if start == 0 and features <= MOST_ENUMERATED and 2**features <= samples:
        return every_mask(features, samples, seed)
    first, count = start // 2, -(-samples // 2)
    rows = torch.arange(first, first + count)
    return _folded(rng.bits(seeds_of(seed, features, count), features, draw=rows) < 0)


def by_size(features: int, samples: int, seed: int, *, start: int = 0, pairs: bool = True) -> Design:
    """Draw how many features are hidden, uniform on 1..M, then which; each block of M rows has every number once.

    Args:
        features: Number of features, M.
        samples: Number of rows.
        seed: Random seed.
        start: First row.
        pairs: True: each mask is followed by its complement.
    """
    step = 2 if pairs else 1
    first, count = start // step, -(-samples // step)
    rows = torch.arange(first, first + count)
    if not features:
        return Design(torch.zeros(step * count, 0, dtype=torch.bool), step)
    blocks, which = (rows // features).unique(return_inverse=True)
    order = rng.bits(seeds_of(seed, features, len(blocks), rng.Stream.LIME_SIZES), features, draw=blocks).argsort(1)
    hidden = order[which, rows % features] + 1
    masks = _subsets(seed, features, rows, features - hidden)
    return _folded(masks) if pairs else Design(masks)


def kernel_sizes(
    features: int,
    samples: int,
    seed: int,
    *,
    start: int = 0,
    kernel: Kernel = partial(cosine, width=0.25),  # noqa: B008
) -> Design:
    """Draw how many features are shown with probability ~ C(M, k) pi(k), then which; combine with a uniform kernel."""
    rows = torch.arange(start, start + samples)
    k = torch.arange(features + 1, dtype=torch.float64)
    log_count = math.lgamma(features + 1) - torch.lgamma(k + 1) - torch.lgamma(features - k + 1)
    share = (log_count + of_size(kernel, features).log()).softmax(0).cumsum(0)
    seeds = seeds_of(seed, features, samples, rng.Stream.LIME_SIZES)
    u = rng.uniform(seeds, (1,), draw=rows, dtype=torch.float64)[:, 0]
    return Design(_subsets(seed, features, rows, torch.searchsorted(share, u).clamp(max=features)))


def every_mask(features: int, samples: int = 0, seed: int = 0, *, start: int = 0) -> Design:
    """Return all 2^M masks, each beside its complement; `samples`, `seed` and `start` are not used."""
    if features > MOST_ENUMERATED:
        raise BadInput(f"{features} features have 2^{features} masks; draw some, by paired or leverage")
    half = torch.arange(2**features // 2 if features else 1)
    bits = (half[:, None] >> torch.arange(features)) & 1 > 0
    masks = _folded(bits).masks if features else bits
    return Design(masks, 0, shapley=shapley_weights(masks), complete=True)


def hadamard(features: int, samples: int, seed: int = 0, *, start: int = 0) -> Design:
    """Return a two-level design and its foldover; the largest order of a power of 2 that fits into `samples`."""
    least = 2 ** math.ceil(math.log2(features + 1))
    if samples < 2 * least:
        raise BadInput(f"a folded design for {features} features has at least {2 * least} rows; samples is {samples}")
    order = 2 ** int(math.log2(samples // 2))
    # Odd, so that columns differ; spread, so that interactions of three features are not aliased with them.
    step = int(0.618 * order) | 1
    columns = (torch.arange(1, order) * step % order)[:features]
    both = torch.arange(order)[:, None] & columns
    parity = torch.zeros_like(both)
    for shift in range(int(math.log2(order)) + 1):
        parity ^= (both >> shift) & 1
    return Design(_folded(parity > 0).masks, 2, complete=True)


def leverage(features: int, samples: int, seed: int, *, start: int = 0) -> Design:
    """Draw subsets with the number shown uniform on 1..M - 1, in pairs, without replacement.

    Sizes whose subsets all fit into `samples` are enumerated. Each row has the weight (M - 1) / (C(M, k) k (M - k))
    over the probability that it is drawn.
    """
    if features < 2:
        raise BadInput(f"{features} features need no draw; the only feature has the whole effect")
    if start:
        raise BadInput("a draw without replacement is not continued; draw all samples at once")
    least = 2 * (features // 2)
    if samples < least:
        raise BadInput(
            f"leverage draws a pair of each size: at least {least} masks of {features} features, not {samples}"
        )
    masks, weights, shares = [], [], []
    for k, count in _shares(features, samples).items():
        half = 2 * k == features
        rows = _distinct(seed, features, k, count, half)
        count, subsets = len(rows), math.comb(features, k) // (2 if half else 1)
        masks.append(rows)
        # twice, for the complements; a subset of size M / 2 and its complement have the same size
        drawn = count * (2 if half else 1)
        weights += [(features - 1) / (k * (features - k) * drawn)] * count
        shares += [1 - count / subsets] * count
    design = _folded(torch.cat(masks))
    twice = torch.tensor(weights, dtype=torch.float64).repeat_interleave(2)
    share = torch.tensor(shares, dtype=torch.float64).repeat_interleave(2)
    return Design(design.masks, 2 if bool((share > 0).any()) else 0, twice, share, complete=True)


def shapley_weights(masks: Tensor) -> Tensor:
    """Return (M - 1) / (C(M, k) k (M - k)) for masks of k features, (S,) float64; 0 for none and all."""
    features = masks.shape[1]
    k = masks.sum(1)
    table = [0.0] * (features + 1)
    for size in range(1, features):
        table[size] = (features - 1) / (math.comb(features, size) * size * (features - size))
    return torch.tensor(table, dtype=torch.float64)[k]


def _shares(features: int, samples: int) -> dict[int, int]:
    """Return how many subsets of each size up to M / 2 to draw, as pairs; as evenly as their numbers permit."""
    sizes = range(1, features // 2 + 1)
    pairs = {k: math.comb(features, k) // (2 if 2 * k == features else 1) for k in sizes}
    want = {k: 1.0 if 2 * k == features else 2.0 for k in sizes}  # a middle size is one of M - 1, the others two
    left, drawn = max(samples // 2, 1), dict.fromkeys(sizes, 0)
    open_sizes = list(sizes)
    while left > 0 and open_sizes:
        total = sum(want[k] for k in open_sizes)
        full = [k for k in open_sizes if pairs[k] <= left * want[k] / total]
        if not full:
            for k in open_sizes:
                drawn[k] = max(1, round(left * want[k] / total))
            break
        for k in full:
            drawn[k], left = pairs[k], left - pairs[k]
        open_sizes = [k for k in open_sizes if k not in full]
    drawn = {k: max(1, count) for k, count in drawn.items()}
    while sum(drawn.values()) > samples // 2:  # rounded up too often
        most = max(open_sizes, key=lambda k: drawn[k], default=None)
        if most is None or drawn[most] < 2:
            break
        drawn[most] -= 1
    return drawn


def _distinct(seed: int, features: int, k: int, count: int, half: bool) -> Tensor:
    """Return distinct subsets of size k, (n, M) bool; of a middle size, those without the last feature."""
    total = math.comb(features, k) // (2 if half else 1)
    if count >= total:
        at = torch.combinations(torch.arange(features - half), k)
        return torch.zeros(len(at), features, dtype=torch.bool).scatter(1, at, True)
    distinct: dict[bytes, Tensor] = {}
    draw, seed = 0, seed ^ (k << 32)  # each size has a stream of its own
    while len(distinct) < count:
        rows = torch.arange(draw, draw + count)
        masks = _subsets(seed, features, rows, torch.full_like(rows, k))
        if half:
            masks = masks ^ masks[:, -1:]
        for mask in masks:
            distinct.setdefault(mask.numpy().tobytes(), mask)
        draw += count
    return torch.stack(list(distinct.values())[:count])


def _subsets(seed: int, features: int, rows: Tensor, size: Tensor) -> Tensor:
    """Return uniform subsets of given sizes, (S, M) bool."""
    keys = rng.bits(seeds_of(seed, features, len(rows)), features, draw=rows)
    return keys.argsort(1).argsort(1) < size[:, None]


def _folded(masks: Tensor) -> Design:
    """Return masks, each followed by its complement."""
    return Design(torch.stack([masks, ~masks], 1).flatten(0, 1), 2)


def seeds_of(seed: int, features: int, rows: int, stage: int = rng.Stream.LIME_MASKS) -> Tensor:
    """Return the seed of a design, once a row, (S,)."""
    return rng.seeds(torch.tensor([[features]]), seed, stage=stage).expand(rows)
