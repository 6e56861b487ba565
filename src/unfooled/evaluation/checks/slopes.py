"""Comparison of gradients with differences, at the step that suits the model's precision.

    small steps    in float64, on a copy of the model: free of rounding, and of kinks farther than 1e-5
    large steps    f(z + n + h u) - f(z + n - h u) = 2 h E_s <g(z + n + s h u), u>, s in [-1, 1], averaged over noise n

The second holds at any step length for whatever has a true gradient, rectifiers and max-pooling included; rounding of
inputs, activations or outputs is averaged out. Jumps, and gradients that are not the model's, break it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from unfooled.core import losses, rng
from unfooled.core.goals import logits_at
from unfooled.core.model.anatomy import modules_of
from unfooled.core.shapes import flat, per_sample
from unfooled.core.types import Model

STEPS = (1 / 256, 1 / 64, 1 / 24)
"""Root mean square changes of a coordinate, for the large steps."""
MAX_DISTANCE_NEAR, MAX_DISTANCE_FREE = 0.25, 0.5
"""Relative distance of differences and gradients above which they contradict each other: near the gradient, and in
directions that do not depend on it, where it is over all samples."""
DIRECTIONS_NEAR, DIRECTIONS_FREE, NOISES_PER_DIRECTION = 3, 3, 4
"""Directions per sample near the gradient and independent of it, and noises per direction, of the large steps."""


def doubled(model: Model, x: Tensor) -> Model | None:
    """Return a copy of a model that computes in float64 and answers alike; None where there is none.

    Args:
        model: Any callable to logits.
        x: A few samples, (b, *D).
    """
    try:
        twin = copy.deepcopy(model)
        own, copied = (modules_of(m) for m in (model, twin))
        if not copied or {id(m) for m in own} & {id(m) for m in copied}:
            return None  # it is shared, and must not change
        for module in copied:
            module.double()
        with torch.no_grad():
            a, b = logits_at(model, x), logits_at(twin, x.double())
    except Exception:  # whatever a model does with another type
        return None
    near = (a - b).abs().amax() <= 0.05 * b.abs().amax().clamp_min(1e-12)
    return twin if b.dtype == torch.float64 and bool(near) else None


def small_steps(model: Model, z: Tensor, y: Tensor, g: Tensor, seed: int, *, h: float = 1e-5) -> float:
    """Return the share of directions in which differences in float64 contradict a gradient; 1 without float64.

    Args:
        model: Any callable to logits.
        z: Points, (b, *D).
        y: Labels, (b,).
        g: Gradient of the margin there, (b, *D), not zero.
        seed: Random seed of the directions.
        h: Step.
    """
    twin = doubled(model, z)
    if twin is None:
        return 1.0
    z, g = z.double(), g.double()
    length, contradicted = flat(g).norm(dim=1), []
    for k in range(DIRECTIONS_NEAR):
        u = direction(z, g, seed, k)
        up, down = margins(twin, z + h * u, y), margins(twin, z - h * u, y)
        contradicted.append(~(((up - down) / (2 * h) - (flat(g) * flat(u)).sum(1)).abs() <= 0.1 * length))
    return float(torch.stack(contradicted).double().mean())


def large_steps(model: Model, z: Tensor, y: Tensor, g: Tensor, seed: int) -> float:
    """Return the share of samples whose differences contradict the gradients on the way, at the step that suits best.

    Args:
        model: Any callable to logits, differentiable.
        z: Points, (b, *D).
        y: Labels, (b,).
        g: Gradient of the margin there, (b, *D), not zero.
        seed: Random seed of directions and noise.

    Cost: at most 3 steps of 72 passes per sample.
    """
    shares = []
    for step in STEPS:
        shares.append(_contradicted(model, z, y, g, step, seed))
        if shares[-1] == 0:
            break
    return min(shares)


def inner(z: Tensor) -> Tensor:
    """Return points drawn half way to the middle of their range, from which the large steps stay inside the box.

    Beyond the box, casts to unsigned integers wrap around; such a jump does not contradict the gradient.
    """
    middle = (z.amin() + z.amax()) / 2
    return middle + (z - middle) / 2


def _contradicted(model: Model, z: Tensor, y: Tensor, g: Tensor, step: float, seed: int) -> float:
    """Return the share of samples that are contradicted at one step."""
    h = step * z[0].numel() ** 0.5
    seeds = rng.seeds(z, seed, stage=rng.Stream.CHECK_DIRECTIONS)
    observed, expected = [], []
    for k in range(DIRECTIONS_NEAR + DIRECTIONS_FREE):
        u = direction(z, g, seed, k, near=k < DIRECTIONS_NEAR)
        change, slope = torch.zeros(len(z), device=z.device), torch.zeros(len(z), device=z.device)
        for j in range(NOISES_PER_DIRECTION):
            noise = rng.uniform(seeds, tuple(z.shape[1:]), draw=9 + NOISES_PER_DIRECTION * k + j, dtype=z.dtype)
            base = z + step * (2 * noise - 1)
            at = (2 * j + 1) / NOISES_PER_DIRECTION - 1  # the middle of each part of the way
            leaf = (base + at * h * u).requires_grad_()
            with torch.enable_grad():
                (inner,) = torch.autograd.grad(losses.margin(logits_at(model, leaf), y).sum(), leaf)
            slope += (flat(inner) * flat(u)).sum(1) / NOISES_PER_DIRECTION
            change += (margins(model, base + h * u, y) - margins(model, base - h * u, y)) / (
                2 * h * NOISES_PER_DIRECTION
            )
        observed.append(change)
        expected.append(slope)
    length = flat(g).norm(dim=1).double()
    a, b = torch.stack(observed).double() / length, torch.stack(expected).double() / length
    if not _relative_distance(a[DIRECTIONS_NEAR:].flatten(), b[DIRECTIONS_NEAR:].flatten()) <= MAX_DISTANCE_FREE:
        return 1.0
    return float((~(_relative_distance(a[:DIRECTIONS_NEAR], b[:DIRECTIONS_NEAR]) <= MAX_DISTANCE_NEAR)).double().mean())


def _relative_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the relative distance of the columns of two matrices; NaN where both are 0 or one is not finite."""
    scale = torch.maximum(a.square().sum(0), b.square().sum(0)).sqrt()
    return (a - b).square().sum(0).sqrt() / scale


def direction(z: Tensor, g: Tensor, seed: int, k: int, *, near: bool = True) -> Tensor:
    """Return the k-th unit direction near a gradient (the first is its own), or independent of it, (b, *D)."""
    unit = g / per_sample(flat(g).norm(dim=1), g)
    if not k:
        return unit
    seeds = rng.seeds(z, seed, stage=rng.Stream.CHECK_DIRECTIONS)
    noise = rng.normal(seeds, tuple(z.shape[1:]), draw=k, dtype=z.dtype)
    noise = noise / per_sample(flat(noise).norm(dim=1), noise)
    if not near:
        return noise
    u = unit + noise
    return u / per_sample(flat(u).norm(dim=1), u)


def margins(model: Model, z: Tensor, y: Tensor) -> Tensor:
    """Return the margins at points, (b,), without a gradient."""
    with torch.no_grad():
        return losses.margin(logits_at(model, z), y)
