"""Losses by bounds: what they are on a linear model, their gradients, and what they are for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled import Linf, Threat
from unfooled.certification import certify, interval_margins, penalised_margins, relaxed_margins, trace
from unfooled.certification.crown import Relaxed, backward, interval_bounds, margin_rows
from unfooled.certification.region import Region
from unfooled.core.types import TrainingLoss
from unfooled.training import CrownIbp, Ibp, MtlIbp, Ramp, Sabr, Standard, initialise_for_intervals
from unfooled.training.losses.certified import worst_cross_entropy
from unfooled.training.progress import initialise_of, loss_at
from unfooled.workflows import Recipe, make_loss, train
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


def test_the_penalty_is_that_of_the_paper_on_a_layer_done_by_hand() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0], [-1.0, 0.0]])
    net = nn.Sequential(layer, nn.ReLU(), nn.Linear(2, 2))
    x = torch.tensor([[0.5, 0.5], [0.25, 0.5]])
    width = 0.2 / ((0.4 + 0.2) / 2)  # of the input, relative to that before the ReLU
    centre = torch.tensor([[1.0, -0.5], [0.75, -0.25]])
    spread = (centre - centre.mean()).square()
    balances = [0.75 / 1.75, float(spread[:, 1].sum() / spread[:, 0].sum())]
    truth = sum(max(0.0, 0.5 - value) / 0.5 for value in (width, *(min(b, 1 / b) for b in balances)))
    assert truth > 0
    y = torch.tensor([0, 1])
    margins, penalty = penalised_margins(net, x, y, Linf(0.1))
    assert float(penalty.detach()) == pytest.approx(truth, abs=1e-5)
    assert torch.equal(margins, interval_margins(net, x, y, Linf(0.1)))
    assert float(penalised_margins(nn.Linear(2, 2), x, y, Linf(0.1))[1].detach()) == 0


def test_the_penalty_falls_while_eps_grows() -> None:
    model, x, y = subject()

    def ten(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
        return interval_margins(model, x, y, threat), x.new_tensor(10.0)

    gaps = []
    for epoch in (0.5, 1.5, 2.0):
        more, less = (
            float(loss_at(Ramp(Ibp(THREAT, interval_margins, 0.0, penalised), 2.0), epoch)(model, x, y).detach())
            for penalised in (ten, None)
        )
        gaps.append(more - less)
    assert gaps == pytest.approx([3.75, 1.25, 0.0], abs=1e-4)


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


def test_the_clean_weight_falls_while_eps_grows() -> None:
    ramp = Ramp(CrownIbp(THREAT, interval_margins, relaxed_margins, clean=0.5, mix=0.0), epochs=4, wait=2)
    at = {epoch: ramp.at(epoch) for epoch in (1.0, 2.0, 4.0, 6.0, 9.0)}
    assert [now.threat.eps for now in at.values()] == pytest.approx([0, 0, 0.05, 0.1, 0.1])  # type: ignore[attr-defined]
    assert [now.clean for now in at.values()] == pytest.approx([1, 1, 0.75, 0.5, 0.5])  # type: ignore[attr-defined]
    assert [now.mix for now in at.values()] == pytest.approx([1, 1, 0.5, 0, 0])  # type: ignore[attr-defined]
    assert Ramp(Ibp(THREAT, interval_margins, clean=0.2), 1).at(0.5).clean == pytest.approx(0.6)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="wait is -1; it must be at least 0"):
        Ramp(Ibp(THREAT, interval_margins), 1, wait=-1)


def test_a_ramp_without_a_wait_is_written_as_before() -> None:
    assert str(Ramp(Ibp(THREAT, interval_margins), 2.0)).endswith(", epochs=2.0)")
    assert str(Ramp(Ibp(THREAT, interval_margins), 2.0, 1)).endswith(", epochs=2.0, wait=1)")


@pytest.mark.parametrize("clean", [0.0, 1.0])
def test_a_weight_of_zero_or_one_costs_no_other_term(clean: float) -> None:
    model, x, y = subject()

    def never(*_: object) -> Tensor:
        raise AssertionError

    margins = never if clean else interval_margins
    value = Ibp(THREAT, margins, clean=clean)(model, x, y)
    truth = F.cross_entropy(model(x), y) if clean else worst_cross_entropy(interval_margins(model, x, y, THREAT))
    assert float(value.detach()) == pytest.approx(float(truth.detach()))
    assert CrownIbp(THREAT, interval_margins, never, mix=0.0)(model, x, y).requires_grad


def test_initial_weights_leave_the_width_of_intervals() -> None:
    layers = [layer for _ in range(6) for layer in (nn.Linear(300, 300), nn.ReLU())]
    model, x = nn.Sequential(*layers), 0.5 + 0.1 * torch.randn(4, 300)
    initialise_for_intervals(model, torch.Generator().manual_seed(0))
    nodes = interval_bounds(trace(model, x).network(), Region.of(x, Linf(0.05), torch.float32)).nodes
    widths = [float((high - low).mean()) for low, high in nodes[::2]]
    assert all(0.7 < width / widths[0] < 1.4 for width in widths)


def test_losses_by_bounds_start_from_their_own_weights(tmp_path: object) -> None:
    assert initialise_of(Ramp(Sabr(THREAT, interval_margins), 1)) is initialise_for_intervals
    assert initialise_of(Standard()) is None
    weights = {}
    for loss in ("standard", "ibp"):
        out = f"{tmp_path}/{loss}.pt"
        threat = None if loss == "standard" else "linf:0.1"
        train("digits", loss, threat=threat, out=out, recipe=Recipe(epochs=1, lr=1e-8, n=64))
        weights[loss] = torch.load(out, weights_only=True)["model"]
    last = [next(v for k, v in reversed(w.items()) if v.ndim == 2) for w in weights.values()]
    expected = 2 * torch.pi / last[1].shape[1] ** 2
    assert float(last[1].var()) == pytest.approx(expected, rel=0.2)
    assert float(last[0].var()) != pytest.approx(expected, rel=0.2)


def test_rows_copy_only_the_bounds_that_they_need() -> None:
    model, x, y = subject()
    network = trace(model, x).network()
    bounds, rows = interval_bounds(network, Region.of(x, THREAT, torch.float32)), margin_rows(network, y)
    relaxed = Relaxed.of(bounds, rows, by_lines=False)
    backward(rows, relaxed)
    assert sorted(relaxed.bounds.nodes._copies) == [2]  # type: ignore[attr-defined]
    assert "region" not in vars(relaxed.bounds)
    again = bounds.take(torch.tensor([3, 1, 3])).take(torch.tensor([1, 1, 0]))
    assert torch.equal(again.region.x, x[[1, 1, 3]])
    assert torch.equal(again.nodes[1][0], bounds.nodes[1][0][[1, 1, 3]])
    assert [len(low) for low, _ in again.nodes[:2]] == [3, 3]


def test_the_penalty_is_of_activations_alone() -> None:
    """Max pooling of single entries changes nothing."""
    torch.manual_seed(0)
    convolution, last = nn.Conv2d(1, 2, 3), nn.Linear(32, 3)
    plain = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), last)
    pooled = nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(1), nn.Flatten(), last)
    initialise_for_intervals(plain, torch.Generator().manual_seed(0))
    x, y = torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)
    penalties = [penalised_margins(net, x, y, Linf(0.1))[1] for net in (plain, pooled)]
    assert 0 < float(penalties[0].detach()) < 2
    torch.testing.assert_close(*penalties)
