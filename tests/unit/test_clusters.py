"""Clusters of latents."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.purification import fit_clusters


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(*counts: int, n: int = 80, p: int = 4, apart: float = 8.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents of one class for each count: so many round Gaussians, far from each other."""
    rows, labels = [], []
    for label, count in enumerate(counts):
        for k in range(count):
            center = torch.zeros(p, dtype=torch.float64)
            center[k % p] = apart * (1 + k // p)
            center[-1] += 30.0 * label
            rows.append(center + torch.randn(n, p, generator=source(seed + 10 * label + k), dtype=torch.float64))
            labels.append(torch.full((n,), label))
    return torch.cat(rows), torch.cat(labels)


def test_planted_gaussians_are_found() -> None:
    z, y = planted(3, 1, 2)
    clusters = fit_clusters(z, y, generator=source())
    assert [fit.k for fit in clusters.fits] == [3, 1, 2]
    assert clusters.label.tolist() == [0, 0, 0, 1, 2, 2]
    assert [sorted(fit.sizes) for fit in clusters.fits] == [[80, 80, 80], [80], [80, 80]]
    truth = torch.arange(6).repeat_interleave(80)
    assert adjusted_rand_score(truth, clusters.nearest(z)) == 1
    assert (clusters.label[clusters.nearest(z, y)] == y).all()
    three, one, _ = clusters.fits
    assert three.silhouette > 0.5
    assert three.stability[2] > 0.9
    assert math.isnan(one.silhouette)


def test_no_cluster_is_smaller_than_asked() -> None:
    z, y = planted(1)
    few = torch.randn(8, 4, generator=source(9), dtype=torch.float64) + 20
    z, y = torch.cat([z, few]), torch.cat([y, y[:8]])
    fit = fit_clusters(z, y, min_size=20).fits[0]
    assert min(fit.sizes) >= 20
    assert fit_clusters(z, y, min_size=8).fits[0].k == 2
    assert fit_clusters(z[:30], y[:30], min_size=50).fits[0].k == 1


def test_the_order_of_the_samples_does_not_matter() -> None:
    z, y = planted(2, 3, apart=4.0)
    order = torch.randperm(len(z), generator=source(1))
    a, b = fit_clusters(z, y), fit_clusters(z[order], y[order])
    assert torch.equal(a.nearest(z), b.nearest(z))
    torch.testing.assert_close(a.mean, b.mean)


def test_distances_are_those_of_scipy_and_scikit_learn() -> None:
    z, y = planted(2, 1)
    clusters = fit_clusters(z, y)
    assigned, reduced = clusters.nearest(z, y), clusters.reduced(z)
    d = reduced.shape[1]
    for k in range(len(clusters)):
        members = reduced[assigned == k]
        expected = LedoitWolf().fit(members.numpy())
        torch.testing.assert_close(clusters.mean[k], torch.from_numpy(expected.location_))
        torch.testing.assert_close(clusters.precision[k], torch.from_numpy(expected.precision_), rtol=1e-3, atol=1e-3)
        square = mahalanobis(reduced[0].numpy(), clusters.mean[k].numpy(), clusters.precision[k].numpy()) ** 2
        assert float(clusters.mahalanobis(z[:1], torch.tensor([k]))) == pytest.approx(square / d)
        logdet = -torch.logdet(clusters.precision[k])
        assert float(clusters.distance(z[:1])[0, k]) == pytest.approx(square + float(logdet))


def test_axes_are_scaled_and_few() -> None:
    z, y = planted(1, p=30)
    z = z * torch.logspace(-3, 3, 30, dtype=torch.float64)
    clusters = fit_clusters(z, y)
    assert clusters.basis.shape == (30, 20)
    # Standardised: no feature counts more because its unit is small.
    assert clusters.reduced(z).var(0).max() < 10
    correlated = z[:, :1] @ torch.ones(1, 30, dtype=torch.float64)
    assert fit_clusters(correlated + 1e-6 * z, y).basis.shape == (30, 1)


def test_distances_have_gradients() -> None:
    z, y = planted(2, 1)
    clusters = fit_clusters(z, y)
    leaf = z[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(clusters.distance, (leaf,))
    assert torch.autograd.gradcheck(lambda z: clusters.mahalanobis(z, torch.tensor([0, 1, 2])), (leaf,))


def test_latents_that_are_constant_or_single() -> None:
    z = torch.cat([torch.zeros(60, 3), torch.ones(1, 3)])
    y = torch.cat([torch.zeros(60), torch.ones(1)]).long()
    clusters = fit_clusters(z, y)
    assert clusters.label.tolist() == [0, 1]
    assert torch.isfinite(clusters.distance(z)).all()
    assert torch.equal(clusters.nearest(z), y)
    assert torch.isfinite(fit_clusters(torch.zeros(70, 3), torch.zeros(70, dtype=torch.int64)).distance(z)).all()


LABELS = torch.arange(2).repeat(30)


@pytest.mark.parametrize(
    ("z", "y", "options", "sentence"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), {}, "there is nothing to cluster"),
        (torch.full((60, 3), torch.nan), LABELS, {}, "latents hold NaN"),
        (torch.zeros(60, 3), LABELS[:9], {}, r"y is \(9,\)"),
        (torch.zeros(60, 3), 2 * LABELS, {}, "class 1 has no image, and the largest label is 2"),
        (torch.zeros(60, 3), LABELS, {"explained": 0.0}, "explained is 0.0"),
        (torch.zeros(60, 3), LABELS, {"max_clusters": 0}, "max_clusters is 0"),
        (torch.zeros(60, 3), LABELS, {"min_size": 0}, "min_size is 0"),
    ],
)
def test_bad_input(z: Tensor, y: Tensor, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        fit_clusters(z, y, **options)


def test_an_encoder_of_another_size_and_a_class_without_a_cluster() -> None:
    z, y = planted(1, 1)
    clusters = fit_clusters(z, y)
    with pytest.raises(BadInput, match="returns 3 features, the clusters have 4"):
        clusters.distance(z[:, :3])
    with pytest.raises(BadInput, match="no cluster of class 2"):
        clusters.nearest(z[:1], torch.tensor([2]))
