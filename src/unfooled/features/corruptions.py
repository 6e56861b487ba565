"""The five corruption groups of the MNIST features study, for images of any size; identical to the study's at 28x28.

    vertical     +.6 on five vertical lines, 2 pixels wide
    horizontal   +.6 on seven horizontal lines, 1 pixel wide
    noise        +|N(0, .3^2)|, half-normal: it only brightens
    removal      a run of 30 % of the bright pixels, in raster order, set to 0
    none         unchanged

`groups` returns five versions of every image, (B, *D) -> (B, 5, *D). A corruption is `(x, *, seed, index) -> x`: it can
be used as a `Purify`, a tuple of corruptions is applied by `groups(corruptions=...)`, and `random_group` augments
training.

The random numbers of a sample depend on the seed and on its bytes or, with `index`, on its position in its data set.
They do not change from call to call.

References:
    xziyue/robust_mnist_feature_py, 2019, whose test groups `groups(legacy=0x1A2B3C4D)` repeats bit for bit. Differs:
    positions for any size; where lines overlap, .6 is added once; an image with too few bright pixels keeps them all
    (the reference raises); colour images are judged by their brightest channel, and a removed pixel is removed in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import check_inputs
from unfooled.core.errors import BadInput
from unfooled.core.shapes import per_sample

MIN_STROKE = 0.3
"""Value above which a pixel belongs to the stroke."""

LINE_STRENGTH = 0.6
"""Value that a line adds."""


class Corruption(Protocol):
    """A corruption: a function from images to images, deterministic for a sample and seed."""

    def __call__(self, x: Tensor, *, seed: int = 0, index: Tensor | None = None) -> Tensor:
        """Corrupt images, (B, *D) -> (B, *D)."""
        ...


def check_images(x: Tensor, index: Tensor | None = None) -> None:
    """Refuse anything but a batch of images, (B, H, W) or (B, C, H, W), and an index that is not (B,) int64."""
    check_inputs(x)
    if x.ndim not in (3, 4):
        raise BadInput(f"x has shape {tuple(x.shape)}; corruptions are for images, (B, C, H, W) or (B, H, W)")
    if index is not None and (index.shape != (len(x),) or index.dtype != torch.int64):
        raise BadInput(f"index is {tuple(index.shape)}, {index.dtype}; it must be one int64 per sample, ({len(x)},)")


def keys(x: Tensor, seed: int, index: Tensor | None, *, stage: int) -> Tensor:
    """Return one seed per sample, (B,) int64, from its bytes or from its position in the data set."""
    return rng.seeds(x if index is None else index.to(x.device)[:, None], seed, stage=stage)


def _lines(side: int, count: int, width: int) -> Tensor:
    """Return a mask of the columns or rows that hold a line, (side,) bool; halves round to even."""
    on = torch.zeros(side, dtype=torch.bool)
    for place in np.round(np.linspace(0, max(side - width, 0), count)).astype(int).tolist():
        on[place : place + width] = True
    return on


def _brighter(x: Tensor, on: Tensor) -> Tensor:
    """Brighten the pixels where `on` is True, and clip."""
    return (x + LINE_STRENGTH * on.to(x)).clamp(0, 1)


def vertical_lines(x: Tensor, *, seed: int = 0, index: Tensor | None = None) -> Tensor:
    """Add .6 on five vertical lines, 2 pixels wide. Nothing is random.

    Args:
        x: Images in the unit box, (B, C, H, W) or (B, H, W).
        seed: Unused.
        index: Unused.

    Returns:
        Corrupted images, of x's shape.

    Raises:
        BadInput: x is not a batch of images in the unit box.

    Example:
        >>> vertical_lines(torch.zeros(1, 1, 28, 28))[0, 0, 0].nonzero()[:, 0].tolist()
        [0, 1, 6, 7, 13, 14, 20, 21, 26, 27]
    """
    check_images(x)
    return _brighter(x, _lines(x.shape[-1], 5, 2))


def horizontal_lines(x: Tensor, *, seed: int = 0, index: Tensor | None = None) -> Tensor:
    """Add .6 on seven horizontal lines, 1 pixel wide. Arguments as for `vertical_lines`.

    Example:
        >>> horizontal_lines(torch.zeros(1, 1, 28, 28))[0, 0, :, 0].nonzero()[:, 0].tolist()
        [0, 4, 9, 14, 18, 22, 27]
    """
    check_images(x)
    return _brighter(x, _lines(x.shape[-2], 7, 1)[:, None])


def half_normal_noise(x: Tensor, *, seed: int = 0, index: Tensor | None = None, std: float = 0.3) -> Tensor:
    """Add |N(0, std^2)| to every entry, drawn in float64.

    Args:
        x: Images in the unit box, (B, C, H, W) or (B, H, W).
        seed: Random seed.
        index: Positions of the samples in their data set, (B,) int64; the noise depends on them. None: on their bytes.
        std: Standard deviation of the normal distribution.

    Raises:
        BadInput: x is not a batch of images in the unit box, or index does not fit it.
    """
    check_images(x, index)
    seeds = keys(x, seed, index, stage=rng.Stream.HALF_NORMAL_NOISE)
    noise = rng.normal(seeds, tuple(x.shape[1:]), dtype=torch.float64)
    return _noisy(x, noise * std)


def _noisy(x: Tensor, noise: Tensor) -> Tensor:
    """Add the absolute value of the noise, and clip."""
    return (x + noise.abs().to(x)).clamp(0, 1)


def stroke_removal(x: Tensor, *, seed: int = 0, index: Tensor | None = None, share: float = 0.3) -> Tensor:
    """Set a run of the bright pixels (above .3), in raster order, to 0.

    Of n bright pixels, m = round(share n) (halves to even) are removed, starting at a random bright pixel with number
    uniform in [0, n - m - 2]; if that range is empty, no pixel is removed. Arguments as for `half_normal_noise`,
    and `share`.
    """
    check_images(x, index)
    n, m = _counts(x, share)
    u = rng.uniform(keys(x, seed, index, stage=rng.Stream.STROKE_REMOVAL), (1,), dtype=torch.float64)[:, 0]
    return _without(x, (u * (n - m - 1)).to(torch.int64), m)


def _strokes(x: Tensor) -> Tensor:
    """Return which pixels are bright, (B, H * W) bool."""
    return (x if x.ndim == 3 else x.amax(1)).flatten(1) > MIN_STROKE


def _counts(x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the numbers of bright pixels and of those to remove, (B,) each."""
    n = _strokes(x).sum(1)
    m = (share * n.to(torch.float64)).round().to(torch.int64)
    return n, torch.where(n - m - 1 > 0, m, 0)


def _without(x: Tensor, first: Tensor, m: Tensor) -> Tensor:
    """Set m bright pixels to 0, from the bright pixel number `first` on, in raster order."""
    on = _strokes(x)
    place = on.cumsum(1) - 1
    gone = on & (place >= first[:, None]) & (place < (first + m)[:, None])
    gone = gone.reshape(len(x), *([1] * (x.ndim - 3)), *x.shape[-2:])
    return x.masked_fill(gone, 0)


def unchanged(x: Tensor, *, seed: int = 0, index: Tensor | None = None) -> Tensor:
    """Return the images themselves: the fifth group."""
    return x


FIVE: tuple[Corruption, ...] = (vertical_lines, horizontal_lines, half_normal_noise, stroke_removal, unchanged)
"""The groups of the study, in its order."""


def groups(
    x: Tensor,
    *,
    seed: int = 0,
    index: Tensor | None = None,
    legacy: int | np.random.RandomState | None = None,
    corruptions: Sequence[Corruption] = FIVE,
) -> Tensor:
    """Apply every corruption to every image.

    Args:
        x: Images in the unit box, (B, C, H, W) or (B, H, W).
        seed: Random seed of the corruptions.
        index: Positions of the samples in their data set, (B,) int64; random numbers depend on them. None: on their
            bytes.
        legacy: Legacy generator of NumPy, or its seed, from which the study's random numbers are drawn: for each image
            the noise, then the position of the removal. They depend on the order of the images. Only for the default
            corruptions. None: not used.
        corruptions: Corruptions to apply, by default the five of the study.

    Returns:
        (B, G, *D), for the five in the order vertical, horizontal, noise, removal, none. Cost: no pass of any model.

    Raises:
        BadInput: x is not a batch of images in the unit box, index does not fit it, legacy is no such stream or goes
            with other corruptions.

    Example:
        >>> groups(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 5, 1, 8, 8])
    """
    check_images(x, index)
    if not corruptions:
        raise BadInput("there are no corruptions; give at least one, or leave the argument out")
    if legacy is None:
        return torch.stack([corrupt(x, seed=seed, index=index) for corrupt in corruptions], 1)
    if corruptions is not FIVE:
        raise BadInput("legacy is the stream of the study's five corruptions; leave one of the two arguments out")
    stream = legacy
    if not isinstance(stream, np.random.RandomState):
        if not isinstance(stream, (int, np.integer)) or not 0 <= stream < 1 << 32:
            raise BadInput(f"legacy is {legacy!r}; give a numpy.random.RandomState, or its seed, in [0, 2**32)")
        stream = np.random.RandomState(stream)
    n, m = _counts(x, 0.3)
    room, noise, first = (n - m - 1).tolist(), torch.empty(x.shape, dtype=torch.float64), []
    for i in range(len(x)):
        noise[i] = torch.from_numpy(stream.normal(0, 0.3, x.shape[1:]))
        first.append(int(stream.randint(0, room[i])) if room[i] > 0 else 0)
    removed = _without(x, torch.tensor(first, device=x.device), m)
    return torch.stack([vertical_lines(x), horizontal_lines(x), _noisy(x, noise), removed, x], 1)


def random_group(
    x: Tensor, *, seed: int = 0, index: Tensor | None = None, corruptions: Sequence[Corruption] = FIVE
) -> Tensor:
    """Apply one uniformly drawn corruption to each image, as plain augmentation does. Arguments as for `groups`.

    Returns:
        (B, *D). Pass a new seed in every training step; see `training.Augmented`.
    """
    whole = groups(x, seed=seed, index=index, corruptions=corruptions)
    u = rng.uniform(keys(x, seed, index, stage=rng.Stream.CORRUPTION), (1,), dtype=torch.float64)[:, 0]
    group = (u * whole.shape[1]).to(torch.int64)
    return whole.gather(1, per_sample(group, x).to(torch.int64).unsqueeze(1).expand(-1, 1, *x.shape[1:])).squeeze(1)
