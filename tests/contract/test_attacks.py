"""What every attack inside a threat must keep, one list for the family."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.conftest import interior, linear, points, source, tiny_net
from torch import Tensor, nn

from unfooled.attacks import apgd, fgsm, pgd, restarted
from unfooled.core.errors import BadInput
from unfooled.core.goals import Attack
from unfooled.core.losses import cross_entropy, dlr, margin
from unfooled.core.model.modes import counted
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.evaluation.verify import verify

ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=8),
    "pgd-restarts": partial(pgd, steps=8, restarts=2),
    "apgd-ce": partial(apgd, steps=8, loss=cross_entropy),
    "apgd-dlr": partial(apgd, steps=8, loss=dlr),
    "apgd-margin": partial(apgd, steps=8, loss=margin),
    "restarted": restarted(partial(pgd, steps=8, loss=margin), 2),
}
EPS: dict[type[Threat], float] = {Linf: 0.05, L2: 0.25, L1: 0.6, L0: 1}
CASES = [(name, kind) for name in ATTACKS for kind in EPS if kind is not L0 or not name.startswith("apgd")]
every_case = pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{n}-{k.__name__}" for n, k in CASES])

SHAPE = (1, 6, 5)
N = 7


def setting(kind: type[Threat], dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, Tensor, Tensor, Threat]:
    """A network and samples of which some fall, some stand, and the last is wrong from the start."""
    net, x = tiny_net(3, SHAPE, dtype=dtype), points(N, SHAPE, dtype=dtype, seed=6)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[-1] = (y[-1] + 1) % 3
    return net, x, y, kind(EPS[kind])


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_inside_the_threat_and_like_x(name: str, kind: type[Threat], dtype: torch.dtype) -> None:
    net, x, y, threat = setting(kind, dtype)
    z = ATTACKS[name](net, x, y, threat)
    assert (z.shape, z.dtype, z.device) == (x.shape, x.dtype, x.device)
    assert not z.requires_grad
    verdict = verify(net, x, y, z, threat)
    assert verdict.inside.all()
    assert z.min() >= 0
    assert z.max() <= 1
    assert 2 < verdict.success.sum() < N - 1, "the setting tells strong from weak"
    assert verdict.success[-1]
    assert verdict.distance[-1] == 0


@every_case
def test_nothing_else_changes(name: str, kind: type[Threat]) -> None:
    net, x, y, threat = setting(kind)
    eps = torch.full((N,), EPS[kind], dtype=x.dtype)
    threat = threat.with_eps(eps)
    x.requires_grad_()
    parameters = list(net.parameters())
    parameters[0].requires_grad_(False)
    for p in parameters:
        p.grad = torch.full_like(p, 7)
    net[1].train()  # a ReLU; nothing that check_mode minds
    generator = source(3)
    generator.initial_seed()
    x0, y0, weights = x.detach().clone(), y.clone(), [p.detach().clone() for p in parameters]
    states, modes = (torch.get_rng_state(), generator.get_state()), [m.training for m in net.modules()]

    z = ATTACKS[name](net, x, y, threat, generator=generator)

    assert torch.equal(x.detach(), x0)
    assert z.data_ptr() != x.data_ptr()
    assert x.requires_grad
    assert x.grad is None
    assert torch.equal(y, y0)
    assert threat.eps is eps
    assert torch.equal(eps, torch.full((N,), EPS[kind], dtype=x.dtype))
    assert [p.requires_grad for p in parameters] == [False, True, True, True]
    assert all(p.grad is not None and (p.grad == 7).all() for p in parameters)
    assert all(torch.equal(p, w) for p, w in zip(parameters, weights, strict=True))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])


@every_case
def test_the_same_seed_gives_the_same_bits(name: str, kind: type[Threat]) -> None:
    net, x, y, threat = setting(kind)
    attack = ATTACKS[name]
    z = attack(net, x, y, threat, generator=source(1))
    assert torch.equal(z, attack(net, x, y, threat, generator=source(1)))
    if name != "fgsm":  # which starts from x
        assert not torch.equal(z, attack(net, x, y, threat, generator=source(2)))


@every_case
def test_verdicts_do_not_depend_on_the_batch(name: str, kind: type[Threat]) -> None:
    net, x, y, threat = setting(kind)
    attack = ATTACKS[name]

    def success(z: Tensor) -> Tensor:
        return verify(net, x, y, z, threat).success

    z = attack(net, x, y, threat)
    expected = success(z)
    order = torch.randperm(N, generator=source(0))
    assert torch.equal(success(attack(net, x[order], y[order], threat)[order.argsort()]), expected)
    parts = torch.arange(N).split(3)
    assert torch.equal(success(torch.cat([attack(net, x[p], y[p], threat) for p in parts])), expected)
    if name not in ("fgsm", "restarted"):
        assert torch.equal(success(attack(net, x, y, threat, batch=3)), expected)
    for i in (0, 3, N - 1):
        torch.testing.assert_close(attack(net, x[i : i + 1], y[i : i + 1], threat)[0], z[i])


@every_case
def test_a_radius_per_sample_equals_each_radius_alone(name: str, kind: type[Threat]) -> None:
    net, x, y, threat = setting(kind)
    eps = torch.linspace(0.2, 2.5, N, dtype=x.dtype) * EPS[kind]
    eps = eps.round() if kind is L0 else eps
    z = ATTACKS[name](net, x, y, threat.with_eps(eps))
    for i in range(N):
        alone = ATTACKS[name](net, x[i : i + 1], y[i : i + 1], threat.with_eps(float(eps[i])))
        torch.testing.assert_close(z[i], alone[0])


@every_case
def test_at_least_as_good_as_random(name: str, kind: type[Threat]) -> None:
    net, _, _, threat = setting(kind)
    x = points(40, SHAPE, dtype=torch.float64, seed=5)
    y = net(x).argmax(1)
    found = verify(net, x, y, ATTACKS[name](net, x, y, threat), threat).success
    luck = verify(net, x, y, threat.sample(x), threat).success
    assert found.sum() > luck.sum()
    if name != "fgsm":  # the others start from that very point
        assert (found | ~luck).all()


@every_case
def test_targeted_hits_the_target(name: str, kind: type[Threat]) -> None:
    net, x, _, threat = setting(kind)
    target = net(x).topk(2).indices[:, 1]
    wide = threat.scaled(4)
    z = ATTACKS[name](net, x, target, wide, targeted=True)
    verdict = verify(net, x, target, z, wide, targeted=True)
    assert verdict.inside.all()
    # One step may overshoot; dlr is constant once the target comes third of three.
    least = {"fgsm": 3, "apgd-dlr": N - 1}.get(name, N)
    assert (verdict.prediction == target).sum() >= least
    assert (net(x).argmax(1) == target).sum() == 0


SIZES = [(2, (6,)), (3, (3, 7)), (4, (2, 3, 4)), (10, (2, 2, 2, 3)), (100, (2, 3, 4))]
LINEAR = [
    (name, kind, k, shape)
    for name, kind in CASES
    for k, shape in SIZES
    if kind is not L0 and not (name == "apgd-dlr" and k == 2)  # dlr needs 3 classes
]


@pytest.mark.parametrize(("name", "kind", "k", "shape"), LINEAR, ids=[f"{n}-{t.__name__}-{k}" for n, t, k, _ in LINEAR])
def test_linear_optimum(name: str, kind: type[Threat], k: int, shape: tuple[int, ...]) -> None:
    # Two classes come close: the loss is then monotone in the distance to the boundary, and every attack must reach it.
    model, x = linear(k, shape, rivals=2), interior(12, shape)
    y = model(x).argmax(1)
    nearest = model.distance(x, y, kind.norm)
    # In L1 a step of APGD is sparse, and it takes several to find which entries count.
    attack = partial(ATTACKS[name], steps=60) if kind is L1 and name.startswith("apgd") else ATTACKS[name]
    for factor, broken in ((1.05, True), (0.95, False)):
        threat = kind(factor * nearest)
        verdict = verify(model, x, y, attack(model, x, y, threat), threat)
        assert verdict.inside.all()
        assert (verdict.success == broken).all(), f"{verdict.success.float().mean():.2f} broken at {factor} d*"


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


@pytest.mark.parametrize("name", ["fgsm", "pgd", "restarted"])
def test_linear_optimum_in_l0(name: str) -> None:
    seen = set()
    for gap in (0.1, 0.4, 0.8, 1.2):
        model, x = linear(2, (8,), dtype=torch.float64), interior(12, (8,), dtype=torch.float64)
        model.bias[0] += gap
        logits, y = model(x), torch.zeros(12, dtype=torch.int64)
        slope = model.weight[1] - model.weight[0]
        gain = torch.where(slope > 0, slope * (1 - x), -slope * x).sort(dim=1, descending=True).values.cumsum(1)
        nearest = (gain <= (logits[:, 0] - logits[:, 1])[:, None]).sum(1).double() + 1  # entries moved to their edge
        seen |= set(nearest.tolist())
        for threat, broken in ((L0(nearest), True), (L0(nearest - 1), False)):
            success = verify(model, x, y, ATTACKS[name](model, x, y, threat), threat).success
            assert (success == broken).all()
    assert len(seen) >= 4


COSTS = [
    ("fgsm", fgsm, 2, 1),
    ("pgd", partial(pgd, steps=10), 11, 10),
    ("pgd, no steps", partial(pgd, steps=0), 1, 0),
    ("pgd, 3 restarts", partial(pgd, steps=10, restarts=3), 36, 30),
    ("apgd", partial(apgd, steps=10), 11, 10),
    ("apgd, 4 draws", partial(apgd, steps=10, draws=4), 44, 40),
    ("restarted", restarted(partial(apgd, steps=5), 2), 14, 10),
]


@pytest.mark.parametrize(("attack", "forwards", "backwards"), [c[1:] for c in COSTS], ids=[c[0] for c in COSTS])
def test_passes_are_those_claimed(attack: Attack, forwards: int, backwards: int) -> None:
    net, x, y, _ = setting(Linf)
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    with counted(net) as standing:
        attack(standing, x, y, Linf(1e-6))
    assert (standing.forwards, standing.backwards) == (forwards * len(x), backwards * len(x))
    if backwards and "draws" not in getattr(attack, "keywords", {}):  # an average is never done early
        with counted(net) as falling:
            attack(falling, x, y, Linf(0.2))
        assert falling.forwards + falling.backwards < 0.7 * (forwards + backwards) * len(x) or attack is fgsm


def test_restarts_keep_the_best_point_and_leave_the_fallen_out() -> None:
    net, x, y, threat = setting(Linf)
    one, many = (verify(net, x, y, pgd(net, x, y, threat, steps=2, restarts=r), threat) for r in (1, 10))
    assert (many.success | ~one.success).all()
    seen: list[int] = []
    starts: list[Tensor] = []

    def lazy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, **options: torch.Generator) -> Tensor:
        seen.append(len(x))
        starts.append(threat.sample(x, options["generator"]))
        return starts[-1]

    restarted(lazy, 5)(net, x, y, threat)
    assert seen[0] == N
    assert seen[1] == int((net(starts[0]).argmax(1) == y).sum())
    starts.clear()
    right = net(x).argmax(1) == y
    z = restarted(lazy, 5)(net, x[right], y[right], Linf(1e-4))
    tried = torch.stack([margin(net(s), y[right]) for s in starts])
    torch.testing.assert_close(margin(net(z), y[right]), tried.max(0).values)
    assert tried.argmax(0).unique().numel() > 1


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
def test_parameters_are_left_out_of_the_graph(attack: Attack) -> None:
    net, x, y, threat = setting(Linf)
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
    z = pgd(ridge, x, y, Linf(0.1), steps=1, restarts=x)
    assert torch.equal(z, x), "where pgd keeps the best point"


def test_apgd_refuses_the_norm_it_has_no_step_for() -> None:
    net, x, y, _ = setting(L0)
    with pytest.raises(BadInput, match="apgd knows Linf, L2 and L1"):
        apgd(net, x, y, L0(2), steps=2)


def test_apgd_in_l1_costs_two_forwards_more() -> None:
    net, x, y, _ = setting(L1)
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
    net, x, y, threat = setting(Linf)
    for attack in (pgd, apgd):
        assert torch.equal(attack(net, x, y, threat, steps=0, restarts=x), x), "first points in place of random ones"
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


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd-dlr", "restarted"])
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_named(fault: str, name: str) -> None:
    (x, y), message = FAULTS[fault]
    with pytest.raises(BadInput, match=message):
        ATTACKS[name](linear(3, (3, 4)), x, y, Linf(0.1))


@pytest.mark.parametrize(
    ("options", "threat", "message"),
    [
        ({}, Linf(torch.ones(3)), "eps has 3 values for 4 samples"),
        ({"restarts": torch.zeros(2, 3, 4)}, Linf(0.1), r"start has shape \(2, 3, 4\)"),
        ({"restarts": torch.zeros(2, 3, 4)}, L1(0.1), r"start has shape \(2, 3, 4\)"),
        ({"restarts": 0}, Linf(0.1), "restarts is 0"),
        ({"steps": -1}, Linf(0.1), "steps is -1"),
    ],
)
def test_options_that_disagree(options: dict[str, Any], threat: Threat, message: str) -> None:
    for attack in (pgd, apgd):
        with pytest.raises(ValueError, match=message):
            attack(linear(3, (3, 4)), *GOOD, threat, **options)
