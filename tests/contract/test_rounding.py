"""Rounded inputs, activations and logits: no lie, and the figure of the network without rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor

from unfooled import Linf
from unfooled.attacks.ensembles.cascade import AttackState, Cascade, Effort
from unfooled.attacks.ensembles.frontier import Problem
from unfooled.attacks.ensembles.keys import Ledger
from unfooled.attacks.ensembles.stages import Ascents, Stage
from unfooled.attacks.gradients.straight_through import StraightThrough
from unfooled.attacks.gradients.unrounded import Unrounded
from unfooled.core.model.wrappers import Counted
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.checks import extending
from unfooled.evaluation.checks.before import before
from unfooled.evaluation.checks.extending import Allowance
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.table import finding

SHAPE = (3, 6, 5)
NET = tiny_net(5, SHAPE)
PLAN = Plan(
    effort=Effort("short", (Ascents(10),)), nearest_budget=100, nearest_n=4, explain_n=2, gallery=0, floor=100,
    reasons=None,
)  # fmt: skip
ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "four decimals": lambda z: (NET(z) * 1e4).round() / 1e4,
    "two decimals": lambda z: NET(z).round(decimals=2),
    "probabilities of three decimals": lambda z: torch.round(NET(z).softmax(1), decimals=3),
    "8-bit inputs": lambda z: NET((z * 255).round() / 255),
    "8-bit inputs, cut": lambda z: NET((z * 255).floor() / 255),
    "bytes": lambda z: NET((z * 255).to(torch.uint8).float() / 255),
}
CLEAN: dict[str, Callable[[Tensor], Tensor]] = {
    "8-bit inputs, straight through": lambda z: NET(z + ((z * 255).round() / 255 - z).detach()),
    "bytes, straight through": lambda z: NET(z + ((z * 255).byte() / 255 - z).detach()),
    "fp16": lambda z: NET(z.half().float()).half().float(),
    "bf16": lambda z: NET(z.bfloat16().float()),
}
BROKEN: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "three levels": ("D6", lambda z: NET((z * 2).round() / 2)),
    "gradient times 0": ("D6", lambda z: NET(z.detach()) + 0 * z.sum()),
    "detached": ("D8", lambda z: NET(z).detach()),
    "flipped and rounded": ("D6", lambda z: (NET(2 * z.detach() - z) * 1e4).round() / 1e4),
    "noise of the input": (
        "D5", lambda z: NET(z) + torch.sin(1e7 * z.detach().flatten(1).sum(1, keepdim=True) * torch.arange(1, 6))
    ),
}  # fmt: skip


def kinds(model: Callable[[Tensor], Tensor]) -> dict[str, str]:
    """What fires of the checks of the gradient."""
    x = points(40, SHAPE, seed=8)
    x[:, 0] = x[:, 0].round()  # pixels on the steps of any rounding
    found = before(model, x, model(x).argmax(1), Linf(0.1))
    return {f.id: str(f.kind) for f in found if f.fired and f.id in ("D5", "D6", "D7", "D8", "D27")}


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_is_mended(name: str) -> None:
    found = kinds(ROUNDED[name])
    assert set(found) <= {"D6", "D8"}
    assert set(found.values()) == {"mend"}


@pytest.mark.parametrize("name", CLEAN)
def test_what_has_a_gradient_of_its_own_is_not_accused(name: str) -> None:
    assert not kinds(CLEAN[name])


@pytest.mark.parametrize("name", BROKEN)
def test_what_hides_more_than_rounding_does_is_masking(name: str) -> None:
    check, model = BROKEN[name]
    assert kinds(model)[check] == "masking"


@pytest.mark.parametrize("name", ["four decimals", "bytes"])
def test_the_audit_is_that_of_the_network_without_rounding(name: str) -> None:
    x = (points(16, SHAPE, seed=8) * 255).round() / 255
    y = NET(x).argmax(1)
    plain, rounded = (audit(model, x, y, Linf(0.01), plan=PLAN) for model in (NET, ROUNDED[name]))
    assert (rounded.verdict, plain.verdict) == ("SOUND", "SOUND")
    assert 0 < (plain.robust_accuracy.value or 0) < 1
    assert rounded.robust_accuracy == plain.robust_accuracy
    assert rounded.passes.forward < 2 * plain.passes.forward


def test_values_stay_and_the_gradient_is_that_of_the_network() -> None:
    x = points(4, SHAPE).requires_grad_()
    model = Unrounded(ROUNDED["four decimals"])
    assert torch.equal(model(x), ROUNDED["four decimals"](x))
    (g,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    (plain,) = torch.autograd.grad(NET(x)[:, 0].sum(), x)
    torch.testing.assert_close(g, plain)
    (again,) = torch.autograd.grad(ROUNDED["four decimals"](x)[:, 0].sum(), x)
    assert not again.any(), "outside, rounding is what it was"


def test_own_gradients_lead_to_the_nearest_points_too_whatever_the_checks_say() -> None:
    counted, twin = Counted(NET), tiny_net(5, SHAPE, seed=7)
    for check in ("D5", "D6", "D7", "D27"):
        gradients = Gradients(counted, [finding(check, True, "seen", "a twin")], twin=twin, labels=twin)
        assert gradients.followed[1] is counted, check
        assert gradients.followed[0] == gradients.attacked, check
    assert len(Gradients(counted, []).followed) == 1
    assert len(Gradients(counted, [finding("D8", True, "none", "a twin")], twin=twin, labels=twin).followed) == 1


def test_own_gradients_are_followed_again_where_the_checks_distrust_them(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, twin, x = Counted(NET), tiny_net(5, SHAPE, seed=7), points(4, SHAPE)
    followed: list[object] = []

    def repeat(attack: Cascade, state: AttackState, stages: Sequence[Stage], *_: object) -> AttackState:
        if any(isinstance(stage, Ascents) for stage in stages):
            followed.append(attack.problem.attacked)
        return state

    monkeypatch.setattr(extending, "_repeat_while_successful", repeat)
    for check, expected in (("D7", [counted, StraightThrough]), ("D8", [StraightThrough])):
        gradients = Gradients(counted, [finding(check, True, "seen", "a twin")], twin=twin, labels=twin)
        attack = Cascade(Problem(counted, x, NET(x).argmax(1), Linf(0.1), gradients.attacked), Ledger.of(None, 4))
        followed.clear()
        extending._without_gradients(attack, attack.begin(), gradients, 0, Allowance.after(attack.ledger))
        assert [one if one is counted else type(one) for one in followed] == expected, check
