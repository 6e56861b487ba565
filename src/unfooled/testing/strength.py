"""Contract checks of strength and cost: better than chance, targets, a linear model's boundary, passes."""

from __future__ import annotations

import math

import torch

from unfooled.core.ascent.nearest import NORMS
from unfooled.core.model.wrappers import counted
from unfooled.testing.case import SHAPE, Case
from unfooled.testing.subjects import interior, linear, points

SIZES: tuple[tuple[int, tuple[int, ...]], ...] = (
    (2, (6,)),
    (3, (3, 7)),
    (4, (2, 3, 4)),
    (10, (2, 2, 2, 3)),
    (100, (2, 3, 4)),
)
"""(number of classes, sample shape) of the linear models."""


def random(case: Case) -> None:
    """Check that the attack beats a random point of the threat, or a random search for the nearest one."""
    net, _, _, threat = case.setting()
    n = 10 if case.claims.minimal else 40
    x = points(n, SHAPE, dtype=torch.float64, seed=5).to(case.claims.device)
    with torch.no_grad():
        y = net(x).argmax(1)
    verdict = case.judge(net, x, y, case.run(net, x, y, threat), threat)
    if not case.claims.minimal:
        by_chance = case.judge(net, x, y, threat.sample(x), threat).success
        fooled = verdict.success
        counts = f"{int(fooled.sum())} of {n} samples, a random point {int(by_chance.sum())}"
        case.require(fooled.sum() > by_chance.sum(), f"fools no more than chance: {counts}", threat)
        holds = not case.claims.random_start or (fooled | ~by_chance).all()
        case.require(holds, "loses a sample that the random point it starts from fools", threat)
        return
    nearest = torch.full_like(verdict.distance, torch.inf)
    for seed in range(300):
        near = threat.with_eps(nearest.clamp(max=3.0)).sample(x, seed)
        with torch.no_grad():
            hit = net(near).argmax(1) != y
        nearest = torch.minimum(nearest, threat.size(near - x).masked_fill(~hit, torch.inf))
    case.require(verdict.distance.isfinite().all(), f"finds nothing for {int((~verdict.success).sum())} of {n} samples")
    far = verdict.distance > nearest + 1e-6
    case.require(not far.any(), f"is farther than a random search for {int(far.sum())} of {n} samples")


def targeted(case: Case) -> None:
    """Check that targeted attacks reach at least the claimed share of their targets."""
    if not case.claims.targeted:
        return
    if case.claims.minimal:
        model, x = linear(4, SHAPE).to(case.claims.device), interior(6, SHAPE).to(case.claims.device)
        target, enlarged = (model(x).argmax(1) + 1) % 4, NORMS[case.norm](math.inf)
    else:
        model, x, _, threat = case.setting()  # type: ignore[assignment]
        target, enlarged = model(x).topk(2).indices[:, 1], threat.scaled(4)
    z = case.run(model, x, target, enlarged, targeted=True)
    verdict = case.judge(model, x, target, z, enlarged, targeted=True)
    case.require(verdict.inside.all(), "leaves the threat when it aims at a class", enlarged)
    hit, least = int((verdict.prediction == target).sum()), case.claims.hit_rate * len(x)
    case.require(hit >= least - 1e-9, f"hits {hit} of {len(x)} targets, at least {least:g} are claimed", enlarged)


def optimum(case: Case) -> None:
    """Check that samples are fooled just outside the distance to a linear model's boundary, and none just inside."""
    if case.claims.optimum is None:
        return
    if case.claims.minimal:
        for dtype in (torch.float32, torch.float64):
            _optimum_of(case, 2, SHAPE, 0.0, dtype)
    elif case.norm == 0:
        for gap in (0.1, 0.4, 0.8, 1.2):  # boundaries that are several entries away
            _optimum_of(case, 2, (8,), gap, torch.float64)
    else:
        for k, shape in SIZES:
            if k >= case.claims.fewest_classes:
                _optimum_of(case, k, shape, 0.0, torch.float32)


def _optimum_of(case: Case, k: int, shape: tuple[int, ...], gap: float, dtype: torch.dtype) -> None:
    """Check one linear model.

    Only two classes have their boundary near the samples, so the loss rises all the way to it and every gradient points
    there.
    """
    factor = case.claims.optimum or 1.0
    n = 8 if case.claims.minimal else 12
    model, x = linear(k, shape, dtype=dtype, rivals=2), interior(n, shape, dtype=dtype).to(case.claims.device)
    model.bias[0] += gap
    model = model.to(case.claims.device)
    y = model(x).argmax(1)
    best, what = model.distance(x, y, case.norm), f"a linear model of {k} classes, {shape}, {dtype}"
    if case.claims.minimal:
        z = case.run(model, x, y, NORMS[case.norm](math.inf))
        ratio = case.judge(model, x, y, z, NORMS[case.norm](math.inf)).distance / best
        case.require(
            (ratio >= 1 - 1e-4).all() and (ratio <= factor).all(),
            f"misses the nearest point of {what}, by up to {float(ratio.max()):.4g} times the distance",
        )
        return
    count = case.norm == 0  # L0: eps is exactly the distance, and one entry fewer
    for threat, broken in (
        (NORMS[case.norm](best if count else factor * best), True),
        (NORMS[case.norm](best - 1 if count else 0.95 * best), False),
    ):
        verdict = case.judge(model, x, y, case.run(model, x, y, threat), threat)
        share = f"{float(verdict.success.double().mean()):.2f}"
        case.require(verdict.inside.all(), f"leaves the threat of {what}")
        side = "above" if broken else "below"
        case.require(
            (verdict.success == broken).all(), f"fools {share} of the samples just {side} the distance of {what}"
        )


def passes(case: Case) -> None:
    """Check that the attack takes no more than the claimed passes."""
    if case.claims.passes is None:
        return
    net, x, y, threat = case.setting()
    x, y = x[:-1], y[:-1]  # without the last sample, which is misclassified when clean
    with counted(net) as model:
        case.run(model, x, y, threat.scaled(0 if case.norm == 0 else 1e-5))
    most, n = case.claims.passes, len(x)
    case.require(
        model.forwards <= most[0] * n and model.backwards <= most[1] * n,
        f"takes {model.forwards / n:g} forwards and {model.backwards / n:g} backwards per sample, "
        f"at most {most[0]} and {most[1]} are claimed",
    )
