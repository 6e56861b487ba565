"""Segments: which pixels are hidden together.

A segmenter is a function `x (B, *D) -> ids (B, *S)`, where *S is *D, or *D without the channels. Ids are relabelled to
0..M-1. `grid` needs no extra package; `slic`, `quickshift` and `felzenszwalb` use scikit-image, the extra `segments`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime.checking import at_least, between, refusing_unknown

Segmenter = Callable[[Tensor], Tensor]
"""x (B, *D) -> ids (B, *S), int64."""
TINY = 1e-9  # smallest weight of place against colour
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type of the same number of bytes as a floating-point type, by bytes."""


@refusing_unknown
def grid(cells: int = 7, least: int = 2) -> Segmenter:
    """Return the segmenter into about `cells`^2 blocks: 7 x 7 of an image, 49 of a row, 4 x 4 x 4 of a volume.

    Args:
        cells: Cells along each side of an image.
        least: Fewest values along a side of a cell, so that small images have fewer cells: the mean of a single pixel
            is that pixel, and would hide nothing.
    """
    cells = at_least(cells, 1, "cells", "a number of cells along each side")
    return partial(grid_of, cells=cells, least=at_least(least, 1, "least", "a number of values along a cell's side"))


def grid_of(x: Tensor, *, cells: int, least: int = 2) -> Tensor:
    """Return the grid's ids for samples, (B, *S)."""
    shape = tuple(x.shape[2:] if x.ndim > 3 else x.shape[1:])
    along = max(1, round(cells ** (2 / len(shape))))
    ids = torch.zeros(shape, dtype=torch.int64)
    for axis, size in enumerate(shape):
        count = max(1, min(along, size // least))
        part = torch.arange(size) * count // size
        ids = ids * count + part.reshape(-1, *[1] * (len(shape) - axis - 1))
    return ids.expand(len(x), *shape)


@refusing_unknown
def slic(segments: int = 50, compactness: float = 10.0, sigma: float = 0.0) -> Segmenter:
    """Return the segmenter by k-means of colour and place.

    Args:
        segments: Approximate number of segments.
        compactness: Weight of place against colour.
        sigma: Width of the smoothing before segmentation.
    """
    segments = at_least(segments, 1, "segments", "a number of segments")
    compactness = between(compactness, TINY, math.inf, "compactness", "a weight")
    sigma = between(sigma, 0, math.inf, "sigma", "a width")
    options = {"n_segments": segments, "compactness": compactness, "sigma": sigma, "start_label": 0}
    return partial(by_skimage, method="slic", options=options)


@refusing_unknown
def quickshift(kernel_size: float = 4.0, max_dist: float = 200.0, ratio: float = 0.2, seed: int = 0) -> Segmenter:
    """Return the segmenter by mode seeking, with the parameters of LIME.

    Args:
        kernel_size: Width of the density estimate.
        max_dist: Largest distance at which two points are joined in one segment.
        ratio: Weight of colour against place.
        seed: Random seed.
    """
    kernel_size = between(kernel_size, 1, math.inf, "kernel_size", "a width")
    max_dist = between(max_dist, 0, math.inf, "max_dist", "a distance")
    ratio = between(ratio, 0, 1, "ratio", "a weight")
    seed = at_least(seed, 0, "seed", "a whole number")
    options = {"kernel_size": kernel_size, "max_dist": max_dist, "ratio": ratio, "rng": seed}
    return partial(by_skimage, method="quickshift", options=options)


@refusing_unknown
def felzenszwalb(scale: float = 100.0, sigma: float = 0.5, min_size: int = 20) -> Segmenter:
    """Return the segmenter by minimum spanning trees.

    Args:
        scale: Preference for large segments.
        sigma: Width of the smoothing before segmentation.
        min_size: Fewest pixels of a segment.
    """
    scale = between(scale, 0, math.inf, "scale", "a preference")
    sigma = between(sigma, 0, math.inf, "sigma", "a width")
    min_size = at_least(min_size, 1, "min_size", "a number of pixels")
    options = {"scale": scale, "sigma": sigma, "min_size": min_size}
    return partial(by_skimage, method="felzenszwalb", options=options)


def by_skimage(x: Tensor, *, method: str, options: dict[str, Any]) -> Tensor:
    """Return the ids of images, (B, H, W), by a function of scikit-image; grey images are given three channels."""
    try:
        from skimage import segmentation
    except (ImportError, RuntimeError, OSError) as error:
        raise BadInput(f"{method} needs scikit-image: pip install 'unfooled[segments]', or use grid") from error
    if x.ndim not in (3, 4):
        raise BadInput(f"x has shape {tuple(x.shape)}; {method} segments images, (B, C, H, W) or (B, H, W); use grid")
    images = x.detach().cpu().to(torch.float64)
    images = images[:, None] if x.ndim == 3 else images
    images = images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    function = getattr(segmentation, method)
    ids = [torch.as_tensor(function(image.permute(1, 2, 0).numpy(), **options)) for image in images]
    return torch.stack(ids).to(torch.int64)


def contiguous(ids: Tensor) -> Tensor:
    """Relabel each map's ids to 0..M-1 in their order, (B, *S) int64."""
    shared = len(ids) > 1 and ids.stride(0) == 0
    rows = ids[:1] if shared else ids
    maps = [row.unique(return_inverse=True)[1] for row in rows]
    return maps[0].expand(len(ids), *ids.shape[1:]) if shared else torch.stack(maps)


def segment(x: Tensor, segments: Segmenter | Tensor) -> Tensor:
    """Return the ids of samples, relabelled, (B, *S); `segments` may be a function, one map, or one per sample.

    Maps may be arrays, as scikit-image returns them.

    Raises:
        BadInput: The ids are not whole numbers, or have another shape than the samples; a map of one segment is given,
            or the segmenter finds one in every sample though some are not flat.
    """
    segments = torch.as_tensor(segments) if isinstance(segments, np.ndarray) else segments
    given = isinstance(segments, Tensor)
    if not given and not callable(segments):
        cells: Any = segments
        mend = f"grid({cells})" if isinstance(cells, int) else "grid(7)"
        raise BadInput(f"segments is {cells!r}; give a segmenter, such as {mend}, or a map of ids")
    ids = segments if isinstance(segments, Tensor) else segments(x.detach())
    whole, plain = tuple(x.shape[1:]), tuple(x.shape[2:])
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex():
        raise BadInput("segments are whole numbers, a tensor of ids 0, 1, ...")
    one = (whole, plain) if x.ndim > 2 else (whole,)
    each = tuple((len(x), *shape) for shape in one)
    if given and tuple(ids.shape) in one and tuple(ids.shape) not in each:
        ids = ids[None].expand(len(x), *ids.shape)
    if tuple(ids.shape) not in each:
        raise BadInput(f"segments have shape {tuple(ids.shape)}; give {plain or whole}, or that for each of {len(x)}")
    ids = contiguous(ids.cpu().to(torch.int64))
    if given and int(ids.amax()) == 0:
        raise BadInput("the segments are one segment; there is nothing to compare, so mark at least two")
    if len(ids) and int(ids.amax()) == 0 and not _flat(x):
        raise BadInput(
            "the segmenter finds one segment in every image; there is nothing to compare; choose a finer one, such as "
            "grid(7), or give a map of ids"
        )
    return ids


def _flat(x: Tensor) -> bool:
    """Return whether each channel of each sample has a single value."""
    values = x.detach().flatten(2) if x.ndim > 2 else x.detach()
    return bool((values == values[..., :1]).all())


def counts(ids: Tensor) -> Tensor:
    """Return the number of segments of each map, (B,)."""
    return ids.flatten(1).amax(1) + 1


def averaged(values: Tensor, ids: Tensor) -> Tensor:
    """Return the means of an attribution, (B, *D), over segments, (B, M); channels are added first.

    Args:
        values: The attribution.
        ids: Ids of the segments, (B, *S); a sample with fewer segments than another has zeros at the end.
    """
    values = values.to("cpu", torch.float64)
    flat = (values.sum(1) if values.ndim > ids.ndim else values).flatten(1)
    place, most = ids.flatten(1), int(counts(ids).amax())
    total = torch.zeros(len(flat), most, dtype=torch.float64).scatter_add_(1, place, flat)
    number = torch.zeros_like(total).scatter_add_(1, place, torch.ones_like(flat))
    return total / number.clamp(min=1)


def pixel_masks(z: Tensor, ids: Tensor, like: Tensor) -> Tensor:
    """Spread masks over pixels: masks (n, M) and one map (*S) -> (n, 1, *S) or (n, *D), to be broadcast with `like`.

    Args:
        z: Masks, or any value per segment.
        ids: Ids of one sample, (*S).
        like: Samples, (B, *D).
    """
    spread = z[:, ids.flatten()].reshape(len(z), *ids.shape)
    return spread[:, None] if spread.ndim < like.ndim else spread


def composed(masks: Tensor, ids: Tensor, x: Tensor, hidden: Tensor) -> Tensor:
    """Return copies of one sample with segments hidden, (n, *D): x where the mask shows a segment, else `hidden`.

    Args:
        masks: 1 where a segment is shown, (n, M) bool.
        ids: Ids of the sample, (*S).
        x: The sample, (*D).
        hidden: Values of hidden segments, (*D).
    """
    bits = BITS.get(x.element_size())
    if bits is None or x.device.type != "cpu" or torch.is_grad_enabled() or not x.is_floating_point():
        return torch.where(pixel_masks(masks, ids, x[None]), x, hidden)
    # Shown segments have all bits set: two integer operations in place are faster than a selection for each value.
    rows = masks.to(bits).neg_().numpy().take(ids.flatten().numpy(), axis=1)
    spread = torch.from_numpy(rows).reshape(len(masks), *ids.shape)
    spread = spread[:, None] if spread.ndim <= x.ndim else spread
    below = hidden.view(bits)
    return (spread & (x.view(bits) ^ below)).bitwise_xor_(below).view(x.dtype)
