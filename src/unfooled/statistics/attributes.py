"""Samples with attributes: which attributes vary, and the mean of a value where each is present and where it is absent.

An attribute is present from .5 on; NaN is an attribute that is not known.
"""

from __future__ import annotations

import numpy as np


def constant_columns(values: np.ndarray) -> tuple[int, ...]:
    """Return the columns with a single known value, or none.

    Args:
        values: (N, n); NaN where unknown.
    """
    low = np.where(np.isnan(values), np.inf, values).min(0)
    high = np.where(np.isnan(values), -np.inf, values).max(0)
    return tuple(int(f) for f in np.flatnonzero(~(low < high)))


def means_by_presence(values: np.ndarray, attributes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each column over the samples without the attribute, and over those with it, (n,) each.

    Args:
        values: One column for each attribute, (N, n) float64, such as its logits.
        attributes: (N, n) in [0, 1]; NaN where unknown.

    Returns:
        The means, absent and present; NaN where there is no such sample.
    """
    present, absent = attributes >= 0.5, attributes < 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        return (values * absent).sum(0) / absent.sum(0), (values * present).sum(0) / present.sum(0)
