"""Losses of concept models against computations by hand, and heads that are fitted afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.core.threats import L2, Linf
from unfooled.training import (
    Batches,
    ConceptBall,
    ConceptLoss,
    ConceptMadry,
    ConceptMargin,
    ConceptStability,
    Madry,
    Ramp,
    Standard,
    Stepping,
    fit_head,
    independent_head,
    leakage,
    train,
)
from unfooled.training.concepts import as_logits, mean_logits
from unfooled.training.losses.concept_margin import equal_logits_change, label_radius, within_classes
from unfooled.training.losses.concepts import concept_logits, head_of, on_rows, takes_rows, worst_logits
from unfooled.training.progress import loss_at, threat_of

N, ATTRIBUTES, K = 12, 5, 3


def number(value: Any) -> float:
    """A number of a tensor, which may carry a gradient, or of anything else."""
    return float(torch.as_tensor(value).detach())


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, ATTRIBUTES), nn.Linear(ATTRIBUTES, K))


def samples(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    a = torch.randint(2, (N, ATTRIBUTES), generator=source).float()
    return torch.rand(N, 1, 4, 4, generator=source), torch.randint(K, (N,), generator=source), a


def test_the_joint_loss_is_the_weighted_sum_over_the_rows_that_are_asked_for() -> None:
    model, (x, y, a) = net(), samples()
    a[3, 1] = math.nan
    rows = torch.tensor([7, 3, 0, 3])
    e = model[:4](x[:4])
    by_hand: list[Tensor] = []
    for i, row in enumerate(rows.tolist()):
        known = [f for f in range(ATTRIBUTES) if not math.isnan(a[row, f])]
        losses = [F.softplus(-e[i, f]) if a[row, f] else F.softplus(e[i, f]) for f in known]
        cross = -model[4](e)[i].log_softmax(0)[y[row]]
        by_hand.append(0.7 * torch.stack(losses).mean() + 0.3 * cross)
    assert ConceptLoss(y, a)(model, x[:4], rows).item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-5)
    alone = ConceptLoss(y, a, label=1.0, attribute=0.0)(model, x, torch.arange(N))
    assert alone.item() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    lengths = ConceptLoss(y, a, label=1.0, attribute=0.0, sparse=0.1)(model, x, torch.arange(N)) - alone
    assert lengths.item() == pytest.approx(0.1 * model[4].weight.abs().sum().item(), rel=1e-4)


def test_another_base_trains_the_label() -> None:
    model, (x, y, a) = net(), samples()
    rows = torch.arange(N)
    smooth = ConceptLoss(y, a, attribute=0.0, label=1.0, base=Standard(0.2))(model, x, rows)
    assert number(smooth) == pytest.approx(F.cross_entropy(model(x), y, label_smoothing=0.2).item(), rel=1e-5)
    hard = ConceptLoss(y, a, attribute=0.0, label=1.0, base=Madry(Linf(0.2), steps=3))
    assert number(hard(model, x, rows)) > F.cross_entropy(model(x), y).item()
    assert threat_of(hard) == Linf(0.2) or threat_of(hard).eps == 0.2  # type: ignore[union-attr]


def test_a_wrapped_network_gives_the_same_concepts() -> None:
    model, (x, _, _) = net(), samples()
    e, logits = concept_logits(Classifier(model, mean=0.5, std=0.25), x, ATTRIBUTES)
    assert torch.allclose(e, model[:4]((x - 0.5) / 0.25), atol=1e-6)
    assert torch.allclose(logits, model[4](e), atol=1e-6)
    assert not model[4]._forward_pre_hooks


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_ball_bounds_every_point_of_it_and_is_attained_for_two_classes(p: float) -> None:
    model, (x, _, a) = net().double(), samples()
    y = torch.arange(N) % 2
    x, rho, rows = x.double(), 0.7, torch.arange(N)
    head = nn.Linear(ATTRIBUTES, 2).double()
    model[4] = head
    e = model[:4](x)
    apart = head.weight[1] - head.weight[0]
    step = {
        1.0: F.one_hot(apart.abs().argmax(), ATTRIBUTES) * apart.sign(),
        2.0: apart / apart.norm(),
        math.inf: apart.sign(),
    }[p]
    worst = e + rho * step * (1 - 2 * y)[:, None]
    by_hand = F.cross_entropy(head(worst), y)
    loss = ConceptBall(y, a, rho=rho, p=p, label=1.0, attribute=0.0)
    assert number(loss(model, x, rows)) == pytest.approx(number(by_hand), rel=1e-12)
    random = torch.randn(200, N, ATTRIBUTES, dtype=e.dtype)
    random = rho * random / torch.linalg.vector_norm(random, ord=p, dim=2, keepdim=True)
    assert all(F.cross_entropy(head(e + u), y).item() <= number(by_hand) + 1e-12 for u in random)


def test_the_ball_of_three_classes_bounds_and_at_radius_zero_equals_the_joint_loss() -> None:
    model, (x, y, a) = net(), samples()
    rows = torch.arange(N)
    assert number(ConceptBall(y, a, rho=0.0)(model, x, rows)) == pytest.approx(
        number(ConceptLoss(y, a)(model, x, rows))
    )
    e, logits = concept_logits(model, x, ATTRIBUTES)
    worst = worst_logits(logits, model[4].weight, y, 0.5)
    w = model[4].weight
    assert torch.allclose(worst[0, y[0]], logits[0, y[0]])
    k = (int(y[0]) + 1) % K
    assert number(worst[0, k]) == pytest.approx(number(logits[0, k] + 0.5 * (w[k] - w[y[0]]).norm()), rel=1e-5)
    u = torch.randn(100, N, ATTRIBUTES)
    u = 0.5 * u / u.norm(dim=2, keepdim=True)
    each = F.cross_entropy(worst, y, reduction="none")
    assert all((F.cross_entropy(model[4](e + v), y, reduction="none") <= each + 1e-5).all() for v in u)
    ConceptBall(y, a)(model, x, rows).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("attack", ["both", "label", "attribute"])
def test_the_joint_attack_raises_what_it_attacks(attack: str) -> None:
    model, (x, y, a) = net(), samples()
    rows = torch.arange(N)
    loss = ConceptMadry(y, a, L2(1.0), attack=attack, steps=10)
    z = loss.inner(model, x, rows)
    assert number(L2(1.0).size(z - x).max()) <= 1 + 1e-5
    parts = {"both": (0.3, 0.7), "label": (1.0, 0.0), "attribute": (0.0, 1.0)}
    label, attribute = parts[attack]
    judged = ConceptLoss(y, a, label=label, attribute=attribute)
    assert number(judged(model, z, rows)) > number(judged(model, x, rows)) + 0.01
    nothing = ConceptMadry(y, a, L2(0.0), attack=attack, steps=2)
    assert number(nothing(model, x, rows)) == pytest.approx(number(ConceptLoss(y, a)(model, x, rows)), rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_the_radius_is_the_distance_to_the_boundary_and_has_no_scale() -> None:
    torch.manual_seed(0)
    weight, bias, e = torch.randn(4, 6).double(), torch.randn(4).double(), torch.randn(9, 6).double()
    y = torch.arange(9) % 4
    root = torch.randn(6, 6).double()
    covariance = root @ root.T + torch.eye(6).double()
    r = label_radius(weight, bias, e, y, covariance)
    for i in range(9):
        others = [k for k in range(4) if k != y[i]]
        apart = weight[others] - weight[y[i]]
        logits = weight @ e[i] + bias
        by_hand = (logits[y[i]] - logits[others]) / torch.stack([(d @ covariance @ d).sqrt() for d in apart])
        assert number(r[i]) == pytest.approx(number(by_hand.min()), rel=1e-12)
    right = (e @ weight.T + bias).argmax(1) == y
    assert torch.equal(r > 0, right)


def test_the_margin_term_is_a_hinge_that_longer_logits_do_not_change() -> None:
    model, (x, y, a) = net(), samples()
    y = torch.arange(N) % K
    rows, base = torch.arange(N), ConceptLoss(y, a, label=0.0, attribute=0.0)
    loss = ConceptMargin(base, weight=2.0, margin=1.5)
    e, _ = concept_logits(model, x, ATTRIBUTES)
    standard = (e - e.mean(0)) / e.std(0, unbiased=False)
    weight, bias = model[4].weight * e.std(0, unbiased=False), model[4].bias + model[4].weight @ e.mean(0)
    r = label_radius(weight, bias, standard, y, within_classes(standard, y))
    first = number(loss(model, x, rows))
    assert first == pytest.approx(2 * number((1.5 - r).relu().mean()), rel=1e-5)
    with torch.no_grad():  # encoder ten times as long, head three times: the same decisions
        model[3].weight *= 10
        model[3].bias *= 10
        model[4].weight *= 0.3
        model[4].bias *= 3
    assert number(loss(model, x, rows)) == pytest.approx(first, rel=1e-4)
    assert ConceptMargin(base, lambda *_: torch.full((N,), 9.0))(model, x, rows) == 0
    loss(model, x, rows).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_covariance_is_that_within_the_classes() -> None:
    e = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 5.0], [12.0, 5.0]])
    y = torch.tensor([0, 0, 3, 3])
    assert torch.allclose(within_classes(e, y, shrink=0.0), torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    assert torch.allclose(within_classes(e, y, shrink=0.5), torch.tensor([[1.5, 0.0], [0.0, 0.5]]))


def test_the_stability_term_is_the_published_pseudo_inverse() -> None:
    model, (x, y, a) = net(), samples()
    base = ConceptLoss(y, a)
    rows = torch.arange(N)
    with torch.no_grad():
        model[4].bias.zero_()
    w, logits = model[4].weight, model(x)
    sizes = []
    for i in range(N):
        for j in range(K):
            others = [k for k in range(K) if k != j]
            g, h = w[j] - w[others], logits[i, others] - logits[i, j]
            delta = torch.linalg.pinv(g) @ h
            sizes.append(delta.square().sum().log())
            assert torch.allclose(
                model[4](model[:4](x)[i] + delta), logits.new_zeros(K) + number(logits[i, j] + w[j] @ delta), atol=1e-4
            )
    by_hand = base(model, x, rows) - 0.5 * torch.stack(sizes).mean()
    assert number(ConceptStability(base, 0.5)(model, x, rows)) == pytest.approx(number(by_hand), rel=1e-4)
    assert torch.allclose(equal_logits_change(w, logits)[:, 0], equal_logits_change(w, logits)[:, 1], atol=1e-4)


def every_loss(y: Tensor, a: Tensor) -> dict[str, Any]:
    base = ConceptLoss(y, a)
    return {
        "joint": base,
        "ball": ConceptBall(y, a, rho=0.3),
        "madry": ConceptMadry(y, a, Linf(0.02), steps=2),
        "margin": ConceptMargin(base, weight=0.03),
        "margin on madry": ConceptMargin(ConceptMadry(y, a, Linf(0.02), steps=2), weight=0.03),
        "stability": ConceptStability(base, 0.01),
        "ramp": Ramp(ConceptMadry(y, a, Linf(0.02), steps=2), 2.0),
    }


@pytest.mark.parametrize("name", list(every_loss(*samples()[1:])))
def test_every_loss_learns_labels_and_attributes_from_row_numbers(name: str) -> None:
    torch.manual_seed(0)
    x, model = torch.rand(64, 1, 4, 4), nn.Sequential(nn.Flatten(), nn.Linear(16, ATTRIBUTES), nn.Linear(ATTRIBUTES, K))
    a = (x.flatten(1)[:, :ATTRIBUTES] > 0.5).float()
    y = (a[:, 0] + a[:, 1]).long()
    loss = on_rows(every_loss(*samples()[1:])[name], y, a)
    assert takes_rows(loss)
    batches = Batches(x, torch.arange(64), 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    list(train(model, batches, loss, optimizer, epochs=25, stepping=Stepping(clip=5.0)))
    e, logits = concept_logits(model, x, ATTRIBUTES)
    assert number((logits.argmax(1) == y).float().mean()) > 0.8
    assert number(((e > 0) == (a > 0.5)).float().mean()) > 0.8


def test_losses_inside_losses_get_the_rows_and_the_threat_grows() -> None:
    _, y, a = samples()
    loss: Any = on_rows(Ramp(ConceptMargin(ConceptMadry(y[:0], a[:0], Linf(0.4))), 2.0), y, a)
    assert loss.loss.base.labels is y
    assert number(threat_of(loss_at(loss, 1.0)).eps) == pytest.approx(0.2)  # type: ignore[union-attr]
    assert not takes_rows(Standard()) and not takes_rows(Madry(Linf(0.1)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda y, a: ConceptLoss(y[:3], a), "3 labels and attributes for 12 rows"),
        (lambda y, a: ConceptLoss(y, a[:, 0]), r"attributes is \(12,\)"),
        (lambda y, a: ConceptLoss(y, a.long()), "floating point"),
        (lambda y, a: ConceptLoss(y, 2 * a), r"attributes lie in \[0, 2\]"),
        (lambda y, a: ConceptLoss(y.float(), a), "int64"),
        (lambda y, a: ConceptLoss(y, a, label=-1.0), "label is -1"),
        (lambda y, a: ConceptBall(y, a, rho=-1.0), "rho is -1"),
        (lambda y, a: ConceptBall(y, a, p=3.0), "p is 3"),
        (lambda y, a: ConceptMadry(y, a, Linf(0.1), attack="all"), "it must be both, label or attribute"),
        (lambda y, a: ConceptMargin(ConceptLoss(y, a), weight=-1.0), "weight is -1"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(make: Callable[[Tensor, Tensor], Any], sentence: str) -> None:
    _, y, a = samples()
    with pytest.raises(ValueError, match=sentence):
        make(y, a)


def test_labels_in_place_of_rows_and_heads_of_another_size_are_refused() -> None:
    model, (x, y, a) = net(), samples()
    with pytest.raises(BadInput, match=r"y lies in \[0, 11\], and the loss has 3 rows.*torch.arange"):
        ConceptLoss(y[:3], a[:3])(model, x, torch.arange(N))
    with pytest.raises(BadInput, match="takes 5 features, and there are 4 attributes"):
        ConceptLoss(y, a[:, :4])(model, x, torch.arange(N))
    with pytest.raises(BadInput, match="no linear layer"):
        head_of(nn.Conv2d(1, 1, 1), 3)


def test_a_sparse_head_leaves_out_what_it_does_not_need() -> None:
    torch.manual_seed(0)
    a = torch.randint(2, (300, 8)).float()
    y = (2 * a[:, 0] + a[:, 1]).long()
    plain, sparse = fit_head(a, y), fit_head(a, y, l1=0.02)
    assert plain.accuracy == sparse.accuracy == 1.0
    assert plain.nonzero > 0.9
    assert not sparse.weight[:, 2:].any() and sparse.weight[:, :2].any(0).all()
    assert sparse.nonzero <= 2 / 8
    layer = nn.Linear(8, 4)
    sparse.into(layer)
    assert torch.equal(layer(a).argmax(1), y)
    with pytest.raises(BadInput, match="the layer has"):
        sparse.into(nn.Linear(7, 4))


def test_a_head_is_where_the_gradient_of_its_objective_vanishes() -> None:
    torch.manual_seed(1)
    e = torch.randn(200, 4).double() * torch.tensor([1.0, 10, 0.1, 1])
    y = (e[:, 0] + 0.3 * e[:, 1] + torch.randn(200).double() > 0).long()
    fitted = fit_head(e, y, l2=0.01, steps=3000)
    deviation = e.std(0, unbiased=False)
    weight = (fitted.weight * deviation).clone().requires_grad_()
    standard = (e - e.mean(0)) / deviation
    bias = fitted.bias + fitted.weight @ e.mean(0)
    value = F.cross_entropy(standard @ weight.T + bias, y) + 0.005 * weight.square().sum()
    (g,) = torch.autograd.grad(value, weight)
    assert number(g.abs().max()) < 1e-6


def test_an_independent_head_reads_switches_and_leakage_is_what_they_lack() -> None:
    torch.manual_seed(0)
    a = torch.randint(2, (400, 3)).float()
    low, high = torch.tensor([-1.0, -4.0, 2.0]), torch.tensor([1.0, 8.0, 3.0])
    hidden = torch.randint(2, (400,))
    e = low + (high - low) * a
    for value, wanted in zip(mean_logits(e, a), (low, high), strict=True):
        assert torch.allclose(value, wanted, atol=1e-4)
    assert torch.allclose(as_logits(a, e), e, atol=1e-4)
    y = (a[:, 0] + 2 * a[:, 1]).long()
    independent = independent_head(e, a, y)
    assert independent.accuracy == 1.0
    assert leakage(independent.weight, independent.bias, e, a, y).gap == 0
    a[:, 1] = a[:, 0]
    leaking = low + (high - low) * a + 0.5 * (2 * hidden[:, None] - 1) * torch.tensor([1.0, 0, 0])
    head = fit_head(leaking, hidden)
    leaked = leakage(head.weight, head.bias, leaking, a, hidden)
    assert leaked.predicted > 0.95 and leaked.true < 0.65 and leaked.gap > 0.3
    a[:, 2] = 1
    assert torch.allclose(as_logits(a, e)[:, 2], e[:, 2].mean().expand(400), atol=1e-4)


@pytest.mark.parametrize(
    ("e", "y", "sentence"),
    [
        (torch.rand(4), torch.zeros(4).long(), r"shape \(4,\)"),
        (torch.rand(4, 2), torch.zeros(4).long(), "one label"),
        (torch.full((4, 2), math.nan), torch.tensor([0, 1, 0, 1]), "NaN"),
        (torch.rand(4, 2), torch.zeros(3).long(), "one label per sample"),
    ],
)
def test_heads_refuse_what_cannot_be_fitted(e: Tensor, y: Tensor, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        fit_head(e, y)
