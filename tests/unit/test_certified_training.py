"""Losses by bounds: what they are on a linear model, their gradients, and what they are for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled import Linf
from unfooled.certification import certify, interval_margins, relaxed_margins
from unfooled.core.types import TrainingLoss
from unfooled.training import CrownIbp, Ibp, MtlIbp, Sabr, Standard
from unfooled.training.losses.certified import worst_cross_entropy
from unfooled.workflows import make_loss
from unfooled.workflows.losses import LossOptions

THREAT = Linf(0.1)


def subject() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(60, 8)
    y = (x[:, :4].sum(1) > x[:, 4:].sum(1)).long()
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2)), x, y


def test_the_worst_margins_of_a_linear_model_are_exact() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(5, 3), 0.2 + 0.6 * torch.rand(7, 5), torch.randint(0, 3, (7,))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = interval_margins(model, x, y, THREAT)
    own = model(x).gather(1, y[:, None])
    for i in range(7):
        others = [k for k in range(3) if k != int(y[i])]
        for j, k in enumerate(others):
            row = model.weight[y[i]] - model.weight[k]
            truth = own[i, 0] - model(x[i : i + 1])[0, k] - 0.1 * row.abs().sum()
            assert float(found[i, j]) == pytest.approx(float(truth), abs=1e-5)


def test_the_worst_cross_entropy_is_that_of_the_worst_logits() -> None:
    logits, y = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    margins = logits[:, :1] - logits[:, 1:]
    assert float(worst_cross_entropy(margins)) == pytest.approx(float(F.cross_entropy(logits, y)), abs=1e-6)


@pytest.mark.parametrize("margins", [interval_margins, relaxed_margins])
def test_bounds_have_gradients_of_the_weights(margins: object) -> None:
    model, x, y = subject()
    model = model.double()
    assert callable(margins)
    weight = next(model.parameters())
    value = margins(model, x.double(), y, THREAT).sum()
    (gradient,) = torch.autograd.grad(value, weight)
    with torch.no_grad():
        weight[2, 3] += 1e-6
        above = margins(model, x.double(), y, THREAT).sum()
        weight[2, 3] -= 2e-6
        below = margins(model, x.double(), y, THREAT).sum()
    assert float(gradient[2, 3]) == pytest.approx(float((above - below) / 2e-6), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        Ibp(THREAT, interval_margins),
        CrownIbp(THREAT, interval_margins, relaxed_margins),
        Sabr(THREAT, interval_margins, share=0.5, steps=2),
        MtlIbp(THREAT, interval_margins, steps=2),
    ],
    ids=["ibp", "crown-ibp", "sabr", "mtl-ibp"],
)
def test_a_trained_network_can_be_certified(loss: TrainingLoss) -> None:
    proven = []
    for one in (Standard(), loss):
        model, x, y = subject()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            one(model, x, y).backward()
            optimizer.step()
        proven.append(int(certify(model.eval(), x, y, THREAT, effort="intervals").certified.sum()))
    assert proven[1] > proven[0] + 5


def test_losses_have_names_and_a_ramp() -> None:
    assert isinstance(make_loss("ibp", "linf:0.1", LossOptions(ramp=0)), Ibp)
    assert isinstance(make_loss("sabr", "linf:0.1", LossOptions(ramp=0, attack_steps=3)), Sabr)
    assert isinstance(make_loss("crown-ibp", "linf:0.1", LossOptions(ramp=2)).loss, CrownIbp)
    assert isinstance(make_loss("mtl-ibp", "linf:0.1", LossOptions(ramp=2)).loss, MtlIbp)


def test_weights_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="clean is 2; it must lie between 0 and 1"):
        Ibp(THREAT, interval_margins, clean=2)
    with pytest.raises(ValueError, match="share is 0"):
        Sabr(THREAT, interval_margins, share=0)
    with pytest.raises(ValueError, match="mix is -1"):
        MtlIbp(THREAT, interval_margins, mix=-1)
