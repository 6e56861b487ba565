"""Attention-guided attacks: move what a model looks at, with its label or in spite of it, inside a declared threat.

    attention_pgd    maximise CE(f(z), y) + weight c D(P(x), P(z)),     c = |grad CE|_1 / |grad D|_1 per sample, or 1
    attention_only   maximise D(P(x), P(z)), or minimise D(target, P(z))
    attention_hold   the same while argmax f(z) = argmax f(x) by a margin of at least kappa

P is the attention map of a fixed class y, `attend(model, x, y, *, create_graph=False) -> (B, h, w)`, such as
`unfooled.explanations.attention`; D a distance, such as `unfooled.distances.js`. D has no gradient at x, so every
attack starts at a random point. On ReLU networks the gradient that flows through Grad-CAM's weights is zero almost
everywhere: hand in `partial(attention, detach_weights=True)`, or attack a smooth copy (`Smoothed`) and judge on the
model itself.

References:
    Wu et al., ARP, 2018, arXiv:1811.09831. Differs from its code: every iterate is projected onto ball and box, the
    attention term has one sign, the best point is kept, and the number of steps is limited whatever the maps do.
    Ghorbani, Abid, Zou, Interpretation of neural networks is fragile, AAAI 2019, arXiv:1710.10547 (attention_hold).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks.restarts import restarted
from unfooled.core import rng
from unfooled.core.ascent import Decaying, ascend
from unfooled.core.checks import check_attack, check_labels, check_logits, check_mode
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, fooling, read_logits
from unfooled.core.losses import cross_entropy, margin
from unfooled.core.model.modes import Tapped, frozen
from unfooled.core.model.outputs import logits_of
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Distance, Explain, Model
from unfooled.distances.maps.attention import above_mean, iou

Stop = Callable[[Tensor, Tensor], Tensor]
"""(clean maps, maps now) -> (b,) bool: where the attack has done enough."""
INFEASIBLE = -1e4
"""Added to the margin of points that lose the prediction: below any distance."""


def iou_below(key: float = 0.6) -> Stop:
    """A stopping rule: the cells above average have an IoU below `key` with those of the clean map (published .595)."""

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
    weight: float = 1.0,
    balance: bool = True,
    targeted: bool = False,
    steps: int = 40,
    restarts: int = 1,
    stop: Stop | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Change the label with the help of the attention map.

    Args:
        model: modules, or a callable that holds some, to logits. Not modified.
        x: inputs in the threat's box, (B, *D).
        y: labels, whose maps are compared; targets when `targeted`.
        threat: constraint set; its eps may be (B,).
        attend: `(model, x, y, *, create_graph) -> (B, h, w)`.
        distance: `(maps, maps) -> (B,)`.
        weight: of the attention term. 0 is `pgd`, bit for bit.
        balance: scale the attention term so that both gradients have one size; else it enters as it is.
        targeted: lower the cross-entropy of y instead; the maps still part.
        steps: gradients a restart.
        restarts: random starts; samples already fooled are left out of the next.
        stop: when a sample leaves; None for as soon as it is fooled.
        generator: base seed.

    Returns:
        Points inside the threat, (B, *D), detached: those that ended the attack, else those of highest cross-entropy (c
        changes from point to point, so the sums do not compare). Success is not implied: see `verify`.
        Cost: of each step 1 forward and 4 backwards (1 with detached weights, plus 1 down to the layer).

    Raises:
        BadInput: inputs, labels or outputs that cannot be used; the message names the offender.
    """
    check_attack(x, y, threat)
    check_mode(model)
    if not weight >= 0:
        raise BadInput(f"weight is {weight}; it must be at least 0")
    if restarts != 1:
        again = partial(
            attention_pgd, attend=attend, distance=distance, weight=weight, balance=balance, steps=steps, stop=stop
        )
        return restarted(again, restarts)(model, x, y, threat, targeted=targeted, generator=generator)
    sign = -1.0 if targeted else 1.0
    with frozen(model):
        plain = fooling(model, y, cross_entropy, targeted=targeted)
        clean = attend(model, x, y).detach() if weight or stop else x

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            if (not weight and stop is None) or (stop is None and not z.requires_grad):
                return plain(z, at)
            label, tap = y[at], Tapped(model)
            map_ = attend(tap, z, label, create_graph=z.requires_grad)
            logits = check_logits(logits_of(tap.output), len(z))
            check_labels(label, len(z), logits.shape[1])
            value = sign * cross_entropy(logits, label)
            now = logits.detach()
            done = fooled(now, label, targeted=targeted) if stop is None else stop(clean[at], map_.detach())
            if not weight or not z.requires_grad:
                return value, done
            (g,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
            (h,) = torch.autograd.grad(distance(clean[at], map_).sum(), z, allow_unused=True)
            if h is not None:
                scale = flat(g).abs().sum(1) / flat(h).abs().sum(1) if balance else torch.ones_like(value)
                g = g + per_sample(torch.where(scale.isfinite(), weight * scale, 0), z) * h
            # The value is the label's; the gradient is that of the sum, both parts taken once.
            return value.detach() + flat((z - z.detach()) * g).sum(1), done

        start = threat.sample(x, generator)
        return ascend(objective, x, threat, steps=steps, rule=Decaying(), start=start, generator=generator).z


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
    """Move the attention map as far as it goes, whatever the label does: its success on the label is a measurement.

    Args:
        model: modules, or a callable that holds some, to logits. Not modified.
        x: inputs in the threat's box, (B, *D).
        y: the class whose map is moved, (B,), fixed.
        threat: constraint set; its eps may be (B,).
        attend: `(model, x, y, *, create_graph) -> (B, h, w)`.
        distance: `(maps, maps) -> (B,)`.
        target_map: pull the maps to these, (B, h, w), instead of away from the clean ones.
        steps: gradients a restart (cost of each: 1 forward, 2 to 3 backwards).
        restarts: random starts; the best point of all is kept.
        stop: when a sample leaves; None for after all steps.
        generator: base seed.

    Returns:
        Points inside the threat, (B, *D), detached: those that stopped, else those of largest distance (smallest to
        `target_map`), x itself included.

    Raises:
        BadInput: inputs, labels, maps or outputs that cannot be used; the message names the offender.
    """
    return _moved(model, x, y, threat, attend, distance, target_map, steps, restarts, stop, generator, None)


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
    """Move the attention map while the prediction stays: how fragile an explanation is.

    Points that lose the prediction climb its margin first. Arguments, cost and errors as for `attention_only`, and:

    Args:
        model: modules, or a callable that holds some, to logits.
        x: inputs, (B, *D).
        y: the class whose map is moved, (B,), fixed.
        threat: constraint set.
        attend: `(model, x, y, *, create_graph) -> (B, h, w)`.
        distance: `(maps, maps) -> (B,)`.
        kappa: by how much, in logits, the clean prediction must lead.
        target_map: as in `attention_only`.
        steps: gradients a restart.
        restarts: random starts.
        stop: when a sample that holds its prediction leaves.
        generator: base seed.

    Returns:
        The best points that hold the prediction; x itself where there is none: not attacked, not robust.
    """
    if not kappa >= 0:
        raise BadInput(f"kappa is {kappa}; it must be at least 0")
    return _moved(model, x, y, threat, attend, distance, target_map, steps, restarts, stop, generator, kappa)


def _moved(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attend: Explain,
    distance: Distance,
    target_map: Tensor | None,
    steps: int,
    restarts: int,
    stop: Stop | None,
    generator: torch.Generator | None,
    kappa: float | None,
) -> Tensor:
    """Both attacks on the map alone; a kappa holds the prediction."""
    check_attack(x, y, threat)
    check_mode(model)
    if restarts < 1:
        raise BadInput(f"restarts is {restarts}; it must be at least 1")
    with frozen(model):
        with torch.no_grad():
            said = read_logits(model, x, y).argmax(1)
        clean = attend(model, x, y).detach()
        if target_map is not None and target_map.shape != clean.shape:
            raise BadInput(f"target_map has shape {tuple(target_map.shape)}, the maps have {tuple(clean.shape)}")
        fixed, sign = (clean, 1.0) if target_map is None else (target_map.to(clean), -1.0)

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            tap = Tapped(model)
            map_ = attend(tap, z, y[at], create_graph=z.requires_grad)
            value = sign * distance(fixed[at], map_)
            done = torch.zeros_like(at) > 0 if stop is None else stop(clean[at], map_.detach())
            if kappa is not None:
                lead = -margin(check_logits(logits_of(tap.output), len(z)), said[at]).to(value.dtype)
                held = (
                    lead.detach() >= kappa if kappa else fooled(logits_of(tap.output).detach(), said[at], targeted=True)
                )
                value, done = torch.where(held, value, lead + INFEASIBLE), done & held
            # A constant map leaves no gradient; ascend then walks at random instead of refusing the model.
            return value + 0 * flat(z).sum(1), done

        best, top = x.detach().clone(), objective(x.detach(), torch.arange(len(x), device=x.device))[0].detach()
        left = torch.arange(len(x), device=x.device)
        for r in range(restarts):
            source = rng.restart(generator, r)
            inside = threat.take(left)
            start = inside.sample(x[left], source)
            rows = left

            def part(z: Tensor, at: Tensor, rows: Tensor = rows) -> tuple[Tensor, Tensor]:
                return objective(z, rows[at])

            found = ascend(part, x[left], inside, steps=steps, rule=Decaying(), start=start, generator=source)
            better = found.done | (found.value > top[left])
            better = better & (found.value > INFEASIBLE / 2)
            best[left] = where_rows(better, found.z, best[left])
            top[left] = torch.where(better, found.value.to(top.dtype), top[left])
            left = left[~found.done]
            if not len(left):
                break
        return best
