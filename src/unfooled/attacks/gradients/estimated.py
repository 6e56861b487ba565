"""Estimated gradients: central differences of a model's values along random signs.

    f'(x) ~ 1/m sum_k (f(c + sigma u_k) - f(c - sigma u_k)) / (2 sigma) u_k

u_k are m vectors of random signs, c is x or a point close to it inside the box: see `Estimated`. Scores that answer to
steps of one coordinate need no pairs: one more value than there are coordinates gives the whole gradient.

References:
    Uesato et al., Adversarial risk and the dangers of evaluating against weak attacks, ICML 2018, arXiv:1802.05666
    (SPSA).
    Ilyas, Engstrom, Athalye, Lin, Black-box adversarial attacks with limited queries and information, ICML 2018,
    arXiv:1804.08598 (NES).
    Choromanski et al., Structured evolution with compact architectures for scalable policy optimization, ICML 2018,
    arXiv:1804.02395 (orthogonal directions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.attacks.gradients.custom import check_count, check_sigma, with_gradient
from unfooled.core import rng
from unfooled.core.model.outputs import logits_from
from unfooled.core.shapes import flat
from unfooled.core.threats import UNIT, Box
from unfooled.core.types import Model


@dataclass(frozen=True)
class Estimated:
    """A model whose gradient is estimated from its values.

    The u_k are rows of a Hadamard matrix with random signs. They are orthogonal: m draws span m directions, and as many
    draws as the next power of two of the number of coordinates span all of them. c is x, moved inwards where it is
    within sigma of the box's edge. One-hot labels are constant almost everywhere and need a sigma near the distance to
    the boundary.

    Args:
        model: Any callable to logits; only its values are used, so it may use numpy or another process.
        draws: Number m of directions, at least 1. Cost: a backward takes 2 `draws` forwards and no backward.
        sigma: Half the step, a fraction of the input range: larger than rounding steps of a defence, smaller than the
            scale on which the scores are curved.
        seed: Random seed; the signs depend on it and on the bytes of each sample.
        batch: Samples computed at once.
        box: Bounds of the inputs.
        coordinates: True: one step of sigma along every coordinate, towards the inside of the box where it is near, in
            place of pairs along signs: n + 1 forwards for n coordinates, whatever `draws` is. Scores that are rounded
            need signs, which move all coordinates at once.

    References:
        arXiv:1802.05666 (signs), arXiv:1804.08598 (antithetic pairs), arXiv:1804.02395 (orthogonal).
        Differs from the first two: the directions are orthogonal, and the estimate is the whole gradient, not a step of
        Adam.
    """

    model: Model
    draws: int = 32
    sigma: float = 0.01
    seed: int = 0
    batch: int = 512
    box: Box = UNIT
    coordinates: bool = False

    def __post_init__(self) -> None:
        check_count(self.draws)
        check_count(self.batch, "batch")
        check_sigma(self.sigma)

    def cost(self, x: Tensor) -> int:
        """Return the forwards that the gradient at one of the samples x, (B, *D), takes."""
        return x[0].numel() + 1 if self.coordinates else 2 * self.draws

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at x, (B, K)."""
        return with_gradient(x, self.model, self._pull)

    def _pull(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the estimated gradient with respect to x, from that with respect to the logits."""

        def values(z: Tensor, _at: Tensor) -> Tensor:
            return logits_from(self.model, z)

        if self.coordinates:
            return _coordinate_gradient(values, x, g, sigma=self.sigma, batch=self.batch, box=self.box)
        key = rng.seeds(x, self.seed, stage=rng.Stream.SIGNS)
        return estimated_gradient(values, x, g, key, draws=self.draws, sigma=self.sigma, batch=self.batch, box=self.box)


@torch.no_grad()
def estimated_gradient(
    values: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    g: Tensor,
    key: Tensor,
    *,
    draws: int,
    sigma: float,
    batch: int,
    box: Box,
) -> Tensor:
    """Estimate the gradient of <values, g> at x by differences along orthogonal random signs; see `Estimated`.

    Args:
        values: `(points (n, *D), at (n,) positions in x) -> (n, K)`.
        x: Points at which the gradient is estimated, (B, *D).
        g: Gradient with respect to the values, (B, K).
        key: Seeds of the signs, one per sample, (B,).
        draws: Number of pairs of points per sample.
        sigma: Half the step.
        batch: Points computed at once.
        box: Bounds of the inputs.

    Returns:
        The estimate, (B, *D).
    """
    total = torch.zeros_like(flat(x))
    centre = flat(x.clamp(box.low + sigma, box.high - sigma))
    sample = torch.arange(len(x), device=x.device)
    count, group = len(x) * draws, max(batch // 2, 1)
    for low in range(0, count, group):
        pair = torch.arange(low, min(low + group, count), device=x.device)
        at, draw = sample[pair // draws], pair % draws
        u = _signs(key[at], centre.shape[1], draw).to(x.dtype)
        ends = torch.cat([centre[at] + sigma * u, centre[at] - sigma * u])
        up, down = values(ends.reshape(-1, *x.shape[1:]), torch.cat([at, at])).chunk(2)
        slope = ((up - down).to(g.dtype) * g[at]).sum(1) / (2 * sigma)
        total.index_add_(0, at, slope[:, None].to(x.dtype) * u)
    return (total / draws).reshape(x.shape)


@torch.no_grad()
def _coordinate_gradient(
    values: Callable[[Tensor, Tensor], Tensor], x: Tensor, g: Tensor, *, sigma: float, batch: int, box: Box
) -> Tensor:
    """Estimate the gradient of <values, g> at x by one step along every coordinate; see `Estimated`.

    Args:
        values: `(points (n, *D), at (n,) positions in x) -> (n, K)`.
        x: Points at which the gradient is estimated, (B, *D).
        g: Gradient with respect to the values, (B, K).
        sigma: The step; against the direction of the axis where it would leave the box.
        batch: Points computed at once.
        box: Bounds of the inputs.

    Returns:
        The estimate, (B, *D). Cost: for each sample one forward more than it has coordinates.
    """
    points, size = flat(x), x[0].numel()
    step = torch.where(points + sigma > box.high, -sigma, sigma)
    base = torch.cat([values(x[r], r) for r in torch.arange(len(x), device=x.device).split(batch)])
    slopes = torch.zeros_like(points).view(-1)
    for r in torch.arange(len(x) * size, device=x.device).split(batch):
        at, axis = r // size, r % size
        moved = points[at]
        moved[torch.arange(len(r), device=x.device), axis] += step[at, axis]
        rise = ((values(moved.reshape(-1, *x.shape[1:]), at) - base[at]).to(g.dtype) * g[at]).sum(1)
        slopes[r] = rise.to(x.dtype) / step[at, axis]
    return slopes.reshape(x.shape)


def _signs(key: Tensor, size: int, draw: Tensor) -> Tensor:
    """Return row `draw` of each sample's Hadamard matrix of signs, (b, size); orthogonal while draw < 2^k >= size."""
    full = 1 << max(size - 1, 0).bit_length()
    odd = rng.bits(key, 1, draw=1) | 1  # an odd factor visits every row once
    row = (odd[:, 0] * draw) & (full - 1)
    parity = row[:, None] & torch.arange(size, device=key.device)
    for shift in (32, 16, 8, 4, 2, 1):
        parity = parity ^ (parity >> shift)
    # A new set of signs each time that the rows have been used up.
    flip = rng.bits(key, size, draw=2 + draw // full)
    return 1 - 2 * ((parity ^ flip) & 1)
