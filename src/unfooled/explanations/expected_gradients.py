"""Expected gradients: integrated gradients averaged over baselines from data, one point on each path (GradientShap).

    e = E_{b ~ D, a ~ U(0, 1)} [ (x - b) * grad s(f(b + a (x - b)), y) ]
    sum_i e_i = s(f(x)) - E s(f(b))                     completeness, in expectation

b are background samples, s the score. The places a are stratified: draw k lies in [k / n, (k + 1) / n). Backgrounds are
taken in turn from a random order, so that each occurs equally often, up to one.

References:
    Erion et al., Improving performance of deep learning models with axiomatic attribution priors and expected
    gradients, Nature Machine Intelligence 2021, arXiv:1906.10670. Differs: stratified.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import trusted
from unfooled.core.errors import BadInput
from unfooled.core.losses import true_logit
from unfooled.core.model.batching import BatchBudget
from unfooled.core.types import Loss, Model
from unfooled.explanations.completeness import PathAttribution
from unfooled.explanations.gradients import differentiating, entry, prepared, score_gradient, scored


def expected_gradients(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    background: Tensor | None = None,
    draws: int = 64,
    score: Loss = true_logit,
    generator: torch.Generator | None = None,
    batch_bytes: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Attribute the difference of the score from its mean over background samples.

    The draws depend on the seed alone, so that they are the same for a clean and a changed input.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        background: Samples of the data, (N, *D). None: a black, a grey and a white one.
        draws: Number of gradients averaged.
        score: Function `(logits, y) -> (B,)` to explain.
        generator: Base seed; not advanced.
        batch_bytes: Memory budget of one call's graph in bytes, see `BatchBudget`; one sample is always allowed.
        create_graph: True: keep the graph of all draws; memory grows with `draws`.

    Returns:
        Attribution in units of the score, (B, *D). Cost: `draws` forwards and backwards per sample.

    Raises:
        BadInput: An argument or the model's output is invalid.

    Example:
        >>> linear = lambda x: torch.cat([2 * x, -x], 1)
        >>> expected_gradients(linear, torch.ones(1, 1), torch.tensor([0]), background=torch.zeros(1, 1), draws=2)
        tensor([[2.]])
    """
    if isinstance(draws, bool) or draws < 1:
        raise BadInput(f"draws is {draws}; there is at least 1")
    with differentiating():
        x, y = prepared(model, x, y, create_graph=create_graph)
        z = entry(x, create_graph) if create_graph else x.detach()
        references, places = plan(_background(background, x), draws, rng.base_seed(generator))
        budget, total = BatchBudget(model, x, batch_bytes), []
        low = 0
        while low < len(z):
            rows = slice(low, low + budget.batch)
            low += len(z[rows])
            mean, k = torch.zeros_like(z[rows]), 0
            while k < draws:
                count = max(1, min(budget.batch // len(z[rows]), draws - k))
                b = references[k : k + count, None]
                a = places[k : k + count].reshape(-1, *[1] * z.ndim)
                apart = z[None, rows] - b
                points = (b + a * apart).flatten(0, 1)
                points = points if create_graph else points.detach().requires_grad_()
                with budget.measuring(len(points)):
                    g = score_gradient(model, points, y[rows].repeat(count), score, create_graph)
                mean = mean + (apart * g.reshape(apart.shape)).sum(0) / draws
                k += count
            total.append(mean)
        attribution = torch.cat(total)
        return attribution if create_graph else attribution.detach()


def expected_gradients_with_gap(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    background: Tensor | None = None,
    draws: int = 64,
    score: Loss = true_logit,
    generator: torch.Generator | None = None,
    batch_bytes: int | None = None,
) -> PathAttribution:
    """Return expected gradients (detached) with their completeness gap, from the mean score of the backgrounds used.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        background: Samples of the data, as for `expected_gradients`.
        draws: Number of gradients averaged.
        score: Function `(logits, y) -> (B,)` to explain.
        generator: Base seed; not advanced.
        batch_bytes: Memory budget of one call's graph in bytes.

    Returns:
        A `PathAttribution`. Cost: as `expected_gradients`, and `draws` + 1 forwards per sample.
    """
    attribution = expected_gradients(
        model, x, y, background=background, draws=draws, score=score, generator=generator, batch_bytes=batch_bytes
    )
    references, _ = plan(_background(background, x), draws, rng.base_seed(generator))
    with trusted(), torch.no_grad():
        rows = [scored(model, references, label.expand(draws), score).mean() for label in y]
        change = scored(model, x, y, score) - torch.stack(rows)
    steps = torch.full((len(x),), draws, dtype=torch.int64, device=x.device)
    return PathAttribution(attribution, change, steps)


def plan(background: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the background of each draw, (n, *D), and its place on the path, (n,)."""
    number = len(background)
    key = rng.seeds(torch.tensor([[number]]), seed, stage=rng.Stream.EXPECTED_GRADIENTS)
    rounds = -(-draws // number)
    order = torch.cat([rng.bits(key, number, draw=k)[0].argsort() for k in range(1, rounds + 1)])[:draws]
    u = rng.uniform(key, (2, draws), dtype=torch.float64)[0]
    # strata in a random order, so that a background is not bound to a part of the path
    places = (u[1].argsort() + u[0]) / draws
    return background[order.to(background.device)], places.to(background.device, background.dtype)


def _background(background: Tensor | None, x: Tensor) -> Tensor:
    """Return the background samples, checked."""
    if background is None:
        levels = torch.tensor([0.0, 0.5, 1.0], dtype=x.dtype, device=x.device)
        return levels.reshape(-1, *[1] * (x.ndim - 1)).expand(-1, *x.shape[1:])
    if not isinstance(background, Tensor) or background.shape[1:] != x.shape[1:] or not len(background):
        shape = tuple(background.shape) if isinstance(background, Tensor) else type(background).__name__
        raise BadInput(f"background is {shape}; give samples of the data, (N, {', '.join(map(str, x.shape[1:]))})")
    if not torch.isfinite(background).all():
        raise BadInput("background holds NaN or infinite values")
    return background.detach().to(x.device, x.dtype)
