"""Clusters of latents: Gaussian mixtures within each class, their number chosen by BIC and stability.

    z' = (z - offset) basis                               standardised, then the principal axes of 95 % of the variance
    K_c = argmin BIC(K) over stable K                     for each class c, K = 1, 2, ...
    d_k(z) = (z' - mu_k)^T P_k (z' - mu_k) + log |Sigma_k|,     P_k = Sigma_k^-1

K is stable if the adjusted Rand index between the partitions from five seeds is at least .7 on average, and the
smallest cluster has `min_size` members. Sigma_k is Ledoit and Wolf's estimate from the members of a cluster.

References:
    Silva, Das, Scarff, Najafirad, 2021, arXiv:2104.02155 ("adaptively cluster the latent representations"; the rule for
    the number of clusters is ours).
    Ledoit, Wolf, A well-conditioned estimator for large-dimensional covariance matrices, Journal of Multivariate
    Analysis 88, 2004.
    Schwarz, Estimating the dimension of a model, Annals of Statistics 6, 1978 (BIC).
    Hubert, Arabie, Comparing partitions, Journal of Classification 2, 1985 (the adjusted Rand index).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import check_count, check_labels, check_number
from unfooled.core.errors import BadInput

SEEDS = 5
"""Number of fits of each mixture: their partitions are compared, and the most likely fit is used."""
STABLE = 0.7
"""Least mean adjusted Rand index between the partitions of these fits."""
MAX_SILHOUETTE = 2000
"""Largest number of latents of a class for the silhouette, whose cost grows with the square of their number."""
RIDGE = 1e-6
"""Fraction of the mean variance that is added to every covariance, so that constant latents have a precision."""


@dataclass(frozen=True)
class ClassFit:
    """Choice of the number of clusters of one class.

    Attributes:
        label: The class.
        n: Number of latents.
        k: Number of clusters.
        sizes: Members of each cluster.
        bic: BIC of each number that was tried, from 1 on.
        stability: Mean adjusted Rand index of each number; NaN where it was not needed, since a number with a lower BIC
            is stable.
        silhouette: Mean silhouette of the partition, which is reported and decides nothing; NaN for one cluster.
    """

    label: int
    n: int
    k: int
    sizes: tuple[int, ...]
    bic: tuple[float, ...]
    stability: tuple[float, ...]
    silhouette: float


@dataclass(frozen=True, eq=False)
class Clusters:
    """Gaussian clusters of latents, M in d dimensions.

    Attributes:
        mean: Means, (M, d).
        precision: Inverse covariances, (M, d, d).
        logdet: Logarithms of the determinants of the covariances, (M,).
        label: Class of each cluster, (M,) int64.
        basis: Map from latents to the d dimensions, (p, d); it scales them, too.
        offset: Mean of the latents, (p,).
        fits: Choice of the number of clusters, one entry for each class.
    """

    mean: Tensor
    precision: Tensor
    logdet: Tensor
    label: Tensor
    basis: Tensor
    offset: Tensor
    fits: tuple[ClassFit, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def reduced(self, z: Tensor) -> Tensor:
        """Return latents, (B, *F), in the d dimensions of the clusters, (B, d).

        Raises:
            BadInput: The latents have another size than those that the clusters were fitted to.
        """
        rows = z.reshape(len(z), math.prod(z.shape[1:]))
        if rows.shape[1] != len(self.offset):
            raise BadInput(
                f"the encoder returns {rows.shape[1]} features, the clusters have {len(self.offset)}; give the encoder "
                "and the size of images that they were fitted with"
            )
        return (rows - self.offset.to(rows)) @ self.basis.to(rows)

    def distance(self, z: Tensor) -> Tensor:
        """Return the distance of latents, (B, *F), to each cluster, (B, M): minus twice the log density."""
        delta = self.reduced(z)[:, None, :] - self.mean.to(z)[None]
        return _quadratic(delta, self.precision.to(z)) + self.logdet.to(z)

    def mahalanobis(self, z: Tensor, k: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance of latents, (B, *F), to clusters k, (B,), over d: (B,)."""
        delta = self.reduced(z) - self.mean.to(z)[k]
        # Without a (B, d, d) copy of the precisions.
        square = _quadratic(delta[:, None, :], self.precision.to(z))
        return square.gather(1, k[:, None])[:, 0] / delta.shape[1]

    def nearest(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the nearest cluster of latents, (B,) int64.

        Args:
            z: Latents, (B, *F).
            y: Classes, (B,): only clusters of these count. None: all clusters count.
        """
        distances = self.distance(z)
        if y is not None:
            others = self.label.to(z.device)[None, :] != y[:, None]
            if bool(others.all(1).any()):
                raise BadInput(f"there is no cluster of class {int(y[others.all(1)][0])}; fit them to every class")
            distances = distances.masked_fill(others, torch.inf)
        return distances.argmin(1)


def _quadratic(delta: Tensor, precision: Tensor) -> Tensor:
    """Return delta^T P delta of differences, (B, M or 1, d), for each of M precisions: (B, M)."""
    moved = torch.einsum("bmd,mde->bme", delta.expand(-1, len(precision), -1), precision)
    return (moved * delta).sum(-1)


def fit_clusters(
    latents: Tensor,
    y: Tensor,
    *,
    explained: float = 0.95,
    max_dim: int = 20,
    max_clusters: int = 5,
    min_size: int = 50,
    generator: torch.Generator | None = None,
) -> Clusters:
    """Cluster the latents of each class.

    Args:
        latents: Features of clean images, (N, *F), such as those of `features.Encoder(model, layer)`.
        y: Labels, (N,) int64; every class from 0 to the largest label has at least one latent.
        explained: Fraction of the variance that the principal axes explain, in (0, 1].
        max_dim: Largest number of axes.
        max_clusters: Largest number of clusters of a class.
        min_size: Least number of members of a cluster; a class with fewer latents is one cluster.
        generator: Base seed of the fits; the same seed gives the same clusters, whatever the order of the samples.

    Returns:
        The clusters, those of class 0 first, on the CPU in float64. Cost: one mixture
        fit for each class and number of clusters, and four more for each number whose stability is needed.

    Raises:
        BadInput: No latents, NaN among them, labels that do not fit, a class without a latent, or numbers that cannot
            be used.

    Example:
        >>> z = torch.cat([torch.randn(99, 2) - 9, torch.randn(99, 2) + 9])
        >>> fit_clusters(z, torch.zeros(198, dtype=torch.int64)).label.tolist()
        [0, 0]
    """
    z = latents.detach().to("cpu", torch.float64)
    z = z.flatten(1) if z.ndim > 1 else z[:, None]
    y = y.cpu()
    _check(z, y, explained, max_dim, max_clusters, min_size)
    order = _canonical(z, y)
    z, y = z[order], y[order]
    offset, basis = _axes(z, explained, max_dim)
    reduced = (z - offset) @ basis
    seed = rng.base_seed(generator)
    with _quiet():
        fits, members = [], []
        for c in range(int(y.max()) + 1):
            rows = reduced[y == c].numpy()
            fit, partition = _fit_class(rows, c, max_clusters, min_size, seed)
            fits.append(fit)
            members += [rows[partition == k] for k in range(fit.k)]
        spread = _within(reduced, y)
        gaussians = [_gaussian(rows, spread) for rows in members]
        mean, precision, logdet = (torch.stack(parts) for parts in zip(*gaussians, strict=True))
    label = torch.tensor([fit.label for fit in fits for _ in range(fit.k)])
    return Clusters(mean, precision, logdet, label, basis, offset, tuple(fits))


def _check(z: Tensor, y: Tensor, explained: float, max_dim: int, max_clusters: int, min_size: int) -> None:
    """Refuse arguments that cannot be used."""
    if not len(z) or not z.shape[1]:
        raise BadInput(f"latents have shape {tuple(z.shape)}: there is nothing to cluster; give images")
    if not bool(torch.isfinite(z).all()):
        raise BadInput("latents hold NaN or infinite values; mend the encoder or its inputs")
    check_labels(y, len(z))
    check_number("explained", explained, above=0)
    if explained > 1:
        raise BadInput(f"explained is {explained}; it is a fraction of the variance, in (0, 1]")
    for name, value in (("max_dim", max_dim), ("max_clusters", max_clusters), ("min_size", min_size)):
        check_count(name, value)
    missing = sorted(set(range(int(y.max()) + 1)) - set(y.tolist()))
    if missing:
        raise BadInput(
            f"class {missing[0]} has no image, and the largest label is {int(y.max())}; give images of every class"
        )


def _canonical(z: Tensor, y: Tensor) -> Tensor:
    """Return an order of the samples that does not depend on the order in which they are given."""
    return torch.from_numpy(np.lexsort((*z.T.numpy()[::-1], y.numpy())).copy())


def _axes(z: Tensor, explained: float, max_dim: int) -> tuple[Tensor, Tensor]:
    """Return the mean of the latents and the map to their principal axes, scaling included."""
    offset, scale = z.mean(0), z.std(0, correction=0)
    inverse = torch.where(scale > 1e-9 * scale.max().clamp_min(1e-300), 1 / scale, torch.zeros_like(scale))
    standard = (z - offset) * inverse
    variance, axes = torch.linalg.eigh(standard.T @ standard / len(z))
    variance, axes = variance.flip(0).clamp_min(0), axes.flip(1)
    total = variance.sum()
    reached = int((variance.cumsum(0) < explained * total * (1 - 1e-12)).sum()) + 1 if total > 0 else 1
    d = min(reached, max_dim, z.shape[1])
    # The sign of an eigenvector is arbitrary: the largest entry is made positive.
    axes = axes[:, :d]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return offset, inverse[:, None] * axes


def _within(reduced: Tensor, y: Tensor) -> np.ndarray:
    """Return the covariance within classes, used for clusters of a single latent, (d, d)."""
    means = torch.zeros(int(y.max()) + 1, reduced.shape[1], dtype=reduced.dtype)
    means = means.index_reduce(0, y, reduced, "mean", include_self=False)
    rest = reduced - means[y]
    covariance: np.ndarray = (rest.T @ rest / len(reduced)).numpy()
    return covariance


def _fit_class(
    rows: np.ndarray, label: int, max_clusters: int, min_size: int, seed: int
) -> tuple[ClassFit, np.ndarray]:
    """Choose the number of clusters of one class; return the choice, and the cluster of each row."""
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    most = max(1, min(max_clusters, len(rows) // min_size))
    fits = {k: [_mixture(rows, k, seed)] for k in range(1, most + 1)}
    stability = [math.nan] * most
    k, partition = 1, np.zeros(len(rows), dtype=np.int64)
    for tried in sorted(fits, key=lambda k: fits[k][0][1]):  # the further seeds only where they can decide
        if tried > 1:
            fits[tried] += [_mixture(rows, tried, seed + s) for s in range(1, SEEDS)]
        pairs = list(itertools.combinations([fit[2] for fit in fits[tried]], 2))
        stability[tried - 1] = float(np.mean([adjusted_rand_score(a, b) for a, b in pairs])) if pairs else 1.0
        likely = max(fits[tried], key=lambda fit: fit[0])[2]
        large = tried == 1 or np.bincount(likely, minlength=tried).min() >= min_size
        if large and stability[tried - 1] >= STABLE:
            k, partition = tried, likely
            break
    some = slice(None, None, max(1, -(-len(rows) // MAX_SILHOUETTE)))
    several = k > 1 and len(np.unique(partition[some])) > 1
    silhouette = float(silhouette_score(rows[some], partition[some])) if several else math.nan
    sizes = tuple(int(n) for n in np.bincount(partition, minlength=k))
    bic = tuple(min(fit[1] for fit in fits[number]) for number in fits)
    return ClassFit(label, len(rows), k, sizes, bic, tuple(stability), silhouette), partition


def _mixture(rows: np.ndarray, k: int, seed: int) -> tuple[float, float, np.ndarray]:
    """Fit a mixture of k Gaussians from k-means: mean log-likelihood, BIC, and the cluster of each row."""
    from sklearn.mixture import GaussianMixture

    if len(rows) < 2:  # no mixture has a likelihood there
        return 0.0, 0.0, np.zeros(len(rows), dtype=np.int64)
    mixture = GaussianMixture(k, random_state=seed % (1 << 32)).fit(rows)
    return float(mixture.lower_bound_), float(mixture.bic(rows)), mixture.predict(rows).astype(np.int64)


def _gaussian(rows: np.ndarray, spread: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, precision and log-determinant of the members of a cluster."""
    from sklearn.covariance import ledoit_wolf

    covariance = ledoit_wolf(rows)[0] if len(rows) > 1 else spread
    scale = max(float(np.trace(covariance)), float(np.trace(spread)), 1e-12) / len(spread)
    sigma = torch.from_numpy(np.asarray(covariance)) + RIDGE * scale * torch.eye(len(spread), dtype=torch.float64)
    factor = torch.linalg.cholesky(sigma)
    logdet = 2 * factor.diagonal().log().sum()
    return torch.from_numpy(rows.mean(0)), torch.cholesky_inverse(factor), logdet


@contextmanager
def _quiet() -> Iterator[Any]:
    """Silence scikit-learn about fits that did not converge or found fewer clusters: stability and BIC judge them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
