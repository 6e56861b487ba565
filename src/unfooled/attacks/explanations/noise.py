"""Random baselines for attacks on explanations, and a random search without gradients.

    random_point     one random point of the threat; a corner for Linf
    best_of_random   the best of n such points that keep the label
    random_walk      z <- P(z + step eps d), d random signs (a random direction in other norms); the best of the steps
    square_explain   Square's windows, a change kept where the label holds and the objective rises

Random perturbations change fragile maps strongly: an attack is only meaningful if it beats `best_of_random` with the
same number of explanations.

References:
    Ghorbani, Abid, Zou, Interpretation of neural networks is fragile, AAAI 2019, arXiv:1710.10547 (random signs).
    Kamath et al., LENS, 2023, arXiv:2312.10534 (the walk: its published code steps by random signs and takes the best).
    Andriushchenko et al., Square Attack, ECCV 2020, arXiv:1912.00049 (the windows).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unfooled.attacks.explanations.candidates import Candidates, Explanation, Observe, Reduce
from unfooled.attacks.explanations.objectives import MapObjective
from unfooled.attacks.square import square_search
from unfooled.core import rng
from unfooled.core.checks import check_threat
from unfooled.core.errors import BadInput
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import per_sample
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances.maps.locality import as_maps


def random_point(x: Tensor, threat: Threat, *, draw: int = 0, generator: torch.Generator | int | None = None) -> Tensor:
    """Draw one random point of the threat for each sample: a corner of the ball for `Linf`, else uniform inside.

    Args:
        x: Inputs, (B, *D).
        threat: Threat model.
        draw: Number of the draw; equal sample, seed and draw give equal points in any batch.
        generator: Base seed.

    Returns:
        Points inside the threat, (B, *D). Cost: no pass of the model.
    """
    check_threat(x, threat)
    return drawn(x, threat, draw, generator)


def drawn(x: Tensor, threat: Threat, draw: int, generator: torch.Generator | int | None) -> Tensor:
    """Draw the points of `random_point`; the arguments are checked already."""
    return threat.extreme(x, generator, draw=draw, stage=rng.Stream.RANDOM_POINT)


def best_of_random(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    explain: Explanation,
    *,
    objective: MapObjective | None,
    n: int = 100,
    reduce: Reduce = as_maps,
    observe: Observe | None = None,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the best of n random points, the baseline for an attack of equal cost.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K), in eval mode. Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, (B,) int64.
        threat: Threat model.
        explain: `(model, x, y) -> (B, *D)`.
        objective: Value of a map, which ranks the points. None: only `observe` is called, and x is returned.
        n: Number of points, draws 0 to n - 1 of `random_point`.
        reduce: Function from attributions, (B, *D), to maps, (B, H, W).
        observe: Callback for every point that keeps the label, `(z, at, maps)`.
        batch: Samples computed at once. None: as many as fit well in memory (cost: 1 forward of one sample).
        generator: Base seed.

    Returns:
        Points that keep the label and rank best, (B, *D); x itself where none ranks above it. Cost: n forwards, and an
        explanation for each point that keeps the label.

    Raises:
        BadInput: An argument is invalid.
    """
    if n < 1:
        raise BadInput(f"n is {n}; it must be at least 1")
    with frozen(model):
        batch = batch or fitting_batch(model, x)
        candidates = Candidates(model, x, y, threat, explain, objective, reduce, observe, batch)
        record_draws(candidates, range(n), batch, generator)
    return candidates.best


def record_draws(
    candidates: Candidates, draws: Iterable[int], batch: int, generator: torch.Generator | int | None
) -> None:
    """Record random points of every live sample as candidates.

    Args:
        candidates: Candidates, with their samples and threat.
        draws: Numbers of the draws.
        batch: Samples computed at once.
        generator: Base seed.
    """
    for rows in candidates.groups(batch):
        x, near = candidates.x[rows], candidates.threat.take(rows)
        for draw in draws:
            candidates.record(drawn(x, near, draw, generator), rows)


def random_walk(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    explain: Explanation,
    *,
    objective: MapObjective | None,
    steps: int = 100,
    step: float = 1 / 30,
    reduce: Reduce = as_maps,
    observe: Observe | None = None,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the best step of a random walk from x, the random perturbation of the literature.

    Arguments as for `best_of_random`, and:

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Threat model.
        explain: `(model, x, y) -> (B, *D)`.
        objective: Value of a map, which ranks the steps.
        steps: Number of steps (cost: steps forwards, and an explanation for each step that keeps the label).
        step: Size of a step, in multiples of eps (.01 at eps = .3 in the published code).
        reduce: Function from attributions, (B, *D), to maps, (B, H, W).
        observe: Callback for every step that keeps the label.
        batch: Samples computed at once.
        generator: Base seed.

    Returns:
        The best steps, (B, *D); x itself where none ranks above it.
    """
    if steps < 1 or not step > 0:
        raise BadInput(f"steps is {steps}, step is {step}; there must be at least 1 step and its size above 0")
    with frozen(model):
        batch = batch or fitting_batch(model, x)
        candidates = Candidates(model, x, y, threat, explain, objective, reduce, observe, batch)
        for rows in candidates.groups(batch):
            near, seed = threat.take(rows).bounded(x), rng.seeds(x[rows], generator, stage=rng.Stream.WALK)
            z = x[rows]
            for draw in range(steps):
                g = rng.normal(seed, tuple(x.shape[1:]), draw=draw, dtype=x.dtype)
                z = near.project(z + per_sample(step * near.eps, x) * near.steepest(g), x[rows])
                candidates.record(z, rows)
    return candidates.best


def square_explain(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    explain: Explanation,
    *,
    objective: MapObjective,
    steps: int = 500,
    p: float = 0.3,
    reduce: Reduce = as_maps,
    observe: Observe | None = None,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack an explanation by random search with square-shaped changes: without gradients, which could be masked.

    Starts from x, so that the label is kept throughout. Arguments as for `best_of_random`, and:

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: `Linf`, `L2` or `L1`.
        explain: `(model, x, y) -> (B, *D)`; need not be differentiable.
        objective: Value of a map, maximised.
        steps: Number of queries (cost: at most steps forwards, and an explanation for each that keeps the label).
        p: Share of the pixels in the first windows.
        reduce: Function from attributions, (B, *D), to maps, (B, H, W).
        observe: Callback for every point that keeps the label.
        batch: Samples computed at once.
        generator: Base seed.

    Returns:
        The best points, (B, *D); x itself where none ranks above it.

    Raises:
        BadInput: Another threat, or an argument that cannot be used.
    """
    with frozen(model):
        batch = batch or fitting_batch(model, x)
        candidates = Candidates(model, x, y, threat, explain, objective, reduce, observe, batch)
        for rows in candidates.groups(batch):

            def value(z: Tensor, at: Tensor, rows: Tensor = rows) -> tuple[Tensor, Tensor]:
                return candidates.record(z, rows[at]), torch.zeros_like(at, dtype=torch.bool)

            seed = rng.seeds(x[rows], generator, stage=rng.Stream.MAP_SQUARE)
            square_search(value, x[rows], threat.take(rows), seed, steps=steps, p=p, start=x[rows])
    return candidates.best
