"""Labels that do not come from the scores, and attacks that run on: no figure above the truth is trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.conftest import linear, points, tiny_net
from torch import Tensor
from torch.nn import functional as F

from unfooled import Linf
from unfooled.attacks.ensembles.cascade import Cascade, Effort
from unfooled.attacks.ensembles.frontier import Problem
from unfooled.attacks.ensembles.keys import Ledger
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.attacks.gradients.relabelled import Recorded, relabelled
from unfooled.attacks.gradients.twins import distil
from unfooled.core.model.wrappers import Counted
from unfooled.core.rng import Numbers
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.checks import after as checks
from unfooled.evaluation.checks.after import diagnose
from unfooled.evaluation.checks.before import before
from unfooled.evaluation.checks.borders import borders, pairs
from unfooled.evaluation.checks.extending import Allowance, _repeat_attacks
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.limits import right_when_clean, whole_box
from unfooled.evaluation.checks.table import finding

Net = Callable[[Tensor], Tensor]
SHAPE = (3, 6, 5)
PLAN = Plan(
    effort=Effort("short", (Ascents(10), Ascents(10))), nearest_budget=100, nearest_n=4, explain_n=1, gallery=0,
    floor=8000, reasons=None,
)  # fmt: skip


def one_hot(z: Tensor) -> Tensor:
    return F.one_hot(z.argmax(1), z.shape[1]).to(z)


def swapped(label: Tensor, score: Tensor) -> Tensor:
    """Scores whose two entries are exchanged where the label wants it."""
    i, p, q, z = torch.arange(len(score)), label.argmax(1), score.argmax(1), score.clone()
    z[i, p], z[i, q] = score[i, q], score[i, p]
    return z


DECOYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added": lambda label, score: 40 * one_hot(label) + score,
    "added to probabilities": lambda label, score: one_hot(label) + score.softmax(1),
    "swapped": swapped,
    "steep": lambda label, score: 40 * (1e4 * label).softmax(1) + score,
    "confidence": lambda label, score: one_hot(label) * score.logsumexp(1, keepdim=True).exp(),
}
HONEST: dict[str, Callable[[Net], Net]] = {
    "plain": lambda net: net,
    "probabilities": lambda net: lambda z: net(z).softmax(1),
    "hot": lambda net: lambda z: 1e4 * net(z),
    "bf16 output": lambda net: lambda z: net(z).bfloat16().float(),
    "bf16 input": lambda net: lambda z: net(z.bfloat16().float()),
    "8-bit input": lambda net: lambda z: net(torch.fake_quantize_per_tensor_affine(z, 1 / 255, 0, 0, 255)),
    "four decimals": lambda net: lambda z: (net(z) * 1e4).round() / 1e4,
}


def jump(model: Net, x: Tensor) -> bool:
    with torch.no_grad():
        one, other = pairs(x, model(x).argmax(1))
    return borders(model, x[one], x[other], "between samples").fired


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", DECOYS)
def test_labels_of_another_network_are_noticed(name: str, seed: int) -> None:
    label, score = tiny_net(5, SHAPE, seed=seed), tiny_net(5, SHAPE, seed=seed + 7)
    assert jump(lambda z: DECOYS[name](label(z), score(z)), points(40, SHAPE, seed=seed))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", HONEST)
def test_scores_that_decide_are_not_accused(name: str, seed: int) -> None:
    x = points(40, SHAPE, seed=seed)
    assert not jump(HONEST[name](tiny_net(5, SHAPE, seed=seed)), x)
    assert not jump(HONEST[name](linear(5, SHAPE, seed=seed)), (x > 0.5).float())


def test_the_way_between_two_points_is_halved_ten_times() -> None:
    """With fewer halvings a margin that changes fast looks like a jump, and a small jump like none."""
    x = points(40, SHAPE)
    net = linear(5, SHAPE)
    one, other = pairs(x, net(x).argmax(1))
    counted = Counted(net)
    found = borders(counted, x[one], x[other], "between samples")
    assert counted.forwards == 13 * len(one)
    assert found.value is not None
    assert 2**-12 < found.value < 2**-8

    def far(z: Tensor) -> Tensor:  # the whole change within a hundredth of the way: no jump
        return torch.stack([(0.5 - z[:, 0]) * 100, (z[:, 0] - 0.5) * 100], 1).clamp(-1, 1)

    ends = torch.zeros(4, 1), torch.ones(4, 1)
    assert not borders(far, *ends, "between samples").fired
    assert borders(lambda z: far(z).sign(), *ends, "between samples").fired


def test_the_check_is_one_of_those_before_the_attack() -> None:
    label, score, x = tiny_net(5, SHAPE), tiny_net(5, SHAPE, seed=7), points(30, SHAPE)
    y = label(x).argmax(1)
    found = before(lambda z: DECOYS["added"](label(z), score(z)), x, y, Linf(0.1))
    assert [f.id for f in found if f.fired and f.kind == "masking"] == ["D27"]
    assert not [f for f in before(label, x, y, Linf(0.1)) if f.fired and f.id == "D27"]


def test_a_twin_of_the_labels_asks_nothing_and_learns_them() -> None:
    label, score, x = tiny_net(5, SHAPE), tiny_net(5, SHAPE, seed=7), points(60, SHAPE)
    asked, counted = Recorded(score), Counted(label)
    twin = distil(asked, x, Linf(0.2), rounds=1)
    assert relabelled(twin, asked) is twin, "it has the labels already"
    asked.labels = [label(z).argmax(1) for z in asked.points]
    other = relabelled(twin, asked)
    z, y = torch.cat(asked.points), torch.cat(asked.labels)
    assert (other(z).argmax(1) == y).double().mean() > 0.9 > 0.5 > (twin(z).argmax(1) == y).double().mean()
    gradients = Gradients(counted, [finding("D27", True, "decoy", "a twin of the labels")]).with_twin(x[:9], Linf(0.2))
    assert counted.forwards == gradients.forwards == 9 * 13


def test_labels_alone_are_a_trial_of_every_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    label, score, x = tiny_net(5, SHAPE), tiny_net(5, SHAPE, seed=7), points(20, SHAPE, seed=8)
    y = label(x).argmax(1)
    monkeypatch.setattr(checks, "trials", lambda scale: [])  # what else would find them first
    found = diagnose(lambda z: DECOYS["added"](label(z), score(z)), x, y, Linf(0.15), x)
    assert {"D27", "D28"} <= {f.id for f in found if f.fired}
    honest = diagnose(label, x, y, Linf(1e-3), x)
    assert not {"D27", "D28"} & {f.id for f in honest if f.fired}
    assert next(f for f in honest if f.id == "D28").detail.endswith("survivors"), "it was tried"


@pytest.mark.parametrize("name", ["swapped"])
def test_a_decoy_is_never_trusted_above_the_truth(name: str) -> None:
    label, score, x = tiny_net(5, SHAPE), tiny_net(5, SHAPE, seed=7), points(16, SHAPE, seed=8)
    y = label(x).argmax(1)
    summary = audit(lambda z: DECOYS[name](label(z), score(z)), x, y, Linf(0.05), plan=PLAN)
    truth = audit(label, x, y, Linf(0.05), plan=PLAN)
    assert truth.trusted
    assert not summary.trusted or summary.robust_accuracy.value <= truth.robust_accuracy.value  # type: ignore[operator]
    assert "D27" in {f.id for f in summary.diagnostics if f.fired}


def pattern(z: Tensor) -> Tensor:
    """Which inputs show a pattern that one corner in 64 has."""
    up, down = z[:, 0, 0, :3], z[:, 1, 0, :3]
    return ((up > 0.58) & (down < 0.42)).all(1)


def half(z: Tensor) -> Tensor:
    """Class 0, or 2 where the third channel is bright: two classes that no small change exchanges."""
    return 2 * (z[:, 2].mean((1, 2)) > 0.5).long()


def test_what_found_something_runs_on_until_it_finds_nothing() -> None:
    x = 0.5 + 0 * points(40, SHAPE)
    x[:, 2] = 0.3 * points(40, SHAPE)[:, 2]
    x[20:, 2] += 0.7
    net = tiny_net(5, SHAPE)

    def model(z: Tensor) -> Tensor:
        out = net(z) + 60 * F.one_hot(half(z), 5)
        return torch.where(pattern(z)[:, None], out.roll(1, 1), out)

    y = half(x)
    summary = audit(model, x, y, Linf(0.1), plan=PLAN)
    assert {"D16", "D13"} & {f.id for f in summary.diagnostics if f.fired}
    assert summary.robust_accuracy.value == 0


def test_the_attack_behind_a_check_that_fired_is_repeated_until_a_round_of_it_finds_nothing() -> None:
    x = 0.5 + 0 * points(40, SHAPE)
    x[20:, 2], x[:20, 2] = 0.9, 0.1
    y = half(x)

    def model(z: Tensor) -> Tensor:  # without a gradient or a score to follow
        return F.one_hot(half(z) + pattern(z).long(), 5) + 0 * z.flatten(1)[:, :5]

    counted = Counted(model)
    attack = Cascade(Problem(counted, x, y, Linf(0.1), counted), Ledger.of(None, len(x)))
    twins: Any = SimpleNamespace(transferred=None, transferred_labels=None)
    for check, expected in (("D16", 40), ("D12", 0)):
        state = _repeat_attacks(
            attack,
            attack.begin(),
            twins,
            [finding(check, True, "")],
            Numbers.REPEATED[0],
            Allowance.after(attack.ledger),
        )
        assert int(state.frontier.fooled.sum()) == expected


def test_the_whole_box_is_entered_from_samples_that_are_right() -> None:
    """A random image is wrong already; from a right one a gradient that vanishes leads nowhere."""
    net, x = tiny_net(5, SHAPE), points(30, SHAPE)

    def flat(z: Tensor) -> Tensor:
        return net(z.detach()) + 0 * z.flatten(1)[:, :5]

    for model, fires in ((net, False), (lambda z: 30 * net(z), False), (flat, True)):
        counted = Counted(model)
        problem = Problem(counted, x, net(x).argmax(1), Linf(0.1), counted)
        frontier = Cascade(problem, Ledger.of(None, len(x))).begin().frontier
        assert whole_box(problem, replace(frontier)).fired == fires


def test_the_whole_box_is_not_entered_from_a_random_image() -> None:
    """All images of noise are of another class here, so that they would hide a gradient that leads nowhere."""
    x = 0.5 + 0.02 * (points(30, SHAPE) - 0.5)

    def flat(z: Tensor) -> Tensor:
        spread = z.flatten(1).std(1).detach()
        return torch.stack([0.1 - spread, spread - 0.1], 1) + 0 * z.flatten(1)[:, :2]

    counted = Counted(flat)
    problem = Problem(counted, x, torch.zeros(30, dtype=torch.int64), Linf(0.01), counted)
    assert whole_box(problem, Cascade(problem, Ledger.of(None, len(x))).begin().frontier).fired


def test_clean_samples_are_not_asked_again() -> None:
    """Those that are right are the ones that the attack was not done with before it began, whatever it found since."""
    net, x = tiny_net(5, SHAPE), points(40, SHAPE)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::3] = (y[::3] + 1) % 5
    counted = Counted(net)
    problem = Problem(counted, x, y, Linf(0.1), counted)
    attack = Cascade(problem, Ledger.of(None, len(x)))
    frontier = attack.perform(attack.begin(), (Ascents(5),)).frontier
    assert len(frontier.fooled_by_attack(x))
    spent = counted.forwards
    rows = right_when_clean(problem, frontier, 7)
    assert counted.forwards == spent
    order = frontier.keys.argsort()
    expected = [int(row) for row in order if int(row) % 3][:7]
    assert rows.tolist() == expected
