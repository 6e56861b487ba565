"""Contract checks of every attack: points inside the threat, independence of the batch, no side effects."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.core.ascent.nearest import NORMS
from unfooled.core.threats import Threat
from unfooled.testing.case import EPS, N_SAMPLES, Case, has_parameter
from unfooled.testing.promises import Snapshot, close, differs_by, require_refusal
from unfooled.testing.subjects import linear, never_fooled, points, seeded_generator


def inside(case: Case) -> None:
    """Check that the points are inside the ball and the box, with the shape, dtype and device of x."""
    for net, x, y, threat, z in (case.attacked(torch.float32), case.base):
        case.require(isinstance(z, Tensor), f"returns a {type(z).__name__} instead of a tensor", threat)
        for what in ("shape", "dtype", "device"):
            returned, expected = getattr(z, what), getattr(x, what)
            case.require(
                returned == expected, f"returns another {what} than x's: {returned} instead of {expected}", threat
            )
        case.require(not z.requires_grad, "returns points that still require a gradient: detach them", threat)
        case.require(z.isfinite().all(), f"returns NaN or infinite values, {x.dtype}", threat)
        low, high = threat.box.low, threat.box.high
        value_range = f"[{float(z.min()):.4g}, {float(z.max()):.4g}]"
        case.require(low <= z.min() and z.max() <= high, f"leaves the box: its points lie in {value_range}", threat)
        outside = ~case.judge(net, x, y, z, threat).inside
        far = float(threat.size(z - x).max())
        case.require(
            not outside.any(),
            f"leaves the ball: {int(outside.sum())} of {N_SAMPLES} points, the farthest at {far:.6g}",
            threat,
        )


def untouched(case: Case) -> None:
    """Check that inputs, model and generators are left unchanged."""
    net, x, y, threat = case.setting()
    eps = torch.full((N_SAMPLES,), EPS[case.norm], dtype=x.dtype, device=x.device)
    x.requires_grad_()
    first, *_ = parameters = list(net.parameters())
    first.requires_grad_(False)
    for p in parameters:
        p.grad = torch.full_like(p, 7)
    net[1].train()  # a ReLU, which is the same in either mode
    generator = seeded_generator(3)
    options: dict[str, Any] = {"generator": generator} if has_parameter(case.attack, "generator") else {}
    state = generator.get_state()
    before = Snapshot(net, x=x, y=y, eps=eps)
    z = case.run(net, x, y, threat.with_eps(eps), **options)
    before.require_unchanged(case.attack, str(threat))
    case.require(z.data_ptr() != x.data_ptr(), "returns the memory of x itself: return a copy", threat)
    case.require(
        torch.equal(generator.get_state(), state),
        "advances the generator that it was handed: use only its seed (core.rng), so that no sample depends on "
        "the others",
        threat,
    )


def seed(case: Case) -> None:
    """Check that the same seed gives the same bits, and another seed other points where that is claimed."""
    net, x, y, threat = case.setting()
    z = case.run(net, x, y, threat, seed=1)
    case.require(torch.equal(z, case.run(net, x, y, threat, seed=1)), "gives other points for the same seed", threat)
    if case.claims.seeded:
        other = case.run(net, x, y, threat, seed=2)
        case.require(not torch.equal(z, other), "gives the same points for another seed", threat)


def batch(case: Case) -> None:
    """Check that the fooled samples depend neither on the order nor on the size of the batch."""
    net, x, y, threat, base = case.base
    expected = case.outcome(net, x, y, base, threat)
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3], device=x.device)
    z = case.run(net, x[order], y[order], threat)[order.argsort()]
    case.require(case.same(case.outcome(net, x, y, z, threat), expected), "depends on the order of the batch", threat)
    z = torch.cat([case.run(net, x[rows], y[rows], threat) for rows in order.split(3)])[order.argsort()]
    case.require(
        case.same(case.outcome(net, x, y, z, threat), expected),
        "depends on the batch: chunks of 3 give another outcome than the whole",
        threat,
    )
    if has_parameter(case.attack, "batch"):
        z = case.run(net, x, y, threat, batch=3)
        case.require(
            case.same(case.outcome(net, x, y, z, threat), expected), "gives another outcome with batch=3", threat
        )


def alone(case: Case) -> None:
    """Check that a sample gets the same point alone and in a batch."""
    net, x, y, threat, z = case.base
    distance = case.outcome(net, x, y, z, threat)
    for i in (0, 3, N_SAMPLES - 1):
        one = case.run(net, x[i : i + 1], y[i : i + 1], threat)
        if case.claims.minimal:
            near = case.outcome(net, x[i : i + 1], y[i : i + 1], one, threat)
            holds, apart = case.same(near, distance[i : i + 1]), differs_by(near, distance[i : i + 1])
        else:
            holds, apart = close(one[0], z[i]), differs_by(one[0], z[i])
        case.require(holds, f"gives sample {i} alone another point than in a batch, by {apart}", threat)


def radii(case: Case) -> None:
    """Check that a call with one eps per sample equals separate calls with each eps."""
    if case.claims.minimal:
        return
    net, x, y, threat = case.setting()
    eps = torch.linspace(0.2, 2.5, N_SAMPLES, dtype=x.dtype, device=x.device) * EPS[case.norm]
    eps = eps.round() if case.norm == 0 else eps
    z = case.run(net, x, y, threat.with_eps(eps))
    for i in range(N_SAMPLES):
        one = case.run(net, x[i : i + 1], y[i : i + 1], threat.with_eps(float(eps[i])))
        case.require(
            close(one[0], z[i]),
            f"treats one eps per sample unlike each eps alone: sample {i} differs by {differs_by(one[0], z[i])}",
            threat.with_eps(float(eps[i])),
        )


def already(case: Case) -> None:
    """Check the points of samples that cannot be fooled, or that are misclassified when clean."""
    net, x, y, threat = case.setting()
    for model, label, what in (
        (never_fooled, torch.zeros_like(y), "that nothing fools"),
        (net, (net(x).detach().argmax(1) + 1) % 3, "that are wrong already"),
    ):
        z = case.run(model, x, label, threat)
        if case.claims.minimal:
            case.require(torch.equal(z, x), f"does not return x itself for samples {what}", threat)
        else:
            inside = case.judge(model, x, label, z, threat).inside.all()
            case.require(inside, f"leaves the threat for samples {what}", threat)


def refusals(case: Case) -> None:
    """Check that bad input raises ValueError."""
    shape = (3, 4)
    model, x, y = linear(3, shape), points(4, shape), torch.tensor([0, 1, 2, 0])
    threat, nan = NORMS[case.norm](EPS[case.norm]), torch.full_like(x, torch.nan)
    bad: list[tuple[str, Tensor, Tensor, Threat]] = [
        ("x outside the box", x * 255, y, threat),
        ("NaN in x", torch.cat([x[:2], nan[2:]]), y, threat),
        ("no samples", x[:0], y[:0], threat),
        ("a label above the last class", x, y + 1, threat),
        ("a negative label", x, y - 1, threat),
        ("fewer labels than samples", x, y[:3], threat),
        ("labels that are no int64", x, y.float(), threat),
    ]
    if not case.claims.minimal:
        bad.append(("3 values of eps for 4 samples", x, y, threat.with_eps(torch.ones(3))))
    for what, samples, labels, allowed in bad:
        require_refusal(partial(case.run, model, samples, labels, allowed), case.attack, what)
    if case.claims.minimal:
        require_refusal(partial(case.attack, model, x, y, 3.0), case.attack, "the norm 3")
