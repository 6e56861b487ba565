"""APGD: projected gradient ascent with adaptive step sizes.

    u = P(z_t + s steepest(g_t)),   z_{t+1} = P(z_t + a (u - z_t) + (1 - a)(z_t - z_{t-1}))

g_t is the gradient, P the projection, a = .75. s starts at 2 eps. At checkpoints that show no progress, s is halved and
the ascent returns to the best point (`core.ascent.Auto`). In L1 the steps are sparse, and the radius shrinks:

    3 eps for 30 % of the steps, 2 eps for 30 %, eps for the rest; each starts from the best point before, projected
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.attacks.restarts import repeat
from unfooled.core.ascent import Auto, ascend
from unfooled.core.checks import check_attack, check_mode
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooling
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat, project_l1_box
from unfooled.core.types import Loss, Model, Objective


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    steps: int = 100,
    loss: Loss = margin,
    restarts: int = 1,
    start: Tensor | None = None,
    draws: int = 1,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack with APGD in Linf, L2 or L1.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: `Linf`, `L2` or `L1`; its eps (a fraction of the input range) may be (B,).
        targeted: True: y are target classes, whose loss is minimised.
        steps: Gradient evaluations per restart (cost: steps + 1 forwards, steps backwards per sample, less once fooled;
            in L1 2 forwards more).
        loss: `margin` (default), `cross_entropy`, `dlr`, or any `(logits, y) -> (B,)`.
        restarts: Number of random starts; fooled samples are not attacked again (cost: above 1, each start needs
            1 more forward).
        start: Starting points, (B, *D). None: random points.
        draws: Evaluations of a random model averaged per gradient; multiplies the cost.
        batch: Samples computed at once. None: all.
        generator: Base seed; the same seed and sample give the same start in any batch.

    Returns:
        Points inside the threat, (B, *D), detached. Success is not implied: see `verify`.

    Raises:
        BadInput: An L0 threat, or inputs, labels or outputs that cannot be used.

    References:
        Croce, Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
        ICML 2020, arXiv:2003.01690.
        Croce, Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, ICML 2021,
        arXiv:2103.01208 (L1).
        Differs from the published code: finished samples leave the batch (in L1 from the larger balls too, once fooled
        inside eps), no gradient is taken after the last step, the default loss is the margin, and the random start is
        uniform in the ball instead of on its surface.

    Example:
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1)
        >>> apgd(model, torch.tensor([[0.3, 0.3]]), torch.tensor([0]), Linf(0.2), steps=5).shape
        torch.Size([1, 2])
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    if start is not None and restarts != 1:
        raise BadInput(
            f"start is given, and restarts is {restarts}; further runs start at random, leave one of the two out"
        )
    if threat.norm not in (1.0, 2.0, math.inf):
        raise BadInput(f"apgd supports Linf, L2 and L1, the threat is {threat}; use pgd")

    def climb(
        x: Tensor, y: Tensor, threat: Threat, source: torch.Generator | None, start: Tensor | None = None
    ) -> Tensor:
        objective = fooling(model, y, loss, targeted=targeted, draws=draws)
        if threat.norm == 1.0:
            return shrinking(objective, x, threat.bounded(x), steps, start, batch, source)
        z = threat.sample(x, source) if start is None else start
        return ascend(objective, x, threat, steps=steps, rule=Auto(), start=z, batch=batch, generator=source).z

    with frozen(model):
        if restarts == 1:
            return climb(x, y, threat, generator, start)
        return repeat(climb, restarts, model, x, y, threat, targeted=targeted, generator=generator)


def shrinking(
    objective: Objective,
    x: Tensor,
    threat: Threat,
    steps: int,
    start: Tensor | None = None,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise any objective by APGD in L1, from a ball three times as large down to the threat's own.

    Args:
        objective: `(z, at) -> value, done`, as for `ascend`.
        x: Centres, (B, *D).
        threat: An `L1`.
        steps: Gradients per sample, for all three balls together.
        start: First points, (B, *D). None: random ones of the largest ball.
        batch: Samples computed at once. None: all.
        generator: Base seed of the start.

    Returns:
        Points inside the threat, (B, *D), detached.
    """
    if steps < 0:
        raise ValueError(f"steps is {steps}; it must be at least 0")
    if start is not None and start.shape != x.shape:
        raise BadInput(f"start has shape {tuple(start.shape)}, x has {tuple(x.shape)}; they must agree")
    x = x.detach()
    phases = [(3.0, int(0.3 * steps)), (2.0, int(0.3 * steps))]
    phases = [(f, n) for f, n in phases if n] + [(1.0, steps - sum(n for _, n in phases))]
    z = threat.scaled(phases[0][0]).sample(x, generator) if start is None else start
    left = torch.arange(len(x), device=x.device)
    for factor, count in phases:
        threat_left = threat.take(left)
        ball = threat_left.scaled(factor)

        def within(
            u: Tensor, at: Tensor, left: Tensor = left, threat_left: Threat = threat_left, last: bool = factor == 1
        ) -> tuple[Tensor, Tensor]:
            rows = left[at]
            value, done = objective(u, rows)
            return value, done if last else done & (threat_left.size(u.detach() - x[rows]) <= threat_left.take(at).eps)

        first = project_l1_box(z[left], x[left], ball.eps, ball.box)
        rule = Auto(share=0.2 if factor == phases[0][0] and start is None else None)
        result = ascend(within, x[left], ball, steps=count, rule=rule, start=first, batch=batch, generator=generator)
        z = z.index_copy(0, left, result.z)
        left = left[~result.done]
        if not len(left):
            break
    return z
