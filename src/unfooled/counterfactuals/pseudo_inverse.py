"""The published metric, for comparison: not a robustness measure.

    delta_j = G^+ h       G: rows w_j - w_k,  h = l_k - l_j        so that *every* logit is equal, not that j wins
    a(x)    = max_j ||e|| / ||delta_j||                            "attackability"; of a model: its mean

Without bias h = -G e, so delta is minus the projection of e on the rows' differences: the same for every target, never
longer than e, and a >= 1 whatever the weights. With a bias, changing the smallest singular values of the
differences gives the head any score and changes nothing else; if their rank is below c - 1, the cut-off of the
pseudo-inverse alone determines the score. The
exact distance is `flip_distance`.

References:
    Sridhar, SPECTRA, arXiv:2605.25304.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.head import AffineHead, embeddings, target_classes

NOTE = "not a robustness measure"
RANK = 1e-12
"""Singular values below this share of the largest do not count for the rank that is reported."""


@dataclass(frozen=True, eq=False)
class PinvScore:
    """Published attackability, which is not a robustness measure.

    Attributes:
        attackability: a(x), (B,) float64.
        norm: Smallest ||delta_j|| over the classes other than the predicted one, (B,).
        score: Mean of a(x), the published score of a model.
        cutoff: Relative cut-off of the pseudo-inverse.
        rank: Rank of the differences of the head's rows.
        full: c - 1, the rank below which the score depends on the cut-off alone.
    """

    attackability: Tensor
    norm: Tensor
    score: float
    cutoff: float
    rank: int
    full: int

    def __str__(self) -> str:
        return (
            f"attackability {self.score:.3g} ({NOTE}), median norm {float(self.norm.median()):.3g}; cut-off "
            f"{self.cutoff:g}, rank {self.rank} of {self.full}"
        )


def pinv_edit(head: AffineHead, e: Tensor, target: Tensor | int | str, *, cutoff: float = 1e-15) -> Tensor:
    """Compute the published edit, which makes every logit equal.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        target: Class, one or (B,).
        cutoff: Singular values below this share of the largest are set to 0.

    Returns:
        delta, (B, n) float64. A warning says where the result is determined by the cut-off.

    Raises:
        BadInput: Embeddings or classes do not fit the head, or the cut-off is not in [0, 1).
    """
    values = embeddings(head, e).numpy()
    wanted = target_classes(head, target, len(values))
    _check_cutoff(cutoff)
    _warn(difference_rank(head), head.c - 1, cutoff)
    inverse = _Inverses(head, cutoff)
    delta = np.zeros_like(values)
    logits = head.logits(torch.from_numpy(values)).numpy()
    for j in np.unique(wanted):
        rows = wanted == j
        delta[rows] = inverse.edits(logits[rows], int(j)) @ inverse.q.T
    return torch.from_numpy(delta).to(torch.as_tensor(e).device)


def pinv_attackability(head: AffineHead, e: Tensor, *, cutoff: float = 1e-15) -> PinvScore:
    """Compute the published attackability of samples and of the model; it is not a robustness measure.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        cutoff: Singular values below this share of the largest are set to 0.

    Raises:
        BadInput: Embeddings do not fit the head, or the cut-off is not in [0, 1).
    """
    values = embeddings(head, e)
    _check_cutoff(cutoff)
    rank = difference_rank(head)
    _warn(rank, head.c - 1, cutoff)
    inverse = _Inverses(head, cutoff)
    logits = head.logits(values).numpy()
    size = np.stack([np.sqrt((inverse.edits(logits, j) ** 2).sum(1)) for j in range(head.c)], 1)
    size[np.arange(len(size)), logits.argmax(1)] = np.inf
    norm = torch.from_numpy(size.min(1))
    score = values.norm(dim=1) / norm
    device = torch.as_tensor(e).device
    mean = float(score.mean()) if torch.isfinite(score).all() else math.inf
    return PinvScore(score.to(device), norm.to(device), mean, cutoff, rank, head.c - 1)


def difference_rank(head: AffineHead, cutoff: float = RANK) -> int:
    """Return the rank of the differences of the head's rows."""
    weight = head.weight.numpy()
    size = np.linalg.svd(weight - weight.mean(0), compute_uv=False)
    return int((size > cutoff * size[0]).sum()) if size[0] > 0 else 0


class _Inverses:
    """Pseudo-inverses of the differences to each class, in the span of the rows."""

    def __init__(self, head: AffineHead, cutoff: float) -> None:
        self.q, self.r = np.linalg.qr(head.weight.numpy().T)  # w_k = Q r_k
        self.cutoff = cutoff

    def edits(self, logits: np.ndarray, j: int) -> np.ndarray:
        """Return Q^T delta_j, (B, r)."""
        rows = np.delete(self.r.T[j] - self.r.T, j, 0)
        h = np.delete(logits - logits[:, [j]], j, 1)
        return np.asarray(h @ np.linalg.pinv(rows, rcond=self.cutoff).T)


def _check_cutoff(cutoff: float) -> None:
    if not 0 <= cutoff < 1:
        raise BadInput(f"cutoff is {cutoff!r}; it must be a share of the largest singular value, in [0, 1)")


def _warn(rank: int, full: int, cutoff: float) -> None:
    if rank < full:
        warnings.warn(
            f"the differences of the head's rows have rank {rank}, under {full}: the published formula returns what "
            f"the cut-off, {cutoff:g}, leaves; it is {NOTE}",
            stacklevel=3,
        )
