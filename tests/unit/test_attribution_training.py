"""Attributional training: the formulas, their second-order gradients, their memory, and how they compose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.test_training import fit, fresh, problem
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks import pgd
from unfooled.core.errors import BadInput
from unfooled.core.losses import cross_entropy
from unfooled.core.threats import L2, Linf, Threat
from unfooled.core.types import Model, TrainingLoss
from unfooled.explanations import input_x_gradient, integrated_gradients, saliency, smooth_relu
from unfooled.explanations.paths import midpoint
from unfooled.runs.spelling import spelled
from unfooled.training import (
    Batches,
    Free,
    IgNorm,
    Igr,
    IgSumNorm,
    InputGradient,
    Madry,
    R2et,
    Ramp,
    Standard,
    Trades,
    train,
)
from unfooled.training.checkpoint import Checkpoint
from unfooled.training.losses.grouped import grouped_mean
from unfooled.training.losses.inner import InEval
from unfooled.training.progress import loss_at, memory_of, replays_of, threat_of

THREAT = Linf(0.05)
IG4 = partial(integrated_gradients, steps=4, one_graph=True)
TWO_PASS = partial(integrated_gradients, steps=4)


def shifted(
    model: Model, x: Tensor, y: Tensor, threat: Threat, *, targeted: bool = False, generator: Any = None
) -> Tensor:
    """Inner points that do not depend on the network: a step along a fixed pattern."""
    wave = torch.sin(torch.arange(x[0].numel(), dtype=x.dtype)).reshape(x.shape[1:]).sign()
    return threat.project(x + threat.eps * wave, x)


def losses(threat: Linf | L2, **inner: Any) -> dict[str, Any]:
    """Every loss, small."""
    return {
        "ig-norm": IgNorm(threat, path=3, inner_path=2, steps=2, **inner),
        "ig-norm madry": IgNorm(threat, path=3, inner_path=2, steps=2, base=Madry(threat, steps=2), **inner),
        "ig-sum-norm": IgSumNorm(threat, path=3, inner_path=2, steps=2, **inner),
        "igr madry": Igr(threat, IG4, Madry(threat, steps=2), **inner),
        "igr trades": Igr(threat, TWO_PASS, Trades(threat, steps=2), **inner),
        "igr standard": Igr(threat, saliency, Standard(), 0.5, beta=5.0, **inner),
        "r2et": R2et(8, 3, 1e-2),
        "r2et exp": R2et(8, 3, 1e-2, 1e-2, form="exp", scaled=True, beta=5.0, base=Madry(threat, steps=2)),
        "input-gradient": InputGradient(0.1),
        "input-gradient madry": InputGradient(0.01, 1, base=Madry(threat, steps=2)),
    }


NAMES = list(losses(THREAT))
every = pytest.mark.parametrize("name", NAMES)


def soft(seed: int = 0, classes: int = 3) -> nn.Sequential:
    """A smooth network in float64, so that third derivatives exist everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.Softplus(beta=3), nn.Flatten(), nn.Linear(48, 5), nn.Softplus(beta=3),
            nn.Linear(5, classes),
        )  # fmt: skip
    return net.double()


def seeded(loss: TrainingLoss, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    torch.manual_seed(5)
    return loss(model, x, y)


def grads(loss: TrainingLoss, model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(seeded(loss, model, x, y), list(model.parameters()), materialize_grads=True))


@every
@pytest.mark.parametrize("threat", [THREAT, L2(0.3)], ids=str)
def test_loss_falls_and_nothing_else_is_touched(name: str, threat: Linf | L2) -> None:
    model, state = fresh(), torch.get_rng_state()
    x, y = problem()
    before = F.cross_entropy(model(x), y).item()
    values = fit(model, losses(threat)[name], epochs=6, lr=1e-2)
    assert values[-1] < 0.9 * values[0]
    assert F.cross_entropy(model(x), y).item() < 0.8 * before
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_a_loss_leaves_inputs_modes_and_gradients_alone(name: str) -> None:
    model = nn.Sequential(fresh(), nn.Dropout(0.1)).train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    next(model.parameters()).requires_grad_(False)
    x, y = problem(12)
    before = x.clone()
    losses(THREAT)[name](model, x, y).backward()
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert [module.training for module in model.modules()] == modes
    fixed, *others = model.parameters()
    assert not fixed.requires_grad
    assert fixed.grad is None
    assert all(p.requires_grad and p.grad is not None for p in others)


class Attending(nn.Module):
    """Rows of an image as tokens of a fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(8, 24), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x[:, 0])[:, None].chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v).flatten(1))


@every
def test_networks_with_fused_attention_can_be_trained(name: str) -> None:
    net = Attending()
    x, y = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    for g in grads(losses(THREAT)[name], net, x, y):
        assert torch.isfinite(g).all()
        assert g.abs().sum() > 0


@every
def test_weight_zero_is_the_base_loss_exactly(name: str) -> None:
    loss = losses(THREAT)[name]
    base = Madry(THREAT, steps=2) if isinstance(loss, IgSumNorm) else loss.base
    bare = replace(loss, weight=0.0, **({"curvature": 0.0} if isinstance(loss, R2et) else {}))
    x, y = problem(16)
    model = fresh()
    assert seeded(bare, model, x, y).item() == seeded(base, model, x, y).item() != seeded(loss, model, x, y).item()
    for a, b in zip(grads(bare, model, x, y), grads(base, model, x, y), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("ig")])
def test_eps_zero_is_the_base_loss_on_clean_samples(name: str) -> None:
    x, y = problem(16)
    model = soft()
    got = grads(losses(Linf(0.0))[name], model, x.double(), y)
    for a, b in zip(got, grads(Standard(), model, x.double(), y), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@every
def test_the_mean_does_not_depend_on_the_batch(name: str) -> None:
    for inner in ({}, {"inner": shifted}):
        loss = losses(THREAT, **inner)[name]
        x, y = problem(14)
        model = soft()
        whole = seeded(loss, model, x.double(), y)
        parts = [seeded(loss, model, a.double(), b) for a, b in zip(x.split(7), y.split(7), strict=True)]
        assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-9)


def fixed_points(name: str) -> Any:
    """The loss with inner points that do not move with the weights, in every part."""
    loss = losses(Linf(0.0) if "madry" in name or "trades" in name or name == "r2et exp" else THREAT)[name]
    return replace(loss, threat=THREAT, inner=shifted) if name.startswith("ig") else loss


@every
def test_parameter_gradients_are_those_of_finite_differences(name: str) -> None:
    loss, model = fixed_points(name), soft()
    x, y = problem(5)
    x = x.double()
    got = grads(loss, model, x, y)
    if name != "r2et exp":
        plain = grads(Standard(), model, x, y)
        assert max(float((a - b).abs().max()) for a, b in zip(got, plain, strict=True)) > 1e-6  # there is something
    source = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in got]
    ends, h = [], 1e-5
    for move in (1, -2, 1):
        ends.append(seeded(loss, model, x, y).item())
        with torch.no_grad():
            for p, v in zip(model.parameters(), direction, strict=True):
                p.add_(move * h * v)
    # ends[1] at +h, ends[2] at -h
    slope = sum(float((g * v).sum()) for g, v in zip(got, direction, strict=True))
    assert slope == pytest.approx((ends[1] - ends[2]) / (2 * h), rel=2e-5)


@pytest.mark.parametrize("term", ["path", "cosine", "gradient"])
def test_input_gradients_are_those_of_finite_differences(term: str) -> None:
    model, seen = soft(), InEval(soft())
    x, y = problem(4)
    x, far = x.double(), (x.double() + 0.1).clamp(0, 1)
    terms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "path": lambda a, b: integrated_gradients(
            seen, b, y_of(b), baseline=a, steps=3, score=cross_entropy, create_graph=True
        ).abs().flatten(1).sum(1),
        "cosine": lambda a, b: F.cosine_similarity(
            TWO_PASS(seen, a, y_of(a), create_graph=True).flatten(1),
            TWO_PASS(seen, b, y_of(b), create_graph=True).flatten(1),
        ),
        "gradient": lambda a, b: saliency(seen, a + b, y_of(a), create_graph=True).square().flatten(1).sum(1),
    }  # fmt: skip

    def y_of(rows: Tensor) -> Tensor:
        return y[: len(rows)]

    def value(a: Tensor, b: Tensor) -> Tensor:
        return grouped_mean(model, terms[term], a, b)

    leaves = x.clone().requires_grad_(), far.clone().requires_grad_()
    got = torch.autograd.grad(value(*leaves), leaves)
    for i in (0, 1):
        v, h = torch.sin(torch.arange(x.numel(), dtype=x.dtype)).view_as(x), 1e-5
        moved = [[t + sign * h * v * (j == i) for j, t in enumerate((x, far))] for sign in (1, -1)]
        want = (value(*moved[0]) - value(*moved[1])).item() / (2 * h)
        assert float((got[i] * v).sum()) == pytest.approx(want, rel=1e-5)


def test_the_sum_in_place_of_the_norm_is_madry_training() -> None:
    x, y = problem(9)
    model, x = soft(), x.double()
    z = shifted(model, x, y, Linf(0.1))
    e = integrated_gradients(model, z, y, baseline=x, steps=10, score=cross_entropy)
    with torch.no_grad():
        clean, worst = (F.cross_entropy(model(t), y) for t in (x, z))
    assert (clean + e.flatten(1).sum(1).mean()).item() == pytest.approx(worst.item(), rel=1e-9)
    # And the norm is that of the same integral.
    loss = IgNorm(Linf(0.1), 0.7, path=10, inner=shifted)
    assert loss(model, x, y).item() == pytest.approx((clean + 0.7 * e.flatten(1).abs().sum(1).mean()).item(), rel=1e-12)
    summed = IgSumNorm(Linf(0.1), 0.7, path=10, inner=shifted)
    assert (summed(model, x, y) - loss(model, x, y)).item() == pytest.approx((worst - clean).item(), rel=1e-9)


def test_to_first_order_ig_norm_is_input_gradient_regularisation() -> None:
    x, y = problem(9)
    model, x = soft(), x.double() * 0.5 + 0.25  # away from the box
    ratio = []
    for eps in (1e-2, 1e-4):
        plain = Standard()(model, x, y)
        far = seeded(IgNorm(Linf(eps), path=3, inner_path=2, steps=12), model, x, y) - plain
        near = InputGradient(eps, 1)(model, x, y) - plain
        ratio.append((far / near).item())
    assert ratio[1] == pytest.approx(1, abs=1e-3)
    assert abs(ratio[0] - 1) > abs(ratio[1] - 1)


def test_the_ascent_finds_larger_integrals_than_its_start_or_an_attack_on_the_loss() -> None:
    x, y = problem(24)
    model = soft()
    fit(model.float(), Standard(), epochs=3)
    x, model = x.double(), model.double()
    sizes = [seeded(IgNorm(Linf(0.1), path=8, inner_path=4, steps=steps), model, x, y).item() for steps in (0, 2, 8)]
    assert sizes[0] < sizes[1] <= sizes[2] + 1e-9
    attack = IgNorm(Linf(0.1), path=8, inner=partial(pgd, steps=8, stop=False))
    assert sizes[2] >= seeded(attack, model, x, y).item() - 1e-3


def test_two_passes_and_one_graph_give_the_same_training() -> None:
    x, y = problem(6)
    model, x = soft(), x.double()
    first, second = (grads(Igr(THREAT, explain, Madry(THREAT, steps=2)), model, x, y) for explain in (IG4, TWO_PASS))
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-14)


class Rows(nn.Module):
    """Counts the rows of the largest call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.most, self.all = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.most, self.all = max(self.most, len(x)), self.all + len(x)
        return self.net(x)


def test_memory_is_bounded_and_the_value_does_not_depend_on_the_bound() -> None:
    x, y = problem(40)
    x = x.double()
    got = []
    for chunk in (1, 1 << 16, None):
        model = Rows(soft())
        loss = IgNorm(THREAT, path=6, inner_path=3, steps=2, batch_bytes=chunk, base=lambda m, x, y: x.new_zeros(()))
        got.append((grads(loss, model, x, y), model.most, model.all))
    assert [most for _, most, _ in got] == sorted(most for _, most, _ in got)
    assert got[0][1] == 1
    assert got[1][1] < 40
    for other, _, _ in got[1:]:
        for a, b in zip(got[0][0], other, strict=True):
            assert torch.allclose(a, b, rtol=1e-7, atol=1e-12)
    # No point is passed twice: 2 + 1 inner evaluations of 3 nodes, 6 nodes outside, 1 row to measure.
    assert got[1][2] == 40 * (3 * 3 + 6) + 1


def test_grouped_graphs_are_dropped() -> None:
    x, y = problem(64)
    model, alive = soft(), [0, 0]

    def term(x: Tensor, y: Tensor) -> Tensor:
        value = saliency(InEval(model), x, y, create_graph=True).square().flatten(1).sum(1)
        alive[0] += 1
        value.grad_fn.register_prehook(lambda _: alive.__setitem__(0, alive[0] - 1))  # type: ignore[union-attr]
        alive[1] = max(alive)
        return value

    grouped_mean(model, term, x.double(), y, batch_bytes=1 << 14)
    assert alive == [0, 1]


def test_without_gradients_the_value_is_the_same() -> None:
    x, y = problem(6)
    model, x = soft(), x.double()
    for loss in losses(THREAT).values():
        with torch.no_grad():
            value = seeded(loss, model, x, y)
        assert not value.requires_grad
        assert value.item() == pytest.approx(seeded(loss, model, x, y).item(), rel=1e-12)


@every
def test_batch_normalisation_is_explained_by_its_running_statistics(name: str) -> None:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).train()
    x, y = problem(16)
    loss, base = losses(THREAT)[name], Standard()
    seeded(loss, model, x, y).backward()
    assert norm.training
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    # Explanations move no statistics: as many batches are seen as the base loss passes.
    passed = 2 if "trades" in name else 1
    assert norm.num_batches_tracked == torch.tensor(passed)
    if name == "input-gradient":
        model.zero_grad()
        value = loss(model, x, y) - base(model.train(), x, y)
        model.eval()
        assert value.item() == pytest.approx((loss(model, x, y) - base(model, x, y)).item(), rel=0.2)


@pytest.mark.parametrize("k", [1, 8, 33])
@pytest.mark.parametrize("form", ["difference", "exp"])
def test_r2et_is_the_sum_over_the_pairs(k: int, form: str) -> None:
    x, y = problem(4)
    model, x = soft(), x.double()
    got = R2et(k, 5, 1.0, 0.3, form=form, scaled=True, step=0.02)(model, x, y)
    want = F.cross_entropy(model(x), y)
    g = saliency(model, x, y)
    near = saliency(model, x + 0.02 * g.sign(), y)
    for i in range(4):
        a = g[i].abs().sum(0).flatten()
        a = (a / a.mean()).sort(descending=True).values
        pairs = [(j, k - 1) for j in range(max(0, k - 6), k - 1)] + [(k - 1, j) for j in range(k, min(36, k + 5))]
        leads = torch.stack([a[low] - a[high] for high, low in pairs])
        want = want + (leads.exp() if form == "exp" else leads).sum() / 4 + 0.3 * (near - g)[i].norm() / 0.02 / 4
    assert got.item() == pytest.approx(want.item(), rel=1e-9)


def test_r2et_widens_the_leads_that_it_defends() -> None:
    x, y = problem(48)
    leads = []
    for weight in (0.0, 0.5):
        model = fresh()
        fit(model, R2et(8, 4, weight, form="exp", scaled=True), epochs=6)
        a = saliency(model, x, y).abs().flatten(1)
        ranked = (a / a.mean(1, keepdim=True)).sort(1, descending=True).values
        leads.append((ranked[:, 3] - ranked[:, 11]).mean().item())
    assert leads[1] > 1.05 * leads[0]


def test_igr_turns_the_explanations_together() -> None:
    x, y = problem(48)
    apart = []
    for weight in (0.0, 50.0):
        model = fresh()
        fit(model, Igr(Linf(0.2), saliency, Standard(), weight, shifted, beta=10.0), epochs=8)
        z = shifted(model, x, y, Linf(0.2))
        a, b = (saliency(model, t, y).flatten(1) for t in (x, z))
        apart.append((1 - F.cosine_similarity(a, b)).mean().item())
    assert apart[1] < 0.8 * apart[0]


def test_igr_shares_the_points_of_its_base() -> None:
    x, y = problem(8)
    for base, extra in ((Madry(THREAT, steps=3), 0), (Trades(THREAT, steps=3), 0), (Standard(), 8)):
        model, plain = Rows(fresh()), Rows(fresh())
        seeded(Igr(THREAT, saliency, base), model, x, y)
        seeded(base, plain, x, y)
        assert model.all == plain.all + 8 * (2 + extra)


def test_a_map_of_zeros_has_no_direction() -> None:
    x, y = problem(6)
    x[0] = 0  # input x gradient is zero there
    model = fresh()
    value = Igr(THREAT, input_x_gradient, Standard(), inner=shifted)(model, x, y)
    value.backward()
    assert all(p.grad is not None and p.grad.abs().max() < 1e3 for p in model.parameters())  # NaN is not
    rest = Igr(THREAT, input_x_gradient, Standard(), inner=shifted)(model, x[1:], y[1:])
    plain = [Standard()(model, a, b) for a, b in ((x, y), (x[1:], y[1:]))]
    assert (value - plain[0]).item() == pytest.approx((rest - plain[1]).item() * 5 / 6, rel=1e-4)


def test_beta_explains_the_smoothed_network() -> None:
    x, y = problem(8)
    model = fresh()
    loss = Igr(THREAT, saliency, Standard(), inner=shifted, beta=4.0)
    with smooth_relu(model, 4.0):
        want = replace(loss, beta=None)(model, x, y) - Standard()(model, x, y)
    assert (loss(model, x, y) - Standard()(model, x, y)).item() == pytest.approx(want.item(), rel=1e-4)
    biases = {}
    for beta in (None, 4.0):
        given = grads(replace(loss, base=lambda m, x, y: 0 * m(x).sum(), beta=beta), model, x, y)
        biases[beta] = max(float(g.abs().max()) for p, g in zip(model.parameters(), given, strict=True) if p.ndim == 1)
    assert biases[None] == 0 < biases[4.0]


def test_a_ramp_scales_the_threat_of_the_loss_and_of_its_base() -> None:
    loss = Igr(Linf(0.2), saliency, Madry(Linf(0.1), start="warm"))
    now: Any = Ramp(loss, 2.0).at(0.5)
    assert (now.threat.eps, now.base.threat.eps) == pytest.approx((0.05, 0.025))
    assert memory_of(now) is memory_of(loss) is loss.base.memory  # type: ignore[attr-defined]
    inside: Any = Ramp(InputGradient(base=R2et(base=Trades(Linf(0.4)))), 2.0).at(1.0)
    assert inside.base.base.threat.eps == pytest.approx(0.2)
    follows: Any = loss_at(InputGradient(base=Ramp(Madry(Linf(0.2)), 4.0)), 1.0)
    assert follows.base.threat.eps == pytest.approx(0.05)
    assert replays_of(InputGradient(base=Free(THREAT, replays=3))) == 3
    assert threat_of(Ramp(loss, 1.0)) is loss.threat
    assert threat_of(InputGradient()) is None
    with pytest.raises(ValueError, match="no threat that could grow"):
        Ramp(InputGradient(), 1)


@pytest.mark.parametrize("name", [*NAMES, "ramp", "warm", "pgd"])
def test_killed_and_resumed_training_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    x, y = problem(64)
    more = {
        "ramp": Ramp(IgNorm(THREAT, path=2, inner_path=2, steps=2), 1.5),
        "warm": Igr(THREAT, saliency, Madry(THREAT, steps=2, start="warm")),
        "pgd": IgSumNorm(THREAT, path=2, inner=partial(pgd, steps=2)),
    }
    loss = (losses(THREAT) | more)[name]

    def run(path: Path, stop: int | None) -> nn.Module:
        model = nn.Sequential(nn.Dropout(0.1), nn.BatchNorm2d(1), fresh())
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        keep = Checkpoint(path, settings={"loss": str(loss)})
        for epoch in train(model, Batches(x, y, 32), loss, optimizer, epochs=3, checkpoint=keep):
            if epoch.index == stop:
                break
        return model

    whole = run(tmp_path / "a.pt", None)
    run(tmp_path / "b.pt", 0)
    resumed = run(tmp_path / "b.pt", None)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_text_of_a_loss_is_the_same_in_every_process() -> None:
    """A checkpoint compares it; functions must stand by name, not by address."""
    loss = Igr(THREAT, partial(integrated_gradients, steps=8, rule=midpoint), InputGradient(base=Madry(THREAT)))
    text = str(Ramp(loss, 2.0)) + str(IgNorm(THREAT, inner=partial(pgd, steps=3)))
    assert " at 0x" not in text
    assert "explain=integrated_gradients(steps=8, rule=midpoint), base=InputGradient(weight=1.0, norm=2.0, ba" in text
    assert "inner=pgd(steps=3)" in text
    assert "nodes=gauss_legendre" in text
    assert spelled([1, "a"]) == "[1, 'a']"
    for made in losses(THREAT).values():
        assert str(made) == spelled(made)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: InputGradient(norm=0.5), "norm is 0.5"),
        (lambda: InputGradient(-1.0), "weight is -1.0"),
        (lambda: R2et(form="log"), 'must be "difference" or "exp"'),
        (lambda: R2et(k=0), "k is 0"),
        (lambda: IgNorm(THREAT, path=0), "path is 0"),
        (lambda: IgSumNorm(THREAT, inner_path=0), "inner_path is 0"),
        (lambda: IgNorm(THREAT, weight=-1.0), "weight is -1.0"),
        (lambda: IgSumNorm(THREAT, steps=-1), "steps is -1"),
        (lambda: Igr(THREAT, saliency, Standard(), weight=float("nan")), "weight is nan"),
        (lambda: R2et(k=40)(fresh(), *problem(4)), "k is 40, the maps have 36 places"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
    assert issubclass(BadInput, ValueError)
