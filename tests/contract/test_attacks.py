"""Contract of the attacks inside a threat, one list for the family."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from tests.conftest import interior, linear, points, source
from tests.contract.rows import Row, norms_of, pairs, with_new_ones
from torch import Tensor, nn

from unfooled.attacks import apgd, fgsm, labels_only, memetic, pgd, r_step_ll, restarted, square, step_ll
from unfooled.attacks.pgd import pgd_from
from unfooled.core.errors import BadInput
from unfooled.core.goals import Attack
from unfooled.core.losses import cross_entropy, dlr, margin
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.evaluation.verify import verify
from unfooled.testing.case import N_SAMPLES, setting
from unfooled.testing.strength import SIZES

SMOOTH = (math.inf, 2.0, 1.0)
STARTS = {"optimum": 1.05, "seeded": True, "random_start": True, "hit_rate": 1}
"""What the attacks claim that climb from a random point."""
IN_L1 = {"optimum": {"steps": 60}}
"""A step of APGD in L1 is sparse, and it takes several to find which entries count."""
DLR = {"fewest_classes": 3, "hit_rate": 6 / 7}
"""DLR needs three classes, and is constant once the target comes third of three."""
ROWS = {
    "fgsm": Row(fgsm, facts={"optimum": 1.05}),
    "step_ll": Row(step_ll),
    "r_step_ll": Row(r_step_ll, facts={"seeded": True}),
    "pgd": Row(pgd, options={"steps": 8}, facts=STARTS),
    "pgd-restarts": Row(pgd, options={"steps": 8, "restarts": 2}, facts=STARTS),
    "apgd-ce": Row(apgd, (math.inf, 2.0), {"steps": 8, "loss": cross_entropy}, STARTS),
    "apgd-ce in L1": Row(apgd, (1.0,), {"steps": 8, "loss": cross_entropy}, STARTS, IN_L1),
    "apgd-dlr": Row(apgd, (math.inf, 2.0), {"steps": 8, "loss": dlr}, {**STARTS, **DLR}),
    "apgd-dlr in L1": Row(apgd, (1.0,), {"steps": 8, "loss": dlr}, {**STARTS, **DLR}, IN_L1),
    "apgd-margin": Row(apgd, (math.inf, 2.0), {"steps": 8, "loss": margin}, STARTS),
    "apgd-margin in L1": Row(apgd, (1.0,), {"steps": 8, "loss": margin}, STARTS, IN_L1),
    "restarted": Row(restarted(partial(pgd, steps=8, loss=margin), 2), facts=STARTS),
    "memetic": Row(memetic, options={"steps": 8, "generations": 2, "size": 3}, facts=STARTS),
    "square": Row(square, SMOOTH, {"steps": 40}, {"seeded": True, "hit_rate": 6 / 7}),
    "labels_only": Row(labels_only, SMOOTH, {"steps": 100}),
}


@pytest.mark.parametrize(("row", "norm"), pairs(with_new_ones(ROWS, "threat")))
def test_contract(row: Row, norm: float) -> None:
    row.check(norm)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_the_setting_tells_strong_from_weak(norm: float, dtype: torch.dtype) -> None:
    net, x, y, threat = setting(norm, dtype)
    for row in ROWS.values():
        if norm in row.norms and "optimum" in row.facts:
            verdict = verify(net, x, y, row(net, x, y, threat), threat)
            assert 2 < verdict.success.sum() < N_SAMPLES - 1
            assert verdict.success[-1]
            assert verdict.distance[-1] == 0
    target = net(x).topk(2).indices[:, 1]
    assert (net(x).argmax(1) == target).sum() == 0


def test_an_attack_without_a_row_is_checked_all_the_same() -> None:
    rows = with_new_ones({name: row for name, row in ROWS.items() if row.function is not fgsm}, "threat")
    assert rows["fgsm"].norms == (math.inf, 2.0, 1.0, 0.0)
    assert norms_of(apgd, "threat") == SMOOTH


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@pytest.mark.parametrize(("k", "shape"), SIZES)
def test_linear_optimum_among_many_classes(k: int, shape: tuple[int, ...], kind: type[Threat]) -> None:
    # The margin follows one class at a time, so the nearest one is named as the target.
    model, x = linear(k, shape, dtype=torch.float64), interior(12, shape, dtype=torch.float64)
    y = model(x).argmax(1)
    nearest, target = model.distance(x, y, kind.norm), model.nearest(x, y, kind.norm)
    assert target.unique().numel() >= min(k, 3)
    for factor, broken in ((1.05, True), (0.95, False)):
        threat = kind(factor * nearest)
        z = pgd(model, x, target, threat, targeted=True, loss=margin)
        assert (verify(model, x, target, z, threat, targeted=True).success == broken).all()
        untargeted = verify(model, x, y, pgd(model, x, y, threat, restarts=2), threat).success
        assert broken or not untargeted.any()


COSTS = [  # name, attack, forwards, backwards, whether samples that are fooled leave
    ("fgsm", fgsm, 2, 1, False),
    ("pgd", partial(pgd, steps=10), 11, 10, True),
    ("pgd, no steps", partial(pgd, steps=0), 1, 0, False),
    ("pgd, 3 restarts", partial(pgd, steps=10, restarts=3), 36, 30, True),
    ("apgd", partial(apgd, steps=10), 11, 10, True),
    ("apgd, 4 draws", partial(apgd, steps=10, draws=4), 44, 40, False),  # an average is never done early
    ("restarted", restarted(partial(apgd, steps=5), 2), 14, 10, True),
]


@pytest.mark.parametrize(
    ("attack", "forwards", "backwards", "leaves"), [c[1:] for c in COSTS], ids=[c[0] for c in COSTS]
)
def test_passes_are_those_claimed(attack: Attack, forwards: int, backwards: int, leaves: bool) -> None:
    net, x, y, _ = setting(math.inf)
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    with counted(net) as standing:
        attack(standing, x, y, Linf(1e-6))
    assert (standing.forwards, standing.backwards) == (forwards * len(x), backwards * len(x))
    with counted(net) as falling:
        attack(falling, x, y, Linf(0.2))
    early = falling.forwards + falling.backwards < 0.7 * (forwards + backwards) * len(x)
    assert early == leaves


def test_restarts_keep_the_best_point_and_leave_the_fallen_out() -> None:
    net, x, y, threat = setting(Linf.norm)
    one, many = (verify(net, x, y, pgd(net, x, y, threat, steps=2, restarts=r), threat) for r in (1, 10))
    assert (many.success | ~one.success).all()
    seen: list[int] = []
    starts: list[Tensor] = []

    def lazy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, **options: torch.Generator) -> Tensor:
        seen.append(len(x))
        starts.append(threat.sample(x, options["generator"]))
        return starts[-1]

    restarted(lazy, 5)(net, x, y, threat)
    assert seen[0] == N_SAMPLES
    assert seen[1] == int((net(starts[0]).argmax(1) == y).sum())
    starts.clear()
    right = net(x).argmax(1) == y
    z = restarted(lazy, 5)(net, x[right], y[right], Linf(1e-4))
    tried = torch.stack([margin(net(s), y[right]) for s in starts])
    torch.testing.assert_close(margin(net(z), y[right]), tried.max(0).values)
    assert tried.argmax(0).unique().numel() > 1


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
def test_parameters_are_left_out_of_the_graph(attack: Attack) -> None:
    net, x, y, threat = setting(Linf.norm)
    seen: list[bool] = []
    net.register_forward_pre_hook(lambda module, args: seen.append(any(p.requires_grad for p in module.parameters())))
    attack(net, x, y, threat)
    assert seen
    assert not any(seen)


def test_fgsm_takes_its_step_even_where_that_overshoots() -> None:
    def ridge(z: Tensor) -> Tensor:  # the loss of class 0 is highest at .52, and never enough
        return torch.stack([torch.zeros_like(z[:, 0]), -1 - 100 * (z[:, 0] - 0.52).square()], 1)

    x, y = torch.full((1, 3), 0.5), torch.tensor([0])
    torch.testing.assert_close(fgsm(ridge, x, y, Linf(0.1)), torch.tensor([[0.6, 0.5, 0.5]]))
    z = pgd_from(x, ridge, x, y, Linf(0.1), steps=1)
    assert torch.equal(z, x), "where pgd keeps the best point"


def test_apgd_refuses_the_norm_it_has_no_step_for() -> None:
    net, x, y, _ = setting(L0.norm)
    with pytest.raises(BadInput, match="apgd supports Linf, L2 and L1"):
        apgd(net, x, y, L0(2), steps=2)


def test_apgd_in_l1_costs_two_forwards_more() -> None:
    net, x, y, _ = setting(L1.norm)
    right = net(x).argmax(1) == y
    with counted(net) as standing:
        apgd(standing, x[right], y[right], L1(1e-6), steps=10)
    n = int(right.sum())
    assert (standing.forwards, standing.backwards) == (13 * n, 10 * n)


@pytest.mark.parametrize("kind", [Linf, L2, L1, L0])
def test_an_infinite_radius_is_the_box(kind: type[Threat]) -> None:
    model, x = linear(3, (6,)), points(20, (6,))
    y = model(x).argmax(1)
    z = pgd(model, x, y, kind(torch.inf), loss=margin)
    assert verify(model, x, y, z, kind(torch.inf)).success.all()


def test_start_and_stop() -> None:
    net, x, y, threat = setting(Linf.norm)
    assert torch.equal(pgd_from(x, net, x, y, threat, steps=0), x)
    whole, early = (pgd(net, x, y, threat, stop=stop) for stop in (False, True))
    assert (cross_entropy(net(whole), y) >= cross_entropy(net(early), y) - 1e-9).all()
    assert cross_entropy(net(whole), y).sum() > cross_entropy(net(early), y).sum() + 0.1


def test_averaging_over_draws_beats_a_noisy_gradient() -> None:
    model, x = linear(2, (12,)), interior(20, (12,))
    y = model(x).argmax(1)
    noise = source(0)

    def noisy(z: Tensor) -> Tensor:
        return model(z) + 2 * model((z - 0.5) * torch.randn(z.shape, generator=noise))

    threat = Linf(1.2 * model.distance(x, y, Linf.norm))
    broken = [verify(model, x, y, apgd(noisy, x, y, threat, steps=10, draws=d), threat).success.sum() for d in (1, 30)]
    assert broken[1] > broken[0]


GOOD = (points(4, (3, 4)), torch.tensor([0, 1, 2, 0]))
FAULTS = {
    "range": ((GOOD[0] * 255, GOOD[1]), r"x lies in \[\d.*, 2\d\d.*\], outside \[0, 1\].*Classifier\(module, mean="),
    "negative": ((GOOD[0] - 0.5, GOOD[1]), r"x lies in \[-0\.\d+, 0\.\d+\], outside \[0, 1\]"),
    "nan": ((GOOD[0].clone().index_fill_(0, torch.tensor([2]), torch.nan), GOOD[1]), r"NaN .* first is sample 2"),
    "inf": ((GOOD[0].clone().index_fill_(0, torch.tensor([1]), torch.inf), GOOD[1]), r"infinite .* first is sample 1"),
    "bytes": (((GOOD[0] * 255).byte(), GOOD[1]), r"dtype torch\.uint8.*x\.float\(\) / 255"),
    "no samples": ((GOOD[0][:0], GOOD[1][:0]), r"shape \(0, 3, 4\): there are no samples"),
    "no values": ((torch.zeros(4, 0), GOOD[1]), r"no values"),
    "one sample without a batch": ((GOOD[0][0, 0], GOOD[1][:1]), r"x\[None\]"),
    "list": ((GOOD[0].tolist(), GOOD[1]), r"x is a list"),
    "label above": ((GOOD[0], torch.tensor([0, 1, 3, 0])), r"labels lie in \[0, 3\], the model has 3 classes"),
    "label below": ((GOOD[0], torch.tensor([0, 1, -1, 0])), r"labels lie in \[-1, 1\]"),
    "label count": ((GOOD[0], GOOD[1][:3]), r"y is \(3,\).*shape \(4,\)"),
    "too many labels": ((GOOD[0], torch.cat([GOOD[1], GOOD[1]])), r"y is \(8,\).*shape \(4,\)"),
    "one-hot labels": ((GOOD[0], torch.eye(4, 3)), r"y is \(4, 3\)"),
    "float labels": ((GOOD[0], GOOD[1].float()), r"y has dtype torch\.float32.*y\.long\(\)"),
    "int32 labels": ((GOOD[0], GOOD[1].int()), r"y has dtype torch\.int32.*y\.long\(\)"),
}


LINF = {name: row for name, row in ROWS.items() if math.inf in row.norms}


@pytest.mark.parametrize("row", LINF.values(), ids=LINF)
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_named(fault: str, row: Row) -> None:
    (x, y), message = FAULTS[fault]
    with pytest.raises(BadInput, match=message):
        row(linear(3, (3, 4)), x, y, Linf(0.1))


@pytest.mark.parametrize(
    ("options", "threat", "message"),
    [
        ({}, Linf(torch.ones(3)), "eps has 3 values for 4 samples"),
        ({"restarts": 0}, Linf(0.1), "restarts is 0"),
        ({"steps": -1}, Linf(0.1), "steps is -1"),
    ],
)
def test_options_that_disagree(options: dict[str, Any], threat: Threat, message: str) -> None:
    for attack in (pgd, apgd):
        with pytest.raises(ValueError, match=message):
            attack(linear(3, (3, 4)), *GOOD, threat, **options)


def test_first_points_that_do_not_fit() -> None:
    model, short = linear(3, (3, 4)), torch.zeros(2, 3, 4)
    for threat in (Linf(0.1), L1(0.1)):
        with pytest.raises(ValueError, match=r"start has shape \(2, 3, 4\)"):
            pgd_from(short, model, *GOOD, threat)
        with pytest.raises(ValueError, match=r"start has shape \(2, 3, 4\)"):
            apgd(model, *GOOD, threat, start=short)
    with pytest.raises(BadInput, match="start is given, and restarts is 3"):
        apgd(model, *GOOD, Linf(0.1), start=GOOD[0], restarts=3)
