"""Diverse top k: the best pixels of a map, no two of them close to each other.

    repeat: select the best remaining pixel, delete all within w rows and columns of it; until k are selected or none
            remain

The result can be computed in parallel: it is the lexicographically first independent set by rank, and every pixel that
is the best of its window belongs to it. So all such pixels are selected at once, their windows are deleted, and this is
repeated. It processes bands of ranks, best first: the selection in a band depends only on better bands, so
a map is done as soon as it has k pixels, and the ties among its zeros (long chains of windows) are processed only if
needed.

References:
    Kamath et al., LENS, 2023, arXiv:2312.10534 (top-k-div).
    Blelloch, Fineman, Shun, Greedy sequential maximal independent set and matching are parallel on average, SPAA 2012
    (why few rounds suffice on random ranks).
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat
from unfooled.distances.maps.windows import check_window, whole_number, window_max
from unfooled.distances.norms import check_pair


def diverse_top_k(a: Tensor, k: int, w: int) -> Tensor:
    """Mark the k best pixels of each map such that no two are within w rows and columns of each other.

    Args:
        a: Maps, (B, H, W); ties are ranked by the lower flat index. One that holds NaN gets an empty mask.
        k: Number of pixels, between 1 and the size of a map.
        w: Reach of the window that a marked pixel deletes; 0 is the plain top k.

    Returns:
        (B, H, W) bool with at most k True; a map may have fewer such pixels, so scores divide by their number.

    Raises:
        BadInput: k or w does not fit the maps.

    Cost: a sort, and about 5 to 15 rounds of O(H W w); up to about 100 where zeros must be selected.
    """
    check_maps(a, a)
    height, width = a.shape[1:]
    n = height * width
    k, w = check_k(k, a), check_window(w)
    rows = flat(a.detach())
    selected = torch.zeros_like(a, dtype=torch.bool)
    left = (~rows.amax(1).isnan()).nonzero()[:, 0]  # maps that are not done; amax propagates NaN
    rank = torch.zeros(a.shape, dtype=torch.int32, device=a.device)  # n is the best, 1 the worst
    rank[left] = _ranks(rows[left]).reshape(-1, height, width)
    band = min(n, 2 * k * (w + 1) ** 2)
    low = n - band
    while len(left):
        _extend(rank, selected, left, low, w)
        count = flat(selected[left]).sum(1)
        left = left[count < k] if low > 0 else left[:0]
        low = max(0, n - 2 * (n - low))
    score = flat(rank * selected)
    least = score.topk(k, dim=1).values[:, -1:]
    return ((score >= least) & (score > 0)).reshape(a.shape)


def _extend(rank: Tensor, selected: Tensor, left: Tensor, low: int, w: int) -> None:
    """Add the greedy choice among ranks above `low` to `selected`, for the maps `left`."""
    alive = torch.where((rank[left] > low) & ~window_max(selected[left], w), rank[left], 0)
    while len(left):
        head = (alive > 0) & (alive == window_max(alive, w))
        selected[left] |= head
        alive = alive.masked_fill(window_max(head, w), 0)
        unfinished = flat(alive).amax(1) > 0
        if not unfinished.all():
            left, alive = left[unfinished], alive[unfinished]


def check_k(k: int, a: Tensor) -> int:
    """Return k as a plain int; refuse one that does not fit the maps, (B, *D), and an empty batch."""
    n, whole = a.shape[1:].numel(), whole_number(k)
    if len(a) == 0:
        raise BadInput(f"the maps have shape {tuple(a.shape)}: there are none in it; give at least one")
    if whole is None or not 1 <= whole <= n:
        raise BadInput(
            f"k is {k!r}; maps of shape {tuple(a.shape[1:])} have 1 to {n} entries to choose; give a whole number"
        )
    return whole


def check_maps(a: Tensor, b: Tensor) -> None:
    """Refuse pairs that are not maps of one shape, (B, H, W), and empty batches."""
    check_pair(a, b)
    if len(a) == 0:
        raise BadInput(f"a and b have shape {tuple(a.shape)}: there are no maps in them; give at least one pair")
    if a.ndim != 3:
        raise BadInput(f"a has shape {tuple(a.shape)}; maps are (B, H, W), try abs_sum(a) for (B, C, H, W)")


def _ranks(rows: Tensor) -> Tensor:
    """Return ranks n (best) to 1, ties in the order of the index, (B, n) int32."""
    order = rows.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(rows.shape[1], 0, -1, dtype=torch.int32, device=rows.device)
    return torch.empty(rows.shape, dtype=torch.int32, device=rows.device).scatter_(1, order, place.expand_as(order))
