"""Masks with LIME's distribution of sizes for texts, drawn so that every feature is hidden equally often.

    law       k of M features are hidden, k uniform on 1..M, which ones uniform
    drawn     P(k) ~ pi(k)^(1/4), stratified;  weight (1 / M) / P(k);  pi: LIME's kernel

Masks that hide nearly everything weigh little in the fit, so they are drawn less often and weighted up: the surrogate
that is estimated stays the same. In a block of rows, in the order of their sizes, the hidden features are successive
parts of random permutations: each feature is hidden equally often, up to one, also among rows of similar size, so that
what a size alone does to the answer falls on no feature. Where all masks fit into the number of samples, they are used,
with the probability of each as its weight, and there is no sampling error.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.explanations.lime.kernels import Kernel, cosine, of_size
from unfooled.explanations.lime.samplers import Design, every_mask, seeds_of

BLOCK = 512  # rows within which sizes are stratified and features balanced; a power of 2
ENUMERATED = 12  # largest number of features whose masks are all used, where they fit into the samples


def balanced(
    features: int,
    samples: int,
    seed: int,
    *,
    start: int = 0,
    kernel: Kernel = partial(cosine, width=0.25),  # noqa: B008
) -> Design:
    """Draw how many features are hidden, near the kernel's own share, then which, each feature equally often.

    Args:
        features: Number of features, M.
        samples: Number of rows.
        seed: Random seed.
        start: First row.
        kernel: Kernel by whose fourth root sizes are drawn; it decides how rows are spread, not what is estimated.
    """
    if not features:
        return Design(torch.zeros(1, 0, dtype=torch.bool), 0, complete=True)
    if not start and features <= ENUMERATED and 2**features <= samples:
        masks = every_mask(features).masks
        return Design(masks, 0, weights=_law(masks, samples), complete=True)
    blocks = np.arange(start // BLOCK, -(-(start + samples) // BLOCK))
    share = of_size(kernel, features)[:features] ** 0.25
    share = share / share.sum()
    hidden = features - _sizes(features, seed, blocks, share)
    masks = torch.from_numpy(_subsets(features, seed, blocks, hidden)).flatten(0, 1)
    ratio = (1 / (features * share))[features - torch.from_numpy(hidden).flatten()]
    first = start - int(blocks[0]) * BLOCK
    rows = torch.from_numpy(_order(features, seed, blocks))[first : first + samples]
    return Design(masks[rows], weights=ratio[rows])


def _law(masks: Tensor, samples: int) -> Tensor:
    """Return the share of each mask in LIME's law, (S,), in which the sample itself is one row of `samples`."""
    features = masks.shape[1]
    table = [(1 - 1 / samples) / (features * math.comb(features, shown)) for shown in range(features)]
    return torch.tensor([*table, 1 / samples], dtype=torch.float64)[masks.sum(1)]


def _sizes(features: int, seed: int, blocks: npt.NDArray[np.int64], share: Tensor) -> npt.NDArray[np.int64]:
    """Draw how many features each row shows, (G, BLOCK): one of each of BLOCK equal strata, in ascending order."""
    stream = seeds_of(seed, features, len(blocks), rng.Stream.LIME_SIZES)
    u = rng.uniform(stream, (BLOCK,), draw=torch.from_numpy(2 * blocks), dtype=torch.float64)
    place = (torch.arange(BLOCK) + u) / BLOCK
    sizes: npt.NDArray[np.int64] = torch.searchsorted(share.cumsum(0), place).clamp(max=features - 1).numpy()
    return sizes


def _order(features: int, seed: int, blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order of all rows, (G BLOCK,): in each block that of reversed bits, so that few rows spread over all.

    A random number that is added to the bits of each block makes every row of a block equally likely at each place.
    """
    stream = seeds_of(seed, features, len(blocks), rng.Stream.LIME_SIZES)
    u = rng.uniform(stream, (1,), draw=torch.from_numpy(2 * blocks + 1), dtype=torch.float64)
    shift = (u * BLOCK).long().numpy()
    bits = BLOCK.bit_length() - 1
    place = sum(((np.arange(BLOCK) >> k) & 1) << (bits - 1 - k) for k in range(bits))
    return ((place ^ shift) + np.arange(len(blocks))[:, None] * BLOCK).ravel()


def _subsets(
    features: int, seed: int, blocks: npt.NDArray[np.int64], hidden: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return masks, (G, BLOCK, M), whose rows hide successive features of random permutations, one after another.

    A row that goes on in the next permutation takes features from it that it does not hide yet.
    """
    ends = hidden.cumsum(1)
    turns = -(-int(ends[:, -1].max()) // features)
    order = np.empty((len(blocks), turns, features), dtype=np.int64)
    keys = _keys(features, seed, blocks, turns)
    late = np.zeros((len(blocks), features), dtype=np.int64)
    at, groups = np.arange(features), np.arange(len(blocks))[:, None]
    for turn in range(turns):
        now = (keys[:, turn] + late).argsort(1)
        order[:, turn] = now
        # features that the row which reaches into the next permutation hides already
        row = (ends <= (turn + 1) * features).sum(1).clip(max=hidden.shape[1] - 1)
        begins = ends[np.arange(len(blocks)), row] - hidden[np.arange(len(blocks)), row] - turn * features
        late[groups, now] = np.where(at >= begins[:, None], 1 << 62, 0)
    masks = np.ones((*hidden.shape, features), dtype=bool)
    stream = order.reshape(len(blocks), -1)
    row_of = np.repeat(np.tile(np.arange(hidden.shape[1]), len(blocks)), hidden.ravel())
    block_of = np.repeat(np.arange(len(blocks)), ends[:, -1])
    place = np.concatenate([np.arange(n) for n in ends[:, -1]])
    masks[block_of, row_of, stream[block_of, place]] = False
    return masks


def _keys(features: int, seed: int, blocks: npt.NDArray[np.int64], turns: int) -> npt.NDArray[np.int64]:
    """Draw sort keys of permutations, (G, turns, M), below 2^62."""
    draws = torch.from_numpy(blocks[:, None] * BLOCK + np.arange(turns)).flatten()
    bits = rng.bits(seeds_of(seed, features, len(draws)), features, draw=draws)
    keys: npt.NDArray[np.int64] = ((bits >> 2) & ((1 << 62) - 1)).reshape(len(blocks), turns, features).numpy()
    return keys
