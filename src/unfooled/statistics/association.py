"""Associations between measures, as statistics of weights that `unfooled.statistics.bootstrap` resamples.

    partial_spearman   Pearson's correlation of weighted ranks, after regressing out the controls' ranks
    logistic           coefficient of a standardised measure for success, with standardised controls; class dummies
                       have the prior N(0, 1)
    p_...              two-sided p-values from 2,000 permutations within each seed
    holm               correction for the number of tests

In shapes, n is the number of rows, D the number of rows of weights (resamples), p the number of coefficients.

References:
    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from unfooled.statistics.bootstrap import DRAWS, MIN_SAMPLES, Cases, Columns, Statistic, finite_rows


def mean_of(name: str) -> Statistic:
    """Build the statistic that is the mean of a column."""
    return lambda columns, w: w @ columns[name] / _positive(w.sum(1))


def quantile_of(name: str, q: float) -> Statistic:
    """Build the statistic that is the q-quantile of a column."""

    def statistic(columns: Columns, w: np.ndarray) -> np.ndarray:
        order = np.argsort(columns[name], kind="stable")
        values, total = columns[name][order], np.cumsum(w[:, order], 1)
        wanted = q * total[:, -1:]
        lower = (total < wanted * (1 - 1e-12)).sum(1)
        upper = np.minimum((total <= wanted * (1 + 1e-12)).sum(1), len(values) - 1)
        middle: np.ndarray = (values[lower] + values[upper]) / 2  # of two values where the weight is divided exactly
        return middle

    return statistic


def mean_where(name: str, group: str) -> Statistic:
    """Build the mean of a column over the rows where `group` is 1; NaN where these are fewer than `MIN_SAMPLES`."""

    def statistic(columns: Columns, w: np.ndarray) -> np.ndarray:
        ones = columns[group] > 0.5
        if ones.sum() < MIN_SAMPLES:
            return np.full(len(w), np.nan)
        return (w * ones) @ columns[name] / _positive((w * ones).sum(1))

    return statistic


def group_difference(name: str, group: str) -> Statistic:
    """Build the mean of a column where `group` is 1 minus that where it is 0; NaN for fewer than `MIN_SAMPLES`."""

    def statistic(columns: Columns, w: np.ndarray) -> np.ndarray:
        ones = columns[group] > 0.5
        if min(ones.sum(), (~ones).sum()) < MIN_SAMPLES:
            return np.full(len(w), np.nan)
        a, b = w * ones, w * ~ones
        return a @ columns[name] / _positive(a.sum(1)) - b @ columns[name] / _positive(b.sum(1))

    return statistic


def ranks(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Compute weighted mid-ranks, (D, n): the weight below a value plus half the weight of its ties."""
    _, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.flatnonzero(np.diff(inverse[order], prepend=-1))
    total = np.add.reduceat(w[:, order], starts, axis=1)
    middle: np.ndarray = (np.cumsum(total, 1) - total / 2)[:, inverse]
    return middle


def partial_spearman(a: str, b: str, controls: Sequence[str] = ()) -> Statistic:
    """Build Spearman's correlation of two columns, with the ranks of the controls regressed out."""

    def statistic(columns: Columns, w: np.ndarray) -> np.ndarray:
        left, right = _rank_residuals(columns, w, (a, b), controls)
        above = (w * left * right).sum(1)
        below = np.sqrt((w * left**2).sum(1) * (w * right**2).sum(1))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(below > 1e-9, above / below, np.nan)

    return statistic


def _rank_residuals(columns: Columns, w: np.ndarray, names: Sequence[str], controls: Sequence[str]) -> list[np.ndarray]:
    """Return weighted ranks of columns, (D, n) each, with the controls' ranks regressed out."""
    centred = [_centred(ranks(columns[name], w), w) for name in names]
    if not controls:
        return centred
    z = np.stack([_centred(ranks(columns[name], w), w) for name in controls], 2)  # (D, n, p)
    weighted = np.swapaxes(z * w[:, :, None], 1, 2)
    gram = weighted @ z
    gram += 1e-9 * (np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1) * np.eye(len(controls))
    return [v - (z @ np.linalg.solve(gram, weighted @ v[:, :, None]))[:, :, 0] for v in centred]


def design_matrix(columns: Columns, names: Sequence[str], classes: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Build the design matrix of a logistic regression.

    Args:
        columns: Columns of one seed.
        names: Columns that are clipped to their middle 98 % (ratios have outliers) and standardised.
        classes: Column of class numbers, encoded as dummies. None: no classes.

    Returns:
        Intercept, columns and dummies, (n, p), and the precision (inverse variance) of each coefficient's prior, (p,).
    """
    design = [np.ones(len(columns["id"]))]
    for name in names:
        values = np.clip(columns[name], *np.quantile(columns[name], [0.01, 0.99]))
        design.append((values - values.mean()) / (values.std() or 1))
    prior = [1e-6] + [1e-3] * len(names)
    if classes is not None:
        for k in np.unique(columns[classes])[1:]:
            design.append((columns[classes] == k).astype(float))
            prior.append(1.0)
    return np.stack(design, 1), np.array(prior)


def fit_logistic(x: np.ndarray, y: np.ndarray, w: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Fit a logistic regression by Newton's method for each row of weights, (D, p).

    With several rows of weights, Newton's method starts from the unweighted fit.

    Args:
        x: Design, (n, p).
        y: Success, 0 or 1, (n,).
        w: Weights, (D, n).
        prior: Precision of each coefficient's normal prior, (p,).
    """
    one = np.ones((1, len(x)))
    steps, beta = (20, np.zeros((1, x.shape[1]))) if len(w) == 1 else (5, fit_logistic(x, y, one, prior))
    beta = np.repeat(beta, len(w), 0)
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(beta @ x.T, -30, 30)))
        gradient = (w * (y - p)) @ x - beta * prior
        curve = ((w * p * (1 - p)) @ products).reshape(len(w), x.shape[1], x.shape[1]) + np.diag(prior)
        beta = beta + np.clip(np.linalg.solve(curve, gradient[:, :, None])[:, :, 0], -2, 2)
    return beta


def logistic(measure: str, success: str, controls: Sequence[str] = (), classes: str | None = None) -> Statistic:
    """Build the change in log-odds of `success` per standard deviation of `measure`, given controls and classes."""

    def statistic(columns: Columns, w: np.ndarray) -> np.ndarray:
        y = (columns[success] > 0.5).astype(float)
        if min(y.sum(), (1 - y).sum()) < MIN_SAMPLES:
            return np.full(len(w), np.nan)
        x, prior = design_matrix(columns, (measure, *controls), classes)
        return fit_logistic(x, y, w, prior)[:, 1]

    return statistic


def auc(names: Sequence[str], success: str, baseline: Sequence[str] = ()) -> Statistic:
    """Build the area under the ROC curve of a logistic score of `names`, minus that of `baseline`, if given.

    The score is fitted once, on the samples that it is evaluated on.
    """

    def area(columns: Columns, w: np.ndarray, of: Sequence[str]) -> np.ndarray:
        y = columns[success] > 0.5
        if min(y.sum(), (~y).sum()) < MIN_SAMPLES:
            return np.full(len(w), np.nan)
        x, prior = design_matrix(columns, of)
        score = x @ fit_logistic(x, y.astype(float), np.ones((1, len(y))), prior)[0]
        up = (w * y).sum(1)
        down = (w * ~y).sum(1)
        return ((w * y * ranks(score, w)).sum(1) - up**2 / 2) / _positive(up * down)

    def statistic(columns: Columns, w: np.ndarray) -> np.ndarray:
        return area(columns, w, names) - (area(columns, w, baseline) if baseline else 0.0)

    return statistic


def roc_area(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the ROC curve: the share of pairs with the positive value above, ties counted by half.

    Args:
        positive: Scores that should be larger, (n,).
        negative: The other scores, (m,).
    """
    above, equal = positive[:, None] > negative, positive[:, None] == negative
    return float(above.mean() + 0.5 * equal.mean())


def p_difference(cases: Cases, name: str, group: str) -> float:
    """Compute the two-sided p of `group_difference`: the column is shuffled within each seed."""

    def null(columns: Columns, orders: np.ndarray) -> np.ndarray:
        ones = columns[group] > 0.5
        if min(ones.sum(), (~ones).sum()) < MIN_SAMPLES:
            return np.full(len(orders), np.nan)
        values = columns[name][orders]
        return values[:, ones].mean(1) - values[:, ~ones].mean(1)

    return _permutation_p(cases, null, (name, group))


def p_partial_spearman(cases: Cases, a: str, b: str, controls: Sequence[str] = ()) -> float:
    """Compute the two-sided p of `partial_spearman`: the first column's residual ranks are shuffled in each seed."""

    def null(columns: Columns, orders: np.ndarray) -> np.ndarray:
        one = np.ones((1, len(columns["id"])))
        left, right = (v[0] for v in _rank_residuals(columns, one, (a, b), controls))
        with np.errstate(invalid="ignore", divide="ignore"):
            return left[orders] @ right / np.sqrt((left**2).sum() * (right**2).sum())

    return _permutation_p(cases, null, (a, b, *controls))


def _permutation_p(cases: Cases, null: Callable[[Columns, np.ndarray], np.ndarray], needed: Sequence[str]) -> float:
    """Return the share of permutations whose figure, a mean over seeds, is at least as far from 0 as the true one."""
    seeds = [finite_rows(columns, needed) for columns in cases.seeds]
    figures = [
        null(columns, _orders(len(columns["id"]), seed))
        for seed, columns in enumerate(seeds)
        if len(columns["id"]) >= MIN_SAMPLES
    ]
    figures = [v for v in figures if np.isfinite(v[0])]
    if not figures:
        return float("nan")
    values = np.abs(np.mean(figures, axis=0))  # the first is the true order
    return float((values >= values[0] - 1e-12).mean())


@lru_cache(maxsize=8)
def _orders(n: int, seed: int) -> np.ndarray:
    """Return the true order and `DRAWS` random orders, (1 + DRAWS, n)."""
    orders = np.random.default_rng([1, seed]).random((1 + DRAWS, n)).argsort(1)
    orders[0] = np.arange(n)
    return orders


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's method, in the given order; NaN stays NaN and is not counted as a test."""
    values = np.array(p, dtype=float)
    finite = np.flatnonzero(np.isfinite(values))
    order = finite[np.argsort(values[finite], kind="stable")]
    worst = 0.0
    for i, k in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - i) * values[k]))
        values[k] = worst
    return [float(v) for v in values]


def _positive(total: np.ndarray) -> np.ndarray:
    """Return divisors with NaN in place of values that are not above 0."""
    return np.where(total > 0, total, np.nan)


def _centred(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Subtract the weighted mean of each row."""
    return values - (w * values).sum(1, keepdims=True) / _positive(w.sum(1))[:, None]
