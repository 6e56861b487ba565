"""ROC of a score that is meant to be larger for attacked samples; NaN is left out."""

from __future__ import annotations

import numpy as np

from unfooled.statistics.association import roc_area


def roc(clean: np.ndarray, attacked: np.ndarray) -> tuple[list[float], list[float]]:
    """Return false and true positive rates of a score that is larger for attacked images."""
    clean, attacked = clean[~np.isnan(clean)], attacked[~np.isnan(attacked)]
    thresholds = np.unique(np.concatenate([clean, attacked]))[::-1]
    false = [0.0, *((clean >= t).mean() for t in thresholds)]
    true = [0.0, *((attacked >= t).mean() for t in thresholds)]
    return [float(v) for v in false], [float(v) for v in true]


def area(clean: np.ndarray, attacked: np.ndarray) -> float:
    """Return the area under the ROC curve: the share of pairs in the right order, ties counted by half."""
    clean, attacked = clean[~np.isnan(clean)], attacked[~np.isnan(attacked)]
    if not len(clean) or not len(attacked):
        return float("nan")
    return roc_area(attacked, clean)


def hits_at(clean: np.ndarray, attacked: np.ndarray, false: float = 0.05) -> float:
    """Return the share of attacked images above the score that at most `false` of the clean ones exceed."""
    clean, attacked = clean[~np.isnan(clean)], attacked[~np.isnan(attacked)]
    if not len(clean) or not len(attacked):
        return float("nan")
    return float((attacked > np.quantile(clean, 1 - false, method="higher")).mean())
