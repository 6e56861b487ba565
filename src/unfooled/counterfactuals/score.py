"""Attackability that does not depend on the scale of the embedding: radii in within-class standard deviations.

    r(x)  = min_k m_k / sqrt(d_k^T S d_k)      S: pooled within-class covariance of e;     a = 1 / (1 + r)
    pair  (i, k): median of m_k / sqrt(d_k^T S d_k) over samples predicted i
    model median of r, quartiles, share with r <= tau as a curve; not the mean of 1 / r, which the points near a
          boundary dominate

r does not change under any affine change of the embedding, e -> A e + t; exactly so without shrinkage.

References:
    Ledoit, Wolf, A well-conditioned estimator for large-dimensional covariance matrices, Journal of Multivariate
    Analysis 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unfooled.core.checks import check_labels
from unfooled.core.errors import BadInput
from unfooled.counterfactuals.cost import Cost, Group
from unfooled.counterfactuals.flips import flip_distance
from unfooled.counterfactuals.head import AffineHead, indices
from unfooled.statistics import Cases, Estimate, Interval, partial_spearman, quantile_of, share

DRAWS = 1000
"""Resamples of an interval."""
PREDICTIVE = 0.6
"""Rank correlation of radius and pixel distance below which the radius is reported as not predictive."""
ENOUGH = 200
"""Least number of samples for which the rank correlation over samples is conclusive."""


class Radii(NamedTuple):
    """Radii of a model's samples.

    Attributes:
        median: Median radius with its interval.
        quartiles: Lower and upper quartile.
        curve: (tau, share of samples with a radius up to tau), for each tau asked for.
        attackability: 1 / (1 + median radius).
    """

    median: Interval
    quartiles: tuple[Interval, Interval]
    curve: tuple[tuple[float, Estimate], ...]
    attackability: float


class Agreement(NamedTuple):
    """Agreement of radii with distances in pixel space.

    Attributes:
        spearman: Rank correlation with its interval.
        ratio: Median of distance / radius.
        n: Number of samples with both.
        predictive: True if the correlation is at least .6.
        enough: True for at least 200 samples.
    """

    spearman: Interval
    ratio: Interval
    n: int
    predictive: bool
    enough: bool

    def __str__(self) -> str:
        if not np.isfinite(self.spearman.value):
            return f"Spearman undefined: {self.n} samples are too few, or their radii or distances are all equal"
        tail = "" if self.predictive else "; not predictive here"
        few = "" if self.enough else f"; only {self.n} samples"
        return f"Spearman {self.spearman.text(2)}{tail}{few}"


def within_covariance(e: Tensor, y: Tensor, *, shrink: bool = True) -> Tensor:
    """Compute the pooled within-class covariance of embeddings, (n, n) float64.

    Args:
        e: Embeddings, (N, n).
        y: Labels, (N,) int64.
        shrink: Ledoit and Wolf's shrinkage towards a multiple of the identity. Without it the radius is exactly
            invariant, and the covariance may be singular.

    Raises:
        BadInput: No class has two samples, or e is not finite.
    """
    values = finite(e, "e")
    check_labels(y.cpu(), len(values))
    labels, place = np.unique(y.cpu().numpy(), return_inverse=True)
    freedom = len(values) - len(labels)
    if freedom < 1:
        raise BadInput(f"no class has two of the {len(values)} samples; a within-class covariance needs such classes")
    centred = values - class_means(values, place)[place]
    if not shrink:
        return torch.from_numpy(centred.T @ centred / freedom)
    from sklearn.covariance import ledoit_wolf

    matrix, _ = ledoit_wolf(centred, assume_centered=True)
    return torch.from_numpy(matrix * len(values) / freedom)


def radius(head: AffineHead, e: Tensor, covariance: Tensor) -> Tensor:
    """Compute the distance to the nearest change of label in within-class standard deviations, (B,) float64.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        covariance: S, (n, n), see `within_covariance`.
    """
    return flip_distance(head, e, cost=Cost(covariance=covariance)).amin(1)


def attackability(radius: Tensor) -> Tensor:
    """Return 1 / (1 + r): 1 on the boundary, 0 far away."""
    return 1 / (1 + radius)


def radii(radius: Tensor, taus: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 3.0)) -> Radii:
    """Summarise the radii of a model's samples, with 95 % bootstrap intervals over them.

    Args:
        radius: r, (B,).
        taus: Radii tau for which the share of samples with a radius up to tau is computed.
    """
    values = radius.detach().cpu().double()
    lower, middle, upper = (_interval(values.numpy(), q) for q in (0.25, 0.5, 0.75))
    curve = tuple((float(tau), share(values <= tau)) for tau in taus)
    return Radii(middle, (lower, upper), curve, 1 / (1 + middle.value))


def pair_radii(head: AffineHead, e: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the median radius from each predicted class to each rival.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        covariance: S, (n, n).

    Returns:
        Medians, (c, c), NaN on the diagonal and for classes that are never predicted, and the numbers of samples, (c,).
    """
    distance = flip_distance(head, e, cost=Cost(covariance=covariance)).cpu()
    first = head.logits(e).argmax(1).cpu()
    table = torch.full((head.c, head.c), torch.nan, dtype=torch.float64)
    for i in first.unique().tolist():
        table[i] = distance[first == i].quantile(0.5, dim=0)
        table[i, i] = torch.nan
    return table, torch.bincount(first, minlength=head.c)


def agreement(radius: Tensor, distance: Tensor) -> Agreement:
    """Compare radii with distances in pixel space, of samples or, as medians, of networks or class pairs.

    Args:
        radius: r, (B,).
        distance: Least pixel norm that changes the label, (B,); samples without a finite one are left out.

    Raises:
        BadInput: The two do not have the same length.
    """
    r, d = (v.detach().cpu().double().numpy() for v in (radius, distance))
    if r.shape != d.shape or r.ndim != 1:
        raise BadInput(f"there are {r.shape} radii and {d.shape} distances; they must be of the same samples, (B,)")
    good = np.isfinite(r) & np.isfinite(d)
    r, d = r[good], d[good]
    columns = {"id": np.arange(len(r)), "radius": r, "distance": d}
    rho = Cases((columns,)).interval(partial_spearman("radius", "distance"), ("radius", "distance"), draws=DRAWS)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = d / r
    ratio = ratio[np.isfinite(ratio)]
    return Agreement(rho, _interval(ratio, 0.5), len(r), bool(rho.value >= PREDICTIVE), len(r) >= ENOUGH)


def group_means(e: Tensor, attributes: Tensor, y: Tensor, members: Sequence[int], name: str = "") -> Group:
    """Return a group of exclusive attributes with the mean embedding given each value, averaged over classes.

    The means are 0 outside the members' entries, so that an exchange changes only these.

    Args:
        e: Embeddings, (N, n), whose entries are the attributes.
        attributes: True attributes, 0 or 1, (N, n).
        y: Labels, (N,) int64.
        members: Indices of the group's attributes.
        name: Name of the group.

    Raises:
        BadInput: A member never occurs.
    """
    values, truth = finite(e, "e"), finite(attributes, "attributes")
    members = indices(members, f"the group {name!r}" if name else "a group")
    for f in members:
        if not 0 <= f < truth.shape[1]:
            raise BadInput(f"there is no attribute {f}; there are {truth.shape[1]}, 0 to {truth.shape[1] - 1}")
    _, place = np.unique(y.cpu().numpy(), return_inverse=True)
    means = np.zeros((len(members), values.shape[1]))
    for row, f in enumerate(members):
        on = truth[:, f] > 0.5
        if not on.any():
            raise BadInput(f"attribute {f} of the group {name!r} never occurs; leave it out of the group")
        _, classes = np.unique(place[on], return_inverse=True)
        means[row, list(members)] = class_means(values[on], classes)[:, list(members)].mean(0)
    return Group(tuple(members), torch.from_numpy(means), name)


def finite(values: Tensor, what: str) -> np.ndarray:
    """Return a matrix as float64; refuse one that is empty or not finite."""
    array = torch.as_tensor(values).detach().cpu().double().numpy()
    if array.ndim != 2 or not array.size:
        raise BadInput(f"{what} has shape {array.shape}; it must be (N, n), one row per sample")
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise BadInput(f"{what} holds NaN or infinite values in {len(bad)} samples, the first is sample {int(bad[0])}")
    return array


def class_means(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the mean of the rows of each class, (classes, n)."""
    total = np.zeros((int(place.max()) + 1, values.shape[1]))
    np.add.at(total, place, values)
    return total / np.bincount(place)[:, None]


def _interval(values: np.ndarray, q: float) -> Interval:
    """Return a quantile with its bootstrap interval; too few samples have none."""
    columns = {"id": np.arange(len(values)), "value": values}
    estimate = Cases((columns,)).interval(quantile_of("value", q), ("value",), draws=DRAWS)
    if np.isfinite(estimate.value) or not len(values):
        return estimate
    value = float(np.quantile(values, q))
    return Interval(value, np.nan, np.nan, len(values))
