"""Sampler of table rows whose hidden numbers are drawn from the conditional normal distribution given the shown ones.

    S' = (1 - a) S + a diag(S)
    x_h | x_k ~ N(S'_hk S'_kk^-1 x_k, S'_hh - S'_hk S'_kk^-1 S'_kh)

S is the covariance of the numeric columns of the training table, in standard deviations from their means, a the
shrinkage, h the hidden and k the shown columns. Hidden categories come from one of the rows nearest on the shown
features, as with `conditional`.

References:
    Aas, Jullum, Loland, Explaining individual predictions when features are dependent, AIJ 2021, arXiv:1903.10464.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from unfooled.core.errors import BadInput
from unfooled.explanations.lime.columns import is_missing
from unfooled.explanations.lime.samplers import Sampler, paired
from unfooled.explanations.lime.tables import (
    Columns,
    Features,
    Perturbed,
    TableSampler,
    _scaled,
    _uniform,
    by_nearest,
)


def conditional_normal(shrink: float = 0.1, k: int = 20, sampler: Sampler = paired) -> TableSampler:
    """Return the sampler that draws hidden numbers from the normal distribution given the shown ones.

    Args:
        shrink: Shrinkage a of the covariances between different columns, in [0, 1].
        k: Number of nearest rows that hidden categories come from.
        sampler: Sampler of masks.
    """
    if not 0 <= shrink <= 1:
        raise BadInput(f"shrink is {shrink}; it must lie in [0, 1]")
    if k < 1:
        raise BadInput(f"k is {k}; it is a number of rows of at least 1")
    return partial(by_normal, shrink=shrink, k=k, sampler=sampler)


def by_normal(
    columns: Columns,
    features: Features,
    row: list[Any],
    samples: int,
    seed: int,
    *,
    shrink: float,
    k: int,
    sampler: Sampler,
) -> Perturbed:
    """Draw masks, and for each the hidden numbers given the shown ones; a missing number counts as the mean."""
    drawn = by_nearest(columns, features, row, samples, seed, k=k, sampler=sampler)
    at = [(j, c) for j, group in enumerate(features) for c in group if columns[c].edges is not None and columns[c].sd]
    if not at:
        return drawn
    numeric = [c for _, c in at]
    table = np.column_stack([_scaled(columns[c]) for c in numeric])
    whole = table.T @ table / len(table)
    covariance = (1 - shrink) * whole + shrink * np.diag(whole.diagonal())
    own = np.array([0.0 if is_missing(row[c]) else (float(row[c]) - columns[c].mean) / columns[c].sd for c in numeric])
    u = torch.as_tensor(_uniform(len(features), len(drawn.z), len(numeric), seed ^ (1 << 41)))
    noise = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).numpy()
    values = np.tile(own, (len(drawn.z), 1))
    hidden = ~drawn.z.numpy()[:, [j for j, _ in at]]
    for s, h in enumerate(hidden):
        if h.any():
            slope = np.linalg.pinv(covariance[np.ix_(~h, ~h)], hermitian=True) @ covariance[np.ix_(~h, h)]
            level, scale = np.linalg.eigh(covariance[np.ix_(h, h)] - covariance[np.ix_(h, ~h)] @ slope)
            values[s, h] = own[~h] @ slope + (scale * np.sqrt(level.clip(0))) @ noise[s, h]
    table_columns = list(drawn.columns)
    for n, c in enumerate(numeric):
        number = columns[c].mean + columns[c].sd * values[:, n]
        number = np.rint(number) if columns[c].values.dtype.kind in "iu" else number
        table_columns[c] = np.where(hidden[:, n], number, table_columns[c])
    words = f"numbers normal given the shown ones, categories from {drawn.words}"
    return replace(drawn, columns=table_columns, words=words)
