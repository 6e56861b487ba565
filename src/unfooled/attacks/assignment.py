"""Assignment attack: move an input to the clusters of another class first, then change the label.

    max over z in T(x)   min(gap(z), 0) + [gap(z) > 0] (1 + m(z) / (1 + |m(z)|))

    gap(z) = min_{k of class y} d_k(z) - min_{k of another class} d_k(z),     m(z) the margin of the model

d_k(z) is the distance of z to cluster k. A purifier that chooses its dictionary by the nearest cluster uses a wrong one
where the gap is above 0. The value there lies in (0, 2) and rises with the margin, so that any point with a wrong
cluster counts as better than every point with a right one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unfooled.core.ascent import Decaying, Rule, ascend
from unfooled.core.checks import check_attack, check_mode
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once, fooled
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Model


def assignment_gap(distances: Tensor, label: Tensor, y: Tensor) -> Tensor:
    """Return how much nearer the nearest cluster of another class is than the nearest one of class y.

    Args:
        distances: Distance of each sample to each cluster, (B, M).
        label: Class of each cluster, (M,) int64.
        y: Classes, (B,) int64.

    Returns:
        Distance to the nearest cluster of class y minus that to the nearest other one, (B,); below 0 where the class is
        right.
    """
    own = label[None, :] == y[:, None]
    far = torch.inf
    return distances.masked_fill(~own, far).amin(1) - distances.masked_fill(own, far).amin(1)


def assignment(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    distance: Callable[[Tensor], Tensor],
    label: Tensor,
    steps: int = 20,
    rule: Rule = Decaying(),  # noqa: B008  (frozen)
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move inputs to clusters of another class, then maximise the margin while they stay there.

    Args:
        model: Guarded model, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, (B,) int64.
        threat: Threat model; its eps may be (B,).
        distance: Distance of inputs to clusters, (b, *D) -> (b, M), differentiable, such as
            `SemanticPurifier.distance`.
        label: Class of each cluster, (M,) int64.
        steps: Gradient evaluations (cost: steps + 1 forwards, steps backwards of `distance` and of the model per
            sample, less once fooled).
        rule: Step sizes relative to eps.
        generator: Base seed of the starting points.

    Returns:
        Points inside the threat, (B, *D), detached. Success is not implied: see `verify`.

    Raises:
        BadInput: Clusters of one class only, none of a label's class, a count that differs from that of `distance`, or
            inputs that cannot be used.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    label = label.to(y.device)
    _check_clusters(label, y)
    reader = checked_once(model, y)

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        distances, logits = distance(z), reader(z, y[at])
        if distances.shape != (len(z), len(label)):
            shape = tuple(distances.shape)
            raise BadInput(f"distance returns shape {shape} for {len(z)} samples; label has {len(label)} clusters")
        gap, m = assignment_gap(distances, label, y[at]), margin(logits, y[at])
        value = torch.where(gap > 0, 1 + m / (1 + m.abs()), gap.clamp(max=0).to(m.dtype))
        return value, fooled(logits.detach(), y[at])

    with frozen(model), frozen(distance):
        start = threat.sample(x, generator)
        return ascend(objective, x, threat, steps=steps, rule=rule, start=start, generator=generator).z


def _check_clusters(label: Tensor, y: Tensor) -> None:
    """Refuse clusters that leave nothing to attack."""
    classes = label.unique()
    if len(classes) < 2:
        raise BadInput(f"label has {len(classes)} class; the attack moves inputs to clusters of another one")
    missing = sorted(set(y.tolist()) - set(classes.tolist()))
    if missing:
        raise BadInput(f"label has no cluster of class {missing[0]}; the clusters are of classes {classes.tolist()}")
