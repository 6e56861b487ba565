"""Scores of attackability, probes, TCAV and CCE on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unfooled.counterfactuals import (
    AffineHead,
    Cost,
    agreement,
    attackability,
    bayes_head,
    concept_counterfactual,
    constant_attributes,
    fit_effects,
    fit_head,
    fit_probe,
    flip_edit,
    group_means,
    head_effect,
    head_table,
    pair_radii,
    radii,
    radius,
    switches,
    tcav,
    total_effect,
    total_table,
    within_covariance,
)
from unfooled.statistics import over_images, quantile_of


def blobs(n: int = 240, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    centres = 3 * torch.eye(3, 4, dtype=torch.float64)
    scale = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64)
    return centres[y] + scale * torch.randn(n, 4, generator=g, dtype=torch.float64), y


def test_a_radius_is_in_within_class_standard_deviations() -> None:
    e, y = blobs(6000)
    s = within_covariance(e, y)
    torch.testing.assert_close(s, torch.diag(torch.tensor([1.0, 0.25, 4.0, 1.0])).double(), atol=0.25, rtol=0)
    head = AffineHead(torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]]), torch.zeros(2))
    points = torch.tensor([[2.0, 0, 0, 0], [-3.0, 0, 0, 0]])
    assert radius(head, points, torch.eye(4)).tolist() == [2.0, 3.0]
    assert radius(head, points, 4 * torch.eye(4)).tolist() == [1.0, 1.5]
    assert attackability(torch.tensor([0.0, 1.0, math.inf])).tolist() == [1.0, 0.5, 0.0]
    table, counts = pair_radii(head, points, torch.eye(4))
    assert counts.tolist() == [1, 1]
    assert table[0, 1] == 2
    assert table[1, 0] == 3
    assert table.diagonal().isnan().all()


def test_the_radius_does_not_depend_on_units() -> None:
    e, y = blobs()
    head = fit_head(e, y, decay=1e-2)
    g = torch.Generator().manual_seed(3)
    a, t = torch.randn(4, 4, generator=g, dtype=torch.float64), torch.randn(4, generator=g, dtype=torch.float64)
    back = torch.linalg.inv(a)
    moved = e @ a.T + t
    other = AffineHead(head.weight @ back, head.bias - head.weight @ back @ t)
    r = radius(head, e, within_covariance(e, y, shrink=False))
    torch.testing.assert_close(
        radius(other, moved, within_covariance(moved, y, shrink=False)), r, rtol=1e-8, atol=1e-10
    )


def test_a_model_s_radii_are_medians_with_intervals() -> None:
    r = torch.linspace(0, 4, 201)
    found = radii(r, taus=(1.0, 5.0))
    assert found.median.value == pytest.approx(2)
    assert found.median.low < 2 < found.median.high
    assert [q.value for q in found.quartiles] == pytest.approx([1, 3])
    assert [(tau, e.value) for tau, e in found.curve] == [(1.0, pytest.approx(51 / 201)), (5.0, 1.0)]
    assert found.attackability == pytest.approx(1 / 3)


def test_quantiles_are_those_of_numpy_for_odd_and_even_numbers() -> None:
    for n in (11, 12, 13):
        x = np.random.default_rng(n).normal(size=n)
        found = over_images(quantile_of("x", 0.5), {"id": np.arange(n), "x": x})
        assert found.value == pytest.approx(np.median(x))
    w = np.array([[0.0, 3, 1, 0]])
    assert quantile_of("x", 0.5)({"x": np.array([4.0, 3, 2, 1])}, w)[0] == 3


def test_agreement_with_pixel_distances() -> None:
    r = torch.rand(250, generator=torch.Generator().manual_seed(0)) + 0.1
    found = agreement(r, 2 * r)
    assert found.spearman.value == pytest.approx(1)
    assert found.ratio.value == pytest.approx(2)
    assert found.predictive
    assert found.enough
    poor = agreement(r[:60], torch.rand(60, generator=torch.Generator().manual_seed(1)))
    assert not poor.predictive
    assert "not predictive here; only 60 samples" in str(poor)


@pytest.mark.parametrize(
    ("radius", "distance"),
    [
        (torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 3])),
        (torch.ones(30), torch.arange(30.0)),
        (torch.arange(30.0), torch.ones(30)),
        (torch.zeros(0), torch.zeros(0)),
    ],
)
def test_a_correlation_that_is_undefined_is_no_verdict(radius: torch.Tensor, distance: torch.Tensor) -> None:
    text = str(agreement(radius, distance))
    assert text.startswith(f"Spearman undefined: {len(radius)} samples")
    assert "predictive" not in text


def planted(n: int = 400) -> tuple[AffineHead, Tensor, Tensor, Tensor]:
    """Attribute logits in which attribute 3 leaks into the logit of attribute 0, which alone the head looks at."""
    g = torch.Generator().manual_seed(0)
    a = (torch.rand(n, 5, generator=g) < 0.5).double()
    a[:, 4] = 1
    e = 4 * a - 2 + 0.1 * torch.randn(n, 5, generator=g, dtype=torch.float64)
    e[:, 0] += 6 * a[:, 3] - 3
    weight = torch.zeros(2, 5)
    weight[1, 0] = 1
    return AffineHead(weight, torch.zeros(2)), e, a, (e[:, 0] > 0).long()


def test_what_leaks_is_seen_in_the_total_effect_alone() -> None:
    head, e, a, _ = planted()
    gap = switches(e, a)
    assert gap[:4].tolist() == pytest.approx([4, 4, 4, 4], abs=0.8)
    assert gap[4].isnan()
    assert constant_attributes(a) == (4,)
    through = head_table(head_effect(head, e, gap))
    assert through[0].value is not None
    assert 0.3 < through[0].value < 0.7
    assert [through[f].value for f in (1, 2, 3)] == [0, 0, 0]
    assert through[4].n == 0
    effects = fit_effects(e, a)
    assert effects.constant == (4,)
    assert effects.r2 > 0.98
    assert effects.matrix[3, 0].item() == pytest.approx(6, abs=0.1)
    total = total_table(head, e, a, effects, {str(f): [f] for f in range(5)})
    assert [total[str(f)].value for f in (1, 2)] == [0, 0]
    assert total["3"].value == 1
    truth = e.clone()
    truth[:, 0] += (1 - 2 * a[:, 3]) * 6
    changed = (head.logits(truth).argmax(1) != head.logits(e).argmax(1)).double()
    torch.testing.assert_close(total_effect(head, e, a, effects, [3]), changed)
    assert total["4"].n == 0


def test_exclusive_attributes_are_exchanged_for_every_other_value() -> None:
    g = torch.Generator().manual_seed(0)
    value = torch.randint(3, (300,), generator=g)
    a = torch.eye(3, dtype=torch.float64)[value]
    e = 2 * a + 0.01 * torch.randn(300, 3, generator=g, dtype=torch.float64)
    head = AffineHead(torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.tensor([0.0, 1.0]))  # value 0, or another one
    found = total_effect(head, e, a, fit_effects(e, a), [0, 1, 2])
    torch.testing.assert_close(found, torch.where(value == 0, 1.0, 0.5).double())
    group = group_means(e, a, value, [0, 1, 2])
    edit = flip_edit(head, e, cost=Cost(groups=[group]))
    assert edit.cost.tolist() == pytest.approx([0.5] * 300, abs=0.05)


def test_heads_that_are_fitted() -> None:
    e, y = blobs()
    head = fit_head(e, y, decay=1e-3)
    logits = head.logits(e)
    p = logits.softmax(1) - torch.eye(3)[y]
    torch.testing.assert_close(p.T @ e / len(e) + 1e-3 * head.weight, torch.zeros(3, 4).double(), atol=1e-5, rtol=0)
    shares = torch.tensor([[0.9, 0.2], [0.3, 0.6]])
    bayes = bayes_head(shares)
    for a in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]):
        each = torch.where(torch.tensor(a) > 0, shares, 1 - shares).prod(1).double()
        torch.testing.assert_close(bayes.logits(torch.tensor([a]))[0].softmax(0), each / each.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("logistic", [False, True])
def test_probes_recover_planted_directions(logistic: bool) -> None:
    g = torch.Generator().manual_seed(0)
    features = torch.randn(600, 8, generator=g, dtype=torch.float64) * torch.linspace(0.5, 3, 8) + 1
    v = torch.nn.functional.normalize(torch.randn(2, 8, generator=g, dtype=torch.float64), dim=1)
    a = (((features - 1) @ v.T) > 0).double()
    noise = (torch.rand(600, 1, generator=g) < 0.5).double()
    a = torch.cat([a, noise, torch.ones(600, 1)], 1)
    a[::7, 0] = math.nan
    probe = fit_probe(features, a, logistic=logistic)
    assert ((probe.directions[:2] * v).sum(1) > 0.97).all()
    assert (probe.auc[:2] > 0.97).all()
    assert abs(probe.auc[2].item() - 0.5) < 0.1
    assert probe.left_out == (3,)
    assert probe.usable.tolist() == [True, True, False, False]
    assert not probe.weight[3].any()
    known = ~a[:, 1].isnan()
    assert (
        (((probe.logits(features)[:, 1] > (0.0 if logistic else 0.5)) == (a[:, 1] > 0))[known]).double().mean() > 0.95
    )


def test_tcav_finds_the_planted_concept_and_not_another() -> None:
    g = torch.Generator().manual_seed(0)
    features, others = torch.randn(40, 6, generator=g), torch.randn(200, 6, generator=g)
    weight = torch.zeros(2, 6)
    weight[1, 0], weight[0, 0] = 1.0, -1.0
    logits = lambda e: e @ weight.T + 0.1 * e[:, 1:2] ** 2 * torch.tensor([[1.0, 0.0]])  # noqa: E731
    used, unused = others[:60].clone(), others[:60].clone()
    used[:, 0] += 4
    unused[:, 5] += 4
    found = tcav(logits, features, 1, used, others, tests=2)
    assert found.score == 1
    assert found.smooth > 0.5
    assert found.significant
    assert found.direction[0] > 0.9
    assert len(found.scores) == len(found.random) == 20
    other = tcav(logits, features, 1, unused, others, tests=2)
    assert abs(other.smooth) < 0.3
    assert other.p > found.p
    assert tcav(logits, features, 0, used, others).score == 0


def test_cce_adds_the_planted_concept_and_success_is_that_of_the_result() -> None:
    weight = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    logits = lambda e: e @ weight.T  # noqa: E731
    e = torch.tensor([[1.0, 0.5, 0.0], [-1.0, 0.0, 0.3], [0.5, 0.0, 0.0]])
    y = torch.tensor([1, 1, 1])
    found = concept_counterfactual(logits, e, y, torch.eye(3))
    assert found.before.tolist() == [False, True, False]
    assert found.success.all()
    assert (found.weights[0].abs().argmax() == 0).all()
    assert (found.weights[:, 0] < 0).all()
    assert found.weights[:, 1:].abs().max() < 0.01
    blocked = concept_counterfactual(logits, e, y, torch.eye(3), low=torch.tensor([-0.2, -1, -1]))
    assert blocked.success.tolist() == [False, True, False]
    assert blocked.weights[:, 0].min() >= -0.2 - 1e-6
