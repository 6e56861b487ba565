"""Rendered shapes with ground truth: exact masks, the factors that determine the label, and a spurious factor.

    x = o colour + (1 - o) (d white + (1 - d) background)       o, d: shares of a pixel covered by object and distractor

Seven factors, 26 attributes: shape, colour, size, texture, position, background, distractor; all other variation is
nuisance (jitter, rotation, phase, hue, shading). 32x32 RGB in [0, 1]; shapes are supersampled four times per side. The
object covers the distractor, which covers the background. The label depends only on shape and colour (`RULES`); the
spurious factor equals the label with probability rho, else is uniform over its other values: rho = .25 is independence.

Exact masks come with every image: a pixel is in an object's mask exactly if it changes when the object is removed. A
twin has one factor changed and the same nuisance: a true counterfactual image, its label, and the pixels that changed.

Random numbers depend on (seed, split, index): the first n samples of a split are the same for every n, and splits use
independent streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source, select_split

SIDE, SUPERSAMPLING = 32, 4
FACTORS: dict[str, tuple[str, ...]] = {
    "shape": ("disc", "ring", "square", "triangle"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple"),
    "size": ("small", "medium", "large"),
    "texture": ("plain", "stripes", "checks"),
    "position": ("top-left", "top-right", "bottom-left", "bottom-right"),
    "background": ("sand", "slate", "moss", "plum"),
    "distractor": ("absent", "present"),
}
"""Factor -> its values, in the order of the columns of `Shapes.factors`."""
ATTRIBUTES = tuple(f"{factor}={value}" for factor, values in FACTORS.items() for value in values)
PARTS = ("rim", "body")
SIZES = {"train": 8000, "val": 1000, "test": 2000}
"""Split -> default number of samples."""

COLOURS = np.array(
    [
        [0.85, 0.15, 0.12],
        [0.9, 0.48, 0.1],
        [0.9, 0.82, 0.15],
        [0.15, 0.65, 0.25],
        [0.15, 0.35, 0.85],
        [0.55, 0.2, 0.75],
    ],
    np.float32,
)
BACKGROUNDS = np.array([[0.62, 0.56, 0.46], [0.42, 0.47, 0.54], [0.45, 0.54, 0.42], [0.52, 0.43, 0.5]], np.float32)
RADII = np.array([4.5, 6.0, 7.5], np.float32)  # pixels
RIM_BRIGHTNESS, DARK_BRIGHTNESS = 0.75, 0.55  # of the rim and of the dark texture cells, relative to the colour
WINDOW_SIDE, DISTRACTOR_SIDE = 20, 8  # pixels: sides of the windows of object and distractor
SHADING_SIDE = 4  # side of the grid from which shading is interpolated
NUISANCE = 11 + SHADING_SIDE * SHADING_SIDE
"""Columns: position (2), turn, hue (3), the distractor's quadrant and position (2), brightness, phase, shading (16)."""

Factors = np.ndarray
Rule = Callable[[Factors], np.ndarray]


def shape_colour(factors: Factors) -> np.ndarray:
    """Return 2 * (disc or ring) + (red, orange or yellow), (N,): a linear function of the attributes."""
    return 2 * (factors[:, 0] < 2) + (factors[:, 1] < 3)


def shape_alone(factors: Factors) -> np.ndarray:
    """Return the shape, (N,)."""
    return factors[:, 0]


RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "shape_colour": (shape_colour, ("angular cool", "angular warm", "round cool", "round warm")),
    "shape": (shape_alone, FACTORS["shape"]),
}
"""Name -> function from factors, (N, 7), to labels, (N,), and the names of the classes."""


@dataclass(frozen=True, eq=False)
class Twin:
    """Scenes of a data set with one factor changed.

    Attributes:
        x: Images, (B, 3, 32, 32) float32 in [0, 1].
        y: Labels by the same rule, (B,) int64.
        factors: Values of the factors, (B, 7) int64.
        changed: Pixels that differ from the original, (B, 32, 32) bool.
    """

    x: Tensor
    y: Tensor
    factors: Tensor
    changed: Tensor


@dataclass(frozen=True, eq=False)
class Shapes:
    """Rendered shapes with their ground truth.

    Attributes:
        x: Images, (N, 3, 32, 32) float32 in [0, 1].
        y: Labels, (N,) int64.
        factors: Values in the order of `FACTORS`, (N, 7) int64.
        attributes: 0 or 1 in the order of `ATTRIBUTES`, (N, 26) float32.
        masks: "object", "distractor", "background" -> pixels that show part of it, (N, 32, 32) bool. They overlap at
            edges; distractor is empty where it is absent.
        parts: Pixels of the object's `PARTS`, (N, 2, 32, 32) bool; they overlap at their border.
        classes: Class names in the order of the labels.
        nuisance: Nuisance parameters, (N, 27) float32 in [0, 1).
        grain: Added noise, (N, 3, 32, 32). None: no noise.
        rule: Function from factors to labels.
    """

    x: Tensor
    y: Tensor
    factors: Tensor
    attributes: Tensor
    masks: dict[str, Tensor]
    parts: Tensor
    classes: tuple[str, ...]
    nuisance: Tensor
    grain: Tensor | None
    rule: Rule

    def __len__(self) -> int:
        return len(self.y)

    def twin(self, index: int | Sequence[int] | Tensor, factor: str, value: int | str | Tensor) -> Twin:
        """Change one factor of some samples, and nothing else.

        Args:
            index: Indices of the samples, one or (B,).
            factor: Name of the factor.
            value: New value: its index or name, or one index per sample, (B,).

        Raises:
            BadInput: There is no such factor or value.
        """
        column, levels = _factor(factor)
        if isinstance(value, str):
            if value not in levels:
                raise BadInput(f"{factor} has no value {value!r}; it has {', '.join(levels)}")
            value = levels.index(value)
        rows = torch.as_tensor(index).reshape(-1)
        wanted = torch.as_tensor(value).expand(len(rows))
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(levels):
            raise BadInput(f"{factor} has {len(levels)} values, 0 to {len(levels) - 1}; {value} is none of them")
        factors = self.factors[rows].clone()
        factors[:, column] = wanted
        pixels, _ = render(factors.numpy(), self.nuisance[rows].numpy())
        x = _add_grain(torch.from_numpy(pixels), None if self.grain is None else self.grain[rows])
        y = torch.from_numpy(np.asarray(self.rule(factors.numpy()), np.int64))
        return Twin(x, y, factors, (x != self.x[rows]).any(1))


def load_shapes(
    n: int | None = None,
    *,
    rho: float = 0.25,
    seed: int = 0,
    split: str = "train",
    rule: str | Rule = "shape_colour",
    spurious: str | None = "background",
    noise: float = 0.0,
) -> Shapes:
    """Draw and render shapes.

    Args:
        n: Number of samples. None: 8,000, 1,000 and 2,000 in train, val and test.
        rho: Probability that the spurious factor equals the label; else it is uniform over its other values.
        seed: Random seed.
        split: "train", "val" or "test".
        rule: Name in `RULES`, or a function of the factors, (N, 7) int -> (N,) int.
        spurious: Factor that is correlated with the label. None: none.
        noise: Standard deviation of Gaussian noise on the pixels, which are then clipped; a twin has the same noise.

    Returns:
        The samples. Cost: about 2 seconds for 8,000 on one core.

    Raises:
        BadInput: The split, rule or factor is unknown, rho lies outside [0, 1], or the label depends on the spurious
            factor, or there are more classes than values of the spurious factor.

    Example:
        >>> shapes = load_shapes(4, rho=0.9)
        >>> shapes.x.shape, shapes.masks["object"].shape, len(shapes.classes)
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 32, 32]), 4)
    """
    wanted, count, label, classes = _check_arguments(n, rho, split, rule)
    factors, nuisance, y = _draw_factors(count, rho, seed, wanted, label, spurious)
    pixels, masks = render(factors, nuisance)
    grain = None
    if noise:
        source = np.random.default_rng([seed, list(SIZES).index(wanted), 1])
        grain = torch.from_numpy((noise * source.standard_normal(pixels.shape, np.float32)).astype(np.float32))
    masked = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    return Shapes(
        x=_add_grain(torch.from_numpy(pixels), grain),
        y=torch.from_numpy(y),
        factors=torch.from_numpy(factors),
        attributes=torch.from_numpy(attributes_of(factors)),
        masks={name: masked[name] for name in ("object", "distractor", "background")},
        parts=torch.stack([masked[name] for name in PARTS], 1),
        classes=classes or tuple(str(k) for k in range(int(y.max()) + 1)),
        nuisance=torch.from_numpy(nuisance),
        grain=grain,
        rule=label,
    )


def shapes(split: str, *, rho: float = 0.25, seed: int = 0) -> Source:
    """Open the shapes as a data source; images are rendered on demand."""
    wanted, count, label, classes = _check_arguments(None, rho, split, "shape_colour")
    factors, nuisance, y = _draw_factors(count, rho, seed, wanted, label, "background")
    name = "shapes" if rho == 0.25 else f"shapes:{rho:g}"
    return Source(name, wanted, y, list(classes), lambda rows: render(factors[rows], nuisance[rows])[0])


def attributes_of(factors: Factors) -> np.ndarray:
    """Return one column per value, (N, 7) -> (N, 26) float32, in the order of `ATTRIBUTES`."""
    columns = [factors[:, k, None] == np.arange(len(values)) for k, values in enumerate(FACTORS.values())]
    return np.concatenate(columns, 1).astype(np.float32)


def render(factors: Factors, nuisance: np.ndarray, *, without: str = "") -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw scenes: the same factors and nuisance give the same image.

    Args:
        factors: Values in the order of `FACTORS`, (N, 7) int.
        nuisance: Nuisance parameters, (N, 27) in [0, 1).
        without: "object" or "distractor": omit it. Empty: omit nothing.

    Returns:
        Images, (N, 3, 32, 32) float32 in [0, 1], and masks, (N, 32, 32) bool: object, rim, body, distractor,
        background.
    """
    pixels = np.empty((len(factors), 3, SIDE, SIDE), np.float32)
    names = ("object", "rim", "body", "distractor", "background")
    masks = {name: np.empty((len(factors), SIDE, SIDE), bool) for name in names}
    for low in range(0, len(factors), 64):
        part = slice(low, low + 64)
        pixels[part], shown = _scenes(factors[part], nuisance[part].astype(np.float32), without)
        for name in names:
            masks[name][part] = shown[name]
    return pixels, masks


def _scenes(f: Factors, u: np.ndarray, without: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Render a few scenes from factors f and nuisance u; see `render`."""
    quadrant = np.stack([f[:, 4] // 2, f[:, 4] % 2], 1)  # row, column
    centre = 16 + 5 * (2 * quadrant - 1) + 1.5 * (u[:, :2] - 0.5)
    light, dark, rim = _object(f, u, centre.astype(np.float32))
    if without == "object":
        light, dark, rim = 0 * light, 0 * dark, 0 * rim
    shown = light + dark + rim
    other = (4 * u[:, 6]).astype(int)
    place = 16 + 8.5 * (2 * np.stack([other // 2, other % 2], 1) - 1) + (u[:, 7:9] - 0.5)
    d = _cross(place.astype(np.float32)) * (f[:, 6] * (without != "distractor"))[:, None, None]
    tint = COLOURS[f[:, 1]] + 0.12 * (u[:, 3:6] - 0.5)
    body = (light + DARK_BRIGHTNESS * dark + RIM_BRIGHTNESS * rim)[:, None] * tint[:, :, None, None]
    coarse = u[:, 11:].reshape(-1, SHADING_SIDE, SHADING_SIDE) - 0.5
    shade = 0.24 * (_UPSAMPLE @ coarse @ _UPSAMPLE.T) + 0.1 * (u[:, 9, None, None] - 0.5)
    ground = BACKGROUNDS[f[:, 5]][:, :, None, None] + shade[:, None]
    behind = d[:, None] * 0.95 + (1 - d[:, None]) * ground
    pixels = body + (1 - shown[:, None]) * behind
    masks = {"object": shown, "rim": rim, "body": light + dark, "distractor": d * (1 - shown)}
    masks["background"] = (1 - shown) * (1 - d)
    return pixels, {name: np.broadcast_to(share > 1e-6, (len(f), SIDE, SIDE)) for name, share in masks.items()}


def _object(f: Factors, u: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shares of each pixel covered by the object's light body, dark body and rim, (N, 32, 32) each."""
    corner = np.floor(centre).astype(int) - WINDOW_SIDE // 2
    steps = (np.arange(WINDOW_SIDE * SUPERSAMPLING, dtype=np.float32) + 0.5) / SUPERSAMPLING
    dy = (steps + (corner[:, :1] - centre[:, :1]))[:, :, None].astype(np.float32)
    dx = (steps + (corner[:, 1:] - centre[:, 1:]))[:, None, :].astype(np.float32)
    turn = 2 * np.pi * u[:, 2, None, None]
    cos, sin = np.cos(turn), np.sin(turn)
    a, b = cos * dx + sin * dy, cos * dy - sin * dx
    r = RADII[f[:, 2]][:, None, None]
    depth = np.empty_like(a)  # distance to the outer edge, positive inside
    inside = np.empty(a.shape, bool)
    for kind in range(4):
        rows = f[:, 0] == kind
        p, q, size = a[rows], b[rows], r[rows]
        if kind < 2:
            far = np.sqrt(p * p + q * q)
            depth[rows] = size - far
            inside[rows] = (far < size) & (far > 0.5 * size) if kind else far < size
            continue
        if kind == 2:
            edge = np.float32(0.82) * size - np.maximum(np.abs(p), np.abs(q))
        else:
            across = np.float32(0.75**0.5) * np.abs(p)
            edge = np.float32(0.58) * size - np.maximum(across + 0.5 * q, -q)
        depth[rows], inside[rows] = edge, edge > 0
    outer = inside & (depth < 0.22 * r)
    within = inside & ~outer
    phase = 4 + 2 * u[:, 10, None, None]
    wave = np.zeros(a.shape, bool)
    for kind in (1, 2):
        rows = f[:, 3] == kind
        wave[rows] = _odd(a[rows], phase[rows])
        if kind == 2:
            wave[rows] ^= _odd(b[rows], phase[rows])
    return _place_region(within & ~wave, corner), _place_region(within & wave, corner), _place_region(outer, corner)


def _odd(a: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Mark every second cell of a grid of 1.5 pixels."""
    return ((a / np.float32(1.5) + 2 * phase).astype(np.uint8) & 1).view(bool)


def _cross(place: np.ndarray) -> np.ndarray:
    """Return the share of each pixel covered by a cross of 6 by 6 pixels, (N, 32, 32)."""
    corner = np.floor(place).astype(int) - DISTRACTOR_SIDE // 2
    steps = (np.arange(DISTRACTOR_SIDE * SUPERSAMPLING, dtype=np.float32) + 0.5) / SUPERSAMPLING
    dy = np.abs(steps + (corner[:, :1] - place[:, :1]))[:, :, None]
    dx = np.abs(steps + (corner[:, 1:] - place[:, 1:]))[:, None, :]
    return _place_region(((dx < 1) & (dy < 3)) | ((dy < 1) & (dx < 3)), corner)


def _place_region(region: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Average windows of subsamples to pixels and place them at their corners, (N, 32, 32)."""
    n, side = len(region), region.shape[1] // SUPERSAMPLING
    # Sums over bytes first: several times as fast as a mean over two axes.
    rows = region.view(np.uint8).reshape(n, side, SUPERSAMPLING, side * SUPERSAMPLING).sum(2, dtype=np.uint8)
    share = rows.reshape(n, side, side, SUPERSAMPLING).sum(3, dtype=np.uint8).astype(np.float32) / SUPERSAMPLING**2
    out = np.zeros((n, SIDE, SIDE), np.float32)
    i = corner[:, :1, None] + np.arange(side)[:, None]
    j = corner[:, None, 1:] + np.arange(side)
    out[np.arange(n)[:, None, None], i, j] = share
    return out


def _interpolation() -> np.ndarray:
    """Return the (SIDE, SHADING_SIDE) matrix of linear interpolation from evenly spaced values, both ends included."""
    at = np.linspace(0, SHADING_SIDE - 1, SIDE)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SHADING_SIDE))).astype(np.float32)


_UPSAMPLE = _interpolation()


def _add_grain(x: Tensor, grain: Tensor | None) -> Tensor:
    """Add noise, if there is any, and clip."""
    return x if grain is None else (x + grain).clamp(0, 1)


def _factor(name: Any) -> tuple[int, tuple[str, ...]]:
    """Return the column and the values of a factor."""
    if name not in FACTORS:
        raise BadInput(f"there is no factor {name!r}; there are {', '.join(FACTORS)}")
    return list(FACTORS).index(name), FACTORS[name]


def _check_arguments(n: int | None, rho: float, split: str, rule: str | Rule) -> tuple[str, int, Rule, tuple[str, ...]]:
    """Check the arguments and return the split, the number of samples, the rule and the classes."""
    wanted = select_split(split, list(SIZES), "shapes")
    if n is not None and n < 1:
        raise BadInput(f"n is {n}; it must be at least 1, or None for all")
    if not 0 <= rho <= 1:
        raise BadInput(f"rho is {rho}; it is a probability, in [0, 1]")
    if isinstance(rule, str) and rule not in RULES:
        raise BadInput(f"there is no rule {rule!r}; there are {', '.join(RULES)}, or give a function of the factors")
    label, classes = RULES[rule] if isinstance(rule, str) else (rule, ())
    return wanted, n or SIZES[wanted], label, classes


def _draw_factors(
    n: int, rho: float, seed: int, split: str, label: Rule, spurious: str | None
) -> tuple[Factors, np.ndarray, np.ndarray]:
    """Draw factors, (n, 7) int64, nuisance, (n, 27) float32, and labels, (n,) int64."""
    levels = np.array([len(values) for values in FACTORS.values()])
    # One row per sample, so that the first samples do not depend on n.
    u = np.random.default_rng([seed, list(SIZES).index(split)]).random((n, len(levels) + 2 + NUISANCE))
    factors = (u[:, : len(levels)] * levels).astype(np.int64)
    y = np.asarray(label(factors), np.int64)
    if y.shape != (n,) or y.min() < 0:
        raise BadInput(f"the rule returned shape {y.shape} for {n} samples; labels are 0, 1, 2, ..., one per sample")
    if spurious is not None:
        column, values = _factor(spurious)
        if y.max() >= len(values):
            raise BadInput(f"{spurious} has {len(values)} values for {y.max() + 1} classes; choose another factor")
        equal, rest = u[:, len(levels)] < rho, u[:, len(levels) + 1]
        other = (y + 1 + (rest * (len(values) - 1)).astype(np.int64)) % len(values)
        factors[:, column] = np.where(equal, y, other)
        if not np.array_equal(label(factors), y):
            raise BadInput(f"the label depends on {spurious}; choose a spurious factor that the rule leaves out")
    nuisance = u[:, -NUISANCE:].astype(np.float32)
    # The distractor is in another quadrant than the object; the object of a twin may cover it.
    nuisance[:, 6] = ((factors[:, 4] + 1 + (3 * nuisance[:, 6]).astype(np.int64)) % 4 + 0.5) / 4
    return factors, nuisance, y
