"""Figures of the attention study: every one a function of weights, so that one bootstrap serves them all.

    interval     2,000 draws of *images* with replacement; an image takes its rows of every seed with it
    figure       the mean over seeds of what each seed's rows say, so scales of networks are never mixed
    partial      Pearson's correlation of weighted ranks, the controls' ranks taken out by least squares
    logistic     coefficient of a standardised measure for success; so are controls; classes shrunk, N(0, 1)
    p            2,000 permutations, two-sided; with several seeds, or where nothing can be permuted, how often the
                 bootstrap lies on the other side of the bound, doubled; Holm over the family

References:
    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unfooled.studies.common.figures import Figures

DRAWS = 2000
FEW = 10
"""Fewer samples than this in the smaller of two groups say nothing."""

Columns = Mapping[str, np.ndarray]
Stat = Callable[[Columns, np.ndarray], np.ndarray]
"""(columns (n,) of one seed, weights (D, n)) -> (D,); NaN where undefined."""


@dataclass(frozen=True)
class Cases:
    """Rows of one network, seed by seed.

    Attributes:
        seeds: columns by name, (n,) each; "id" tells the image.
    """

    seeds: tuple[Columns, ...]

    @property
    def n(self) -> int:
        """Rows in all."""
        return sum(len(c["id"]) for c in self.seeds)

    def figure(self, stat: Stat, needed: Sequence[str], *, draws: int = DRAWS) -> Figures:
        """Value, 95 % interval and n, of rows where all `needed` columns are finite."""
        return self.tested(stat, needed, 0.0, draws=draws)[0]

    def tested(self, stat: Stat, needed: Sequence[str], bound: float, *, draws: int = DRAWS) -> tuple[Figures, float]:
        """The figure, and the bootstrap's two-sided p that it is `bound`; NaN where it cannot be told."""
        value, together, n = self._drawn(stat, needed, draws)
        if len(together) < draws / 2:
            return (np.nan, np.nan, np.nan, n), np.nan
        low, high = np.quantile(together, [0.025, 0.975])
        aside = min((together <= bound).sum(), (together >= bound).sum())
        return (value, float(low), float(high), n), float(min(1.0, 2 * (aside + 1) / (len(together) + 1)))

    def each(self, stat: Stat, needed: Sequence[str]) -> list[float]:
        """What every seed alone says; those that cannot tell are left out."""
        found = [Cases((c,))._drawn(stat, needed, 1)[0] for c in self.seeds]
        return [v for v in found if np.isfinite(v)]

    def _drawn(self, stat: Stat, needed: Sequence[str], draws: int) -> tuple[float, np.ndarray, int]:
        """The value, what samples with replacement say instead where they can tell, and n."""
        kept = [_finite(c, needed) for c in self.seeds]
        n = sum(len(c["id"]) for c in kept)
        nothing = np.nan, np.zeros(0), n
        if n < FEW:
            return nothing
        ids, inverse = np.unique(np.concatenate([c["id"] for c in kept]), return_inverse=True)
        counts = _counts(len(ids), draws)
        found, values, start = [], [], 0
        for c in kept:
            rows = inverse[start : start + len(c["id"])]
            start += len(rows)
            value = stat(c, np.ones((1, len(rows))))[0] if len(rows) else np.nan
            if np.isfinite(value):  # a seed that cannot tell takes no part
                found.append(stat(c, counts[:, rows]))
                values.append(value)
        if not values:
            return nothing
        together = np.mean(found, axis=0)
        return float(np.mean(values)), together[np.isfinite(together)], n

    def p_difference(self, name: str, group: str) -> float:
        """Two-sided p that the group does not matter to the mean of a column: it is shuffled within each seed."""

        def null(c: Columns, mixed: np.ndarray) -> np.ndarray:
            ones = c[group] > 0.5
            if min(ones.sum(), (~ones).sum()) < FEW:
                return np.full(len(mixed), np.nan)
            values = c[name][mixed]
            return values[:, ones].mean(1) - values[:, ~ones].mean(1)

        return self._p(null, (name, group))

    def p_partial(self, a: str, b: str, controls: Sequence[str] = ()) -> float:
        """Two-sided p of `partial`: what is left of the first column's ranks is shuffled within each seed."""

        def null(c: Columns, mixed: np.ndarray) -> np.ndarray:
            one = np.ones((1, len(c["id"])))
            left, right = (v[0] for v in _residuals(c, one, (a, b), controls))
            with np.errstate(invalid="ignore", divide="ignore"):
                return left[mixed] @ right / np.sqrt((left**2).sum() * (right**2).sum())

        return self._p(null, (a, b, *controls))

    def _p(self, null: Callable[[Columns, np.ndarray], np.ndarray], needed: Sequence[str]) -> float:
        kept = [_finite(c, needed) for c in self.seeds]
        found = [null(c, _shuffles(len(c["id"]), seed)) for seed, c in enumerate(kept) if len(c["id"]) >= FEW]
        found = [v for v in found if np.isfinite(v[0])]
        if not found:
            return float("nan")
        values = np.abs(np.mean(found, axis=0))  # the first is the order as it is
        return float((values >= values[0] - 1e-12).mean())


@lru_cache(maxsize=8)
def _counts(n: int, draws: int) -> np.ndarray:
    """How often each of n images is in each sample with replacement, (draws, n)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


@lru_cache(maxsize=8)
def _shuffles(n: int, seed: int) -> np.ndarray:
    """The order as it is, and `DRAWS` others, (1 + DRAWS, n)."""
    mixed = np.random.default_rng([1, seed]).random((1 + DRAWS, n)).argsort(1)
    mixed[0] = np.arange(n)
    return mixed


def _finite(c: Columns, needed: Sequence[str]) -> Columns:
    good = np.logical_and.reduce([np.isfinite(c[name]) for name in needed])
    return {name: values[good] for name, values in c.items()}


def mean_of(name: str) -> Stat:
    """The mean of a column."""
    return lambda c, w: w @ c[name] / _positive(w.sum(1))


def mean_where(name: str, group: str) -> Stat:
    """The mean of a column where `group` is 1; NaN where fewer than `FEW` rows are."""

    def stat(c: Columns, w: np.ndarray) -> np.ndarray:
        ones = c[group] > 0.5
        if ones.sum() < FEW:
            return np.full(len(w), np.nan)
        return (w * ones) @ c[name] / _positive((w * ones).sum(1))

    return stat


def difference(name: str, group: str) -> Stat:
    """Mean of a column where `group` is 1, minus that where it is 0; NaN where either has fewer than `FEW` rows."""

    def stat(c: Columns, w: np.ndarray) -> np.ndarray:
        ones = c[group] > 0.5
        if min(ones.sum(), (~ones).sum()) < FEW:
            return np.full(len(w), np.nan)
        a, b = w * ones, w * ~ones
        return a @ c[name] / _positive(a.sum(1)) - b @ c[name] / _positive(b.sum(1))

    return stat


def ranks(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted mid-ranks, (D, n): the weight below plus half of the ties' own."""
    _, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.flatnonzero(np.diff(inverse[order], prepend=-1))
    total = np.add.reduceat(w[:, order], starts, axis=1)
    middle: np.ndarray = (np.cumsum(total, 1) - total / 2)[:, inverse]
    return middle


def partial(a: str, b: str, controls: Sequence[str] = ()) -> Stat:
    """Spearman's correlation of two columns, what the controls explain of their ranks taken out."""

    def stat(c: Columns, w: np.ndarray) -> np.ndarray:
        left, right = _residuals(c, w, (a, b), controls)
        above = (w * left * right).sum(1)
        below = np.sqrt((w * left**2).sum(1) * (w * right**2).sum(1))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(below > 1e-9, above / below, np.nan)

    return stat


def _residuals(c: Columns, w: np.ndarray, names: Sequence[str], controls: Sequence[str]) -> list[np.ndarray]:
    """Weighted ranks of columns, (D, n) each, without what the controls' ranks explain of them."""
    found = [_centred(ranks(c[name], w), w) for name in names]
    if not controls:
        return found
    z = np.stack([_centred(ranks(c[name], w), w) for name in controls], 2)  # (D, n, p)
    weighted = np.swapaxes(z * w[:, :, None], 1, 2)
    gram = weighted @ z
    gram += 1e-9 * (np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1) * np.eye(len(controls))
    return [v - (z @ np.linalg.solve(gram, weighted @ v[:, :, None]))[:, :, 0] for v in found]


def design(c: Columns, names: Sequence[str], classes: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Intercept, standardised columns, dummies of the classes; and the precision of each coefficient's prior.

    Columns are clipped to their middle 98 % first.
    """
    columns = [np.ones(len(c["id"]))]
    for name in names:
        values = np.clip(c[name], *np.quantile(c[name], [0.01, 0.99]))  # completeness is a ratio, with outliers
        columns.append((values - values.mean()) / (values.std() or 1))
    prior = [1e-6] + [1e-3] * len(names)
    if classes is not None:
        for k in np.unique(c[classes])[1:]:
            columns.append((c[classes] == k).astype(float))
            prior.append(1.0)
    return np.stack(columns, 1), np.array(prior)


def fitted(x: np.ndarray, y: np.ndarray, w: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Logistic regression by Newton's method for each row of weights, (D, p); several start from the plain fit."""
    one = np.ones((1, len(x)))
    steps, beta = (20, np.zeros((1, x.shape[1]))) if len(w) == 1 else (5, fitted(x, y, one, prior))
    beta = np.repeat(beta, len(w), 0)
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(beta @ x.T, -30, 30)))
        gradient = (w * (y - p)) @ x - beta * prior
        curve = ((w * p * (1 - p)) @ products).reshape(len(w), x.shape[1], x.shape[1]) + np.diag(prior)
        beta = beta + np.clip(np.linalg.solve(curve, gradient[:, :, None])[:, :, 0], -2, 2)
    return beta


def logistic(measure: str, success: str, controls: Sequence[str] = (), classes: str | None = None) -> Stat:
    """How much a standard deviation of `measure` adds to the log-odds of `success`."""

    def stat(c: Columns, w: np.ndarray) -> np.ndarray:
        y = (c[success] > 0.5).astype(float)
        if min(y.sum(), (1 - y).sum()) < FEW:
            return np.full(len(w), np.nan)
        x, prior = design(c, (measure, *controls), classes)
        return fitted(x, y, w, prior)[:, 1]

    return stat


def auc(names: Sequence[str], success: str, than: Sequence[str] = ()) -> Stat:
    """Area under the ROC curve of a logistic score of `names`, minus that of `than`, where given; fitted once."""

    def area(c: Columns, w: np.ndarray, of: Sequence[str]) -> np.ndarray:
        y = c[success] > 0.5
        if min(y.sum(), (~y).sum()) < FEW:
            return np.full(len(w), np.nan)
        x, prior = design(c, of)
        score = x @ fitted(x, y.astype(float), np.ones((1, len(y))), prior)[0]
        up = (w * y).sum(1)
        down = (w * ~y).sum(1)
        return ((w * y * ranks(score, w)).sum(1) - up**2 / 2) / _positive(up * down)

    def stat(c: Columns, w: np.ndarray) -> np.ndarray:
        return area(c, w, names) - (area(c, w, than) if than else 0.0)

    return stat


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order; NaN stays and is no part of the family."""
    values = np.array(p, dtype=float)
    good = np.flatnonzero(np.isfinite(values))
    order = good[np.argsort(values[good], kind="stable")]
    worst = 0.0
    for i, k in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - i) * values[k]))
        values[k] = worst
    return [float(v) for v in values]


def _positive(total: np.ndarray) -> np.ndarray:
    return np.where(total > 0, total, np.nan)


def _centred(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    return values - (w * values).sum(1, keepdims=True) / _positive(w.sum(1))[:, None]
