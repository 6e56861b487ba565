"""Ten more corruptions in the style of MNIST-C, used in the same way: `groups(x, corruptions=(rotate, fog))`.

    shot_noise   impulse_noise   glass_blur   motion_blur   rotate   scale   translate   brightness   fog   zigzag

The kinds are those of MNIST-C; the definitions and numbers are our own, so its data set is not reproduced. Each is
`(x, *, seed, index, ...) -> x`, on any device, with random numbers that depend on the sample as in `corruptions`.

References:
    Mu, Gilmer, MNIST-C: a robustness benchmark for computer vision, 2019, arXiv:1906.02337 (the kinds).
    Hendrycks, Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019,
    arXiv:1903.12261 (shot noise, glass and motion blur, fog).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core import rng
from unfooled.core.shapes import per_sample
from unfooled.features.corruptions import check_images, keys


def _uniform(x: Tensor, seed: int, index: Tensor | None, stage: int, *shape: int) -> Tensor:
    """Draw uniform numbers for the samples, (B, *shape); each corruption has its own stage."""
    return rng.uniform(keys(x, seed, index, stage=stage), shape, dtype=torch.float64)


def _moved(x: Tensor, theta: Tensor) -> Tensor:
    """Resample the images by affine maps, (B, 2, 3), of coordinates in [-1, 1]; bilinear, zeros outside."""
    images = x if x.ndim == 4 else x[:, None]
    grid = F.affine_grid(theta.to(x), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1).reshape(x.shape)


def shot_noise(x: Tensor, *, seed: int = 0, index: Tensor | None = None, photons: float = 5.0) -> Tensor:
    """Replace each value by a photon count: Poisson(photons x) / photons.

    Args:
        x: Images in the unit box, (B, C, H, W) or (B, H, W).
        seed: Random seed.
        index: Positions of the samples in their data set, (B,) int64; the noise depends on them. None: on their bytes.
        photons: Expected number of photons at a value of 1; fewer make more noise.

    Returns:
        Corrupted images, of x's shape.

    Raises:
        BadInput: x is not a batch of images in the unit box, or index does not fit it.
    """
    check_images(x, index)
    u = _uniform(x, seed, index, rng.Stream.SHOT_NOISE, *x.shape[1:])
    rate = photons * x.to(torch.float64)
    term = torch.exp(-rate)  # P(k), and below P(<= k): the count is the first k with u below it
    below, count = term.clone(), torch.zeros_like(rate)
    for k in range(1, math.ceil(photons + 10 * math.sqrt(photons) + 10)):
        count += u >= below
        term = term * rate / k
        below += term
    return (count / photons).clamp(0, 1).to(x)


def impulse_noise(x: Tensor, *, seed: int = 0, index: Tensor | None = None, share: float = 0.15) -> Tensor:
    """Set a share of the pixels to 0 or 1, with equal probability. Arguments as for `shot_noise`."""
    check_images(x, index)
    place = (*([1] * (x.ndim - 3)), *x.shape[-2:])
    u = _uniform(x, seed, index, rng.Stream.IMPULSE_NOISE, *place)
    return torch.where(u < share / 2, torch.zeros_like(x), torch.where(u >= 1 - share / 2, torch.ones_like(x), x))


def glass_blur(x: Tensor, *, seed: int = 0, index: Tensor | None = None, reach: float = 1.5) -> Tensor:
    """Replace each pixel by a random one within `reach` pixels along each axis. Arguments as for `shot_noise`."""
    check_images(x, index)
    images = x if x.ndim == 4 else x[:, None]
    h, w = x.shape[-2:]
    still = torch.eye(2, 3, dtype=x.dtype, device=x.device).expand(len(x), 2, 3)
    grid = F.affine_grid(still, list(images.shape), align_corners=False)
    shift = 2 * reach * (2 * _uniform(x, seed, index, rng.Stream.GLASS_BLUR, h, w, 2) - 1)
    grid = grid + (shift / torch.tensor([w, h], device=x.device)).to(x)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp(0, 1).reshape(x.shape)


def motion_blur(x: Tensor, *, seed: int = 0, index: Tensor | None = None, length: float = 6.0) -> Tensor:
    """Average along a segment of `length` pixels in a random direction. Arguments as for `shot_noise`."""
    check_images(x, index)
    angle = math.pi * _uniform(x, seed, index, rng.Stream.MOTION_BLUR, 1)[:, 0]
    side = torch.tensor([x.shape[-1], x.shape[-2]], dtype=angle.dtype, device=x.device)
    step = 2 * torch.stack([angle.cos(), angle.sin()], 1) / side
    stops = torch.linspace(-length / 2, length / 2, max(2, math.ceil(length) + 1)).tolist()
    return torch.stack([_moved(x, _affine(x, shift=stop * step)) for stop in stops]).mean(0)


def _affine(x: Tensor, matrix: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Return the affine map of output to input coordinates, (B, 2, 3), from each sample's matrix and shift."""
    n, like = len(x), {"dtype": torch.float64, "device": x.device}
    matrix = torch.eye(2, **like).expand(n, 2, 2) if matrix is None else matrix  # type: ignore[call-overload]
    shift = torch.zeros(n, 2, **like) if shift is None else shift  # type: ignore[call-overload]
    return torch.cat([matrix, shift[:, :, None]], 2)


def rotate(x: Tensor, *, seed: int = 0, index: Tensor | None = None, degrees: float = 30.0) -> Tensor:
    """Rotate about the centre by `degrees` / 2 to `degrees`, in either direction.

    Arguments as for `shot_noise`, and `degrees`. Images that are not square are not distorted.
    """
    check_images(x, index)
    u = _uniform(x, seed, index, rng.Stream.ROTATION, 2)
    angle = math.radians(degrees) * (1 + u[:, 0]) / 2 * torch.where(u[:, 1] < 0.5, -1.0, 1.0)
    ratio = x.shape[-2] / x.shape[-1]
    rows = [angle.cos(), -angle.sin() * ratio, angle.sin() / ratio, angle.cos()]
    return _moved(x, _affine(x, matrix=torch.stack(rows, 1).reshape(-1, 2, 2)))


def scale(x: Tensor, *, seed: int = 0, index: Tensor | None = None, least: float = 0.6) -> Tensor:
    """Shrink about the centre, by a factor between `least` and (1 + `least`) / 2. Arguments as for `shot_noise`."""
    check_images(x, index)
    factor = least + (1 - least) / 2 * _uniform(x, seed, index, rng.Stream.SCALE, 1)
    matrix = torch.eye(2, dtype=torch.float64, device=x.device) / per_sample(factor[:, 0], factor[:, :, None])
    return _moved(x, _affine(x, matrix=matrix))


def translate(x: Tensor, *, seed: int = 0, index: Tensor | None = None, share: float = 0.2) -> Tensor:
    """Shift by `share` / 2 to `share` of the side, in a random direction. Arguments as for `shot_noise`."""
    check_images(x, index)
    u = _uniform(x, seed, index, rng.Stream.TRANSLATION, 2)
    angle, size = 2 * math.pi * u[:, 0], share * (1 + u[:, 1])  # coordinates are 2 wide: half of share is share
    return _moved(x, _affine(x, shift=size[:, None] * torch.stack([angle.cos(), angle.sin()], 1)))


def brightness(x: Tensor, *, seed: int = 0, index: Tensor | None = None, strength: float = 0.4) -> Tensor:
    """Brighten: x + strength (1 - x). Nothing is random. Arguments as for `shot_noise`, and `strength`."""
    check_images(x, index)
    return x + strength * (1 - x)


def fog(x: Tensor, *, seed: int = 0, index: Tensor | None = None, strength: float = 0.6) -> Tensor:
    """Mix with clouds: (1 - strength) x + strength c, c in [0, 1] random fields of four scales, coarse ones strongest.

    Arguments as for `shot_noise`, and `strength`.
    """
    check_images(x, index)
    clouds = torch.zeros(len(x), 1, *x.shape[-2:], dtype=torch.float64, device=x.device)
    for octave in range(4):
        cells = 2 ** (octave + 1)
        field = _uniform(x, seed, index, rng.Stream.FOG + octave, 1, cells, cells)
        clouds = clouds + F.interpolate(field, x.shape[-2:], mode="bilinear", align_corners=True) / 2**octave
    low, high = clouds.amin((1, 2, 3), keepdim=True), clouds.amax((1, 2, 3), keepdim=True)
    clouds = ((clouds - low) / (high - low).clamp_min(1e-12)).to(x)
    return (1 - strength) * x + strength * (clouds if x.ndim == 4 else clouds[:, 0])


def zigzag(x: Tensor, *, seed: int = 0, index: Tensor | None = None, strength: float = 1.0) -> Tensor:
    """Add a bright zigzag of three teeth, one pixel wide, at a random height. Arguments as for `shot_noise`."""
    check_images(x, index)
    h, w = x.shape[-2:]
    column = torch.arange(w, dtype=torch.float64, device=x.device)
    wave = (6 * column / max(w - 1, 1)) % 2  # three periods; a triangle of height 1
    wave = torch.minimum(wave, 2 - wave)
    u = _uniform(x, seed, index, rng.Stream.ZIGZAG, 2)
    height = h / 4 * (1 + u[:, :1])
    line = (h - 1 - height) * u[:, 1:] + height * wave
    away = (torch.arange(h, dtype=torch.float64, device=x.device)[:, None] - line[:, None]).abs()
    mark = (1 - away).clamp_min(0).to(x)
    return (x + strength * (mark if x.ndim == 3 else mark[:, None])).clamp(0, 1)


EXTRA = (
    shot_noise, impulse_noise, glass_blur, motion_blur, rotate, scale, translate, brightness, fog, zigzag,
)  # fmt: skip
"""The ten corruptions of this file."""
