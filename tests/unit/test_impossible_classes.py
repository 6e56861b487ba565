"""Classes with a logit of -inf, and models of labels only: what is an answer, and what an audit makes of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled import BadInput, Linf
from unfooled.core.goals import answered, fooled
from unfooled.core.losses import cross_entropy, dlr, dlr_targeted, kl, margin
from unfooled.core.model.impossible import DEPTH, with_finite
from unfooled.core.unanswered import check_answered
from unfooled.evaluation.checks.subject import LABELS_ONLY, inspect_model

INF, NAN = math.inf, math.nan
torch.manual_seed(0)
NET = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
X = torch.rand(24, 1, 4, 4)
Y = NET(X).argmax(1).detach()


class Changed(nn.Module):
    """A network whose logits are changed."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.net, self.change = NET, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.net(x))


def padded(z: Tensor) -> Tensor:
    return torch.cat([z, torch.full_like(z[:, :3], -INF)], 1)


def masked(z: Tensor) -> Tensor:
    wide = torch.cat([z, z[:, :2]], 1)
    return wide.masked_fill(torch.arange(6) >= 4, -INF)


def one_hot(z: Tensor) -> Tensor:
    return nn.functional.one_hot(z.argmax(1), 4).float()


def flat_one_hot(z: Tensor) -> Tensor:
    return one_hot(z) + 0 * z


def test_what_is_an_answer() -> None:
    logits = torch.tensor([[1, 0, -INF], [-INF, 1, 0], [NAN, 1, 0], [INF, 1, 0], [-INF, -INF, -INF], [0.0, 1, 2]])
    y = torch.zeros(6, dtype=torch.long)
    assert answered(logits, y).tolist() == [True, False, False, False, False, True]
    assert answered(logits).tolist() == [True, True, False, False, False, True]
    assert fooled(logits, y).tolist() == [False, False, False, False, False, True]
    assert fooled(logits, y, targeted=True).tolist() == [True, False, False, False, False, False]


@pytest.mark.parametrize("change", [padded, masked])
@pytest.mark.parametrize("loss", [cross_entropy, margin, dlr, "dlr_targeted", "kl"])
def test_losses_and_gradients_are_those_without_the_classes(change: Any, loss: Any) -> None:
    found = []
    for model in (NET, Changed(change)):
        leaf = X.clone().requires_grad_()
        logits = model(leaf)
        f = loss
        if loss == "kl":
            f = kl(model(X.flip(0)).softmax(1).detach())
        elif loss == "dlr_targeted":
            f = dlr_targeted((Y + 1) % 4)
        value = f(logits, Y)
        found += [value.detach(), torch.autograd.grad(value.sum(), leaf)[0]]
    assert torch.allclose(found[0], found[2], atol=1e-6)
    assert torch.allclose(found[1], found[3], atol=1e-6)


def test_three_classes_of_which_two_are_possible() -> None:
    z = torch.tensor([[2.0, 1.0, -INF]], requires_grad=True)
    value = dlr(z, torch.tensor([0]))
    assert value.item() == -1.0
    assert torch.autograd.grad(value, z)[0].tolist() == [[-1.0, 1.0, 0.0]]


def test_logits_are_made_finite_only_where_that_is_sound() -> None:
    never = torch.tensor([False, True, True])
    logits = torch.tensor([[3.0, 1.0, -INF], [-INF, 2.0, 1.0], [0.0, NAN, -INF], [-INF, -INF, -INF]])
    got = with_finite(logits, never)
    assert got[0].tolist() == [3.0, 1.0, 1.0 - DEPTH]
    assert torch.equal(got[1], logits[1])
    assert not answered(got)[2:].any()
    plain = torch.rand(3, 3)
    assert with_finite(plain, never) is plain


@pytest.mark.parametrize("change", [padded, masked])
def test_an_attack_and_its_judge_take_them(change: Any) -> None:
    model = Changed(change).eval()
    for attack in (uf.attacks.pgd, uf.attacks.apgd):
        assert torch.equal(attack(model, X, Y, Linf(0.1), steps=10), attack(NET, X, Y, Linf(0.1), steps=10))
    z = uf.attacks.pgd(NET, X, Y, Linf(0.1))
    got, expected = (uf.verify(m, X, Y, z, Linf(0.1)) for m in (model, NET))
    assert not got.undefined.any()
    assert torch.equal(got.success, expected.success)
    assert expected.success.any()


def test_an_audit_finds_what_it_finds_without_them() -> None:
    plan = uf.Plan(effort=uf.QUICK, reasons=None, nearest_n=1, explain_n=1)
    got, expected = (uf.audit(m, X[:12], Y[:12], Linf(0.1), plan=plan) for m in (Changed(masked).eval(), NET))
    assert got.robust_accuracy == expected.robust_accuracy
    assert got.verdict == expected.verdict
    assert not next(f for f in got.diagnostics if f.id == "D3").fired
    assert "rules out" in got.warnings[0]
    assert "by logits of -inf (4, 5" in got.warnings[0]
    assert "which no label names" in got.warnings[0]


def test_a_label_that_is_ruled_out_is_refused_with_the_line_to_write() -> None:
    model, y = Changed(padded).eval(), Y.clone()
    y[3] = 5
    with pytest.raises(BadInput, match=r"the label is -inf for 1 of 24 .* sample 3, of class 5; .*clamp\(min=-100\)"):
        uf.audit(model, X, y, Linf(0.1))
    verdict = uf.verify(model, X, y, X, Linf(0.1))
    assert verdict.undefined.nonzero()[:, 0].tolist() == [3]
    with pytest.raises(BadInput, match="NaN or infinite logits for 1 of 2"):
        check_answered(torch.tensor([[0.0, 1.0], [NAN, -INF]]), y=torch.tensor([0, 1]))


@pytest.mark.parametrize("change", [one_hot, flat_one_hot])
def test_a_model_of_labels_only_is_told_what_to_do_and_gets_no_trust_from_zero_gradients(change: Any) -> None:
    model = Changed(change).eval()
    subject = inspect_model(model, X, Y)
    assert subject.warnings == (LABELS_ONLY,)
    assert uf.diagnose(model, X, Y, Linf(0.1)).verdict == "HIDDEN"


def test_probabilities_are_not_labels() -> None:
    subject = inspect_model(Changed(lambda z: z.softmax(1)).eval(), X, Y)
    assert len(subject.warnings) == 1
    assert "returns probabilities" in subject.warnings[0]
