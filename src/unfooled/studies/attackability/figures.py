"""Figures of the study of attackability, with 95 % intervals, made from the stored records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unfooled.data.made.shapes import FACTORS
from unfooled.statistics.association import partial_spearman, quantile_of, roc_area
from unfooled.statistics.bootstrap import Cases, discrete_mean
from unfooled.statistics.intervals import NO_SAMPLES, Interval, over_seeds
from unfooled.studies.attackability.bench import IRRELEVANT, PLANTED, learnt_factors
from unfooled.studies.attackability.records import Carried, Columns, Geometry, Near, Tables, Trained
from unfooled.studies.common.records import array

APART = 1_000_000
"""Offset between the scene numbers of different networks, whose scenes are not the same."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Results:
    """Records of all units.

    Attributes:
        geometries: Networks with their geometry, rho by rho.
        near: Radii and pixel distances of these networks.
        carried: Edits carried into pixels, one record a seed.
        trained: Semantic trainings, seed by seed.
        published: The published metric exposed, one record a seed.
        others: Tables of the parts on birds.
        alarm: Small networks of the alarm; empty: it counts the other ones.
    """

    geometries: Sequence[Geometry] = ()
    near: Sequence[Near] = ()
    carried: Sequence[Carried] = ()
    trained: Sequence[Trained] = ()
    published: Sequence[Tables] = ()
    others: Sequence[Tables] = field(default=())
    alarm: Sequence[Geometry] = ()

    @property
    def rhos(self) -> list[float]:
        """Correlations of the planted background, in their order."""
        return list(dict.fromkeys(one.rho for one in self.geometries))

    def at(self, rho: float) -> list[Geometry]:
        """Networks at one correlation."""
        return [one for one in self.geometries if one.rho == rho]

    def alarm_at(self, rho: float) -> list[Geometry]:
        """Networks at one correlation that the alarm counts."""
        return [one for one in self.alarm or self.geometries if one.rho == rho]


def arrays(columns: Columns, seed: int = 0) -> Arrays:
    """Return columns as arrays, with the number of each scene."""
    made = {name: array(values) for name, values in columns.items()}
    count = len(next(iter(made.values()), ()))
    return {**made, "id": np.arange(count) + APART * seed}


def median(values: np.ndarray) -> Interval:
    """Return the median with its bootstrap interval."""
    good = values[np.isfinite(values)]
    if not len(good):
        return NO_SAMPLES
    figure = Cases(({"id": np.arange(len(good)), "v": good},)).interval(quantile_of("v", 0.5), ["v"])
    if np.isfinite(figure.value):
        return figure
    return Interval(float(np.median(good)), float(good.min()), float(good.max()), len(good))


def middle(values: np.ndarray) -> float:
    """Return the median of the finite values; NaN where there is none."""
    good = values[np.isfinite(values)]
    return float(np.median(good)) if len(good) else float("nan")


def mean(values: np.ndarray) -> Interval:
    """Return the mean of values in [-1, 1], such as differences of shares, with its interval."""
    return discrete_mean(values[np.isfinite(values)])


def share(values: np.ndarray) -> Interval:
    """Return the mean of values in [0, 1] with its interval."""
    value, low, high, n = mean(values)
    return Interval(value, max(low, 0.0), min(high, 1.0), n)


def ratio(a: np.ndarray, b: np.ndarray) -> Interval:
    """Return the ratio of the medians of two columns, paired by scene."""
    good = np.isfinite(a) & np.isfinite(b)
    columns = {"id": np.arange(good.sum()), "a": a[good], "b": b[good]}
    above, below = quantile_of("a", 0.5), quantile_of("b", 0.5)

    def statistic(rows: Mapping[str, np.ndarray], w: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient: np.ndarray = above(rows, w) / below(rows, w)
        return quotient

    return Cases((columns,)).interval(statistic, ["a", "b"])


def spearman(columns: Sequence[Arrays], a: str, b: str) -> Interval:
    """Return Spearman's correlation of two columns, averaged over networks."""
    return Cases(tuple(columns)).interval(partial_spearman(a, b), [a, b]) if columns else NO_SAMPLES


def spearman_within(columns: Sequence[Arrays], a: str, b: str) -> Interval:
    """Return Spearman's correlation of two columns among scenes of one class, averaged over networks.

    The means of the ranks of each class are taken out first: how much a pixel changes the attribute logits differs
    between classes.
    """
    given = [one for one in columns if "label" in one]
    labels = sorted({float(label) for one in given for label in one["label"]})[1:]
    marked = [one | {f"class {k}": (one["label"] == label) * 1.0 for k, label in enumerate(labels)} for one in given]
    names = [f"class {k}" for k in range(len(labels))]
    return Cases(tuple(marked)).interval(partial_spearman(a, b, names), [a, b, *names]) if given else NO_SAMPLES


def factor_mean(rows: Sequence[Geometry], factor: str, what: str) -> Interval:
    """Return the mean of a factor's "head", "total", "twin" or "cosine" over the scenes of all networks."""
    parts = [array(one.twins[f"{factor}, {what}"]) for one in rows]
    by_network = [float(np.nanmean(part)) for part in parts if np.isfinite(part).any()]
    if not parts:
        return NO_SAMPLES
    value, low, high, n = over_seeds(by_network, mean(np.concatenate(parts)))
    return Interval(value, max(low, -1.0 if what == "cosine" else 0.0), min(high, 1.0), n)


def factor_order(rows: Sequence[Geometry], what: str, *, every: bool = False) -> Interval:
    """Return Spearman's correlation of "head" or "total" with the twins over factors, the mean of the networks.

    Args:
        rows: Networks; those with fewer than four factors are left out.
        what: "head" or "total".
        every: True: take all factors, for a table; False: those that are learnt, for a claim.
    """
    seeds = []
    for one in rows:
        names = list(FACTORS) if every else learnt_factors(array(one.auc).tolist())
        if len(names) < 4:
            continue
        seeds.append((names, arrays(one.twins, one.seed)))
    if not seeds:
        return NO_SAMPLES
    values, resampled = [], []
    draw = np.random.default_rng(0)
    for names, columns in seeds:
        count = len(columns["id"])
        w = np.concatenate([np.ones((1, count)), draw.multinomial(count, np.full(count, 1 / count), size=1000)])
        sides = [
            np.stack([(w @ np.nan_to_num(columns[f"{n}, {kind}"])) / w.sum(1) for n in names], 1)
            for kind in (what, "twin")
        ]
        correlations = _rank_correlations(*sides)
        values.append(correlations[0])
        resampled.append(correlations[1:])
    good = np.isfinite(values)  # a correlation is undefined where all factors have the same effect
    if not good.any():
        return NO_SAMPLES
    drawn = np.array(resampled)[good]
    seen = np.isfinite(drawn)
    means = np.where(seen, drawn, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
    low, high = np.quantile(means[seen.any(0)], [0.025, 0.975])
    return Interval(float(np.array(values)[good].mean()), float(low), float(high), int(good.sum()))


def _rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each row, (draws,); NaN where all its values are equal."""
    from scipy.stats import rankdata

    x, y = (rows - rows.mean(1, keepdims=True) for rows in (rankdata(a, axis=1), rankdata(b, axis=1)))
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.where(size > 0, (x * y).sum(1) / np.where(size > 0, size, 1.0), np.nan)


def auroc(planted: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the probability that a planted effect is above another one, with Newcombe's interval.

    The interval (Newcombe, Statistics in Medicine 2006, method 5) has a width where all are apart, too; n counts the
    smaller side.

    Args:
        planted: Effects that should stand out.
        others: Effects that should not.
    """
    a, b = np.asarray(planted, float), np.asarray(others, float)
    if not len(a) or not len(b):
        return NO_SAMPLES
    above = roc_area(a, b)
    theta = np.linspace(0, 1, 20_001)
    spread = theta * (1 - theta) * (1 + ((len(a) + len(b)) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta)))
    inside = theta[np.abs(theta - above) <= 1.959964 * np.sqrt(spread / (len(a) * len(b))) + 1e-12]
    return Interval(float(above), float(inside.min()), float(inside.max()), min(len(a), len(b)))


def planted_effects(rows: Sequence[Geometry], what: str) -> tuple[list[float], list[float]]:
    """Return "head" or "total" of the planted factor, and of the learnt irrelevant ones, network by network."""
    planted, others = [], []
    for one in rows:
        names = learnt_factors(array(one.auc).tolist())
        if PLANTED not in names:
            continue
        planted.append(float(np.nanmean(array(one.twins[f"{PLANTED}, {what}"]))))
        others += [float(np.nanmean(array(one.twins[f"{name}, {what}"]))) for name in IRRELEVANT if name in names]
    return planted, others


def over_networks(results: Results) -> Arrays:
    """Return the median radius and pixel distance of every network, concept trainings included.

    They are of the scenes that the network classifies correctly, as all scenes of `Near` are.
    """
    sets = [arrays(one.columns) for one in results.near] + [correct(one) for one in results.trained]
    rows = [tuple(middle(one[name]) for name in ("radius", "flip", "distance")) for one in sets]
    table = np.array([row for row in rows if np.isfinite(row).all()]).reshape(-1, 3)
    return {"id": np.arange(len(table)), "radius": table[:, 0], "flip": table[:, 1], "distance": table[:, 2]}


def correct(one: Trained) -> Arrays:
    """Return the columns of a training at the scenes that it classifies correctly."""
    columns = arrays(one.columns)
    return {name: values[columns["clean"] > 0] for name, values in columns.items()}


def arm_gap(
    results: Results, name: str, a: str, b: str, centre: Callable[[np.ndarray], Interval]
) -> Interval:  # fmt: skip
    """Return the mean or median of a column of one training less that of another one, paired by seed and scene.

    Args:
        results: All results.
        name: Column of the trainings.
        a: Name of the one training.
        b: Name of the other one.
        centre: `mean` or `median`; its interval over scenes is widened by that over seeds.
    """
    by_arm = {arm: {one.seed: one for one in results.trained if one.arm == arm} for arm in (a, b)}
    seeds = [seed for seed in by_arm[a] if seed in by_arm[b]]
    return by_seed([array(by_arm[a][s].columns[name]) - array(by_arm[b][s].columns[name]) for s in seeds], centre)


def by_seed(parts: Sequence[np.ndarray], centre: Callable[[np.ndarray], Interval]) -> Interval:
    """Return a figure of all seeds' scenes; its interval over scenes is widened by that over seeds."""
    if not parts:
        return NO_SAMPLES
    return over_seeds([centre(part).value for part in parts], centre(np.concatenate(parts)))


def share_by_seed(parts: Sequence[np.ndarray]) -> Interval:
    """Return the mean of values in [0, 1] over all seeds' scenes, with the interval of `by_seed`."""
    value, low, high, n = by_seed(parts, share)
    return Interval(value, max(low, 0.0), min(high, 1.0), n)


def carried_column(results: Results, name: str) -> np.ndarray:
    """Return a measure of carried edits over all seeds."""
    parts = [array(one.columns[name]) for one in results.carried if name in one.columns]
    return np.concatenate(parts) if parts else np.zeros(0)


def published_column(results: Results, name: str) -> np.ndarray:
    """Return a column of the published metric over all seeds."""
    parts = [array(one.columns[name]) for one in results.published]
    return np.concatenate(parts) if parts else np.zeros(0)
