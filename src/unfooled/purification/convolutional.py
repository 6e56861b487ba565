"""Convolutional dictionaries: an image as a sum of filters placed at few positions.

    codes     X = argmin 1/2 ||sum_m d_m * x_m - h||^2 + s sum_m ||x_m||_1
    FISTA     X <- soft(V - D^T (D V - h) / L, s / L),    D X = sum_m d_m * x_m,   L = ||D^T D||_2 by power iteration
    filters   d <- P( d - grad / L_d ) over small batches,    ||d_m|| <= 1

Positions extend beyond the edges, so that every pixel is covered equally often: an image of H rows has codes of
H + size - 1 rows.

References:
    Sun et al., Stratified convolutional sparse coding, CVPR 2019, arXiv:1812.00037 (there, classes share some filters;
    here each cluster has its own).
    Beck, Teboulle, 2009 (FISTA).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core import rng
from unfooled.core.checks import check_count, check_number
from unfooled.core.errors import BadInput
from unfooled.core.low_pass import check_images
from unfooled.purification.dictionaries import soft_threshold

MARGIN = 1.02
"""Factor on the power iteration's estimate of L, which approaches L from below."""


def synthesis(codes: Tensor, filters: Tensor) -> Tensor:
    """Return sum_m d_m * x_m, (B, C, H, W).

    Args:
        codes: Maps, (B, A, H + size - 1, W + size - 1).
        filters: Filters, (A, C, size, size), or one set for each image, (B, A, C, size, size).
    """
    if filters.ndim == 4:
        return F.conv_transpose2d(codes, filters, padding=filters.shape[-1] - 1)
    b, a, c, size, _ = filters.shape
    joined = codes.reshape(1, b * a, *codes.shape[2:])
    out = F.conv_transpose2d(joined, filters.reshape(b * a, c, size, size), padding=size - 1, groups=b)
    return out.reshape(b, c, *out.shape[2:])


def analysis(x: Tensor, filters: Tensor) -> Tensor:
    """Return the adjoint of `synthesis`: the correlation of images with filters, (B, A, H + size - 1, W + size - 1)."""
    if filters.ndim == 4:
        return F.conv2d(x, filters, padding=filters.shape[-1] - 1)
    b, a, c, size, _ = filters.shape
    joined = x.reshape(1, b * c, *x.shape[2:])
    out = F.conv2d(joined, filters.reshape(b * a, c, size, size), padding=size - 1, groups=b)
    return out.reshape(b, a, *out.shape[2:])


def convolutional_curvature(filters: Tensor, shape: tuple[int, int, int], *, iterations: int = 30) -> Tensor:
    """Return L of filters on images of a shape, by power iteration.

    Args:
        filters: Filters, (A, C, size, size) or (B, A, C, size, size).
        shape: Shape of an image, (C, H, W).
        iterations: Number of iterations.

    Returns:
        L, 2 % above the estimate, () or (B,).
    """
    with torch.no_grad():
        b = 1 if filters.ndim == 4 else len(filters)
        source = torch.Generator().manual_seed(0)
        v = torch.randn(b, *shape, generator=source, dtype=torch.float64).to(filters)
        size = filters.new_ones(b)
        for _ in range(iterations):
            v = v / v.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
            v = synthesis(analysis(v, filters), filters)
            size = v.flatten(1).norm(dim=1)
        size = (MARGIN * size).clamp_min(1e-12)
        return size[0] if filters.ndim == 4 else size


def convolutional_codes(
    high: Tensor, filters: Tensor, *, sparsity: float, steps: int, lipschitz: Tensor | None = None, fast: bool = True
) -> Tensor:
    """Return convolutional codes after a fixed number of steps from zero.

    Args:
        high: Images, (B, C, H, W).
        filters: Filters of norm at most 1, (A, C, size, size), or one set for each image, (B, A, C, size, size).
        sparsity: Weight s of the codes' absolute values, at least 0.
        steps: Number of steps, at least 1.
        lipschitz: L of the filters, () or (B,). None: computed.
        fast: True: FISTA. False: ISTA, whose objective never rises.

    Returns:
        Codes, (B, A, H + size - 1, W + size - 1), differentiable with respect to images and filters. Cost:
        2 * steps convolutions.

    Raises:
        BadInput: Images smaller than the filters or with other channels, a negative sparsity, or steps below 1.
    """
    check_images(high)
    _check_fit(high, filters)
    check_number("sparsity", sparsity, least=0)
    check_count("steps", steps)
    shape = (high.shape[1], high.shape[2], high.shape[3])
    size = convolutional_curvature(filters, shape) if lipschitz is None else lipschitz
    size = size.reshape(-1, 1, 1, 1)
    codes = ahead = torch.zeros_like(analysis(high, filters))
    t = 1.0
    for _ in range(steps):
        last, codes = (
            codes,
            soft_threshold(ahead - analysis(synthesis(ahead, filters) - high, filters) / size, sparsity / size),
        )
        t, before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        ahead = codes + (before - 1) / t * (codes - last) if fast else codes
    return codes


def _check_fit(high: Tensor, filters: Tensor) -> None:
    """Refuse images that the filters do not fit."""
    channels, size = filters.shape[-3], filters.shape[-1]
    if high.shape[1] != channels:
        raise BadInput(f"images have {high.shape[1]} channels, the filters {channels}; they must agree")
    if min(high.shape[-2:]) < size:
        raise BadInput(f"images are {high.shape[-2]}x{high.shape[-1]}, filters {size}x{size}; choose smaller filters")


def learn_convolutional(
    high: Tensor,
    *,
    atoms: int = 64,
    size: int = 8,
    sparsity: float = 0.3,
    rounds: int = 60,
    steps: int = 20,
    batch: int = 32,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Learn the convolutional filters of one cluster online: codes of a few images, then a step of the filters.

    Args:
        high: High band of the cluster's clean images in the units of the images to purify, (N, C, H, W).
        atoms: Number of filters, A.
        size: Side of a filter.
        sparsity: Weight of the codes' absolute values; purify with the same.
        rounds: Number of batches.
        steps: Steps of FISTA for the codes of a batch.
        batch: Images of a batch.
        generator: Base seed of the first filters and of the order.

    Returns:
        Filters of norm at most 1, (A, C, size, size). Cost: 2 * rounds * steps convolutions of a
        batch; made for a GPU.

    Raises:
        BadInput: Images smaller than the filters, constant images, or numbers that cannot be used.
    """
    check_images(high)
    for name, value in (("atoms", atoms), ("size", size), ("rounds", rounds), ("batch", batch)):
        check_count(name, value)
    high = high.detach()
    if not bool((high.abs() > 1e-6).any()):
        raise BadInput("every image is constant, so that the high band is 0; give images with some detail")
    source = torch.Generator().manual_seed(rng.base_seed(generator))
    filters = torch.randn(atoms, high.shape[1], size, size, generator=source, dtype=torch.float64).to(high)
    _check_fit(high, filters)
    filters = _normed(filters, unit=True)
    for _ in range(rounds):
        part = high[torch.randint(len(high), (batch,), generator=source).to(high.device)]
        codes = convolutional_codes(part, filters, sparsity=sparsity, steps=steps)
        filters = _filter_step(part, filters, codes)
    return filters


def _filter_step(part: Tensor, filters: Tensor, codes: Tensor) -> Tensor:
    """Return the filters after steps of projected gradient descent on the error of a batch."""
    with torch.enable_grad():
        leaf = filters.detach().requires_grad_()
        error = (synthesis(codes, leaf) - part).square().sum() / 2
        (g,) = torch.autograd.grad(error, leaf)
    # The exact length along the gradient: the error is quadratic in the filters.
    along = synthesis(codes, g).square().sum()
    length = g.square().sum() / along.clamp_min(1e-12)
    return _normed(filters - length * g)


def _normed(filters: Tensor, *, unit: bool = False) -> Tensor:
    """Return filters scaled down to norm at most 1; to norm 1 exactly with `unit`."""
    norm = filters.flatten(1).norm(dim=1)[:, None, None, None]
    return filters / (norm.clamp_min(1e-12) if unit else norm.clamp_min(1))
