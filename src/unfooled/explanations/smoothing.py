"""SmoothGrad: the mean of an explanation over noisy copies of the input.

    e = 1/n sum_k explain(x + sigma * (max x - min x) * xi_k),    xi_k standard normal

The noise depends only on the sample, so that it gets the same attribution in any batch. It comes in antithetic pairs
(xi, -xi), so that terms linear in the noise cancel.

References:
    Smilkov et al., SmoothGrad: removing noise by adding noise, 2017, arXiv:1706.03825. Differs: antithetic pairs; any
    explanation in place of the gradient.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import trusted
from unfooled.core.errors import BadInput
from unfooled.core.model.batching import BatchBudget
from unfooled.core.shapes import flat, per_sample
from unfooled.core.types import Explain, Model
from unfooled.explanations.gradients import differentiating, entry, prepared, saliency


def smooth_grad(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    explain: Explain = saliency,
    samples: int = 25,
    sigma: float = 0.15,
    noise_seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_bytes: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Average `explain` over noisy copies of each sample.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        explain: Explanation to smooth.
        samples: Number of noisy copies of each input; if odd, the last copy is unpaired.
        sigma: Standard deviation of the noise as a fraction of the sample's range, max x - min x.
        noise_seed: Seed of the noise, one for all samples or one per sample, (B,) int64. Attacks and finite differences
            need a fixed one. None: the noise depends on `generator` and the bytes of x, so it changes whenever x does.
        generator: Base seed; not advanced.
        batch_bytes: Memory budget of one call's graph in bytes, see `BatchBudget`.
        create_graph: True: keep the graph of all copies; memory grows with `samples`.

    Returns:
        Attribution, (B, *D). Cost: `samples` times that of `explain`.

    Raises:
        BadInput: An argument is invalid.
    """
    if samples < 1 or not sigma >= 0:
        raise BadInput(f"samples is {samples}, sigma is {sigma}; there must be at least 1 sample and sigma at least 0")
    with differentiating():
        x, y = prepared(model, x, y, create_graph=create_graph)
        seeds = _seeds(x, noise_seed, generator)
        z = entry(x, create_graph)
        if not create_graph:
            z = z.detach()
        reach = flat(z).amax(1) - flat(z).amin(1)
        budget, total, low = BatchBudget(model, x, batch_bytes), [], 0
        while low < len(x):
            rows = slice(low, low + budget.batch)
            low += len(z[rows])
            width, mean, k = per_sample(sigma * reach[rows], z), torch.zeros_like(z[rows]), 0
            while k < samples:
                count = max(1, min(budget.batch // len(z[rows]), samples - k))
                noise = noise_of(seeds[rows], range(k, k + count), z)
                copies = (z[rows] + width * noise).flatten(0, 1)
                # The first call of each batch checks labels against the model's classes; later calls skip the check.
                with budget.measuring(len(copies)), trusted() if k else nullcontext():
                    part = explain(model, copies, y[rows].repeat(count), create_graph=create_graph)
                mean = mean + part.reshape(noise.shape).sum(0) / samples
                k += count
            total.append(mean)
        return torch.cat(total)


def noise_of(seeds: Tensor, draws: range, like: Tensor) -> Tensor:
    """Return standard normal noise for copies `draws`, (len(draws), b, *D): copy k has sign (-1)^k and draw k // 2."""
    shape = tuple(like.shape[1:])
    base = {d: rng.normal(seeds, shape, draw=d, dtype=like.dtype) for d in {k // 2 for k in draws}}
    return torch.stack([-base[k // 2] if k % 2 else base[k // 2] for k in draws])


def _seeds(x: Tensor, noise_seed: int | Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Return the seed of each sample's noise, (B,) int64."""
    if noise_seed is None:
        return rng.seeds(x, generator, stage=rng.Stream.SMOOTHING)
    seeds = torch.as_tensor(noise_seed, dtype=torch.int64, device=x.device)
    if seeds.ndim > 1 or (seeds.ndim == 1 and len(seeds) != len(x)):
        raise BadInput(f"noise_seed has shape {tuple(seeds.shape)}; give one number, or one per sample, ({len(x)},)")
    return seeds.expand(len(x))
