"""Adversarial training with the latent constraint."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.threats import Linf
from unfooled.core.types import TrainingLoss
from unfooled.features import Encoder
from unfooled.purification import Clusters, fit_clusters
from unfooled.testing import check_loss
from unfooled.testing.losses import fresh_net
from unfooled.testing.subjects import brightest_third
from unfooled.training import Batches, LatentClusters, Madry, Ramp, train
from unfooled.training.progress import loss_at

BASE = fresh_net(3).eval()


def latent(model: nn.Module, x: Tensor) -> Tensor:
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    return Encoder(model, f"{last}:input")(x).flatten(1)


def clusters_of(base: nn.Module) -> Clusters:
    x, y = brightest_third()
    with torch.no_grad():
        dtype = next(base.parameters()).dtype
        return fit_clusters(latent(base, x.to(dtype)), y, max_clusters=2, min_size=10)


CLUSTERS = clusters_of(BASE)


def assign(x: Tensor, y: Tensor) -> Tensor:
    return CLUSTERS.nearest(latent(BASE, x.to(next(BASE.parameters()).dtype)), y)


def make(threat: Any = Linf(0.05), **options: Any) -> LatentClusters:  # noqa: B008  (frozen)
    return LatentClusters(threat, assign, latent, CLUSTERS.mahalanobis, **{"steps": 3, **options})


def test_it_keeps_the_contract_of_training_losses() -> None:
    check_loss(make(weight=0.01), lr=1e-2, standard_at_zero=False, falls=None)
    check_loss(make(weight=0.0), falls=0.8)


def weights_after(loss: TrainingLoss, start: nn.Module = BASE) -> list[Tensor]:
    model = copy.deepcopy(start).train()
    x, y = brightest_third()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    data = Batches(x.to(next(model.parameters()).dtype), y, 32)
    for _ in train(model, data, loss, optimizer, epochs=2):
        pass
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("ramped", [False, True])
def test_without_a_weight_it_is_madry_bit_for_bit(ramped: bool) -> None:
    plain: TrainingLoss = Madry(Linf(0.05), steps=3)
    ours: TrainingLoss = make(weight=0.0)
    if ramped:
        plain, ours = Ramp(plain, 1.5), Ramp(ours, 1.5)
    assert all(torch.equal(a, b) for a, b in zip(weights_after(plain), weights_after(ours), strict=True))
    other = make(weight=0.3)
    assert any(not torch.equal(a, b) for a, b in zip(weights_after(plain), weights_after(other), strict=True))


def test_the_loss_is_the_formula_with_the_cluster_of_the_clean_latent() -> None:
    model = copy.deepcopy(BASE)
    x, y = (part[:16] for part in brightest_third())
    x = x.to(next(model.parameters()).dtype)
    z = (x + 0.4 * torch.rand_like(x)).clamp(0, 1)
    k = CLUSTERS.nearest(latent(BASE, x), y)
    assert (CLUSTERS.label[k] == y).all()
    delta = CLUSTERS.reduced(latent(model, z)) - CLUSTERS.mean[k].to(x)
    square = torch.stack([d @ CLUSTERS.precision[j].to(x) @ d for d, j in zip(delta, k, strict=True)]) / delta.shape[1]
    expected = F.cross_entropy(model(z), y) + 0.3 * square.mean()
    torch.testing.assert_close(make().outer(model, x, y, z), expected)


def test_neither_clusters_nor_assignment_get_a_gradient() -> None:
    model = copy.deepcopy(BASE)
    x, y = (part[:16] for part in brightest_third())
    x = x.to(next(model.parameters()).dtype)
    make()(model, x, y).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in BASE.parameters())
    assert not CLUSTERS.mean.requires_grad


def test_a_ramp_grows_threat_and_weight_together() -> None:
    loss = Ramp(make(weight=0.4), 2.0)
    half: Any = loss_at(loss, 1.0)
    assert half.threat.eps == pytest.approx(0.025)
    assert half.weight == pytest.approx(0.2)
    full: Any = loss_at(loss, 3.0)
    assert full.weight == 0.4
    plain: Any = loss_at(Ramp(Madry(Linf(0.1), clean=0.5), 2.0), 1.0)
    assert (plain.threat.eps, plain.clean) == (0.05, 0.5)


def test_the_constraint_keeps_adversarial_latents_near() -> None:
    def apart(weights: list[Tensor]) -> float:
        model = copy.deepcopy(BASE)
        for p, w in zip(model.parameters(), weights, strict=True):
            p.data = w
        x, y = brightest_third()
        x = x.to(next(model.parameters()).dtype)
        z = make().inner(model, x, y)
        with torch.no_grad():
            return float(CLUSTERS.mahalanobis(latent(model, z), CLUSTERS.nearest(latent(BASE, x), y)).mean())

    constrained, free = (apart(weights_after(make(weight=w), fresh_net(9))) for w in (1.0, 0.0))
    assert constrained < 0.7 * free  # another network begins far from the clusters


def test_weights_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match=r"weight is -1"):
        make(weight=-1.0)
    assert isinstance(partial(make, weight=0.1)(), LatentClusters)
