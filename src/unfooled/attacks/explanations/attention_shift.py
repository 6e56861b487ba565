"""Attention-guided attacks: change the attention map of a model, with or without its label, inside a threat.

    attention_pgd    maximise CE(f(z), y) + weight c D(P(x), P(z)),     c = |grad CE|_1 / |grad D|_1 per sample, or 1
    attention_only   maximise D(P(x), P(z)), or minimise D(target, P(z))
    attention_hold   the same while argmax f(z) = argmax f(x) by a margin of at least kappa

P is the attention map of a fixed class y, `attend(model, x, y, *, create_graph=False) -> (B, h, w)`, such as
`unfooled.explanations.attention`; D a distance, such as `unfooled.distances.js`. D has no gradient at x, so every
attack starts at a random point. On ReLU networks the gradient that flows through Grad-CAM's weights is zero almost
everywhere: pass `partial(attention, detach_weights=True)`, or attack a smooth copy (`Smoothed`) and evaluate on
the model itself.

References:
    Wu et al., ARP, 2018, arXiv:1811.09831. Differs from its code: every iterate is projected onto ball and box, the
    attention term has one sign, the best point is returned, and the number of steps is always limited.
    Ghorbani, Abid, Zou, Interpretation of neural networks is fragile, AAAI 2019, arXiv:1710.10547 (attention_hold).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.restarts import check_restarts, repeat, source_of
from unfooled.core.ascent import Decaying, ascend
from unfooled.core.checks import check_attack, check_labels, check_logits, check_mode, trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, fooling, read_logits, unwrapped
from unfooled.core.losses import cross_entropy, margin
from unfooled.core.model.modes import frozen
from unfooled.core.model.outputs import logits_of
from unfooled.core.model.wrappers import Tapped
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Distance, Explain, Model, Objective
from unfooled.distances.maps.attention import above_mean, iou

Stop = Callable[[Tensor, Tensor], Tensor]
"""(clean maps, current maps) -> (b,) bool: True where a sample may stop."""
INFEASIBLE = -1e4
"""Value added to the margin of points that lose the prediction, so that they rank below every distance."""


@dataclass(frozen=True)
class Unscaled:
    """Weight of the attention term without the factor c.

    Args:
        weight: Weight, at least 0.
    """

    weight: float


def iou_below(key: float = 0.6) -> Stop:
    """Build a stopping rule: IoU of the above-average cells of both maps below `key` (published .595)."""

    def stop(before: Tensor, now: Tensor) -> Tensor:
        return iou(above_mean(before), above_mean(now)) < key

    return stop


def attention_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    attend: Explain,
    distance: Distance,
    weight: float | Unscaled = 1.0,
    targeted: bool = False,
    steps: int = 40,
    restarts: int = 1,
    stop: Stop | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Change the label with the help of the attention map.

    Args:
        model: A module, or a callable that uses modules, to logits. Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, whose maps are compared; targets when `targeted`.
        threat: Threat model; its eps may be (B,).
        attend: `(model, x, y, *, create_graph) -> (B, h, w)`.
        distance: `(maps, maps) -> (B,)`.
        weight: Weight of the attention term, scaled so that at 1 both gradients have equal size; `Unscaled(weight)`
            is not scaled. 0 is exactly `pgd`.
        targeted: True: minimise the cross-entropy of y; the distance of the maps is still maximised.
        steps: Gradients per restart.
        restarts: Number of random starts; fooled samples are not attacked again.
        stop: Rule by which a sample stops. None: as soon as it is fooled.
        generator: Base seed.

    Returns:
        Points inside the threat, (B, *D), detached: those that ended the attack, else those of highest cross-entropy (c
        changes from point to point, so the sums cannot be compared). Success is not implied: see `verify`.
        Cost of a step: 1 forward and 4 backwards (1 with detached weights, plus 1 down to the layer).

    Raises:
        BadInput: Inputs, labels or outputs that cannot be used; the message names the invalid one.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    guided = _Guided(model, attend, distance, weight, targeted, stop)

    def climb(x: Tensor, y: Tensor, threat: Threat, source: torch.Generator | None) -> Tensor:
        start, objective = threat.sample(x, source), guided.objective(x, y)
        return ascend(objective, x, threat, steps=steps, rule=Decaying(), start=start, generator=source).z

    with frozen(model):
        if restarts == 1:
            return climb(x, y, threat, generator)
        return repeat(climb, restarts, model, x, y, threat, targeted=targeted, generator=generator)


class _Guided:
    """Cross-entropy with the gradient of the attention's distance added."""

    def __init__(
        self,
        model: Model,
        attend: Explain,
        distance: Distance,
        weight: float | Unscaled,
        targeted: bool,
        stop: Stop | None,
    ) -> None:
        self.model, self.attend, self.distance, self.stop = model, attend, distance, stop
        self.scaled = not isinstance(weight, Unscaled)
        self.weight = weight.weight if isinstance(weight, Unscaled) else weight
        self.targeted, self.sign = targeted, -1.0 if targeted else 1.0
        if not self.weight >= 0:
            raise BadInput(f"weight is {self.weight}; it must be at least 0")

    def objective(self, x: Tensor, y: Tensor) -> Objective:
        """Build the objective of samples: the label's cross-entropy, with the gradient of the sum of both terms."""
        plain = fooling(self.model, y, cross_entropy, targeted=self.targeted)
        if not self.weight and self.stop is None:
            return plain
        tap = Tapped(self.model, x)
        clean = self.attend(tap, x, y).detach()
        logits = logits_of(tap.output(), tap)
        check_labels(y, len(y), check_logits(logits, len(logits)).shape[1])

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            if self.stop is None and not z.requires_grad:
                return plain(z, at)
            label = y[at]
            map_, output = attended(self.attend, self.model, z, label)
            logits = unwrapped(output, len(z))
            value = self.sign * cross_entropy(logits, label)
            if self.stop is None:
                done = fooled(logits.detach(), label, targeted=self.targeted)
            else:
                done = self.stop(clean[at], map_.detach())
            if not self.weight or not z.requires_grad:
                return value, done
            g = self.gradient(value, self.distance(clean[at], map_), z)
            return value.detach() + flat((z - z.detach()) * g).sum(1), done

        return objective

    def gradient(self, value: Tensor, shift: Tensor, z: Tensor) -> Tensor:
        """Return the gradient of value plus weighted shift with respect to z, each part taken once."""
        (g,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
        (h,) = torch.autograd.grad(shift.sum(), z, allow_unused=True)
        if h is not None:
            scale = flat(g).abs().sum(1) / flat(h).abs().sum(1) if self.scaled else torch.ones_like(value)
            g = g + per_sample(torch.where(scale.isfinite(), self.weight * scale, 0), z) * h
        return g


def attended(attend: Explain, model: Model, z: Tensor, y: Tensor) -> tuple[Tensor, Any]:
    """Return attention maps and the model's output of one pass; the arguments are checked already."""
    tap = Tapped(model, z)
    with trusted():
        map_ = attend(tap, z, y, create_graph=z.requires_grad)
    return map_, tap.output()


def attention_only(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    attend: Explain,
    distance: Distance,
    target_map: Tensor | None = None,
    steps: int = 40,
    restarts: int = 1,
    stop: Stop | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move the attention map as far as possible, without regard to the label.

    Args:
        model: A module, or a callable that uses modules, to logits. Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Classes whose maps are moved, (B,), fixed.
        threat: Threat model; its eps may be (B,).
        attend: `(model, x, y, *, create_graph) -> (B, h, w)`.
        distance: `(maps, maps) -> (B,)`.
        target_map: Maps to move towards, (B, h, w). None: move away from the clean ones.
        steps: Gradients per restart (cost of each: 1 forward, 2 to 3 backwards).
        restarts: Number of random starts; the best point of all runs is returned.
        stop: Rule by which a sample stops. None: after all steps.
        generator: Base seed.

    Returns:
        Points inside the threat, (B, *D), detached: those that stopped, else those of largest distance (smallest to
        `target_map`), x itself included.

    Raises:
        BadInput: Inputs, labels, maps or outputs that cannot be used; the message names the invalid one.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    with frozen(model):
        shift = _Shift(model, x, y, attend, distance, target_map, stop)
        return _furthest(shift, x, threat, steps, restarts, generator)


def attention_hold(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    attend: Explain,
    distance: Distance,
    kappa: float = 0.0,
    target_map: Tensor | None = None,
    steps: int = 40,
    restarts: int = 1,
    stop: Stop | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move the attention map while the prediction is kept, to measure the fragility of an explanation.

    Points that lose the prediction climb its margin first. Arguments, cost and errors as for `attention_only`, and:

    Args:
        model: A module, or a callable that uses modules, to logits.
        x: Inputs, (B, *D).
        y: Classes whose maps are moved, (B,), fixed.
        threat: Threat model.
        attend: `(model, x, y, *, create_graph) -> (B, h, w)`.
        distance: `(maps, maps) -> (B,)`.
        kappa: Least margin of the clean prediction, in logits.
        target_map: Maps to move towards, as in `attention_only`.
        steps: Gradients per restart.
        restarts: Number of random starts.
        stop: Rule by which a sample that keeps its prediction stops. None: after all steps.
        generator: Base seed.

    Returns:
        The best points that retain the prediction; x itself where there is none, which does not prove robustness.
    """
    if not kappa >= 0:
        raise BadInput(f"kappa is {kappa}; it must be at least 0")
    x = check_attack(x, y, threat)
    check_mode(model)
    with frozen(model):
        shift = _Shift(model, x, y, attend, distance, target_map, stop, kappa)
        return _furthest(shift, x, threat, steps, restarts, generator)


class _Shift:
    """Objective of attacks on the map only; with kappa, points that lose the prediction maximise its margin."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        attend: Explain,
        distance: Distance,
        target_map: Tensor | None,
        stop: Stop | None,
        kappa: float | None = None,
    ) -> None:
        self.model, self.y, self.attend, self.distance, self.stop, self.kappa = model, y, attend, distance, stop, kappa
        with torch.no_grad():
            self.predicted = read_logits(model, x, y).argmax(1)
        self.clean = clean = attend(model, x, y).detach()
        if target_map is not None and target_map.shape != clean.shape:
            raise BadInput(f"target_map has shape {tuple(target_map.shape)}, the maps have {tuple(clean.shape)}")
        self.anchor, self.sign = (clean, 1.0) if target_map is None else (target_map.to(clean), -1.0)

    def __call__(self, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shift of the maps, (b,), and which samples may stop, (b,)."""
        map_, output = attended(self.attend, self.model, z, self.y[at])
        value = self.sign * self.distance(self.anchor[at], map_)
        done = torch.zeros_like(at) > 0 if self.stop is None else self.stop(self.clean[at], map_.detach())
        if self.kappa is not None:
            logits = unwrapped(output, len(z))
            lead = -margin(logits, self.predicted[at]).to(value.dtype)
            if self.kappa:
                stays = lead.detach() >= self.kappa
            else:
                stays = fooled(logits.detach(), self.predicted[at], targeted=True)
            value, done = torch.where(stays, value, lead + INFEASIBLE), done & stays
        # A constant map leaves no gradient; ascend then walks at random instead of refusing the model.
        return value + 0 * flat(z).sum(1), done


def _furthest(
    shift: _Shift, x: Tensor, threat: Threat, steps: int, restarts: int, generator: torch.Generator | None
) -> Tensor:
    """Maximise the shift from several starts, and return the best points, x itself included."""
    check_restarts(restarts)
    left = torch.arange(len(x), device=x.device)
    best, top = x.detach().clone(), shift(x.detach(), left)[0].detach()
    for r in range(restarts):
        source, inside = source_of(generator, r), threat.take(left)
        start = inside.sample(x[left], source)

        def objective(z: Tensor, at: Tensor, rows: Tensor = left) -> tuple[Tensor, Tensor]:
            return shift(z, rows[at])

        result = ascend(objective, x[left], inside, steps=steps, rule=Decaying(), start=start, generator=source)
        better = result.done | (result.value > top[left])
        better = better & (result.value > INFEASIBLE / 2)
        best[left] = where_rows(better, result.z, best[left])
        top[left] = torch.where(better, result.value.to(top.dtype), top[left])
        left = left[~result.done]
        if not len(left):
            break
    return best
