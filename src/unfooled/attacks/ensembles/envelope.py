"""Envelope of minimal-norm attacks: the nearest adversarial examples within a budget of passes, in several norms.

    explore with some attacks from x  ->  the nearest point of each sample  ->  refine it with others

The points of several attacks, or of one at several scales, are far apart where the loss has many local minima, and
close together where it has few: exploring again costs little in the second case, and helps more than further steps in
the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unfooled.attacks.alma import alma
from unfooled.attacks.bisect import between, bisect
from unfooled.attacks.fmn import fmn
from unfooled.attacks.pdpgd import pdpgd
from unfooled.attacks.sigma_zero import sigma_zero
from unfooled.core.ascent.nearest import unbounded
from unfooled.core.checks import check_inputs, check_mode, check_run, is_trusted, trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, read_logits
from unfooled.core.model.batching import batched, fitting_batch
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import where_rows
from unfooled.core.types import Model

Minimal = Callable[..., Tensor]
"""A minimal-norm attack with its options bound; see `MinimalAttack`."""
FINAL_FORWARDS = 10
"""Forwards of each attack for the final search back towards x."""

REFINING, REFINING_STEPS = 108, 12
"""Passes of a search from an adversarial point that is known, at most, and its steps of FMN."""


def _sparse(model: Model, x: Tensor, y: Tensor, norm: float, **options: Any) -> Tensor:
    """Run ALMA in L1 with large steps, for any norm: sparse points are also near in L2, and reach other minima."""
    return alma(model, x, y, 1, first=2.0, **options)


class Part(NamedTuple):
    """One attack of a plan.

    Attributes:
        share: Share of the budget.
        attack: Attack with its options bound.
        from_best: True: start from the nearest point so far; False: from x.
    """

    share: float
    attack: Minimal
    from_best: bool = False


PLANS: dict[float, tuple[Part, ...]] = {
    0.0: (Part(0.6, sigma_zero), Part(0.4, partial(sigma_zero, tau=0.1), True)),
    1.0: (Part(0.31, alma), Part(0.31, _sparse), Part(0.22, pdpgd, True), Part(0.16, fmn, True)),
    2.0: (
        Part(0.26, partial(alma, first=0.5)),
        Part(0.25, partial(alma, first=1.0)),
        Part(0.25, _sparse),
        Part(0.24, fmn, True),
    ),
    math.inf: (Part(0.75, bisect), Part(0.25, fmn, True)),
}
"""Norm -> attacks in order."""


def envelope(
    model: Model,
    x: Tensor,
    y: Tensor,
    norms: Sequence[float] = (0, 1, 2, math.inf),
    *,
    budget: int = 1000,
    targeted: bool = False,
    generator: torch.Generator | None = None,
    batch: int | None = None,
) -> dict[float, Tensor]:
    """Find near adversarial examples with the best combination of attacks for each norm.

        L0     sigma_zero, sigma_zero from there with a lower threshold
        L1     alma with two sizes of steps; pdpgd, then fmn, each from the nearest point
        L2     alma with two sizes of steps, and in L1; fmn from the nearest point
        Linf   bisect, fmn from there

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        norms: Norms, any of 0, 1, 2 and math.inf.
        budget: Largest number of forwards plus backwards per sample in each norm, at least 100. Samples that are
            misclassified already cost 1 forward.
        targeted: True: y are target classes.
        generator: Base seed.
        batch: Samples computed at once. None: as many as fit well in memory (cost: 1 forward of one sample).

    Returns:
        For each norm the nearest adversarial points found, (B, *D); x itself where there is none, and where the label
        is wrong already. `verify` with eps = inf gives the distances, which give the accuracy at every eps.

    Raises:
        BadInput: Another norm, a budget too small to attack with, or inputs that cannot be used.

    References:
        Cinà et al., AttackBench: evaluating gradient-based attacks for adversarial examples, AAAI 2025,
        arXiv:2404.19460 (the measure by which the plans were selected).

    Example:
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1)
        >>> near = envelope(model, torch.tensor([[0.2, 0.4]]), torch.tensor([0]), (2, math.inf), budget=200)
        >>> {p: round(float((z - torch.tensor([[0.2, 0.4]])).norm(p=p)), 2) for p, z in near.items()}
        {2: 0.07, inf: 0.05}
    """
    if not is_trusted():
        check_inputs(x, y)
    check_mode(model)
    check_run(0, batch)
    for norm in norms:
        unbounded(norm)
    if budget < 100:
        raise BadInput(f"budget is {budget}; several attacks share it, give them at least 100 passes per sample")
    with frozen(model), torch.no_grad():
        batch = batch or fitting_batch(model, x)
        wrong = fooled(read_logits(model, x, y, batch=batch), y, targeted=targeted)
    points = {norm: x.clone() for norm in norms}
    right = (~wrong).nonzero()[:, 0]
    if not len(right):
        return points

    def near(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return tuple(_nearest(model, x, y, norm, budget - 2, targeted, generator) for norm in norms)

    with trusted():
        for norm, nearest in zip(norms, batched(near, batch)(x[right], y[right]), strict=True):
            points[norm][right] = nearest
    return points


def refine(
    model: Model,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    norm: float,
    *,
    generator: torch.Generator | None = None,
    batch: int | None = None,
) -> Tensor:
    """Search for nearer adversarial examples than those that are known, in a few passes.

    The radius is bisected between the known point's and what the gradient at x lets expect; then FMN, from there.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, (B,) int64.
        start: Adversarial points, (B, *D).
        norm: 1, 2 or math.inf.
        generator: Base seed.
        batch: Samples computed at once. None: as many as fit well in memory.

    Returns:
        The nearest adversarial points found, (B, *D); `start` where there is none. Cost: at most `REFINING` passes a
        sample, and some 85 in Linf, 65 in L2.
    """
    threat = unbounded(norm)

    def near(x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        first = between(model, x, y, start, norm)
        found = threat.size(first - x) > 0
        first = where_rows(found, first, start)
        z = fmn(model, x, y, norm, steps=REFINING_STEPS, start=first, generator=generator)
        size = threat.size(z - x)
        return where_rows((size > 0) & ((size < threat.size(first - x)) | ~found), z, first)

    with trusted():
        return batched(near, batch or fitting_batch(model, x))(x, y, start)


def _nearest(
    model: Model, x: Tensor, y: Tensor, norm: float, budget: int, targeted: bool, generator: torch.Generator | None
) -> Tensor:
    """Run a norm's plan on samples that are classified as y (or not yet as the target)."""
    threat, plan = unbounded(norm), PLANS[float(norm)]
    best, distance = x, torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for share, attack, from_best in plan:
        start = best if from_best else None
        steps = max(
            1, (int(share * budget) - FINAL_FORWARDS - 4) // 2
        )  # with a small budget, a small share has no steps
        z = attack(model, x, y, norm, targeted=targeted, steps=steps, start=start, generator=generator)
        size = threat.size(z - x)
        nearer = (size > 0) & (size < distance)
        best, distance = where_rows(nearer, z, best), torch.where(nearer, size, distance)
    return best
